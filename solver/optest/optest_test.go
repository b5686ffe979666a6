package optest_test

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/solver/optest"
	"github.com/spin-native/spin/tensor"
)

const height, width, channels = 7, 9, 2

// host computes on downloaded values; f writes the result of an image's values, NHWC.
func host(x *tensor.Tensor, h, w int, f func(out, in []float32)) *tensor.Tensor {
	data, err := x.Floats()
	if err != nil {
		tensor.FailWith("test", err, "download")
	}
	out := make([]float32, x.N()*h*w*x.C())
	for n := range x.N() {
		f(out[n*h*w*x.C():][:h*w*x.C()], data[n*len(data)/x.N():][:len(data)/x.N()])
	}
	return x.Device().From(out, x.N(), h, w, x.C())
}

// mean averages three neighbours along rows, the border mirrored with its edge pixel. Its weights differ to the left
// and right, so it is not its own transpose. The mistakes are those that people make.
type mean struct{ mistake string }

var taps = [3]float32{0.5, 0.3, 0.2}

func (mean) Apply(x *tensor.Tensor) *tensor.Tensor {
	w, c := x.W(), x.C()
	return host(x, x.H(), w, func(out, in []float32) {
		for i := range out {
			row, col, ch := i/(w*c), i/c%w, i%c
			for k, v := range taps {
				j := min(max(col+k-1, 0), w-1)
				out[i] += v * in[(row*w+j)*c+ch]
			}
		}
	})
}

func (m mean) VJP(_, r *tensor.Tensor) *tensor.Tensor {
	w, c := r.W(), r.C()
	if m.mistake == "identity" {
		return r
	}
	return host(r, r.H(), w, func(out, in []float32) {
		for i, v := range in {
			row, col, ch := i/(w*c), i/c%w, i%c
			for k, tap := range taps {
				j := col + k - 1
				switch {
				case m.mistake == "not transposed":
					out[i] += taps[2-k] * in[(row*w+min(max(col+k-1, 0), w-1))*c+ch]
					continue
				case m.mistake == "no fold" && (j < 0 || j >= w):
					continue
				}
				j = min(max(j, 0), w-1)
				switch m.mistake {
				case "sign":
					tap = -tap
				case "scale":
					tap *= 4
				case "zero":
					tap = 0
				}
				out[(row*w+j)*c+ch] += tap * v
			}
		}
	})
}

func (mean) IsLinear() bool { return true }

// bounded claims a Lipschitz constant, preconditioned and proximal other things.
type bounded struct {
	mean
	bound float64
}

func (b bounded) Lipschitz() float64 { return b.bound }

type proximal struct{ mean }

func (proximal) Prox(x0, _ *tensor.Tensor, _ float64) *tensor.Tensor { return x0 }

type preconditioned struct{ mean }

func (p preconditioned) Precondition(r *tensor.Tensor, _ float64) *tensor.Tensor { return p.Apply(r) }

// curve is a nonlinear operator, element by element.
type curve struct {
	f, slope func(x float64) float64
}

func (c curve) Apply(x *tensor.Tensor) *tensor.Tensor {
	return host(x, x.H(), x.W(), func(out, in []float32) {
		for i, v := range in {
			out[i] = float32(c.f(float64(v)))
		}
	})
}

func (c curve) VJP(x, r *tensor.Tensor) *tensor.Tensor {
	at, _ := x.Floats()
	d, _ := r.Floats()
	for i := range d {
		d[i] *= float32(c.slope(float64(at[i])))
	}
	return r.Device().From(d, r.N(), r.H(), r.W(), r.C())
}

var clipping = curve{
	f:     func(x float64) float64 { return min(max(2*x, -1), 1) },
	slope: func(x float64) float64 { return map[bool]float64{true: 2}[math.Abs(x) < 0.5] },
}

// exposure clips 2x, and where the measurement is saturated its misfit has one side.
type exposure struct {
	curve
	sign float64
}

