package nn

import (
	"math"
	"slices"
	"strings"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// Autoencoder is the first stage of latent-diffusion (Rombach et al. 2022) and of diffusers: AutoencoderKL, whose encoder
// gives a Gaussian, or VQModelInterface, whose decoder looks latents up in a code book.
type Autoencoder struct {
	Config AutoencoderConfig
	// Trace, where set, sees every layer's output under its upstream name, for comparisons.
	Trace func(name string, x *tensor.Tensor)

	latent
	tiling           Tiling
	encoder, decoder chain
	mean, logVar     *tensor.Kernel // the halves of quant_conv; logVar is nil with a code book
	codes            *tensor.Tensor // [1,1,EmbedDim,NumEmbeddings], nil without a code book
	book             []float32      // the same by code vector, for Lookup
}

// LoadAutoencoder reads a first stage by its upstream names. Every shape is checked; the error names the first tensor that
// is missing, misshapen or not finite. Of the options, ImageSize is the edge of the pictures that it will mostly see.
func LoadAutoencoder(d *tensor.Device, s *weights.Scope, c AutoencoderConfig, o LoadOptions) (a *Autoencoder, err error) {
	defer tensor.Catch(&err)
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.ImageSize == 0 {
		o.ImageSize = 256
	}
	l := loader{d: d, s: s, size: o.ImageSize, buf: new([]float32)}
	a = &Autoencoder{Config: c, tiling: o.Tiling, latent: newLatent(d, c.EmbedDim, c.ScaleFactor, c.ShiftFactor, c.LatentsMean, c.LatentsStd)}
	if !o.DecoderOnly {
		a.encoder = l.encoder(c)
		a.loadQuantConv(l.at("quant_conv"))
	}
	if c.NumEmbeddings > 0 {
		a.loadCodes(s.At("quantize", "embedding"))
	}
	a.decoder = l.decoder(c)
	return a, nil
}

// loadQuantConv cuts quant_conv in two, so that means come without log variances. Where there is none, the halves of the
// identity pick the channels.
func (a *Autoencoder) loadQuantConv(l loader) {
	c := a.Config
	halves := 1
	if c.DoubleZ {
		halves = 2
	}
	in, out := halves*c.ZChannels, halves*c.EmbedDim
	w, b := make([]float32, out*in), make([]float32, out)
	if c.QuantConv {
		w, b = l.s.Floats("weight", out, in, 1, 1), l.s.Floats("bias", out)
	} else {
		for i := range out {
			w[i*in+i] = 1
		}
	}
	part := func(first int) *tensor.Kernel {
		last := first + c.EmbedDim
		return a.d.Kernel(kernels.ConvWeights{Weight: w[first*in : last*in], Bias: b[first:last], In: in, Out: c.EmbedDim, Size: 1, Stride: 1})
	}
	a.mean = part(0)
	if c.DoubleZ {
		a.logVar = part(c.EmbedDim)
	}
}

func (a *Autoencoder) loadCodes(s *weights.Scope) {
	count, dim := a.Config.NumEmbeddings, a.Config.EmbedDim
	a.book = slices.Clone(s.Floats("weight", count, dim))
	columns := make([]float32, len(a.book))
	for k := range count {
		for i := range dim {
			columns[i*count+k] = a.book[k*dim+i]
		}
	}
	a.codes = a.d.From(columns, 1, 1, dim, count)
}

// Downsampling is the factor between pictures and latents: sizes of pictures must be divisible by it.
func (c AutoencoderConfig) Downsampling() int { return 1 << (len(c.Channels) - 1) }

// Downsampling is the factor between pictures and latents: sizes of pictures must be divisible by it.
func (a *Autoencoder) Downsampling() int { return a.Config.Downsampling() }

// PictureChannels is the number of channels of what Encode takes.
func (a *Autoencoder) PictureChannels() int { return a.Config.InChannels }

// Encode maps pictures [N,H,W,InChannels] in [-1,1] to latents [N,H/f,W/f,EmbedDim]: the means of a Gaussian one, and with
// a code book what has not been looked up in it yet.
func (a *Autoencoder) Encode(x *tensor.Tensor) (z *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	defer x.Device().Tidy(&z)()
	return x.Device().Conv2D(a.mean, tensor.Input{X: a.encoded(x)}, tensor.Epilogue{}), nil
}

func (a *Autoencoder) encoded(x *tensor.Tensor) *tensor.Tensor {
	checkPicture("nn.Autoencoder", a.encoder, x, a.Config.InChannels, a.Downsampling())
	return a.encoder.run(x, a.tiling, a.Trace)
}

// Posterior is what autoencoder-kl makes of pictures: a Gaussian for every element of the latents.
type Posterior struct {
	Mean   *tensor.Tensor // [N,H/f,W/f,EmbedDim]
	LogVar *tensor.Tensor // of the same shape, from -30 to 20
}

// Free frees both tensors.
func (p Posterior) Free() {
	p.Mean.Free()
	p.LogVar.Free()
}

// Posterior is Encode with variances. A code book has none.
func (a *Autoencoder) Posterior(x *tensor.Tensor) (p Posterior, err error) {
	defer tensor.Catch(&err)
	if !a.Config.DoubleZ {
		tensor.Fail("nn.Autoencoder", "this first stage has no variances (double_z is false)")
	}
	d := x.Device()
	defer d.Tidy(&p.Mean, &p.LogVar)()
	h := tensor.Input{X: a.encoded(x)}
	p.Mean, p.LogVar = d.Conv2D(a.mean, h, tensor.Epilogue{}), d.Conv2D(a.logVar, h, tensor.Epilogue{})
	v, err := p.LogVar.Floats() // a latent is small: the host can do it
	if err != nil {
		return Posterior{}, err
	}
	for i := range v {
		v[i] = min(max(v[i], -30), 20)
	}
	p.LogVar.Set(v)
	return p, nil
}

// Sample draws latents: Mean + exp(LogVar/2) * noise, for standard normal noise in the order of Mean's elements.
func (p Posterior) Sample(noise []float32) (z *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	if len(noise) != p.Mean.Len() {
		tensor.Fail("nn.Posterior", "%d values of noise for latents of shape %v", len(noise), p.Mean)
	}
	mean, err := p.Mean.Floats()
	if err != nil {
		return nil, err
	}
	logVar, err := p.LogVar.Floats()
	if err != nil {
		return nil, err
	}
	for i, n := range noise {
		mean[i] = float32(float64(mean[i]) + math.Exp(0.5*float64(logVar[i]))*float64(n))
	}
	return p.Mean.Device().From(mean, p.Mean.N(), p.Mean.H(), p.Mean.W(), p.Mean.C()), nil
}

// Quantise replaces every pixel of latents by the nearest vector of the code book, the first of equally near ones. indices
// are their numbers, row by row, image by image.
func (a *Autoencoder) Quantise(z *tensor.Tensor) (zq *tensor.Tensor, indices []int, err error) {
	defer tensor.Catch(&err)
	defer z.Device().Tidy(&zq)()
	a.checkBook()
	a.check("nn.Autoencoder", z)
	zq, index := z.Device().Nearest(z, a.codes)
	found, err := index.Floats()
	if err != nil {
		return nil, nil, err
	}
	indices = make([]int, len(found))
	for i, f := range found {
		indices[i] = int(f)
	}
	return zq, indices, nil
}

func (a *Autoencoder) checkBook() {
	if a.codes == nil {
		tensor.Fail("nn.Autoencoder", "this first stage has no code book")
	}
}

// Lookup is the way back from numbers to latents [n,h,w,EmbedDim].
func (a *Autoencoder) Lookup(indices []int, n, h, w int) (zq *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	a.checkBook()
	dim := a.Config.EmbedDim
	if n < 1 || h < 1 || w < 1 || len(indices) != n*h*w {
		tensor.Fail("nn.Autoencoder", "%d code numbers for latents of shape [%d %d %d %d]", len(indices), n, h, w, dim)
	}
	data := make([]float32, 0, len(indices)*dim)
	for _, k := range indices {
		if k < 0 || k >= a.Config.NumEmbeddings {
			tensor.Fail("nn.Autoencoder", "code number %d, expected 0 to %d", k, a.Config.NumEmbeddings-1)
		}
		data = append(data, a.book[k*dim:][:dim]...)
	}
	return a.d.From(data, n, h, w, dim), nil
}

// Decode maps latents [N,h,w,EmbedDim] to pictures [N,f*h,f*w,OutChannels], near [-1,1] but not clipped to it. With a code
// book, latents are looked up first.
func (a *Autoencoder) Decode(z *tensor.Tensor) (x *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	defer z.Device().Tidy(&x)()
	a.check("nn.Autoencoder", z)
	if a.codes != nil {
		z, _ = z.Device().Nearest(z, a.codes)
	}
	return a.decoder.run(z, a.tiling, a.Trace), nil
}

// DecodeAsIs is Decode without the code book.
func (a *Autoencoder) DecodeAsIs(z *tensor.Tensor) (x *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	defer z.Device().Tidy(&x)()
	a.check("nn.Autoencoder", z)
	return a.decoder.run(z, a.tiling, a.Trace), nil
}

// resnet is a block of an autoencoder: x + conv2(SiLU(GN(conv1(SiLU(GN(x)))))), x by a 1x1 convolution where channels change.
type resnet struct {
	norm1 groupNorm
	conv1 *tensor.Kernel
	norm2 groupNorm
	conv2 *tensor.Kernel
	skip  *tensor.Kernel // nil: the identity
}

// forward maps [N,H,W,in] to [N,H,W,out].
func (b *resnet) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	h := d.Conv2D(b.conv1, b.norm1.of(x, nil, nil).SiLU(), tensor.Epilogue{Moments: true})
	res := tensor.Epilogue{Residual: x, Moments: true}
	if b.skip != nil {
		res.Residual, res.Shortcut = nil, &tensor.Shortcut{Kernel: b.skip, X: x}
	}
	return d.Conv2D(b.conv2, b.norm2.of(h, nil, nil).SiLU(), res)
}

