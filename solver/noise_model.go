package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// NoiseModel is noise that depends on what is measured, for measurements that are pictures: u = (y+1)/2 is light.
type NoiseModel struct {
	// Kind is "poisson", the counting of photons, y = 2 n/Level - 1 with n drawn for a mean of Level u; "speckle", a factor of
	// deviation Level, y = 2 u (1 + Level n) - 1; or empty: none.
	Kind  string
	Level float64 // photons where u = 1, or the deviation of the factor
}

// bounds of the levels.
const (
	maxPhotons = 1e9
	maxSpeckle = 10
)

func (m NoiseModel) check() error {
	most := map[string]float64{"poisson": maxPhotons, "speckle": maxSpeckle}
	if top, ok := most[m.Kind]; m.Kind != "" && (!ok || !(m.Level > 0 && m.Level <= top)) {
		return fmt.Errorf("noise %q of level %v: expected poisson of up to %v photons, or speckle of up to %v", m.Kind, m.Level, float64(maxPhotons), float64(maxSpeckle))
	}
	return nil
}

// Apply draws the noise into y, the measurement of an image of the seed. A value's noise depends on its place in y alone, and
// not on what was drawn before it.
func (m NoiseModel) Apply(y []float32, seed uint64, image int) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("solver.NoiseModel: %w", err)
	}
	source := philoxNoise{seed, domainPhotons}
	var n []float32
	if m.Kind == "speckle" {
		n = make([]float32, len(y))
		source.Normal(n, image, 0)
	}
	workers := (len(y) + noiseBlock - 1) / noiseBlock
	parallel(workers, func(b int) {
		for i := b * noiseBlock; i < min((b+1)*noiseBlock, len(y)); i++ {
			u := (float64(y[i]) + 1) / 2
			switch m.Kind {
			case "poisson":
				draws := 0
				uniform := func() float64 {
					r := source.block(uint32(i), image, 1+draws)
					draws++
					return (float64(r[0])*0x1p32 + float64(r[1]) + 0.5) * 0x1p-64
				}
				y[i] = float32(2*poisson(m.Level*max(u, 0), uniform)/m.Level - 1)
			case "speckle":
				y[i] = float32(2*u*(1+m.Level*float64(n[i])) - 1)
			}
		}
	})
	return nil
}

// Measure is the function Measure with this noise drawn before the Gaussian one.
func (m NoiseModel) Measure(op Operator, x *tensor.Tensor, sigma float64, seed uint64, first int) (y *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	d := x.Device()
	defer d.Tidy(&y)()
	y = op.Apply(x)
	if m.Kind != "" {
		data, err := y.Floats()
		if err != nil {
			return nil, err
		}
		size := len(data) / y.N()
		for i := range y.N() {
			if err := m.Apply(data[i*size:(i+1)*size], seed, first+i); err != nil {
				return nil, err
			}
		}
		y = d.From(data, y.N(), y.H(), y.W(), y.C())
	}
	if sigma != 0 {
		n := d.New(y.N(), y.H(), y.W(), y.C())
		draw(n, philoxNoise{seed, domainMeasure}, first, 0)
		y = d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}, {X: n, C: sigma}}})
	} else if y == x {
		y = copied(x)
	}
	if r, ok := op.(Recorder); ok {
		y = r.Record(y)
	}
	if r, ok := op.(Restricter); ok {
		y = r.Restrict(y)
	}
	return y, nil
}

// poisson draws a number of the given mean: by going through the probabilities where it is small, and otherwise by the
// transformed rejection of Hörmann (1993).
func poisson(mean float64, uniform func() float64) float64 {
	if mean <= 0 {
		return 0
	}
	if mean < 12 {
		u, p, k := uniform(), math.Exp(-mean), 0.0
		for sum := p; u > sum && k < 1000; sum += p {
			k++
			p *= mean / k
		}
		return k
	}
	b := 0.931 + 2.53*math.Sqrt(mean)
	a := -0.059 + 0.02483*b
	inverse := 1.1239 + 1.1328/(b-3.4)
	for {
		u, v := uniform()-0.5, uniform()
		us := 0.5 - math.Abs(u)
		k := math.Floor((2*a/us+b)*u + mean + 0.43)
		if us >= 0.07 && v <= 0.9277-3.6224/(b-2) {
			return k
		}
		if k < 0 || us < 0.013 && v > us {
			continue
		}
		gamma, _ := math.Lgamma(k + 1)
		if math.Log(v*inverse/(a/(us*us)+b)) <= k*math.Log(mean)-mean-gamma {
			return k
		}
	}
}

// leastDeviation keeps black from being believed without limit: a third of a level of 8 bits.
const leastDeviation = 0.3 / 127.5

