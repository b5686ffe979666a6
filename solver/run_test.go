package solver

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

// smallProblem is n noisy images of one operator, and a prior for them.
func smallProblem(t testing.TB, d *tensor.Device, kind string, n int) (Problem, *gaussianPrior) {
	const h, w, c = 12, 16, 3
	rng := rand.New(rand.NewPCG(9, 9))
	prior := &gaussianPrior{s: Linear(1000, 1e-4, 0.02)}
	for range h * w * c {
		prior.mu = append(prior.mu, float32(rng.Float64()-0.5))
		prior.variance = append(prior.variance, float32(0.01+0.2*rng.Float64()))
	}
	spec := Spec{Kind: kind}
	switch kind {
	case "inpaint":
		for i := range n { // every image has a mask of its own
			m, err := RandomMask(h, w, 0.5, uint64(i))
			require.NoError(t, err)
			spec.Masks = append(spec.Masks, m)
		}
	case "downsample":
		spec.Factor = 4
	case "blur":
		var err error
		spec.Kernel, err = MotionKernel(9, 0.5, 1)
		require.NoError(t, err)
	}
	op, err := spec.Build(d, h, w, c)
	require.NoError(t, err)
	truth := make([]float32, n*h*w*c)
	for i := range truth {
		p := i % len(prior.mu)
		truth[i] = prior.mu[p] + float32(math.Sqrt(float64(prior.variance[p]))*rng.NormFloat64())
	}
	y, err := Measure(op, d.From(truth, n, h, w, c), 0.05, 4, 0)
	require.NoError(t, err)
	return Problem{Operator: op, Y: y, Sigma: 0.05}, prior
}

// image is image i of a problem alone.
func (p Problem) image(t testing.TB, d *tensor.Device, i int) Problem {
	y := floats(t, p.Y)
	size := len(y) / p.Y.N()
	p.Y = d.From(y[i*size:(i+1)*size], 1, p.Y.H(), p.Y.W(), p.Y.C())
	if op, ok := p.Operator.(*Inpaint); ok {
		one, err := NewInpaint(d, op.masks[i])
		require.NoError(t, err)
		p.Operator = one
	}
	return p
}

type solverFunc func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error)

var solvers = map[string]solverFunc{
	"Spin": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return Spin(ctx, p, den, Settings{Calls: calls, Options: o})
	},
	"Spin with Adam": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		s := Defaults(TaskOther, 0.05, nil)
		s.Inner1 = Inner{Method: Adam, Steps: 8, Stop: 1}
		s.Inner2, s.Calls, s.Options, s.EtaG = s.Inner1, calls, o, 0.8
		return Spin(ctx, p, den, s)
	},
	"Spin with FGD": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		s := Defaults(TaskOther, 0.05, nil)
		s.Inner1 = Inner{Method: FGD, Steps: 5, Stop: 1}
		s.Inner2, s.Calls, s.Options, s.Every, s.EtaU = s.Inner1, calls, o, 2, 0.5
		return Spin(ctx, p, den, s)
	},
	"Spin by DPM-Solver++": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return Spin(ctx, p, den, Settings{Calls: calls, Transition: DPMPP3, Options: o})
	},
	"Spin by PNDM": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return Spin(ctx, p, den, Settings{Calls: calls, Transition: PNDM, Options: o})
	},
	"Spin by DDPM": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return Spin(ctx, p, den, Settings{Calls: calls, Transition: DDPM, Options: o})
	},
	"DiffPIR": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return DiffPIR(ctx, p, den, DiffPIRSettings{N: calls, Options: o})
	},
	"DDNM": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return DDNM(ctx, p, den, DDNMSettings{N: calls, Options: o})
	},
	"DDRM": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return DDRM(ctx, p, den, DDRMSettings{N: calls, Options: o})
	},
	"RED-diff": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return REDDiff(ctx, p, den, REDDiffSettings{N: calls, Options: o})
	},
	"dps-approx": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return DPSApprox(ctx, p, den, DPSApproxSettings{N: calls, Options: o})
	},
	"DAPS": func(ctx context.Context, p Problem, den Denoiser, calls int, o Options) (*Result, error) {
		return DAPS(ctx, p, den, DAPSSettings{N: calls, ODE: min(2, calls), Langevin: 3, Options: o})
	},
}

