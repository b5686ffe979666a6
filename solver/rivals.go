package solver

import (
	"context"
	"math"

	"github.com/spin-native/spin/tensor"
)

// DiffPIRSettings of DiffPIR (Zhu et al., Denoising diffusion models for plug-and-play image restoration).
type DiffPIRSettings struct {
	N     int     // denoiser calls, default 40
	Lam   float64 // weight of staying near the denoised picture, default 7
	Zeta  float64 // share of fresh noise in the variance, 0 to 1, default 0.3
	SDMin float64 // floor of the noise level, default 0.02
	Inner Inner
	Options
}

// DiffPIR runs the whole reverse diffusion and corrects every clean estimate but the last, with the weight rho = Lam
// max(sigma, SDMin)^2 a/(1-a):
//
//	x = sqrt(b) x0 + sqrt(1-b) (sqrt(1-Zeta) e + sqrt(Zeta) n)
func DiffPIR(ctx context.Context, p Problem, den Denoiser, s DiffPIRSettings) (*Result, error) {
	s.Lam, s.Zeta, s.SDMin = or(s.Lam, 7), or(s.Zeta, 0.3), or(s.SDMin, 0.02)
	return reconstruct(ctx, p, den, nil, s.Options, func(r *run) error {
		if !(s.Lam >= 0) || !(s.Zeta >= 0 && s.Zeta <= 1) || !(s.SDMin >= 0) {
			tensor.Fail("solver.DiffPIR", "lam %v, zeta %v, floor %v: expected positive numbers, zeta at most 1", s.Lam, s.Zeta, s.SDMin)
		}
		inner, grid := r.c.choose(s.Inner), r.wholeGrid(s.N)
		r.begin(r.s.AlphaBar(grid[0]))
		for t, next := range r.path(grid) {
			if next < 0 {
				return r.step(2, t, nil, func(_, _ *tensor.Tensor) {})
			}
			a, b := r.s.AlphaBar(t), r.s.AlphaBar(next)
			err := r.step(2, t, &correction{rho: r.rho(s.Lam, s.SDMin, t), inner: inner}, func(x0, _ *tensor.Tensor) {
				r.advance(x0, x0, a, b, math.Sqrt((1-b)*(1-s.Zeta)), math.Sqrt((1-b)*s.Zeta))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// DDNMSettings of DDNM+ (Wang et al., Zero-shot image restoration using denoising diffusion null-space model).
type DDNMSettings struct {
	N     int     // denoiser calls, default 100
	Eta   float64 // share of fresh noise, 0 to 1, default 0.85
	Inner Inner
	Options
}

// DDNM is DDNM+ for linear operators: the clean estimate moves by m = min(1, sqrt(1-b) / (sqrt(b) sigma)) towards the
// pictures that fit the measurement, and the noise added afterwards makes up for what that brings in:
//
//	x0' = x0 + m (correct(x0, rho = 1e-3 L) - x0)
//	x   = sqrt(b) x0' + sqrt(max(0, 1-b - b m^2 sigma^2)) (Eta n + sqrt(1-Eta^2) e)      e of x0, uncorrected
func DDNM(ctx context.Context, p Problem, den Denoiser, s DDNMSettings) (*Result, error) {
	s.N, s.Eta = int(or(float64(s.N), 100)), or(s.Eta, 0.85)
	return reconstruct(ctx, p, den, nil, s.Options, func(r *run) error {
		bound := lipschitz(p.Operator)
		if !isLinear(p.Operator) || !(bound > 0) || !(s.Eta >= 0 && s.Eta <= 1) {
			tensor.Fail("solver.DDNM", "%T with eta %v: expected a linear operator that knows its Lipschitz constant, eta 0 to 1", p.Operator, s.Eta)
		}
		inner, grid := r.c.choose(s.Inner), r.wholeGrid(s.N)
		r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: r.noise(), C: 1}}})
		for t, next := range r.path(grid) {
			a, b := r.s.AlphaBar(t), r.s.AlphaBar(next)
			m := 1.0
			if p.Sigma > 0 {
				m = min(1, math.Sqrt(1-b)/(math.Sqrt(b)*p.Sigma))
			}
			left := math.Sqrt(max(0, 1-b-b*m*m*p.Sigma*p.Sigma))
			err := r.step(2, t, &correction{rho: 1e-3 * bound, inner: inner}, func(corrected, denoised *tensor.Tensor) {
				r.d.Blend(r.x0, tensor.Blend{Terms: []tensor.Term{{X: denoised, C: 1 - m}, {X: corrected, C: m}}})
				r.advance(r.x0, denoised, a, b, left*math.Sqrt(1-s.Eta*s.Eta), left*s.Eta)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Floor is the operator's first guess, or Problem.Start, without a denoiser: what there is to beat.
func Floor(ctx context.Context, p Problem, o Options) (*Result, error) {
	return reconstruct(ctx, p, FromModel(nil, ModelOptions{}), nil, o, func(*run) error { return nil })
}

// wholeGrid is n timesteps from the noisiest to 0, evenly spaced.
func (r *run) wholeGrid(n int) []int {
	n = int(or(float64(n), Standard))
	if n < 1 || n > maxTimesteps {
		tensor.Fail("solver.Grid", "%d denoiser calls", n)
	}
	grid := Grid(r.s.Len()-1, 0, n, 1)
	r.total = len(grid)
	return grid
}

// or is v, or the default where v is zero.
func or(v, otherwise float64) float64 {
	if v == 0 {
		return otherwise
	}
	return v
}
