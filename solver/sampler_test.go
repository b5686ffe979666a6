package solver

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// arrays reads a file of arrays [...,N,C,H,W] into the order of tensors, the leading dimension kept.
type arrays struct {
	t testing.TB
	f *weights.File
}

func openArrays(t testing.TB, path string) arrays {
	f, err := weights.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return arrays{t, f}
}

// list is an array cut into its leading entries, and the shape [N,H,W,C] of one.
func (a arrays) list(name string) (out [][]float32, shape [4]int) {
	x, ok := a.f.Tensor(name)
	require.True(a.t, ok, name)
	v, err := x.Floats()
	require.NoError(a.t, err)
	s := x.Shape
	if len(s) == 4 {
		s = append([]int{1}, s...)
	}
	n, c, h, w := s[1], s[2], s[3], s[4]
	for i := range s[0] {
		one := make([]float32, n*c*h*w)
		for p := range one {
			image, ch, px := p/(c*h*w), p/(h*w)%c, p%(h*w)
			one[(image*h*w+px)*c+ch] = v[i*len(one)+p]
		}
		out = append(out, one)
	}
	return out, [4]int{n, h, w, c}
}

func (a arrays) one(name string) []float32 {
	list, _ := a.list(name)
	return list[0]
}

// played is noise that was given: draw number d of all images together.
type played [][]float32

func (p played) Normal(dst []float32, image, draw int) {
	copy(dst, p[draw][image*len(dst):(image+1)*len(dst)])
}

// exact is the denoiser of a Gaussian prior as a model, which FromModel clips as it is told.
func (g *gaussianPrior) exact(o ModelOptions) Denoiser {
	o.Schedule, o.Prediction = g.s, PredictClean
	free := *g
	free.wide = true
	return FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor { return free.Denoise(x, int(t)) }, o)
}

// The samplers go the way of those of diffusers, step by step. tools/samplers.py made the numbers.
func TestSamplersAgainstDiffusers(t *testing.T) {
	dir := filepath.Join("testdata", "samplers")
	text, err := os.ReadFile(filepath.Join(dir, "case.json"))
	require.NoError(t, err)
	var head struct {
		Runs []struct {
			Name      string
			Sampler   Transition
			Timesteps []int
			Eta       float64
			Clip      bool
			Threshold float64
		}
	}
	require.NoError(t, json.Unmarshal(text, &head))
	require.NotEmpty(t, head.Runs)
	a := openArrays(t, filepath.Join(dir, "io.safetensors"))
	prior := &gaussianPrior{s: Linear(1000, 1e-4, 0.02), mu: a.one("mu"), variance: a.one("S")}
	for _, k := range head.Runs {
		t.Run(k.Name, func(t *testing.T) {
			d := device(t)
			start, shape := a.list(k.Name + ".start")
			want, _ := a.list(k.Name + ".x")
			noise := played(start)
			if _, ok := a.f.Tensor(k.Name + ".noise"); ok {
				more, _ := a.list(k.Name + ".noise")
				noise = append(noise, more...)
			}
			den := prior.exact(ModelOptions{NoClip: !k.Clip, Threshold: k.Threshold})
			step := 0
			r, err := Generate(context.Background(), d, den, shape, GenerateSettings{
				Sampler: k.Sampler, Timesteps: k.Timesteps, Eta: k.Eta,
				Options: Options{Noise: noise, trace: func(s trace) {
					if step > 0 { // x before a call is what the step before made
						maxAbs(t, fmt.Sprintf("x after step %d", step), floats(t, s.x), want[step-1], 2e-5)
					}
					step++
				}},
			})
			require.NoError(t, err)
			require.Equal(t, len(k.Timesteps), step)
			require.Equal(t, step, r.Calls)
			if k.Sampler != PNDM { // diffusers extrapolates to the clean picture, here the last estimate is it
				maxAbs(t, "result", floats(t, r.X0), want[step-1], 2e-5)
			}
		})
	}
}

