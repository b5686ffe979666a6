package solver

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"

	"github.com/spin-native/spin/tensor"
)

// The posterior of a Gaussian prior is known exactly, and so is what Spin makes of it: with the exact denoiser and
// corrections in closed form every step is affine, so that the distribution of the result is a Gaussian whose mean and
// covariance can be propagated through the algorithm's formulas, here once more and in float64. Two things follow. Samples
// must agree with those moments up to Monte-Carlo error. And the moments against the posterior's are Spin's bias, without
// any error: the figures of docs/trust.md.

const calSide = 12

// smoothPrior is N(mu, C) with C = 1/4 exp(-distance/3), and its exact denoiser, not clipped:
//
//	D(x,t) = mu + sqrt(a) C (a C + 1-a)^-1 (x - sqrt(a) mu)
type smoothPrior struct {
	s    *Schedule
	mu   *mat.VecDense
	cov  *mat.SymDense
	gain map[int]*mat.Dense // sqrt(a) C (a C + 1-a)^-1
}

func newSmoothPrior() *smoothPrior {
	const n = calSide * calSide
	p := &smoothPrior{s: Linear(1000, 1e-4, 0.02), mu: mat.NewVecDense(n, nil), cov: mat.NewSymDense(n, nil), gain: map[int]*mat.Dense{}}
	for i := range n {
		y, x := i/calSide, i%calSide
		p.mu.SetVec(i, 0.4*math.Sin(float64(x)/3)*math.Cos(float64(y)/4))
		for j := range i + 1 {
			p.cov.SetSym(i, j, 0.25*math.Exp(-math.Hypot(float64(y-j/calSide), float64(x-j%calSide))/3))
		}
	}
	return p
}

func (p *smoothPrior) at(t int) *mat.Dense {
	if g, ok := p.gain[t]; ok {
		return g
	}
	a := p.s.AlphaBar(t)
	n := p.mu.Len()
	var noisy, g mat.Dense
	noisy.Scale(a, p.cov)
	for i := range n {
		noisy.Set(i, i, noisy.At(i, i)+1-a)
	}
	if err := g.Solve(&noisy, p.cov); err != nil { // (aC+1-a)^-1 C, and the two commute
		panic(err)
	}
	g.Scale(math.Sqrt(a), &g)
	p.gain[t] = &g
	return &g
}

func (p *smoothPrior) Schedule() *Schedule { return p.s }

func (p *smoothPrior) Denoise(xt *tensor.Tensor, t int) *tensor.Tensor {
	data, err := xt.Floats()
	if err != nil {
		tensor.FailWith("test", err, "denoiser")
	}
	n, a := p.mu.Len(), math.Sqrt(p.s.AlphaBar(t))
	x := mat.NewDense(xt.N(), n, nil)
	for i, v := range data {
		x.Set(i/n, i%n, float64(v)-a*p.mu.AtVec(i%n))
	}
	var out mat.Dense
	out.Mul(x, p.at(t)) // symmetric
	for i := range data {
		data[i] = float32(out.At(i/n, i%n) + p.mu.AtVec(i%n))
	}
	return xt.Device().From(data, xt.N(), xt.H(), xt.W(), xt.C())
}

// calProblem is one measurement of one picture of the prior.
type calProblem struct {
	Problem
	prior *smoothPrior
	a     *mat.Dense // the operator
	y     *mat.VecDense
	known []bool // pixels of a mask; nil for others
}

