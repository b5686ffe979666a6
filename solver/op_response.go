package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Response is the curve between light and the numbers of a picture, u^gamma for u = (x+1)/2. Between two of them, of gamma
// and of 1/gamma, an operator acts on light: a blur so is the nonlinear one of a real camera.
//
//	A(x) = 2 max(u, floor)^gamma - 1
//
// The floor of 1/1000, below any level of 8 bits, keeps the slope finite.
type Response struct {
	gamma float64
	ones  *tensor.Tensor // [1,H,W,1]
}

const responseFloor = 1e-3

// NewResponse readies the operator for images of h x w on a device; gamma may be 1/8 to 8. Free gives the memory back.
func NewResponse(d *tensor.Device, h, w int, gamma float64) (op *Response, err error) {
	defer tensor.Catch(&err)
	if !(gamma >= 1./8 && gamma <= 8) || h <= 0 || w <= 0 || h > maxSide || w > maxSide {
		tensor.Fail("solver.NewResponse", "gamma %v for images of %d x %d: it may be 1/8 to 8", gamma, h, w)
	}
	return &Response{gamma, d.From(uniform(1, [4]int{1, h, w, 1}), 1, h, w, 1)}, nil
}

// Free gives the operator's memory back to the device.
func (op *Response) Free() { op.ones.Free() }

// unit is (x+1)/2.
func (op *Response) unit(x *tensor.Tensor) *tensor.Tensor {
	return x.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 0.5}, {X: op.ones, C: 0.5}}})
}

func (op *Response) curve(x *tensor.Tensor, floor, gamma float64) *tensor.Tensor {
	d := x.Device()
	u := op.unit(x)
	d.Pointwise(u, kernels.PointPower, u, nil, floor, gamma)
	return d.Blend(u, tensor.Blend{Terms: []tensor.Term{{X: u, C: 2}, {X: op.ones, C: -1}}})
}

func (op *Response) Apply(x *tensor.Tensor) *tensor.Tensor {
	return op.curve(x, responseFloor, op.gamma)
}

// VJP is gamma u^(gamma-1) r where u is above the floor.
func (op *Response) VJP(x, r *tensor.Tensor) *tensor.Tensor {
	d := x.Device()
	u := op.unit(x)
	slope := d.Pointwise(nil, kernels.PointPower, u, nil, responseFloor, op.gamma-1)
	d.Pointwise(u, kernels.PointWithin, u, nil, responseFloor, math.Inf(1))
	d.Pointwise(slope, kernels.PointMul, slope, u, 0, 0)
	return scaled(d.Pointwise(slope, kernels.PointMul, slope, r, 0, 0), op.gamma)
}

// Guess goes the curve back.
func (op *Response) Guess(y *tensor.Tensor) *tensor.Tensor { return op.curve(y, 0, 1/op.gamma) }

// Task is the easiest: what it stands beside decides.
func (op *Response) Task() Task { return TaskDenoiseUneven }

var responseKind = kind{
	numbers: []string{"gamma"},
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		if g := s.Numbers["gamma"]; !(g >= 1./8 && g <= 8) {
			return out, fmt.Errorf("gamma %v, expected 1/8 to 8", g)
		}
		return [3]int{h, w, c}, nil
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		return orNil(NewResponse(d, h, w, s.Numbers["gamma"]))
	},
	text: func(s Spec) string { return fmt.Sprintf("response of gamma %.3g", s.Numbers["gamma"]) },
}
