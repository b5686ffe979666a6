package main

import "github.com/spin-native/spin/weights"

// source is one origin of weights: how it names things, and what must hold.
type source struct {
	name   string // of --family
	family string // of weights.Info that it yields
	// rename gives our name for a tensor, or false for one that is left out.
	rename func(name string) (string, bool)
	// check holds the renamed tensors against the configuration.
	check func(weights.Info, []weights.Tensor) error
}

var sources = []source{
	{name: "guided-diffusion", family: "guided-diffusion-unet", rename: asIs, check: checkGuided},
}

func sourceNames() []string {
	var names []string
	for _, s := range sources {
		names = append(names, s.name)
	}
	return names
}

func asIs(name string) (string, bool) { return name, true }
