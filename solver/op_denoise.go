package solver

import "github.com/spin-native/spin/tensor"

// Denoise is A(x) = x: the measurement is the picture itself, with noise.
type Denoise struct{}

func (Denoise) Apply(x *tensor.Tensor) *tensor.Tensor  { return x }
func (Denoise) VJP(_, r *tensor.Tensor) *tensor.Tensor { return r }
func (Denoise) IsLinear() bool                         { return true }
func (Denoise) Lipschitz() float64                     { return 1 }
func (Denoise) Guess(y *tensor.Tensor) *tensor.Tensor  { return y }
func (Denoise) Task() Task                             { return TaskDenoise }

// Prox is (y + rho x0) / (1 + rho).
func (Denoise) Prox(x0, y *tensor.Tensor, rho float64) *tensor.Tensor {
	return y.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1 / (1 + rho)}, {X: x0, C: rho / (1 + rho)}}})
}

var denoiseKind = kind{
	build: func(*tensor.Device, Spec, int, int, int) (Operator, error) { return Denoise{}, nil },
	text:  func(Spec) string { return "noisy" },
}
