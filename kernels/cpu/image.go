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

// alone is the number of elements up to which one thread is done before another would have woken.
const alone = 1 << 18

// elements runs f over [i0, i1) of every image of v.
func (b *Backend) elements(v kernels.View, f func(n, i0, i1 int)) {
	per := v.Pixels() * v.C
	chunks := (per + chunk - 1) / chunk
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
	b.elements(k.Dst, func(n, i0, i1 int) { C.call_blend(b.lv, &args[n], C.long(i0), C.long(i1)) })
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
	per := x.Pixels() * x.C
	chunks := (per + chunk - 1) / chunk
	part := make([]float64, x.N*chunks)
	b.elements(x, func(n, i0, i1 int) {
		p, q := floats(x.Image(n))[i0:i1], floats(y.Image(n))[i0:i1]
		part[n*chunks+i0/chunk] = float64(C.call_dot(b.lv, ptr(p), ptr(q), C.long(i1-i0)))
	})
	out := floats(dst)
	for n := range out {
		var sum float64
		for _, s := range part[n*chunks:][:chunks] {
			sum += s
		}
		out[n] = float32(sum)
	}
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
	})
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
	finish := func(n, y int, row []float32) {
		dst, add := floats(a.Dst.Image(n))[y*w*c:], (*C.float)(nil)
		if a.Add.Present() {
			add = ptr(floats(a.Add.Image(n))[y*w*c:])
		}
		C.call_finish(b.lv, ptr(dst), ptr(row), C.int(w), C.int(c), nil, nil, 0, C.float(a.Alpha), add, C.float(a.Beta))
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
	return !s.Loss.Present() || !(floats(s.Loss)[n] <= s.Limit)
}

func (b *Backend) Accelerate(a *kernels.Accelerate) {
	b.elements(a.X, func(n, i0, i1 int) {
		if moving(a.Stop, n) {
			at := func(v kernels.View) *C.float { return ptr(floats(v.Image(n))[i0:]) }
			C.call_accelerate(b.lv, at(a.X), at(a.Z), at(a.Grad), at(a.X0), C.long(i1-i0), C.float(a.Step), C.float(a.Rho), C.float(a.Momentum))
		}
	})
}

func (b *Backend) Adam(a *kernels.Adam) {
	c1, c2 := 1/(1-math.Pow(0.9, float64(a.T))), 1/(1-math.Pow(0.999, float64(a.T)))
	b.elements(a.X, func(n, i0, i1 int) {
		if moving(a.Stop, n) {
			at := func(v kernels.View) *C.float { return ptr(floats(v.Image(n))[i0:]) }
			C.call_adam(b.lv, at(a.X), at(a.M), at(a.V), at(a.Grad), at(a.X0), C.long(i1-i0), C.float(a.Rate), C.float(a.Rho), C.float(c1), C.float(c2))
		}
	})
}
