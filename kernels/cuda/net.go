//go:build cuda && cgo && linux && amd64

package cuda

// #include "args.h"
import "C"

import (
	"fmt"
	"slices"

	"github.com/spin-native/spin/kernels"
)

// kernelNames are the kernels of the image.
var kernelNames = append([]string{
	"conv_f32_64x64", "conv_f32_256x4", "conv_f32_16x64", "linear_f32", "mix_f32", "moments_part", "moments_join", "norm_f32", "layernorm_f32",
	"attention_f32_8", "attention_f32_1", "geglu_f32", "resample_f32", "nearest_f32",
	"blend_f32", "dot_f32", "conjugate_f32", "separable_f32", "band_rows", "band_cols", "filter_f32", "filter_adjoint_f32", "accelerate_f32",
	"adam_f32", "fft_f32", "dft_f32", "circle_in_f32", "circle_columns_f32", "circle_out_f32",
	"pointwise_f32", "sparse_f32", "together_f32",
}, halfNames...)

// sharedLimit is what every device has for a block without being asked, in bytes.
const sharedLimit = 48 << 10

type conv struct {
	w            kernels.ConvWeights // without Weight and Bias
	weight, bias device              // weights are [tap][in][out], and for F16 as packHalf has them
	tensor       *C.tensor_map       // of weights that conv_wgmma may multiply by, otherwise nil
}

func (c *conv) Weights() kernels.ConvWeights { return c.w }

// PrepareConv reorders the weights and has them wait for their memory.
func (b *Backend) PrepareConv(w kernels.ConvWeights) (kernels.Conv, error) {
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	if err := b.now(func() error { return nil }); err != nil { // a fault
		return nil, err
	}
	c := &conv{w: w}
	c.w.Weight, c.w.Bias = nil, nil
	arrays := []array{{bytes: 4 * packedLen(w), at: &c.weight}}
	switch {
	case b.planning:
	case w.Type == kernels.F16:
		arrays[0].data = bytesOf(packHalf(w))
	default:
		arrays[0].data = bytesOf(pack(w))
	}
	if w.Bias != nil {
		arrays = append(arrays, arrayOf(slices.Clone(w.Bias), &c.bias))
	}
	if err := b.add(c, arrays); err != nil {
		return nil, err
	}
	return c, nil
}

// packedLen is how many numbers pack or packHalf makes of weights.
func packedLen(w kernels.ConvWeights) int {
	if w.Type == kernels.F16 {
		return w.Out * w.Size * w.Size * wide(w.In) / 2
	}
	return len(w.Weight)
}

func pack(w kernels.ConvWeights) []float32 {
	area := w.Size * w.Size
	packed := make([]float32, packedLen(w))
	for o := range w.Out {
		for i := range w.In {
			for t := range area {
				packed[(t*w.In+i)*w.Out+o] = w.Weight[(o*w.In+i)*area+t]
			}
		}
	}
	return packed
}

// convTile is one instance of the kernel: pixels by channels of a block.
type convTile struct {
	name             string
	pixels, channels int
}

// tileFor depends on the shape of one image only, so that a batch gives the bytes of its images.
func tileFor(pixels, channels int) convTile {
	switch {
	case channels <= 4:
		return convTile{"conv_f32_256x4", 256, 4}
	case pixels <= 64:
		return convTile{"conv_f32_16x64", 16, 64}
	}
	return convTile{"conv_f32_64x64", 64, 64}
}

const convDepth = 16 // kDepth of conv.cu

// pure reports whether a convolution multiplies the channels of each pixel, activated perhaps, and does nothing else.
func pure(k *kernels.Conv2D, c *conv) bool {
	return c.w.Size == 1 && c.w.Stride == 1 && c.w.Pad == 0 && c.w.PadEnd == 0 && k.Sampling == kernels.Same && !k.ReLU && k.Shortcut == nil &&
		!k.Affine.Present() && !k.Embed.Present() && !k.Residual.Present() && !k.Moments.Present()
}

