package kernels

import (
	"fmt"
	"math"
)

// FastSize is the smallest size from n on that has no prime factor above 5, for transforms whose size is free.
func FastSize(n int) int {
	for ; ; n++ {
		m := n
		for _, p := range []int{2, 3, 5} {
			for m%p == 0 {
				m /= p
			}
		}
		if m == 1 {
			return n
		}
	}
}

// Check reports what is wrong with the matrix, or nil.
func (m Matrix) Check() error {
	if m.Rows <= 0 || m.Cols <= 0 || len(m.First) != m.Rows || len(m.W) != m.Rows {
		return fmt.Errorf("%d x %d matrix with %d first columns and %d rows of weights", m.Rows, m.Cols, len(m.First), len(m.W))
	}
	for i, w := range m.W {
		if m.First[i] < 0 || m.First[i]+len(w) > m.Cols {
			return fmt.Errorf("row %d covers columns %d to %d of %d", i, m.First[i], m.First[i]+len(w), m.Cols)
		}
	}
	return nil
}

// Check reports what is wrong with the filter, or nil.
func (f FilterWeights) Check() error {
	if f.H <= 0 || f.W <= 0 || f.H%2 == 0 || f.W%2 == 0 || len(f.K) != f.H*f.W {
		return fmt.Errorf("filter of %d x %d with %d weights: sizes must be odd", f.H, f.W, len(f.K))
	}
	return nil
}

// Check reports what is wrong with the convolution, or nil.
func (w ConvWeights) Check() error {
	if w.Out <= 0 || w.In <= 0 || w.Size <= 0 || w.Size%2 == 0 || w.Stride <= 0 || w.Pad < 0 {
		return fmt.Errorf("convolution %d->%d of size %d, stride %d, padding %d is not one", w.In, w.Out, w.Size, w.Stride, w.Pad)
	}
	if len(w.Weight) != w.Out*w.In*w.Size*w.Size || (w.Bias != nil && len(w.Bias) != w.Out) {
		return fmt.Errorf("%d weights and %d biases given for a convolution %d->%d of size %d", len(w.Weight), len(w.Bias), w.In, w.Out, w.Size)
	}
	if w.PadEnd < 0 || w.PadEnd >= w.Size {
		return fmt.Errorf("convolution of size %d with %d more pixels of padding at the end: expected less than the size", w.Size, w.PadEnd)
	}
	if w.Form.Winograd() && (w.Size != 3 || w.Stride != 1 || w.Pad != 1 || w.PadEnd != 0) {
		return fmt.Errorf("Winograd needs a 3x3 convolution of stride 1 and padding 1, got size %d, stride %d, padding %d", w.Size, w.Stride, w.Pad)
	}
	if w.Form == WinogradUp && !w.Up {
		return fmt.Errorf("the form %v needs a convolution of an enlarged image", w.Form)
	}
	return nil
}

// maxSparse bounds the sides of a sparse matrix, as the transpose takes memory by them.
const maxSparse = 1 << 30

// Check reports what is wrong with the sparse matrix, or nil.
func (m SparseMatrix) Check() error {
	if m.Rows <= 0 || m.Cols <= 0 || m.Rows > maxSparse || m.Cols > maxSparse || len(m.Start) != m.Rows+1 || len(m.Col) != len(m.W) || len(m.W) > math.MaxInt32 {
		return fmt.Errorf("sparse %d x %d matrix with %d starts, %d columns and %d weights", m.Rows, m.Cols, len(m.Start), len(m.Col), len(m.W))
	}
	if m.Start[0] != 0 || int(m.Start[m.Rows]) != len(m.W) {
		return fmt.Errorf("the rows of the sparse matrix cover the weights %d to %d of %d", m.Start[0], m.Start[m.Rows], len(m.W))
	}
	for i := range m.Rows {
		if m.Start[i] > m.Start[i+1] {
			return fmt.Errorf("row %d of the sparse matrix starts at %d and ends at %d", i, m.Start[i], m.Start[i+1])
		}
	}
	for k, c := range m.Col {
		if c < 0 || int(c) >= m.Cols {
			return fmt.Errorf("weight %d of the sparse matrix is on column %d of %d", k, c, m.Cols)
		}
	}
	return nil
}

// Transposed is the matrix M^T. The columns of its rows ascend.
func (m SparseMatrix) Transposed() SparseMatrix {
	t := SparseMatrix{Rows: m.Cols, Cols: m.Rows, Start: make([]int32, m.Cols+1), Col: make([]int32, len(m.Col)), W: make([]float32, len(m.W))}
	for _, c := range m.Col {
		t.Start[c+1]++
	}
	for i := range m.Cols {
		t.Start[i+1] += t.Start[i]
	}
	for i := range m.Rows {
		for k := m.Start[i]; k < m.Start[i+1]; k++ {
			at := &t.Start[m.Col[k]]
			t.Col[*at], t.W[*at] = int32(i), m.W[k]
			*at++
		}
	}
	copy(t.Start[1:], t.Start) // every row has moved to where the next one starts
	t.Start[0] = 0
	return t
}

// Operands tells what a formula takes and gives: whether A is complex, whether the result is, and whether there must be a B. A
// B may be there for PointComplex.
func (f PointOp) Operands() (complexA, complexDst, needsB bool) {
	complexA = f == PointReal || f == PointAbs || f == PointPhase
	return complexA, f == PointComplex || f == PointPhase, f == PointMul || f == PointSaturate || f == PointPhase
}

// Quotients are alpha and beta of a step of conjugate gradients on one image, by the formulas of Conjugate; after is filled in.
// before is nil at the first step.
func Quotients(sums, before, after []float32) (alpha, beta float64) {
	quotient := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	kappa, zr := float64(sums[0]), float64(sums[1])
	if before != nil {
		beta = quotient(zr, float64(before[0]))
		kappa += beta * (2*float64(sums[2]) + beta*float64(before[1]))
	}
	after[0], after[1] = sums[1], float32(kappa)
	return quotient(zr, kappa), beta
}