// A batch gives each image exactly what it gets alone, and the same seed the same bytes.
func TestBatchAndSeed(t *testing.T) {
	for name, solve := range solvers {
		for _, kind := range []string{"denoise", "inpaint", "downsample", "blur"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				if name == "DDRM" && kind == "blur" {
					t.Skip("it needs a singular value decomposition")
				}
				d := device(t)
				p, prior := smallProblem(t, d, kind, 3)
				run := func(p Problem, o Options) ([]float32, []float64) {
					r, err := solve(context.Background(), p, prior, 9, o)
					require.NoError(t, err)
					return floats(t, r.X0), r.Residual
				}
				whole, residual := run(p, Options{Seed: 5, First: 10})
				again, _ := run(p, Options{Seed: 5, First: 10})
				require.Equal(t, whole, again)
				size := len(whole) / 3
				for i := range 3 {
					alone, res := run(p.image(t, d, i), Options{Seed: 5, First: 10 + i})
					require.Equal(t, alone, whole[i*size:(i+1)*size], "image %d", i)
					require.Equal(t, res[0], residual[i])
				}
				other, _ := run(p, Options{Seed: 6, First: 10})
				if kind == "denoise" && (name == "Spin by DPM-Solver++" || name == "Spin by PNDM") {
					require.Equal(t, whole, other, "it starts from the measurement, and no step draws noise")
					return
				}
				require.NotEqual(t, whole, other)
			})
		}
	}
}

// The stop rule of an image must not look at the others: one image that fits at once rests, the other moves.
func TestStopIsPerImage(t *testing.T) {
	d := device(t)
	x0 := d.From([]float32{0.5, 0.5, 0.5, 0.5}, 2, 1, 2, 1)
	y := d.From([]float32{0.5, 0.51, -0.5, -0.5}, 2, 1, 2, 1)
	for _, m := range []Method{FGD, Adam} {
		x, err := Correct(Problem{Operator: Denoise{}, Y: y, Sigma: 0.1}, x0, 0, Inner{Method: m, Stop: 1, Rate: 0.1})
		require.NoError(t, err)
		v := floats(t, x)
		require.Equal(t, []float32{0.5, 0.5}, v[:2], m)
		require.Less(t, v[2], float32(0), m)
	}
}

func TestMemory(t *testing.T) {
	for name, solve := range solvers {
		for _, kind := range []string{"inpaint", "downsample", "blur"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				if name == "DDRM" && kind == "blur" {
					t.Skip("it needs a singular value decomposition")
				}
				d := device(t)
				p, prior := smallProblem(t, d, kind, 2)
				live := d.Stats().Live
				run := func() {
					r, err := solve(context.Background(), p, prior, 6, Options{})
					require.NoError(t, err)
					r.X0.Free()
					require.Equal(t, live, d.Stats().Live)
				}
				run()
				allocs := d.Stats().Allocs
				run()
				require.Equal(t, allocs, d.Stats().Allocs, "the second run takes new memory")
				Release(p.Operator)
				p.Y.Free()
			})
		}
	}
}

func TestCancel(t *testing.T) {
	for name, solve := range solvers {
		t.Run(name, func(t *testing.T) {
			d := device(t)
			p, prior := smallProblem(t, d, "inpaint", 1)
			live := d.Stats().Live
			var preview []float32
			ctx, cancel := context.WithCancel(context.Background())
			r, err := solve(ctx, p, prior, 20, Options{Progress: func(s Progress) {
				if s.Step == 3 {
					cancel()
					preview, _ = s.Preview()
				}
			}})
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, 3, r.Calls)
			require.Equal(t, preview, floats(t, r.X0), "the best so far")
			require.Len(t, r.Residual, 1)
			r.X0.Free()
			require.Equal(t, live, d.Stats().Live)

			r, err = solve(ctx, p, prior, 20, Options{}) // over before it began: the first guess
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, 0, r.Calls)
			require.NotNil(t, r.X0)
		})
	}
}

