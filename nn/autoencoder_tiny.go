package nn

import (
	"fmt"
	"slices"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// AutoencoderTiny is diffusers' class of that name (TAESD, Bohan 2023): a few 3x3 convolutions and ReLUs that stand in for
// a much larger autoencoder.
type AutoencoderTiny struct {
	Config TinyConfig
	// Trace, where set, sees the outputs of layers under their upstream names, after the ReLU that may follow them.
	Trace func(name string, x *tensor.Tensor)

	latent
	tiling           Tiling
	encoder, decoder chain
}

// LoadAutoencoderTiny reads a tiny autoencoder by its upstream names. Of the options, ImageSize is the edge of the pictures
// that it will mostly see.
func LoadAutoencoderTiny(d *tensor.Device, s *weights.Scope, c TinyConfig, o LoadOptions) (a *AutoencoderTiny, err error) {
	defer tensor.Catch(&err)
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.ImageSize == 0 {
		o.ImageSize = 256
	}
	l := loader{d: d, s: s, size: o.ImageSize, buf: new([]float32)}
	a = &AutoencoderTiny{
		Config: c, latent: newLatent(d, c.LatentChannels, c.ScaleFactor, c.ShiftFactor, nil, nil), tiling: o.Tiling, decoder: l.tinyDecoder(c),
	}
	if !o.DecoderOnly {
		a.encoder = l.tinyEncoder(c)
	}
	return a, nil
}

// Downsampling is the factor between pictures and latents: sizes of pictures must be divisible by it.
func (a *AutoencoderTiny) Downsampling() int { return a.Config.Downsampling() }

// PictureChannels is the number of channels of what Encode takes.
func (a *AutoencoderTiny) PictureChannels() int { return a.Config.InChannels }

// Encode maps pictures [N,H,W,InChannels] in [-1,1] to latents [N,H/f,W/f,LatentChannels].
func (a *AutoencoderTiny) Encode(x *tensor.Tensor) (z *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	checkPicture("nn.AutoencoderTiny", a.encoder, x, a.Config.InChannels, a.Downsampling())
	return a.encoder.run(x, a.tiling, a.Trace), nil
}

// Decode maps latents [N,h,w,LatentChannels] to pictures [N,f*h,f*w,OutChannels], near [-1,1] but not clipped to it, where
// f is 2 for every level of the decoder but one.
func (a *AutoencoderTiny) Decode(z *tensor.Tensor) (x *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	a.check("nn.AutoencoderTiny", z)
	return a.decoder.run(z, a.tiling, a.Trace), nil
}

// tinyConv is a convolution of act(scale * x + offset), with a ReLU behind it or not.
type tinyConv struct {
	kernel   *tensor.Kernel
	affine   *[2]float32 // scale and offset; nil: x itself
	act      kernels.Activation
	sampling kernels.Sampling
	relu     bool
	last     bool // what follows reads F32
}

func (c *tinyConv) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	in := c.input(d, x.N(), x.C())
	in.X = x
	return d.Conv2D(c.kernel, in, c.epilogue())
}

func (c *tinyConv) epilogue() tensor.Epilogue { return tensor.Epilogue{ReLU: c.relu, Full: c.last} }

// input says how n images of so many channels are read.
func (c *tinyConv) input(d *tensor.Device, n, channels int) tensor.Input {
	in := tensor.Input{Act: c.act, Sampling: c.sampling}
	if c.affine != nil {
		row := append(slices.Repeat(c.affine[:1], channels), slices.Repeat(c.affine[1:], channels)...)
		in.Affine = d.From(slices.Repeat(row, n), n, 1, 2, channels)
	}
	return in
}

// tinyBlock is ReLU(x + conv(ReLU(conv(ReLU(conv(x)))))).
type tinyBlock [3]*tensor.Kernel

func (b *tinyBlock) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	h := d.Conv2D(b[0], tensor.Input{X: x}, tensor.Epilogue{ReLU: true})
	h = d.Conv2D(b[1], tensor.Input{X: h}, tensor.Epilogue{ReLU: true})
	return d.Conv2D(b[2], tensor.Input{X: h}, tensor.Epilogue{Residual: x, ReLU: true})
}

// tiny builds either half; upstream counts the layers, those without weights too.
type tiny struct {
	l    loader // at encoder.layers or decoder.layers
	half string
	next int // number of the next layer
	ds   int // downsampling factor so far
	list chain
}

func (b *tiny) add(x layer) {
	b.list = append(b.list, step{fmt.Sprintf("%s.layers.%d", b.half, b.next), x})
	b.next++
}

// conv adds a 3x3 convolution. Those that change the size have no bias. fold, where not nil, works a map of the inputs or of
// the results into the weights.
func (b *tiny) conv(c tinyConv, in, out, stride int, fold func(weight, bias []float32)) {
	l := b.l.at(b.next)
	w := kernels.ConvWeights{
		Weight: l.weight(out, in, 3, 3), In: in, Out: out, Size: 3, Stride: stride, Pad: 1,
		Up: c.sampling == kernels.Up2, Pixels: (l.size / b.ds) * (l.size / b.ds),
	}
	if stride == 1 && !w.Up {
		w.Bias = l.s.Floats("bias", out)
	}
	if fold != nil {
		w.Weight, w.Bias = slices.Clone(w.Weight), slices.Clone(w.Bias)
		fold(w.Weight, w.Bias)
	}
	c.kernel = l.kernel(w)
	b.add(&c)
}

func (b *tiny) blocks(ch, count int) {
	for range count {
		l := b.l.at(b.next, "conv")
		x := &tinyBlock{}
		for i := range x {
			x[i] = l.at(2*i).conv(ch, ch, 3, 1, b.ds, false)
		}
		b.add(x)
	}
}

func (l loader) tinyEncoder(c TinyConfig) chain {
	b := &tiny{l: l.at("encoder", "layers"), half: "encoder", ds: 1}
	last := 0
	for level, ch := range c.EncoderBlockOutChannels {
		if level == 0 { // of pictures in [0,1]
			b.conv(tinyConv{affine: &[2]float32{0.5, 0.5}}, c.InChannels, ch, 1, nil)
		} else {
			b.ds *= 2
			b.conv(tinyConv{}, ch, ch, 2, nil)
		}
		b.blocks(ch, c.NumEncoderBlocks[level])
		last = ch
	}
	b.conv(tinyConv{last: true}, last, c.LatentChannels, 1, nil)
	return b.list
}

func (l loader) tinyDecoder(c TinyConfig) chain {
	last := len(c.DecoderBlockOutChannels) - 1
	b := &tiny{l: l.at("decoder", "layers"), half: "decoder", ds: 1 << last}
	clamped := tinyConv{affine: &[2]float32{1. / 3, 0}, act: kernels.Tanh, relu: true} // 3 tanh(z/3)
	b.conv(clamped, c.LatentChannels, c.DecoderBlockOutChannels[0], 1, func(weight, _ []float32) {
		for i := range weight {
			weight[i] *= 3
		}
	})
	b.next++ // the ReLU
	for level, ch := range c.DecoderBlockOutChannels {
		b.blocks(ch, c.NumDecoderBlocks[level])
		if level == last {
			b.conv(tinyConv{last: true}, ch, c.OutChannels, 1, func(weight, bias []float32) { // from [0,1] to [-1,1]
				for i := range weight {
					weight[i] *= 2
				}
				for i := range bias {
					bias[i] = 2*bias[i] - 1
				}
			})
			break
		}
		b.ds /= 2
		b.next++ // the enlarging
		b.conv(tinyConv{sampling: kernels.Up2}, ch, ch, 1, nil)
	}
	return b.list
}
