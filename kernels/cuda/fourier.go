//go:build cuda && cgo && linux && amd64

package cuda

// #include "args.h"
import "C"

import (
	"math"

	"github.com/spin-native/spin/kernels"
)

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

// radices splits n into 8, 4, 2 and odd primes.
func radices(n int) (list []int) {
	for _, r := range []int{8, 4, 2} {
		for ; n%r == 0; n /= r {
			list = append(list, r)
		}
	}
	for p := 3; p*p <= n; p += 2 {
		for ; n%p == 0; n /= p {
			list = append(list, p)
		}
	}
	if n > 1 {
		list = append(list, n)
	}
	return list
}

// plan is how a block transforms n elements. ok is false where they do not fit into its shared memory.
func plan(n int, table device) (p C.fft_plan, ok bool) {
	list := radices(n)
	if n > C.FFT_ROOM {
		return p, false
	}
	p.n, p.stages, p.table = C.int(n), C.int(len(list)), C.ulonglong(table)
	for i, r := range list {
		p.radix[i] = C.int(r)
	}
	return p, true
}

// blockOf is the threads and the bytes of shared memory of a block that transforms so many elements: one for every eight.
func blockOf(elements int) (threads, shared int) {
	threads = 32
	for threads < 256 && 8*threads < elements {
		threads *= 2
	}
	return threads, 16 * elements
}

const few = 1024 // elements of a block, where there is a choice

// transform transforms complex elements [outer][n][inner], in place too. Long ones take a pass for every radix, by way of
// scratch memory for twice as many elements.
func (b *Backend) transform(dst, src, scratch C.ulonglong, table device, outer, n, inner int, inverse bool, scale float64) {
	if p, ok := plan(n, table); ok {
		lines, grid := min(inner, max(8, few/n), C.FFT_ROOM/n), 0
		if inner < 8 && n*inner <= few {
			lines = few / (n * inner) * inner
			grid = blocks(outer, lines/inner)
		} else {
			grid = outer * blocks(inner, lines)
		}
		threads, shared := blockOf(n * lines)
		launch(b, "fft_f32", grid, 1, 1, threads, shared, C.fft_args{
			plan: p, dst: dst, src: src, outer: C.longlong(outer), inner: C.longlong(inner), lines: C.int(lines),
			inverse: flag(inverse), scale: C.float(scale),
		})
		return
	}
	b.passes(dst, src, scratch, C.dft_args{table: C.ulonglong(table), count: C.longlong(outer * n * inner), inner: C.longlong(inner),
		n: C.int(n), inverse: flag(inverse), scale: C.float(scale)}, C.dft_args{}, C.dft_args{})
}

// passes runs one pass of all for each radix. What first says is for the first one alone, what last says for the last.
func (b *Backend) passes(dst, src, scratch C.ulonglong, all, first, last C.dft_args) {
	list := radices(int(all.n))
	for len(list) < 2 {
		list = append(list, 1) // a copy, as no pass works in place
	}
	scale := all.scale
	all.before, all.src, all.scale, all.real_src = 1, src, 1, first.real_src
	for i, r := range list {
		all.radix, all.dst = C.int(r), scratch+C.ulonglong(i%2)*8*C.ulonglong(all.count)
		if i == len(list)-1 {
			all.dst, all.scale, all.real_dst = dst, scale, last.real_dst
			all.over, all.over_inner, all.size, all.rho = last.over, last.over_inner, last.size, last.rho
		}
		each(b, "dft_f32", int(all.count), all)
		all.src, all.real_src = all.dst, 0
		all.before *= C.int(r)
	}
}

// Fourier transforms the rows, then the columns.
func (b *Backend) Fourier(f *kernels.Fourier) {
	h, w, n := f.Src.H, f.Src.W, f.Src.Len()/2
	rows, cols := b.tablesFor(h, w)
	var scratch C.ulonglong
	if max(h, w) > C.FFT_ROOM {
		scratch = C.ulonglong(b.shared(16 * n))
	}
	b.transform(at(f.Dst), at(f.Src), scratch, rows, f.Src.N*h, w, f.Src.C/2, f.Inverse, 1)
	b.transform(at(f.Dst), at(f.Dst), scratch, cols, f.Src.N, h, w*f.Src.C/2, f.Inverse, 1/math.Sqrt(float64(h*w)))
}

// circle is the spectrum of a filter on a circle of fh x fw pixels, complex.
type circle struct {
	fh, fw   int
	spectrum device
}

