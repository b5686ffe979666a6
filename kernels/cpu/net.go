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

type conv struct {
	w      kernels.ConvWeights // without Weight
	packed unsafe.Pointer
	bias   unsafe.Pointer
	half   bool // packed is F16
}

func (c *conv) Weights() kernels.ConvWeights { return c.w }

// PrepareConv packs the weights for the chosen form.
func (b *Backend) PrepareConv(w kernels.ConvWeights) (kernels.Conv, error) {
	if w.Size > 15 {
		return nil, fmt.Errorf("cpu: kernel of size %d, at most 15 is supported", w.Size)
	}
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	if w.Form == kernels.Auto {
		w.Form = b.form(w)
	}
	a := C.conv_args{form: C.int(w.Form), cin: C.int(w.In), cout: C.int(w.Out), size: C.int(w.Size)}
	c := &conv{w: w, half: b.half && w.Out > 4 && w.Form != kernels.BFloat16} // the thin kernel has F32 only
	if err := b.pack(c, &a); err != nil {
		return nil, err
	}
	if w.Bias != nil {
		if c.bias = b.malloc(w.Out); c.bias == nil {
			return nil, fmt.Errorf("cpu: weights: %w", kernels.ErrOutOfMemory)
		}
		if !b.planning() {
			copy(unsafe.Slice((*float32)(c.bias), w.Out), w.Bias)
		}
	}
	c.w.Weight, c.w.Bias = nil, nil
	return c, nil
}

// pack lays the weights out for the level's kernels.
func (b *Backend) pack(c *conv, a *C.conv_args) error {
	n := int(C.call_conv_packed(b.lv, a))
	keep := n
	if c.half {
		keep = (n + 1) / 2
	}
	c.packed = b.malloc(keep)
	if c.packed == nil {
		return fmt.Errorf("cpu: %d MB for weights: %w", 4*keep>>20, kernels.ErrOutOfMemory)
	}
	if b.planning() {
		return nil
	}
	if !c.half {
		C.call_conv_pack(b.lv, a, ptr(c.w.Weight), (*C.float)(c.packed))
		return nil
	}
	wide := b.malloc(n)
	if wide == nil {
		return fmt.Errorf("cpu: %d MB for weights: %w", 4*n>>20, kernels.ErrOutOfMemory)
	}
	C.call_conv_pack(b.lv, a, ptr(c.w.Weight), (*C.float)(wide))
	if C.call_halve(b.lv, (*C.float)(wide), C.long(n), (*C.uint16_t)(c.packed)) == 0 { // out of range: this layer stays F32
		b.release(c.packed, keep)
		c.packed, c.half = wide, false
		return nil
	}
	b.release(wide, n)
	return nil
}

// Conv2D deals the units of a convolution, and where they are few its output channels, out to the threads.
func (b *Backend) Conv2D(k *kernels.Conv2D) {
	c := k.Kernel.(*conv)
	s := k.Src[0]
	a := C.conv_args{
		dst: cfloats(k.Dst), src: [2]*C.float{cfloats(s), cfloats(k.Src[1])}, affine: cfloats(k.Affine),
		weight: c.packed, half: flag(c.half), bias: (*C.float)(c.bias), embed: cfloats(k.Embed), embeds: C.int(k.Embed.N),
		residual: cfloats(k.Residual), c: [2]C.int{C.int(s.C), C.int(k.Src[1].C)},
		act: C.int(k.Act), sampling: C.int(k.Sampling), rsampling: C.int(k.ResidualSampling), form: C.int(c.w.Form),
		h: C.int(s.H), w: C.int(s.W), uh: C.int(k.Sampling.Size(s.H)), uw: C.int(k.Sampling.Size(s.W)),
		oh: C.int(k.Dst.H), ow: C.int(k.Dst.W), cin: C.int(c.w.In), cout: C.int(c.w.Out),
		size: C.int(c.w.Size), stride: C.int(c.w.Stride), pad: C.int(c.w.Pad), pad_end: C.int(c.w.PadEnd),
		relu: flag(k.ReLU), brief: C.int(b.brief),
	}
	if c.w.Form == kernels.WinogradUp { // the kernels are made for the image as it is
		a.sampling, a.uh, a.uw = C.SAME, a.h, a.w
	}
	if k.Shortcut != nil {
		sc := k.Shortcut.(*conv)
		a.skip = [2]*C.float{cfloats(k.Skip[0]), cfloats(k.Skip[1])}
		a.cs = [2]C.int{C.int(k.Skip[0].C), C.int(k.Skip[1].C)}
		a.skip_weight, a.skip_half, a.skip_bias = sc.packed, flag(sc.half), (*C.float)(sc.bias)
		if (c.w.Form == kernels.BFloat16) != (sc.w.Form == kernels.BFloat16) { // not in one loop
			b.Conv2D(&kernels.Conv2D{Dst: k.Dst, Src: k.Skip, Kernel: sc})
			a.skip, a.skip_bias = [2]*C.float{}, nil
		}
		if a.skip[0] == nil || c.w.Form != kernels.BFloat16 { // otherwise it is a part of the same sums
			a.residual, a.rsampling = a.dst, C.SAME
		}
	}
	spans, splits := b.plan(&a, k.Dst.N)
	units := int(a.units)
	if k.Moments.Present() {
		a.moments = ptr(b.grow(&b.shared, k.Dst.N*units*2*c.w.Out))
	}
	tasks, next := len(spans)*splits, C.long(0)
	b.each(min(tasks, b.threads), int(C.call_conv_scratch(b.lv, &a)), func(_ int, scratch []float32) {
		C.call_conv_tasks(b.lv, &a, unsafe.SliceData(spans), C.long(tasks), C.int(splits), &next, ptr(scratch))
	})
	if k.Moments.Present() {
		b.join(k.Moments, units, int(a.rows)*k.Dst.W, k.Dst.Pixels())
	}
}

