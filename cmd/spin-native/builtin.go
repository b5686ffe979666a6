package main

import (
	"slices"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/weights/latent"
	"github.com/spin-native/spin/weights/photo"
)

// What --prior, --model and info call the priors that the program carries.
const (
	builtin       = "photo"
	builtinLatent = "photo-latent"
)

func isBuiltin(name string) bool { return slices.Contains([]string{builtin, builtinLatent}, name) }

// openModel opens a built-in prior, or else a file or folder.
func openModel(name string, o checkpoint.Options) (*checkpoint.Model, error) {
	switch name {
	case builtin:
		f, err := photo.Open()
		if err != nil {
			return nil, err
		}
		return checkpoint.Converted(f)
	case builtinLatent:
		unet, stage, err := latent.Open()
		if err != nil {
			return nil, err
		}
		return checkpoint.Converted(unet, stage)
	}
	return checkpoint.Open(name, o)
}