// onCircle is a filter's spectrum, made anew where the last one was of another size. It is 0 after a fault.
func (b *Backend) onCircle(z *circle, f *filter, fh, fw int, rows, cols device) device {
	if z.fh == fh && z.fw == fw {
		return z.spectrum
	}
	b.moves++
	if p := z.spectrum; p != 0 {
		b.later(func() error { return b.release(p) })
	}
	*z = circle{}
	laid := make([]float32, 2*fh*fw)
	for _, t := range f.taps {
		laid[2*(t.y%fh*fw+t.x%fw)] += t.w
	}
	p, err := keep(b, laid)
	if !must(err) {
		return 0
	}
	*z = circle{fh, fw, p}
	var scratch C.ulonglong
	if max(fh, fw) > C.FFT_ROOM {
		scratch = C.ulonglong(b.shared(16 * fh * fw))
	}
	b.transform(C.ulonglong(p), C.ulonglong(p), scratch, rows, fh, fw, 1, false, 1)
	b.transform(C.ulonglong(p), C.ulonglong(p), scratch, cols, 1, fh, fw, false, 1)
	return p
}

// spectral decides by cost, as the processor's backend does: one multiplication for each tap against 40 for every number of
// the transforms' planes.
func (f *filter) spectral(h, w, c int) bool {
	fh, fw := h+f.h-1, w+f.w-1
	return len(f.taps)*h*w*c > 40*fh*fw*(c+c%2) && kernels.FastSize(fh) <= C.FFT_ROOM && kernels.FastSize(fw) <= C.FFT_ROOM
}

// convolve is Filter by way of spectra: a circle with room for the margin is filled by mirroring and emptied by cutting, and
// for the adjoint the other way round.
func (b *Backend) convolve(f *filter, a *kernels.Filter) {
	h, w := a.Src.H, a.Src.W
	fh, fw := kernels.FastSize(h+f.h-1), kernels.FastSize(w+f.w-1)
	rows, cols := b.tablesFor(fh, fw)
	args := C.circle_args{spectrum: C.ulonglong(b.onCircle(&f.circle, f, fh, fw, rows, cols)), how: C.TIMES_CONJUGATE}
	mirrored, inside := [2]extent{{span: h + f.h - 1, margin: f.h / 2}, {span: w + f.w - 1, margin: f.w / 2}}, [2]extent{{span: h}, {span: w}}
	if a.Adjoint {
		args.how = C.TIMES
		mirrored, inside = inside, mirrored
	}
	b.circular(a, fh, fw, rows, cols, mirrored, inside, args)
}

// extent says how far a circle is filled or emptied, in columns or rows; see circle_args.
type extent struct {
	span, margin, fade int
	weight             device
}

// circular is rows forth, columns forth and back with the spectrum in between, and rows back.
func (b *Backend) circular(a *kernels.Filter, fh, fw int, rows, cols device, in, out [2]extent, args C.circle_args) {
	n, h, w, c := a.Src.N, a.Src.H, a.Src.W, a.Src.C
	planes := (c + 1) / 2
	frame := C.ulonglong(b.shared(8 * n * planes * h * fw))
	args.h, args.w, args.c, args.planes, args.width = C.int(h), C.int(w), C.int(c), C.int(planes), C.int(fw)
	pass := func(name string, axis, length, per, grid int, lines int, table device, dst, src C.ulonglong) {
		args.plan, _ = plan(length, table)
		args.per, args.lines, args.dst, args.src = C.int(per), C.longlong(lines), dst, src
		args.in_span, args.in_margin = C.int(in[axis].span), C.int(in[axis].margin)
		args.out_span, args.out_margin = C.int(out[axis].span), C.int(out[axis].margin)
		args.fade, args.weight = C.int(in[axis].fade), C.ulonglong(in[axis].weight)
		threads, shared := blockOf(length * per)
		if args.e.sums > 0 {
			threads = togetherThreads // so that a phase adds them in this order
		}
		launch(b, name, grid, 1, 1, threads, shared, args)
	}
	lines := n * h * planes
	per := max(1, few/fw)
	pass("circle_in_f32", 1, fw, per, blocks(lines, per), lines, rows, frame, at(a.Src))
	tile := min(fw, max(8, few/fh), C.FFT_ROOM/fh)
	pass("circle_columns_f32", 0, fh, tile, n*planes*blocks(fw, tile), n*planes, cols, frame, frame)
	args.add, args.alpha, args.beta = at(a.Add), C.float(float64(a.Alpha)/float64(fh*fw)), C.float(a.Beta)
	args.e = C.elements_args{blocks: C.int(blocks(h*planes, per))} // a block's lines are of one image
	b.gather(&args.e, n, a.Products)
	pass("circle_out_f32", 1, fw, per, n*int(args.e.blocks), h*planes, rows, at(a.Dst), frame)
}

