package nn

import (
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// FirstStage is an autoencoder around a diffusion: pictures [N,H,W,C] in [-1,1] on one side, latents [N,H/f,W/f,c] on the
// other, where f is Downsampling. Autoencoder and AutoencoderTiny are ones. Results belong to the caller, who frees them.
type FirstStage interface {
	Encode(x *tensor.Tensor) (*tensor.Tensor, error)
	Decode(z *tensor.Tensor) (*tensor.Tensor, error)
	// Scale turns a latent into what the diffusion sees, Unscale turns that back.
	Scale(z *tensor.Tensor) (*tensor.Tensor, error)
	Unscale(z *tensor.Tensor) (*tensor.Tensor, error)
	Downsampling() int
	PictureChannels() int
	LatentChannels() int
	Device() *tensor.Device
}

// layer is one step of an encoder or a decoder. It sees nothing but its input: no skips lead across layers.
type layer interface {
	forward(x *tensor.Tensor) *tensor.Tensor
}

// step is a layer with its upstream name.
type step struct {
	name string
	layer
}

// chain is an encoder or decoder: layers one after the other, level by level. What needs the whole picture at once are
// the statistics of the norms and the attentions; everything else reaches one pixel beyond its own.
type chain []step

// run is forward, or does the same with bounded memory.
func (c chain) run(x *tensor.Tensor, t Tiling, trace func(string, *tensor.Tensor)) *tensor.Tensor {
	if t.Pixels > 0 {
		return c.tiled(x, t, trace)
	}
	return c.forward(x, trace)
}

// forward runs the layers over x, which stays.
func (c chain) forward(x *tensor.Tensor, trace func(string, *tensor.Tensor)) (out *tensor.Tensor) {
	defer x.Device().Tidy(&out)()
	h := x
	for _, s := range c {
		next := s.layer.forward(h)
		if h != x {
			h.Free() // at once: the later, larger images need the memory
		}
		h = next
		if trace != nil {
			trace(s.name, h)
		}
	}
	return h
}

// conv is a convolution, behind a norm and SiLU where there is one.
type conv struct {
	norm    *groupNorm
	kernel  *tensor.Kernel
	moments bool // a norm follows
	last    bool // what follows reads F32
}

func (c *conv) forward(x *tensor.Tensor) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	in := tensor.Input{X: x}
	if c.norm != nil {
		in = c.norm.of(x, nil, nil).SiLU()
	}
	return d.Conv2D(c.kernel, in, tensor.Epilogue{Moments: c.moments, Full: c.last})
}

// latent is the change of variables between a first stage and its diffusion, which sees (z - shift) * scale, and with
// statistics of the latents (z - shift - mean) / std * scale. Both directions are 1x1 convolutions of a diagonal matrix.
type latent struct {
	d        *tensor.Device
	channels int
	to, from *tensor.Kernel
}

func newLatent(d *tensor.Device, channels int, scale, shift float64, mean, std []float64) latent {
	l := latent{d: d, channels: channels}
	to, from := make([]float32, channels*channels), make([]float32, channels*channels)
	toBias, fromBias := make([]float32, channels), make([]float32, channels)
	for i := range channels {
		s, m := scale, shift
		if len(std) > 0 {
			s, m = s/std[i], m+mean[i]
		}
		to[i*channels+i], toBias[i] = float32(s), float32(-m*s)
		from[i*channels+i], fromBias[i] = float32(1/s), float32(m)
	}
	diagonal := func(w, b []float32) *tensor.Kernel {
		return d.Kernel(kernels.ConvWeights{Weight: w, Bias: b, In: channels, Out: channels, Size: 1, Stride: 1})
	}
	l.to, l.from = diagonal(to, toBias), diagonal(from, fromBias)
	return l
}

// Scale turns a latent into what the diffusion sees.
func (l latent) Scale(z *tensor.Tensor) (out *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	return z.Device().Conv2D(l.to, tensor.Input{X: z}, tensor.Epilogue{}), nil
}

// Unscale turns what the diffusion sees into a latent.
func (l latent) Unscale(z *tensor.Tensor) (out *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	return z.Device().Conv2D(l.from, tensor.Input{X: z}, tensor.Epilogue{}), nil
}

// LatentChannels is the number of channels of a latent.
func (l latent) LatentChannels() int { return l.channels }

// Device is where the network lives. It runs where its input lives: there, or on a fork (tensor.Device.Fork).
func (l latent) Device() *tensor.Device { return l.d }

// checkPicture fails where x cannot be encoded.
func checkPicture(op string, encoder chain, x *tensor.Tensor, channels, downsampling int) {
	if encoder == nil {
		tensor.Fail(op, "this first stage was loaded without its encoder")
	}
	if x.C() != channels {
		tensor.Fail(op, "input %v has %d channels, the network takes %d", x, x.C(), channels)
	}
	if x.H()%downsampling != 0 || x.W()%downsampling != 0 {
		tensor.Fail(op, "input of %d x %d pixels: height and width must be multiples of %d", x.W(), x.H(), downsampling)
	}
}

// check fails where z is no latent.
func (l latent) check(op string, z *tensor.Tensor) {
	if z.C() != l.channels {
		tensor.Fail(op, "latent %v has %d channels, the network takes %d", z, z.C(), l.channels)
	}
}
