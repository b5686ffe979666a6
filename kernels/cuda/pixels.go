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
	h, w           int
	taps           []tap
	dy, dx, weight device // of the taps that are not zero
	circle, torus  circle // for images of the last size that called for one
}

// tap is a weight of a filter and its place, from the filter's first row and column.
type tap struct {
	y, x int
	w    float32
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
			f.taps = append(f.taps, tap{i / k.W, i % k.W, v})
		}
	}
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

// Filter sums over the taps where they are few, and otherwise multiplies spectra.
func (b *Backend) Filter(a *kernels.Filter) {
	f, name := a.Kernel.(*filter), "filter_f32"
	if f.spectral(a.Src.H, a.Src.W, a.Src.C) {
		b.convolve(f, a)
		return
	}
	if a.Adjoint {
		name = "filter_adjoint_f32"
	}
	each(b, name, a.Dst.Len(), C.filter_args{
		dst: at(a.Dst), src: at(a.Src), add: at(a.Add), weight: C.ulonglong(f.weight), dy: C.ulonglong(f.dy), dx: C.ulonglong(f.dx),
		count: C.longlong(a.Dst.Len()), h: C.int(a.Dst.H), w: C.int(a.Dst.W), c: C.int(a.Dst.C), taps: C.int(len(f.taps)),
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

const (
	dotBand   = 16384 // kDotBand of pixels.cu
	dotImages = 256   // of one launch
)

// Dot sums bands of elements.
func (b *Backend) Dot(dst, x, y kernels.View) {
	if b.counters == 0 {
		if p, err := keep(b, make([]int32, dotImages)); must(err) {
			b.counters = p
		}
	}
	image := x.Len() / x.N
	bands := blocks(image, dotBand)
	part := b.shared(8 * min(x.N, dotImages) * bands)
	for n := 0; n < x.N; n += dotImages {
		launch(b, "dot_f32", bands, min(x.N-n, dotImages), 1, 256, 8*33, C.dot_args{
			dst: at(dst.Image(n)), a: at(x.Image(n)), b: at(y.Image(n)), part: C.ulonglong(part), done: C.ulonglong(b.counters),
			image: C.longlong(image), bands: C.int(bands),
		})
	}
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