func TestNumericGuard(t *testing.T) {
	for name, solve := range solvers {
		t.Run(name, func(t *testing.T) {
			d := device(t)
			p, prior := smallProblem(t, d, "inpaint", 1)
			live := d.Stats().Live
			prior.broken = 4
			r, err := solve(context.Background(), p, prior, 10, Options{First: 7})
			require.ErrorIs(t, err, ErrNumeric)
			require.ErrorContains(t, err, "denoiser call 4 of 10, timestep ")
			require.ErrorContains(t, err, "image 7")
			require.Nil(t, r)
			require.Equal(t, live, d.Stats().Live)
		})
	}
}

type shapeless struct{ Denoise }

func (shapeless) Apply(x *tensor.Tensor) *tensor.Tensor {
	return x.Device().Dot(nil, x, x)
}

func TestRunRefusals(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "blur", 1)
	live := d.Stats().Live
	with := func(change func(*Settings)) Settings {
		s := Defaults(TaskBlur, 0.05, nil)
		change(&s)
		return s
	}
	y := p.Y
	for name, c := range map[string]struct {
		p Problem
		s Settings
	}{
		"no operator":     {Problem{Y: y}, Settings{}},
		"no measurement":  {Problem{Operator: Denoise{}}, Settings{}},
		"negative sigma":  {Problem{Operator: Denoise{}, Y: y, Sigma: -1}, Settings{}},
		"sigma NaN":       {Problem{Operator: Denoise{}, Y: y, Sigma: math.NaN()}, Settings{}},
		"TStar too large": {p, with(func(s *Settings) { s.TStar = 1000 })},
		"TLow above":      {p, with(func(s *Settings) { s.TLow = s.TStar + 1 })},
		"no phase 2":      {p, with(func(s *Settings) { s.K1, s.P = 0, 0 })},
		"eta above 1":     {p, with(func(s *Settings) { s.EtaG = 1.5 })},
		"lam NaN":         {p, with(func(s *Settings) { s.Lam2 = math.NaN() })},
		"no closed form":  {p, with(func(s *Settings) { s.Inner1.Method = Exact })},
		"unknown method":  {p, with(func(s *Settings) { s.Inner2.Method = "lbfgs" })},
		"negative steps":  {p, with(func(s *Settings) { s.Inner2.Steps = -1 })},
		"wrong shape":     {Problem{Operator: shapeless{}, Y: y}, with(func(s *Settings) { s.Inner1.Method, s.Inner2.Method = FGD, FGD })},
		"wrong start":     {Problem{Operator: Denoise{}, Y: y, Start: d.New(2, 12, 16, 3)}, Settings{}},
	} {
		r, err := Spin(context.Background(), c.p, prior, c.s)
		require.Error(t, err, name)
		require.Nil(t, r, name)
		if c.p.Start != nil {
			c.p.Start.Free()
		}
	}
	require.Equal(t, live, d.Stats().Live)
	_, err := Spin(context.Background(), p, nil, Settings{})
	require.Error(t, err)
	_, err = Spin(context.Background(), p, prior, Settings{Transition: "euler"})
	require.ErrorContains(t, err, "euler")
	_, err = DDNM(context.Background(), Problem{Operator: squares{}, Y: y}, prior, DDNMSettings{})
	require.ErrorContains(t, err, "linear")
	_, err = DiffPIR(context.Background(), p, prior, DiffPIRSettings{Zeta: 2})
	require.Error(t, err)
}

// squares is a nonlinear operator with its two methods only, A(x) = x^2 per element.
type squares struct{}

func (squares) Apply(x *tensor.Tensor) *tensor.Tensor { return product(x, x, 1) }

func (squares) VJP(x, r *tensor.Tensor) *tensor.Tensor { return product(x, r, 2) }

func product(a, b *tensor.Tensor, c float32) *tensor.Tensor {
	x, _ := a.Floats()
	y, _ := b.Floats()
	for i := range x {
		x[i] *= c * y[i]
	}
	return a.Device().From(x, a.N(), a.H(), a.W(), a.C())
}

