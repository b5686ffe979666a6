//go:build cgo

package cpu

// #include "call.h"
import "C"

import (
	"fmt"

	"github.com/spin-native/spin/kernels"
)

// Pointwise implements kernels.Image.
func (b *Backend) Pointwise(p *kernels.Pointwise) {
	numbers, repeat := p.Dst, 1
	if _, pairs, _ := p.Op.Operands(); pairs {
		numbers.C /= 2
	}
	if p.B.Present() {
		repeat = numbers.C / p.B.C
	}
	b.elements(numbers, func(n, i0, i1 int) {
		C.call_pointwise(b.lv, C.int(p.Op), cfloats(p.Dst.Image(n)), cfloats(p.A.Image(n)), cfloats(of(p.B, n)), C.int(repeat),
			C.long(i0), C.long(i1), C.float(p.P), C.float(p.Q))
	})
}

// sparse is a matrix and its transpose.
type sparse struct{ forward, adjoint rows }

// rows is a matrix with the rows that tasks start at, and as a last one their number.
type rows struct {
	kernels.SparseMatrix
	tasks []int
}

func (s *sparse) Shape() (rows, cols int) { return s.forward.Rows, s.forward.Cols }
func (s *sparse) Free()                   { *s = sparse{} }

// PrepareSparse keeps a copy of m and its transpose. A plan needs neither.
func (b *Backend) PrepareSparse(m kernels.SparseMatrix) (kernels.PreparedSparse, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	if b.planning() {
		return &sparse{rows{SparseMatrix: kernels.SparseMatrix{Rows: m.Rows, Cols: m.Cols}}, rows{SparseMatrix: kernels.SparseMatrix{Rows: m.Cols, Cols: m.Rows}}}, nil
	}
	t := m.Transposed()
	m.Start, m.Col, m.W = append([]int32(nil), m.Start...), append([]int32(nil), m.Col...), append([]float32(nil), m.W...)
	return &sparse{rows{m, tasks(m)}, rows{t, tasks(t)}}, nil
}

// tasks cuts a matrix into tasks of about equal work: rows of so many weights, where beginning and ending one takes as long
// as a few of them.
func tasks(m kernels.SparseMatrix) []int {
	const weights, few = 1 << 14, 8
	list, work := []int{0}, 0
	for i := range m.Rows {
		if work += int(m.Start[i+1]-m.Start[i]) + few; work >= weights {
			list, work = append(list, i+1), 0
		}
	}
	if list[len(list)-1] < m.Rows {
		list = append(list, m.Rows)
	}
	return list
}

// Sparse packs the pixels of all images, then takes the rows of the matrix.
func (b *Backend) Sparse(s *kernels.Sparse) {
	m := &s.M.(*sparse).forward
	if s.Adjoint {
		m = &s.M.(*sparse).adjoint
	}
	const band = 1 << 13 // pixels
	n, c := s.Src.N, s.Src.C
	packed := b.grow(&b.shared, m.Cols*((n*c+3)/4*4))
	b.each((m.Cols+band-1)/band, 0, func(t int, _ []float32) {
		C.call_sparse_pack(b.lv, cfloats(s.Src), ptr(packed), C.int(n), C.long(m.Cols), C.int(c), C.long(t*band), C.long(min((t+1)*band, m.Cols)))
	})
	sums := b.sums(s.Products, s.Dst, len(m.tasks)-1)
	b.each(len(m.tasks)-1, 0, func(t int, _ []float32) {
		C.call_sparse(b.lv, ints(m.Start), ints(m.Col), ptr(m.W), ptr(packed), cfloats(s.Dst), C.int(n), C.int(m.Rows), C.int(c),
			C.int(m.tasks[t]), C.int(m.tasks[t+1]), C.float(s.Alpha), cfloats(s.Add), C.float(s.Beta))
		for n := range n {
			sums.take(n, t, m.tasks[t]*c, m.tasks[t+1]*c)
		}
	})
	sums.join()
}
