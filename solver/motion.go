package solver

import (
	"math"

	"github.com/spin-native/spin/tensor"
)

// MotionKernel draws the trace of a shaking hand: size odd, intensity from 0, nearly a straight line, to 1, tangled. The
// same seed gives the same kernel.
//
// The hand moves for one unit of time. Its heading turns with a rate that is an Ornstein-Uhlenbeck process, so the path
// has no corners but where a jerk, a Poisson event, throws the heading round; its speed varies smoothly. The standard
// deviation of the turning, the number of jerks and the spread of the speed grow with the intensity. The path is centred
// on its centre of mass, shrunk where it does not fit, and drawn as a density: equal times give equal weight, shared
// bilinearly by the four pixels around each point.
func MotionKernel(size int, intensity float64, seed uint64) (k *BlurKernel, err error) {
	defer tensor.Catch(&err)
	if size < 3 || size > maxKernel || size%2 == 0 || !(intensity >= 0 && intensity <= 1) {
		tensor.Fail("solver.MotionKernel", "size %d and intensity %v: the size must be odd, 3 to %d, the intensity 0 to 1", size, intensity, maxKernel)
	}
	const (
		memory = 0.15 // time after which turning and speed have forgotten themselves
		turns  = 9    // standard deviation of the turning, radians per unit of time, at intensity 1
		jerks  = 4    // expected number of jerks at intensity 1
		spread = 0.6  // standard deviation of the logarithm of the speed at intensity 1
	)
	rng := newStream(seed, domainMotion)
	steps := 40 * size // at most a tenth of a pixel each
	dt := 1 / float64(steps)
	keep, kick := math.Exp(-dt/memory), math.Sqrt(1-math.Exp(-2*dt/memory))

	heading := 2 * math.Pi * rng.float()
	turning, speed := rng.normal(), rng.normal() // in units of their deviations
	length := (0.45 + 0.4*rng.float()) * float64(size-1) * (1 + intensity)
	xs, ys := make([]float64, steps+1), make([]float64, steps+1)
	for i := range steps {
		v := length * dt * math.Exp(spread*intensity*speed)
		xs[i+1], ys[i+1] = xs[i]+v*math.Cos(heading), ys[i]+v*math.Sin(heading)
		heading += (0.5 + turns*intensity) * turning * dt
		if rng.float() < jerks*intensity*dt {
			heading += math.Pi * (2*rng.float() - 1)
		}
		turning = keep*turning + kick*rng.normal()
		speed = keep*speed + kick*rng.normal()
	}

	var mx, my, reach float64
	for i := range xs {
		mx, my = mx+xs[i]/float64(len(xs)), my+ys[i]/float64(len(ys))
	}
	for i := range xs {
		reach = max(reach, math.Abs(xs[i]-mx), math.Abs(ys[i]-my))
	}
	scale := min(1, (float64(size/2)-0.5)/reach)

	sum := make([]float64, size*size)
	weight := 1 / float64(len(xs))
	for i := range xs {
		x, y := float64(size/2)+scale*(xs[i]-mx), float64(size/2)+scale*(ys[i]-my)
		j, fx := int(x), x-math.Floor(x)
		l, fy := int(y), y-math.Floor(y)
		sum[l*size+j] += weight * (1 - fx) * (1 - fy)
		sum[l*size+j+1] += weight * fx * (1 - fy)
		sum[(l+1)*size+j] += weight * (1 - fx) * fy
		sum[(l+1)*size+j+1] += weight * fx * fy
	}
	k = &BlurKernel{size, size, make([]float32, size*size), TaskMotionBlur}
	for i, v := range sum {
		k.K[i] = float32(v)
	}
	return k, nil
}
