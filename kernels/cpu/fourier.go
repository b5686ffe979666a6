//go:build cgo

package cpu

// #include "call.h"
import "C"

import (
	"math"
	"unsafe"

	"github.com/spin-native/spin/kernels"
)

// radices splits n into factors that have a butterfly, and is nil where a prime is left over that is too large for one.
// Two fours stand for 8 and 2: a pass of radix 2 reads and writes as much as any other and computes next to nothing.
func radices(n int) []int {
	var list []int
	twos := 0
	for ; n%2 == 0; n /= 2 {
		twos++
	}
	if twos == 1 {
		list, twos = append(list, 2), 0
	}
	for ; twos%3 != 0; twos -= 2 {
		list = append(list, 4)
	}
	for ; twos > 0; twos -= 3 {
		list = append(list, 8)
	}
	for p := 3; n > 1 && p <= C.FFT_RADIX; p += 2 {
		for ; n%p == 0; n /= p {
			list = append(list, p)
		}
	}
	if n > 1 {
		return nil
	}
	return list
}

// maxPlans bounds the plans that a backend keeps. One takes about 2 n floats, up to 8 n where it needs a chirp.
const maxPlans = 64

// fftPlan is a plan and its size in floats.
type fftPlan struct {
	p    *C.fft_plan
	size int
}

// transform is how to transform n elements. The plan lives until forget.
func (b *Backend) transform(n int) *C.fft_plan {
	if p, ok := b.plans[n]; ok {
		return p.p
	}
	var tables []float32
	unit := func(turns float64) { // exp(-2 pi i turns)
		sin, cos := math.Sincos(2 * math.Pi * turns)
		tables = append(tables, float32(cos), float32(-sin))
	}
	list := radices(n)
	var convolution *C.fft_plan
	if list == nil && n > 1 {
		for k := range n {
			unit(float64(k*k%(2*n)) / float64(2*n))
		}
		convolution = b.transform(kernels.FastSize(2*n - 1))
		tables = append(tables, b.spectrum(convolution, tables)...)
	}
	m := n
	for _, r := range list {
		if r%2 == 1 {
			for k := range r {
				tables = append(tables, float32(math.Cos(2*math.Pi*float64(k)/float64(r))))
			}
			for k := range r {
				tables = append(tables, float32(math.Sin(2*math.Pi*float64(k)/float64(r))))
			}
		}
		for p := range m / r {
			for k := 1; k < r; k++ {
				unit(float64(p*k) / float64(m))
			}
		}
		m /= r
	}
	// Plan and tables share one block outside of Go's heap.
	const header = (C.sizeof_fft_plan + 63) / 64 * 16
	size := header + len(tables)
	at := b.obtain(size) // in a plan, too: its sizes follow from what stands here
	if at == nil {
		panic(&outOfMemory{size})
	}
	b.tables += 4 * int64(size)
	block := unsafe.Slice((*float32)(at), size)
	copy(block[header:], tables)
	p := (*C.fft_plan)(at)
	*p = C.fft_plan{n: C.int(n), stages: C.int(len(list)), tables: ptr(block[header:]), convolution: convolution}
	for i, r := range list {
		p.radix[i] = C.int(r)
	}
	if convolution != nil {
		p.chirp, p.spectrum = ptr(block[header:]), ptr(block[header+2*n:])
	}
	if b.plans == nil {
		b.plans = map[int]fftPlan{}
	}
	b.plans[n] = fftPlan{p, size}
	return p
}

// spectrum transforms the reciprocal of a chirp, which is even, on the circle of its convolution.
func (b *Backend) spectrum(f *C.fft_plan, chirp []float32) []float32 {
	n := int(f.n)
	circle := make([]float32, 2*n)
	for k := 0; k < len(chirp)/2; k++ {
		for _, at := range []int{k, (n - k) % n} {
			circle[2*at], circle[2*at+1] = chirp[2*k]/float32(n), -chirp[2*k+1]/float32(n)
		}
	}
	b.rows(f, circle, circle, 1, 2, false)
	return circle
}

// forget releases all plans where there are many. Plans that are in use must be taken after it.
func (b *Backend) forget() {
	if len(b.plans) > maxPlans {
		for _, p := range b.plans {
			b.release(unsafe.Pointer(p.p), p.size)
		}
		clear(b.plans)
		b.tables = 0
	}
}

