package solver

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

// linearProblem is a problem of one image with its operator as a matrix, for loops in float64.
type linearProblem struct {
	Problem
	*gaussianPrior
	a     [][]float64 // rows are measured values
	y     []float64
	bound float64
	shape [4]int
}

func newLinearProblem(t *testing.T, d *tensor.Device, kind string) *linearProblem {
	q, prior := smallProblem(t, d, kind, 1)
	p := &linearProblem{Problem: q, gaussianPrior: prior, y: wide(floats(t, q.Y)), bound: lipschitz(q.Operator), shape: [4]int{1, 12, 16, 3}}
	n := len(prior.mu)
	unit := make([]float32, n)
	p.a = make([][]float64, len(p.y))
	for i := range unit {
		clear(unit)
		unit[i] = 1
		x := d.From(unit, 1, 12, 16, 3)
		for j, v := range floats(t, q.Operator.Apply(x)) {
			p.a[j] = append(p.a[j], float64(v))
		}
	}
	return p
}

func (p *linearProblem) residual(x []float64) []float64 {
	r := times(p.a, x)
	for i := range r {
		r[i] -= p.y[i]
	}
	return r
}

func (p *linearProblem) back(r []float64) []float64 {
	g := make([]float64, len(p.mu))
	for i, row := range p.a {
		for j, v := range row {
			g[j] += v * r[i]
		}
	}
	return g
}

func (p *linearProblem) clean(x []float64, t int) []float64 {
	x0 := make([]float64, len(x))
	for i := range x {
		x0[i] = min(max(p.at(i, x[i], p.s.AlphaBar(t)), -1), 1)
	}
	return x0
}

// noise gives draw after draw of the seed.
func (p *linearProblem) noise() func() []float64 {
	k := -1
	return func() []float64 { k++; return drawn(7, 0, k, len(p.mu)) }
}

func (p *linearProblem) guess(t *testing.T) []float64 {
	return wide(floats(t, firstGuess(p.Operator, p.Y)))
}