// A nonlinear operator without further knowledge is fitted by Adam until the noise level.
func TestNonlinearOperator(t *testing.T) {
	d := device(t)
	_, prior := smallProblem(t, d, "denoise", 1)
	truth := make([]float32, len(prior.mu))
	for i := range prior.mu { // away from zero, where the sign of x does not show in x^2
		prior.mu[i] = float32(math.Copysign(0.5, float64(prior.mu[i])))
		prior.variance[i] = 0.01
		truth[i] = prior.mu[i] * (1 + 0.2*float32(i%3-1))
	}
	y, err := Measure(squares{}, d.From(truth, 1, 12, 16, 3), 0.02, 1, 0)
	require.NoError(t, err)
	r, err := Spin(context.Background(), Problem{Operator: squares{}, Y: y, Sigma: 0.02}, prior, Settings{})
	require.NoError(t, err)
	require.Less(t, r.Residual[0], 2.5)
	var before, after float64
	for i, v := range floats(t, r.X0) {
		before += math.Pow(float64(prior.mu[i]-truth[i]), 2)
		after += math.Pow(float64(v-truth[i]), 2)
	}
	require.Less(t, after, 0.3*before)
}

// The VJP of a chain with a nonlinear part is the transpose of its Jacobian, by finite differences.
func TestComposeNonlinear(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(1, 1))
	down, err := NewDownsample(d, 8, 8, 2)
	require.NoError(t, err)
	op := Compose(squares{}, down)
	require.False(t, op.IsLinear())
	require.Zero(t, op.Lipschitz())
	x, u := random(d, rng, [4]int{1, 8, 8, 2}), random(d, rng, [4]int{1, 8, 8, 2})
	v := random(d, rng, [4]int{1, 4, 4, 2})
	const h = 1e-2
	at := func(s float64) *tensor.Tensor {
		return op.Apply(d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}, {X: u, C: s}}}))
	}
	slope := subtract(at(h), at(-h))
	left := float64(floats(t, d.Dot(nil, slope, v))[0]) / (2 * h)
	right := float64(floats(t, d.Dot(nil, u, op.VJP(x, v)))[0])
	require.InEpsilon(t, left, right, 1e-3)
}

// With sigma = 0 the known pixels come back as they were, and the measurement is met.
func TestSigmaZero(t *testing.T) {
	d := device(t)
	for _, kind := range []string{"inpaint", "downsample"} {
		p, prior := smallProblem(t, d, kind, 1)
		p.Sigma = 0
		r, err := Spin(context.Background(), p, prior, Settings{})
		require.NoError(t, err)
		require.Less(t, r.Residual[0], 1e-4, kind)
		if op, ok := p.Operator.(*Inpaint); ok {
			x, y := floats(t, r.X0), floats(t, p.Y)
			for i := range x {
				if op.masks[0].Known[i/3] {
					require.Equal(t, y[i], x[i])
				}
			}
		}
	}
}

// What lies in the holes of a measurement changes nothing.
func TestHolesAreNotRead(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "inpaint", 1)
	a, err := Spin(context.Background(), p, prior, Settings{Calls: 6})
	require.NoError(t, err)
	y := floats(t, p.Y)
	for i := range y {
		if !p.Operator.(*Inpaint).masks[0].Known[i/3] {
			y[i] = float32(math.NaN())
		}
	}
	p.Y = d.From(y, 1, 12, 16, 3)
	b, err := Spin(context.Background(), p, prior, Settings{Calls: 6})
	require.NoError(t, err)
	require.Equal(t, floats(t, a.X0), floats(t, b.X0))
	require.Equal(t, a.Residual, b.Residual)
}

