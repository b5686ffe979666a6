package nn

import (
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// loader reads layers from a scope of weights onto a device.
type loader struct {
	d    *tensor.Device
	s    *weights.Scope
	size int // pixels along an edge of the image that the network was made for, 0 if unknown; see kernels.ConvWeights
	buf  *[]float32
	conventions
}

// conventions are what all blocks of a network have in common.
type conventions struct {
	groups      int     // of a GroupNorm
	eps         float64 // of a GroupNorm
	embed       int     // width of the embedding of time
	modulate    bool    // the embedding scales and shifts a block's second norm; otherwise it is added before it
	newOrder    bool    // channels of qkv are [q|k|v][head]; otherwise [head][q|k|v]
	rightBottom bool    // convolutions of stride 2 pad on the right and at the bottom only; otherwise on all sides
}

// weight reads the weights of a convolution into the one buffer that all share: preparing them makes a copy.
func (l loader) weight(shape ...int) []float32 {
	*l.buf = l.s.FloatsInto(*l.buf, "weight", shape...)
	return *l.buf
}

func (l loader) at(path ...any) loader { l.s = l.s.At(path...); return l }

// kernel prepares a convolution of activations.
func (l loader) kernel(w kernels.ConvWeights) *tensor.Kernel {
	w.Type = l.d.Stored()
	return l.d.Kernel(w)
}

// conv reads a convolution with 'same' padding, whose input will be enlarged where up is set. ds is the downsampling
// factor at its output.
func (l loader) conv(in, out, size, stride, ds int, up bool) *tensor.Kernel {
	return l.kernel(kernels.ConvWeights{
		Weight: l.weight(out, in, size, size), Bias: l.s.Floats("bias", out), Up: up,
		In: in, Out: out, Size: size, Stride: stride, Pad: size / 2, Pixels: (l.size / ds) * (l.size / ds),
	})
}

// conv1d reads a convolution of width 1 over a sequence of pixels, which is a 1x1 convolution.
func (l loader) conv1d(in, out, ds int) *tensor.Kernel {
	return l.kernel(kernels.ConvWeights{
		Weight: l.weight(out, in, 1), Bias: l.s.Floats("bias", out),
		In: in, Out: out, Size: 1, Stride: 1, Pixels: (l.size / ds) * (l.size / ds),
	})
}

// linear reads a fully connected layer of an embedding, which is a 1x1 convolution of a single pixel, always in F32.
func (l loader) linear(in, out int) *tensor.Kernel {
	return l.d.Kernel(kernels.ConvWeights{
		Weight: l.weight(out, in), Bias: l.s.Floats("bias", out), In: in, Out: out, Size: 1, Stride: 1, Pixels: 1,
	})
}

// convEnd reads a 3x3 convolution of stride 2 that pads on the right and at the bottom only.
func (l loader) convEnd(in, out, ds int) *tensor.Kernel {
	return l.kernel(kernels.ConvWeights{
		Weight: l.weight(out, in, 3, 3), Bias: l.s.Floats("bias", out),
		In: in, Out: out, Size: 3, Stride: 2, PadEnd: 1, Pixels: (l.size / ds) * (l.size / ds),
	})
}

// groupNorm is group normalisation; without groups, none at all.
type groupNorm struct {
	gamma, beta *tensor.Tensor
	groups      int
	eps         float32
}

// groupNorm reads a norm of the network's convention.
func (l loader) groupNorm(channels int) groupNorm {
	if l.groups == 0 {
		return groupNorm{}
	}
	return l.norm(channels, l.groups, l.eps)
}

func (l loader) norm(channels, groups int, eps float64) groupNorm {
	return groupNorm{l.d.Vector(l.s.Floats("weight", channels)), l.d.Vector(l.s.Floats("bias", channels)), groups, float32(eps)}
}

// of is GN([x | skip]), then h*(1+s) + b where modulate = (s, b) is given.
func (g groupNorm) of(x, skip, modulate *tensor.Tensor) tensor.Input {
	if g.groups == 0 {
		return tensor.Input{X: x, Skip: skip}
	}
	return x.Device().GroupNorm(x, skip, g.gamma, g.beta, g.groups, g.eps, modulate)
}

// resBlock is the ResBlock of UNets. sampling is Up2 or Down2 in the blocks that replace the resampling layers.
type resBlock struct {
	norm1    groupNorm
	conv1    *tensor.Kernel
	emb      *tensor.Kernel
	norm2    groupNorm
	conv2    *tensor.Kernel
	skip     *tensor.Kernel // nil: the identity
	sampling kernels.Sampling
	modulate bool // the embedding scales and shifts norm2; otherwise it is added before it
}

func (l loader) resBlock(in, out, ds int, s kernels.Sampling) *resBlock {
	b := &resBlock{sampling: s, modulate: l.modulate}
	b.norm1 = l.at("in_layers", 0).groupNorm(in)
	b.conv1 = l.at("in_layers", 2).conv(in, out, 3, 1, ds, s == kernels.Up2)
	embed := out
	if b.modulate {
		embed = 2 * out
	}
	b.emb = l.at("emb_layers", 1).linear(l.embed, embed)
	b.norm2 = l.at("out_layers", 0).groupNorm(out)
	b.conv2 = l.at("out_layers", 3).conv(out, out, 3, 1, ds, false)
	if in != out {
		b.skip = l.at("skip_connection").conv(in, out, 1, 1, ds, false)
	}
	return b
}

// forward maps x (beside skip, if given) [N,H,W,in] and what emb made of the embedding of time, e, to [N,H',W',out].
func (b *resBlock) forward(x, skip, e *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	h := b.norm1.of(x, skip, nil).SiLU().Resampled(b.sampling) // SiLU(GN(x))
	var second tensor.Input
	if b.modulate {
		second = b.norm2.of(d.Conv2D(b.conv1, h, tensor.Epilogue{Moments: true}), nil, e) // (1+s) GN(h) + b
	} else {
		second = b.norm2.of(d.Conv2D(b.conv1, h, tensor.Epilogue{Embed: e, Moments: true}), nil, nil) // GN(h + e)
	}
	res := tensor.Epilogue{Residual: x, Sampling: b.sampling, Moments: true}
	if b.skip != nil {
		res.Residual, res.Shortcut = nil, &tensor.Shortcut{Kernel: b.skip, X: x, Skip: skip}
	}
	return d.Conv2D(b.conv2, second.SiLU(), res)
}

// attention is guided-diffusion's AttentionBlock, and diffusers' with its matrices stacked.
type attention struct {
	norm      groupNorm
	qkv, proj *tensor.Kernel
	heads     int
	newOrder  bool // channels of qkv are [q|k|v][head]; otherwise [head][q|k|v]
}

func (l loader) attention(channels, heads, ds int) *attention {
	return &attention{
		norm: l.at("norm").groupNorm(channels), qkv: l.at("qkv").conv1d(channels, 3*channels, ds),
		proj: l.at("proj_out").conv1d(channels, channels, ds), heads: heads, newOrder: l.newOrder,
	}
}

// forward maps [N,H,W,C] to the same shape: x + proj(attention(GN(x))).
func (a *attention) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	c := x.C()
	dim := c / a.heads
	qkv := d.Conv2D(a.qkv, a.norm.of(x, nil, nil), tensor.Epilogue{})
	q, k, v := tensor.Heads{X: qkv, Step: 3 * dim}, tensor.Heads{X: qkv, First: dim, Step: 3 * dim}, tensor.Heads{X: qkv, First: 2 * dim, Step: 3 * dim}
	if a.newOrder {
		q, k, v = tensor.Heads{X: qkv, Step: dim}, tensor.Heads{X: qkv, First: c, Step: dim}, tensor.Heads{X: qkv, First: 2 * c, Step: dim}
	}
	h := d.Attention(q, k, v, a.heads, dim, float32(invSqrt(dim)))
	return d.Conv2D(a.proj, tensor.Input{X: h}, tensor.Epilogue{Residual: x, Moments: true})
}

// resample is the Upsample or Downsample of UNets: a convolution of stride 2 or after enlarging, or, without one, the
// mean of 2x2 pixels or plain repetition.
type resample struct {
	conv *tensor.Kernel
	up   bool
}

func (l loader) resample(kind string, channels, ds int, up bool) *resample {
	r := &resample{up: up}
	switch {
	case kind == SampleConv && up:
		r.conv = l.at("conv").conv(channels, channels, 3, 1, ds, true)
	case kind == SampleConv && l.rightBottom:
		r.conv = l.at("op").convEnd(channels, channels, ds)
	case kind == SampleConv:
		r.conv = l.at("op").conv(channels, channels, 3, 2, ds, false)
	}
	return r
}

func (r *resample) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	switch {
	case r.conv != nil && r.up:
		return d.Conv2D(r.conv, tensor.Input{X: x}.Resampled(kernels.Up2), tensor.Epilogue{Moments: true})
	case r.conv != nil:
		return d.Conv2D(r.conv, tensor.Input{X: x}, tensor.Epilogue{Moments: true})
	case r.up:
		return x.Resample(kernels.Up2)
	}
	return x.Resample(kernels.Down2)
}
