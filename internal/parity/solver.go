package parity

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// inner is how cases name a way of correcting.
type inner struct {
	Kind     solver.Method
	Steps    int
	Lr, Stop float64
}

func (i inner) settings() solver.Inner {
	return solver.Inner{Method: i.Kind, Steps: i.Steps, Rate: i.Lr, Stop: i.Stop}
}

// trajectory is a whole run with given noise and a denoiser that is a formula.
type trajectory struct {
	Method   string // "": spin
	Schedule struct {
		T     int
		First float64 `json:"beta_first"`
		Last  float64 `json:"beta_last"`
	}
	Operator operatorSpec
	Settings struct { // of the rivals
		N              int
		Lam, Zeta, Eta float64
	}
	Spin struct {
		TStar, K1, P, Every int
		TEnd                int `json:"t_end"`
		TLow                int `json:"t_low"`
		Power               float64
		EtaG                float64 `json:"eta_g"`
		EtaU                float64 `json:"eta_u"`
		Lam1, Lam2          float64
		SDMin               float64 `json:"sd_min"`
		Opt1, Opt2          inner
	}
	Grid  []int  `json:"phase2_grid"`
	Noise string `json:"noise_init"`
	Steps []struct {
		Phase, T int
		X, X0    string
		At       string `json:"x0_opt"` // where the correction arrived
		Noise    string
	}
}

// gaussian is the exact denoiser of the prior N(mu, diag S), which sees what a run gives it and what it makes of that:
//
//	D(x,t) = clip( mu + S sqrt(abar)/(abar S + 1 - abar) (x - sqrt(abar) mu), -1, 1 )
type gaussian struct {
	s     *solver.Schedule
	mu, v []float32 // of one image
	watch func(x, x0 []float32)
}

func (g *gaussian) Denoise(xt *tensor.Tensor, t int) *tensor.Tensor {
	x, err := xt.Floats()
	if err != nil {
		tensor.FailWith("parity", err, "denoiser")
	}
	a := g.s.AlphaBar(t)
	x0 := make([]float32, len(x))
	for i, x := range x {
		mu, v := float64(g.mu[i%len(g.mu)]), float64(g.v[i%len(g.mu)])
		x0[i] = float32(min(max(mu+v*math.Sqrt(a)/(a*v+1-a)*(float64(x)-math.Sqrt(a)*mu), -1), 1))
	}
	g.watch(x, x0)
	return xt.Device().From(x0, xt.N(), xt.H(), xt.W(), xt.C())
}

// script plays back given noise.
type script [][]float32

func (s script) Normal(dst []float32, _, draw int) {
	if draw >= len(s) || len(s[draw]) != len(dst) {
		tensor.Fail("parity", "draw %d of %d numbers: the case has %d draws", draw, len(dst), len(s))
	}
	copy(dst, s[draw])
}

// interleaved is an array [N,C,H,W] of the case in the order of tensors.
func (c *Case) interleaved(name string) ([]float32, error) {
	v, s, err := c.Array(name)
	if err == nil && len(s) != 4 {
		err = fmt.Errorf("%s: array %q has shape %v, expected [N C H W]", c.Name, name, s)
	}
	if err != nil {
		return nil, err
	}
	return NHWC(v, s[0], s[1], s[2], s[3]), nil
}

// worst gathers the largest errors of arrays that belong together.
type worst struct {
	name   string
	limit  Tolerance
	count  int
	result Result
}

func (w *worst) add(got, want []float32) {
	w.count++
	most, rel := Compare(got, want)
	if !(most <= w.result.MaxAbs) { // a NaN stays
		w.result.MaxAbs = most
	}
	if !(rel <= w.result.RelL2) {
		w.result.RelL2 = rel
	}
}

func (w *worst) row() Result {
	w.result.Array, w.result.Limit = w.name, w.limit
	if w.count > 1 {
		w.result.Array += fmt.Sprintf(" (worst of %d)", w.count)
	}
	return w.result
}

// rows are the results of those that were added to.
func rows(list ...*worst) (results []Result) {
	for _, w := range list {
		if w.count > 0 {
			results = append(results, w.row())
		}
	}
	return results
}

// equal is the result of a comparison that allows no difference.
func equal(name string, same bool) Result {
	r := Result{Array: name, Limit: Tolerance{Exact: true}}
	if !same {
		r.MaxAbs, r.RelL2 = math.Inf(1), math.Inf(1)
	}
	return r
}

// Trajectories are compared as their producers say: Adam divides by the size of the gradient and so magnifies the rounding
// of small ones; of the rivals only the result is given.
const (
	trajectoryLimit = 1e-4
	adamLimit       = 5e-4
	rivalLimit      = 2e-3
	correctedLimit  = 1e-3
	operatorLimit   = 2e-5 // of the largest value
)

