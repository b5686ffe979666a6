package nn

import (
	"fmt"
	"slices"
)

// Limits of what a configuration may ask for, far above every published network.
const (
	maxLevels   = 10
	maxBlocks   = 64
	maxChannels = 1 << 16
	maxDepth    = 64
	maxEntries  = 1 << 24 // classes, code vectors
)

// first is the first error of a list.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func between(name string, v, least, most int) error {
	if v < least || v > most {
		return fmt.Errorf("%s is %d, expected %d to %d", name, v, least, most)
	}
	return nil
}

func oneOf(name, v string, list ...string) error {
	if !slices.Contains(list, v) {
		return fmt.Errorf("%s is %.80q, expected one of %v", name, v, list)
	}
	return nil
}

func perLevel(name string, got, want int) error {
	if got != want {
		return fmt.Errorf("%s has %d entries, expected %d", name, got, want)
	}
	return nil
}

// checkNorm proves that a norm can be computed: eps is what keeps it from dividing by zero.
func checkNorm(groups int, eps float64) error {
	if err := between("norm_groups", groups, 1, maxChannels); err != nil {
		return err
	}
	if !(eps > 0 && eps < 1) {
		return fmt.Errorf("norm_eps is %g, expected a small positive number", eps)
	}
	return nil
}

func checkChannels(list []int, groups int) error {
	if err := between("the number of levels", len(list), 1, maxLevels); err != nil {
		return err
	}
	for _, c := range list {
		if c < 1 || c > maxChannels || c%groups != 0 {
			return fmt.Errorf("channels %v with norm_groups %d: every level must be a multiple of the groups and at most %d", list, groups, maxChannels)
		}
	}
	return nil
}

// checkLatent proves that latents can be brought to what a diffusion sees, and back.
func checkLatent(scale, shift float64, mean, std []float64, channels int) error {
	const most = 1e6
	if !(scale > 0 && scale < most) || !(shift > -most && shift < most) {
		return fmt.Errorf("scale_factor %g and shift_factor %g: expected a positive and a finite number", scale, shift)
	}
	if len(mean) != len(std) || len(mean) != 0 && len(mean) != channels {
		return fmt.Errorf("latents_mean has %d and latents_std %d entries, expected none or %d", len(mean), len(std), channels)
	}
	for _, v := range std {
		if !(v > 0 && v < most) {
			return fmt.Errorf("latents_std holds %g, expected positive numbers", v)
		}
	}
	for _, v := range mean {
		if !(v > -most && v < most) {
			return fmt.Errorf("latents_mean holds %g, expected finite numbers", v)
		}
	}
	return nil
}
