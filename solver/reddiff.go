package solver

import (
	"context"
	"math"

	"github.com/spin-native/spin/tensor"
)

// REDDiffSettings of RED-diff (Mardani et al., A variational perspective on solving inverse problems with diffusion models).
type REDDiffSettings struct {
	N    int     // denoiser calls, default 40
	Lam  float64 // weight of the regulariser, default 0.1
	Rate float64 // of Adam, in units of the image, default 0.01
	Options
}

// REDDiff descends with Adam on a picture u itself, from the operator's first guess, down the timesteps. The regulariser of a
// step is what the denoiser makes of u with fresh noise, weighed with the noise-to-signal ratio s = sqrt((1-a)/a):
//
//	x = sqrt(a) u + sqrt(1-a) n
//	g = size/count grad f(u) + Lam s (eps(x,t) - n),      s (eps(x,t) - n) = u - D(x,t)
//	u = Adam(u, g)                                           the last u is the result
//
// with f(u) = 1/2 |A(u)-y|^2, size the number of values of an image and count that of a measurement: the published loss
// weighs means of both. Nothing is differentiated through the network. Adam's second moment decays with 0.999 here, and with
// 0.99 there; Lam is 0.25 and Rate 0.1 there, for 100 steps and more, which leaves that much noise after 40 (random pixels, sigma
// 0.05, astronaut: 15 dB, with 0.25 and 0.02 20.2, with 0.1 and 0.01 23.6).
func REDDiff(ctx context.Context, p Problem, den Denoiser, s REDDiffSettings) (*Result, error) {
	s.Lam, s.Rate = or(s.Lam, 0.1), or(s.Rate, 0.01)
	return reconstruct(ctx, p, den, nil, s.Options, func(r *run) error {
		if !(s.Lam >= 0) || !(s.Rate > 0) {
			tensor.Fail("solver.REDDiff", "lam %v, rate %v: expected positive numbers", s.Lam, s.Rate)
		}
		u, zero := copied(r.x0), tensor.Blend{Terms: []tensor.Term{{X: r.x0, C: 0}}}
		m, v := r.d.Blend(nil, zero), r.d.Blend(nil, zero)
		size := float64(u.Len() / u.N())
		for t := range r.path(r.wholeGrid(s.N)) {
			a := r.s.AlphaBar(t)
			r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: u, C: math.Sqrt(a)}, {X: r.noise(), C: math.Sqrt(1 - a)}}})
			err := r.step(2, t, nil, func(x0, _ *tensor.Tensor) {
				g := r.c.gradient(u, r.c.residual(u))
				g = r.d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: g, C: size, Num: r.c.ones, Den: r.c.weight}}})
				r.d.Adam(tensor.Adam{X: u, M: m, V: v, Grad: g, X0: x0, Rate: s.Rate, Rho: s.Lam, T: r.res.Calls})
				r.d.Blend(r.x0, tensor.Blend{Terms: []tensor.Term{{X: u, C: 1}}})
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
