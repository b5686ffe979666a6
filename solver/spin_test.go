package solver

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

// gaussianPrior is the exact denoiser of the prior N(mu, diag S):
//
//	D(x,t) = clip( mu + S sqrt(abar)/(abar S + 1 - abar) (x - sqrt(abar) mu), -1, 1 )
type gaussianPrior struct {
	s             *Schedule
	mu, variance  []float32 // of one image, repeated over the batch
	calls, broken int       // in call number broken the first image becomes NaN
}

func (g *gaussianPrior) Denoise(xt *tensor.Tensor, t int) *tensor.Tensor {
	g.calls++
	data, err := xt.Floats()
	if err != nil {
		tensor.FailWith("test", err, "denoiser")
	}
	a := g.s.AlphaBar(t)
	for i, x := range data {
		mu, s := float64(g.mu[i%len(g.mu)]), float64(g.variance[i%len(g.mu)])
		v := mu + s*math.Sqrt(a)/(a*s+1-a)*(float64(x)-math.Sqrt(a)*mu)
		data[i] = float32(min(max(v, -1), 1))
	}
	if g.calls == g.broken {
		data[0] = float32(math.NaN())
	}
	return xt.Device().From(data, xt.N(), xt.H(), xt.W(), xt.C())
}

// script plays back given noise.
type script [][]float32

func (s script) Normal(dst []float32, _, draw int) { copy(dst, s[draw]) }

type trajectory struct {
	Method   string
	Schedule struct {
		T     int
		First float64 `json:"beta_first"`
		Last  float64 `json:"beta_last"`
	}
	Operator operatorSpec
	Settings struct {
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
		Opt1, Opt2          trajectoryInner
	}
	Grid  []int  `json:"phase2_grid"`
	Noise string `json:"noise_init"`
	Steps []struct {
		Phase, T  int
		Guided    bool
		X, X0     string
		Corrected string `json:"x0_opt"`
		Noise     string
		Loss      []float64
	}
}

type trajectoryInner struct {
	Kind     Method
	Steps    int
	Lr, Stop float64
}

func (i trajectoryInner) inner() Inner {
	return Inner{Method: i.Kind, Steps: i.Steps, Rate: i.Lr, Stop: i.Stop}
}

func (f *fixture) prior(c *trajectory) *gaussianPrior {
	mu, _ := f.nhwc("mu")
	s, _ := f.nhwc("S")
	return &gaussianPrior{s: Linear(c.Schedule.T, c.Schedule.First, c.Schedule.Last), mu: mu, variance: s}
}

// TestSpinTrajectories follows whole runs step by step with given noise.
func TestSpinTrajectories(t *testing.T) {
	for _, name := range []string{"solver_spin_inpaint", "solver_spin_inpaint_adam", "solver_spin_sr4", "solver_spin_jpeg"} {
		t.Run(name, func(t *testing.T) {
			var c trajectory
			f := openFixture(t, name, &c)
			d := device(t)
			guess := f.tensor(d, "guess")
			p := Problem{Sigma: c.Operator.Sigma}
			if c.Operator.Kind == "jpeg" {
				// Its residuals are in units of their own deviation, and it has no first guess.
				j := newHostJPEG(f, guess.H(), guess.W())
				p = Problem{Operator: j, Y: j.measured(d), Sigma: 1, Start: guess}
			} else {
				p.Y = f.tensor(d, "y")
				p.Operator = f.operator(d, c.Operator, guess.H(), guess.W())
			}

			noise := script{}
			add := func(name string) {
				if name != "" {
					v, _ := f.nhwc(name)
					noise = append(noise, v)
				}
			}
			add(c.Noise)
			for _, s := range c.Steps {
				add(s.Noise)
			}
			bound := 1e-4
			if c.Spin.Opt1.Kind == Adam {
				bound = 5e-4
			}
			step := 0
			compare := func(v trace) {
				want := c.Steps[step]
				require.Equal(t, want.Phase, v.phase)
				require.Equal(t, want.T, v.t)
				for what, pair := range map[string]struct {
					got  *tensor.Tensor
					want string
				}{"x": {v.x, want.X}, "x0": {v.x0, want.X0}, "corrected x0": {v.at, want.Corrected}} {
					w, _ := f.nhwc(pair.want)
					maxAbs(t, fmt.Sprintf("step %d, %s", step, what), floats(t, pair.got), w, bound)
				}
				require.GreaterOrEqual(t, len(v.losses), len(want.Loss))
				for i, l := range want.Loss {
					require.InDelta(t, l, v.losses[i][0], 1e-3*l+1e-4, "step %d, loss %d", step, i)
				}
				step++
			}
			s := c.Spin
			r, err := Spin(context.Background(), p, f.prior(&c), Settings{
				Parameters: Parameters{
					TStar: s.TStar, K1: s.K1, P: s.P, TLow: s.TLow, Power: s.Power, Every: s.Every, TEnd: s.TEnd, EtaG: s.EtaG, EtaU: s.EtaU,
					Lam1: s.Lam1, Lam2: s.Lam2, SDMin: s.SDMin, Inner1: s.Opt1.inner(), Inner2: s.Opt2.inner(),
				},
				Options: Options{Noise: noise, trace: compare},
			})
			require.NoError(t, err)
			require.Equal(t, len(c.Steps), step)
			require.Equal(t, c.Grid, Grid(s.TStar, s.TLow, s.P, s.Power))
			require.Equal(t, len(c.Steps), r.Calls)
			want, _ := f.nhwc("result")
			maxAbs(t, "result", floats(t, r.X0), want, bound)
		})
	}
}

func TestRivalTrajectories(t *testing.T) {
	for _, name := range []string{"solver_diffpir_sr4", "solver_ddnm_inpaint"} {
		t.Run(name, func(t *testing.T) {
			var c trajectory
			f := openFixture(t, name, &c)
			d := device(t)
			_, shape := f.nhwc("mu")
			p := Problem{Operator: f.operator(d, c.Operator, shape[1], shape[2]), Y: f.tensor(d, "y"), Sigma: c.Operator.Sigma}
			noise := script{}
			for i := range c.Settings.N {
				v, _ := f.nhwc(fmt.Sprintf("noise_%02d", i))
				noise = append(noise, v)
			}
			var r *Result
			var err error
			o := Options{Noise: noise}
			if c.Method == "diffpir" {
				r, err = DiffPIR(context.Background(), p, f.prior(&c), DiffPIRSettings{N: c.Settings.N, Lam: c.Settings.Lam, Zeta: c.Settings.Zeta, Options: o})
			} else {
				r, err = DDNM(context.Background(), p, f.prior(&c), DDNMSettings{N: c.Settings.N, Eta: c.Settings.Eta, Options: o})
			}
			require.NoError(t, err)
			require.Equal(t, c.Settings.N, r.Calls)
			want, _ := f.nhwc("result")
			maxAbs(t, "result", floats(t, r.X0), want, 2e-4) // stated: 2e-3
		})
	}
}