type fadingKey struct{ n, fade int }

// fadingFor are the weights of kernels.Fading, and how many places they are of. They live as long as the backend, as the lengths of
// pictures are few.
func (b *Backend) fadingFor(n, fade int) (extent, int) {
	_, weight := kernels.Fading(n, fade)
	e := extent{span: n, fade: min(fade, n/2)}
	if e.fade > 0 {
		key := fadingKey{n, e.fade}
		if b.fadings[key] == 0 {
			if p, err := keep(b, weight); must(err) {
				b.fadings[key] = p
			}
		}
		e.weight = b.fadings[key]
	}
	return e, len(weight)
}

// Deconvolve divides by the squared spectrum on a circle on which the borders fade out.
func (b *Backend) Deconvolve(a *kernels.Deconvolve) {
	f := a.Kernel.(*filter)
	columns, h := b.fadingFor(a.Src.H, a.Fade)
	rows, w := b.fadingFor(a.Src.W, a.Fade)
	rowTable, colTable := b.tablesFor(h, w)
	spectrum := C.ulonglong(b.onCircle(&f.torus, f, h, w, rowTable, colTable))
	if max(h, w) > C.FFT_ROOM {
		b.longDeconvolve(a, h, w, rowTable, colTable, spectrum)
		return
	}
	laid := [2]extent{columns, rows}
	b.circular(&kernels.Filter{Dst: a.Dst, Src: a.Src, Alpha: 1}, h, w, rowTable, colTable, laid, laid,
		C.circle_args{spectrum: spectrum, how: C.OVER_SQUARE, rho: C.float(a.Rho)})
}

// laying is kernels.Fading of one length as a matrix, and its transpose.
type laying struct{ there, back *matrix }

// layingFor is what lays n pixels on a circle. It lives as long as the backend. It is nil after a fault.
func (b *Backend) layingFor(n, fade int) *laying {
	key := fadingKey{n, fade}
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

// longDeconvolve is Deconvolve for circles of h x w that do not fit into shared memory: laid by matrices, four transforms in
// passes of all channels as complex numbers, and cut by matrices.
func (b *Backend) longDeconvolve(a *kernels.Deconvolve, h, w int, rowTable, colTable device, spectrum C.ulonglong) {
	images, c := a.Src.N, a.Src.C
	columns, rows := b.layingFor(a.Src.H, a.Fade), b.layingFor(a.Src.W, a.Fade)
	if columns == nil || rows == nil {
		return
	}
	n := images * h * w * c
	one := C.ulonglong(b.shared(28 * n))
	scratch := one + 8*C.ulonglong(n)
	laid := scratch + 16*C.ulonglong(n)
	along := C.dft_args{table: C.ulonglong(rowTable), count: C.longlong(n), n: C.int(w), inner: C.longlong(c), scale: 1}
	down := C.dft_args{table: C.ulonglong(colTable), count: C.longlong(n), n: C.int(h), inner: C.longlong(w * c), scale: 1}
	b.bands(one, at(a.Src), columns.there, images, a.Src.W*c)
	b.finish(laid, one, columns.there, rows.there, images, c, C.band_args{alpha: 1}, kernels.Products{})
	b.passes(one, laid, scratch, along, C.dft_args{real_src: 1}, C.dft_args{})
	b.passes(one, one, scratch, down, C.dft_args{}, C.dft_args{over: spectrum, over_inner: C.longlong(c), size: C.longlong(h * w), rho: C.float(a.Rho)})
	down.inverse, along.inverse, along.scale = 1, 1, C.float(1/float64(h*w))
	b.passes(one, one, scratch, down, C.dft_args{}, C.dft_args{})
	b.passes(laid, one, scratch, along, C.dft_args{}, C.dft_args{real_dst: 1})
	b.bands(one, laid, columns.back, images, w*c)
	b.finish(at(a.Dst), one, columns.back, rows.back, images, c, C.band_args{alpha: 1}, kernels.Products{})
}
