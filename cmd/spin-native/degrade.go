package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/atomicfile"
	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// degrade measures a picture: A(x) + sigma n.
func degrade(d *tensor.Device, pic *imagefile.Image, spec solver.Spec, sigma float64, seed uint64) (*solver.Measurement, error) {
	m, _, err := degradeWith(d, pic, spec, solver.NoiseModel{}, sigma, seed)
	return m, err
}

// degradeWith draws other noise before that, and shows what it made.
func degradeWith(d *tensor.Device, pic *imagefile.Image, spec solver.Spec, noise solver.NoiseModel, sigma float64, seed uint64) (m *solver.Measurement, shown *imagefile.Image, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	op, err := spec.Build(d, pic.H, pic.W, 3)
	if err != nil {
		return nil, nil, err
	}
	defer solver.Release(op)
	m, y, err := noise.Simulate(op, spec, d.From(pic.Pix, 1, pic.H, pic.W, 3), sigma, seed)
	if err != nil {
		return nil, nil, err
	}
	shown, err = measured(op, y)
	return m, shown, err
}

// measured shows the first of measurements.
func measured(op solver.Operator, y *tensor.Tensor) (*imagefile.Image, error) {
	x, err := solver.Picture(op, y)
	if err != nil {
		return nil, err
	}
	defer x.Free()
	data, err := x.Floats()
	if err != nil {
		return nil, err
	}
	return imagefile.FromPixels(data, x.W(), x.H(), x.C()), nil
}

func newDegrade() *cobra.Command {
	var f taskFlags
	var dev deviceFlags
	var output, save string
	var seed uint64
	var force, quiet bool
	c := &cobra.Command{
		Use:   "degrade --task TASK -o OUT IN",
		Short: "Damage a picture, to try reconstruct on it",
		Long: `degrade damages a picture in a way that is known exactly, and adds noise of standard deviation --sigma (default 0, on the
scale -1..1). OUT is a picture of the damage, rounded to 8 bits; --save-measurement keeps the numbers themselves, together
with the operator, the noise level and the seed, so that reconstruct needs nothing else.

` + taskHelp,
		Example: `  spin-native degrade --task deblur --kernel motion:61:0.5:7 --sigma 0.05 -o y.png --save-measurement y.safetensors in.png
  spin-native reconstruct -o out.png y.safetensors --truth in.png`,
		Args: exactArgs(1, "one picture"),
		RunE: func(c *cobra.Command, args []string) error {
			if output == "" && save == "" {
				return usagef("-o or --save-measurement is missing: where shall the result go?")
			}
			if err := f.check(c); err != nil {
				return err
			}
			if f.auto {
				return usagef("--sigma auto is for reconstruct: say how much noise to add")
			}
			if f.blind() {
				return usagef("--kernel auto is for reconstruct: say which blur to make, for example --kernel gaussian:13:1.5")
			}
			if output != "" {
				if err := imagefile.CheckWritable(output, force); err != nil {
					return err
				}
			}
			if save != "" {
				if !isMeasurement(save) {
					return usagef("--save-measurement %s: the name must end in .safetensors", save)
				}
				if err := atomicfile.RefuseExisting(save, force); err != nil {
					return err
				}
			}
			pic, err := imagefile.Read(args[0], imagefile.Limits{})
			if err != nil {
				return err
			}
			spec, err := f.spec(pic.H, pic.W, c.ErrOrStderr())
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			d, err := dev.open(c)
			if err != nil {
				return err
			}
			defer d.Close()
			m, y, err := degradeWith(d, pic, spec, f.noise, f.sigma, seed)
			if err != nil {
				return err
			}
			m.Convention = f.recorded()
			y.Gray = y.Gray || pic.Gray && f.sigma == 0 && f.noise.Kind == ""
			y.Depth, y.ICC, y.Alpha = pic.Depth, pic.ICC, alphaFor(pic, y.H, y.W)
			if output != "" {
				if err := imagefile.Write(output, y, force); err != nil {
					return err
				}
			}
			if save != "" {
				if err := m.Save(save); err != nil {
					return err
				}
			}
			if !quiet {
				fmt.Fprintf(c.OutOrStdout(), "%s: %d x %d\n", strings.TrimLeft(output+" "+save, " "), y.W, y.H)
			}
			return nil
		},
	}
	f.register(c)
	dev.register(c)
	c.Flags().StringVarP(&output, "output", "o", "", "where to write the picture of the damage")
	c.Flags().StringVar(&save, "save-measurement", "", "where to write the measurement with its operator, `FILE`.safetensors")
	c.Flags().Uint64Var(&seed, "seed", 0, "seed of the noise")
	c.Flags().BoolVar(&force, "force", false, "replace output files that exist")
	c.Flags().BoolVar(&quiet, "quiet", false, "print nothing")
	return c
}
