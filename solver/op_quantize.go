package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Quantize is a picture of few levels: A(x) = x, recorded in equal steps from -1 to 1. What the rounding takes away is taken
// for noise of the deviation step/sqrt(12), for the reason that it is for JPEG.
type Quantize struct {
	Denoise
	step float64
}

// maxLevels bounds the levels, to those of 16 bits.
const maxLevels = 1 << 16

// NewQuantize readies the operator for 2 to 65536 levels.
func NewQuantize(levels int) (op *Quantize, err error) {
	defer tensor.Catch(&err)
	if levels < 2 || levels > maxLevels {
		tensor.Fail("solver.NewQuantize", "%d levels, expected 2 to %d", levels, maxLevels)
	}
	return &Quantize{step: 2 / float64(levels-1)}, nil
}

// Record rounds to the nearest level.
func (op *Quantize) Record(a *tensor.Tensor) *tensor.Tensor {
	d := a.Device()
	y := d.Pointwise(nil, kernels.PointRound, a, nil, op.step, -1)
	return d.Pointwise(y, kernels.PointClip, y, nil, -1, 1)
}

// Task is not that of noise: what rounding takes away belongs to the picture.
func (op *Quantize) Task() Task         { return TaskDenoiseUneven }
func (op *Quantize) Deviation() float64 { return op.step / math.Sqrt(12) }

var quantizeKind = kind{
	numbers: []string{"levels"},
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		_, err = s.whole("levels", 2, maxLevels)
		return [3]int{h, w, c}, err
	},
	build: func(_ *tensor.Device, s Spec, _, _, _ int) (Operator, error) {
		return orNil(NewQuantize(int(s.Numbers["levels"])))
	},
	text: func(s Spec) string { return fmt.Sprintf("%v levels", s.Numbers["levels"]) },
}
