package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Decimate is a blur on a circle of which one pixel in factor x factor is kept, the first: with k a kernel of p x q and its
// middle at (p/2, q/2), the convolution
//
//	A(x)[i,j] = sum over a, b of k[a,b] x[(i factor - a + p/2) mod h, (j factor - b + q/2) mod w]        per channel
//
// as the code of USRNet and DiffPIR damages pictures (its classical degradation). Kernels are flipped, as those of Blur are not.
type Decimate struct {
	factor, h, w int
	rows         *tensor.Sparse
	enlarge      [2]*tensor.Matrix
	d            *tensor.Device
	lipschitz    float64 // 0 until it is asked for
}

// NewDecimate readies the operator for images of h x w, both of which factor divides, on a device. Free gives the memory back.
func NewDecimate(d *tensor.Device, h, w, factor int, k *BlurKernel) (op *Decimate, err error) {
	defer tensor.Catch(&err)
	if err := decimation(h, w, factor, k); err != nil {
		tensor.FailWith("solver.NewDecimate", err, "images of %d x %d", h, w)
	}
	t := k.trimmed()
	m := kernels.SparseMatrix{Rows: h / factor * (w / factor), Cols: h * w, Start: []int32{0}}
	for i := range m.Rows {
		y, x := i/(w/factor)*factor, i%(w/factor)*factor
		for p, v := range t.K {
			if v == 0 {
				continue
			}
			row, col := y-p/t.W+t.H/2, x-p%t.W+t.W/2
			m.Col, m.W = append(m.Col, int32(modulo(row, h)*w+modulo(col, w))), append(m.W, v)
		}
		m.Start = append(m.Start, int32(len(m.W)))
	}
	op = &Decimate{factor: factor, h: h, w: w, d: d, rows: d.Sparse(m)}
	for axis, n := range [2]int{h, w} {
		op.enlarge[axis] = d.Matrix(interpolation(n, factor).banded())
	}
	return op, nil
}

// decimation reports what is wrong.
func decimation(h, w, factor int, k *BlurKernel) error {
	if factor < 2 || h < 1 || w < 1 || h > maxSide || w > maxSide || h%factor != 0 || w%factor != 0 {
		return fmt.Errorf("factor %d for images of %d x %d: it must be 2 or more and divide both", factor, h, w)
	}
	if err := k.check(); err != nil {
		return err
	}
	taps := 0
	for _, v := range k.K {
		if v != 0 {
			taps++
		}
	}
	if n := float64(taps) * float64(h/factor) * float64(w/factor); n > maxWeights {
		return fmt.Errorf("a kernel of %d values for %d x %d measured pixels: a matrix of %.0f million weights, at most %d million are taken; a smaller kernel or picture is needed",
			taps, w/factor, h/factor, n/1e6, maxWeights/1_000_000)
	}
	return nil
}

func modulo(i, n int) int { return (i%n + n) % n }

// interpolation is the cubic matrix (a = -3/4) from n/factor pixels to n on a circle, of which pixel i lies on pixel i factor.
func interpolation(n, factor int) *matrix {
	return newMatrix(n, n/factor, func(i int, add func(j int, v float64)) {
		c := float64(i) / float64(factor)
		for j := int(math.Floor(c)) - 1; j <= int(math.Floor(c))+2; j++ {
			add(modulo(j, n/factor), cubic(float64(j)-c, -0.75))
		}
	})
}

// Free gives the operator's memory back to the device.
func (op *Decimate) Free() { op.rows.Free() }

func (op *Decimate) Apply(x *tensor.Tensor) *tensor.Tensor {
	return op.d.Product(op.d.New(x.N(), op.h/op.factor, op.w/op.factor, x.C()), x, tensor.Product{M: op.rows, Alpha: 1})
}

func (op *Decimate) VJP(_, r *tensor.Tensor) *tensor.Tensor {
	return op.d.Product(op.d.New(r.N(), op.h, op.w, r.C()), r, tensor.Product{M: op.rows, Adjoint: true, Alpha: 1})
}

// Guess is the cubic enlargement whose pixels lie on those that were kept.
func (op *Decimate) Guess(y *tensor.Tensor) *tensor.Tensor {
	return separable(op.enlarge, y, plain)
}

// Lipschitz is found by the power method, once.
func (op *Decimate) Lipschitz() float64 {
	if op.lipschitz == 0 {
		op.lipschitz = 1.05 * largestEigenvalue(op, op.d, [4]int{1, op.h, op.w, 1}) // it approaches from below
	}
	return op.lipschitz
}

func (op *Decimate) ImageShape(y [4]int) [4]int { return [4]int{y[0], op.h, op.w, y[3]} }
func (op *Decimate) IsLinear() bool             { return true }
func (op *Decimate) Task() Task                 { return TaskSuperResolution(op.factor) }

var decimateKind = kind{
	factor: true, kernel: true,
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		if err := decimation(h, w, s.Factor, s.Kernel); err != nil {
			return out, err
		}
		return [3]int{h / s.Factor, w / s.Factor, c}, nil
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		return orNil(NewDecimate(d, h, w, s.Factor, s.Kernel))
	},
	text: func(s Spec) string {
		return fmt.Sprintf("blurred with a kernel of %d x %d, one pixel in %d x %[3]d kept", s.Kernel.W, s.Kernel.H, s.Factor)
	},
}
