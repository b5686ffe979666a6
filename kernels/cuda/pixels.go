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
	if _, err := b.keep(arrayOf(first, &p.first), arrayOf(start, &p.start), arrayOf(weight, &p.weight)); err != nil {
		return nil, err
	}
	return p, nil
}

func (m *matrix) args() C.band {
	return C.band{first: C.ulonglong(m.first), start: C.ulonglong(m.start), weight: C.ulonglong(m.weight), rows: C.int(m.rows), cols: C.int(m.cols)}
}

// Separable makes a row of the result in every block, or, where a row of the source is too long for its shared memory, takes
// the rows of the image and then the columns.
func (b *Backend) Separable(s *kernels.Separable) {
	h, w, line := s.H.(*matrix), s.W.(*matrix), s.Src.W*s.Src.C
	follows := C.band_args{
		row_spectrum: at(s.RowSpectrum), col_spectrum: at(s.ColSpectrum), rho: C.float(s.Rho),
		alpha: C.float(s.Alpha), add: at(s.Add), beta: C.float(s.Beta),
	}
	if shared := C.GATHER_ROOM + 4*line; shared <= sharedLimit {
		a := follows
		a.dst, a.src, a.m, a.rows, a.c = at(s.Dst), at(s.Src), w.args(), h.args(), C.int(s.Src.C)
		a.e = b.deal(s.Dst.N, s.Dst.Len()/s.Dst.N, s.Dst.W*s.Dst.C, s.Products)
		launch(b, "separable_f32", s.Dst.N*h.rows, 1, 1, 256, shared, a)
		return
	}
	between := C.ulonglong(b.shared(4 * s.Src.N * h.rows * line))
	b.bands(between, at(s.Src), h, s.Src.N, line)
	b.finish(at(s.Dst), between, h, w, s.Src.N, s.Src.C, follows, s.Products)
}

// bands is the first pass of a separable map: dst = m src for images of rows of so many floats.
func (b *Backend) bands(dst, src C.device_floats, m *matrix, images, line int) {
	n := images * m.rows * line
	each(b, "band_rows", n, C.band_args{dst: dst, src: src, m: m.args(), count: C.longlong(n), inner: C.longlong(line)})
}

// finish is the second pass: dst = src w^T for images of h.rows rows, and what follows says of it.
func (b *Backend) finish(dst, src C.device_floats, h, w *matrix, images, c int, a C.band_args, p kernels.Products) {
	a.dst, a.src, a.m, a.h, a.w, a.c = dst, src, w.args(), C.int(h.rows), C.int(w.rows), C.int(c)
	over(b, "band_cols", images, h.rows*w.rows*c, p, func(e C.elements_args) C.band_args { a.e = e; return a })
}

// deal gives the elements of images to blocks that take so many each, and says where they gather sums.
func (b *Backend) deal(images, image, per int, p kernels.Products) C.elements_args {
	e := C.elements_args{image: C.longlong(image), blocks: C.int(blocks(image, per)), per: C.int(per)}
	b.gather(&e, images, p)
	return e
}

// gather asks for sums, which blocks leave in memory of their own.
func (b *Backend) gather(e *C.elements_args, images int, p kernels.Products) {
	if !p.Sums.Present() {
		return
	}
	e.sums, e.to, e.of, e.with = C.int(p.Sums.C), at(p.Sums), at(p.Of), [2]C.device_floats{at(p.With[0]), at(p.With[1])}
	e.part = C.ulonglong(b.grow(&b.parts, 8*images*int(e.blocks)*p.Sums.C))
	e.done = C.ulonglong(b.zeros(images))
}

const (
	blockSize     = 256 // threads
	mostGathering = 512 // blocks of an image that gather sums
)