func newCalProblem(t *testing.T, d *tensor.Device, kind string, sigma float64) *calProblem {
	const n = calSide * calSide
	spec := Spec{Kind: kind}
	p := &calProblem{prior: newSmoothPrior()}
	switch kind {
	case "inpaint":
		m, err := RandomMask(calSide, calSide, 0.5, 1)
		require.NoError(t, err)
		spec.Masks, p.known = []*Mask{m}, m.Known
	case "downsample":
		spec.Factor = 4
	}
	op, err := spec.Build(d, calSide, calSide, 1)
	require.NoError(t, err)
	basis := make([]float32, n*n)
	for i := range n {
		basis[i*n+i] = 1
	}
	columns := floats(t, op.Apply(d.From(basis, n, calSide, calSide, 1)))
	m := len(columns) / n
	p.a = mat.NewDense(m, n, nil)
	for i, v := range columns {
		p.a.Set(i%m, i/m, float64(v))
	}
	var root mat.Cholesky
	require.True(t, root.Factorize(p.prior.cov))
	var l mat.TriDense
	root.LTo(&l)
	z := make([]float32, n)
	NewNoise(77).Normal(z, 0, 0)
	normal := mat.NewVecDense(n, nil)
	for i, v := range z {
		normal.SetVec(i, float64(v))
	}
	truth := make([]float32, n)
	var x mat.VecDense
	x.MulVec(&l, normal)
	for i := range truth {
		truth[i] = float32(x.AtVec(i) + p.prior.mu.AtVec(i))
	}
	y, err := Measure(op, d.From(truth, 1, calSide, calSide, 1), sigma, 4, 0)
	require.NoError(t, err)
	p.Problem = Problem{Operator: op, Y: y, Sigma: sigma}
	p.y = mat.NewVecDense(m, nil)
	for i, v := range floats(t, y) {
		p.y.SetVec(i, float64(v))
	}
	return p
}

// moments are the mean and the covariance of a Gaussian.
type moments struct {
	mean *mat.VecDense
	cov  *mat.Dense
}

// posterior is the exact one: mu + C A^T (A C A^T + sigma^2)^-1 (y - A mu), C - C A^T (...)^-1 A C.
func (p *calProblem) posterior(t *testing.T) moments {
	m, n := p.a.Dims()
	var ac, s, k, cov mat.Dense
	ac.Mul(p.a, p.prior.cov)
	s.Mul(&ac, p.a.T())
	for i := range m {
		s.Set(i, i, s.At(i, i)+max(p.Sigma*p.Sigma, 1e-9))
	}
	require.NoError(t, k.Solve(&s, &ac)) // (...)^-1 A C
	cov.Mul(ac.T(), &k)
	cov.Sub(p.prior.cov, &cov)
	var r, mean mat.VecDense
	r.MulVec(p.a, p.prior.mu)
	r.SubVec(p.y, &r)
	mean.MulVec(k.T(), &r)
	mean.AddVec(&mean, p.prior.mu)
	require.Equal(t, n, mean.Len())
	return moments{&mean, &cov}
}

// spin propagates the moments of the state through Spin, from a first guess. In the state x, D and the correction are
// affine: x0 = F x + f.
func (p *calProblem) spin(t *testing.T, s Parameters, from moments) moments {
	n := p.prior.mu.Len()
	schedule := p.prior.s
	denoise := func(at int) (F *mat.Dense, f *mat.VecDense) {
		F, f = mat.DenseCopyOf(p.prior.at(at)), mat.NewVecDense(n, nil)
		f.MulVec(F, p.prior.mu)
		f.AddScaledVec(p.prior.mu, -math.Sqrt(schedule.AlphaBar(at)), f)
		return F, f
	}
	correct := func(F *mat.Dense, f *mat.VecDense, lam float64, at int) {
		a := schedule.AlphaBar(at)
		sd := max(p.Sigma, s.SDMin)
		rho := lam * sd * sd * a / (1 - a)
		var h mat.Dense
		h.Mul(p.a.T(), p.a)
		for i := range n {
			h.Set(i, i, h.At(i, i)+rho)
		}
		var aty mat.VecDense
		aty.MulVec(p.a.T(), p.y)
		F.Scale(rho, F)
		f.AddScaledVec(&aty, rho, f)
		require.NoError(t, F.Solve(&h, F))
		require.NoError(t, f.SolveVec(&h, f))
	}
	// next is the state G x + g + noise of variance v.
	next := func(x moments, G *mat.Dense, g *mat.VecDense, v float64) moments {
		var mean mat.VecDense
		mean.MulVec(G, x.mean)
		mean.AddVec(&mean, g)
		var cov mat.Dense
		cov.Mul(G, x.cov)
		cov.Mul(&cov, G.T())
		for i := range n {
			cov.Set(i, i, cov.At(i, i)+v)
		}
		return moments{&mean, &cov}
	}
	scaled := func(c float64, F *mat.Dense, f *mat.VecDense) (*mat.Dense, *mat.VecDense) {
		var G mat.Dense
		G.Scale(c, F)
		g := mat.NewVecDense(n, nil)
		g.ScaleVec(c, f)
		return &G, g
	}
	eye := mat.NewDense(n, n, nil)
	for i := range n {
		eye.Set(i, i, 1)
	}
	star := schedule.AlphaBar(s.TStar)
	G, g := scaled(math.Sqrt(star), eye, mat.NewVecDense(n, nil))
	x := next(from, G, g, 1-star)
	last := from
	for range s.K1 {
		F, f := denoise(s.TStar)
		correct(F, f, s.Lam1, s.TStar)
		last = next(x, F, f, 0)
		G, g := scaled(math.Sqrt(star), F, f)
		x = next(x, G, g, 1-star)
	}
	grid := Grid(s.TStar, s.TLow, s.P, s.Power)
	for i, at := range grid {
		F, f := denoise(at)
		guided := i%s.Every == 0 && at >= s.TEnd
		if guided {
			correct(F, f, s.Lam2, at)
		}
		if i == len(grid)-1 {
			return next(x, F, f, 0)
		}
		a, b := schedule.AlphaBar(at), schedule.AlphaBar(grid[i+1])
		s2 := s.EtaU * s.EtaU * (1 - b) / (1 - a) * (1 - a/b)
		if guided {
			s2 = s.EtaG * s.EtaG * (1 - b)
		}
		keep := math.Sqrt(max(0, 1-b-s2)) / math.Sqrt(1-a) // of e's sqrt(1-a)
		G, g := scaled(math.Sqrt(b)-keep*math.Sqrt(a), F, f)
		var kept mat.Dense
		kept.Scale(keep, eye)
		G.Add(G, &kept)
		x = next(x, G, g, s2)
	}
	return last
}