// Single ancestral steps and those of DDIM, as guided-diffusion has them. A sub-schedule of two timesteps would make other betas than
// those of neighbours, so the steps are to t-1.
func TestStepsOfGuidedDiffusion(t *testing.T) {
	a := openArrays(t, testkit.Shared(t, "fixtures", "schedule", "io.safetensors"))
	d := device(t)
	start, shape := a.list("x")
	noise := a.one("noise")
	at := func(v []float32) *tensor.Tensor { return d.From(v, shape[0], shape[1], shape[2], shape[3]) }
	for _, from := range []int{1, 250, 999} {
		for clip := range 2 {
			name := fmt.Sprintf("t%d_clip%d.", from, clip)
			x0 := a.one(name + "pred_xstart")
			step := func(kind Transition, eta float64, fresh []float32) []float32 {
				r := &run{d: d, s: Linear(1000, 1e-4, 0.02), o: Options{Noise: played{fresh}}, x: at(start[0]), n: at(noise)}
				r.stepper(kind, eta).advance(at(x0), from, from-1)
				return floats(t, r.x)
			}
			bound := 2e-5 * max(largest(x0), 1) // without clipping the estimate at the noisiest timestep is in the hundreds
			// The fixture's 1-abar is a difference in float32: half a unit of 1, over 1-abar(0) = 1e-4, under a root.
			rounded := bound + 0x1p-25/1e-4*largest(a.one(name+"ddim_eta0"))
			maxAbs(t, name+"ddim, eta 0", step(DDIM, 0, noise), a.one(name+"ddim_eta0"), rounded)
			maxAbs(t, name+"ddim, eta 1", step(DDIM, 1, noise), a.one(name+"ddim_eta1"), rounded)
			maxAbs(t, name+"mean", step(DDPM, 0, make([]float32, len(noise))), a.one(name+"mean"), bound)
			for kind, of := range map[Transition]string{DDPM: "fixed_small", DDPMLarge: "fixed_large"} {
				want := a.one(name + "mean")
				sd := math.Sqrt(float64(a.one(fmt.Sprintf("%s.t%d.variance", of, from))[0]))
				for i := range want {
					want[i] += float32(sd) * noise[i]
				}
				maxAbs(t, name+string(kind), step(kind, 0, noise), want, bound)
			}
		}
	}
}

// chain: the toy network of the fixtures through whole respaced chains, at the timesteps that they name.
func TestChainsOfGuidedDiffusion(t *testing.T) {
	a := openArrays(t, testkit.Shared(t, "fixtures", "schedule", "io.safetensors"))
	s := Linear(1000, 1e-4, 0.02)
	for _, spacing := range []string{"ddim10", "20", "5,3,2"} {
		of := "respaced_" + spacing
		x, ok := a.f.Tensor(of + ".timestep_map")
		require.True(t, ok)
		steps, err := x.Ints()
		require.NoError(t, err)
		var grid []int
		for i := range steps {
			grid = append(grid, int(steps[len(steps)-1-i]))
		}
		fresh, shape := a.list(of + ".chain_noise")
		start := a.one("x")
		for eta := range 2 {
			d := device(t)
			den := FromModel(func(x *tensor.Tensor, at float64) *tensor.Tensor {
				v := floats(t, x)
				for i, u := range v {
					v[i] = float32(0.3*float64(u) + 0.4*math.Tanh(float64(u))*at/1000)
				}
				return x.Device().From(v, x.N(), x.H(), x.W(), x.C())
			}, ModelOptions{Schedule: s})
			r, err := Generate(context.Background(), d, den, shape, GenerateSettings{
				Timesteps: grid, Eta: float64(eta), Options: Options{Noise: append(played{start}, fresh...)},
			})
			require.NoError(t, err)
			maxAbs(t, fmt.Sprintf("%s, eta %d", of, eta), floats(t, r.X0), a.one(fmt.Sprintf("%s.ddim_chain_eta%d", of, eta)), 2e-4)
		}
	}
}

