package ref

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
)

type sparse struct{ forward, adjoint kernels.SparseMatrix }

func (s *sparse) Shape() (rows, cols int) { return s.forward.Rows, s.forward.Cols }
func (s *sparse) Free()                   { *s = sparse{} }

// PrepareSparse keeps a copy of m and its transpose.
func (*Backend) PrepareSparse(m kernels.SparseMatrix) (kernels.PreparedSparse, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("ref: %w", err)
	}
	m.Start, m.Col, m.W = append([]int32(nil), m.Start...), append([]int32(nil), m.Col...), append([]float32(nil), m.W...)
	return &sparse{m, m.Transposed()}, nil
}

// Sparse implements kernels.Image.
func (*Backend) Sparse(s *kernels.Sparse) {
	m := s.M.(*sparse).forward
	if s.Adjoint {
		m = s.M.(*sparse).adjoint
	}
	dst, src, add, c := floats(s.Dst), floats(s.Src), floats(s.Add), s.Dst.C
	each(s.Dst.N*m.Rows, func(row int) {
		n, i := row/m.Rows, row%m.Rows
		for ch := range c {
			var sum float64
			for k := m.Start[i]; k < m.Start[i+1]; k++ {
				sum += float64(m.W[k]) * float64(src[(n*m.Cols+int(m.Col[k]))*c+ch])
			}
			sum *= float64(s.Alpha)
			if s.Add.Present() {
				sum += float64(s.Beta) * float64(add[row*c+ch])
			}
			dst[row*c+ch] = float32(sum)
		}
	})
	products(s.Dst, s.Products)
}

// Pointwise implements kernels.Image.
func (*Backend) Pointwise(p *kernels.Pointwise) {
	dst, a, b := floats(p.Dst), floats(p.A), floats(p.B)
	lo, hi := float64(p.P), float64(p.Q)
	c := p.Dst.C
	if _, pairs, _ := p.Op.Operands(); pairs {
		c /= 2 // complex numbers of a pixel
	}
	each(p.Dst.N*p.Dst.H, func(row int) {
		n, y := row/p.Dst.H, row%p.Dst.H
		for x := range p.Dst.W {
			for ch := range c {
				i := (row*p.Dst.W+x)*c + ch
				var v float64
				if p.B.Present() {
					v = float64(b[repeated(p.B, n, y, x, ch)])
				}
				switch p.Op {
				case kernels.PointMul:
					dst[i] = float32(float64(a[i]) * v)
				case kernels.PointClip:
					dst[i] = float32(limit(float64(a[i]), lo, hi))
				case kernels.PointRound:
					dst[i] = float32(hi + lo*math.RoundToEven((float64(a[i])-hi)/lo))
				case kernels.PointPower:
					dst[i] = float32(math.Pow(limit(float64(a[i]), lo, math.Inf(1)), hi))
				case kernels.PointWithin:
					within := float32(0)
					if float64(a[i]) >= lo && float64(a[i]) <= hi {
						within = 1
					}
					dst[i] = within
				case kernels.PointSaturate:
					r := float64(a[i]) - v
					if v >= hi {
						r = limit(r, math.Inf(-1), 0)
					}
					if v <= lo {
						r = limit(r, 0, math.Inf(1))
					}
					dst[i] = float32(r)
				case kernels.PointComplex:
					dst[2*i], dst[2*i+1] = a[i], float32(v)
				case kernels.PointReal:
					dst[i] = a[2*i]
				case kernels.PointAbs:
					dst[i] = float32(math.Hypot(float64(a[2*i]), float64(a[2*i+1])))
				case kernels.PointPhase:
					re, im := float64(a[2*i]), float64(a[2*i+1])
					s := v / max(math.Hypot(re, im), lo)
					dst[2*i], dst[2*i+1] = float32(s*re), float32(s*im)
				}
			}
		}
	})
}

// limit leaves NaN as it is.
func limit(v, lo, hi float64) float64 {
	switch {
	case v < lo:
		return lo
	case v > hi:
		return hi
	}
	return v
}