// modes are the right singular vectors with their singular values, and what each has of the measurement: from Jacobi's
// rotations of A A^T, without knowing what diagonalises it.
func (p *linearProblem) modes() (v [][]float64, s, y []float64) {
	n := len(p.a)
	m, u := make([][]float64, n), make([][]float64, n)
	for i := range m {
		m[i], u[i] = times(p.a, p.a[i]), make([]float64, n)
		u[i][i] = 1
	}
	for range 30 {
		for i := range n {
			for j := range i {
				if math.Abs(m[i][j]) < 1e-15 {
					continue
				}
				sin, cos := math.Sincos(0.5 * math.Atan2(2*m[i][j], m[j][j]-m[i][i]))
				for k := range n { // rows, then columns
					m[i][k], m[j][k] = cos*m[i][k]-sin*m[j][k], sin*m[i][k]+cos*m[j][k]
					u[i][k], u[j][k] = cos*u[i][k]-sin*u[j][k], sin*u[i][k]+cos*u[j][k]
				}
				for k := range n {
					m[k][i], m[k][j] = cos*m[k][i]-sin*m[k][j], sin*m[k][i]+cos*m[k][j]
				}
			}
		}
	}
	for i := range n {
		if m[i][i] < 1e-9 {
			continue
		}
		sv := math.Sqrt(m[i][i])
		row := p.back(u[i])
		for k := range row {
			row[k] /= sv
		}
		v, s, y = append(v, row), append(s, sv), append(y, dot(u[i], p.y)/sv)
	}
	return v, s, y
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

func (p *linearProblem) ddrm(n int, eta, etaB float64) []float64 {
	v, s, y := p.modes()
	noise, grid := p.noise(), Grid(999, 0, n, 1)
	level := func(t int) float64 { return p.s.NoiseToSignal(t) }
	x := noise()
	for i := range x {
		x[i] *= level(grid[0])
	}
	lead := func(x []float64, mode int, to float64) {
		by := to - dot(v[mode], x)
		for k := range x {
			x[k] += by * v[mode][k]
		}
	}
	first := drawn(7, 0, 0, len(x))
	for i := range v {
		lead(x, i, y[i]+math.Sqrt(math.Pow(level(grid[0]), 2)-math.Pow(p.Sigma/s[i], 2))*dot(v[i], first))
	}
	for i, t := range grid {
		g, to := level(t), 0.0
		if i+1 < len(grid) {
			to = level(grid[i+1])
		}
		scaled := make([]float64, len(x))
		for k := range x {
			scaled[k] = math.Sqrt(p.s.AlphaBar(t)) * x[k]
		}
		x0, fresh := p.clean(scaled, t), noise()
		for k := range x {
			x[k] = x0[k] + math.Sqrt(1-eta*eta)*to/g*(x[k]-x0[k]) + eta*to*fresh[k]
		}
		for m := range v {
			c, f, sd := dot(v[m], x0), dot(v[m], fresh), p.Sigma/s[m]
			if to < sd {
				lead(x, m, c+math.Sqrt(1-eta*eta)*to*(y[m]-c)/sd+eta*to*f)
			} else {
				lead(x, m, (1-etaB)*c+etaB*y[m]+math.Sqrt(to*to-etaB*etaB*sd*sd)*f)
			}
		}
	}
	return x
}

func (p *linearProblem) reddiff(t *testing.T, n int, lam, rate float64) []float64 {
	u, noise := p.guess(t), p.noise()
	count := float64(len(p.y))
	if c, ok := p.Operator.(Counter); ok {
		count = float64(c.Counts(p.Y.Shape())[0])
	}
	m, v := make([]float64, len(u)), make([]float64, len(u))
	for i, at := range Grid(999, 0, n, 1) {
		a, fresh, x := p.s.AlphaBar(at), noise(), make([]float64, len(u))
		for k := range x {
			x[k] = math.Sqrt(a)*u[k] + math.Sqrt(1-a)*fresh[k]
		}
		x0, g := p.clean(x, at), p.back(p.residual(u))
		for k := range u {
			eps := (x[k] - math.Sqrt(a)*x0[k]) / math.Sqrt(1-a)
			g := float64(len(u))/count*g[k] + lam*p.s.NoiseToSignal(at)*(eps-fresh[k])
			m[k], v[k] = 0.9*m[k]+0.1*g, 0.999*v[k]+0.001*g*g
			u[k] -= rate * m[k] / (1 - math.Pow(0.9, float64(i+1))) / (math.Sqrt(v[k]/(1-math.Pow(0.999, float64(i+1)))) + 1e-8)
		}
	}
	return u
}

func (p *linearProblem) dpsApprox(n int, scale float64) []float64 {
	noise, grid := p.noise(), Grid(999, 0, n, 1)
	x := noise()
	for i, t := range grid {
		a, b := p.s.AlphaBar(t), 1.0
		x0 := p.clean(x, t)
		r := p.residual(x0)
		g, step := p.back(r), min(2*scale*1000/float64(n)/math.Sqrt(dot(r, r)), 1/p.bound)
		fresh := make([]float64, len(x))
		if i+1 < len(grid) {
			b, fresh = p.s.AlphaBar(grid[i+1]), noise()
		}
		for k := range x {
			mean := math.Sqrt(b)*(1-a/b)/(1-a)*x0[k] + math.Sqrt(a/b)*(1-b)/(1-a)*x[k]
			x[k] = mean + math.Sqrt((1-a/b)*(1-b)/(1-a))*fresh[k] - step*math.Sqrt(a)*g[k]
		}
	}
	return x
}

func (p *linearProblem) daps(n, ode, langevin int, tau, rate float64) []float64 {
	poly := func(hi, lo float64, n int) (list []int) {
		for i := range n {
			f := float64(i) / math.Max(float64(n-1), 1)
			t := p.s.Nearest(math.Pow(math.Pow(hi, 1./7)+f*(math.Pow(lo, 1./7)-math.Pow(hi, 1./7)), 7))
			if len(list) == 0 || list[len(list)-1] != t {
				list = append(list, t)
			}
		}
		return list
	}
	noise := p.noise()
	x := noise() // in units of sqrt(a)
	levels := poly(100, 0.1, n/ode)
	var u []float64
	for i, t := range levels {
		g := p.s.NoiseToSignal(t)
		var x0 []float64
		steps := poly(g, 0.01, ode)
		for j, at := range steps {
			x0 = p.clean(x, at)
			if j+1 == len(steps) {
				break
			}
			// Euler's step of dX/dg = (X-x0)/g
			from, to := p.s.NoiseToSignal(at), p.s.NoiseToSignal(steps[j+1])
			for k := range x {
				big := x[k] / math.Sqrt(p.s.AlphaBar(at))
				x[k] = math.Sqrt(p.s.AlphaBar(steps[j+1])) * (big + (to-from)/from*(big-x0[k]))
			}
		}
		u = append([]float64(nil), x0...)
		h := rate / (2*p.bound/(tau*tau) + 1/(g*g))
		for range langevin {
			grad, fresh := p.back(p.residual(u)), noise()
			for k := range u {
				u[k] += -h*(2*grad[k]/(tau*tau)+(u[k]-x0[k])/(g*g)) + math.Sqrt(2*h)*fresh[k]
			}
		}
		if i+1 < len(levels) {
			b, fresh := p.s.AlphaBar(levels[i+1]), noise()
			for k := range x {
				x[k] = math.Sqrt(b)*u[k] + math.Sqrt(1-b)*fresh[k]
			}
		}
	}
	return u
}

// The rivals against loops in float64 that know the operator as a matrix. Bounds are those of the fixtures' trajectories; Adam
// divides by the size of the gradient and so magnifies the rounding of small ones.
func TestRivalsAgainstFloat64(t *testing.T) {
	const calls = 14
	o := Options{Seed: 7}
	ctx := context.Background()
	for _, kind := range []string{"denoise", "inpaint", "downsample", "gray", "blur"} {
		d := device(t)
		p := newLinearProblem(t, d, kind)
		solve := func(name string, bound float64, want []float64) func(*Result, error) {
			return func(r *Result, err error) {
				require.NoError(t, err, "%s, %s", kind, name)
				near(t, kind+", "+name, floats(t, r.X0), want, bound)
			}
		}
		if _, ok := p.Operator.(Spectral); ok {
			solve("DDRM", 2e-4, p.ddrm(calls, 0.85, 1))(DDRM(ctx, p.Problem, p, DDRMSettings{N: calls, Options: o}))
			solve("DDRM, other etas", 2e-4, p.ddrm(calls, 0.5, 0.7))(DDRM(ctx, p.Problem, p, DDRMSettings{N: calls, Eta: 0.5, EtaB: 0.7, Options: o}))
		} else {
			_, err := DDRM(ctx, p.Problem, p, DDRMSettings{})
			require.ErrorContains(t, err, "Spectral")
		}
		solve("RED-diff", 5e-4, p.reddiff(t, calls, 0.1, 0.01))(REDDiff(ctx, p.Problem, p, REDDiffSettings{N: calls, Options: o}))
		solve("dps-approx", 2e-4, p.dpsApprox(calls, 1))(DPSApprox(ctx, p.Problem, p, DPSApproxSettings{N: calls, Options: o}))
		solve("dps-approx, smaller", 2e-4, p.dpsApprox(calls, 0.05))(DPSApprox(ctx, p.Problem, p, DPSApproxSettings{N: calls, Scale: 0.05, Options: o}))
		solve("DAPS", 2e-4, p.daps(calls, 2, 20, 0.05, 0.5))(DAPS(ctx, p.Problem, p, DAPSSettings{N: calls, ODE: 2, Max: 100, Min: 0.1, Options: o}))
		solve("DAPS, others", 2e-4, p.daps(calls, 5, 3, 0.02, 0.1))(DAPS(ctx, p.Problem, p, DAPSSettings{N: calls, ODE: 5, Max: 100, Min: 0.1, Langevin: 3, Tau: 0.02, Rate: 0.1, Options: o}))
	}
}

// What the operator's singular values are used for: sigma 0 is met exactly by DDRM.
func TestDDRMWithoutNoise(t *testing.T) {
	d := device(t)
	for _, kind := range []string{"denoise", "inpaint", "downsample", "gray"} {
		p := newLinearProblem(t, d, kind)
		p.Sigma = 0
		r, err := DDRM(context.Background(), p.Problem, p, DDRMSettings{N: 9})
		require.NoError(t, err)
		require.Less(t, r.Residual[0], 1e-10, kind)
	}
}

func TestRivalRefusals(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "denoise", 1)
	ctx := context.Background()
	for name, run := range map[string]func() (*Result, error){
		"ddrm eta":      func() (*Result, error) { return DDRM(ctx, p, prior, DDRMSettings{Eta: 2}) },
		"reddiff rate":  func() (*Result, error) { return REDDiff(ctx, p, prior, REDDiffSettings{Rate: -1}) },
		"dps scale":     func() (*Result, error) { return DPSApprox(ctx, p, prior, DPSApproxSettings{Scale: math.NaN()}) },
		"daps levels":   func() (*Result, error) { return DAPS(ctx, p, prior, DAPSSettings{Max: 1, Min: 2}) },
		"daps calls":    func() (*Result, error) { return DAPS(ctx, p, prior, DAPSSettings{N: -4}) },
		"daps operator": func() (*Result, error) { return DAPS(ctx, Problem{Operator: squares{}, Y: p.Y}, prior, DAPSSettings{}) },
	} {
		r, err := run()
		require.Error(t, err, name)
		require.Nil(t, r, name)
	}
}
