package solver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/spin-native/spin/tensor"
)

// ErrNumeric is matched by the error of a run whose numbers stopped being finite.
var ErrNumeric = errors.New("result is not finite")

// Options are what all solvers share. The zero value works.
type Options struct {
	Schedule *Schedule // default: the denoiser's, if it is Scheduled, otherwise Linear(1000, 1e-4, 0.02)
	Seed     uint64    // of the noise
	First    int       // number of the batch's first image in the seed's sequence of images
	Noise    Noise     // default NewNoise(Seed)
	// Deadline, where set, is when the run should be done: as soon as the steps that are left do not all fit before it, by
	// the time that those so far took, it takes fewer and larger ones, and it ends after the last one that fits. Result.Short
	// tells. At least one step is made.
	Deadline time.Time
	// Progress is called after every step of the run, on the run's own goroutine.
	Progress func(Progress)

	trace func(trace)
}

// Progress tells how far a run has come.
type Progress struct {
	Step, Total int // denoiser calls
	Phase       int // 1 or 2; the baselines have phase 2 only
	T           int // timestep of the step
	Elapsed     time.Duration
	// Preview downloads the latest clean images, NHWC. It may be called during the callback only. With a first stage it may
	// have to decode them first.
	Preview func() ([]float32, error)
}

// trace is what the tests compare: one step with its input, the denoiser's picture and the corrected one.
type trace struct {
	phase, t  int
	x, x0, at *tensor.Tensor
}

// Result is what a run made.
type Result struct {
	X0            *tensor.Tensor // the images; they live until their Free, or the end of an enclosing bracket
	Calls         int            // denoiser calls
	Timesteps     []int          // of the calls, in their order
	Parameters    Parameters     // of Spin, with everything that was left to defaults filled in
	Corrections   int
	OperatorCalls int // evaluations of A, of its transposed Jacobian, of Prox and of Precondition
	Elapsed       time.Duration
	Denoising     time.Duration // share of the denoiser
	Correcting    time.Duration // share of the corrections, in pictures
	Short         bool          // the deadline made the run take fewer steps
	Encodes       int           // calls of the encoder and of the decoder of a first stage
	Decodes       int
	Encoding      time.Duration // shares of them
	Decoding      time.Duration
	// Residual is |A(x)-y|^2 / (count sigma^2) of every image: about 1 where the image explains the measurement up to
	// its noise. For sigma = 0 it is the mean square |A(x)-y|^2 / count. Samples without a measurement have none.
	Residual     []float64
	Certificates []Certificate // how well every image explains its measurement
	// Attempts is the residual of every image in every run, where there were restarts; Residual is the smallest.
	Attempts [][]float64
}

// run is the state that all solvers step forward: the noisy images x and the latest clean ones x0. With a first stage both
// are latents, and image is the picture of x0, unless it is stale; without one image is x0. Without a measurement c is nil.
type run struct {
	ctx      context.Context
	o        Options
	s        *Schedule
	den      Denoiser
	c        *corrector
	d        *tensor.Device
	x, x0, n *tensor.Tensor // overwritten in place, so that memory stays level
	image    *tensor.Tensor
	latents  *latents // nil without a first stage
	stale    bool
	draws    int
	total    int
	per      int // denoiser calls of a step of the path
	ahead    int // steps of the path after the one that is being made
	start    time.Time
	told     *Progress       // of a step that the device has not made yet, or nil
	laps     []lap           // that nobody looked at
	seen     *tensor.Reading // the last one that was looked at
	res      *Result
}

// reconstruct runs an algorithm on a problem.
func reconstruct(ctx context.Context, p Problem, den Denoiser, stage FirstStage, o Options, algorithm func(r *run) error) (*Result, error) {
	if p.Y == nil || p.Operator == nil || den == nil {
		return nil, fmt.Errorf("solver: operator, measurement and denoiser must be given")
	}
	return launch(ctx, p.Y.Device(), den, o, func(r *run) error {
		r.c = newCorrector(p)
		guess := p.Start
		if guess == nil {
			guess = firstGuess(p.Operator, r.c.Y)
			r.c.fits("Guess", guess, r.c.shape)
		}
		return r.from(guess, r.c.shape, stage)
	}, algorithm)
}

// launch runs an algorithm inside one memory bracket and turns panics of misuse into errors. A run that the context ends
// returns the best images so far together with the context's error. ready gives the run its first images.
func launch(ctx context.Context, d *tensor.Device, den Denoiser, o Options, ready, algorithm func(r *run) error) (res *Result, err error) {
	res = &Result{}
	complete := false
	defer func() {
		if !complete {
			res = nil
		}
	}()
	defer tensor.Catch(&err)
	defer d.Tidy(&res.X0)()

	r := &run{ctx: ctx, o: o, s: o.Schedule, den: den, d: d, per: 1, start: time.Now(), res: res}
	if r.s == nil {
		r.s = scheduleOf(den)
	}
	if r.o.Noise == nil {
		r.o.Noise = NewNoise(o.Seed)
	}
	defer r.forget()
	if err := ready(r); err != nil {
		return res, err
	}
	stopped := algorithm(r)
	if stopped != nil && (ctx.Err() == nil || !errors.Is(stopped, ctx.Err())) {
		return res, stopped
	}
	if err := r.show(); err != nil {
		return res, err
	}
	if err := r.look(r.res.Calls); err != nil {
		return res, err
	}
	r.report()
	if err := r.judge(); err != nil {
		return res, err
	}
	if err := d.Sync(); err != nil {
		return res, err
	}
	res.Elapsed = time.Since(r.start)
	res.X0, complete = copied(r.image), true
	return res, stopped
}