func TestProgressAndCounts(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "blur", 1)
	var seen []Progress
	r, err := Spin(context.Background(), p, prior, Settings{Calls: 10, Options: Options{Progress: func(s Progress) { seen = append(seen, s) }}})
	require.NoError(t, err)
	require.Len(t, seen, r.Calls)
	require.Equal(t, prior.calls, r.Calls)
	require.Equal(t, 10, r.Calls)
	want := Defaults(TaskMotionBlur, 0.05, nil).Budget(10)
	guided := want.K1
	for _, at := range Grid(want.TStar, want.TLow, want.P, want.Power) {
		if at >= want.TEnd {
			guided++
		}
	}
	require.Equal(t, guided, r.Corrections)
	require.Equal(t, guided*(2+3*4), r.OperatorCalls, "A and its transpose: once around 4 steps of PCG, each of which has a preconditioner, too")
	for i, s := range seen {
		require.Equal(t, i+1, s.Step)
		require.Equal(t, 10, s.Total)
		require.Equal(t, map[bool]int{true: 1, false: 2}[i < want.K1], s.Phase)
	}
	require.GreaterOrEqual(t, r.Elapsed, r.Denoising+r.Correcting)
}

// The noise levels of a run are those of the denoiser's schedule unless the settings name another.
func TestScheduleComesFromTheDenoiser(t *testing.T) {
	scaled := ScaledLinear(1000, 0.0015, 0.0195)
	den := FromModel(func(x *tensor.Tensor, _ float64) *tensor.Tensor { return x }, ModelOptions{Schedule: scaled})
	require.Equal(t, scaled, scheduleOf(den))
	require.Equal(t, 1000, scheduleOf(&gaussianPrior{}).Len())
}

func TestFromModel(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(3, 3))
	s := Linear(1000, 1e-4, 0.02)
	x, n := random(d, rng, [4]int{2, 5, 7, 3}), random(d, rng, [4]int{2, 5, 7, 3})
	a := s.AlphaBar(300)
	mix := func(cx, cn float64) *tensor.Tensor {
		return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: cx}, {X: n, C: cn}}})
	}
	xt := mix(math.Sqrt(a), math.Sqrt(1-a))
	for kind, prediction := range map[Prediction]*tensor.Tensor{
		"": n, PredictNoise: n, PredictVelocity: mix(-math.Sqrt(1-a), math.Sqrt(a)), PredictClean: x,
	} {
		den := FromModel(func(_ *tensor.Tensor, at float64) *tensor.Tensor {
			require.Equal(t, 300.0, at)
			return copied(prediction)
		}, ModelOptions{Schedule: s, Prediction: kind, NoClip: true})
		maxAbs(t, string(kind), floats(t, den.Denoise(xt, 300)), floats(t, x), 2e-6)
		den = FromModel(func(_ *tensor.Tensor, _ float64) *tensor.Tensor { return copied(prediction) }, ModelOptions{Schedule: s, Prediction: kind})
		require.LessOrEqual(t, largest(floats(t, den.Denoise(xt, 300))), 1.0)
	}
}

// Images of any size are mirrored outwards to what the network takes, and cropped again.
func TestFromModelPads(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(3, 3))
	for _, size := range [][2]int{{16, 16}, {5, 9}, {1, 1}, {17, 16}, {31, 3}} {
		x := random(d, rng, [4]int{2, size[0], size[1], 3})
		live := d.Stats().Live
		den := FromModel(func(in *tensor.Tensor, _ float64) *tensor.Tensor {
			require.Zero(t, in.H()%16)
			require.Zero(t, in.W()%16)
			require.Less(t, in.H(), size[0]+16)
			v, w := floats(t, in), floats(t, x)
			top, left := (in.H()-size[0])/2, (in.W()-size[1])/2
			for i, got := range v {
				n, y, xx, c := i/(in.H()*in.W()*3), i/(in.W()*3)%in.H(), i/3%in.W(), i%3
				from := ((n*size[0]+mirrorCentre(y-top, size[0]))*size[1]+mirrorCentre(xx-left, size[1]))*3 + c
				require.Equal(t, w[from], got)
			}
			return in
		}, ModelOptions{Prediction: PredictClean, NoClip: true, Multiple: 16})
		out := den.Denoise(x, 0)
		require.Equal(t, floats(t, x), floats(t, out))
		out.Free()
		require.Equal(t, live, d.Stats().Live)
	}
}

