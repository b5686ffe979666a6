package nn

import (
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// LatentUNet is the UNet of latent-diffusion and of diffusers. What its output is, noise, velocity or the clean latent,
// is not the network's affair; see weights.Info.
type LatentUNet struct {
	Config LatentUNetConfig
	// Trace, where set, sees the time embedding and every block's output under its upstream name, for comparisons.
	Trace func(name string, x *tensor.Tensor)

	unet
}

// LoadLatentUNet reads a UNet by the names of CompVis, without a prefix; package checkpoint's converter gives them to
// networks of diffusers too. Every shape is checked; the error names the first tensor that is missing, misshapen or not
// finite. Tensors that are left over are the caller's business (weights.File.CheckAllRead).
func LoadLatentUNet(d *tensor.Device, s *weights.Scope, c LatentUNetConfig, o LoadOptions) (u *LatentUNet, err error) {
	defer tensor.Catch(&err)
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.ImageSize == 0 {
		o.ImageSize = 64
	}
	return &LatentUNet{Config: c, unet: loadUNet(d, s, c, o)}, nil
}

// Context is what the transformers of one network attend to, made ready for any number of calls: the keys and values of
// all of them, which neither the timestep nor the latents change. It belongs to the caller, who frees it.
type Context struct {
	net    *LatentUNet
	d      *tensor.Device
	images int
	kv     map[*crossAttention]*tensor.Tensor // [N,1,L,2C], keys, then values
}

// Context readies tokens [N,1,L,ContextDim], of which each of N latents attends to its own L, on the device of the tokens.
// They are not needed any more then.
func (u *LatentUNet) Context(tokens *tensor.Tensor) (c *Context, err error) {
	defer func() {
		if err != nil && c != nil {
			c.Free()
			c = nil
		}
	}()
	defer tensor.Catch(&err)
	const op = "nn.LatentUNet"
	if dim := u.Config.ContextDim; dim == 0 {
		tensor.Fail(op, "context %v given, but the network attends to none", tokens)
	} else if tokens.H() != 1 || tokens.C() != dim {
		tensor.Fail(op, "context has shape %v, expected [N 1 L %d], L tokens for each latent", tokens, dim)
	}
	c = &Context{u, tokens.Device(), tokens.N(), map[*crossAttention]*tensor.Tensor{}}
	for _, b := range u.blocks() {
		if b.transformer == nil {
			continue
		}
		for _, t := range b.transformer.blocks {
			c.kv[t.cross] = t.cross.ready(tokens)
		}
	}
	return c, nil
}

// Free frees the keys and values. No call may use the context after it.
func (c *Context) Free() {
	for _, kv := range c.kv {
		kv.Free()
	}
	c.net, c.kv = nil, nil
}

// Forward maps latents x [N,h,w,InChannels] at timesteps t (one, or one for each latent; they may be fractional) to the
// network's output [N,h,w,OutChannels]. h and w are multiples of Config.Downsampling. y are class labels, one for each
// latent, nil where the network has no classes. context is what its transformers attend to, nil where it has none. It
// panics with *tensor.Error on misuse, before anything is computed; see Predict.
func (u *LatentUNet) Forward(x *tensor.Tensor, t []float64, y []int, context *Context) *tensor.Tensor {
	const op = "nn.LatentUNet"
	u.checkInput(op, x, t, y)
	switch dim := u.Config.ContextDim; {
	case dim > 0 && context == nil:
		tensor.Fail(op, "no context given: the network attends to tokens of %d channels", dim)
	case context != nil && context.net != u:
		tensor.Fail(op, "the context has been freed, or was made ready for another network")
	case context != nil && context.d != x.Device():
		tensor.Fail(op, "the context is on another device than the latents")
	case context != nil && context.images != x.N():
		tensor.Fail(op, "the context is for %d latents, there are %d", context.images, x.N())
	}
	return u.forward(x, t, y, context, u.Trace)
}

// Predict is Forward with an error in place of a panic.
func (u *LatentUNet) Predict(x *tensor.Tensor, t []float64, y []int, context *Context) (out *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	return u.Forward(x, t, y, context), nil
}
