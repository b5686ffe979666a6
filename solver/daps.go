package solver

import (
	"context"
	"math"

	"github.com/spin-native/spin/tensor"
)

// DAPSSettings of DAPS (Zhang et al., Improving diffusion inverse problem solving with decoupled noise annealing).
type DAPSSettings struct {
	N        int     // denoiser calls, default 40: N/ODE noise levels
	ODE      int     // of them at each noise level, default 1
	Max, Min float64 // first and last noise level, in units of the image, default 3 and 0.02
	Tau      float64 // noise level of the measurement that the Langevin steps assume; default sigma, at least 0.01
	Langevin int     // steps at each noise level, default 20
	Rate     float64 // of them, as a share of the inverse curvature, 0 to 1, default 0.5
	Options
}

// rhoDAPS spaces noise levels as Karras et al. do, Elucidating the design space of diffusion-based generative models.
const rhoDAPS = 7

// DAPS goes down noise levels g = sqrt((1-a)/a), and at each of them: solves the probability flow from x to a clean picture
// x0, by ODE steps of Euler's method down to a level of 0.01; samples around it by Langevin steps on pixels; and noises the
// sample to the next level. Neither the denoiser nor its ODE is differentiated:
//
//	u = x0;  Langevin times:  u = u - h (2 grad f(u)/Tau^2 + (u-x0)/g^2) + sqrt(2h) n,   h = Rate / (2 L/Tau^2 + 1/g^2)
//	x = sqrt(b) u + sqrt(1-b) n                                                          the last u is the result
//
// The published step h is a number for each task; here it comes from the operator's Lipschitz constant L, which it must know. Noise levels
// are those of the nearest timesteps, and equal ones are merged. Published are 100 and 0.1 for Max and Min and 5 for ODE, with a
// thousand calls and more; of 40, two thirds go to noise in which nothing is seen (random pixels, sigma 0.05, astronaut: 21.5 dB with
// 100, 0.1 and 2, 26.1 with the defaults).
func DAPS(ctx context.Context, p Problem, den Denoiser, s DAPSSettings) (*Result, error) {
	s.N, s.ODE, s.Langevin = int(or(float64(s.N), Standard)), int(or(float64(s.ODE), 1)), int(or(float64(s.Langevin), 20))
	s.Max, s.Min, s.Rate = or(s.Max, 3), or(s.Min, 0.02), or(s.Rate, 0.5)
	s.Tau = or(s.Tau, max(p.Sigma, 0.01))
	return reconstruct(ctx, p, den, nil, s.Options, func(r *run) error {
		const op = "solver.DAPS"
		bound := lipschitz(p.Operator)
		if !(bound > 0) {
			tensor.Fail(op, "%T knows no Lipschitz constant, from which the Langevin steps take their size", p.Operator)
		}
		if s.N < 1 || s.N > maxTimesteps || s.ODE < 1 || s.Langevin < 0 || !(s.Min > 0 && s.Min <= s.Max) || !(s.Tau > 0) || !(s.Rate > 0 && s.Rate <= 1) {
			tensor.Fail(op, "%d calls, %d of them a level, %d Langevin steps, levels %v to %v, tau %v, rate %v", s.N, s.ODE, s.Langevin, s.Max, s.Min, s.Tau, s.Rate)
		}
		levels := r.levels(s.Max, s.Min, max(s.N/s.ODE, 1))
		for _, t := range levels {
			r.total += len(r.levels(r.s.NoiseToSignal(t), min(0.01, r.s.NoiseToSignal(t)), s.ODE))
		}
		r.per = s.ODE
		way := r.stepper(DDIM, 0)
		u := copied(r.x0)
		r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: r.noise(), C: 1}}})
		for t, next := range r.path(levels) {
			g := r.s.NoiseToSignal(t)
			ode := r.levels(g, min(0.01, g), s.ODE)
			for i, at := range ode {
				err := r.step(2, at, nil, func(x0, _ *tensor.Tensor) {
					if i < len(ode)-1 {
						way.advance(x0, at, ode[i+1])
						return
					}
					r.langevin(u, x0, s.Langevin, 2/(s.Tau*s.Tau), 1/(g*g), s.Rate/(2*bound/(s.Tau*s.Tau)+1/(g*g)))
					r.d.Blend(r.x0, tensor.Blend{Terms: []tensor.Term{{X: u, C: 1}}})
				})
				if err != nil {
					return err
				}
			}
			if next >= 0 {
				r.begin(r.s.AlphaBar(next))
			}
		}
		return nil
	})
}

// levels are the timesteps of n noise levels from hi down to lo, denser at the low end; equal neighbours are merged.
func (r *run) levels(hi, lo float64, n int) (list []int) {
	for i := range n {
		u := float64(i) / float64(max(n-1, 1))
		root := (1-u)*math.Pow(hi, 1./rhoDAPS) + u*math.Pow(lo, 1./rhoDAPS)
		if t := r.s.Nearest(math.Pow(root, rhoDAPS)); len(list) == 0 || t < list[len(list)-1] {
			list = append(list, t)
		}
	}
	return list
}

// langevin samples u around x0 by steps of size h on the weights of the data and of x0.
func (r *run) langevin(u, x0 *tensor.Tensor, steps int, data, near, h float64) {
	r.d.Blend(u, tensor.Blend{Terms: []tensor.Term{{X: x0, C: 1}}})
	for range steps {
		tidy := r.d.Tidy()
		g := r.c.gradient(u, r.c.residual(u))
		r.d.Blend(u, tensor.Blend{Terms: []tensor.Term{{X: u, C: 1 - h*near}, {X: x0, C: h * near}, {X: g, C: -h * data}, {X: r.noise(), C: math.Sqrt(2 * h)}}})
		tidy()
	}
}
