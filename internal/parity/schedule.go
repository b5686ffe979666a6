package parity

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// gridCase compares abar and the grids of timesteps.
func (c *Case) gridCase() (results []Result, saved []Saved, err error) {
	defer tensor.Catch(&err)
	var head struct {
		Schedule struct {
			T     int
			First float64 `json:"beta_first"`
			Last  float64 `json:"beta_last"`
		}
		Abar  string
		Grids []struct {
			Hi, Lo, N int
			Power     float64
			Out       []int
		}
	}
	if err := json.Unmarshal(c.raw, &head); err != nil {
		return nil, nil, err
	}
	want, _, err := c.Array(head.Abar)
	if err != nil {
		return nil, nil, err
	}
	s := solver.Linear(head.Schedule.T, head.Schedule.First, head.Schedule.Last)
	abar := Array{make([]float32, s.Len()), []int{s.Len()}}
	for t := range abar.Data {
		abar.Data[t] = float32(s.AlphaBar(t))
	}
	r := Result{Array: head.Abar, Limit: Tolerance{RelL2: 1e-6}}
	r.MaxAbs, r.RelL2 = Compare(abar.Data, want)
	results = append(results, r)
	for _, g := range head.Grids {
		results = append(results, equal(fmt.Sprintf("grid of %d from %d to %d", g.N, g.Hi, g.Lo), slices.Equal(g.Out, solver.Grid(g.Hi, g.Lo, g.N, g.Power))))
	}
	return results, []Saved{{head.Abar: abar}}, nil
}

// scheduleCase compares schedules, clean estimates, and reverse processes without a measurement, with those of
// guided-diffusion and latent-diffusion. What else the peers compute, steps that draw from a posterior among them, nothing
// here has a use for.
func (c *Case) scheduleCase(d *tensor.Device) (results []Result, saved []Saved, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	var head struct {
		Steps     []int
		Respacing []string
		Toy       [2]float64
	}
	if err := json.Unmarshal(c.raw, &head); err != nil {
		return nil, nil, err
	}
	done := map[string]bool{}
	exact := func(name string, want func(i int) float64) error {
		got, err := c.float64s(name)
		if err != nil {
			return err
		}
		r := Result{Array: name, Limit: Tolerance{RelL2: 1e-12}}
		var d2, w2 float64
		for i, v := range got {
			diff := v - want(i)
			r.MaxAbs, d2, w2 = max(r.MaxAbs, math.Abs(diff)), d2+diff*diff, w2+v*v
		}
		r.RelL2 = math.Sqrt(d2 / w2)
		results, done[name] = append(results, r), true
		return nil
	}
	linear, ldm := solver.Linear(1000, 1e-4, 0.02), solver.ScaledLinear(1000, 0.0015, 0.0195)
	if err := exact("linear.alphas_cumprod", linear.AlphaBar); err != nil {
		return nil, nil, err
	}
	if err := exact("ldm.alphas_cumprod", ldm.AlphaBar); err != nil {
		return nil, nil, err
	}
	for _, t := range head.Steps {
		for clip := range 2 {
			name := fmt.Sprintf("t%d_clip%d.pred_xstart", t, clip)
			r, err := c.cleanEstimate(d, linear, t, clip == 0, name)
			if err != nil {
				return nil, nil, err
			}
			results, done[name] = append(results, r), true
		}
	}
	for _, spacing := range head.Respacing {
		of := "respaced_" + spacing
		steps, _, err := c.Array(of + ".timestep_map")
		if err != nil {
			return nil, nil, err
		}
		if err := exact(of+".alphas_cumprod", func(i int) float64 { return linear.AlphaBar(int(steps[i])) }); err != nil {
			return nil, nil, err
		}
		done[of+".timestep_map"], done[of+".chain_noise"] = true, true
		for eta := range 2 {
			name := fmt.Sprintf("%s.ddim_chain_eta%d", of, eta)
			r, err := c.chain(d, linear, of, steps, float64(eta), head.Toy, name)
			if err != nil {
				return nil, nil, err
			}
			results, done[name] = append(results, r), true
		}
	}
	left := 0
	for _, name := range c.io.Names() {
		if strings.Contains(name, ".") && !done[name] {
			left++
		}
	}
	if left > 0 {
		results = append(results, Result{Array: "*", Skipped: fmt.Sprintf("%d arrays: samplers and coefficients that this version does not have", left)})
	}
	return results, nil, nil
}

