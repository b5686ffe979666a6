package solver

import (
	"context"
	"math"

	"github.com/spin-native/spin/tensor"
)

// DPSApproxSettings of the approximation of DPS (Chung et al., Diffusion posterior sampling for general noisy inverse problems).
type DPSApproxSettings struct {
	N     int     // denoiser calls, default 40
	Scale float64 // of the gradient steps for 1000 calls, as published; default 1
	Options
}

// DPSApprox is an approximation of DPS, and not DPS: that differentiates the residual through the network, which nothing here can. In
// place of the Jacobian of the denoiser stands that of a prior of white noise with variance 1, sqrt(a) times the identity. What is missing is
// how the network would carry a correction to where nothing was measured: the holes of an inpainting
// learn of their surroundings only by the next denoiser call. An ancestral step, DDPM, is followed by one on the residual r = A(x0)-y of the
// clean estimate:
//
//	x = DDPM(x, x0) - min(2 Scale 1000/N / |r|, 1/L) sqrt(a) A^T r
//
// The published step 2 Scale / |r| is for 1000 calls, hence the factor 1000/N; the bound, where the operator knows L = Lipschitz, keeps so long
// a step from overshooting.
func DPSApprox(ctx context.Context, p Problem, den Denoiser, s DPSApproxSettings) (*Result, error) {
	s.Scale = or(s.Scale, 1)
	return reconstruct(ctx, p, den, nil, s.Options, func(r *run) error {
		if !(s.Scale > 0) {
			tensor.Fail("solver.DPSApprox", "scale %v, expected a positive number", s.Scale)
		}
		grid := r.wholeGrid(s.N)
		length := 2 * s.Scale * 1000 / float64(len(grid))
		bound := lipschitz(p.Operator)
		way := r.stepper(DDPM, 0)
		r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: r.noise(), C: 1}}})
		for t, next := range r.path(grid) {
			var failed error
			err := r.step(2, t, nil, func(x0, _ *tensor.Tensor) {
				res := r.c.residual(x0)
				back := r.c.gradient(x0, res)
				squares, err := r.d.Dot(nil, res, res).Floats()
				if err != nil {
					failed = err
					return
				}
				for i, v := range squares {
					step := length / math.Sqrt(float64(v))
					if bound > 0 {
						step = min(step, 1/bound)
					}
					if v == 0 {
						step = 0
					}
					squares[i] = float32(step)
				}
				steps := r.d.From(squares, len(squares), 1, 1, 1)
				to := r.x
				if next >= 0 {
					way.advance(x0, t, next)
				} else {
					to = r.x0 // the result, which is x0 up to here
				}
				r.d.Blend(to, tensor.Blend{Terms: []tensor.Term{{X: to, C: 1}, {X: back, C: -math.Sqrt(r.s.AlphaBar(t)), Num: steps, Den: r.c.ones}}})
			})
			if err == nil {
				err = failed
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
