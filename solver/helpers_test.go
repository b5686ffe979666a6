package solver

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/tensor"
)

func device(t testing.TB) *tensor.Device {
	d := tensor.NewDevice(ref.Open())
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func floats(t testing.TB, x *tensor.Tensor) []float32 {
	t.Helper()
	v, err := x.Floats()
	require.NoError(t, err)
	return v
}

func random(d *tensor.Device, rng *rand.Rand, shape [4]int) *tensor.Tensor {
	v := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return d.From(v, shape[0], shape[1], shape[2], shape[3])
}

// maxAbs requires |got - want| <= bound for every element.
func maxAbs(t testing.TB, what string, got, want []float32, bound float64) {
	t.Helper()
	require.Len(t, got, len(want), what)
	worst, at := 0.0, 0
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= bound) {
		t.Errorf("%s: element %d is %v, expected %v: off by %.3g, allowed %.3g", what, at, got[at], want[at], worst, bound)
	}
}

func largest(v []float32) float64 {
	m := 0.0
	for _, x := range v {
		m = max(m, math.Abs(float64(x)))
	}
	return m
}

// gaussianPrior is the exact denoiser of the prior N(mu, diag S):
//
//	D(x,t) = clip( mu + S sqrt(abar)/(abar S + 1 - abar) (x - sqrt(abar) mu), -1, 1 )
type gaussianPrior struct {
	s             *Schedule
	mu, variance  []float32 // of one image, repeated over the batch
	calls, broken int       // in call number broken the first image becomes NaN
	wide          bool      // without the clip
}

// at is the clean estimate of element i, not clipped.
func (g *gaussianPrior) at(i int, x, a float64) float64 {
	mu, s := float64(g.mu[i%len(g.mu)]), float64(g.variance[i%len(g.mu)])
	return mu + s*math.Sqrt(a)/(a*s+1-a)*(x-math.Sqrt(a)*mu)
}

func (g *gaussianPrior) Denoise(xt *tensor.Tensor, t int) *tensor.Tensor {
	g.calls++
	data, err := xt.Floats()
	if err != nil {
		tensor.FailWith("test", err, "denoiser")
	}
	a := g.s.AlphaBar(t)
	for i, x := range data {
		v := g.at(i, float64(x), a)
		if !g.wide {
			v = min(max(v, -1), 1)
		}
		data[i] = float32(v)
	}
	if g.calls == g.broken {
		data[0] = float32(math.NaN())
	}
	return xt.Device().From(data, xt.N(), xt.H(), xt.W(), xt.C())
}
