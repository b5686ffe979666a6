package solver

import (
	"context"
	"fmt"
	"math"

	"github.com/spin-native/spin/tensor"
)

// Transition is a way from the images x at timestep t to those at the next one, given the clean estimate x0. With a, b = abar
// of the two timesteps, s = sqrt((1-a)/a) the noise-to-signal ratio, l = -log s, and e = (x - sqrt(a) x0) / sqrt(1-a):
type Transition string

const (
	// Renoise forgets e: Spin's own, as Settings says. The empty Transition is the same.
	//
	//	x = sqrt(b) x0 + sqrt(1-b) n
	Renoise Transition = "renoise"
	// DDIM (Song et al., Denoising diffusion implicit models), deterministic for eta = 0:
	//
	//	x = sqrt(b) x0 + sqrt(1-b-s2) e + sqrt(s2) n       s2 = eta^2 (1-b)/(1-a) (1-a/b)
	DDIM Transition = "ddim"
	// DDPM (Ho et al., Denoising diffusion probabilistic models), the ancestral step of the chain that the timesteps leave of
	// the schedule. beta = 1-a/b is that chain's, v = beta (1-b)/(1-a) the small one of the two fixed variances:
	//
	//	x = sqrt(b) beta/(1-a) x0 + sqrt(a/b) (1-b)/(1-a) x + sqrt(v) n
	DDPM Transition = "ddpm"
	// DDPMLarge is DDPM with the large one, v = beta.
	DDPMLarge Transition = "ddpm-large"
	// PNDM (Liu et al., Pseudo numerical methods for diffusion models on manifolds) is its linear multistep method of fourth
	// order: the step of DDIM with a weighted sum of e and those of the three steps before in place of e, the weights being
	// those of Adams and Bashforth in t, (55, -59, 37, -9)/24 for even steps. It warms up with one, two and three of them
	// (Euler's step first), so that every step is one call of the denoiser; the paper warms up with Runge-Kutta's method.
	PNDM Transition = "pndm"
	// DPMPP is DPM-Solver++(2M) (Lu et al., DPM-Solver++), multistep, of second order in x0. With h = l' - l, h1 = l - l1 the
	// step before it, x1 the estimate of that, and sd = sqrt(1-a):
	//
	//	x = sd'/sd x - sqrt(b) (exp(-h)-1) (x0 + h/(2 h1) (x0 - x1))
	//
	// The first step is of first order, which is DDIM.
	DPMPP Transition = "dpmpp"
	// DPMPP3 is DPM-Solver++(3M), of third order; the second step and the one to the last timestep are of second.
	DPMPP3 Transition = "dpmpp3"
)

// Transitions are all of them.
func Transitions() []Transition {
	return []Transition{Renoise, DDIM, DDPM, DDPMLarge, PNDM, DPMPP, DPMPP3}
}

// stepper makes the transitions of one run, and keeps what multistep ones remember.
type stepper struct {
	r    *run
	kind Transition
	eta  float64
	past []*tensor.Tensor // x0 of earlier steps, or e for PNDM, the newest first; the last is room for the next
	at   []int            // timesteps of what they hold
}

func (r *run) stepper(kind Transition, eta float64) *stepper {
	s := &stepper{r: r, kind: kind, eta: eta}
	memory := 0
	switch kind {
	case Renoise, DDIM, DDPM, DDPMLarge:
	case DPMPP:
		memory = 2
	case DPMPP3:
		memory = 3
	case PNDM:
		memory = 4
	default:
		tensor.Fail("solver.Transition", "%q, expected one of %v", kind, Transitions())
	}
	if !(eta >= 0 && eta <= 1) {
		tensor.Fail("solver.Transition", "eta %v, expected 0 to 1", eta)
	}
	shape := r.x.Shape()
	for range memory {
		s.past = append(s.past, r.d.New(shape[0], shape[1], shape[2], shape[3]))
	}
	return s
}