// trajectoryCase follows a run of Spin step by step, or a rival to its result.
func (c *Case) trajectoryCase(d *tensor.Device) (results []Result, saved []Saved, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	var k trajectory
	if err := json.Unmarshal(c.raw, &k); err != nil {
		return nil, nil, err
	}
	_, shape, err := c.Array("mu")
	if err != nil {
		return nil, nil, err
	}
	g := &gaussian{s: solver.Linear(k.Schedule.T, k.Schedule.First, k.Schedule.Last), watch: func(_, _ []float32) {}}
	if g.mu, err = c.interleaved("mu"); err == nil {
		g.v, err = c.interleaved("S")
	}
	if err != nil {
		return nil, nil, err
	}
	p, err := c.problem(d, k.Operator, shape[2], shape[3])
	if err != nil {
		return nil, nil, err
	}
	var noise script
	for _, name := range k.noise() {
		n, err := c.interleaved(name)
		if err != nil {
			return nil, nil, err
		}
		noise = append(noise, n)
	}

	end := &worst{name: "result", limit: Tolerance{MaxAbs: rivalLimit}}
	var res *solver.Result
	o := solver.Options{Noise: noise}
	switch k.Method {
	case "diffpir":
		res, err = solver.DiffPIR(context.Background(), p, g, solver.DiffPIRSettings{N: k.Settings.N, Lam: k.Settings.Lam, Zeta: k.Settings.Zeta, Options: o})
	case "ddnm":
		res, err = solver.DDNM(context.Background(), p, g, solver.DDNMSettings{N: k.Settings.N, Eta: k.Settings.Eta, Options: o})
	case "":
		end.limit.MaxAbs = k.limit()
		results, res, err = c.follow(k, p, g, o)
	default:
		err = fmt.Errorf("method %q is %w", k.Method, ErrUnsupported)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	want, _, err := c.Array("result")
	if err != nil {
		return nil, nil, err
	}
	out, err := planar(res.X0)
	if err != nil {
		return nil, nil, err
	}
	end.add(out.Data, want)
	return append(results, rows(end)...), []Saved{{"result": out}}, nil
}

func (k trajectory) limit() float64 {
	if k.Spin.Opt1.Kind == solver.Adam || k.Spin.Opt2.Kind == solver.Adam {
		return adamLimit
	}
	return trajectoryLimit
}

// noise names the arrays in the order in which they are drawn.
func (k trajectory) noise() (names []string) {
	for i := range k.Settings.N {
		names = append(names, fmt.Sprintf("noise_%02d", i))
	}
	if k.Noise != "" {
		names = append(names, k.Noise)
	}
	for _, s := range k.Steps {
		if s.Noise != "" {
			names = append(names, s.Noise)
		}
	}
	return names
}

// follow runs Spin and compares every step: what the denoiser sees and says, and where the correction arrives.
func (c *Case) follow(k trajectory, p solver.Problem, g *gaussian, o solver.Options) ([]Result, *solver.Result, error) {
	limit := Tolerance{MaxAbs: k.limit()}
	x, x0, at := &worst{name: "x", limit: limit}, &worst{name: "x0", limit: limit}, &worst{name: "corrected x0", limit: limit}
	var failed error
	step, order := 0, true
	compare := func(w *worst, got []float32, name func(i int) string) {
		if step >= len(k.Steps) {
			order = false
			return
		}
		want, err := c.interleaved(name(step))
		if err != nil {
			failed = err
			return
		}
		w.add(got, want)
	}
	g.watch = func(seen, said []float32) {
		compare(x, seen, func(i int) string { return k.Steps[i].X })
		compare(x0, said, func(i int) string { return k.Steps[i].X0 })
	}
	o.Progress = func(v solver.Progress) {
		now, err := v.Preview()
		if err != nil {
			failed = err
			return
		}
		compare(at, now, func(i int) string { return k.Steps[i].At })
		order = order && step < len(k.Steps) && k.Steps[step].Phase == v.Phase && k.Steps[step].T == v.T
		step++
	}
	s := k.Spin
	res, err := solver.Spin(context.Background(), p, g, solver.Settings{
		Parameters: solver.Parameters{
			TStar: s.TStar, K1: s.K1, P: s.P, TLow: s.TLow, Power: s.Power, Every: s.Every, TEnd: s.TEnd, EtaG: s.EtaG, EtaU: s.EtaU,
			Lam1: s.Lam1, Lam2: s.Lam2, SDMin: s.SDMin, Inner1: s.Opt1.settings(), Inner2: s.Opt2.settings(),
		},
		Options: o,
	})
	if err == nil {
		err = failed
	}
	return append([]Result{equal("steps", order && step == len(k.Steps))}, rows(x, x0, at)...), res, err
}

// problem is the measurement of a case, with its first guess if it has one.
func (c *Case) problem(d *tensor.Device, s operatorSpec, h, w int) (p solver.Problem, err error) {
	p.Sigma = s.Sigma
	if custom, ok := c.Custom[s.Kind]; ok {
		p.Operator, p.Y, p.Sigma, err = custom(d, h, w)
	} else if p.Operator, err = c.build(d, s, h, w); err == nil {
		p.Y, err = c.measurement(d, s, "y", h, w)
	}
	if r, ok := p.Operator.(solver.Recorder); ok {
		p.Sigma = r.Deviation() // in units of its own
	}
	if err == nil && c.Has("guess") {
		p.Start, err = c.Input(d, "guess")
	}
	return p, err
}

// operatorsCase compares A, its adjoint, the gradient, the first guess and every way of correcting, operator by operator.
func (c *Case) operatorsCase(d *tensor.Device) (results []Result, saved []Saved, err error) {
	defer tensor.Catch(&err)
	var head struct {
		Cases []struct {
			Task, X, Y, Grad, Guess, A string
			AT                         string  `json:"AT_of_y"`
			Half                       float64 `json:"half_sq"`
			Coefficients               []string
			Count                      int
			Operator                   operatorSpec
			Corrected                  []struct {
				inner
				Rho, Lip float64
				Out      string
			}
		}
	}
	if err := json.Unmarshal(c.raw, &head); err != nil {
		return nil, nil, err
	}
	out := Saved{}
	for _, k := range head.Cases {
		err := func() error {
			defer d.Tidy()()
			x, err := c.Input(d, k.X)
			if err != nil {
				return err
			}
			op, err := c.build(d, k.Operator, x.H(), x.W())
			if err != nil {
				results = append(results, Result{Array: k.Task, Skipped: err.Error()})
				return nil
			}
			y, err := c.measurement(d, k.Operator, k.Y, x.H(), x.W())
			if err != nil {
				return err
			}
			compare := func(name string, got *tensor.Tensor, limit float64) error {
				want, _, err := c.Array(name)
				if err != nil {
					return err
				}
				if out[name], err = planar(got); err != nil {
					return err
				}
				if limit == 0 {
					for _, v := range want {
						limit = max(limit, operatorLimit*math.Abs(float64(v)))
					}
				}
				w := &worst{name: name, limit: Tolerance{MaxAbs: limit}}
				w.add(out[name].Data, want)
				results = append(results, w.row())
				return nil
			}
			measured := y
			if r, ok := op.(solver.Restricter); ok {
				measured = r.Restrict(y)
			}
			ax := op.Apply(x)
			r := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: ax, C: 1}, {X: measured, C: -1}}})
			grad := op.VJP(x, r)
			if m, ok := op.(solver.Misfit); ok {
				r = m.Misfit(x, measured)
				grad = m.MisfitVJP(x, r)
			}
			if err := compare(k.Grad, grad, 0); err != nil {
				return err
			}
			if k.A != "" {
				if err := compare(k.A, ax, 0); err != nil {
					return err
				}
			}
			if k.AT != "" {
				if err := compare(k.AT, op.VJP(nil, y), 0); err != nil {
					return err
				}
			}
			if len(k.Coefficients) == 3 {
				row, err := c.compareCoefficients(k.Task, k.Operator, k.Coefficients, ax)
				if err != nil {
					return err
				}
				results = append(results, row)
			}
			if g, ok := op.(solver.Guesser); ok && k.Guess != "" && k.Operator.KY == "" { // of JPEG the case has another picture, with noise
				if err := compare(k.Guess, g.Guess(y), 0); err != nil {
					return err
				}
			}
			square, err := d.Dot(nil, r, r).Floats()
			if err != nil {
				return err
			}
			results = append(results, Result{Array: k.Task + " (sum of squares)", RelL2: math.Abs(float64(square[0])/(2*k.Half) - 1), Limit: Tolerance{RelL2: 1e-5}})
			for _, v := range k.Corrected {
				at, err := solver.Correct(solver.Problem{Operator: op, Y: y, Sigma: k.Operator.Sigma}, x, v.Rho, v.settings())
				if err == nil {
					err = compare(v.Out, at, correctedLimit)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %s: %w", c.Name, k.Task, err)
		}
	}
	return results, []Saved{out}, nil
}