// room is the scratch that a transform needs beside what it transforms.
func (b *Backend) room(f *C.fft_plan) int {
	if f.convolution != nil {
		return 6 * int(f.convolution.n) * int(b.lv.lanes)
	}
	return 4 * int(f.n) * int(b.lv.lanes)
}

// rows transforms along rows of c channels, as many at once as a vector has lanes.
func (b *Backend) rows(f *C.fft_plan, dst, src []float32, rows, c int, inverse bool) {
	lanes, line := int(b.lv.lanes), int(f.n)*c
	b.each((rows+lanes-1)/lanes, line*lanes+b.room(f), func(t int, scratch []float32) {
		y := t * lanes
		C.call_fft_rows(b.lv, f, ptr(src[y*line:]), ptr(dst[y*line:]), C.int(min(lanes, rows-y)), C.int(c), flag(inverse), ptr(scratch))
	})
}

// columns transforms along the columns of images whose rows have so many floats, and scales the result.
func (b *Backend) columns(f *C.fft_plan, dst, src []float32, images, line int, inverse bool, scale float64) {
	lanes, h := int(b.lv.lanes), int(f.n)
	bands := (line/2 + lanes - 1) / lanes
	b.each(images*bands, 2*h*lanes+b.room(f), func(t int, scratch []float32) {
		x := t % bands * lanes
		at := t/bands*h*line + 2*x
		C.call_fft_columns(b.lv, f, ptr(src[at:]), ptr(dst[at:]), C.long(line), C.int(min(lanes, line/2-x)), flag(inverse), C.float(scale), ptr(scratch))
	})
}

// Fourier transforms the rows, then the columns.
func (b *Backend) Fourier(a *kernels.Fourier) {
	b.forget()
	src, dst, line := floats(a.Src), floats(a.Dst), a.Src.W*a.Src.C
	b.rows(b.transform(a.Src.W), dst, src, a.Src.N*a.Src.H, a.Src.C, a.Inverse)
	b.columns(b.transform(a.Src.H), dst, dst, a.Src.N, line, a.Inverse, 1/math.Sqrt(float64(a.Src.Pixels())))
}

// circle is what a filter needs to work on images of one size by Fourier transforms.
type circle struct {
	h, w     int       // of the images
	fade     int       // of the borders
	fh, fw   int       // of the circle
	inside   [2]places // along rows and columns: the pixel at each place, -1 outside of the image
	mirrored [2]places // the pixel that each place of image and margin mirrors, -1 outside of both
	spectrum []float32 // of the kernel, [fh][fw][2]
}

// places are a map of the places of a circle; without weights all are 1.
type places struct {
	at     []int32
	weight []float32
}

func (p places) c() (*C.int, *C.float) { return ints(p.at), ptr(p.weight) }

// circleFor readies a filter for images of h x w, with room for the kernel's margin. It keeps the last size.
func (b *Backend) circleFor(f *filter, h, w int) *circle {
	if f.circle != nil && f.circle.h == h && f.circle.w == w {
		return f.circle
	}
	z := &circle{h: h, w: w, fh: kernels.FastSize(h + f.h - 1), fw: kernels.FastSize(w + f.w - 1)}
	for axis, n := range [2]int{h, w} {
		size, k := [2]int{z.fh, z.fw}[axis], [2]int{f.h, f.w}[axis]
		for i := range size {
			inside, mirrored := int32(-1), int32(-1)
			if i < n {
				inside = int32(i)
			}
			if i < n+k-1 {
				mirrored = int32(mirror(i-k/2, n))
			}
			z.inside[axis].at, z.mirrored[axis].at = append(z.inside[axis].at, inside), append(z.mirrored[axis].at, mirrored)
		}
	}
	b.transformKernel(z, f)
	f.circle = z
	return z
}

// torusFor readies a filter for images of h x w whose borders fade out. It keeps the last size.
func (b *Backend) torusFor(f *filter, h, w, fade int) *circle {
	if f.torus != nil && f.torus.h == h && f.torus.w == w && f.torus.fade == fade {
		return f.torus
	}
	z := &circle{h: h, w: w, fade: fade}
	for axis, n := range [2]int{h, w} {
		z.inside[axis].at, z.inside[axis].weight = kernels.Fading(n, fade)
	}
	z.fh, z.fw = len(z.inside[0].at), len(z.inside[1].at)
	b.transformKernel(z, f)
	f.torus = z
	return z
}