// from takes the run's first pictures, and makes the tensors that it works in.
func (r *run) from(pictures *tensor.Tensor, shape [4]int, stage FirstStage) (err error) {
	r.image = copied(pictures)
	r.x0 = r.image
	if stage != nil {
		r.latents = newLatents(r, stage, shape)
		if r.x0, err = r.latents.encode(pictures); err != nil {
			return err
		}
	}
	r.room()
	return nil
}

// room makes the tensors in the shape of x0 that a run works in.
func (r *run) room() {
	s := r.x0.Shape()
	r.x, r.n = r.d.New(s[0], s[1], s[2], s[3]), r.d.New(s[0], s[1], s[2], s[3])
}

// judge sets the result against the measurement.
func (r *run) judge() (err error) {
	if r.c == nil {
		return nil
	}
	r.res.OperatorCalls = r.c.calls
	if r.res.Residual, r.res.Certificates, err = r.c.residuals(r.image); err != nil {
		return err
	}
	for i, v := range r.res.Residual {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("solver: residual of image %d: %w", r.o.First+i, ErrNumeric)
		}
	}
	return nil
}

// fits is how many more denoiser calls there is time for, of so many.
func (r *run) fits(calls int) int {
	if r.o.Deadline.IsZero() || r.res.Calls == 0 {
		return calls
	}
	const margin = 1.1 // steps differ, and the result has to be made as well
	each := margin * float64(time.Since(r.start)) / float64(r.res.Calls)
	n := int(min(float64(time.Until(r.o.Deadline))/max(each, 1), float64(calls)))
	if n < calls {
		r.res.Short = true
	}
	return max(n, 0)
}

// path goes along a grid of timesteps, t and the one after it, which is -1 at the end. Where not all fit before the
// deadline it leaves out some, evenly, but not the last.
func (r *run) path(grid []int) iter.Seq2[int, int] {
	return func(yield func(t, next int) bool) {
		for rest := grid; len(rest) > 0; rest = rest[1:] {
			n := r.fits(r.per*len(rest)) / r.per
			if n == 0 && r.res.Calls > 0 {
				return
			}
			if n = max(n, 1); n < len(rest) {
				rest = append([]int{rest[0]}, thinned(rest[1:], n-1)...)
			}
			if r.ahead = len(rest) - 1; !r.o.Deadline.IsZero() {
				r.total = r.res.Calls + r.per*len(rest)
			}
			next := -1
			if r.ahead > 0 {
				next = rest[1]
			}
			if !yield(rest[0], next) {
				return
			}
		}
	}
}

// thinned is n of the grid's timesteps, evenly spaced, the last among them.
func thinned(grid []int, n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = grid[(i+1)*len(grid)/n-1]
	}
	return list
}

func scheduleOf(den Denoiser) *Schedule {
	if s, ok := den.(Scheduled); ok && s.Schedule() != nil {
		return s.Schedule()
	}
	return defaultSchedule()
}

// noise fills r.n with the next draw.
func (r *run) noise() *tensor.Tensor {
	draw(r.n, r.o.Noise, r.o.First, r.draws)
	r.draws++
	return r.n
}

// begin sets x = sqrt(a) x0 + sqrt(1-a) n from the first guess.
func (r *run) begin(a float64) {
	r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: r.x0, C: math.Sqrt(a)}, {X: r.noise(), C: math.Sqrt(1 - a)}}})
}

// advance goes from noise level a to b with the corrected picture x0, the noise that goes with the picture xe, and fresh
// noise:
//
//	x = sqrt(b) x0 + ce e + cn n,   e = (x - sqrt(a) xe) / sqrt(1-a)
//
// Where cn is 0 no noise is drawn.
func (r *run) advance(x0, xe *tensor.Tensor, a, b, ce, cn float64) {
	terms := []tensor.Term{{X: x0, C: math.Sqrt(b)}}
	if ce != 0 {
		ce /= math.Sqrt(1 - a)
		terms = append(terms, tensor.Term{X: r.x, C: ce}, tensor.Term{X: xe, C: -ce * math.Sqrt(a)})
	}
	if cn != 0 {
		terms = append(terms, tensor.Term{X: r.noise(), C: cn})
	}
	r.d.Blend(r.x, tensor.Blend{Terms: terms})
}

