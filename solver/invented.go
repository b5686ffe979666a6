package solver

import (
	"math"

	"github.com/spin-native/spin/tensor"
)

// InventedMap tells what of a picture was measured and what was made up.
type InventedMap struct {
	Share []float32 // of every pixel, [N,H,W]: 0 measured, 1 invented
	Mean  []float64 // of every image: the same share of the whole of it
}

const (
	// pictureSpread is the standard deviation of the values of a picture that nothing is known of.
	pictureSpread = 0.5
	// roundingNoise is the deviation of rounding to 8 bits, the least noise that a measurement has.
	roundingNoise = 1 / 127.5 / 3.4641
	// grain is the contrast, a few grey levels, that the map asks about where a picture has none of its own.
	grain       = 0.02
	grainProbes = 4
)

// Invented splits pictures x into the part that the measurement determines and the part that it does not. With J the
// Jacobian of A at x (A itself where it is linear), m the mean colour of x, and e a grain of random signs times 0.02,
//
//	P = J^T J (J^T J + rho)^-1                    rho = max(sigma, rounding to 8 bits)^2 / 0.5^2
//	v = x - m + e
//	share = E |(1-P) v|^2 / E( |(1-P) v|^2 + |P v|^2 )     per pixel: | |^2 sums its channels, E is a mean over 4 grains
//
// For rho = 0, P = A^+ A projects on the range of A^T and 1-P on the null space of A; rho adds to the latter what the
// noise hides. The share of a missing pixel is 1 and that of a known one rho^2/(1+rho^2). Where an operator mixes pixels it
// is the share of the pixel's contrast, so that it is high where fine detail was added and low on flat ground.
//
// It is about the operator, not about the prior: what is invented may still be right.
func Invented(p Problem, x *tensor.Tensor, seed uint64) (im *InventedMap, err error) {
	defer tensor.Catch(&err)
	d := x.Device()
	defer d.Tidy()()
	p.Start = x
	c := newCorrector(p)
	noise := max(c.Sigma, roundingNoise)
	rho := noise * noise / (pictureSpread * pictureSpread)
	linear := Problem{Operator: p.Operator, Y: d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: c.Y, C: 0}}}), Start: x}
	if !isLinear(p.Operator) {
		linear.Operator = &jacobian{c: c, at: x}
	}
	lc := newCorrector(linear)
	inner := lc.choose(Inner{})
	switch inner.Method {
	case CG:
		inner.Steps = 60 // the map is wanted once, and where noise is low it takes many
	case PCG:
		inner.Steps = 12
	}
	data, err := x.Floats()
	if err != nil {
		return nil, err
	}
	n, ch, size := x.N(), x.C(), x.Len()/x.N()
	pixels := size / ch
	for i := range n {
		image := data[i*size : (i+1)*size]
		for k := range ch {
			var mean float64
			for j := k; j < size; j += ch {
				mean += float64(image[j]) / float64(pixels)
			}
			for j := k; j < size; j += ch {
				image[j] -= float32(mean)
			}
		}
	}
	invented, measured := make([]float64, n*pixels), make([]float64, n*pixels)
	probe, signs := make([]float32, len(data)), make([]float32, size)
	for k := range grainProbes {
		tidy := d.Tidy()
		for i := range n {
			philoxNoise{seed, domainGrain}.Normal(signs, i, k)
			for j, s := range signs {
				probe[i*size+j] = data[i*size+j] + float32(math.Copysign(grain, float64(s)))
			}
		}
		// The correction of v towards the measurement 0 is rho (J^T J + rho)^-1 v.
		out, err := lc.correct(d.From(probe, n, x.H(), x.W(), ch), rho, inner).Floats()
		if err != nil {
			return nil, err
		}
		for j, v := range out {
			rest := float64(probe[j]) - float64(v)
			invented[j/ch] += float64(v) * float64(v)
			measured[j/ch] += rest * rest
		}
		tidy()
	}
	im = &InventedMap{Share: make([]float32, n*pixels), Mean: make([]float64, n)}
	for i := range n {
		var top, all float64
		for j := i * pixels; j < (i+1)*pixels; j++ {
			sum := invented[j] + measured[j]
			if sum > 0 {
				im.Share[j] = float32(invented[j] / sum)
			}
			top, all = top+invented[j], all+sum
		}
		if all > 0 {
			im.Mean[i] = top / all
		}
	}
	return im, nil
}

// jacobian is the Jacobian of an operator, or of its misfit, at a picture: a linear operator. What it does to v is a
// central difference.
type jacobian struct {
	c  *corrector
	at *tensor.Tensor
}

// jacobianStep is the size, root mean square, of the step to either side.
const jacobianStep = 5e-3

func (j *jacobian) Apply(v *tensor.Tensor) *tensor.Tensor {
	d := v.Device()
	norms, err := d.Dot(nil, v, v).Floats()
	if err != nil {
		tensor.FailWith("solver.Invented", err, "norm")
	}
	there, back := make([]float32, v.N()), make([]float32, v.N())
	for i, s := range norms {
		if rms := math.Sqrt(float64(s) * float64(v.N()) / float64(v.Len())); rms > 0 {
			there[i], back[i] = float32(jacobianStep/rms), float32(rms/(2*jacobianStep))
		}
	}
	step, unstep := d.From(there, v.N(), 1, 1, 1), d.From(back, v.N(), 1, 1, 1)
	move := func(sign float64) *tensor.Tensor {
		return j.c.residual(d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: j.at, C: 1}, {X: v, C: sign, Num: step, Den: j.c.ones}}}))
	}
	up, down := move(1), move(-1)
	return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: up, C: 1, Num: unstep, Den: j.c.ones}, {X: down, C: -1, Num: unstep, Den: j.c.ones}}})
}

func (j *jacobian) VJP(_, r *tensor.Tensor) *tensor.Tensor { return j.c.gradient(j.at, r) }
func (j *jacobian) IsLinear() bool                         { return true }
