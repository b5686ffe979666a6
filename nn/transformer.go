package nn

import (
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// transformer is CompVis' SpatialTransformer, diffusers' Transformer2DModel: the pixels are a sequence that attends to
// itself and to a context.
type transformer struct {
	norm   groupNorm
	in     *tensor.Kernel
	blocks []*transformerBlock
	out    *tensor.Kernel
}

func (l loader) transformer(channels, context, heads, depth, ds int, matrices bool) *transformer {
	project := func(l loader) *tensor.Kernel {
		if matrices {
			return l.matrix(channels, channels, ds)
		}
		return l.conv(channels, channels, 1, 1, ds, false)
	}
	t := &transformer{norm: l.at("norm").groupNorm(channels), in: project(l.at("proj_in")), out: project(l.at("proj_out"))}
	for i := range depth {
		t.blocks = append(t.blocks, l.at("transformer_blocks", i).transformerBlock(channels, context, heads, ds))
	}
	return t
}

// forward maps x [N,H,W,C] to x + proj_out(blocks(proj_in(GN(x)), context)).
func (t *transformer) forward(x *tensor.Tensor, context *Context) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	h := d.Conv2D(t.in, t.norm.of(x, nil, nil), tensor.Epilogue{})
	for _, b := range t.blocks {
		h = b.forward(h, context)
	}
	return d.Conv2D(t.out, tensor.Input{X: h}, tensor.Epilogue{Residual: x, Moments: true})
}

// transformerBlock is CompVis' BasicTransformerBlock.
type transformerBlock struct {
	self  *selfAttention
	cross *crossAttention
	ff    *feedForward
}

func (l loader) transformerBlock(channels, context, heads, ds int) *transformerBlock {
	return &transformerBlock{
		self:  &selfAttention{l.at("norm1").layerNorm(channels), l.at("attn1").stack(channels, channels, ds, "to_q", "to_k", "to_v"), l.at("attn1", "to_out", 0).matrix(channels, channels, ds), heads},
		cross: &crossAttention{l.at("norm2").layerNorm(channels), l.at("attn2").stack(channels, channels, ds, "to_q"), l.at("attn2").stack(context, channels, ds, "to_k", "to_v"), l.at("attn2", "to_out", 0).matrix(channels, channels, ds), heads},
		ff:    &feedForward{l.at("norm3").layerNorm(channels), l.at("ff", "net", 0, "proj").matrix(channels, 8*channels, ds), l.at("ff", "net", 2).matrix(4*channels, channels, ds)},
	}
}

func (b *transformerBlock) forward(x *tensor.Tensor, context *Context) (out *tensor.Tensor) {
	defer x.Device().Tidy(&out)()
	x = b.self.forward(x)
	x = b.cross.forward(x, context)
	return b.ff.forward(x)
}

// selfAttention attends from every pixel to all.
type selfAttention struct {
	norm  layerNorm
	qkv   *tensor.Kernel
	out   *tensor.Kernel
	heads int
}

// forward is x + out(attention(q, k, v)), where q, k and v are made of LN(x).
func (a *selfAttention) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d, c := x.Device(), x.C()
	defer d.Tidy(&out)()
	qkv := d.Conv2D(a.qkv, tensor.Input{X: a.norm.of(x)}, tensor.Epilogue{})
	dim := c / a.heads
	q, k, v := tensor.Heads{X: qkv, Step: dim}, tensor.Heads{X: qkv, First: c, Step: dim}, tensor.Heads{X: qkv, First: 2 * c, Step: dim}
	h := d.Attention(q, k, v, a.heads, dim, float32(invSqrt(dim)))
	return d.Conv2D(a.out, tensor.Input{X: h}, tensor.Epilogue{Residual: x})
}

// crossAttention attends from every pixel to the tokens of a context.
type crossAttention struct {
	norm  layerNorm
	q, kv *tensor.Kernel
	out   *tensor.Kernel
	heads int
}

// ready is keys and values of tokens [N,1,L,D], side by side.
func (a *crossAttention) ready(tokens *tensor.Tensor) (kv *tensor.Tensor) {
	d := tokens.Device()
	defer d.Tidy(&kv)()
	return d.Conv2D(a.kv, tensor.Input{X: tokens}, tensor.Epilogue{})
}

// forward is x + out(attention(q, k, v)), where q is made of LN(x), k and v of the context.
func (a *crossAttention) forward(x *tensor.Tensor, context *Context) (out *tensor.Tensor) {
	d, c := x.Device(), x.C()
	defer d.Tidy(&out)()
	q := d.Conv2D(a.q, tensor.Input{X: a.norm.of(x)}, tensor.Epilogue{})
	kv, dim := context.kv[a], c/a.heads
	k, v := tensor.Heads{X: kv, Step: dim}, tensor.Heads{X: kv, First: c, Step: dim}
	h := d.Attention(tensor.Heads{X: q, Step: dim}, k, v, a.heads, dim, float32(invSqrt(dim)))
	return d.Conv2D(a.out, tensor.Input{X: h}, tensor.Epilogue{Residual: x})
}

// feedForward works on every pixel alone.
type feedForward struct {
	norm    layerNorm
	in, out *tensor.Kernel
}

// forward is x + out(GEGLU(in(LN(x)))).
func (f *feedForward) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	h := d.Conv2D(f.in, tensor.Input{X: f.norm.of(x)}, tensor.Epilogue{}) // [N,H,W,8C]: values, then gates
	return d.Conv2D(f.out, tensor.Input{X: h.GEGLU()}, tensor.Epilogue{Residual: x})
}

// layerNorm is LayerNorm over the channels with eps 1e-5, as everywhere in these transformers.
type layerNorm struct {
	gamma, beta *tensor.Tensor
}

func (l loader) layerNorm(channels int) layerNorm {
	return layerNorm{l.d.Vector(l.s.Floats("weight", channels)), l.d.Vector(l.s.Floats("bias", channels))}
}

func (n layerNorm) of(x *tensor.Tensor) *tensor.Tensor { return x.LayerNorm(n.gamma, n.beta, 1e-5) }

// matrix reads a fully connected layer that is applied to every pixel, which is a 1x1 convolution.
func (l loader) matrix(in, out, ds int) *tensor.Kernel {
	return l.kernel(kernels.ConvWeights{
		Weight: l.weight(out, in), Bias: l.s.Floats("bias", out),
		In: in, Out: out, Size: 1, Stride: 1, Pixels: (l.size / ds) * (l.size / ds),
	})
}

// stack reads matrices without bias that are applied to the same pixels, to be one convolution that puts their results
// side by side.
func (l loader) stack(in, out, ds int, names ...string) *tensor.Kernel {
	var rows []float32
	for _, name := range names {
		rows = append(rows, l.at(name).weight(out, in)...)
	}
	return l.kernel(kernels.ConvWeights{
		Weight: rows, In: in, Out: len(names) * out, Size: 1, Stride: 1, Pixels: (l.size / ds) * (l.size / ds),
	})
}
