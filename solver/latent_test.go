package solver

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

// toy is a latent prior in closed form: an encoder and a decoder that are matrices over whole padded pictures, not inverse
// to each other, and the exact denoiser of Gaussian latents N(mu, diag s).
type toy struct {
	t                *testing.T
	schedule         *Schedule
	h, w, c          int // pictures, before the padding to multiples of 4
	enc, dec         [][]float64
	mu, s            []float64
	encodes, decodes int
	broken           error
}

const (
	toyF, toyU         = 2, 2 // multiples of the first stage and of the denoiser
	toyScale, toyShift = 0.7, 0.1
	toyLatents         = 2 // channels
)

func newToy(t *testing.T, h, w, c int) *toy {
	up := func(n int) int { return (n + 3) / 4 * 4 }
	nx, nz := up(h)*up(w)*c, up(h)/toyF*up(w)/toyF*toyLatents
	rng := rand.New(rand.NewPCG(21, 5))
	m := &toy{t: t, schedule: ScaledLinear(1000, 0.0015, 0.0195), h: h, w: w, c: c}
	matrix := func(rows, cols int) [][]float64 {
		a := make([][]float64, rows)
		for i := range a {
			for range cols {
				a[i] = append(a[i], rng.NormFloat64()/math.Sqrt(float64(cols)))
			}
		}
		return a
	}
	m.enc, m.dec = matrix(nz, nx), matrix(nx, nz)
	for range nz {
		m.mu, m.s = append(m.mu, rng.NormFloat64()/2), append(m.s, 0.1+rng.Float64())
	}
	return m
}

func times(a [][]float64, x []float64) []float64 {
	y := make([]float64, len(a))
	for i, row := range a {
		for j, v := range row {
			y[i] += v * x[j]
		}
	}
	return y
}

func (m *toy) each(x *tensor.Tensor, h, w, c int, f func([]float64) []float64) (*tensor.Tensor, error) {
	data, size := floats(m.t, x), x.Len()/x.N()
	var out []float32
	for n := range x.N() {
		in := make([]float64, size)
		for i := range in {
			in[i] = float64(data[n*size+i])
		}
		for _, v := range f(in) {
			out = append(out, float32(v))
		}
	}
	return x.Device().From(out, x.N(), h, w, c), m.broken
}

func (m *toy) Encode(x *tensor.Tensor) (*tensor.Tensor, error) {
	m.encodes++
	return m.each(x, x.H()/toyF, x.W()/toyF, toyLatents, func(v []float64) []float64 { return times(m.enc, v) })
}

func (m *toy) Decode(z *tensor.Tensor) (*tensor.Tensor, error) {
	m.decodes++
	return m.each(z, z.H()*toyF, z.W()*toyF, m.c, func(v []float64) []float64 { return times(m.dec, v) })
}

func (m *toy) pointwise(z *tensor.Tensor, f func(float64) float64) (*tensor.Tensor, error) {
	return m.each(z, z.H(), z.W(), z.C(), func(v []float64) []float64 {
		for i := range v {
			v[i] = f(v[i])
		}
		return v
	})
}

func (m *toy) Scale(z *tensor.Tensor) (*tensor.Tensor, error) {
	return m.pointwise(z, func(v float64) float64 { return (v - toyShift) * toyScale })
}

func (m *toy) Unscale(z *tensor.Tensor) (*tensor.Tensor, error) {
	return m.pointwise(z, func(v float64) float64 { return v/toyScale + toyShift })
}

func (m *toy) Downsampling() int    { return toyF }
func (m *toy) PictureChannels() int { return m.c }
func (m *toy) LatentChannels() int  { return toyLatents }
func (m *toy) Multiple() int        { return toyU }
func (m *toy) Schedule() *Schedule  { return m.schedule }
func (m *toy) clean(z []float64, abar float64) []float64 {
	out := make([]float64, len(z))
	for i := range z {
		out[i] = m.mu[i] + m.s[i]*math.Sqrt(abar)/(abar*m.s[i]+1-abar)*(z[i]-math.Sqrt(abar)*m.mu[i])
	}
	return out
}

func (m *toy) Denoise(z *tensor.Tensor, t int) *tensor.Tensor {
	out, err := m.each(z, z.H(), z.W(), z.C(), func(v []float64) []float64 { return m.clean(v, m.schedule.AlphaBar(t)) })
	require.NoError(m.t, err)
	return out
}

// reference is latent Spin once more: one picture, float64, and nothing of the solver's. a and its transpose are the
// measurement, lip the Lipschitz constant of its gradient.
type reference struct {
	m     *toy
	a, at func([]float64) []float64
	lip   float64
	y     []float64
	sigma float64
	p     Parameters
	noise func() []float64

	z, denoised, corrected [][]float64 // of every step
}