// Conv2D implements kernels.Net.
func (b *Backend) Conv2D(k *kernels.Conv2D) {
	must(b.place())
	c := k.Kernel.(*conv)
	if c.w.Type == kernels.F16 {
		b.convHalf(k, c)
		return
	}
	if b.linear(k, c) {
		return
	}
	if pure(k, c) && k.Act == kernels.Identity && max(c.w.In, c.w.Out) <= C.MIX_MOST {
		pixels := k.Src[0].N * k.Src[0].Pixels()
		each(b, "mix_f32", pixels, C.mix_args{
			dst: at(k.Dst), src: [2]C.device_floats{at(k.Src[0]), at(k.Src[1])}, weight: C.ulonglong(c.weight), bias: C.ulonglong(c.bias),
			pixels: C.longlong(pixels), c: [2]C.int{C.int(k.Src[0].C), C.int(k.Src[1].C)}, cout: C.int(c.w.Out),
		})
		return
	}
	a := C.conv_args{
		dst: at(k.Dst), src: [2]C.device_floats{at(k.Src[0]), at(k.Src[1])}, affine: at(k.Affine),
		weight: C.ulonglong(c.weight), bias: C.ulonglong(c.bias), embed: at(k.Embed), residual: at(k.Residual),
		c: [2]C.int{C.int(k.Src[0].C), C.int(k.Src[1].C)},
		h: C.int(k.Src[0].H), w: C.int(k.Src[0].W), oh: C.int(k.Dst.H), ow: C.int(k.Dst.W), cout: C.int(c.w.Out),
		size: C.int(c.w.Size), stride: C.int(c.w.Stride), pad: C.int(c.w.Pad),
		act: C.int(k.Act), sampling: C.int(k.Sampling), rsampling: C.int(k.ResidualSampling), relu: flag(k.ReLU),
		embeds: C.int(k.Embed.N),
	}
	if k.Shortcut != nil {
		s := k.Shortcut.(*conv)
		a.skip = [2]C.device_floats{at(k.Skip[0]), at(k.Skip[1])}
		a.cs = [2]C.int{C.int(k.Skip[0].C), C.int(k.Skip[1].C)}
		a.skip_weight, a.skip_bias, a.residual = C.ulonglong(s.weight), C.ulonglong(s.bias), 0
	}
	t := tileFor(k.Dst.Pixels(), c.w.Out)
	launch(b, t.name, blocks(k.Dst.Pixels(), t.pixels), blocks(c.w.Out, t.channels), k.Dst.N, 256, 4*(convDepth*(t.pixels+t.channels)+2*t.pixels), a)
	if k.Moments.Present() {
		b.Moments(k.Moments, k.Dst)
	}
}

func flag(on bool) C.int {
	if on {
		return 1
	}
	return 0
}

const momentsBand = 1024 // kBand of norm.cu

// Moments sums bands of pixels and joins them.
func (b *Backend) Moments(dst, x kernels.View) {
	bands := blocks(x.Pixels(), momentsBand)
	part := b.shared(8 * 2 * x.N * bands * x.C)
	a := C.moments_args{dst: at(dst), x: at(x), part: C.ulonglong(part), pixels: C.longlong(x.Pixels()), c: C.int(x.C), bands: C.int(bands)}
	first, join := "moments_part", "moments_join"
	if x.Type == kernels.F16 {
		first, join = "moments_part_f16", "moments_join_f16"
	}
	launch(b, first, bands, blocks(x.C, 32), x.N, 256, 8*2*256, a)
	launch(b, join, blocks(x.C, 128), x.N, 1, 128, 0, a)
}

// Norm is made by the last block of the convolution that gathers its moments, where that is not under way yet.
func (b *Backend) Norm(a *kernels.Norm) {
	args := C.norm_args{
		dst: at(a.Dst), m: [2]C.device_floats{at(a.Moments[0]), at(a.Moments[1])}, gamma: at(a.Gamma), beta: at(a.Beta), modulate: at(a.Modulate),
		c: [2]C.int{C.int(a.Moments[0].C), C.int(a.Moments[1].C)}, n: C.int(a.Dst.N), groups: C.int(a.Groups),
		modulates: C.int(a.Modulate.N), pixels: C.longlong(a.Pixels), eps: C.float(a.Eps),
	}
	if c, ok := b.waiting.(*heldConv); ok && c.makes(a) {
		c.args.norm = args
		b.tellHeld()
		return
	}
	launch(b, "norm_f32", a.Dst.N, 1, 1, 128, 0, args)
}