// deviations estimates the deviation of every value of y, planar [N,C,H,W], with Gaussian noise sigma besides: the light is
// that of the mean over 5 x 5 pixels, which has a fifth of the noise.
func (m NoiseModel) deviations(y []float32, h, w int, sigma float64) []float32 {
	const radius = 2
	out := make([]float32, len(y))
	parallel(len(y)/(h*w), func(plane int) {
		y, out := y[plane*h*w:(plane+1)*h*w], out[plane*h*w:]
		for i := range h {
			for j := range w {
				sum, n := 0.0, 0.0
				for a := max(i-radius, 0); a <= min(i+radius, h-1); a++ {
					for b := max(j-radius, 0); b <= min(j+radius, w-1); b++ {
						sum += (float64(y[a*w+b]) + 1) / 2
						n++
					}
				}
				u := max(sum/n, 0)
				variance := sigma * sigma
				switch m.Kind {
				case "poisson":
					variance += 4 * (u + 1/(n*m.Level)) / m.Level
				case "speckle":
					variance += 4 * m.Level * m.Level * u * u
				}
				out[i*w+j] = float32(math.Sqrt(max(variance, leastDeviation*leastDeviation)))
			}
		}
	})
	return out
}

// Weighted is an operator whose residuals are weighed by the deviation of every single value: A and y are both multiplied by
// w = sigma/deviation, so that sigma is the noise of all of them. Poisson and speckle noise become a quadratic data term so.
type Weighted struct {
	op         Operator
	w, inverse *tensor.Tensor // [N,H,W,C] of the measurement
	most       float64        // largest weight
}

// NewWeighted weighs an operator by weights for measurements of the given shape, of which there may be one for all images. It
// owns op from then on: Free gives the memory of both back.
func NewWeighted(d *tensor.Device, op Operator, weights []float32, shape [4]int) (weighted *Weighted, err error) {
	defer tensor.Catch(&err)
	if len(weights) == 0 || len(weights) != shape[0]*shape[1]*shape[2]*shape[3] {
		tensor.Fail("solver.NewWeighted", "%d weights for the shape %v", len(weights), shape)
	}
	inverse, most := make([]float32, len(weights)), 0.0
	for i, v := range weights {
		if !(v > 0) {
			tensor.Fail("solver.NewWeighted", "weight %v, expected positive numbers", v)
		}
		inverse[i], most = 1/v, max(most, float64(v))
	}
	upload := func(v []float32) *tensor.Tensor { return d.From(v, shape[0], shape[1], shape[2], shape[3]) }
	return &Weighted{op, upload(weights), upload(inverse), most}, nil
}

func elementwise(a, b *tensor.Tensor) *tensor.Tensor {
	return a.Device().Pointwise(nil, kernels.PointMul, a, b, 0, 0)
}

func (op *Weighted) Apply(x *tensor.Tensor) *tensor.Tensor { return elementwise(op.op.Apply(x), op.w) }

func (op *Weighted) VJP(x, r *tensor.Tensor) *tensor.Tensor {
	return op.op.VJP(x, elementwise(r, op.w))
}

// Misfit is that of the operator, weighed.
func (op *Weighted) Misfit(x, y *tensor.Tensor) *tensor.Tensor {
	if m, ok := op.op.(Misfit); ok {
		return elementwise(m.Misfit(x, elementwise(y, op.inverse)), op.w)
	}
	return subtract(op.Apply(x), y)
}

func (op *Weighted) MisfitVJP(x, r *tensor.Tensor) *tensor.Tensor {
	if m, ok := op.op.(Misfit); ok {
		return m.MisfitVJP(x, elementwise(r, op.w))
	}
	return op.VJP(x, r)
}

func (op *Weighted) Restrict(y *tensor.Tensor) *tensor.Tensor {
	if r, ok := op.op.(Restricter); ok {
		return r.Restrict(y)
	}
	return y
}

func (op *Weighted) Guess(y *tensor.Tensor) *tensor.Tensor {
	return firstGuess(op.op, elementwise(y, op.inverse))
}
func (op *Weighted) View(y *tensor.Tensor) *tensor.Tensor {
	return view(op.op, elementwise(y, op.inverse))
}
func (op *Weighted) ImageShape(y [4]int) [4]int { return imageShape(op.op, y) }
func (op *Weighted) Counts(y [4]int) []int      { return counts(op.op, y) }
func (op *Weighted) IsLinear() bool             { return isLinear(op.op) }
func (op *Weighted) Lipschitz() float64         { return lipschitz(op.op) * op.most * op.most }

// Task is that of the operator, but for noise that is the same everywhere.
func (op *Weighted) Task() Task {
	if t := taskOf(op.op); t != TaskDenoise {
		return t
	}
	return TaskDenoiseUneven
}

// Free gives the memory of the weights and of the operator back.
func (op *Weighted) Free() {
	op.w.Free()
	op.inverse.Free()
	Release(op.op)
}
