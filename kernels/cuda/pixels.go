//go:build cuda && cgo && linux && amd64

package cuda

// #include "args.h"
import "C"

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
)

type matrix struct {
	rows, cols           int
	first, start, weight device // see band_args
}

func (m *matrix) Shape() (rows, cols int) { return m.rows, m.cols }

// PrepareMatrix joins the rows.
func (b *Backend) PrepareMatrix(m kernels.Matrix) (kernels.PreparedMatrix, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	p := &matrix{rows: m.Rows, cols: m.Cols}
	var first, start []int32
	var weight []float32
	for i, w := range m.W {
		first, start = append(first, int32(m.First[i])), append(start, int32(len(weight)))
		weight = append(weight, w...)
	}
	start = append(start, int32(len(weight)))
	var err error
	if p.first, err = keep(b, first); err != nil {
		return nil, err
	}
	if p.start, err = keep(b, start); err != nil {
		return nil, err
	}
	if p.weight, err = keep(b, weight); err != nil {
		return nil, err
	}
	return p, nil
}

func (m *matrix) args() C.band_args {
	return C.band_args{first: C.ulonglong(m.first), start: C.ulonglong(m.start), weight: C.ulonglong(m.weight), rows: C.int(m.rows), cols: C.int(m.cols)}
}

// Separable takes the rows of the image, then the columns.
func (b *Backend) Separable(s *kernels.Separable) {
	h, w, line := s.H.(*matrix), s.W.(*matrix), s.Src.W*s.Src.C
	between := C.ulonglong(b.shared(4 * s.Src.N * h.rows * line))
	b.bands(between, at(s.Src), h, s.Src.N, line)
	b.finish(at(s.Dst), between, h, w, s.Src.N, s.Src.C, C.band_args{
		row_spectrum: at(s.RowSpectrum), col_spectrum: at(s.ColSpectrum), rho: C.float(s.Rho),
		alpha: C.float(s.Alpha), add: at(s.Add), beta: C.float(s.Beta),
	})
}

// bands is the first pass of a separable map: dst = m src for images of rows of so many floats.
func (b *Backend) bands(dst, src C.device_floats, m *matrix, images, line int) {
	a, n := m.args(), images*m.rows*line
	a.dst, a.src, a.count, a.inner = dst, src, C.longlong(n), C.longlong(line)
	each(b, "band_rows", n, a)
}

// finish is the second pass: dst = src w^T for images of h.rows rows, and what follows says of it.
func (b *Backend) finish(dst, src C.device_floats, h, w *matrix, images, c int, follows C.band_args) {
	a, n := w.args(), images*h.rows*w.rows*c
	a.dst, a.src, a.count, a.inner, a.h, a.w, a.c = dst, src, C.longlong(n), C.longlong(c), C.int(h.rows), C.int(w.rows), C.int(c)
	a.row_spectrum, a.col_spectrum, a.rho = follows.row_spectrum, follows.col_spectrum, follows.rho
	a.alpha, a.add, a.beta = follows.alpha, follows.add, follows.beta
	each(b, "band_cols", n, a)
}

type filter struct {
	h, w, taps     int
	dy, dx, weight device // of the taps that are not zero
	power          device // the squared spectrum for images of one size, that of the last Deconvolve
	on             [2]int // which size that is
}

func (f *filter) Size() (h, w int) { return f.h, f.w }

// PrepareFilter lists the taps, most of which are zero in a motion kernel.
func (b *Backend) PrepareFilter(k kernels.FilterWeights) (kernels.PreparedFilter, error) {
	if err := k.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	f := &filter{h: k.H, w: k.W}
	var dy, dx []int32
	var weight []float32
	for i, v := range k.K {
		if v != 0 {
			dy, dx, weight = append(dy, int32(i/k.W-k.H/2)), append(dx, int32(i%k.W-k.W/2)), append(weight, v)
		}
	}
	f.taps = len(weight)
	var err error
	if f.dy, err = keep(b, dy); err != nil {
		return nil, err
	}
	if f.dx, err = keep(b, dx); err != nil {
		return nil, err
	}
	if f.weight, err = keep(b, weight); err != nil {
		return nil, err
	}
	return f, nil
}

// Filter implements kernels.Image.
func (b *Backend) Filter(a *kernels.Filter) {
	f, name := a.Kernel.(*filter), "filter_f32"
	if a.Adjoint {
		name = "filter_adjoint_f32"
	}
	each(b, name, a.Dst.Len(), C.filter_args{
		dst: at(a.Dst), src: at(a.Src), add: at(a.Add), weight: C.ulonglong(f.weight), dy: C.ulonglong(f.dy), dx: C.ulonglong(f.dx),
		count: C.longlong(a.Dst.Len()), h: C.int(a.Dst.H), w: C.int(a.Dst.W), c: C.int(a.Dst.C), taps: C.int(f.taps),
		alpha: C.float(a.Alpha), beta: C.float(a.Beta),
	})
}