func (r *reference) abar(t int) float64 {
	a := 1.0
	for i := 0; i <= t; i++ {
		b := math.Sqrt(0.0015) + float64(i)/999*(math.Sqrt(0.0195)-math.Sqrt(0.0015))
		a *= 1 - b*b
	}
	return a
}

// encode mirrors the picture outwards and encodes it.
func (r *reference) encode(x []float64) []float64 {
	m := r.m
	ph, pw := (m.h+3)/4*4, (m.w+3)/4*4
	fold := func(i, n int) int { // ... 2 1 0 1 2 ... n-2 n-1 n-2 ...
		for i < 0 || i >= n {
			if i < 0 {
				i = -i
			} else {
				i = 2*(n-1) - i
			}
		}
		return i
	}
	var padded []float64
	for y := range ph {
		for xx := range pw {
			for c := range m.c {
				padded = append(padded, x[(fold(y-(ph-m.h)/2, m.h)*m.w+fold(xx-(pw-m.w)/2, m.w))*m.c+c])
			}
		}
	}
	z := times(m.enc, padded)
	for i := range z {
		z[i] = (z[i] - toyShift) * toyScale
	}
	return z
}

func (r *reference) decode(z []float64) (x []float64) {
	m := r.m
	ph, pw := (m.h+3)/4*4, (m.w+3)/4*4
	raw := make([]float64, len(z))
	for i := range z {
		raw[i] = z[i]/toyScale + toyShift
	}
	all := times(m.dec, raw)
	for y := range m.h {
		for xx := range m.w {
			at := ((y+(ph-m.h)/2)*pw + xx + (pw-m.w)/2) * m.c
			x = append(x, all[at:at+m.c]...)
		}
	}
	return x
}

// correct is Nesterov's accelerated gradient.
func (r *reference) correct(x0 []float64, rho float64, steps int) []float64 {
	x, z, theta := append([]float64{}, x0...), append([]float64{}, x0...), 1.0
	for range steps {
		res := r.a(z)
		for i := range res {
			res[i] -= r.y[i]
		}
		g := r.at(res)
		next := (1 + math.Sqrt(1+4*theta*theta)) / 2
		for i := range x {
			xn := z[i] - (g[i]+rho*(z[i]-x0[i]))/(r.lip+rho)
			z[i] = xn + (theta-1)/next*(xn-x[i])
			x[i] = xn
		}
		theta = next
	}
	return x
}

func (r *reference) run(guess []float64) []float64 {
	p := r.p
	mix := func(ca float64, a []float64, cb float64, b []float64) []float64 {
		out := make([]float64, len(a))
		for i := range a {
			out[i] = ca*a[i] + cb*b[i]
		}
		return out
	}
	rho := func(lam, floor float64, t int) float64 {
		a := r.abar(t)
		return lam * math.Pow(math.Max(r.sigma, floor), 2) * a / (1 - a)
	}
	star := r.abar(p.TStar)
	z := mix(math.Sqrt(star), r.encode(guess), math.Sqrt(1-star), r.noise())
	see := func(denoised, corrected []float64) {
		r.z, r.denoised, r.corrected = append(r.z, z), append(r.denoised, denoised), append(r.corrected, corrected)
	}
	for range p.K1 {
		z0 := r.m.clean(z, star)
		c := r.encode(r.correct(r.decode(z0), rho(p.Lam1, p.SDMin, p.TStar), p.Inner1.Steps))
		see(z0, c)
		z = mix(math.Sqrt(star), c, math.Sqrt(1-star), r.noise())
	}
	grid := []int{}
	for i := range p.P {
		u := 1 - float64(i)/float64(p.P-1)
		t := int(math.RoundToEven(float64(p.TLow) + float64(p.TStar-p.TLow)*u*u))
		if len(grid) == 0 || grid[len(grid)-1] != t {
			grid = append(grid, t)
		}
	}
	for i, t := range grid {
		z0 := r.m.clean(z, r.abar(t))
		if i == len(grid)-1 && p.Final {
			see(z0, z0)
			return r.correct(r.decode(z0), rho(p.Lam2, math.Min(p.SDMin, 0.01), t), p.Inner2.Steps)
		}
		c, guided := z0, i%p.Every == 0 && t >= p.TEnd
		if guided {
			c = r.encode(r.correct(r.decode(z0), rho(p.Lam2, p.SDMin, t), p.Inner2.Steps))
		}
		see(z0, c)
		if i == len(grid)-1 {
			return r.decode(c)
		}
		a, b := r.abar(t), r.abar(grid[i+1])
		s2 := p.EtaU * p.EtaU * (1 - b) / (1 - a) * (1 - a/b)
		if guided {
			s2 = p.EtaG * p.EtaG * (1 - b)
		}
		e := mix(1/math.Sqrt(1-a), z, -math.Sqrt(a/(1-a)), c)
		z = mix(math.Sqrt(b), c, math.Sqrt(1-b-s2), e)
		if s2 > 0 {
			z = mix(1, z, math.Sqrt(s2), r.noise())
		}
	}
	return nil
}