func (e exposure) Misfit(x, y *tensor.Tensor) *tensor.Tensor {
	z, _ := x.Floats()
	m, _ := y.Floats()
	for i := range z {
		r := 2*z[i] - m[i]
		if m[i] >= 1 {
			r = min(r, 0)
		} else if m[i] <= -1 {
			r = max(r, 0)
		}
		z[i] = r
	}
	return x.Device().From(z, x.N(), x.H(), x.W(), x.C())
}

func (e exposure) MisfitVJP(_, r *tensor.Tensor) *tensor.Tensor {
	return r.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: r, C: 2 * e.sign}}})
}

// half keeps every second row, and may not say so.
type half struct{}

func (half) Apply(x *tensor.Tensor) *tensor.Tensor {
	return host(x, (x.H()+1)/2, x.W(), func(out, in []float32) {
		row := x.W() * x.C()
		for i := range out {
			out[i] = in[i/row*2*row+i%row]
		}
	})
}

func (half) VJP(x, r *tensor.Tensor) *tensor.Tensor {
	return host(r, height, r.W(), func(out, in []float32) {
		row := r.W() * r.C()
		for i := range in {
			out[i/row*2*row+i%row] = in[i]
		}
	})
}
func (half) IsLinear() bool { return true }

type sized struct {
	half
	h int
}

func (s sized) ImageShape(y [4]int) [4]int { return [4]int{y[0], s.h, y[2], y[3]} }

// batched looks at its neighbours, counting remembers, greedy writes its argument.
type batched struct{ curve }

func (batched) Apply(x *tensor.Tensor) *tensor.Tensor {
	v, _ := x.Floats()
	most := 0.0
	for _, e := range v {
		most = max(most, math.Abs(float64(e)))
	}
	for i := range v {
		v[i] /= float32(most)
	}
	return x.Device().From(v, x.N(), x.H(), x.W(), x.C())
}

type counting struct {
	solver.Denoise
	calls *int
}

func (c counting) Apply(x *tensor.Tensor) *tensor.Tensor {
	*c.calls++
	return x.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1 + 0.1*float64(*c.calls)}}})
}

type greedy struct{ solver.Denoise }

func (greedy) Apply(x *tensor.Tensor) *tensor.Tensor {
	return x.Device().Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 2}}})
}

type shifted struct{ solver.Denoise }

func (shifted) Apply(x *tensor.Tensor) *tensor.Tensor {
	return host(x, x.H(), x.W(), func(out, in []float32) {
		for i, v := range in {
			out[i] = v + 0.5
		}
	})
}

type panicking struct{ solver.Denoise }

func (panicking) Apply(*tensor.Tensor) *tensor.Tensor {
	tensor.Fail("mine.Apply", "no such size")
	return nil
}

func cube(x float64) float64 { return x * x * x }

func verify(t *testing.T, op solver.Operator, seed uint64) error {
	d := tensor.NewDevice(ref.Open())
	defer func() { require.NoError(t, d.Close()) }()
	return optest.Verify(d, op, height, width, channels, optest.Options{Seed: seed})
}

func TestGoodOperators(t *testing.T) {
	for name, op := range map[string]solver.Operator{
		"mean":            mean{},
		"bounded":         bounded{mean{}, 1.5},
		"fewer rows":      sized{half{}, height},
		"cube":            curve{cube, func(x float64) float64 { return 3 * x * x }},
		"clipping":        clipping,
		"one-sided":       exposure{clipping, 1},
		"magnitude":       curve{math.Abs, func(x float64) float64 { return math.Copysign(1, x) }},
		"denoise":         solver.Denoise{},
		"steep and small": curve{func(x float64) float64 { return math.Tanh(5 * x) }, func(x float64) float64 { return 5 / (math.Cosh(5*x) * math.Cosh(5*x)) }},
	} {
		for seed := range uint64(30) {
			require.NoError(t, verify(t, op, seed), "%s, seed %d", name, seed)
		}
	}
}