// Blend implements kernels.Image.
func (b *Backend) Blend(k *kernels.Blend) {
	a := C.blend_args{
		dst: at(k.Dst), mask: at(k.Mask), other: at(k.Else), count: C.longlong(k.Dst.Len()), image: C.longlong(k.Dst.Len() / k.Dst.N),
		c: C.int(k.Dst.C), terms: C.int(len(k.Terms)), clip: flag(k.Clip), mask_n: C.int(k.Mask.N), mask_c: C.int(k.Mask.C),
	}
	for i, t := range k.Terms {
		a.term[i] = C.blend_term{x: at(t.X), num: at(t.Num), den: at(t.Den), factor: C.float(t.C), n: C.int(t.X.N), c: C.int(t.X.C)}
	}
	each(b, "blend_f32", k.Dst.Len(), a)
}

const dotBand = 16384 // kDotBand of pixels.cu

// Dot sums bands of elements and joins them.
func (b *Backend) Dot(dst, x, y kernels.View) {
	image := x.Len() / x.N
	bands := blocks(image, dotBand)
	a := C.dot_args{dst: at(dst), a: at(x), b: at(y), part: C.ulonglong(b.shared(8 * x.N * bands)), image: C.longlong(image), bands: C.int(bands)}
	launch(b, "dot_part", bands, x.N, 1, 256, 8*32, a)
	launch(b, "dot_join", x.N, 1, 1, 256, 8*32, a)
}

// Accelerate implements kernels.Image.
func (b *Backend) Accelerate(a *kernels.Accelerate) {
	each(b, "accelerate_f32", a.X.Len(), C.accelerate_args{
		x: at(a.X), z: at(a.Z), grad: at(a.Grad), x0: at(a.X0), loss: at(a.Stop.Loss), count: C.longlong(a.X.Len()), image: C.longlong(a.X.Len() / a.X.N),
		limit: C.float(a.Stop.Limit), step: C.float(a.Step), rho: C.float(a.Rho), momentum: C.float(a.Momentum),
	})
}

// Adam implements kernels.Image.
func (b *Backend) Adam(a *kernels.Adam) {
	each(b, "adam_f32", a.X.Len(), C.adam_args{
		x: at(a.X), m: at(a.M), v: at(a.V), grad: at(a.Grad), x0: at(a.X0), loss: at(a.Stop.Loss),
		count: C.longlong(a.X.Len()), image: C.longlong(a.X.Len() / a.X.N), limit: C.float(a.Stop.Limit), rate: C.float(a.Rate), rho: C.float(a.Rho),
		bias1: C.float(1 - math.Pow(0.9, float64(a.T))), bias2: C.float(1 - math.Pow(0.999, float64(a.T))),
	})
}

// maxTables bounds the memory of Fourier transforms of many lengths.
const maxTables = 64

// table is exp(-2 pi i j/n) for j < n, computed in F64 and kept. It is 0 after a fault.
func (b *Backend) table(n int) device {
	if p, ok := b.tables[n]; ok {
		return p
	}
	data := make([]float32, 2*n)
	for j := range n {
		sin, cos := math.Sincos(-2 * math.Pi * float64(j) / float64(n))
		data[2*j], data[2*j+1] = float32(cos), float32(sin)
	}
	p, err := keep(b, data)
	if must(err) {
		b.tables[n] = p
	}
	return p
}

// tablesFor returns those of the rows and of the columns of an image, which live until it is called again.
func (b *Backend) tablesFor(h, w int) (rows, cols device) {
	if len(b.tables) > maxTables-2 { // both are to live
		b.moves++
		for _, p := range b.tables {
			b.later(func() error { return b.release(p) })
		}
		clear(b.tables)
	}
	return b.table(w), b.table(h)
}

// Fourier transforms the rows, then the columns.
func (b *Backend) Fourier(f *kernels.Fourier) {
	n := f.Src.Len() / 2
	rows, cols := b.tablesFor(f.Src.H, f.Src.W)
	between := b.shared(8 * n)
	a := C.dft_args{dst: C.ulonglong(between), src: at(f.Src), table: C.ulonglong(rows), count: C.longlong(n), n: C.int(f.Src.W),
		step: C.longlong(f.Src.C), inverse: flag(f.Inverse), scale: 1}
	each(b, "dft_f32", n, a)
	a.dst, a.src, a.table, a.n, a.step = at(f.Dst), a.dst, C.ulonglong(cols), C.int(f.Src.H), C.longlong(f.Src.W*f.Src.C)
	a.scale = C.float(1 / math.Sqrt(float64(f.Src.Pixels())))
	each(b, "dft_f32", n, a)
}