// toyProblem is n measurements of pictures of h x w, and the operator in float64 for one of them.
func toyProblem(t *testing.T, d *tensor.Device, kind string, n, h, w int, sigma float64) (p Problem, a, at func([]float64) []float64, lip float64) {
	rng := rand.New(rand.NewPCG(3, 14))
	truth := make([]float32, n*h*w*3)
	for i := range truth {
		truth[i] = float32(rng.Float64()*1.6 - 0.8)
	}
	spec := Spec{Kind: kind}
	switch kind {
	case "inpaint":
		mask, err := RandomMask(h, w, 0.5, 8)
		require.NoError(t, err)
		spec.Masks = []*Mask{mask}
		a = func(x []float64) []float64 {
			y := make([]float64, len(x))
			for i := range x {
				if mask.Known[i/3] {
					y[i] = x[i]
				}
			}
			return y
		}
		at, lip = a, 1
	case "gray":
		weights := [3]float64{0.299, 0.587, 0.114}
		a = func(x []float64) []float64 {
			y := make([]float64, len(x)/3)
			for i := range x {
				y[i/3] += weights[i%3] * x[i]
			}
			return y
		}
		at = func(r []float64) []float64 {
			x := make([]float64, 3*len(r))
			for i := range x {
				x[i] = weights[i%3] * r[i/3]
			}
			return x
		}
		lip = 0.299*0.299 + 0.587*0.587 + 0.114*0.114
	}
	op, err := spec.Build(d, h, w, 3)
	require.NoError(t, err)
	y, err := Measure(op, d.From(truth, n, h, w, 3), sigma, 2, 0)
	require.NoError(t, err)
	return Problem{Operator: op, Y: y, Sigma: sigma}, a, at, lip
}

func wide(v []float32) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = float64(v[i])
	}
	return out
}

func narrow(v []float64) []float32 {
	out := make([]float32, len(v))
	for i := range v {
		out[i] = float32(v[i])
	}
	return out
}

