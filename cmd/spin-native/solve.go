package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// solveFlags say how to reconstruct.
type solveFlags struct {
	deviceFlags
	memory memoryFlag
	prior  priorFlags

	corrections correctionFlags
	tuningFlags
	trust    trustFlags
	seed     uint64
	steps    int
	restarts int
	preset   string
	quiet    bool
}

func (f *solveFlags) register(c *cobra.Command) {
	f.deviceFlags.register(c)
	f.memory.register(c)
	f.prior.register(c)
	c.Flags().Uint64Var(&f.seed, "seed", 0, "seed of the noise; the same seed gives the same picture")
	c.Flags().IntVar(&f.steps, "steps", 0, "denoiser calls; overrides --preset")
	c.Flags().IntVar(&f.restarts, "restarts", 0, "whole runs, of which the one that explains the measurement best is kept (default 4 for phase, otherwise 1)")
	c.Flags().StringVar(&f.preset, "preset", "default", "effort: fast (10 denoiser calls), default (40) or best (100)")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "no progress and no remarks")
}

// correctionFlags say how a latent prior follows the measurement. The zero value leaves it to solver.LatentDefaults.
type correctionFlags struct {
	every      int
	last, told bool // whether to correct the last picture, and whether that was said
}

func (f *correctionFlags) register(c *cobra.Command) {
	c.Flags().IntVar(&f.every, "correct-every", 0, "latent priors: correct every `N`th step. Each correction costs a decoding and an encoding; 1 follows the measurement closest and takes longest (default 2)")
	c.Flags().BoolVar(&f.last, "correct-last", false, "latent priors: correct the last picture once more, in its pixels, which costs no encoding; without it the result is what the first stage decodes (default: where --sigma is below 0.03)")
}

func (f *correctionFlags) check(c *cobra.Command) error {
	if c.Flags().Changed("correct-every") && (f.every < 1 || f.every > 10000) {
		return usagef("--correct-every %d: expected 1 to 10000", f.every)
	}
	f.told = c.Flags().Changed("correct-last")
	return nil
}

// fits is whether the prior has any use for what was said.
func (f correctionFlags) fits(p *priorFile) error {
	if (f.every > 0 || f.told) && !p.latent() {
		return usagef("--correct-every and --correct-last are for latent priors: in the pictures of this prior a correction costs little, and every guided step has one")
	}
	return nil
}

func (f correctionFlags) apply(s *solver.Parameters) {
	if f.every > 0 {
		s.Every = f.every
	}
	if f.told {
		s.Final = f.last
	}
}

// calls is the budget of denoiser calls of a run.
func (f *solveFlags) calls(c *cobra.Command) (int, error) {
	if c.Flags().Changed("restarts") && (f.restarts < 1 || f.restarts > 64) {
		return 0, usagef("--restarts %d: expected 1 to 64", f.restarts)
	}
	if c.Flags().Changed("steps") {
		if f.steps < 2 || f.steps > 10000 {
			return 0, usagef("--steps %d: expected 2 to 10000", f.steps)
		}
		return f.steps, nil
	}
	calls, ok := map[string]int{"fast": solver.Fast, "default": solver.Standard, "best": solver.Best}[f.preset]
	if !ok {
		return 0, usagef("--preset %s: expected fast, default or best", f.preset)
	}
	return calls, nil
}

// solution is a reconstruction off the device.
type solution struct {
	images   []*imagefile.Image
	measured *imagefile.Image // a picture of the measurement
	guess    *imagefile.Image // the operator's first guess, without a prior; nil where it has none
	invented *imagefile.Image // of every pixel of the first one what was invented, -1 none and 1 all, where it was asked for
	share    float64          // the same of the whole
	grey     bool             // what was measured is the mean of the channels
	result   *solver.Result
	task     solver.Task
}

// orient turns the pictures as Image.Orient does.
func (s *solution) orient(orientation int) {
	for _, img := range append([]*imagefile.Image{s.measured, s.guess, s.invented}, s.images...) {
		if img != nil {
			img.Orient(orientation)
		}
	}
}

// add appends the pictures of another part of the same reconstruction.
func (s *solution) add(t *solution) {
	s.images = append(s.images, t.images...)
	r, o := s.result, t.result
	r.Residual, r.Certificates = append(r.Residual, o.Residual...), append(r.Certificates, o.Certificates...)
	r.Timesteps = append(r.Timesteps, o.Timesteps...)
	r.Add(o)
}

// solveAll reconstructs n samples of one measurement, so many at a time.
func solveAll(ctx context.Context, d *tensor.Device, p *prior, m *solver.Measurement, calls, n, atATime int, seed uint64, progress func(solver.Progress)) (s *solution, err error) {
	for first := 0; first < n; first += atATime {
		now := progress
		if now != nil && atATime < n {
			parts := (n + atATime - 1) / atATime
			now = func(q solver.Progress) {
				q.Step, q.Total = q.Step+first/atATime*q.Total, parts*q.Total
				progress(q)
			}
		}
		t, err := solvePart(ctx, d, p, m, calls, part{first, min(atATime, n-first), n}, seed, now)
		if err != nil {
			return nil, err
		}
		if s == nil {
			s = t
		} else {
			s.add(t)
		}
	}
	return s, nil
}