// correction is one use of the corrector; nil means a plain step.
type correction struct {
	rho   float64
	inner Inner
	last  bool // with a first stage: the corrected picture is the result, and is not encoded
}

// step makes one denoiser call at timestep t, corrects the clean picture where asked to, keeps it, and lets then lead to
// the next x from the corrected picture and the denoiser's own.
func (r *run) step(phase, t int, by *correction, then func(corrected, denoised *tensor.Tensor)) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	defer r.d.Tidy()()
	r.lap(r.d.Mark(), nil)
	denoised := r.den.Denoise(r.x, t)
	r.res.Calls++
	r.res.Timesteps = append(r.res.Timesteps, t)
	if denoised.Shape() != r.x.Shape() {
		tensor.Fail("solver.Denoiser", "clean estimate of %v has shape %v", r.x, denoised)
	}
	r.lap(r.d.Dot(nil, denoised, denoised).Read(), &r.res.Denoising)
	if err := r.look(r.res.Calls - 1); err != nil {
		return err
	}
	r.report()

	corrected := denoised
	if by != nil {
		var err error
		if corrected, err = r.correct(denoised, by); err != nil {
			return err
		}
	}
	r.d.Blend(r.x0, tensor.Blend{Terms: []tensor.Term{{X: corrected, C: 1}}})
	r.stale = r.latents != nil && (by == nil || !by.last)
	if r.o.trace != nil {
		r.o.trace(trace{phase, t, r.x, denoised, corrected})
	}
	then(corrected, denoised)
	r.told = &Progress{Step: r.res.Calls, Total: r.total, Phase: phase, T: t, Preview: r.preview}
	made := 0
	if !r.o.Deadline.IsZero() { // how many more steps there is time for is known when this one is made
		r.lap(r.d.Mark(), nil)
		made = r.res.Calls
	}
	if err := r.look(made); err != nil {
		return err
	}
	if len(r.laps) == 0 {
		r.report()
	}
	return nil
}

// report tells of the latest step that was told, which is made by now.
func (r *run) report() {
	if p := r.told; p != nil && r.o.Progress != nil {
		p.Elapsed = time.Since(r.start)
		r.o.Progress(*p)
	}
	r.told = nil
}

// correct corrects the clean estimate x0 in the space of the pictures, and comes back to that of the denoiser.
func (r *run) correct(x0 *tensor.Tensor, by *correction) (*tensor.Tensor, error) {
	picture := x0
	if r.latents != nil {
		var err error
		if picture, err = r.latents.decode(x0); err != nil {
			return nil, err
		}
	}
	picture = r.c.correct(picture, by.rho, by.inner)
	r.lap(r.d.Mark(), &r.res.Correcting)
	r.res.Corrections++
	switch {
	case r.latents == nil:
		return picture, nil
	case by.last:
		r.d.Blend(r.image, tensor.Blend{Terms: []tensor.Term{{X: picture, C: 1}}})
		return x0, nil
	}
	return r.latents.encode(picture)
}

// show makes image the picture of x0.
func (r *run) show() error {
	if !r.stale {
		return nil
	}
	defer r.d.Tidy()()
	picture, err := r.latents.decode(r.x0)
	if err != nil {
		return err
	}
	r.d.Blend(r.image, tensor.Blend{Terms: []tensor.Term{{X: picture, C: 1}}})
	r.stale = false
	return nil
}

func (r *run) preview() ([]float32, error) {
	if err := r.show(); err != nil {
		return nil, err
	}
	if err := r.look(r.res.Calls); err != nil { // the device is waited for in any case
		return nil, err
	}
	return r.image.Floats()
}

// forget gives the readings back.
func (r *run) forget() {
	for _, l := range r.laps {
		l.at.Free()
	}
	if r.seen != nil {
		r.seen.Free()
	}
}

// lap is a place in a run, and what the time since the one before is counted as.
type lap struct {
	at   *tensor.Reading // of the squared norms of a clean estimate, or of nothing
	to   *time.Duration  // or nil
	call int
}

func (r *run) lap(at *tensor.Reading, to *time.Duration) {
	r.laps = append(r.laps, lap{at: at, to: to, call: r.res.Calls})
}

// look counts the laps up to a denoiser call and whatever else can be looked at without waiting, and checks that the numbers are
// finite. A step looks at the one before it, so a device that computes while the program goes on has always something to do.
func (r *run) look(call int) error {
	for len(r.laps) > 0 && (r.laps[0].call <= call || r.laps[0].at.There()) {
		l := r.laps[0]
		norms, err := l.at.Floats()
		if err != nil {
			return err
		}
		for i, v := range norms {
			if v := float64(v); math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("solver: denoiser call %d of %d, timestep %d, image %d: %w", l.call, r.total, r.res.Timesteps[l.call-1], r.o.First+i, ErrNumeric)
			}
		}
		if l.to != nil {
			*l.to += l.at.Since(r.seen)
		}
		if r.seen != nil {
			r.seen.Free()
		}
		r.seen, r.laps = l.at, append(r.laps[:0], r.laps[1:]...)
	}
	return nil
}