// advance leads the run's x from timestep t to the next one.
func (s *stepper) advance(x0 *tensor.Tensor, t, next int) {
	r := s.r
	a, b := r.s.AlphaBar(t), r.s.AlphaBar(next)
	switch s.kind {
	case Renoise:
		r.advance(x0, x0, a, b, 0, math.Sqrt(1-b))
	case DDIM:
		s2 := ddimVariance(s.eta, a, b)
		r.advance(x0, x0, a, b, math.Sqrt(max(0, 1-b-s2)), math.Sqrt(max(0, s2)))
	case DDPM, DDPMLarge:
		beta := 1 - a/b
		v := beta
		if s.kind == DDPM {
			v *= (1 - b) / (1 - a)
		}
		terms := []tensor.Term{{X: x0, C: math.Sqrt(b) * beta / (1 - a)}, {X: r.x, C: math.Sqrt(a/b) * (1 - b) / (1 - a)}}
		r.d.Blend(r.x, tensor.Blend{Terms: append(terms, tensor.Term{X: r.noise(), C: math.Sqrt(v)})})
	case PNDM:
		s.remember(t, tensor.Term{X: r.x, C: 1 / math.Sqrt(1-a)}, tensor.Term{X: x0, C: -math.Sqrt(a / (1 - a))})
		var sum []tensor.Term
		for i, w := range adamsBashforth(s.at, next) {
			sum = append(sum, tensor.Term{X: s.past[i], C: w})
		}
		defer r.d.Tidy()()
		e := r.d.Blend(nil, tensor.Blend{Terms: sum})
		r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: r.x, C: math.Sqrt(b / a)}, {X: e, C: math.Sqrt(1-b) - math.Sqrt(b/a*(1-a))}}})
	case DPMPP, DPMPP3:
		s.remember(t, tensor.Term{X: x0, C: 1})
		terms := []tensor.Term{{X: r.x, C: math.Sqrt((1 - b) / (1 - a))}}
		for i, w := range s.dataWeights(next) {
			terms = append(terms, tensor.Term{X: s.past[i], C: math.Sqrt(b) * w})
		}
		r.d.Blend(r.x, tensor.Blend{Terms: terms})
	}
}

// ddimVariance is that of the noise which DDIM adds on the way from abar = a to b.
func ddimVariance(eta, a, b float64) float64 { return eta * eta * (1 - b) / (1 - a) * (1 - a/b) }

// remember puts a sum in front of what is remembered.
func (s *stepper) remember(t int, terms ...tensor.Term) {
	last := len(s.past) - 1
	newest := s.past[last]
	copy(s.past[1:], s.past[:last])
	s.past[0] = newest
	s.at = append([]int{t}, s.at[:min(len(s.at), last)]...)
	s.r.d.Blend(newest, tensor.Blend{Terms: terms})
}

// dataWeights are the weights of DPM-Solver++ on the clean estimates that are remembered, the newest first, for a step to
// next: the multistep formulas in h, with differences D1 and D2 of the estimates resolved.
func (s *stepper) dataWeights(next int) []float64 {
	l := func(t int) float64 { return -math.Log(s.r.s.NoiseToSignal(t)) }
	h := l(next) - l(s.at[0])
	g := math.Expm1(-h)
	w0, w1, w2 := -g, -g/2, 0.0 // of x0, D1 and D2
	switch order := min(len(s.at), s.r.ahead+1); {
	case order <= 1:
		return []float64{w0}
	case order == 2:
		q := (l(s.at[0]) - l(s.at[1])) / h
		return []float64{w0 + w1/q, -w1 / q}
	}
	w1, w2 = g/h+1, -((g+h)/(h*h) - 0.5)
	q0, q1 := (l(s.at[0])-l(s.at[1]))/h, (l(s.at[1])-l(s.at[2]))/h
	// D1 = d0 + q0/(q0+q1) (d0-d1), D2 = (d0-d1)/(q0+q1), d0 = (x0-x1)/q0, d1 = (x1-x2)/q1
	d0 := w1*(1+q0/(q0+q1)) + w2/(q0+q1)
	d1 := -w1*q0/(q0+q1) - w2/(q0+q1)
	return []float64{w0 + d0/q0, -d0/q0 + d1/q1, -d1 / q1}
}

// adamsBashforth are the weights with which values at the given points, the newest first, make the mean from the newest point to next
// of the polynomial through them.
func adamsBashforth(at []int, next int) []float64 {
	weights := make([]float64, len(at))
	h := float64(next - at[0])
	for i := range at {
		p := []float64{1} // Lagrange's polynomial in u = (t-at[0])/h, by its coefficients
		for j := range at {
			if j == i {
				continue
			}
			root, scale := float64(at[j]-at[0])/h, float64(at[i]-at[j])/h
			q := make([]float64, len(p)+1)
			for k, c := range p {
				q[k+1] += c / scale
				q[k] -= c * root / scale
			}
			p = q
		}
		for k, c := range p {
			weights[i] += c / float64(k+1)
		}
	}
	return weights
}

