package solver

import (
	"context"
	"math"

	"github.com/spin-native/spin/tensor"
)

// DDRMSettings of DDRM (Kawar et al., Denoising diffusion restoration models).
type DDRMSettings struct {
	N    int     // denoiser calls, default 40
	Eta  float64 // share of fresh noise where the measurement does not lead, 0 to 1, default 0.85
	EtaB float64 // how far what is measured well is pulled to the measurement, 0 to 1, default 1
	Options
}

// leastShare is the square of a singular value, over the largest one, below which DDRM takes nothing to be measured:
// float32 knows no smaller ones.
const leastShare = 1e-6

// DDRM works in the spectral coordinates of the operator, A = U S V^T, for operators that are Spectral. With X = x/sqrt(a),
// noise levels g = sqrt((1-a)/a) now and g' at the next timestep, and of every vector its component along a right singular vector, y/s that of
// the measurement and sigma/s its noise, the next X is
//
//	x0 + sqrt(1-Eta^2) g'/g (X-x0) + Eta g' n                                  s = 0
//	x0 + sqrt(1-Eta^2) g' (y/s-x0)/(sigma/s) + Eta g' n                        g' < sigma/s
//	(1-EtaB) x0 + EtaB y/s + sqrt(g'^2 - EtaB^2 sigma^2/s^2) n                 otherwise
//
// and the first one y/s + sqrt(g^2 - sigma^2/s^2) n where s > 0, else g n. V itself is never needed: the first line is right
// for the whole of x, and A^T U S^-2 brings in by how much the measured components differ from it.
func DDRM(ctx context.Context, p Problem, den Denoiser, s DDRMSettings) (*Result, error) {
	s.Eta, s.EtaB = or(s.Eta, 0.85), or(s.EtaB, 1)
	return reconstruct(ctx, p, den, nil, s.Options, func(r *run) error {
		op, ok := p.Operator.(Spectral)
		if !ok {
			tensor.Fail("solver.DDRM", "%T has no singular value decomposition at hand: it is not a Spectral; inpainting, down-sampling, denoising and colouring are", p.Operator)
		}
		if !(s.Eta >= 0 && s.Eta <= 1) || !(s.EtaB >= 0 && s.EtaB <= 1) {
			tensor.Fail("solver.DDRM", "eta %v and %v, expected 0 to 1", s.Eta, s.EtaB)
		}
		m, err := newModes(r, op)
		if err != nil {
			return err
		}
		grid := r.wholeGrid(s.N)
		a := r.s.AlphaBar(grid[0])
		n := r.noise()
		r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: n, C: math.Sqrt(1 - a)}}})
		level := r.s.NoiseToSignal(grid[0])
		err = m.lead(n, n, a, func(sd float64) (c0, cy, cn float64) { return 0, 1, math.Sqrt(max(0, level*level-sd*sd)) })
		if err != nil {
			return err
		}
		for t, next := range r.path(grid) {
			var failed error
			err := r.step(2, t, nil, func(x0, _ *tensor.Tensor) {
				a, b := r.s.AlphaBar(t), r.s.AlphaBar(next)
				level := math.Sqrt((1 - b) / b)
				keep := math.Sqrt(1-s.Eta*s.Eta) * level
				n := r.noise()
				k := keep / r.s.NoiseToSignal(t)
				r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{
					{X: x0, C: math.Sqrt(b) * (1 - k)}, {X: r.x, C: math.Sqrt(b/a) * k}, {X: n, C: s.Eta * math.Sqrt(1-b)},
				}})
				failed = m.lead(x0, n, b, func(sd float64) (c0, cy, cn float64) {
					if level < sd {
						return 1 - keep/sd, keep / sd, s.Eta * level
					}
					return 1 - s.EtaB, s.EtaB, math.Sqrt(max(0, level*level-s.EtaB*s.EtaB*sd*sd))
				})
				if next < 0 {
					r.d.Blend(r.x0, tensor.Blend{Terms: []tensor.Term{{X: r.x, C: 1}}})
				}
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

// modes are the measured components of images. What is different for each singular value is computed on the host: these are
// a few numbers beside a network.
type modes struct {
	r      *run
	op     Spectral
	l      []float32 // squares of the singular values
	least  float64
	y      []float32 // U^T y
	values []float32
}

func newModes(r *run, op Spectral) (m *modes, err error) {
	m = &modes{r: r, op: op}
	if m.l, err = op.Spectrum(r.c.Y.Shape()); err != nil {
		return nil, err
	}
	if len(m.l) != r.c.Y.Len() {
		tensor.Fail("solver.Spectral", "%T has %d singular values for measurements of %v", op, len(m.l), r.c.Y)
	}
	for _, l := range m.l {
		m.least = max(m.least, leastShare*float64(l))
	}
	m.values = make([]float32, len(m.l))
	defer r.d.Tidy()()
	m.y, err = op.Rotate(r.c.Y, false).Floats()
	return m, err
}

// of is U^T A x.
func (m *modes) of(x *tensor.Tensor) ([]float32, error) {
	return m.op.Rotate(m.r.c.apply(x), false).Floats()
}

// lead replaces the measured components of X = x/sqrt(a), x being the run's, by c0 x0 + cy y/s + cn n with the weights for a
// noise level sigma/s.
func (m *modes) lead(x0, n *tensor.Tensor, a float64, weights func(sd float64) (c0, cy, cn float64)) error {
	r := m.r
	defer r.d.Tidy()()
	is, err := m.of(r.x)
	if err != nil {
		return err
	}
	clean, err := m.of(x0)
	if err != nil {
		return err
	}
	fresh, err := m.of(n)
	if err != nil {
		return err
	}
	root := math.Sqrt(a)
	for i, l := range m.l {
		l := float64(l)
		if m.values[i] = 0; l <= m.least {
			continue
		}
		c0, cy, cn := weights(r.c.Sigma / math.Sqrt(l))
		m.values[i] = float32((root*(c0*float64(clean[i])+cy*float64(m.y[i])+cn*float64(fresh[i])) - float64(is[i])) / l)
	}
	s := r.c.Y.Shape()
	back := r.c.vjp(nil, m.op.Rotate(r.d.From(m.values, s[0], s[1], s[2], s[3]), true))
	r.d.Blend(r.x, tensor.Blend{Terms: []tensor.Term{{X: r.x, C: 1}, {X: back, C: 1}}})
	return nil
}