// join merges the moments in b.shared, those of units of the given number of pixels, the last one smaller.
func (b *Backend) join(dst kernels.View, units, pixels, all int) {
	if b.planning() {
		return
	}
	for n := range dst.N {
		C.call_moments_join(b.lv, ptr(b.shared[n*units*2*dst.C:]), C.int(units), C.long(pixels), C.long(all), C.int(dst.C), cfloats(dst.Image(n)))
	}
}

// momentsBand is the number of pixels of one task.
const momentsBand = 4096

// Moments sums bands of pixels in parallel and joins them.
func (b *Backend) Moments(dst, x kernels.View) {
	bands := (x.Pixels() + momentsBand - 1) / momentsBand
	part := b.grow(&b.shared, x.N*bands*2*x.C)
	b.each(x.N*bands, 0, func(t int, _ []float32) {
		out, p0 := part[t*2*x.C:], t%bands*momentsBand
		src := floats(x.Image(t / bands))[p0*x.C:]
		C.call_moments(b.lv, ptr(src), C.long(min(momentsBand, x.Pixels()-p0)), C.int(x.C), ptr(out), ptr(out[x.C:]))
	})
	b.join(dst, bands, momentsBand, x.Pixels())
}

// Norm is a handful of numbers per channel: it runs in Go, in float64, as in package ref.
func (b *Backend) Norm(a *kernels.Norm) {
	if b.planning() {
		return
	}
	c := a.Dst.C
	gamma, beta := floats(a.Gamma), floats(a.Beta)
	for n := range a.Dst.N {
		m0, m1 := floats(a.Moments[0].Image(n)), []float32(nil)
		c0 := a.Moments[0].C
		if a.Moments[1].Present() {
			m1 = floats(a.Moments[1].Image(n))
		}
		mean := func(k int) (mean, m2 float64) {
			if k < c0 {
				return float64(m0[k]), float64(m0[c0+k])
			}
			return float64(m1[k-c0]), float64(m1[c-c0+k-c0])
		}
		dst := floats(a.Dst.Image(n))
		var mod []float32
		if a.Modulate.Present() {
			mod = floats(a.Modulate.Image(min(n, a.Modulate.N-1)))
		}
		width := c / a.Groups
		for g := 0; g < c; g += width {
			var mu, dev float64
			for k := g; k < g+width; k++ {
				m, _ := mean(k)
				mu += m / float64(width)
			}
			for k := g; k < g+width; k++ {
				m, q := mean(k)
				dev += q + float64(a.Pixels)*(m-mu)*(m-mu)
			}
			inv := 1 / math.Sqrt(dev/float64(a.Pixels*width)+float64(a.Eps))
			for k := g; k < g+width; k++ {
				scale := float64(gamma[k]) * inv
				offset := float64(beta[k]) - mu*scale
				if mod != nil {
					s, t := float64(mod[k]), float64(mod[c+k])
					scale, offset = scale*(1+s), offset*(1+s)+t
				}
				dst[k], dst[c+k] = float32(scale), float32(offset)
			}
		}
	}
}