// Every mistake is found, and named.
func TestMistakes(t *testing.T) {
	calls := 0
	for name, c := range map[string]struct {
		op   solver.Operator
		says string
	}{
		"sign":           {mean{"sign"}, "opposite sign"},
		"scale":          {mean{"scale"}, "VJP is 4 times what it should be: a scale is missing"},
		"no fold":        {mean{"no fold"}, "not at its borders: fold"},
		"identity":       {mean{"identity"}, "returns its argument unchanged"},
		"zero":           {mean{"zero"}, "zero everywhere"},
		"not transposed": {mean{"not transposed"}, "the transpose of A gives"},
		"offset":         {shifted{}, "A(0) is 0.5"},
		"bound":          {bounded{mean{}, 0.3}, "Lipschitz is 0.3, but |A u|^2/|u|^2 is"},
		"no bound":       {bounded{mean{}, math.NaN()}, "Lipschitz is NaN"},
		"prox":           {proximal{mean{}}, "Prox(x0, y, 0.01) is not the minimum"},
		"precondition":   {preconditioned{mean{}}, "Precondition is not symmetric"},
		"no Sizer":       {half{}, "must be a Sizer"},
		"wrong Sizer":    {sized{half{}, height + 1}, "ImageShape([2 4 9 2]) is [2 8 9 2]"},
		"batch":          {batched{curve{slope: math.Abs}}, "depends on the other images of the batch"},
		"state":          {counting{calls: &calls}, "must not keep state"},
		"argument":       {greedy{}, "Apply changed its argument 1"},
		"panic":          {panicking{}, "no such size"},

		"nonlinear sign":  {curve{cube, func(x float64) float64 { return -3 * x * x }}, "opposite sign"},
		"nonlinear scale": {curve{cube, func(x float64) float64 { return x * x }}, "0.3333 times"},
		"nonlinear slope": {curve{cube, math.Abs}, "not the transposed Jacobian"},
		"no slope":        {curve{cube, func(float64) float64 { return 0 }}, "VJP is zero"},
		"small error":     {curve{cube, func(x float64) float64 { return 3*x*x + 0.02 }}, "not the transposed Jacobian"},
		"rounding":        {curve{func(x float64) float64 { return math.Round(4*x) / 4 }, func(float64) float64 { return 1 }}, "does not change at all"},
		"noise":           {curve{func(x float64) float64 { return math.Sin(1e6 * x) }, func(x float64) float64 { return 1e6 * math.Cos(1e6*x) }}, "needs a Misfit"},
		"not finite":      {curve{math.Sqrt, func(x float64) float64 { return x }}, "Apply of finite values has the value NaN"},
		"misfit":          {exposure{clipping, -0.5}, "its sign and its scale are wrong"},
		"falsely linear":  {struct{ falselyLinear }{}, "A(0.75a-1.5b)"},
	} {
		for seed := range uint64(10) {
			require.ErrorContains(t, verify(t, c.op, seed), c.says, "%s, seed %d", name, seed)
		}
	}
}

type falselyLinear struct{}

func (falselyLinear) Apply(x *tensor.Tensor) *tensor.Tensor  { return curve{f: cube}.Apply(x) }
func (falselyLinear) VJP(_, r *tensor.Tensor) *tensor.Tensor { return r }
func (falselyLinear) IsLinear() bool                         { return true }

// recorder is a test that is expected to fail.
type recorder struct {
	testing.TB
	errors []any
}

func (r *recorder) Helper()           {}
func (r *recorder) Error(args ...any) { r.errors = append(r.errors, args...) }

func TestCheckReports(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	defer d.Close()
	r := &recorder{TB: t}
	optest.Check(r, d, mean{"sign"}, height, width, channels, optest.Options{})
	require.Len(t, r.errors, 1)
	require.ErrorContains(t, r.errors[0].(error), "optest_test.mean: VJP is not the adjoint of Apply: <A u, v> is")
	r.errors = nil
	optest.Check(r, d, mean{}, height, width, channels, optest.Options{})
	require.Empty(t, r.errors)
	optest.Check(r, nil, mean{}, height, width, channels, optest.Options{})
	require.Len(t, r.errors, 1)
	require.Zero(t, d.Stats().Live, "tensors are left on the device")
	var e *tensor.Error
	require.False(t, errors.As(r.errors[0].(error), &e))
}