// TestLatentTrajectory follows latent Spin step by step beside a loop in float64.
func TestLatentTrajectory(t *testing.T) {
	fgd := Inner{Method: FGD, Steps: 4}
	base := Parameters{TStar: 300, K1: 3, P: 9, TLow: 2, Power: 2, Every: 2, TEnd: 20, EtaG: 1, Lam1: 0.3, Lam2: 0.5, SDMin: 0.05, Inner1: fgd, Inner2: fgd}
	with := func(change func(p *Parameters)) Parameters {
		p := base
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		kind             string
		h, w             int
		sigma            float64
		p                Parameters
		encodes, decodes int // the first guess, phase 1, guided steps; and for the result
	}{
		"sparse":               {"inpaint", 8, 12, 0.05, base, 1 + 3 + 4, 3 + 4 + 1},
		"padded":               {"inpaint", 5, 7, 0.05, base, 1 + 3 + 4, 3 + 4 + 1},
		"last picture":         {"inpaint", 6, 8, 0.05, with(func(p *Parameters) { p.Final = true }), 1 + 3 + 4, 3 + 4 + 1},
		"known pixels kept":    {"inpaint", 6, 8, 0, with(func(p *Parameters) { p.Final, p.Keep = true, true }), 1 + 3 + 4, 3 + 4 + 1},
		"last step corrected":  {"gray", 8, 8, 0.02, with(func(p *Parameters) { p.TEnd, p.Every = 0, 1 }), 1 + 3 + 9, 3 + 9 + 1},
		"corrected and final":  {"gray", 8, 8, 0.02, with(func(p *Parameters) { p.TEnd, p.Every, p.Final = 0, 1, true }), 1 + 3 + 8, 3 + 9},
		"partly fresh noise":   {"gray", 8, 8, 0.02, with(func(p *Parameters) { p.EtaG, p.EtaU = 0.8, 0.5 }), 1 + 3 + 4, 3 + 4 + 1},
		"guided in phase 1":    {"gray", 8, 8, 0.02, with(func(p *Parameters) { p.Every, p.K1 = 100, 5; p.Lam1 = 1 }), 1 + 5 + 1, 5 + 1 + 1},
		"never guided at all":  {"gray", 8, 8, 0.02, with(func(p *Parameters) { p.TEnd, p.K1 = 999, 0 }), 1, 1},
		"one step and no more": {"gray", 8, 8, 0.02, with(func(p *Parameters) { p.K1, p.P, p.Final = 1, 2, true }), 1 + 1 + 1, 1 + 1 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := device(t)
			m := newToy(t, c.h, c.w, 3)
			p, a, at, lip := toyProblem(t, d, c.kind, 1, c.h, c.w, c.sigma)
			guess := p.Operator.(Guesser).Guess(p.Y)
			draws := 0
			r := &reference{m: m, a: a, at: at, lip: lip, y: wide(floats(t, p.Y)), sigma: c.sigma, p: c.p, noise: func() []float64 {
				n := make([]float32, len(m.mu))
				NewNoise(11).Normal(n, 0, draws)
				draws++
				return wide(n)
			}}
			want := r.run(wide(floats(t, guess)))
			step := 0
			res, err := Spin(context.Background(), p, m, Settings{Parameters: c.p, FirstStage: m, Options: Options{Seed: 11, trace: func(v trace) {
				maxAbs(t, "z", floats(t, v.x), narrow(r.z[step]), 1e-4)
				maxAbs(t, "z0", floats(t, v.x0), narrow(r.denoised[step]), 1e-4)
				maxAbs(t, "corrected z0", floats(t, v.at), narrow(r.corrected[step]), 1e-4)
				step++
			}}})
			require.NoError(t, err)
			require.Equal(t, len(r.z), step)
			got := floats(t, res.X0)
			if c.p.Keep {
				y := floats(t, p.Y)
				for i := range got {
					if p.Operator.(*Inpaint).masks[0].Known[i/3] {
						require.Equal(t, y[i], got[i])
						want[i] = float64(y[i])
					}
				}
			}
			maxAbs(t, "result", got, narrow(want), 1e-4)
			require.Equal(t, [2]int{c.encodes, c.decodes}, [2]int{res.Encodes, res.Decodes})
			require.Equal(t, [2]int{m.encodes, m.decodes}, [2]int{res.Encodes, res.Decodes})
			require.Positive(t, res.Decoding)
			require.GreaterOrEqual(t, res.Elapsed, res.Denoising+res.Correcting+res.Encoding+res.Decoding)
		})
	}
}

// A batch gives each picture what it gets alone, the same seed the same bytes, and memory stays level.
func TestLatentBatch(t *testing.T) {
	d := device(t)
	m := newToy(t, 5, 9, 3)
	p, _, _, _ := toyProblem(t, d, "gray", 3, 5, 9, 0.05)
	live := d.Stats().Live
	run := func(p Problem, first int) []float32 {
		r, err := Spin(context.Background(), p, m, Settings{Calls: 8, FirstStage: m, Options: Options{Seed: 5, First: first}})
		require.NoError(t, err)
		defer r.X0.Free()
		return floats(t, r.X0)
	}
	whole := run(p, 4)
	require.Equal(t, live, d.Stats().Live)
	allocs := d.Stats().Allocs
	require.Equal(t, whole, run(p, 4))
	require.Equal(t, allocs, d.Stats().Allocs, "the second run takes new memory")
	size := len(whole) / 3
	for i := range 3 {
		require.Equal(t, whole[i*size:(i+1)*size], run(p.image(t, d, i), 4+i), "image %d", i)
	}
	require.NotEqual(t, whole, run(p, 5))
}

// Watching changes nothing but the number of decodes; a run that is ended returns what its last latent decodes to.
func TestLatentPreviewAndCancel(t *testing.T) {
	d := device(t)
	m := newToy(t, 8, 8, 3)
	p, _, _, _ := toyProblem(t, d, "inpaint", 1, 8, 8, 0)
	live := d.Stats().Live
	quiet, err := Spin(context.Background(), p, m, Settings{Calls: 8, FirstStage: m})
	require.NoError(t, err)
	seen := 0
	watched, err := Spin(context.Background(), p, m, Settings{Calls: 8, FirstStage: m, Options: Options{Progress: func(s Progress) {
		v, err := s.Preview()
		require.NoError(t, err)
		require.Len(t, v, 8*8*3)
		seen++
	}}})
	require.NoError(t, err)
	require.Equal(t, floats(t, quiet.X0), floats(t, watched.X0))
	require.Equal(t, quiet.Decodes+seen-1, watched.Decodes, "the last picture was decoded anyway")
	quiet.X0.Free()
	watched.X0.Free()

	var preview []float32
	ctx, cancel := context.WithCancel(context.Background())
	r, err := Spin(ctx, p, m, Settings{Calls: 8, FirstStage: m, Options: Options{Progress: func(s Progress) {
		if s.Step == 3 {
			cancel()
			preview, _ = s.Preview()
		}
	}}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, preview, floats(t, r.X0))
	r.X0.Free()
	r, err = Spin(ctx, p, m, Settings{FirstStage: m})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, r.Decodes)
	guess := p.Operator.(Guesser).Guess(p.Y)
	require.Equal(t, floats(t, guess), floats(t, r.X0), "the first guess itself, not encoded and decoded")
	guess.Free()
	r.X0.Free()
	require.Equal(t, live, d.Stats().Live)
}