// Attention packs keys and values of every head, then runs blocks of queries.
func (b *Backend) Attention(k *kernels.Attention) {
	a := C.attention_args{
		dst: cfloats(k.Dst), q: cfloats(k.Q.View), k: cfloats(k.K.View), v: cfloats(k.V.View),
		qc: C.int(k.Q.C), kc: C.int(k.K.C), vc: C.int(k.V.C), dc: C.int(k.Dst.C),
		qfirst: C.int(k.Q.First), kfirst: C.int(k.K.First), vfirst: C.int(k.V.First),
		qstep: C.int(k.Q.Step), kstep: C.int(k.K.Step), vstep: C.int(k.V.Step),
		queries: C.int(k.Q.Pixels()), keys: C.int(k.K.Pixels()), heads: C.int(k.Heads), dim: C.int(k.Dim), scale: C.float(k.Scale),
	}
	var kfloats C.long
	all := int(C.call_attention_packed(b.lv, &a, &kfloats))
	slots := k.Dst.N * k.Heads
	packed := b.grow(&b.shared, slots*all)
	a.kp, a.vp = ptr(packed), ptr(packed[slots*int(kfloats):])
	b.each(slots, 0, func(t int, _ []float32) {
		C.call_attention_pack(b.lv, &a, C.int(t/k.Heads), C.int(t%k.Heads))
	})
	rows := int(C.call_attention_rows(b.lv))
	blocks := (k.Q.Pixels() + rows - 1) / rows
	b.each(slots*blocks, int(C.call_attention_scratch(b.lv, &a)), func(t int, scratch []float32) {
		C.call_attention_task(b.lv, &a, C.int(t/blocks/k.Heads), C.int(t/blocks%k.Heads), C.int(t%blocks), ptr(scratch))
	})
}

// bands runs f over groups of pixels of about a chunk of elements in all images, of v and of what has its pixels.
func (b *Backend) bands(v kernels.View, f func(first, n int)) {
	pixels := v.N * v.Pixels()
	per := max(1, chunk/v.C)
	b.each((pixels+per-1)/per, 0, func(t int, _ []float32) { f(t*per, min(per, pixels-t*per)) })
}

// LayerNorm runs bands of pixels.
func (b *Backend) LayerNorm(a *kernels.LayerNorm) {
	b.bands(a.Src, func(first, n int) {
		at := first * a.Src.C
		C.call_layer_norm(b.lv, ptr(floats(a.Src)[at:]), ptr(floats(a.Dst)[at:]), C.long(n), C.int(a.Src.C), cfloats(a.Gamma), cfloats(a.Beta), C.float(a.Eps))
	})
}

// GEGLU runs bands of pixels.
func (b *Backend) GEGLU(dst, src kernels.View) {
	b.bands(dst, func(first, n int) {
		C.call_geglu(b.lv, ptr(floats(src)[first*src.C:]), ptr(floats(dst)[first*dst.C:]), C.long(n), C.int(dst.C))
	})
}

// Resample runs bands of rows.
func (b *Backend) Resample(dst, src kernels.View, s kernels.Sampling, moments kernels.View) {
	const rows = 16
	bands := (dst.H + rows - 1) / rows
	b.each(dst.N*bands, 0, func(t int, _ []float32) {
		n, y := t/bands, t%bands*rows
		C.call_resample(b.lv, cfloats(src.Image(n)), cfloats(dst.Image(n)), C.int(src.H), C.int(src.W), C.int(src.C), C.int(s), C.int(y), C.int(min(y+rows, dst.H)))
	})
	if moments.Present() {
		b.Moments(moments, dst)
	}
}

// Nearest runs bands of pixels.
func (b *Backend) Nearest(k *kernels.Nearest) {
	const band = 256
	pixels, dim := k.X.N*k.X.Pixels(), k.X.C
	b.each((pixels+band-1)/band, 0, func(t int, _ []float32) {
		p := t * band
		var index *C.float
		if k.Index.Present() {
			index = ptr(floats(k.Index)[p:])
		}
		C.call_nearest(b.lv, ptr(floats(k.X)[p*dim:]), cfloats(k.Codes), ptr(floats(k.Dst)[p*dim:]), index,
			C.long(min(band, pixels-p)), C.int(dim), C.int(k.Codes.C))
	})
}