// guess is the operator's first guess, which is certain.
func (p *calProblem) guess(t *testing.T) moments {
	v := floats(t, firstGuess(p.Operator, p.Y))
	m := moments{mat.NewVecDense(len(v), nil), mat.NewDense(len(v), len(v), nil)}
	for i, x := range v {
		m.mean.SetVec(i, float64(x))
	}
	return m
}

// settings of the table, as changes of the defaults of the task.
var calSettings = []struct {
	name   string
	change func(s *Parameters)
}{
	{"defaults", func(*Parameters) {}},
	{"16 calls", func(s *Parameters) { *s = s.Budget(16) }},
	{"100 calls", func(s *Parameters) { *s = s.Budget(100) }},
	{"400 calls", func(s *Parameters) { *s = s.Budget(400) }},
	{"lam 1", func(s *Parameters) { s.Lam1, s.Lam2 = 1, 1 }},
	{"lam 1, 400 calls", func(s *Parameters) { s.Lam1, s.Lam2 = 1, 1; *s = s.Budget(400) }},
	{"etaG 0.5", func(s *Parameters) { s.EtaG = 0.5 }},
	{"etaG 0.3", func(s *Parameters) { s.EtaG = 0.3 }},
	{"etaU 1", func(s *Parameters) { s.EtaU = 1 }},
	{"tstar 500", func(s *Parameters) { s.TStar = 500 }},
	{"guided to the end", func(s *Parameters) { s.TEnd = 0 }},
	{"last step at 0", func(s *Parameters) { s.TLow = 0 }},
}

func calDefaults(kind string, sigma float64) Parameters {
	task := TaskInpaintRandom
	if kind == "downsample" {
		task = TaskSuperResolution(4)
	}
	return Defaults(task, sigma, nil).Parameters
}

