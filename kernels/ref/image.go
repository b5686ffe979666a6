package ref

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
)

type matrix struct{ kernels.Matrix }

func (m *matrix) Shape() (rows, cols int) { return m.Rows, m.Cols }

// PrepareMatrix keeps a copy of m.
func (*Backend) PrepareMatrix(m kernels.Matrix) (kernels.PreparedMatrix, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("ref: %w", err)
	}
	p := &matrix{kernels.Matrix{Rows: m.Rows, Cols: m.Cols, First: append([]int(nil), m.First...)}}
	for _, w := range m.W {
		p.W = append(p.W, append([]float32(nil), w...))
	}
	return p, nil
}

type filter struct{ kernels.FilterWeights }

func (f *filter) Size() (h, w int) { return f.H, f.W }

// PrepareFilter keeps a copy of f.
func (*Backend) PrepareFilter(f kernels.FilterWeights) (kernels.PreparedFilter, error) {
	if err := f.Check(); err != nil {
		return nil, fmt.Errorf("ref: %w", err)
	}
	f.K = append([]float32(nil), f.K...)
	return &filter{f}, nil
}

// Blend implements kernels.Image.
func (*Backend) Blend(b *kernels.Blend) {
	dst, mask, other := floats(b.Dst), floats(b.Mask), floats(b.Else)
	terms := make([][]float32, len(b.Terms))
	factor := make([][]float64, len(b.Terms)) // C * Num/Den, per image
	for i, t := range b.Terms {
		terms[i] = floats(t.X)
		factor[i] = factors(t, b.Dst.N)
	}
	c := b.Dst.C
	each(b.Dst.N*b.Dst.H, func(row int) {
		n, y := row/b.Dst.H, row%b.Dst.H
		for x := range b.Dst.W {
			for ch := range c {
				i := (row*b.Dst.W+x)*c + ch
				if b.Mask.Present() && mask[repeated(b.Mask, n, y, x, ch)] == 0 {
					if b.Else.Present() {
						dst[i] = other[i] // which may be dst itself
					} else {
						dst[i] = 0
					}
					continue
				}
				var sum float64
				for k, t := range b.Terms {
					sum += factor[k][n] * float64(terms[k][repeated(t.X, n, y, x, ch)])
				}
				dst[i] = float32(clip(sum, b.Clip))
			}
		}
	})
	products(b.Dst, b.Products)
}

// products takes them of a finished result.
func products(dst kernels.View, p kernels.Products) {
	if !p.Sums.Present() {
		return
	}
	sums := floats(p.Sums)
	for k, v := range append([]kernels.View{dst}, p.With[:]...)[:p.Sums.C] {
		each(dst.N, func(n int) { sums[n*p.Sums.C+k] = dot(p.Of.Image(n), v.Image(n)) })
	}
}

func dot(a, b kernels.View) float32 {
	x, y := floats(a), floats(b)
	var sum float64
	for i := range x {
		sum += float64(x[i]) * float64(y[i])
	}
	return float32(sum)
}

// Conjugate implements kernels.Image.
func (*Backend) Conjugate(k *kernels.Conjugate) {
	each(k.X.N, func(n int) {
		sums, after, before := floats(k.Sums.Image(n)), floats(k.After.Image(n)), []float32(nil)
		if k.Before.Present() {
			before = floats(k.Before.Image(n))
		}
		alpha, beta := kernels.Quotients(sums, before, after)
		x, r, p, s := floats(k.X.Image(n)), floats(k.R.Image(n)), floats(k.P.Image(n)), floats(k.S.Image(n))
		z, w := floats(k.Z.Image(n)), floats(k.W.Image(n))
		for i := range x {
			pi, si := float64(z[i]), float64(w[i])
			if before != nil {
				pi += beta * float64(p[i])
				si += beta * float64(s[i])
			}
			p[i], s[i] = float32(pi), float32(si)
			x[i] += float32(alpha * pi)
			r[i] -= float32(alpha * si)
		}
	})
}