// half builds an encoder or a decoder, which name their layers alike.
type half struct {
	l    loader // at encoder or decoder
	c    AutoencoderConfig
	ch   int // channels so far
	ds   int // downsampling factor so far
	list chain
}

func (b *half) add(x layer, path ...any) {
	b.list = append(b.list, step{strings.TrimSuffix(b.l.s.At(path...).Path(""), "."), x})
}

func (b *half) norm(l loader, channels int) groupNorm {
	return l.norm(channels, b.c.NormGroups, b.c.NormEps)
}

func (b *half) conv(in, out int, name string) {
	b.add(&conv{kernel: b.l.at(name).conv(in, out, 3, 1, b.ds, false), moments: true}, name)
	b.ch = out
}

func (b *half) resnet(out int, path ...any) {
	l := b.l.at(path...)
	r := &resnet{
		norm1: b.norm(l.at("norm1"), b.ch), conv1: l.at("conv1").conv(b.ch, out, 3, 1, b.ds, false),
		norm2: b.norm(l.at("norm2"), out), conv2: l.at("conv2").conv(out, out, 3, 1, b.ds, false),
	}
	if b.ch != out {
		r.skip = l.at("nin_shortcut").conv(b.ch, out, 1, 1, b.ds, false)
	}
	b.add(r, path...)
	b.ch = out
}

