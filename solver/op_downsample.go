package solver

import (
	"fmt"

	"github.com/spin-native/spin/tensor"
)

// Downsample is a bicubic reduction by an integer factor, A(x) = Wh x Ww^T per channel, antialiased: the kernel is
// stretched by the factor. Reconstructing it is super-resolution.
type Downsample struct {
	factor    int
	h, w      int               // size of the images
	down, up  [2]*tensor.Matrix // W and its transpose, over rows and over columns
	bicubic   [2]*tensor.Matrix // plain enlargement
	dct, idct [2]*tensor.Matrix // U^T and U
	spectrum  [2]*tensor.Tensor // eigenvalues of W W^T
	lipschitz float64
}

// maxReduced bounds the side of the reduced pictures, for which the closed form needs dense square matrices.
const maxReduced = 4096

// NewDownsample readies the operator for images of h x w on a device; factor must be 2 or more and divide both. Free
// gives the memory back.
func NewDownsample(d *tensor.Device, h, w, factor int) (*Downsample, error) {
	return newDownsample(d, h, w, factor, reduction)
}

// NewAverage readies a reduction by the means of factor x factor pixels.
func NewAverage(d *tensor.Device, h, w, factor int) (*Downsample, error) {
	return newDownsample(d, h, w, factor, averages)
}

func newDownsample(d *tensor.Device, h, w, factor int, matrixOf func(m, n int) *matrix) (op *Downsample, err error) {
	defer tensor.Catch(&err)
	if factor < 2 || h <= 0 || w <= 0 || h > maxSide || w > maxSide || h%factor != 0 || w%factor != 0 {
		tensor.Fail("solver.NewDownsample", "factor %d for images of %d x %d: it must be 2 or more and divide both", factor, h, w)
	}
	if h/factor > maxReduced || w/factor > maxReduced {
		tensor.Fail("solver.NewDownsample", "images of %d x %d reduced by %d: the results may have %d pixels a side", h, w, factor, maxReduced)
	}
	op = &Downsample{factor: factor, h: h, w: w, lipschitz: 1}
	for axis, n := range [2]int{h, w} {
		if axis == 1 && h == w {
			op.down[1], op.up[1], op.bicubic[1], op.dct[1], op.idct[1] = op.down[0], op.up[0], op.bicubic[0], op.dct[0], op.idct[0]
			op.spectrum[1] = op.spectrum[0]
			op.lipschitz *= op.lipschitz
			continue
		}
		m := n / factor
		down, u := matrixOf(m, n), cosines(m)
		// Mirroring at the outer edges makes A a circular filter on even signals of length 2n, sampled on a grid that is
		// mirrored the same way: W W^T is a circular autocorrelation on even signals of length 2m, and those are
		// diagonalised by the DCT-II, exactly. No iteration is needed, and the eigenvalues are |W^T u_k|^2.
		spectrum, largest := make([]float32, m), 0.0
		for k := range m {
			lambda := 0.0
			for _, v := range down.leftProduct(u.w[k]) {
				lambda += v * v
			}
			spectrum[k], largest = float32(lambda), max(largest, lambda)
		}
		op.lipschitz *= largest
		op.down[axis], op.up[axis] = d.Matrix(down.banded()), d.Matrix(down.transposed().banded())
		op.bicubic[axis] = d.Matrix(enlargement(n, m).banded())
		op.dct[axis], op.idct[axis] = d.Matrix(u.banded()), d.Matrix(u.transposed().banded())
		op.spectrum[axis] = d.Vector(spectrum)
	}
	return op, nil
}

// Free gives the operator's memory back to the device.
func (op *Downsample) Free() {
	op.spectrum[0].Free()
	if op.spectrum[1] != op.spectrum[0] {
		op.spectrum[1].Free()
	}
}

func (op *Downsample) Apply(x *tensor.Tensor) *tensor.Tensor { return op.applied(x, plain) }

// VJP is Wh^T r Ww.
func (op *Downsample) VJP(_, r *tensor.Tensor) *tensor.Tensor { return op.adjoint(r, plain) }

func (op *Downsample) applied(x *tensor.Tensor, e ending) *tensor.Tensor {
	return separable(op.down, x, e)
}
func (op *Downsample) adjoint(r *tensor.Tensor, e ending) *tensor.Tensor {
	return separable(op.up, r, e)
}

// Prox is exact, with W W^T = U diag(l) U^T along both axes:
//
//	x0 + A^T( Uh [ (Uh^T (y - A x0) Uw) / (lh_i lw_j + rho) ] Uw^T )
func (op *Downsample) Prox(x0, y *tensor.Tensor, rho float64) *tensor.Tensor {
	d := y.Device()
	r := d.Separable(nil, x0, tensor.Separable{H: op.down[0], W: op.down[1], Alpha: -1, Add: y, Beta: 1})
	r = d.Separable(nil, r, tensor.Separable{H: op.dct[0], W: op.dct[1], RowSpectrum: op.spectrum[0], ColSpectrum: op.spectrum[1], Rho: rho, Alpha: 1})
	r = d.Separable(nil, r, tensor.Separable{H: op.idct[0], W: op.idct[1], Alpha: 1})
	return d.Separable(nil, r, tensor.Separable{H: op.up[0], W: op.up[1], Alpha: 1, Add: x0, Beta: 1})
}

// Rotate is the cosine transform that diagonalises A A^T.
func (op *Downsample) Rotate(r *tensor.Tensor, back bool) *tensor.Tensor {
	m := op.dct
	if back {
		m = op.idct
	}
	return r.Device().Separable(nil, r, tensor.Separable{H: m[0], W: m[1], Alpha: 1})
}

func (op *Downsample) Spectrum(y [4]int) ([]float32, error) {
	rows, err := op.spectrum[0].Floats()
	if err != nil {
		return nil, err
	}
	columns, err := op.spectrum[1].Floats()
	list := uniform(0, y)
	for i := range list {
		px := i / y[3]
		list[i] = rows[px/y[2]%y[1]] * columns[px%y[2]]
	}
	return list, err
}

// Guess is the plain bicubic enlargement.
func (op *Downsample) Guess(y *tensor.Tensor) *tensor.Tensor {
	return y.Device().Separable(nil, y, tensor.Separable{H: op.bicubic[0], W: op.bicubic[1], Alpha: 1})
}

// Lipschitz is the product of the largest eigenvalues of Wh Wh^T and Ww Ww^T, about 1/factor^2.
func (op *Downsample) Lipschitz() float64 { return op.lipschitz }

func (op *Downsample) ImageShape(y [4]int) [4]int { return [4]int{y[0], op.h, op.w, y[3]} }
func (op *Downsample) IsLinear() bool             { return true }
func (op *Downsample) Task() Task                 { return TaskSuperResolution(op.factor) }

var downsampleKind = kind{
	factor: true,
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		if s.Factor < 2 || h%s.Factor != 0 || w%s.Factor != 0 || h/s.Factor > maxReduced || w/s.Factor > maxReduced {
			return out, fmt.Errorf("factor %d for images of %d x %d: it must be 2 or more, divide both, and leave at most %d", s.Factor, h, w, maxReduced)
		}
		return [3]int{h / s.Factor, w / s.Factor, c}, nil
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		if s.Kind == "average" {
			return orNil(NewAverage(d, h, w, s.Factor))
		}
		return orNil(NewDownsample(d, h, w, s.Factor))
	},
	text: func(s Spec) string { return fmt.Sprintf("%d times smaller", s.Factor) },
}
