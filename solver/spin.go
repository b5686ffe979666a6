package solver

import (
	"context"
	"math"

	"github.com/spin-native/spin/tensor"
)

// Parameters are the numbers of the algorithm. Start from Defaults and change what you mean to: a zero field is a zero,
// unless it says otherwise.
type Parameters struct {
	TStar int // timestep of phase 1, and where phase 2 starts
	K1    int // denoiser calls in phase 1
	// Noisy takes the operator's own first guess for x at TStar as it is, with the measurement's noise in place of fresh noise.
	// It is for operators whose guess is the picture with noise of the standard deviation sigma everywhere, as Denoise has it.
	Noisy bool

	Most  int     // of K1 + P, whatever the budget: more of them were found to do harm; 0: no limit
	P     int     // denoiser calls in phase 2: timesteps from TStar to TLow, of which equal ones are merged; 0: phase 1 only
	TLow  int     // last timestep
	Power float64 // of the grid; 0 means 2
	Every int     // phase 2 corrects at grid positions 0, Every, 2 Every, ...; 0 means 1, all of them
	TEnd  int     // and where the timestep is at least TEnd; the steps below are plain

	EtaG float64 // share of fresh noise after a corrected step, 0 to 1
	EtaU float64 // DDIM eta of plain steps, 0 to 1

	Lam1, Lam2     float64 // weight of staying near the denoised picture, phases 1 and 2
	SDMin          float64 // floor of the noise level in that weight
	Inner1, Inner2 Inner   // how to correct in phases 1 and 2

	// Final corrects the picture of the last step, whatever Every and TEnd say, and returns it as it is. It is for latent
	// priors, where the result is otherwise what the last latent decodes to.
	Final bool
	// Keep copies the measured pixels into the result where the operator is a Keeper and sigma is 0.
	Keep bool
}

// Settings of a run of Spin. The zero value means the defaults of the operator's task.
type Settings struct {
	Parameters     // where all are zero: Defaults, or LatentDefaults, for the operator's task, the noise level and the schedule
	Calls      int // budget of denoiser calls, to which K1 and P are scaled; 0: as they are. See Fast and Best
	// Transition of phase 2 from one timestep to the next, in place of Spin's own.
	Transition Transition
	// Restarts is the number of whole runs, with other noise and other first guesses where the operator is a Starter, of
	// which every image keeps the one with the smallest residual. 0: 4 for phase retrieval, otherwise 1.
	Restarts int
	// FirstStage, where set, makes Spin a latent one: the denoiser works on its latents, the operator on its pictures.
	FirstStage FirstStage
	Options
}

// Spin reconstructs images from a measurement. With D the denoiser and g the first guess,
//
//	x = sqrt(a*) g + sqrt(1-a*) n                                      a* = abar(TStar); Noisy: x = sqrt(a*) g
//	phase 1, K1 times:    x0 = correct(D(x, TStar));  x = sqrt(a*) x0 + sqrt(1-a*) n
//	phase 2, for every t of the grid, a = abar(t), b = abar(next t):
//	    x0 = D(x, t);  where guided: x0 = correct(x0)
//	    e  = (x - sqrt(a) x0) / sqrt(1-a)
//	    s2 = EtaG^2 (1-b) where guided, otherwise EtaU^2 (1-b)/(1-a) (1-a/b)
//	    x  = sqrt(b) x0 + sqrt(1-b-s2) e + sqrt(s2) n                  the last x0 is the result
//
// With a first stage x and x0 are latents, g is encoded, and correct(x0) = E(correct(Dec(x0))): plain steps need no first
// stage. Nothing is differentiated but the operator.
//
// Noise is drawn once at the start, unless that is Noisy, once per phase 1 step and once per phase 2 step with s2 > 0. With Restarts all that is
// done several times, and the data choose.
//
// With a Transition other than Renoise, the last line of phase 2 is that sampler's, whether x0 was corrected or not; EtaU is
// the eta of DDIM, and EtaG has no meaning. What multistep samplers remember are the corrected x0, as the measurement then
// speaks in their extrapolation too, and the e that go with them. Phase 1 stays as it is.
//
// When the context ends, the Result holds the best images so far and the error is the context's.
func Spin(ctx context.Context, p Problem, den Denoiser, s Settings) (*Result, error) {
	if s.Restarts == 0 {
		s.Restarts = restartsOf(taskOf(p.Operator))
	}
	return restart(p, s.Restarts, s.Options, func(p Problem, o Options) (*Result, error) {
		s := s
		s.Options = o
		return spin(ctx, p, den, s)
	})
}

func spin(ctx context.Context, p Problem, den Denoiser, s Settings) (*Result, error) {
	return reconstruct(ctx, p, den, s.FirstStage, s.Options, func(r *run) error {
		r.res.Parameters = s.parameters(p, r.s).checked(r)
		return r.spin(r.res.Parameters, s.Transition)
	})
}