// Samples of Spin have the moments that its formulas say, pixel by pixel: with N samples a mean has the deviation
// sqrt(v/N) and a variance v sqrt(2/N). Five deviations are allowed, which one pixel of a million is off by; the seed is fixed.
func TestSamplesHaveTheMomentsOfTheFormulas(t *testing.T) {
	const samples = 300
	for _, kind := range []string{"inpaint", "downsample"} {
		for _, c := range calSettings {
			if !slices.Contains([]string{"defaults", "etaG 0.5", "etaU 1", "guided to the end"}, c.name) {
				continue // the same formulas once more
			}
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				d := device(t)
				p := newCalProblem(t, d, kind, 0.05)
				s := calDefaults(kind, 0.05)
				c.change(&s)
				want := p.spin(t, s, p.guess(t))
				many := p.Problem
				many.Y = repeated(p.Y, samples)
				r, err := Spin(context.Background(), many, p.prior, Settings{Parameters: s, Options: Options{Seed: 9}})
				require.NoError(t, err)
				v := floats(t, r.X0)
				n := len(v) / samples
				for i := range n {
					var sum, squares float64
					for k := range samples {
						sum += float64(v[k*n+i]) / samples
					}
					for k := range samples {
						squares += math.Pow(float64(v[k*n+i])-sum, 2) / (samples - 1)
					}
					variance := want.cov.At(i, i)
					require.InDelta(t, want.mean.AtVec(i), sum, 5*math.Sqrt(variance/samples)+1e-5, "mean of pixel %d", i)
					require.InDelta(t, variance, squares, 5*variance*math.Sqrt(2./samples)+1e-9, "variance of pixel %d", i)
				}
			})
		}
	}
}

// bias of one Gaussian against another: root mean square difference of the means in units of the other's deviation, and the
// ratio of the deviations, over the pixels chosen.
func (m moments) bias(of moments, chosen func(i int) bool) (mean, ratio float64) {
	var off, v, w float64
	for i := range m.mean.Len() {
		if chosen(i) {
			off += math.Pow(m.mean.AtVec(i)-of.mean.AtVec(i), 2)
			v, w = v+m.cov.At(i, i), w+of.cov.At(i, i)
		}
	}
	return math.Sqrt(off / w), math.Sqrt(v / w)
}

// TestCalibration holds Spin to its documented bias and, with -v, prints the table of docs/trust.md.
func TestCalibration(t *testing.T) {
	documented := map[string][2]float64{
		"defaults inpaint missing": {0.067, 0.708}, "defaults inpaint known": {0.063, 0.783}, "defaults downsample": {0.031, 0.673},
		"lam 1, 400 calls downsample": {0.002, 0.700}, "etaG 0.5 inpaint missing": {0.140, 0.933}, "etaG 0.5 downsample": {0.040, 0.919},
		"guided to the end inpaint known": {0.146, 0.329}, "tstar 500 inpaint missing": {0.150, 0.712},
	}
	compared := 0
	d := device(t)
	print := func(format string, args ...any) {
		if testing.Verbose() {
			fmt.Printf(format, args...)
		}
	}
	print("| settings | missing pixels | | known pixels | | super-resolution x4 | |\n|---|---|---|---|---|---|---|\n")
	for _, c := range calSettings {
		print("| %s |", c.name)
		for _, kind := range []string{"inpaint", "downsample"} {
			p := newCalProblem(t, d, kind, 0.05)
			s := calDefaults(kind, 0.05)
			c.change(&s)
			got, want := p.spin(t, s, p.guess(t)), p.posterior(t)
			sets := map[string]func(int) bool{"": func(int) bool { return true }}
			order := []string{""}
			if p.known != nil {
				sets = map[string]func(int) bool{" missing": func(i int) bool { return !p.known[i] }, " known": func(i int) bool { return p.known[i] }}
				order = []string{" missing", " known"}
			}
			for _, set := range order {
				mean, ratio := got.bias(want, sets[set])
				print(" %.3f | %.3f |", mean, ratio)
				if want, ok := documented[c.name+" "+kind+set]; ok {
					compared++
					require.InDelta(t, want[0], mean, 0.002)
					require.InDelta(t, want[1], ratio, 0.002)
				}
			}
		}
		print("\n")
	}
	require.Equal(t, len(documented), compared)
	for _, kind := range []string{"inpaint", "downsample"} {
		p := newCalProblem(t, d, kind, 0.05)
		s := calDefaults(kind, 0.05)
		whole := p.spin(t, s, p.guess(t))
		warm := s
		warm.P = 0
		first := p.spin(t, warm, p.guess(t))
		first.cov.Zero() // known once phase 1 has run
		s.K1 = 0
		within := p.spin(t, s, first)
		_, ratio := within.bias(whole, func(int) bool { return true })
		require.InDelta(t, 1, ratio, 0.002)
		print("shared phase 1, %s: deviation within one phase 1 over that of independent samples %.3f\n", kind, ratio)
	}
}