func TestDefaults(t *testing.T) {
	for task, want := range map[Task][3]int{
		TaskInpaintRandom: {80, 4, 36}, TaskInpaintMask: {80, 4, 36}, TaskInpaintBox: {500, 12, 28}, "sr4": {300, 8, 32}, "sr16": {500, 12, 28},
		"sr2": {200, 6, 34}, "sr8": {400, 10, 30}, "sr32": {500, 12, 28}, TaskGaussianBlur: {300, 8, 32}, TaskMotionBlur: {150, 8, 32}, TaskColor: {400, 12, 28},
	} {
		s := Defaults(task, 0.05, nil)
		require.Equal(t, want, [3]int{s.TStar, s.K1, s.P}, task)
		require.Equal(t, [2]int{8, 3}, [2]int{s.TEnd, s.TLow}, task)
		require.Equal(t, 0.02, s.SDMin)
		require.False(t, s.Keep)
	}
	s := Defaults(TaskDenoise, 0.05, nil)
	require.InDelta(t, 0.05, defaultSchedule().NoiseToSignal(s.TStar), 0.003)
	require.Equal(t, [3]int{0, 2, 1}, [3]int{s.K1, s.P, s.TLow})
	require.True(t, s.Noisy)
	require.Equal(t, 2, s.Budget(Best).P)
	require.Equal(t, 1, s.Budget(1).P)
	s = Defaults(TaskDenoiseUneven, 0.05, nil)
	require.InDelta(t, 60, s.TStar, 4)
	require.Equal(t, [2]int{2, 38}, [2]int{s.K1, s.P})
	require.False(t, s.Noisy)
	require.Equal(t, TaskDenoiseUneven, taskOf(&Quantize{}))
	require.Equal(t, TaskDenoiseUneven, taskOf(&Weighted{op: Denoise{}}))
	s = Defaults(TaskInpaintBox, 0.01, nil)
	require.Equal(t, [2]int{3, 1}, [2]int{s.TEnd, s.TLow})
	s = Defaults(TaskInpaintBox, 0, nil)
	require.Equal(t, [2]int{0, 1}, [2]int{s.TEnd, s.TLow})
	require.Equal(t, 0.01, s.SDMin)
	require.True(t, s.Keep)
	s = Defaults(TaskInpaintBox, 1, nil)
	require.Equal(t, [2]int{8, 3}, [2]int{s.TEnd, s.TLow})
	s = Defaults(TaskDenoise, 0, nil)
	require.Equal(t, 0, s.TStar)
	require.Equal(t, 0, s.TLow)
	s = Defaults(TaskDenoise, 1e9, nil)
	require.Equal(t, 999, s.TStar)

	// On another schedule the noise levels stay.
	scaled := ScaledLinear(1000, 0.0015, 0.0195)
	there, here := Defaults("sr4", 0.05, scaled), Defaults("sr4", 0.05, nil)
	require.InEpsilon(t, Linear(1000, 1e-4, 0.02).NoiseToSignal(here.TStar), scaled.NoiseToSignal(there.TStar), 0.01)

	for calls, want := range map[int][2]int{0: {8, 32}, Fast: {2, 8}, 16: {3, 13}, Standard: {8, 32}, Best: {20, 80}, 1: {0, 1}, 2: {1, 1}} {
		b := here.Budget(calls)
		require.Equal(t, want, [2]int{b.K1, b.P}, "%d calls", calls)
		require.Equal(t, here.Lam1, b.Lam1)
		if calls == Fast {
			require.InDelta(t, 2*here.Lam2, b.Lam2, 1e-12, "fewer calls have more noise to take away")
		} else if calls == 0 || calls >= Standard {
			require.Equal(t, here.Lam2, b.Lam2, "%d calls", calls)
		}
	}
	for _, name := range []string{"", "sr1", "sr", "srx", "sr-4", "deblurring"} {
		_, err := ParseTask(name)
		require.Error(t, err, name)
	}
	require.Panics(t, func() { Defaults("nothing", 0, nil) })
}

