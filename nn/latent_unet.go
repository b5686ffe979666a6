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

// Forward maps latents x [N,h,w,InChannels] at timesteps t (one, or one for each latent; they may be fractional) to the
// network's output [N,h,w,OutChannels]. h and w are multiples of Config.Downsampling. y are class labels, one for each
// latent, nil where the network has no classes. context [N,1,L,ContextDim] holds the L tokens that its transformers attend
// to, nil where it has none. It panics with *tensor.Error on misuse, before anything is computed; see Predict.
func (u *LatentUNet) Forward(x *tensor.Tensor, t []float64, y []int, context *tensor.Tensor) *tensor.Tensor {
	const op = "nn.LatentUNet"
	u.checkInput(op, x, t, y)
	switch dim := u.Config.ContextDim; {
	case dim == 0 && context != nil:
		tensor.Fail(op, "context %v given, but the network attends to none", context)
	case dim > 0 && context == nil:
		tensor.Fail(op, "no context given: the network attends to tokens of %d channels", dim)
	case dim > 0 && (context.N() != x.N() || context.H() != 1 || context.C() != dim):
		tensor.Fail(op, "context has shape %v, expected [%d 1 L %d], L tokens for each latent", context, x.N(), dim)
	}
	return u.forward(x, t, y, context, u.Trace)
}

// Predict is Forward with an error in place of a panic.
func (u *LatentUNet) Predict(x *tensor.Tensor, t []float64, y []int, context *tensor.Tensor) (out *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	return u.Forward(x, t, y, context), nil
}
