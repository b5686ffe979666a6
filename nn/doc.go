// Package nn holds the networks: forward passes built for the fused operations of package tensor, with weights read by
// their upstream names.
//
//	f, err := weights.Open("model.safetensors")
//	net, err := nn.LoadUNet(dev, f.Scope(), config, nn.LoadOptions{})
//	eps, err := net.Predict(x, []float64{250}, nil)
//
// Those of latent diffusion may attend to a context, the tokens of a text or class:
//
//	net, err := nn.LoadLatentUNet(dev, f.Scope(), config, nn.LoadOptions{})
//	context, err := net.Context(tokens)   // once for all steps
//	eps, err := net.Predict(z, []float64{250}, nil, context)
//
// First stages of latent diffusion map pictures to latents and back:
//
//	vae, err := nn.LoadAutoencoder(dev, f.Scope(), config, nn.LoadOptions{})
//	z, err := vae.Encode(x)
//	z, err = vae.Scale(z)   // what the diffusion sees
//	...
//	z, err = vae.Unscale(z)
//	x, err = vae.Decode(z)
//
// Networks are plain structs of layers, filled once at load: every shape is checked there, so Forward has no decisions
// left to make. A network belongs to its device's goroutine.
package nn