// The time-shift sampler against a loop in float64: which timestep the denoiser is told, and where the step goes from there.
func TestTimeShift(t *testing.T) {
	const window, cutoff = 60, 250
	d := device(t)
	_, prior := smallProblem(t, d, "denoise", 1)
	grid := Grid(999, 0, 15, 1)
	var told []int
	r, err := Generate(context.Background(), d, prior.exact(ModelOptions{NoClip: true}), [4]int{1, 12, 16, 3}, GenerateSettings{
		Timesteps: grid, Window: window, Cutoff: cutoff, Options: Options{Seed: 3, trace: func(s trace) { told = append(told, s.t) }},
	})
	require.NoError(t, err)

	x := drawn(3, 0, 0, len(prior.mu))
	var want []int
	for i, at := range grid {
		if i > 0 && at > cutoff {
			_, variance := meanAndVariance(x)
			best := at
			for tau := max(at-window/2, 0); tau <= min(at+window/2, 999); tau++ {
				next := -1
				if i+1 < len(grid) {
					next = grid[i+1]
				}
				if tau > next && math.Abs(variance-(1-prior.s.AlphaBar(tau))) < math.Abs(variance-(1-prior.s.AlphaBar(best))) {
					best = tau
				}
			}
			at = best
		}
		want = append(want, at)
		a := prior.s.AlphaBar(at)
		b := 1.0
		if i+1 < len(grid) {
			b = prior.s.AlphaBar(grid[i+1])
		}
		for p := range x {
			x0 := prior.at(p, x[p], a)
			e := (x[p] - math.Sqrt(a)*x0) / math.Sqrt(1-a)
			x[p] = math.Sqrt(b)*x0 + math.Sqrt(1-b)*e
		}
	}
	require.Equal(t, want, told)
	require.NotEqual(t, grid, told, "nothing was shifted")
	near(t, "result", floats(t, r.X0), x, 2e-5)
	_, err = Generate(context.Background(), d, prior, [4]int{2, 12, 16, 3}, GenerateSettings{Window: 2})
	require.ErrorContains(t, err, "one image")
}

// drawn is a draw of an image by a seed, in float64.
func drawn(seed uint64, image, draw, n int) []float64 {
	v := make([]float32, n)
	NewNoise(seed).Normal(v, image, draw)
	out := make([]float64, n)
	for i := range v {
		out[i] = float64(v[i])
	}
	return out
}

func meanAndVariance(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x)-1)
	}
	return mean, variance
}

func near(t testing.TB, what string, got []float32, want []float64, bound float64) {
	t.Helper()
	rounded := make([]float32, len(want))
	for i, v := range want {
		rounded[i] = float32(v)
	}
	maxAbs(t, what, got, rounded, bound)
}

// The samples of every sampler have the mean and the variance of a Gaussian prior, but for the error of the discretisation,
// which is of first order in the deviation with DDIM and DDPM, and for that of counting.
func TestSamplesOfGaussian(t *testing.T) {
	const mu, variance, side = 0.3, 0.05, 100
	for name, k := range map[string]struct {
		s    GenerateSettings
		bias float64 // relative, of the standard deviation, with 400 calls
	}{
		"ddim": {GenerateSettings{}, 0.02}, "ddim, eta 0.5": {GenerateSettings{Eta: 0.5}, 0.025},
		"ddpm": {GenerateSettings{Sampler: DDPM}, 0.04}, "ddpm-large": {GenerateSettings{Sampler: DDPMLarge}, 0.04},
		"pndm": {GenerateSettings{Sampler: PNDM}, 0.01}, "dpmpp": {GenerateSettings{Sampler: DPMPP}, 0.01}, "dpmpp3": {GenerateSettings{Sampler: DPMPP3}, 0.01},
	} {
		t.Run(name, func(t *testing.T) {
			d := device(t)
			prior := &gaussianPrior{s: Linear(1000, 1e-4, 0.02), mu: []float32{mu}, variance: []float32{variance}}
			k.s.N, k.s.Seed = 400, 11
			r, err := Generate(context.Background(), d, prior.exact(ModelOptions{NoClip: true}), [4]int{1, side, side, 1}, k.s)
			require.NoError(t, err)
			var x []float64
			for _, v := range floats(t, r.X0) {
				x = append(x, float64(v))
			}
			mean, v := meanAndVariance(x)
			sd := math.Sqrt(variance)
			t.Logf("mean %.4f of %.4f, deviation %.4f of %.4f", mean, mu, math.Sqrt(v), sd)
			require.InDelta(t, mu, mean, 4*sd/side)
			require.InDelta(t, 1, math.Sqrt(v)/sd, k.bias+4/(math.Sqrt2*side))
		})
	}
}

