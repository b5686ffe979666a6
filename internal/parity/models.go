package parity

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/tensor"
)

// runner computes the outputs of a run with a network, by the names that the run has for them.
type runner func(Run) (Saved, error)

// errAbsent is matched where a file does not hold the network that a run needs.
var errAbsent = errors.New("not in this file")

// runner loads what a run of a latent_diffusion or diffusers case needs for its fn, or takes it from loaded, where
// networks are by name.
func (c *Case) runner(d *tensor.Device, fn, file string, loaded map[string]runner) (r runner, err error) {
	name, load := "", func() (runner, error) { return nil, fmt.Errorf("runs of %q are %w", fn, ErrUnsupported) }
	switch _, stage := stageFunctions[fn]; {
	case stage:
		name, load = "first stage", func() (runner, error) { return c.stageRunner(d, file) }
	case fn == "unet" || fn == "unet_cond":
		name, load = "unet", func() (runner, error) { return c.latentRunner(d, file, checkpoint.Options{RawWeights: true}) }
	case fn == "unet_ema":
		name, load = fn, func() (runner, error) { return c.latentRunner(d, file, checkpoint.Options{}) }
	}
	if r = loaded[name]; r == nil {
		if r, err = load(); err == nil {
			loaded[name] = r
		}
	}
	return r, err
}

// models computes a case whose file holds a UNet, a first stage or both, and whose runs name functions of them.
func (c *Case) models(d *tensor.Device, override string) (results []Result, saved []Saved, err error) {
	files := c.Weights
	if override != "" {
		files = []WeightsFile{{File: override}}
	}
	for _, w := range files {
		path := w.File
		if override == "" {
			path = filepath.Join(c.Dir, w.File)
		}
		all, loaded := Saved{}, map[string]runner{}
		saved = append(saved, all)
		for _, r := range c.Runs {
			run, err := c.runner(d, r.Fn, path, loaded)
			if errors.Is(err, errAbsent) || errors.Is(err, ErrUnsupported) {
				for _, name := range slices.Sorted(maps.Values(r.Outputs)) {
					results = append(results, Result{Weights: w.File, Array: name, Skipped: err.Error()})
				}
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			out, err := run(r)
			if err != nil {
				return nil, nil, err
			}
			for _, key := range slices.Sorted(maps.Keys(r.Outputs)) {
				name := r.Outputs[key]
				got, ok := out[key]
				if !ok {
					return nil, nil, fmt.Errorf("%s: a run of %q has no output %q", c.Name, r.Fn, key)
				}
				all[name] = got
				want, _, err := c.Array(name)
				if err != nil {
					return nil, nil, err
				}
				res := Result{Weights: w.File, Array: name, Limit: c.Tolerance[name]}
				res.MaxAbs, res.RelL2 = Compare(got.Data, want)
				results = append(results, res)
			}
		}
	}
	return results, saved, nil
}
