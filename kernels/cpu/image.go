//go:build cgo

package cpu

// #include "call.h"
import "C"

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/spin-native/spin/kernels"
)

// chunk is the number of elements of one task of an elementwise operation, and of one partial sum.
const chunk = 1 << 14

// chunks is how many of them an image is.
func chunks(v kernels.View) int { return (v.Pixels()*v.C + chunk - 1) / chunk }

// alone is the number of elements up to which one thread is done before another would have woken.
const alone = 1 << 18

// elements runs f over [i0, i1) of every image of v.
func (b *Backend) elements(v kernels.View, f func(n, i0, i1 int)) {
	per, chunks := v.Pixels()*v.C, chunks(v)
	if v.N*per <= alone {
		if !b.planning() {
			for t := range v.N * chunks {
				f(t/chunks, t%chunks*chunk, min((t%chunks+1)*chunk, per))
			}
		}
		return
	}
	b.each(v.N*chunks, 0, func(t int, _ []float32) {
		i0 := t % chunks * chunk
		f(t/chunks, i0, min(i0+chunk, per))
	})
}

// of is image n of a view that may have only one.
func of(v kernels.View, n int) kernels.View {
	if !v.Present() {
		return v
	}
	return v.Image(min(n, v.N-1))
}

func (b *Backend) Blend(k *kernels.Blend) {
	if b.planning() {
		return
	}
	args := make([]C.blend_args, k.Dst.N)
	for n := range args {
		a := &args[n]
		*a = C.blend_args{
			dst: cfloats(k.Dst.Image(n)), mask: cfloats(of(k.Mask, n)), other: cfloats(of(k.Else, n)),
			terms: C.int(len(k.Terms)), channels: C.int(k.Dst.C), clip: flag(k.Clip), mask1: flag(k.Mask.C != k.Dst.C),
		}
		for i, t := range k.Terms {
			c := t.C
			if t.Den.Present() {
				if den := floats(t.Den)[n]; den == 0 {
					c = 0
				} else {
					c *= floats(t.Num)[n] / den
				}
			}
			a.x[i], a.c[i], a.xc1[i] = cfloats(of(t.X, n)), C.float(c), flag(t.X.C != k.Dst.C)
		}
	}
	sums := b.sums(k.Products, k.Dst, chunks(k.Dst))
	b.elements(k.Dst, func(n, i0, i1 int) {
		C.call_blend(b.lv, &args[n], C.long(i0), C.long(i1))
		sums.take(n, i0/chunk, i0, i1)
	})
	sums.join()
}

// sums gathers products of a result, part by part while the caches still hold it. A nil one gathers nothing.
type sums struct {
	b     *Backend
	p     kernels.Products
	dst   kernels.View
	parts int       // of an image
	part  []float64 // [N][parts][sums]
}

func (b *Backend) sums(p kernels.Products, dst kernels.View, parts int) *sums {
	if b.planning() || !p.Sums.Present() {
		return nil
	}
	return &sums{b, p, dst, parts, make([]float64, dst.N*parts*p.Sums.C)}
}

// take adds elements [i0, i1) of image n, which are its part of this number.
func (s *sums) take(n, part, i0, i1 int) {
	if s == nil {
		return
	}
	to := s.part[(n*s.parts+part)*s.p.Sums.C:][:s.p.Sums.C]
	of := floats(s.p.Of.Image(n))[i0:i1]
	for k, v := range [3]kernels.View{s.dst, s.p.With[0], s.p.With[1]} {
		if k < len(to) {
			to[k] = s.b.dot(of, floats(v.Image(n))[i0:i1])
		}
	}
}

// join adds the parts in their order.
func (s *sums) join() {
	if s == nil {
		return
	}
	out, count := floats(s.p.Sums), s.p.Sums.C
	for i := range out {
		var sum float64
		for part := range s.parts {
			sum += s.part[(i/count*s.parts+part)*count+i%count]
		}
		out[i] = float32(sum)
	}
}

