package solver

import (
	"math"

	"github.com/spin-native/spin/tensor"
)

// Denoise is A(x) = x: the measurement is the picture itself, with noise.
type Denoise struct{}

func (Denoise) Apply(x *tensor.Tensor) *tensor.Tensor  { return x }
func (Denoise) VJP(_, r *tensor.Tensor) *tensor.Tensor { return r }
func (Denoise) IsLinear() bool                         { return true }
func (Denoise) Lipschitz() float64                     { return 1 }
func (Denoise) Guess(y *tensor.Tensor) *tensor.Tensor  { return y }
func (Denoise) Task() Task                             { return TaskDenoise }

func (Denoise) local(y *tensor.Tensor) tensor.Local {
	return tensor.Local{Y: y, Gain: 1, Low: math.Inf(-1), High: math.Inf(1)}
}

// Prox is (y + rho x0) / (1 + rho).
func (Denoise) Prox(x0, y *tensor.Tensor, rho float64) *tensor.Tensor {
	return y.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1 / (1 + rho)}, {X: x0, C: rho / (1 + rho)}}})
}

func (Denoise) Rotate(r *tensor.Tensor, _ bool) *tensor.Tensor { return r }
func (Denoise) Spectrum(y [4]int) ([]float32, error)           { return uniform(1, y), nil }

// uniform is v for every element of a shape.
func uniform(v float64, shape [4]int) []float32 {
	list := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
	for i := range list {
		list[i] = float32(v)
	}
	return list
}

var denoiseKind = kind{
	build: func(*tensor.Device, Spec, int, int, int) (Operator, error) { return Denoise{}, nil },
	text:  func(Spec) string { return "noisy" },
}
