// Package latent holds the built-in latent prior: a small diffusion network that works on the latents of a first stage,
// and that first stage, ready to run.
//
//	unet, firstStage, err := latent.Open()
//	if err != nil {
//		return err
//	}
//	defer unet.Close()
//	defer firstStage.Close()
//
// The first stage is an AutoencoderTiny of diffusers that makes 8 channels of 4x4 RGB pixels in [-1,1], the UNet a small one of
// latent-diffusion; together they take pictures of any size divisible by 16. They were trained within an hour, on
// drawn pictures and a handful of photos, and are here so that the latent way through the solver can be run, tried and tested
// without a download. A prior that works on pictures, package photo's, does better at nearly everything.
//
// tools/train_latent.py trains both. A program that imports this package carries their weights rounded to F16; nothing is
// decompressed before Open. Another version takes their place with one command, in this folder, which runs cmd/convert on
// what the training wrote to the folder run:
//
//	LATENT_PRIOR=/path/to/run go generate
package latent

import (
	_ "embed"

	"github.com/spin-native/spin/weights"
)

//go:generate go run ../../cmd/convert -i $LATENT_PRIOR/unet.safetensors -o unet.safetensors.zst --preset photo-latent --dtype f16 --force
//go:generate go run ../../cmd/convert -i $LATENT_PRIOR/first_stage -o first_stage.safetensors.zst --preset photo-latent --dtype f16 --force

//go:embed unet.safetensors.zst
var unetCompressed []byte

//go:embed first_stage.safetensors.zst
var stageCompressed []byte

// Open decompresses both networks into memory, anew at each call.
func Open() (unet, firstStage *weights.File, err error) {
	if unet, err = weights.OpenBytes("built-in prior photo-latent, UNet", unetCompressed); err != nil {
		return nil, nil, err
	}
	if firstStage, err = weights.OpenBytes("built-in prior photo-latent, first stage", stageCompressed); err != nil {
		unet.Close()
		return nil, nil, err
	}
	return unet, firstStage, nil
}
