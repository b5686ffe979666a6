package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// samplers are the values of --sampler.
var samplers = slices.DeleteFunc(solver.Transitions(), func(k solver.Transition) bool { return k == solver.Renoise })

type sampleFlags struct {
	solveFlags
	count              int
	sampler            string
	eta                float64
	size, thresholds   string
	shift, output      string
	asJSON, force      bool
	w, h               int
	threshold          float64
	window, shiftAbove int
}

// sampleReport is what --json prints.
type sampleReport struct {
	Outputs     []string          `json:"outputs"`
	Grid        string            `json:"grid"`
	Width       int               `json:"width"`
	Height      int               `json:"height"`
	Prior       string            `json:"prior"`
	Device      string            `json:"device"`
	Sampler     solver.Transition `json:"sampler"`
	Eta         float64           `json:"eta"`
	Threshold   float64           `json:"threshold,omitempty"`  // quantile of dynamic thresholding
	TimeShift   int               `json:"time_shift,omitempty"` // window
	ShiftAbove  int               `json:"time_shift_above,omitempty"`
	Seed        uint64            `json:"seed"`
	Calls       int               `json:"calls"`     // for each picture
	Timesteps   []int             `json:"timesteps"` // of the last one
	Seconds     float64           `json:"seconds"`
	EachSeconds []float64         `json:"each_seconds"`
	Memory      memoryReport      `json:"memory"`
}