// part says which of all the samples of a measurement are made together: n of them from number first on.
type part struct{ first, n, all int }

// solve reconstructs n samples of one measurement together.
func solve(ctx context.Context, d *tensor.Device, p *prior, m *solver.Measurement, calls, n int, seed uint64, progress func(solver.Progress)) (*solution, error) {
	return solvePart(ctx, d, p, m, calls, part{0, n, n}, seed, progress)
}

// solvePart reconstructs part of them.
func solvePart(ctx context.Context, d *tensor.Device, p *prior, m *solver.Measurement, calls int, of part, seed uint64, progress func(solver.Progress)) (s *solution, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	n := of.n
	problem, err := m.Problem(d)
	if err != nil {
		return nil, err
	}
	defer solver.Release(problem.Operator)
	task := solver.TaskOther
	if t, ok := problem.Operator.(solver.Tasker); ok {
		task = t.Task()
	}
	var schedule *solver.Schedule
	if k, ok := p.den.(solver.Scheduled); ok {
		schedule = k.Schedule()
	}
	settings := solver.Defaults(task, m.Sigma, schedule)
	if p.stage != nil {
		settings = solver.LatentDefaults(problem.Operator, m.Sigma, schedule)
		settings.FirstStage = p.stage
		p.corrections.apply(&settings.Parameters)
	}
	if settings.Calls = calls; p.restarts > 0 {
		settings.Restarts = p.restarts
	}
	settings.Seed, settings.First, settings.Noise, settings.Progress = seed, of.first, p.noise, progress
	p.tuning.apply(&settings)
	by := p.tuning.by()
	if p.stage != nil && !by.latent {
		return nil, usagef("--method %s works on pictures, and this prior on latents: use --method spin", by.name)
	}
	var res *solver.Result
	if of.all > 1 && (!p.trust.independent || settings.Noisy) && by == methods[0] {
		res, err = solver.Sample(ctx, problem, p.den, settings, n)
	} else {
		many := problem
		if y := problem.Y; n > 1 {
			many.Y = d.Blend(d.New(n, y.H(), y.W(), y.C()), tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}}}) // n times the same
		}
		res, err = by.run(ctx, many, p.den, settings)
	}
	if err != nil {
		return nil, err
	}
	data, err := res.X0.Floats()
	if err != nil {
		return nil, err
	}
	s = &solution{result: res, task: task}
	if k, ok := problem.Operator.(solver.Monochrome); ok {
		s.grey = k.Monochrome()
	}
	h, w := res.X0.H(), res.X0.W()
	for i := range n {
		s.images = append(s.images, imagefile.FromPixels(data[i*3*h*w:], w, h, 3))
		if s.grey {
			s.images[i].Average()
		}
	}
	if of.first == 0 && p.trust.wantsMap(of.all) {
		im, err := solver.Invented(problem, d.From(data[:len(data)/n], 1, h, w, 3), seed)
		if err != nil {
			return nil, err
		}
		for i, v := range im.Share {
			im.Share[i] = 2*v - 1
		}
		s.invented, s.share = imagefile.FromPixels(im.Share, w, h, 1), im.Mean[0]
	}
	if s.measured, err = measured(problem.Operator, problem.Y); err != nil {
		return nil, err
	}
	if g, ok := problem.Operator.(solver.Guesser); ok {
		if data, err = g.Guess(problem.Y).Floats(); err != nil {
			return nil, err
		}
		if s.guess = imagefile.FromPixels(data, w, h, 3); s.grey {
			s.guess.Average()
		}
	}
	return s, nil
}

// watch returns a progress callback that draws a bar with the time that is left on stderr, where that is a terminal.
func watch(stderr io.Writer, quiet bool, label string) (progress func(solver.Progress), done func()) {
	f, ok := stderr.(*os.File)
	if quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, func() {}
	}
	var bar *progressbar.ProgressBar
	progress = func(p solver.Progress) {
		if bar == nil {
			bar = progressbar.NewOptions(p.Total, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(label),
				progressbar.OptionSetPredictTime(true), progressbar.OptionShowCount(), progressbar.OptionFullWidth(),
				progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetElapsedTime(true))
		}
		bar.Set(p.Step)
	}
	return progress, func() {
		if bar != nil {
			bar.Clear()
		}
	}
}

// residualText says in figures how well a result explains its measurement.
func residualText(c solver.Certificate) string {
	if c.Sigma == 0 {
		return fmt.Sprintf("off the measurement by %.2g grey levels", c.RMS*127.5)
	}
	return fmt.Sprintf("chi-square %.3f (noise alone: 1 +- %.2g)", c.ChiSquare, c.Spread)
}