// over launches a kernel over all elements of images, with an element for each thread, or some where there are sums.
func over[A any](b *Backend, name string, images, image int, p kernels.Products, args func(C.elements_args) A) {
	per, shared := blockSize, 0
	if p.Sums.Present() {
		per, shared = blockSize*blocks(image, blockSize*mostGathering), C.GATHER_ROOM
	}
	e := b.deal(images, image, per, p)
	launch(b, name, images*int(e.blocks), 1, 1, blockSize, shared, args(e))
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
	if _, err := b.keep(arrayOf(dy, &f.dy), arrayOf(dx, &f.dx), arrayOf(weight, &f.weight)); err != nil {
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
	over(b, name, a.Dst.N, a.Dst.Len()/a.Dst.N, a.Products, func(e C.elements_args) C.filter_args {
		return C.filter_args{
			e: e, dst: at(a.Dst), src: at(a.Src), add: at(a.Add), weight: C.ulonglong(f.weight), dy: C.ulonglong(f.dy), dx: C.ulonglong(f.dx),
			h: C.int(a.Dst.H), w: C.int(a.Dst.W), c: C.int(a.Dst.C), taps: C.int(len(f.taps)),
			alpha: C.float(a.Alpha), beta: C.float(a.Beta),
		}
	})
}

// Blend implements kernels.Image.
func (b *Backend) Blend(k *kernels.Blend) {
	a := C.blend_args{
		dst: at(k.Dst), mask: at(k.Mask), other: at(k.Else),
		c: C.int(k.Dst.C), terms: C.int(len(k.Terms)), clip: flag(k.Clip), mask_n: C.int(k.Mask.N), mask_c: C.int(k.Mask.C),
	}
	for i, t := range k.Terms {
		a.term[i] = C.blend_term{x: at(t.X), num: at(t.Num), den: at(t.Den), factor: C.float(t.C), n: C.int(t.X.N), c: C.int(t.X.C)}
	}
	over(b, "blend_f32", k.Dst.N, k.Dst.Len()/k.Dst.N, k.Products, func(e C.elements_args) C.blend_args { a.e = e; return a })
}

// Dot gathers one sum and writes nothing else.
func (b *Backend) Dot(dst, x, y kernels.View) {
	over(b, "dot_f32", x.N, x.Len()/x.N, kernels.Products{Sums: dst, Of: x}, func(e C.elements_args) C.dot_args {
		return C.dot_args{e: e, b: at(y)}
	})
}

// Conjugate implements kernels.Image.
func (b *Backend) Conjugate(k *kernels.Conjugate) {
	image := k.X.Len() / k.X.N
	e := b.deal(k.X.N, image, blockSize, kernels.Products{})
	launch(b, "conjugate_f32", k.X.N*int(e.blocks), 1, 1, blockSize, 8, C.conjugate_args{
		e: e, x: at(k.X), r: at(k.R), p: at(k.P), s: at(k.S), z: at(k.Z), w: at(k.W),
		sums: at(k.Sums), before: at(k.Before), after: at(k.After), kinds: C.int(k.Sums.C),
	})
}

// local is a data term, and where its loss goes.
func local(l kernels.Local) (C.local_args, kernels.Products) {
	a := C.local_args{
		y: at(l.Y), mask: at(l.Mask), c: C.int(l.Y.C), mask_n: C.int(l.Mask.N), mask_c: C.int(l.Mask.C),
		gain: C.float(l.Gain), low: C.float(l.Low), high: C.float(l.High),
	}
	if !l.Y.Present() {
		l.Loss = kernels.View{}
	}
	return a, kernels.Products{Sums: l.Loss}
}

// Accelerate implements kernels.Image.
func (b *Backend) Accelerate(a *kernels.Accelerate) {
	term, loss := local(a.Local)
	over(b, "accelerate_f32", a.X.N, a.X.Len()/a.X.N, loss, func(e C.elements_args) C.accelerate_args {
		return C.accelerate_args{
			e: e, local: term, x: at(a.X), z: at(a.Z), grad: at(a.Grad), x0: at(a.X0), loss: at(a.Stop.Loss), counts: at(a.Stop.Count),
			limit: C.float(a.Stop.Limit), step: C.float(a.Step), rho: C.float(a.Rho), momentum: C.float(a.Momentum),
		}
	})
}

// Adam implements kernels.Image.
func (b *Backend) Adam(a *kernels.Adam) {
	term, loss := local(a.Local)
	over(b, "adam_f32", a.X.N, a.X.Len()/a.X.N, loss, func(e C.elements_args) C.adam_args {
		return C.adam_args{
			e: e, local: term, x: at(a.X), m: at(a.M), v: at(a.V), grad: at(a.Grad), x0: at(a.X0), loss: at(a.Stop.Loss), counts: at(a.Stop.Count),
			limit: C.float(a.Stop.Limit), rate: C.float(a.Rate), rho: C.float(a.Rho),
			bias1: C.float(1 - math.Pow(0.9, float64(a.T))), bias2: C.float(1 - math.Pow(0.999, float64(a.T))),
		}
	})
}