// powerOn is the squared spectrum of a filter on images of h x w. It is 0 after a fault.
func (b *Backend) powerOn(f *filter, h, w int, rows, cols device) device {
	if f.on == [2]int{h, w} {
		return f.power
	}
	b.moves++
	must(b.now(func() (err error) {
		if f.power != 0 {
			b.fail(b.release(f.power))
		}
		f.power, f.on = 0, [2]int{}
		if f.power, err = b.obtain(4 * h * w); err == nil {
			f.on = [2]int{h, w}
		}
		return err
	}))
	each(b, "power_f32", h*w, C.power_args{
		dst: C.ulonglong(f.power), weight: C.ulonglong(f.weight), rows: C.ulonglong(rows), cols: C.ulonglong(cols),
		dy: C.ulonglong(f.dy), dx: C.ulonglong(f.dx), h: C.int(h), w: C.int(w), taps: C.int(f.taps),
	})
	return f.power
}

// laying is kernels.Fading of one length as a matrix, and its transpose.
type laying struct{ there, back *matrix }

type layingKey struct{ n, fade int }

// layingFor is what lays n pixels on a circle. It lives as long as the backend, as the lengths of pictures are few. It is
// nil after a fault.
func (b *Backend) layingFor(n, fade int) *laying {
	key := layingKey{n, fade}
	if l, ok := b.layings[key]; ok {
		return l
	}
	at, weight := kernels.Fading(n, fade)
	there := kernels.Matrix{Rows: len(at), Cols: n, First: make([]int, len(at)), W: make([][]float32, len(at))}
	back := kernels.Matrix{Rows: n, Cols: len(at), First: make([]int, n), W: make([][]float32, n)}
	for i, p := range at {
		if p < 0 {
			continue
		}
		there.First[i], there.W[i] = int(p), weight[i:i+1]
		if len(back.W[p]) == 0 {
			back.First[p] = i
		}
		back.W[p] = append(back.W[p], make([]float32, i-back.First[p]+1-len(back.W[p]))...)
		back.W[p][i-back.First[p]] = weight[i]
	}
	l := &laying{}
	for to, m := range map[**matrix]kernels.Matrix{&l.there: there, &l.back: back} {
		prepared, err := b.PrepareMatrix(m)
		if !must(err) {
			return nil
		}
		*to = prepared.(*matrix)
	}
	b.layings[key] = l
	return l
}

// Deconvolve transforms rows and columns, divides, and transforms columns and rows back, all channels as complex numbers.
func (b *Backend) Deconvolve(a *kernels.Deconvolve) {
	src, dst, images, h, w, c := at(a.Src), at(a.Dst), a.Src.N, a.Src.H, a.Src.W, a.Src.C
	columns, rows := b.layingFor(h, a.Fade), b.layingFor(w, a.Fade)
	if columns == nil || rows == nil {
		return
	}
	h, w = columns.there.rows, rows.there.rows
	n := images * h * w * c
	rowTable, colTable := b.tablesFor(h, w)
	power := b.powerOn(a.Kernel.(*filter), h, w, rowTable, colTable)
	one := C.ulonglong(b.shared(20 * n))
	other := one + 8*C.ulonglong(n)
	laid := other + 8*C.ulonglong(n)
	pass := func(dst, src C.ulonglong, table device, length, step int, more C.dft_args) {
		more.dst, more.src, more.table, more.count, more.n, more.step = dst, src, C.ulonglong(table), C.longlong(n), C.int(length), C.longlong(step)
		if more.scale == 0 {
			more.scale = 1
		}
		each(b, "dft_f32", n, more)
	}
	if a.Fade > 0 {
		b.bands(one, src, columns.there, images, a.Src.W*c)
		b.finish(laid, one, columns.there, rows.there, images, c, C.band_args{alpha: 1})
		src = laid
	}
	pass(one, src, rowTable, w, 2*c, C.dft_args{real_src: 1})
	pass(other, one, colTable, h, 2*w*c, C.dft_args{over: C.ulonglong(power), width: C.longlong(c), size: C.longlong(h * w), rho: C.float(a.Rho)})
	pass(one, other, colTable, h, 2*w*c, C.dft_args{inverse: 1})
	if a.Fade > 0 {
		dst = laid
	}
	pass(dst, one, rowTable, w, 2*c, C.dft_args{inverse: 1, real_dst: 1, scale: C.float(1 / float64(h*w))})
	if a.Fade > 0 {
		b.bands(one, laid, columns.back, images, w*c)
		b.finish(at(a.Dst), one, columns.back, rows.back, images, c, C.band_args{alpha: 1})
	}
}
