//go:build cuda && cgo && linux && amd64

package cuda

// #include "args.h"
import "C"

import (
	"fmt"

	"github.com/spin-native/spin/kernels"
)

// sparse is a matrix and its transpose.
type sparse struct {
	b                *Backend
	forward, adjoint rows
	pieces           []device // of memory
}

type rows struct {
	rows, cols, lanes  int // lanes: threads of a row
	start, col, weight device
}

func (s *sparse) Shape() (rows, cols int) { return s.forward.rows, s.forward.cols }

// Free implements kernels.PreparedSparse.
func (s *sparse) Free() {
	s.b.moves++
	for _, p := range s.pieces {
		s.b.later(func() error { return s.b.release(p) })
	}
	s.forward, s.adjoint, s.pieces = rows{}, rows{}, nil
}

// PrepareSparse keeps the matrix and its transpose.
func (b *Backend) PrepareSparse(m kernels.SparseMatrix) (kernels.PreparedSparse, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	s := &sparse{b: b}
	var arrays []array
	for to, m := range map[*rows]kernels.SparseMatrix{&s.forward: m, &s.adjoint: m.Transposed()} {
		*to = rows{rows: m.Rows, cols: m.Cols, lanes: 1}
		for to.lanes < 32 && 4*to.lanes*m.Rows <= len(m.W) { // some weights are left for each of them
			to.lanes *= 2
		}
		arrays = append(arrays, arrayOf(m.Start, &to.start), arrayOf(m.Col, &to.col), arrayOf(m.W, &to.weight))
	}
	var err error
	if s.pieces, err = b.keep(arrays...); err != nil {
		return nil, err
	}
	return s, nil
}

// Sparse implements kernels.Image.
func (b *Backend) Sparse(s *kernels.Sparse) {
	m := s.M.(*sparse).forward
	if s.Adjoint {
		m = s.M.(*sparse).adjoint
	}
	over(b, "sparse_f32", s.Dst.N, m.rows*m.lanes, s.Products, func(e C.elements_args) C.sparse_args {
		return C.sparse_args{
			e: e, dst: at(s.Dst), src: at(s.Src), add: at(s.Add), weight: C.ulonglong(m.weight), start: C.ulonglong(m.start), col: C.ulonglong(m.col),
			rows: C.int(m.rows), cols: C.int(m.cols), c: C.int(s.Dst.C), lanes: C.int(m.lanes),
			alpha: C.float(s.Alpha), beta: C.float(s.Beta),
		}
	})
}

// Pointwise implements kernels.Image.
func (b *Backend) Pointwise(p *kernels.Pointwise) {
	numbers := p.Dst
	if _, pairs, _ := p.Op.Operands(); pairs {
		numbers.C /= 2
	}
	each(b, "pointwise_f32", numbers.Len(), C.pointwise_args{
		dst: at(p.Dst), a: at(p.A), b: at(p.B), count: C.longlong(numbers.Len()), image: C.longlong(numbers.Len() / numbers.N),
		c: C.int(numbers.C), op: C.int(p.Op), b_n: C.int(p.B.N), b_c: C.int(p.B.C), p: C.float(p.P), q: C.float(p.Q),
	})
}