func newSample() *cobra.Command {
	var f sampleFlags
	var names []string
	for _, k := range samplers {
		names = append(names, string(k))
	}
	c := &cobra.Command{
		Use:   "sample -o DIR",
		Short: "Make pictures from noise alone, to see what a prior knows",
		Long: `sample lets a prior make pictures from nothing but noise: what comes out is what the prior takes pictures to be. The built-in
prior is a small one that knows texture and edges, not things.

Samplers: ddim (with --eta 0 to 1), ddpm and ddpm-large (ancestral, with the small or the large variance), pndm (linear multistep of fourth
order), dpmpp and dpmpp3 (DPM-Solver++ of second and third order, good with few steps). docs/solvers.md has their formulas.`,
		Example: `  spin-native sample -n 4 -o samples
  spin-native sample --prior ffhq.safetensors --sampler dpmpp --steps 20 -n 8 -o faces
  spin-native sample --prior imagenet.safetensors --label 207 --sampler ddim --eta 1 --steps 100 -o dogs
  spin-native sample --prior photo-latent --sampler pndm --size 256x192 --json -o samples
  spin-native sample --threshold dynamic:0.995 --time-shift 40:300 -o samples`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	f.deviceFlags.register(c)
	f.memory.register(c)
	f.prior.register(c)
	c.Flags().IntVarP(&f.count, "count", "n", 4, "number of pictures")
	c.Flags().StringVar(&f.sampler, "sampler", string(solver.DDIM), strings.Join(names, ", "))
	c.Flags().IntVar(&f.steps, "steps", 50, "denoiser calls for each picture")
	c.Flags().Float64Var(&f.eta, "eta", 0, "ddim: share of fresh noise, 0 (none) to 1 (as much as ddpm)")
	c.Flags().Uint64Var(&f.seed, "seed", 0, "seed of the noise; picture number k of a seed is always the same")
	c.Flags().StringVar(&f.size, "size", "", "of the pictures, `N` or WxH (default: what the prior was trained on)")
	c.Flags().StringVar(&f.thresholds, "threshold", "", "static: clip clean estimates to the range of pictures; dynamic:QUANTILE, for example dynamic:0.995: shrink them into it; none (default: static, and none for latent priors)")
	c.Flags().StringVar(&f.shift, "time-shift", "", "time-shift sampler: `WINDOW`[:CUTOFF], in timesteps: tell the prior the timestep within the window that fits the noise that there is, above the cutoff (default of that: 300)")
	c.Flags().StringVarP(&f.output, "output", "o", "", "`DIR` for the pictures and grid.png; made where it does not exist")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object on standard output")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "no progress and no remarks")
	c.Flags().BoolVar(&f.force, "force", false, "replace pictures that exist")
	return c
}

// check reads the flags' values.
func (f *sampleFlags) check() (err error) {
	switch {
	case f.output == "":
		return usagef("-o is missing: where shall the pictures go? For example -o samples")
	case f.count < 1 || f.count > 10000:
		return usagef("-n %d: expected 1 to 10000", f.count)
	case f.steps < 1 || f.steps > 10000:
		return usagef("--steps %d: expected 1 to 10000", f.steps)
	case !(f.eta >= 0 && f.eta <= 1):
		return usagef("--eta %v: expected 0 to 1", f.eta)
	case !slices.Contains(samplers, solver.Transition(f.sampler)):
		return usagef("--sampler %s: expected one of %v", f.sampler, samplers)
	case f.eta != 0 && f.sampler != string(solver.DDIM):
		return usagef("--eta belongs to --sampler ddim, the noise of %s is fixed", f.sampler)
	}
	if f.size != "" {
		w, h, both := strings.Cut(f.size, "x")
		if !both {
			h = w
		}
		if f.w, err = strconv.Atoi(w); err == nil {
			f.h, err = strconv.Atoi(h)
		}
		if err != nil || f.w < 1 || f.h < 1 || f.w > 1<<14 || f.h > 1<<14 {
			return usagef("--size %s: expected a number of pixels, or width and height as in 320x256", f.size)
		}
	}
	switch kind, quantile, _ := strings.Cut(f.thresholds, ":"); {
	case f.thresholds == "":
	case kind == "dynamic":
		f.threshold, err = strconv.ParseFloat(quantile, 64)
		if err != nil || !(f.threshold > 0 && f.threshold <= 1) {
			return usagef("--threshold %s: expected dynamic:QUANTILE, the quantile above 0 and at most 1, for example dynamic:0.995", f.thresholds)
		}
	case f.thresholds != "static" && f.thresholds != "none":
		return usagef("--threshold %s: expected static, dynamic:QUANTILE or none", f.thresholds)
	}
	if f.shift != "" {
		window, cutoff, told := strings.Cut(f.shift, ":")
		f.shiftAbove = 300
		if f.window, err = strconv.Atoi(window); err == nil && told {
			f.shiftAbove, err = strconv.Atoi(cutoff)
		}
		if err != nil || f.window < 1 || f.shiftAbove < 0 {
			return usagef("--time-shift %s: expected WINDOW or WINDOW:CUTOFF, in timesteps, for example 40:300", f.shift)
		}
	}
	return nil
}

func (f *sampleFlags) run(c *cobra.Command) error {
	if err := f.check(); err != nil {
		return err
	}
	f.prior.threshold, f.prior.unclipped = f.threshold, f.thresholds == "none"
	file, err := f.prior.open()
	if err != nil {
		return err
	}
	if f.w == 0 {
		f.w = file.info.ImageSize * max(file.stack.Downsampling, 1)
		f.h = f.w
	}
	latent := file.latent()
	file.close()
	if latent && f.threshold > 0 {
		return usagef("--threshold %s: dynamic thresholds are for pictures, and this prior works on latents, which have no range", f.thresholds)
	}
	report := sampleReport{
		Width: f.w, Height: f.h, Prior: f.prior.path, Sampler: solver.Transition(f.sampler), Eta: f.eta, Threshold: f.threshold,
		TimeShift: f.window, ShiftAbove: f.shiftAbove, Seed: f.seed, Grid: filepath.Join(f.output, "grid.png"),
	}
	if err := os.MkdirAll(f.output, 0o755); err != nil {
		return err
	}
	for i := range f.count {
		report.Outputs = append(report.Outputs, filepath.Join(f.output, fmt.Sprintf("sample-%d.png", i+1)))
	}
	for _, path := range append(report.Outputs[:f.count:f.count], report.Grid) {
		if err := imagefile.CheckWritable(path, f.force); err != nil {
			return err
		}
	}
	d, err := f.open(c)
	if err != nil {
		return err
	}
	defer d.Close()
	p, err := f.load(d, 1, f.h, f.w, func(d *tensor.Device, p *prior) error {
		_, _, err := f.one(c.Context(), d, p, 0, min(f.steps, rehearsed), nil)
		return err
	})
	if err != nil {
		return err
	}
	report.Device, report.Memory = d.Name(), p.memory.report()
	from := time.Now()
	var panels []sheet.Panel
	for i, path := range report.Outputs {
		progress, done := watch(c.ErrOrStderr(), f.quiet, fmt.Sprintf("%d/%d", i+1, f.count))
		pic, r, err := f.one(c.Context(), d, p, i, f.steps, progress)
		done()
		if err != nil {
			return err
		}
		if err := imagefile.Write(path, pic, f.force); err != nil {
			return err
		}
		panels = append(panels, sheet.Panel{Img: pic})
		report.Calls, report.Timesteps = r.Calls, r.Timesteps
		report.EachSeconds = append(report.EachSeconds, r.Elapsed.Seconds())
		if !f.quiet && !f.asJSON {
			fmt.Fprintf(c.OutOrStdout(), "%s: %d x %d, %d denoiser calls in %.1f s\n", path, f.w, f.h, r.Calls, r.Elapsed.Seconds())
		}
	}
	if err := sheet.Write(report.Grid, panels, sheet.Options{Columns: int(math.Ceil(math.Sqrt(float64(f.count))))}, f.force); err != nil {
		return err
	}
	report.Seconds = time.Since(from).Seconds()
	if f.asJSON {
		return writeJSON(c.OutOrStdout(), report)
	}
	return nil
}

// one makes picture number i of the seed.
func (f *sampleFlags) one(ctx context.Context, d *tensor.Device, p *prior, i, steps int, progress func(solver.Progress)) (pic *imagefile.Image, r *solver.Result, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	r, err = solver.Generate(ctx, d, p.den, [4]int{1, f.h, f.w, 3}, solver.GenerateSettings{
		Sampler: solver.Transition(f.sampler), N: steps, Eta: f.eta, Window: f.window, Cutoff: f.shiftAbove, FirstStage: p.stage,
		Options: solver.Options{Seed: f.seed, First: i, Noise: p.noise, Progress: progress},
	})
	if err != nil {
		return nil, nil, err
	}
	data, err := r.X0.Floats()
	if err != nil {
		return nil, nil, err
	}
	return imagefile.FromPixels(data, f.w, f.h, 3), r, nil
}