// GenerateSettings of Generate.
type GenerateSettings struct {
	Sampler   Transition // default DDIM
	N         int        // denoiser calls, default 50
	Timesteps []int      // descending; default: N of them, evenly from the noisiest to 0
	Eta       float64    // share of fresh noise of DDIM, 0 to 1
	// Window, where above 0, is that of the time-shift sampler; Cutoff is the timestep from which on nothing is shifted. See
	// Generate.
	Window, Cutoff int
	// FirstStage of a latent prior: the denoiser works on its latents.
	FirstStage FirstStage
	Options
}

// Generate makes images of the given shape [N,H,W,C] from nothing but noise, with one denoiser call for each of the timesteps:
//
//	x = n;  for every timestep: x0 = D(x, t), x = transition(x, x0)                   the last x0 is the result
//
// With a Window w > 0 it is the time-shift sampler (Li et al., Alleviating exposure bias in diffusion models through sampling
// with shifted time steps): the x that a step arrives at is taken to be not of timestep t but of that one within t-w/2 to t+w/2
// whose 1-abar is nearest to the variance of the elements of x, as long as t is above Cutoff. The transition, too, starts at
// that timestep; it never goes below the next one. As every image has its own, there may be only one.
//
// When the context ends, the Result holds the best images so far and the error is the context's.
func Generate(ctx context.Context, d *tensor.Device, den Denoiser, shape [4]int, s GenerateSettings) (res *Result, err error) {
	if d == nil || den == nil {
		return nil, fmt.Errorf("solver: device and denoiser must be given")
	}
	defer tensor.Catch(&err)
	for _, n := range shape {
		if n < 1 || n > maxSide {
			tensor.Fail("solver.Generate", "images of shape %v", shape)
		}
	}
	return launch(ctx, d, den, s.Options, func(r *run) error { return r.blank(shape, s.FirstStage) }, func(r *run) error {
		return r.sample(s)
	})
}

// blank gives the run grey images to begin with.
func (r *run) blank(shape [4]int, stage FirstStage) error {
	zeros := func(s [4]int) *tensor.Tensor {
		return r.d.From(make([]float32, s[0]*s[1]*s[2]*s[3]), s[0], s[1], s[2], s[3])
	}
	r.image = zeros(shape)
	r.x0 = r.image
	if stage != nil {
		r.latents = newLatents(r, stage, shape)
		r.x0, r.stale = zeros(r.latents.size()), true
	}
	r.room()
	return nil
}

func (r *run) sample(s GenerateSettings) error {
	const op = "solver.Generate"
	grid := s.Timesteps
	if grid == nil {
		grid = r.wholeGrid(int(or(float64(s.N), 50)))
	}
	for i, t := range grid {
		if t < 0 || t >= r.s.Len() || i > 0 && t >= grid[i-1] {
			tensor.Fail(op, "timestep %d after %v: expected descending ones, the first at most %d", t, grid[:i], r.s.Len()-1)
		}
	}
	if s.Window < 0 || s.Cutoff < 0 || s.Window > 0 && r.x.N() > 1 {
		tensor.Fail(op, "window %d, cutoff %d, %d images: the time-shift sampler takes one image, as each is at a timestep of its own", s.Window, s.Cutoff, r.x.N())
	}
	if r.total = len(grid); s.Sampler == "" {
		s.Sampler = DDIM
	}
	way := r.stepper(s.Sampler, s.Eta)
	r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: r.noise(), C: 1}}})
	for t, next := range r.path(grid) {
		at := t
		if s.Window > 0 && r.res.Calls > 0 && t > s.Cutoff {
			var err error
			if at, err = r.shifted(t, next, s.Window); err != nil {
				return err
			}
		}
		err := r.step(2, at, nil, func(x0, _ *tensor.Tensor) {
			if next >= 0 {
				way.advance(x0, at, next)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shifted is the timestep within a window around t, above next, whose noise has the variance of the elements of x.
func (r *run) shifted(t, next, window int) (int, error) {
	data, err := r.x.Floats()
	if err != nil {
		return t, err
	}
	var mean, variance float64
	for _, v := range data {
		mean += float64(v) / float64(len(data))
	}
	for _, v := range data {
		variance += (float64(v) - mean) * (float64(v) - mean) / float64(max(len(data)-1, 1))
	}
	off := func(t int) float64 { return math.Abs(variance - (1 - r.s.AlphaBar(t))) }
	best := t
	for at := max(t-window/2, next+1, 0); at <= min(t+window/2, r.s.Len()-1); at++ {
		if off(at) < off(best) {
			best = at
		}
	}
	return best, nil
}