// Every task's defaults are a run that Spin accepts, at any noise level and budget.
func TestDefaultsRun(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "denoise", 1)
	for task := range table {
		for _, sigma := range []float64{0, 0.001, 0.02, 0.05, 0.5, 5} {
			for _, calls := range []int{1, 3} {
				p.Sigma = sigma
				s := Defaults(task, sigma, nil)
				s.Calls = calls
				r, err := Spin(context.Background(), p, prior, s)
				require.NoError(t, err, "%s, sigma %v, %d calls", task, sigma, calls)
				require.LessOrEqual(t, r.Calls, s.Restarts*calls)
			}
		}
	}
}

func TestCatchesOnlyItsOwn(t *testing.T) {
	d := device(t)
	p, _ := smallProblem(t, d, "denoise", 1)
	den := FromModel(func(*tensor.Tensor, float64) *tensor.Tensor { panic(errors.New("foreign")) }, ModelOptions{})
	require.PanicsWithError(t, "foreign", func() { Spin(context.Background(), p, den, Settings{}) })
}

// slow is a denoiser that takes its time.
type slow struct {
	Denoiser
	each time.Duration
}

func (s slow) Denoise(x *tensor.Tensor, t int) *tensor.Tensor {
	time.Sleep(s.each)
	return s.Denoiser.Denoise(x, t)
}

// A deadline makes every solver take fewer steps, down to the lowest timestep all the same; with time to spare it changes
// nothing.
func TestDeadline(t *testing.T) {
	for name, solve := range solvers {
		t.Run(name, func(t *testing.T) {
			d := device(t)
			p, prior := smallProblem(t, d, "inpaint", 1)
			free, err := solve(context.Background(), p, prior, 12, Options{})
			require.NoError(t, err)
			same, err := solve(context.Background(), p, prior, 12, Options{Deadline: time.Now().Add(time.Hour)})
			require.NoError(t, err)
			require.False(t, same.Short)
			require.Equal(t, floats(t, free.X0), floats(t, same.X0))

			var last Progress
			from := time.Now()
			r, err := solve(context.Background(), p, slow{prior, 10 * time.Millisecond}, 400, Options{
				Deadline: from.Add(400 * time.Millisecond), Progress: func(s Progress) { last = s },
			})
			require.NoError(t, err)
			require.True(t, r.Short)
			require.Greater(t, r.Calls, 1)
			require.Less(t, r.Calls, 41)
			require.Less(t, time.Since(from), 5*time.Second)
			require.Equal(t, r.Calls, last.Step)
			require.Less(t, last.T, 500, "it did not come down")

			r, err = solve(context.Background(), p, prior, 12, Options{Deadline: from}) // over before it began
			require.NoError(t, err)
			require.True(t, r.Short)
			require.LessOrEqual(t, r.Calls, 2, "a step, which is two calls for DAPS")
		})
	}
}

func TestThinned(t *testing.T) {
	grid := []int{9, 8, 7, 6, 5, 4, 3}
	require.Equal(t, grid, thinned(grid, 7))
	require.Equal(t, []int{8, 6, 3}, thinned(grid, 3))
	require.Equal(t, []int{3}, thinned(grid, 1))
	require.Empty(t, thinned(grid, 0))
}

// Spin's own transition is renoise by name too, and with eta 0 at corrected steps it is DDIM.
func TestTransitions(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "blur", 1)
	run := func(s Settings) []float32 {
		r, err := Spin(context.Background(), p, prior, s)
		require.NoError(t, err)
		return floats(t, r.X0)
	}
	own := Defaults(TaskBlur, 0.05, nil)
	own.Calls = 10
	named := own
	named.Transition = Renoise
	require.Equal(t, run(own), run(named))
	own.EtaG = 0
	named.Transition = DDIM
	maxAbs(t, "ddim", run(named), run(own), 1e-6)
	seen := map[float32]Transition{}
	for _, k := range Transitions() {
		named.Transition = k
		x := run(named)[0]
		if at, ok := seen[x]; ok {
			t.Errorf("%s gives what %s does", k, at)
		}
		seen[x] = k
	}
}
