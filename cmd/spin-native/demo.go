package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

//go:embed assets/photo.png
var demoPhoto []byte

// demoTask is one of the demonstration's three jobs.
type demoTask struct {
	file, title, damage string
	sigma               float64
	spec                func(h, w int) (solver.Spec, error)
}

var demoTasks = []demoTask{
	{"deblur.png", "Motion deblurring", "motion blur, noise 0.05", 0.05, func(h, w int) (solver.Spec, error) {
		k, err := solver.MotionKernel(61, 0.5, demoSeed)
		return solver.Spec{Kind: "blur", Kernel: k, Note: "motion:61:0.5"}, err
	}},
	{"super-resolution.png", "Super-resolution x4", "4 times smaller, noise 0.05", 0.05, func(h, w int) (solver.Spec, error) {
		return solver.Spec{Kind: "downsample", Factor: 4}, nil
	}},
	{"scratches.png", "Scratch removal", "scratches", 0, func(h, w int) (solver.Spec, error) {
		m, err := solver.ScratchMask(h, w, 14, demoSeed)
		return solver.Spec{Kind: "inpaint", Masks: []*solver.Mask{m}, Note: "scratches:14"}, err
	}},
}

// measure damages the picture.
func (t demoTask) measure(d *tensor.Device, pic *imagefile.Image) (*solver.Measurement, error) {
	spec, err := t.spec(pic.H, pic.W)
	if err != nil {
		return nil, err
	}
	return degrade(d, pic, spec, t.sigma, demoSeed)
}

// demoSeed makes the demonstration the same everywhere.
const demoSeed = 3

// throughFirstStage encodes a picture and decodes it again: what a latent prior cannot do better than, whatever it knows.
func throughFirstStage(d *tensor.Device, stage solver.FirstStage, pic *imagefile.Image) (out *imagefile.Image, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	z, err := stage.Encode(d.From(pic.Pix, 1, pic.H, pic.W, 3))
	if err != nil {
		return nil, err
	}
	x, err := stage.Decode(z)
	if err != nil {
		return nil, err
	}
	data, err := x.Floats()
	if err != nil {
		return nil, err
	}
	return imagefile.FromPixels(data, pic.W, pic.H, 3), nil
}

// demoLine is what the demonstration says about one of its pictures.
type demoLine struct {
	Task     string         `json:"task"`
	File     string         `json:"file"`
	Measured *metrics.Score `json:"measured,omitempty"` // absent for a first stage alone
	Result   metrics.Score  `json:"result"`
	Calls    int            `json:"calls"`
	Seconds  float64        `json:"seconds"`
}

const firstStageFile = "first-stage.png"