func (b *Backend) dot(x, y []float32) float64 {
	return float64(C.call_dot(b.lv, ptr(x), ptr(y), C.long(len(x))))
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Dot adds partial sums of fixed chunks in order.
func (b *Backend) Dot(dst, x, y kernels.View) {
	if b.planning() {
		return
	}
	sums := b.sums(kernels.Products{Sums: dst, Of: y}, x, chunks(x))
	b.elements(x, func(n, i0, i1 int) { sums.take(n, i0/chunk, i0, i1) })
	sums.join()
}

// matrix holds the rows' weights end to end.
type matrix struct {
	rows, cols           int
	first, count, offset []int32
	w                    []float32
}

func (m *matrix) Shape() (rows, cols int) { return m.rows, m.cols }

// PrepareMatrix flattens the rows.
func (b *Backend) PrepareMatrix(m kernels.Matrix) (kernels.PreparedMatrix, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	p := &matrix{rows: m.Rows, cols: m.Cols}
	for i, w := range m.W {
		p.first = append(p.first, int32(m.First[i]))
		p.count = append(p.count, int32(len(w)))
		p.offset = append(p.offset, int32(len(p.w)))
		p.w = append(p.w, w...)
	}
	return p, nil
}

func ints(s []int32) *C.int { return (*C.int)(unsafe.Pointer(unsafe.SliceData(s))) }

// Separable makes, per task, some rows of H Src, multiplies them by W^T, and finishes them.
func (b *Backend) Separable(a *kernels.Separable) {
	rows := int(b.lv.lanes)
	h, w := a.H.(*matrix), a.W.(*matrix)
	in, out := a.Src.W*a.Src.C, a.Dst.W*a.Dst.C
	bands := (h.rows + rows - 1) / rows
	colSpectrum := cfloats(a.ColSpectrum)
	sums := b.sums(a.Products, a.Dst, bands)
	b.each(a.Dst.N*bands, 2*rows*(in+out), func(t int, scratch []float32) {
		n, y0 := t/bands, t%bands*rows
		y1 := min(y0+rows, h.rows)
		src, dst, add := floats(a.Src.Image(n)), floats(a.Dst.Image(n)), floats(of(a.Add, n))
		mid, res, turn := scratch[:rows*in], scratch[rows*in:][:rows*out], scratch[rows*(in+out):]
		lines := make([]*C.float, 0, 64)
		for y := y0; y < y1; y++ {
			lines = lines[:0]
			for j := range int(h.count[y]) {
				lines = append(lines, ptr(src[(int(h.first[y])+j)*in:]))
			}
			C.call_axpys(b.lv, ptr(mid[(y-y0)*in:]), unsafe.SliceData(lines), ptr(h.w[h.offset[y]:]), C.int(h.count[y]), C.long(in))
		}
		C.call_horizontal(b.lv, ptr(mid), ptr(res), C.int(y1-y0), C.int(a.Src.W), C.int(w.rows), C.int(a.Src.C),
			ints(w.first), ints(w.count), ints(w.offset), ptr(w.w), ptr(turn))
		for y := y0; y < y1; y++ {
			var row, more *C.float
			if a.RowSpectrum.Present() {
				row = ptr(floats(a.RowSpectrum)[y:])
			}
			if add != nil {
				more = ptr(add[y*out:])
			}
			C.call_finish(b.lv, ptr(dst[y*out:]), ptr(res[(y-y0)*out:]), C.int(a.Dst.W), C.int(a.Dst.C), row, colSpectrum,
				C.float(a.Rho), C.float(a.Alpha), more, C.float(a.Beta))
		}
		sums.take(n, t%bands, y0*out, y1*out)
	})
	sums.join()
}

// filter keeps the taps that are not zero, for the correlation and for its transpose.
type filter struct {
	h, w           int
	dy, dx         []int32
	flipDy, flipDx []int32
	k              []float32
	circle, torus  *circle // for images of the last size that called for one
}

func (f *filter) Size() (h, w int) { return f.h, f.w }

// PrepareFilter lists the taps.
func (b *Backend) PrepareFilter(w kernels.FilterWeights) (kernels.PreparedFilter, error) {
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	f := &filter{h: w.H, w: w.W}
	for i, k := range w.K {
		if k != 0 {
			y, x := int32(i/w.W), int32(i%w.W)
			f.dy, f.dx, f.k = append(f.dy, y), append(f.dx, x), append(f.k, k)
			f.flipDy, f.flipDx = append(f.flipDy, int32(w.H-1)-y), append(f.flipDx, int32(w.W-1)-x)
		}
	}
	return f, nil
}

// mirror is the index that i stands for when the borders are mirrored without repeating the edge.
func mirror(i, n int) int {
	if n == 1 {
		return 0
	}
	i %= 2 * (n - 1)
	if i < 0 {
		i += 2 * (n - 1)
	}
	return min(i, 2*(n-1)-i)
}

// spectral decides by cost: the sum over the taps is one multiplication for each, the transforms have been measured to cost
// as much as 40 for every number of their planes. On pictures that are large beside the kernel that is from 7x7 to 9x9.
func (f *filter) spectral(h, w, c int) bool {
	return len(f.k)*h*w*c > 40*(h+f.h-1)*(w+f.w-1)*(c+c%2)
}

// Filter correlates a mirrored frame, or, for the adjoint, correlates a zero-padded frame with the flipped kernel and
// folds the margin back onto the pixels that it mirrors.
func (b *Backend) Filter(a *kernels.Filter) {
	f := a.Kernel.(*filter)
	h, w, c := a.Src.H, a.Src.W, a.Src.C
	if f.spectral(h, w, c) {
		b.convolve(a)
		return
	}
	py, px := f.h/2, f.w/2
	if a.Adjoint {
		py, px = f.h-1, f.w-1
	}
	fh, fw := h+2*py, w+2*px // the padded source
	oh, ow := fh-f.h+1, fw-f.w+1
	frame := b.grow(&b.shared, (fh*fw+oh*ow)*c)
	out := frame[fh*fw*c:]
	dy, dx := f.dy, f.dx
	if a.Adjoint {
		dy, dx = f.flipDy, f.flipDx
	}
	sums := b.sums(a.Products, a.Dst, h)
	defer sums.join()
	finish := func(n, y int, row []float32) {
		dst, add := floats(a.Dst.Image(n))[y*w*c:], (*C.float)(nil)
		if a.Add.Present() {
			add = ptr(floats(a.Add.Image(n))[y*w*c:])
		}
		C.call_finish(b.lv, ptr(dst), ptr(row), C.int(w), C.int(c), nil, nil, 0, C.float(a.Alpha), add, C.float(a.Beta))
		sums.take(n, y, y*w*c, (y+1)*w*c)
	}
	for n := range a.Src.N {
		src := floats(a.Src.Image(n))
		b.each(fh, 0, func(y int, _ []float32) {
			row, sy := frame[y*fw*c:][:fw*c], y-py
			if a.Adjoint && (sy < 0 || sy >= h) {
				clear(row)
				return
			}
			line := src[mirror(sy, h)*w*c:][:w*c]
			copy(row[px*c:], line)
			for x := range px {
				for i := range c {
					if a.Adjoint {
						row[x*c+i], row[(px+w+x)*c+i] = 0, 0
					} else {
						row[x*c+i], row[(px+w+x)*c+i] = line[mirror(x-px, w)*c+i], line[mirror(w+x, w)*c+i]
					}
				}
			}
		})
		b.each(oh, 0, func(y int, _ []float32) {
			row := out[y*ow*c:][:ow*c]
			C.call_filter_row(b.lv, ptr(row), ptr(frame[y*fw*c:]), C.long(fw*c), C.long(ow*c), ints(dy), ints(dx), ptr(f.k), C.int(len(f.k)), C.int(c))
			if !a.Adjoint {
				finish(n, y, row)
			}
		})
		if !a.Adjoint {
			continue
		}
		lines := make([][]int, h) // the frame rows that fold onto each row
		for y := range oh {
			m := mirror(y-f.h/2, h)
			lines[m] = append(lines[m], y)
		}
		b.each(h, w*c, func(y int, scratch []float32) {
			row := scratch[:w*c]
			clear(row)
			for _, l := range lines[y] {
				for x := range ow {
					m := mirror(x-f.w/2, w) * c
					for i := range c {
						row[m+i] += out[(l*ow+x)*c+i]
					}
				}
			}
			finish(n, y, row)
		})
	}
}

// moving reports whether image n takes part in a step.
func moving(s kernels.Stop, n int) bool {
	if !s.Loss.Present() {
		return true
	}
	limit := s.Limit
	if s.Count.Present() {
		limit *= floats(s.Count)[n]
	}
	return !(floats(s.Loss)[n] <= limit)
}

// Conjugate implements kernels.Image.
func (b *Backend) Conjugate(k *kernels.Conjugate) {
	if b.planning() {
		return
	}
	alpha, beta := make([]float64, k.X.N), make([]float64, k.X.N)
	for n := range alpha {
		before := []float32(nil)
		if k.Before.Present() {
			before = floats(k.Before.Image(n))
		}
		alpha[n], beta[n] = kernels.Quotients(floats(k.Sums.Image(n)), before, floats(k.After.Image(n)))
	}
	b.elements(k.X, func(n, i0, i1 int) {
		at := func(v kernels.View) *C.float { return ptr(floats(v.Image(n))[i0:]) }
		C.call_conjugate(b.lv, at(k.X), at(k.R), at(k.P), at(k.S), at(k.Z), at(k.W), C.long(i1-i0), C.float(alpha[n]), C.float(beta[n]), flag(!k.Before.Present()))
	})
}

// step runs a step of an optimiser over the elements of the images that move. f gets the gradient that was given, or the local
// data term, and tells the loss of its elements.
func (b *Backend) step(x, grad kernels.View, s kernels.Stop, l kernels.Local, f func(n, i0, i1 int, grad *C.float, local *C.local_args) float64) {
	chunks := chunks(x)
	var loss []float64
	var locals []C.local_args
	if l.Y.Present() && !b.planning() {
		loss, locals = make([]float64, x.N*chunks), make([]C.local_args, x.N)
		for n := range locals {
			locals[n] = C.local_args{
				y: cfloats(l.Y.Image(n)), mask: cfloats(of(l.Mask, n)), mask1: flag(l.Mask.C != x.C), channels: C.int(x.C),
				gain: C.float(l.Gain), low: C.float(l.Low), high: C.float(l.High), loss: flag(l.Loss.Present()),
			}
		}
	}
	b.elements(x, func(n, i0, i1 int) {
		switch {
		case !moving(s, n):
		case locals != nil:
			loss[n*chunks+i0/chunk] = f(n, i0, i1, nil, &locals[n])
		default:
			f(n, i0, i1, cfloats(grad.Image(n)), nil)
		}
	})
	if locals == nil || !l.Loss.Present() {
		return
	}
	out := floats(l.Loss)
	for n := range out {
		if !moving(s, n) {
			continue
		}
		var sum float64
		for _, v := range loss[n*chunks:][:chunks] {
			sum += v
		}
		out[n] = float32(sum)
	}
}

// Accelerate implements kernels.Image.
func (b *Backend) Accelerate(a *kernels.Accelerate) {
	b.step(a.X, a.Grad, a.Stop, a.Local, func(n, i0, i1 int, grad *C.float, local *C.local_args) float64 {
		return float64(C.call_accelerate(b.lv, cfloats(a.X.Image(n)), cfloats(a.Z.Image(n)), grad, cfloats(a.X0.Image(n)), C.long(i0), C.long(i1),
			C.float(a.Step), C.float(a.Rho), C.float(a.Momentum), local))
	})
}

// Adam implements kernels.Image.
func (b *Backend) Adam(a *kernels.Adam) {
	c1, c2 := 1/(1-math.Pow(0.9, float64(a.T))), 1/(1-math.Pow(0.999, float64(a.T)))
	b.step(a.X, a.Grad, a.Stop, a.Local, func(n, i0, i1 int, grad *C.float, local *C.local_args) float64 {
		return float64(C.call_adam(b.lv, cfloats(a.X.Image(n)), cfloats(a.M.Image(n)), cfloats(a.V.Image(n)), grad, cfloats(a.X0.Image(n)), C.long(i0), C.long(i1),
			C.float(a.Rate), C.float(a.Rho), C.float(c1), C.float(c2), local))
	})
}