// attention reads an attention with one head. Its q, k and v are made by one convolution.
func (b *half) attention(path ...any) {
	l, ch := b.l.at(path...), b.ch
	var w, bias []float32
	for _, part := range []string{"q", "k", "v"} {
		s := l.s.At(part)
		w = append(w, s.Floats("weight", ch, ch, 1, 1)...)
		bias = append(bias, s.Floats("bias", ch)...)
	}
	b.add(&attention{
		norm: b.norm(l.at("norm"), ch), heads: 1, proj: l.at("proj_out").conv(ch, ch, 1, 1, b.ds, false),
		qkv: l.kernel(kernels.ConvWeights{Weight: w, Bias: bias, In: ch, Out: 3 * ch, Size: 1, Stride: 1, Pixels: (l.size / b.ds) * (l.size / b.ds)}),
	}, path...)
}

func (b *half) middle() {
	b.resnet(b.ch, "mid", "block_1")
	if b.c.MiddleAttention {
		b.attention("mid", "attn_1")
	}
	b.resnet(b.ch, "mid", "block_2")
}

// end is norm_out, SiLU and conv_out.
func (b *half) end(out int) {
	norm := b.norm(b.l.at("norm_out"), b.ch)
	b.add(&conv{norm: &norm, kernel: b.l.at("conv_out").conv(b.ch, out, 3, 1, b.ds, false), last: true}, "conv_out")
}

// encoder reads everything in front of quant_conv.
func (l loader) encoder(c AutoencoderConfig) chain {
	b := &half{l: l.at("encoder"), c: c, ds: 1}
	b.conv(c.InChannels, c.ModelChannels, "conv_in")
	for level, out := range c.Channels {
		for j := range c.NumResBlocks {
			b.resnet(out, "down", level, "block", j)
			if c.DownAttention[level] {
				b.attention("down", level, "attn", j)
			}
		}
		if level < len(c.Channels)-1 {
			b.ds *= 2
			r := &resample{}
			if c.ConvResample {
				r.conv = b.l.at("down", level, "downsample", "conv").convEnd(b.ch, b.ch, b.ds)
			}
			b.add(r, "down", level, "downsample")
		}
	}
	b.middle()
	z := c.ZChannels
	if c.DoubleZ {
		z *= 2
	}
	b.end(z)
	return b.list
}

// decoder reads post_quant_conv and everything behind it. Its level 0 is that of the full size, which comes last.
func (l loader) decoder(c AutoencoderConfig) chain {
	last := len(c.Channels) - 1
	b := &half{l: l.at("decoder"), c: c, ds: c.Downsampling()}
	if c.PostQuantConv {
		b.list = chain{{"post_quant_conv", &conv{kernel: l.at("post_quant_conv").conv(c.EmbedDim, c.ZChannels, 1, 1, b.ds, false)}}}
	}
	b.conv(c.ZChannels, c.Channels[last], "conv_in")
	b.middle()
	for level := last; level >= 0; level-- {
		for j := range c.NumResBlocks + 1 {
			b.resnet(c.Channels[level], "up", level, "block", j)
			if c.UpAttention[level] {
				b.attention("up", level, "attn", j)
			}
		}
		if level > 0 {
			b.ds /= 2
			r := &resample{up: true}
			if c.ConvResample {
				r.conv = b.l.at("up", level, "upsample", "conv").conv(b.ch, b.ch, 3, 1, b.ds, true)
			}
			b.add(r, "up", level, "upsample")
		}
	}
	b.end(c.OutChannels)
	return b.list
}