// parameters fills in the defaults of a problem, and scales to the budget.
func (s Settings) parameters(p Problem, schedule *Schedule) Parameters {
	if s.Parameters == (Parameters{}) && s.FirstStage != nil {
		s.Parameters = LatentDefaults(p.Operator, p.Sigma, schedule).Parameters
	} else if s.Parameters == (Parameters{}) {
		s.Parameters = Defaults(taskOf(p.Operator), p.Sigma, schedule).Parameters
	}
	return s.Budget(s.Calls)
}

func (r *run) spin(s Parameters, by Transition) error {
	grid := Grid(s.TStar, s.TLow, s.P, s.Power)
	r.total = s.K1 + len(grid)
	star := r.s.AlphaBar(s.TStar)

	if s.Noisy {
		tidy := r.d.Tidy()
		r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: firstGuess(r.c.Operator, r.c.Y), C: math.Sqrt(star)}}})
		tidy()
	} else {
		r.begin(star)
	}
	for i := range s.K1 {
		if fit := i + r.fits(r.total-i); fit < r.total && i >= s.Budget(max(fit, 1)).K1 {
			break
		}
		by := &correction{rho: r.rho(s.Lam1, s.SDMin, s.TStar), inner: s.Inner1}
		err := r.step(1, s.TStar, by, func(x0, _ *tensor.Tensor) {
			r.advance(x0, x0, star, star, 0, math.Sqrt(1-star))
		})
		if err != nil {
			return err
		}
	}
	var way *stepper // nil: Spin's own
	if by != "" && by != Renoise {
		way = r.stepper(by, s.EtaU)
	}
	i := 0
	for t, next := range r.path(grid) {
		var by *correction
		if i%s.Every == 0 && t >= s.TEnd {
			by = &correction{rho: r.rho(s.Lam2, s.SDMin, t), inner: s.Inner2}
		}
		if next < 0 && s.Final && r.latents != nil {
			by = &correction{rho: r.rho(s.Lam2, min(s.SDMin, pictureFloor), t), inner: s.Inner2, last: true}
		}
		err := r.step(2, t, by, func(x0, _ *tensor.Tensor) {
			if next < 0 {
				return
			}
			if way != nil {
				way.advance(x0, t, next)
				return
			}
			a, b := r.s.AlphaBar(t), r.s.AlphaBar(next)
			s2 := ddimVariance(s.EtaU, a, b)
			if by != nil {
				s2 = s.EtaG * s.EtaG * (1 - b)
			}
			r.advance(x0, x0, a, b, math.Sqrt(max(0, 1-b-s2)), math.Sqrt(s2))
		})
		if err != nil {
			return err
		}
		i++
	}
	if k, ok := r.c.Operator.(Keeper); ok && s.Keep && r.c.Sigma == 0 {
		if err := r.show(); err != nil {
			return err
		}
		r.image = k.Keep(r.image, r.c.Y)
	}
	return nil
}

// rho is lam sd^2 abar/(1-abar) with sd = max(sigma, floor): the noise variance of the measurement over the uncertainty
// of the clean picture at that noise level. Early steps follow the measurement, late ones the prior.
func (r *run) rho(lam, floor float64, t int) float64 {
	sd := max(r.c.Sigma, floor)
	a := r.s.AlphaBar(t)
	return lam * sd * sd * a / (1 - a)
}

// checked fills in what is left to defaults and refuses what makes no sense.
func (s Parameters) checked(r *run) Parameters {
	const op = "solver.Parameters"
	if s.Power == 0 {
		s.Power = 2
	}
	if s.Every == 0 {
		s.Every = 1
	}
	if s.TStar < 0 || s.TStar >= r.s.Len() || s.TLow < 0 || s.TLow > s.TStar {
		tensor.Fail(op, "timesteps TStar %d and TLow %d: expected 0 <= TLow <= TStar < %d", s.TStar, s.TLow, r.s.Len())
	}
	if s.K1 < 0 || s.P < 0 || s.K1+s.P < 1 || s.Every < 1 || s.K1 > maxTimesteps || s.P > maxTimesteps {
		tensor.Fail(op, "K1 %d, P %d, Every %d: expected K1 and P at least 0, one of them and Every at least 1", s.K1, s.P, s.Every)
	}
	for _, v := range []struct {
		name   string
		v, top float64
	}{{"Power", s.Power, 100}, {"EtaG", s.EtaG, 1}, {"EtaU", s.EtaU, 1}, {"Lam1", s.Lam1, math.MaxFloat32}, {"Lam2", s.Lam2, math.MaxFloat32}, {"SDMin", s.SDMin, math.MaxFloat32}} {
		if !(v.v >= 0 && v.v <= v.top) {
			tensor.Fail(op, "%s is %v, expected 0 to %v", v.name, v.v, v.top)
		}
	}
	if s.Noisy && r.latents != nil {
		tensor.Fail(op, "Noisy: the noise of a measurement is that of pictures, not of latents")
	}
	s.Inner1, s.Inner2 = r.c.choose(s.Inner1), r.c.choose(s.Inner2)
	return s
}