func factors(t kernels.Term, n int) []float64 {
	num, den := floats(t.Num), floats(t.Den)
	f := make([]float64, n)
	for i := range f {
		f[i] = float64(t.C)
		if num != nil && den[i] == 0 {
			f[i] = 0
		} else if num != nil {
			f[i] *= float64(num[i]) / float64(den[i])
		}
	}
	return f
}

// repeated is the index of an element in a view that may have one image or one channel only.
func repeated(v kernels.View, n, y, x, c int) int {
	if v.N == 1 {
		n = 0
	}
	if v.C == 1 {
		c = 0
	}
	return ((n*v.H+y)*v.W+x)*v.C + c
}

// clip leaves NaN as it is.
func clip(v float64, on bool) float64 {
	switch {
	case on && v > 1:
		return 1
	case on && v < -1:
		return -1
	}
	return v
}

// Dot implements kernels.Image.
func (*Backend) Dot(dst, a, b kernels.View) {
	each(a.N, func(n int) { floats(dst)[n] = dot(a.Image(n), b.Image(n)) })
}

// Separable implements kernels.Image.
func (*Backend) Separable(s *kernels.Separable) {
	dst, src, add := floats(s.Dst), floats(s.Src), floats(s.Add)
	rows, cols := floats(s.RowSpectrum), floats(s.ColSpectrum)
	h, w, c := s.H.(*matrix), s.W.(*matrix), s.Src.C
	each(s.Dst.N*s.Dst.H, func(row int) {
		n, i := row/s.Dst.H, row%s.Dst.H
		line := make([]float64, s.Src.W*c) // row i of H Src
		for k, weight := range h.W[i] {
			from := src[(n*s.Src.H+h.First[i]+k)*s.Src.W*c:]
			for j := range line {
				line[j] += float64(weight) * float64(from[j])
			}
		}
		for j := range s.Dst.W {
			for ch := range c {
				var u float64
				for k, weight := range w.W[j] {
					u += float64(weight) * line[(w.First[j]+k)*c+ch]
				}
				if s.RowSpectrum.Present() {
					u /= float64(rows[i])*float64(cols[j]) + float64(s.Rho)
				}
				at := (row*s.Dst.W+j)*c + ch
				u *= float64(s.Alpha)
				if s.Add.Present() {
					u += float64(s.Beta) * float64(add[at])
				}
				dst[at] = float32(u)
			}
		}
	})
	products(s.Dst, s.Products)
}

// mirror folds any index into [0,n) by reflection at the centres of the first and the last pixel.
func mirror(i, n int) int {
	if n == 1 {
		return 0
	}
	period := 2 * (n - 1)
	i = ((i % period) + period) % period
	return min(i, period-i)
}

// mirrored is a table of mirror(i-p, n) for i in [0,n+2p).
func mirrored(n, p int) []int {
	t := make([]int, n+2*p)
	for i := range t {
		t[i] = mirror(i-p, n)
	}
	return t
}

// Filter implements kernels.Image.
func (*Backend) Filter(f *kernels.Filter) {
	dst, add, k := floats(f.Dst), floats(f.Add), f.Kernel.(*filter)
	h, w, c := f.Dst.H, f.Dst.W, f.Dst.C
	each(f.Dst.N*c, func(plane int) {
		n, ch := plane/c, plane%c
		at := func(y, x int) int { return ((n*h+y)*w+x)*c + ch }
		sum := make([]float64, h*w)
		src := floats(f.Src)
		rows, cols := mirrored(h, k.H/2), mirrored(w, k.W/2)
		for ky := range k.H {
			for kx := range k.W {
				weight := float64(k.K[ky*k.W+kx])
				if weight == 0 {
					continue // most of a motion kernel
				}
				for y := range h {
					yy := rows[y+ky]
					for x := range w {
						xx := cols[x+kx]
						if f.Adjoint {
							sum[yy*w+xx] += weight * float64(src[at(y, x)])
						} else {
							sum[y*w+x] += weight * float64(src[at(yy, xx)])
						}
					}
				}
			}
		}
		for y := range h {
			for x := range w {
				v := float64(f.Alpha) * sum[y*w+x]
				if f.Add.Present() {
					v += float64(f.Beta) * float64(add[at(y, x)])
				}
				dst[at(y, x)] = float32(v)
			}
		}
	})
	products(f.Dst, f.Products)
}