type otherStage struct {
	*toy
	downsampling, pictures, latents int
}

func (o otherStage) Downsampling() int    { return o.downsampling }
func (o otherStage) PictureChannels() int { return o.pictures }
func (o otherStage) LatentChannels() int  { return o.latents }

func TestLatentRefusals(t *testing.T) {
	d := device(t)
	p, _, _, _ := toyProblem(t, d, "gray", 1, 8, 8, 0.05)
	live := d.Stats().Live
	for name, c := range map[string]struct {
		stage   func(m *toy) FirstStage
		want    string
		encodes int
	}{
		"pictures of other channels":  {func(m *toy) FirstStage { return otherStage{m, 2, 1, 2} }, "pictures of 1 channels, the operator's have 3", 0},
		"no downsampling":             {func(m *toy) FirstStage { return otherStage{m, 0, 3, 2} }, "downsampling is 0", 0},
		"latents of other channels":   {func(m *toy) FirstStage { return otherStage{m, 2, 3, 4} }, "expected [1 4 4 4]", 1},
		"latents of another size":     {func(m *toy) FirstStage { return otherStage{m, 4, 3, 2} }, "expected [1 2 2 2]", 1},
		"an encoder that breaks down": {func(m *toy) FirstStage { m.broken = errors.New("no memory for this"); return m }, "no memory for this", 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := newToy(t, 8, 8, 3)
			r, err := Spin(context.Background(), p, m, Settings{FirstStage: c.stage(m)})
			require.ErrorContains(t, err, c.want)
			require.Nil(t, r)
			require.Equal(t, c.encodes, m.encodes)
			require.Equal(t, live, d.Stats().Live)
		})
	}
}

// The defaults call the first stage rarely, end in plain steps, and are a run that Spin accepts.
func TestLatentDefaults(t *testing.T) {
	d := device(t)
	faces, sd := ScaledLinear(1000, 0.0015, 0.0195), ScaledLinear(1000, 0.00085, 0.012)
	for _, kind := range []string{"inpaint", "gray"} {
		p, _, _, _ := toyProblem(t, d, kind, 1, 8, 8, 0.05)
		for schedule, ends := range map[*Schedule][2]int{faces: {6, 1}, sd: {10, 2}} {
			for _, sigma := range []float64{0, 0.01, 0.05, 0.5} {
				s := LatentDefaults(p.Operator, sigma, schedule)
				require.Equal(t, ends, [2]int{s.TEnd, s.TLow})
				require.Equal(t, [2]int{2, 10}, [2]int{s.Every, s.Inner2.Steps})
				require.Equal(t, sigma < 0.03, s.Final)
				ratio := schedule.NoiseToSignal(Defaults(taskOf(p.Operator), sigma, schedule).TStar)
				if kind == "inpaint" {
					ratio /= 2
				}
				require.Equal(t, schedule.Nearest(ratio), s.TStar)
				plain := 0
				for _, at := range Grid(s.TStar, s.TLow, s.P, s.Power) {
					if at < s.TEnd {
						plain++
					}
				}
				require.Greater(t, plain, 1)
			}
		}
	}
	require.Equal(t, Inner{}, LatentDefaults(squares{}, 0.05, nil).Inner1, "no Lipschitz constant: the method that fits")
	s := LatentDefaults(Denoise{}, 0, faces)
	require.GreaterOrEqual(t, s.TStar, s.TEnd)
	p, _, _, _ := toyProblem(t, d, "inpaint", 1, 8, 8, 0)
	m := newToy(t, 8, 8, 3)
	r, err := Spin(context.Background(), p, m, Settings{FirstStage: m})
	require.NoError(t, err)
	require.Less(t, r.Residual[0], 1e-12)
	require.Less(t, r.Encodes, 2*r.Calls/3)
	for _, v := range floats(t, r.X0) {
		require.False(t, math.IsNaN(float64(v)))
	}
}