// Attention in F32, and of heads that the tensor-core kernels do not take, has eight queries at a time where they fit in
// shared memory.
func (b *Backend) Attention(k *kernels.Attention) {
	const keys = 128 // kKeys of attention.cu
	a := C.attention_args{
		dst: at(k.Dst), q: at(k.Q.View), k: at(k.K.View), v: at(k.V.View),
		qc: C.int(k.Q.C), kc: C.int(k.K.C), vc: C.int(k.V.C), dc: C.int(k.Dst.C),
		qfirst: C.int(k.Q.First), kfirst: C.int(k.K.First), vfirst: C.int(k.V.First),
		qstep: C.int(k.Q.Step), kstep: C.int(k.K.Step), vstep: C.int(k.V.Step),
		queries: C.int(k.Q.Pixels()), keys: C.int(k.K.Pixels()), dim: C.int(k.Dim), scale: C.float(k.Scale),
	}
	if flashable(k) {
		name, queries, shared := flash(k.Dim)
		lineUp(b, name, blocks(k.Q.Pixels(), queries), k.Heads, k.Dst.N, 128, shared, a)
		return
	}
	room := func(queries int) int { return 4 * queries * (2*k.Dim + keys + 3) }
	queries := 8
	if room(queries) > sharedLimit {
		queries = 1
	}
	if room(queries) > sharedLimit {
		b.later(func() error {
			b.fault = fmt.Errorf("%s: attention heads of %d channels do not fit in its shared memory", b.name, k.Dim)
			return nil
		})
		return
	}
	launch(b, fmt.Sprintf("attention_%v_%d", k.Q.Type, queries), blocks(k.Q.Pixels(), queries), k.Heads, k.Dst.N, keys, room(queries), a)
}

// LayerNorm implements kernels.Net.
func (b *Backend) LayerNorm(a *kernels.LayerNorm) {
	pixels := a.Src.N * a.Src.Pixels()
	each(b, "layernorm_"+a.Src.Type.String(), 32*pixels, C.layernorm_args{
		dst: at(a.Dst), src: at(a.Src), gamma: at(a.Gamma), beta: at(a.Beta), pixels: C.longlong(pixels), c: C.int(a.Src.C), eps: C.float(a.Eps),
	})
}

// GEGLU implements kernels.Net.
func (b *Backend) GEGLU(dst, src kernels.View) {
	each(b, "geglu_"+src.Type.String(), dst.Len(), C.geglu_args{dst: at(dst), src: at(src), count: C.longlong(dst.Len()), c: C.int(dst.C)})
}

// Resample implements kernels.Net.
func (b *Backend) Resample(dst, src kernels.View, s kernels.Sampling, moments kernels.View) {
	name := "resample_" + dst.Type.String()
	if src.Type != dst.Type {
		name += "_" + src.Type.String()
	}
	each(b, name, dst.Len(), C.resample_args{
		dst: at(dst), src: at(src), count: C.longlong(dst.Len()), h: C.int(dst.H), w: C.int(dst.W), c: C.int(dst.C), sampling: C.int(s),
	})
	if moments.Present() {
		b.Moments(moments, dst)
	}
}

// Nearest implements kernels.Net.
func (b *Backend) Nearest(a *kernels.Nearest) {
	pixels := a.X.N * a.X.Pixels()
	each(b, "nearest_f32", 32*pixels, C.nearest_args{
		dst: at(a.Dst), index: at(a.Index), x: at(a.X), codes: at(a.Codes), pixels: C.longlong(pixels), dim: C.int(a.X.C), count: C.int(a.Codes.C),
	})
}