// stopped reports whether image n is frozen.
func stopped(s kernels.Stop, n int) bool {
	if !s.Loss.Present() {
		return false
	}
	limit := s.Limit
	if s.Count.Present() {
		limit *= floats(s.Count)[n]
	}
	return floats(s.Loss)[n] <= limit
}

// local is the residual of a local data term at element i of image n.
func local(l kernels.Local, n, i int, x float64) float64 {
	if l.Mask.Present() {
		ch, pixel := i%l.Y.C, i/l.Y.C
		if floats(l.Mask)[repeated(l.Mask, n, pixel/l.Y.W, pixel%l.Y.W, ch)] == 0 {
			return 0
		}
	}
	y := float64(floats(l.Y.Image(n))[i])
	r := float64(l.Gain)*x - y
	if y >= float64(l.High) {
		r = limit(r, math.Inf(-1), 0)
	}
	if y <= float64(l.Low) {
		r = limit(r, 0, math.Inf(1))
	}
	return r
}

// slope is the gradient of the data term at element i of image n: what is given, or that of the local term.
func slope(grad kernels.View, l kernels.Local, n, i int, x float64) float64 {
	if grad.Present() {
		return float64(floats(grad.Image(n))[i])
	}
	return float64(l.Gain) * local(l, n, i, x)
}

// settle writes the loss of image n after a step.
func settle(l kernels.Local, n int, x []float32) {
	if !l.Y.Present() || !l.Loss.Present() {
		return
	}
	var sum float64
	for i, v := range x {
		r := local(l, n, i, float64(v))
		sum += r * r
	}
	floats(l.Loss)[n] = float32(sum)
}

// Accelerate implements kernels.Image.
func (*Backend) Accelerate(a *kernels.Accelerate) {
	each(a.X.N, func(n int) {
		if stopped(a.Stop, n) {
			return
		}
		x, z, x0 := floats(a.X.Image(n)), floats(a.Z.Image(n)), floats(a.X0.Image(n))
		for i := range x {
			zi := float64(z[i])
			xn := zi - float64(a.Step)*(slope(a.Grad, a.Local, n, i, zi)+float64(a.Rho)*(zi-float64(x0[i])))
			z[i] = float32(xn + float64(a.Momentum)*(xn-float64(x[i])))
			x[i] = float32(xn)
		}
		settle(a.Local, n, x)
	})
}

// Adam implements kernels.Image.
func (*Backend) Adam(a *kernels.Adam) {
	const beta1, beta2, eps = 0.9, 0.999, 1e-8
	bias1, bias2 := 1-math.Pow(beta1, float64(a.T)), 1-math.Pow(beta2, float64(a.T))
	each(a.X.N, func(n int) {
		if stopped(a.Stop, n) {
			return
		}
		x, m, v := floats(a.X.Image(n)), floats(a.M.Image(n)), floats(a.V.Image(n))
		x0 := floats(a.X0.Image(n))
		for i := range x {
			g := slope(a.Grad, a.Local, n, i, float64(x[i])) + float64(a.Rho)*(float64(x[i])-float64(x0[i]))
			mi := beta1*float64(m[i]) + (1-beta1)*g
			vi := beta2*float64(v[i]) + (1-beta2)*g*g
			m[i], v[i] = float32(mi), float32(vi)
			x[i] -= float32(float64(a.Rate) * (mi / bias1) / (math.Sqrt(vi/bias2) + eps))
		}
		settle(a.Local, n, x)
	})
}
