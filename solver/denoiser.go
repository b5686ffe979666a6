package solver

import (
	"math"
	"slices"

	"github.com/spin-native/spin/tensor"
)

// Denoiser gives the clean estimate of the images in xt = sqrt(abar(t)) x + sqrt(1-abar(t)) n. It is only ever run
// forwards. It must treat every image of the batch alone, and return a new tensor of the shape of xt.
type Denoiser interface {
	Denoise(xt *tensor.Tensor, t int) *tensor.Tensor
}

// Scheduled denoisers know the schedule that they were trained with. Settings need not name it then.
type Scheduled interface{ Schedule() *Schedule }

// Multiplied denoisers know what height and width of their network's input must be multiples of. They take other sizes
// too; pictures are better enlarged than latents, though.
type Multiplied interface{ Multiple() int }

// Prediction is what a network tells about x_t.
type Prediction string

const (
	PredictNoise    Prediction = "eps" // the noise: x0 = (x_t - sqrt(1-abar) eps) / sqrt(abar)
	PredictVelocity Prediction = "v"   // v = sqrt(abar) n - sqrt(1-abar) x: x0 = sqrt(abar) x_t - sqrt(1-abar) v
	PredictClean    Prediction = "x0"  // the clean image
)

// ModelOptions describes a network to FromModel.
type ModelOptions struct {
	Schedule   *Schedule  // default Linear(1000, 1e-4, 0.02)
	Prediction Prediction // default PredictNoise
	NoClip     bool       // leave the clean estimate as it is; by default it is clipped to [-1,1], where pictures end
	// Threshold, from 0 to 1, is for dynamic thresholding in place of clipping (Saharia et al., Photorealistic text-to-image
	// diffusion models with deep language understanding): with s the Threshold quantile of |x0| of an image, at least 1, its
	// clean estimate becomes clip(x0/s). 0.995 is usual; 0 means none.
	Threshold float64
	// Multiple is what height and width of the network's input must be multiples of. Images of other sizes are mirrored
	// outwards to the next multiple, and the prediction is cropped. Default 1: any size.
	Multiple int
}

// FromModel makes a denoiser of a network's forward pass: predict(x, t) with as many channels as x. Timesteps are
// those of the schedule.
func FromModel(predict func(x *tensor.Tensor, t float64) *tensor.Tensor, opts ModelOptions) Denoiser {
	if opts.Schedule == nil {
		opts.Schedule = defaultSchedule()
	}
	if !(opts.Threshold >= 0 && opts.Threshold <= 1) {
		tensor.Fail("solver.FromModel", "threshold %v, expected 0 to 1", opts.Threshold)
	}
	return &model{predict: predict, opts: opts, frames: newFrames(opts.Multiple)}
}

// defaultSchedule is the linear one of DDPM and of the guided-diffusion models.
func defaultSchedule() *Schedule { return Linear(1000, 1e-4, 0.02) }

type model struct {
	predict func(x *tensor.Tensor, t float64) *tensor.Tensor
	opts    ModelOptions
	frames  *frames
}

func (m *model) Schedule() *Schedule { return m.opts.Schedule }

func (m *model) Multiple() int { return m.frames.multiple }

func (m *model) Denoise(xt *tensor.Tensor, t int) (x0 *tensor.Tensor) {
	d := xt.Device()
	defer d.Tidy(&x0)()
	f := m.frames.of(d, xt.H(), xt.W())
	in := f.enlarge(xt)
	p := m.predict(in, float64(t))
	if p.Shape() != in.Shape() {
		tensor.Fail("solver.FromModel", "the network made %v of %v", p, in)
	}
	p = f.cut(p)
	a := m.opts.Schedule.AlphaBar(t)
	signal, noise := math.Sqrt(a), math.Sqrt(1-a)
	var terms []tensor.Term
	switch m.opts.Prediction {
	case "", PredictNoise:
		terms = []tensor.Term{{X: xt, C: 1 / signal}, {X: p, C: -noise / signal}}
	case PredictVelocity:
		terms = []tensor.Term{{X: xt, C: signal}, {X: p, C: -noise}}
	case PredictClean:
		terms = []tensor.Term{{X: p, C: 1}}
	default:
		tensor.Fail("solver.FromModel", "prediction %q, expected %q, %q or %q", m.opts.Prediction, PredictNoise, PredictVelocity, PredictClean)
	}
	if m.opts.Threshold > 0 {
		return dynamic(d.Blend(nil, tensor.Blend{Terms: terms}), m.opts.Threshold)
	}
	return d.Blend(nil, tensor.Blend{Terms: terms, Clip: !m.opts.NoClip})
}

// dynamic divides every image of x, in place, by the q-quantile s of its magnitudes where that is above 1, and clips. What
// is not a number stays one, and takes no part in the quantile.
func dynamic(x *tensor.Tensor, q float64) *tensor.Tensor {
	data, err := x.Floats()
	if err != nil {
		tensor.FailWith("solver.FromModel", err, "dynamic thresholding")
	}
	d, n := x.Device(), x.N()
	ones, scales := make([]float32, n), make([]float32, n)
	for i := range n {
		image := data[i*len(data)/n : (i+1)*len(data)/n]
		magnitudes := image[:0]
		for _, v := range image {
			if m := math.Abs(float64(v)); !math.IsNaN(m) {
				magnitudes = append(magnitudes, float32(m))
			}
		}
		slices.Sort(magnitudes)
		ones[i], scales[i] = 1, float32(max(quantile(magnitudes, q), 1))
	}
	one, scale := d.From(ones, n, 1, 1, 1), d.From(scales, n, 1, 1, 1)
	return d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1, Num: one, Den: scale}}, Clip: true})
}

// quantile of sorted numbers, interpolated linearly; 0 of none.
func quantile(sorted []float32, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	lo := int(at)
	hi := min(lo+1, len(sorted)-1)
	return float64(sorted[lo]) + (at-float64(lo))*float64(sorted[hi]-sorted[lo])
}