func newDemo() *cobra.Command {
	var f solveFlags
	var out string
	var latent, asJSON, force bool
	c := &cobra.Command{
		Use:   "demo [-o DIR]",
		Short: "Damage and repair the built-in photo in three ways",
		Long: `demo takes the built-in photo, blurs it, reduces it and scratches it, repairs each damage with the built-in prior, and writes
a picture of each with its PSNR and SSIM. It needs no arguments and no files.

With --latent a prior that works on latents does it, the built-in one of that kind: a small one, which shows how, not how
well. A fourth picture shows the photo after its first stage alone, encoded and decoded: what the prior adds or repairs has
to pass through that.`,
		Example: `  spin-native demo
  spin-native demo -o /tmp/demo --preset fast
  spin-native demo --latent                            the same with latents, in demo-latent/`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			calls, err := f.calls(c)
			if err != nil {
				return err
			}
			if latent {
				if c.Flags().Changed("prior") {
					return usagef("--latent is --prior %s: give one of them", builtinLatent)
				}
				f.prior.path = builtinLatent
				if !c.Flags().Changed("output") {
					out += "-latent" // beside the pictures of the other demonstration
				}
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return err
			}
			var files []string
			if f.prior.path != builtin {
				files = append(files, firstStageFile)
			}
			for _, t := range demoTasks {
				files = append(files, t.file)
			}
			for _, file := range files {
				if err := imagefile.CheckWritable(filepath.Join(out, file), force); err != nil {
					return err
				}
			}
			d, err := f.open(c)
			if err != nil {
				return err
			}
			defer d.Close()
			pic, err := imagefile.Decode("the built-in photo", bytes.Clone(demoPhoto), imagefile.Limits{})
			if err != nil {
				return err
			}
			p, err := f.load(d, 1, pic.H, pic.W, func(d *tensor.Device, p *prior) error {
				if p.stage != nil {
					if _, err := throughFirstStage(d, p.stage, pic); err != nil {
						return err
					}
				}
				for _, t := range demoTasks {
					m, err := t.measure(d, pic)
					if err == nil {
						_, err = solve(c.Context(), d, p, m, min(calls, rehearsed), 1, f.seed, nil)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			var lines []demoLine
			start := time.Now()
			if p.stage != nil {
				y, err := throughFirstStage(d, p.stage, pic)
				if err != nil {
					return err
				}
				l := demoLine{Task: "First stage alone", File: filepath.Join(out, firstStageFile), Seconds: time.Since(start).Seconds()}
				if l.Result, err = metrics.ScoreOf(y, pic); err != nil {
					return err
				}
				err = sheet.Write(l.File, []sheet.Panel{
					{Title: "First stage alone: encoded, decoded", Caption: l.Result.String(), Img: y}, {Title: "Original", Img: pic},
				}, sheet.Options{}, force)
				if err != nil {
					return err
				}
				lines = append(lines, l)
				if !asJSON && !f.quiet {
					fmt.Fprintf(c.OutOrStdout(), "%-20s %s, before anything is repaired   %.1f s   %s\n", l.Task, l.Result, l.Seconds, l.File)
				}
			}
			for i, t := range demoTasks {
				m, err := t.measure(d, pic)
				if err != nil {
					return err
				}
				progress, done := watch(c.ErrOrStderr(), f.quiet, fmt.Sprintf("%d/%d %s", i+1, len(demoTasks), t.title))
				s, err := solve(c.Context(), d, p, m, calls, 1, f.seed, progress)
				done()
				if err != nil {
					return err
				}
				y := enlarged(s.measured, pic.W)
				l := demoLine{Task: t.title, File: filepath.Join(out, t.file), Calls: s.result.Calls, Seconds: s.result.Elapsed.Seconds()}
				measured, err := metrics.ScoreOf(y, pic)
				if err != nil {
					return err
				}
				l.Measured = &measured
				if l.Result, err = metrics.ScoreOf(s.images[0], pic); err != nil {
					return err
				}
				err = sheet.Write(l.File, []sheet.Panel{
					{Title: "Measured: " + t.damage, Caption: l.Measured.String(), Img: y},
					{Title: t.title, Caption: l.Result.String(), Img: s.images[0]},
					{Title: "Original", Img: pic},
				}, sheet.Options{}, force)
				if err != nil {
					return err
				}
				lines = append(lines, l)
				if !asJSON && !f.quiet {
					fmt.Fprintf(c.OutOrStdout(), "%-20s %s  ->  %s   %d calls, %.1f s   %s\n", l.Task, l.Measured, l.Result, l.Calls, l.Seconds, l.File)
				}
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), lines)
			}
			if !f.quiet {
				fmt.Fprintf(c.OutOrStdout(), "done in %.1f s on %s; open the pictures in %s\n", time.Since(start).Seconds(), d.Name(), out)
			}
			return nil
		},
	}
	f.register(c)
	c.Flags().BoolVar(&latent, "latent", false, "with the built-in latent prior; -o is then demo-latent")
	c.Flags().StringVarP(&out, "output", "o", "demo", "`DIR` for the pictures; made where it does not exist")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON array on standard output")
	c.Flags().BoolVar(&force, "force", true, "replace pictures of an earlier demo")
	return c
}