// transformKernel lays the kernel on the circle and transforms it.
func (b *Backend) transformKernel(z *circle, f *filter) {
	z.spectrum = make([]float32, 2*z.fh*z.fw)
	for i, k := range f.k {
		z.spectrum[2*(int(f.dy[i])%z.fh*z.fw+int(f.dx[i])%z.fw)] += k
	}
	b.rows(b.transform(z.fw), z.spectrum, z.spectrum, z.fh, 2, false)
	b.columns(b.transform(z.fh), z.spectrum, z.spectrum, 1, 2*z.fw, false, 1)
}

// convolve is Filter by Fourier transforms.
func (b *Backend) convolve(a *kernels.Filter) {
	b.forget()
	z := b.circleFor(a.Kernel.(*filter), a.Src.H, a.Src.W)
	if a.Adjoint {
		b.circular(z, a, z.inside, z.mirrored, C.TIMES, 0)
	} else {
		b.circular(z, a, z.mirrored, z.inside, C.TIMES_CONJUGATE, 0)
	}
}

// Deconvolve is a filter that divides spectra.
func (b *Backend) Deconvolve(a *kernels.Deconvolve) {
	b.forget()
	z := b.torusFor(a.Kernel.(*filter), a.Src.H, a.Src.W, a.Fade)
	b.circular(z, &kernels.Filter{Dst: a.Dst, Src: a.Src, Alpha: 1}, z.inside, z.inside, C.OVER_SQUARE, a.Rho)
}

// circular is a filter on a circle that is filled by one map and emptied by another: rows forth, columns forth and back
// with the spectrum in between, rows back.
func (b *Backend) circular(z *circle, a *kernels.Filter, in, out [2]places, how C.int, rho float32) {
	c, lanes := a.Src.C, int(b.lv.lanes)
	rows, columns := b.transform(z.fw), b.transform(z.fh)
	alpha := float64(a.Alpha) / float64(z.fh*z.fw)
	planes, line, pitch := (c+1)/2, z.w*c, 2*z.fw
	plane := z.h * pitch
	frame := b.grow(&b.shared, planes*plane)
	bands, tiles := (z.h+lanes-1)/lanes, (z.fw+lanes-1)/lanes
	inRows, inRowsWeight := in[0].c()
	inColumns, inColumnsWeight := in[1].c()
	outRows, outRowsWeight := out[0].c()
	outColumns, outColumnsWeight := out[1].c()
	sums := b.sums(a.Products, a.Dst, bands)
	for n := range a.Src.N {
		src, dst, add := floats(a.Src.Image(n)), floats(a.Dst.Image(n)), floats(of(a.Add, n))
		b.each(bands, (line+pitch)*lanes+b.room(rows), func(t int, scratch []float32) {
			y := t * lanes
			C.call_circle_in(b.lv, rows, ptr(src[y*line:]), ptr(frame[y*pitch:]), C.int(min(lanes, z.h-y)), C.int(z.w), C.int(c),
				inColumns, inColumnsWeight, C.long(plane), ptr(scratch))
		})
		b.each(planes*tiles, 2*(z.fh+z.h)*lanes+b.room(columns), func(t int, scratch []float32) {
			x := t % tiles * lanes
			C.call_circle_columns(b.lv, columns, ptr(frame[t/tiles*plane+2*x:]), C.int(z.h), C.long(pitch), C.int(min(lanes, z.fw-x)),
				inRows, inRowsWeight, outRows, outRowsWeight, ptr(z.spectrum[2*x:]), how, C.float(rho), ptr(scratch))
		})
		b.each(bands, (line+pitch)*lanes+b.room(rows), func(t int, scratch []float32) {
			y := t * lanes
			var more *C.float
			if add != nil {
				more = ptr(add[y*line:])
			}
			C.call_circle_out(b.lv, rows, ptr(frame[y*pitch:]), ptr(dst[y*line:]), C.int(min(lanes, z.h-y)), C.int(z.w), C.int(c),
				outColumns, outColumnsWeight, C.long(plane), C.float(alpha), more, C.float(a.Beta), ptr(scratch))
			sums.take(n, t, y*line, min(y+lanes, z.h)*line)
		})
	}
	sums.join()
}