// cleanEstimate is x0 of the noise that the case's network predicts.
func (c *Case) cleanEstimate(d *tensor.Device, s *solver.Schedule, t int, noClip bool, name string) (r Result, err error) {
	x, err := c.Input(d, "x")
	if err != nil {
		return r, err
	}
	model, shape, err := c.Array("model_out_6ch") // noise, then variance
	if err != nil {
		return r, err
	}
	eps := NHWC(model[:len(model)/2], shape[0], shape[1]/2, shape[2], shape[3])
	den := solver.FromModel(func(x *tensor.Tensor, _ float64) *tensor.Tensor {
		return d.From(eps, x.N(), x.H(), x.W(), x.C())
	}, solver.ModelOptions{Schedule: s, NoClip: noClip})
	got, err := planar(den.Denoise(x, t))
	if err != nil {
		return r, err
	}
	want, _, err := c.Array(name)
	r = Result{Array: name, Limit: Tolerance{MaxAbs: 5e-5, RelL2: 1e-5}}
	if noClip && t == s.Len()-1 {
		r.Limit.MaxAbs = 0 // x0 is as large as 1/sqrt(abar) there
	}
	r.MaxAbs, r.RelL2 = Compare(got.Data, want)
	return r, err
}

// free measures nothing.
type free struct{}

func (free) Apply(x *tensor.Tensor) *tensor.Tensor  { return x }
func (free) VJP(_, r *tensor.Tensor) *tensor.Tensor { return r }

// chain is the case's reverse process: Spin's plain steps, none of which is corrected, down a grid that is given.
func (c *Case) chain(d *tensor.Device, s *solver.Schedule, of string, steps []float32, eta float64, toy [2]float64, name string) (r Result, err error) {
	r = Result{Array: name, Limit: Tolerance{MaxAbs: 2e-4, RelL2: 1e-4}}
	n := len(steps)
	grid := make([]int, n) // from the noisiest
	for i, t := range steps {
		grid[n-1-i] = int(t)
	}
	if !slices.Equal(grid, solver.Grid(grid[0], grid[n-1], n, 1)) {
		r.Skipped = "its timesteps are in sections, which no grid of this version is"
		return r, nil
	}
	x, err := c.interleaved("x")
	if err != nil {
		return r, err
	}
	draws, shape, err := c.Array(of + ".chain_noise")
	if err != nil {
		return r, err
	}
	if len(shape) != 5 || shape[0] != n || shape[1] != 1 {
		return r, fmt.Errorf("%s: noise of shape %v for %d steps", c.Name, shape, n)
	}
	// A run begins at sqrt(a) g + sqrt(1-a) n: with a first guess of 0, this n begins it at x.
	a := s.AlphaBar(grid[0])
	noise := script{make([]float32, len(x))}
	for i, v := range x {
		noise[0][i] = v / float32(math.Sqrt(1-a))
	}
	for i := range n {
		noise = append(noise, NHWC(draws[i*len(x):][:len(x)], 1, shape[2], shape[3], shape[4]))
	}
	den := solver.FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor {
		v, err := x.Floats()
		if err != nil {
			tensor.FailWith("parity", err, "denoiser")
		}
		for i, x := range v {
			v[i] = float32(toy[0]*float64(x) + toy[1]*math.Tanh(float64(x))*t/1000)
		}
		return d.From(v, x.N(), x.H(), x.W(), x.C())
	}, solver.ModelOptions{Schedule: s})
	y := d.From(make([]float32, len(x)), 1, shape[3], shape[4], shape[2])
	res, err := solver.Spin(context.Background(), solver.Problem{Operator: free{}, Y: y, Start: y}, den, solver.Settings{
		Parameters: solver.Parameters{TStar: grid[0], TLow: grid[n-1], P: n, Power: 1, TEnd: s.Len(), EtaU: eta},
		Options:    solver.Options{Noise: noise},
	})
	if err != nil {
		return r, err
	}
	got, err := planar(res.X0)
	if err != nil {
		return r, err
	}
	want, _, err := c.Array(name)
	r.MaxAbs, r.RelL2 = Compare(got.Data, want)
	return r, err
}
