package solver

import (
	"cmp"
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Blur is the correlation of every channel with one kernel, the borders mirrored without their edge pixels. A kernel
// that is a product of a column and a row runs as two one-dimensional passes.
type Blur struct {
	kernel    *BlurKernel
	d         *tensor.Device
	h, w      int
	filter    *tensor.FilterKernel
	along     [2]*tensor.Matrix // separable kernels: over rows and over columns
	back      [2]*tensor.Matrix // their transposes
	spectrum  *tensor.FilterKernel
	lipschitz float64 // 0 until it is asked for
}

// NewBlur readies the operator for images of h x w on a device.
func NewBlur(d *tensor.Device, h, w int, k *BlurKernel) (op *Blur, err error) {
	defer tensor.Catch(&err)
	if h <= 0 || w <= 0 || h > maxSide || w > maxSide {
		tensor.Fail("solver.NewBlur", "images of %d x %d", h, w)
	}
	op = &Blur{kernel: k, d: d, h: h, w: w}
	t := k.trimmed()
	op.spectrum = d.FilterKernel(kernels.FilterWeights{H: t.H, W: t.W, K: t.K})
	if column, row, ok := t.factors(); ok {
		mh, mw := correlation(h, column), correlation(w, row)
		op.along = [2]*tensor.Matrix{d.Matrix(mh.banded()), d.Matrix(mw.banded())}
		op.back = [2]*tensor.Matrix{d.Matrix(mh.transposed().banded()), d.Matrix(mw.transposed().banded())}
		return op, nil
	}
	op.filter = op.spectrum
	return op, nil
}

func (op *Blur) Apply(x *tensor.Tensor) *tensor.Tensor { return op.applied(x, plain) }

func (op *Blur) applied(x *tensor.Tensor, e ending) *tensor.Tensor {
	if op.filter != nil {
		return op.d.Filter(nil, x, tensor.Filter{Kernel: op.filter, Alpha: e.alpha, Add: e.add, Beta: e.beta, Products: e.Products})
	}
	return separable(op.along, x, e)
}

// separable is a map by two matrices, with an ending.
func separable(m [2]*tensor.Matrix, x *tensor.Tensor, e ending) *tensor.Tensor {
	return x.Device().Separable(nil, x, tensor.Separable{H: m[0], W: m[1], Alpha: e.alpha, Add: e.add, Beta: e.beta, Products: e.Products})
}

// VJP is the adjoint: the correlation with the flipped kernel into the mirrored margin, folded back onto the pixels that
// the margin was copied from.
func (op *Blur) VJP(_, r *tensor.Tensor) *tensor.Tensor { return op.adjoint(r, plain) }

func (op *Blur) adjoint(r *tensor.Tensor, e ending) *tensor.Tensor {
	if op.filter != nil {
		return op.d.Filter(nil, r, tensor.Filter{Kernel: op.filter, Adjoint: true, Alpha: e.alpha, Add: e.add, Beta: e.beta, Products: e.Products})
	}
	return separable(op.back, r, e)
}

// Precondition solves with the blur of a picture without borders, on a circle on which the borders fade out.
func (op *Blur) Precondition(r *tensor.Tensor, rho float64) *tensor.Tensor {
	const fade = 8 // wider is better for symmetric kernels and worse for others
	return op.d.Deconvolve(nil, r, op.spectrum, rho, fade)
}

// Guess is y.
func (op *Blur) Guess(y *tensor.Tensor) *tensor.Tensor { return y }

// Lipschitz is 1.25, which covers the kernels of the usual tasks: the mirror makes it exceed 1. Kernels whose weight
// lies off their centre can need up to 4; the power method finds out, once.
func (op *Blur) Lipschitz() float64 {
	if op.lipschitz != 0 {
		return op.lipschitz
	}
	largest := largestEigenvalue(op, op.d, [4]int{1, op.h, op.w, 1})
	op.lipschitz = math.Max(1.25, 1.05*largest) // the power method approaches from below
	return op.lipschitz
}

// largestEigenvalue is that of A^T A for a linear operator, by the power method, which approaches it from below.
func largestEigenvalue(op Operator, d *tensor.Device, shape [4]int) (largest float64) {
	defer d.Tidy()()
	start := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
	philoxNoise{0, domainMask}.Normal(start, 0, 0)
	x := d.From(start, shape[0], shape[1], shape[2], shape[3])
	for range 30 {
		ax := op.Apply(x)
		norms := d.New(1, 1, 1, 1)
		grown, err := d.Dot(norms, ax, ax).Floats()
		size, err2 := d.Dot(norms, x, x).Floats()
		if err != nil || err2 != nil || size[0] == 0 {
			break
		}
		largest = float64(grown[0]) / float64(size[0])
		x = d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: op.VJP(nil, ax), C: 1 / max(largest, 1e-12)}}})
	}
	return largest
}

func (op *Blur) IsLinear() bool { return true }
func (op *Blur) Task() Task     { return cmp.Or(op.kernel.Task, TaskBlur) }

var blurKind = kind{
	kernel: true,
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		if err := s.Kernel.check(); err != nil {
			return out, err
		}
		return [3]int{h, w, c}, nil
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		return orNil(NewBlur(d, h, w, s.Kernel))
	},
	text: func(s Spec) string {
		return fmt.Sprintf("blurred with a kernel of %d x %d", s.Kernel.W, s.Kernel.H)
	},
}
