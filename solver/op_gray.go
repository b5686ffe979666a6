package solver

import (
	"fmt"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Gray is the measurement of luminance alone, A(x) = w.x per pixel with w = (0.299, 0.587, 0.114): reconstructing it is
// colouring.
type Gray struct {
	w           [3]float64
	mix, spread *tensor.Kernel // w as a 1x1 convolution 3 -> 1, and its transpose
}

var luminance = [3]float64{0.299, 0.587, 0.114}

// NewGray readies the operator on a device.
func NewGray(d *tensor.Device) (*Gray, error) { return newGray(d, luminance) }

// NewGrayMean readies the measurement of the mean of the channels.
func NewGrayMean(d *tensor.Device) (*Gray, error) {
	return newGray(d, [3]float64{1. / 3, 1. / 3, 1. / 3})
}

func newGray(d *tensor.Device, weights [3]float64) (g *Gray, err error) {
	defer tensor.Catch(&err)
	w := []float32{float32(weights[0]), float32(weights[1]), float32(weights[2])}
	return &Gray{
		w:      weights,
		mix:    d.Kernel(kernels.ConvWeights{Weight: w, Out: 1, In: 3, Size: 1, Stride: 1}),
		spread: d.Kernel(kernels.ConvWeights{Weight: w, Out: 3, In: 1, Size: 1, Stride: 1}),
	}, nil
}

func (g *Gray) Apply(x *tensor.Tensor) *tensor.Tensor {
	return x.Device().Conv2D(g.mix, tensor.Input{X: x}, tensor.Epilogue{})
}

func (g *Gray) VJP(_, r *tensor.Tensor) *tensor.Tensor {
	return r.Device().Conv2D(g.spread, tensor.Input{X: r}, tensor.Epilogue{})
}

// Lipschitz is |w|^2.
func (g *Gray) Lipschitz() float64 {
	return g.w[0]*g.w[0] + g.w[1]*g.w[1] + g.w[2]*g.w[2]
}

// Prox is x0 + w (y - w.x0) / (|w|^2 + rho).
func (g *Gray) Prox(x0, y *tensor.Tensor, rho float64) *tensor.Tensor {
	back := g.VJP(nil, subtract(y, g.Apply(x0)))
	return y.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x0, C: 1}, {X: back, C: 1 / (g.Lipschitz() + rho)}}})
}

// Spectrum is |w|^2 everywhere, and no pixel needs to be rotated.
func (g *Gray) Spectrum(y [4]int) ([]float32, error)           { return uniform(g.Lipschitz(), y), nil }
func (g *Gray) Rotate(r *tensor.Tensor, _ bool) *tensor.Tensor { return r }

// Guess is y in all channels.
func (g *Gray) Guess(y *tensor.Tensor) *tensor.Tensor {
	d := y.Device()
	x := d.New(y.N(), y.H(), y.W(), 3)
	return d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}}})
}

func (g *Gray) ImageShape(y [4]int) [4]int { return [4]int{y[0], y[1], y[2], 3} }
func (g *Gray) IsLinear() bool             { return true }
func (g *Gray) Task() Task                 { return TaskColor }

var grayKind = kind{
	shape: func(_ Spec, h, w, c int) (out [3]int, err error) {
		if c != 3 {
			return out, fmt.Errorf("gray of images with %d channels", c)
		}
		return [3]int{h, w, 1}, nil
	},
	build: func(d *tensor.Device, s Spec, _, _, _ int) (Operator, error) {
		if s.Kind == "gray_mean" {
			return orNil(NewGrayMean(d))
		}
		return orNil(NewGray(d))
	},
	text: func(Spec) string { return "without colours" },
}
