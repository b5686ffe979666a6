// Package photo holds the built-in prior: a small diffusion network for natural photographs, ready to run.
//
//	f, err := photo.Open()
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//
// It is a guided-diffusion UNet of 4.4 million parameters for RGB in [-1,1] at any size divisible by 8, good for
// deblurring, denoising, JPEG repair, scratches and missing pixels, and small factors of super-resolution. It knows
// neither faces nor objects and does not invent content: large holes are filled with colour only.
//
// The weights are the training's F32 average rounded to F16, which halves the file (8 MB instead of 16, compressed) at a
// relative error of 2^-11 a weight, far below what a denoiser can notice. Comparisons with outputs of the F32 weights
// need the original file.
//
// A program that imports this package carries the 8 MB; nothing is decompressed before Open. Another version of the
// prior takes its place with one command, in this folder, which is also what go generate runs:
//
//	go run ../../cmd/convert -i photo-v1-f32.safetensors -o photo-v1.safetensors.zst --preset photo --dtype f16 --force
package photo

import (
	_ "embed"

	"github.com/spin-native/spin/weights"
)

//go:generate go run ../../cmd/convert -i $PHOTO_PRIOR -o photo-v1.safetensors.zst --preset photo --dtype f16 --force

//go:embed photo-v1.safetensors.zst
var compressed []byte

// Open decompresses the prior into memory, anew at each call.
func Open() (*weights.File, error) { return weights.OpenBytes("built-in prior photo", compressed) }