// Samples depend on the seed and their number alone, take no new memory the second time, and give what there is when they
// are broken off.
func TestSampleRules(t *testing.T) {
	for _, kind := range Transitions() {
		t.Run(string(kind), func(t *testing.T) {
			d := device(t)
			_, prior := smallProblem(t, d, "denoise", 1)
			live := d.Stats().Live
			run := func(n int, o Options) []float32 {
				r, err := Generate(context.Background(), d, prior, [4]int{n, 12, 16, 3}, GenerateSettings{Sampler: kind, N: 7, Eta: 0.3, Options: o})
				require.NoError(t, err)
				require.Equal(t, 7, r.Calls)
				require.Nil(t, r.Residual)
				defer r.X0.Free()
				return floats(t, r.X0)
			}
			three := run(3, Options{Seed: 2, First: 4})
			allocs := d.Stats().Allocs
			require.Equal(t, three, run(3, Options{Seed: 2, First: 4}))
			require.Equal(t, allocs, d.Stats().Allocs)
			for i := range 3 {
				require.Equal(t, three[i*576:(i+1)*576], run(1, Options{Seed: 2, First: 4 + i}))
			}
			require.NotEqual(t, three, run(3, Options{Seed: 3, First: 4}))
			require.Equal(t, live, d.Stats().Live)

			ctx, cancel := context.WithCancel(context.Background())
			r, err := Generate(ctx, d, prior, [4]int{1, 12, 16, 3}, GenerateSettings{Sampler: kind, Options: Options{Progress: func(Progress) { cancel() }}})
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, 1, r.Calls)
			prior.calls, prior.broken = 0, 3
			_, err = Generate(context.Background(), d, prior, [4]int{1, 12, 16, 3}, GenerateSettings{Sampler: kind})
			require.ErrorIs(t, err, ErrNumeric)
			require.ErrorContains(t, err, "denoiser call 3 of 50")
		})
	}
}

func TestSampleRefusals(t *testing.T) {
	d := device(t)
	_, prior := smallProblem(t, d, "denoise", 1)
	one := [4]int{1, 12, 16, 3}
	for name, c := range map[string]struct {
		shape [4]int
		s     GenerateSettings
	}{
		"sampler": {one, GenerateSettings{Sampler: "euler"}}, "eta": {one, GenerateSettings{Eta: 2}}, "no images": {[4]int{0, 12, 16, 3}, GenerateSettings{}},
		"ascending": {one, GenerateSettings{Timesteps: []int{3, 5}}}, "outside": {one, GenerateSettings{Timesteps: []int{1000, 5}}},
		"calls": {one, GenerateSettings{N: -1}}, "window": {one, GenerateSettings{Window: -1}},
	} {
		r, err := Generate(context.Background(), d, prior, c.shape, c.s)
		require.Error(t, err, name)
		require.Nil(t, r, name)
	}
	_, err := Generate(context.Background(), nil, prior, one, GenerateSettings{})
	require.Error(t, err)
	require.Panics(t, func() { FromModel(nil, ModelOptions{Threshold: 1.5}) })
}

// With a first stage the state is its latents, in the padded size, and only the last of them is decoded.
func TestLatentSample(t *testing.T) {
	d := device(t)
	m := newToy(t, 5, 6, 3)
	var z []float32
	r, err := Generate(context.Background(), d, m, [4]int{1, 5, 6, 3}, GenerateSettings{N: 6, Sampler: DPMPP, FirstStage: m, Options: Options{Seed: 1, trace: func(s trace) {
		require.Equal(t, [4]int{1, 4, 4, toyLatents}, s.x.Shape())
		if s.t == 0 {
			z = floats(t, s.at)
		}
	}}})
	require.NoError(t, err)
	require.Equal(t, [2]int{0, 1}, [2]int{r.Encodes, r.Decodes})
	raw, err := m.Unscale(d.From(z, 1, 4, 4, toyLatents))
	require.NoError(t, err)
	x, err := m.Decode(raw)
	require.NoError(t, err)
	require.Equal(t, floats(t, newFrames(4).of(d, 5, 6).cut(x)), floats(t, r.X0))
}

// Thresholds are per image, at least 1, and let no NaN pass unnoticed.
func TestDynamicThreshold(t *testing.T) {
	d := device(t)
	x := d.From([]float32{0.5, -0.25, 0.1, 0, 4, -3, 2, -1, 1, float32(math.NaN()), -2, 0}, 3, 2, 2, 1)
	den := FromModel(func(x *tensor.Tensor, _ float64) *tensor.Tensor { return x }, ModelOptions{Prediction: PredictClean, Threshold: 0.5})
	got := floats(t, den.Denoise(x, 3))
	require.Equal(t, []float32{0.5, -0.25, 0.1, 0}, got[:4])
	require.Equal(t, []float32{1, -1, 0.8, -0.4}, got[4:8])
	require.True(t, math.IsNaN(float64(got[9])))
	require.Equal(t, []float32{1, -1, 0}, []float32{got[8], got[10], got[11]})
}
