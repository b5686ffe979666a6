package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// HDR is an exposure that is too long, A(x) = clip(gain x, -1, 1): what lies beyond is lost. Its residual keeps its
// gradient where x is saturated and y is not, with z = gain x:
//
//	r = z - clip(y,-1,1);   where y >= 1-3 sigma: r = min(r, 0);   where y <= -1+3 sigma: r = max(r, 0)
type HDR struct {
	gain  float64
	sigma float64 // of the noise in y
}

// maxGain bounds the gain.
const maxGain = 64

// NewHDR readies the operator; sigma is the noise level of the measurement.
func NewHDR(gain, sigma float64) (op *HDR, err error) {
	defer tensor.Catch(&err)
	if !(gain > 1 && gain <= maxGain) || !(sigma >= 0 && sigma <= maxSigma) {
		tensor.Fail("solver.NewHDR", "gain %v and noise %v: the gain must be above 1 and at most %v", gain, sigma, float64(maxGain))
	}
	return &HDR{gain, sigma}, nil
}

// margin is how far from the ends y counts as saturated.
func (op *HDR) margin() float64 { return min(3*op.sigma, 1) }

func (op *HDR) Apply(x *tensor.Tensor) *tensor.Tensor {
	z := scaled(x, op.gain)
	return x.Device().Pointwise(z, kernels.PointClip, z, nil, -1, 1)
}

// VJP passes gain r where -1 <= gain x <= 1.
func (op *HDR) VJP(x, r *tensor.Tensor) *tensor.Tensor {
	d := x.Device()
	within := scaled(x, op.gain)
	d.Pointwise(within, kernels.PointWithin, within, nil, -1, 1)
	return scaled(d.Pointwise(within, kernels.PointMul, within, r, 0, 0), op.gain)
}

func (op *HDR) Misfit(x, y *tensor.Tensor) *tensor.Tensor {
	d := x.Device()
	clipped := d.Pointwise(nil, kernels.PointClip, y, nil, -1, 1)
	z := scaled(x, op.gain)
	return d.Pointwise(z, kernels.PointSaturate, z, clipped, -1+op.margin(), 1-op.margin())
}

// MisfitVJP is gain r: where the residual is not one-sided it is linear, and elsewhere r is zero.
func (op *HDR) MisfitVJP(_, r *tensor.Tensor) *tensor.Tensor { return scaled(r, op.gain) }

// local is the data term of Misfit.
func (op *HDR) local(y *tensor.Tensor) tensor.Local {
	clipped := y.Device().Pointwise(nil, kernels.PointClip, y, nil, -1, 1)
	return tensor.Local{Y: clipped, Gain: op.gain, Low: -1 + op.margin(), High: 1 - op.margin()}
}

func (op *HDR) Lipschitz() float64 { return op.gain * op.gain }

// Guess is y/gain, and where y is saturated the middle of what the pixel can be.
func (op *HDR) Guess(y *tensor.Tensor) *tensor.Tensor {
	d := y.Device()
	low := d.Pointwise(nil, kernels.PointWithin, y, nil, math.Inf(-1), -1+op.margin())
	high := d.Pointwise(nil, kernels.PointWithin, y, nil, 1-op.margin(), math.Inf(1))
	middle := (1 + 1/op.gain) / 2
	ends := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: high, C: middle}, {X: low, C: -middle}}})
	saturated := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: high, C: 1}, {X: low, C: 1}}})
	return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: ends, C: 1}}, Mask: saturated, Else: scaled(y, 1/op.gain)})
}

func (op *HDR) Task() Task { return TaskHDR }

// scaled is c x.
func scaled(x *tensor.Tensor, c float64) *tensor.Tensor {
	return x.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: c}}})
}

var hdrKind = kind{
	numbers: []string{"gain", "sigma"},
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		_, err = NewHDR(s.Numbers["gain"], s.Numbers["sigma"])
		return [3]int{h, w, c}, err
	},
	build: func(_ *tensor.Device, s Spec, _, _, _ int) (Operator, error) {
		return orNil(NewHDR(s.Numbers["gain"], s.Numbers["sigma"]))
	},
	text: func(s Spec) string { return fmt.Sprintf("%v times overexposed", s.Numbers["gain"]) },
}
