package solver

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoiseModels: means and variances are those of the laws, and a value's noise depends on its place alone.
func TestNoiseModels(t *testing.T) {
	const n = 200_000
	for _, c := range []struct {
		model    NoiseModel
		u        float64
		variance float64 // of u
	}{
		{NoiseModel{"poisson", 4}, 0.5, 0.5 / 4}, {NoiseModel{"poisson", 10}, 0.01, 0.01 / 10}, {NoiseModel{"poisson", 20}, 0.7, 0.7 / 20},
		{NoiseModel{"poisson", 100}, 1, 1. / 100}, {NoiseModel{"poisson", 1e5}, 0.3, 0.3 / 1e5}, {NoiseModel{"poisson", 50}, 0, 0},
		{NoiseModel{"speckle", 0.2}, 0.5, 0.01}, {NoiseModel{"speckle", 1}, 0.25, 0.0625},
	} {
		y := make([]float32, n)
		for i := range y {
			y[i] = float32(2*c.u - 1)
		}
		require.NoError(t, c.model.Apply(y, 7, 3))
		var mean, square float64
		for _, v := range y {
			u := (float64(v) + 1) / 2
			mean += u / n
			square += u * u / n
			if c.model.Kind == "poisson" {
				require.InDelta(t, math.Round(u*c.model.Level), u*c.model.Level, 1e-7*c.model.Level+1e-6, "a whole number of photons")
			}
		}
		sd := math.Sqrt(c.variance)
		require.InDelta(t, c.u, mean, 5*sd/math.Sqrt(n)+1e-6, "%+v", c)
		require.InDelta(t, c.variance, square-mean*mean, 0.02*c.variance+1e-6, "%+v", c)

		again := make([]float32, n/2) // fewer values: the same noise
		for i := range again {
			again[i] = float32(2*c.u - 1)
		}
		require.NoError(t, c.model.Apply(again, 7, 3))
		require.Equal(t, y[:n/2], again)
		require.NoError(t, c.model.Apply(again, 8, 3))
		if c.u > 0 {
			require.NotEqual(t, y[:n/2], again)
		}
	}
	for _, m := range []NoiseModel{{"rain", 1}, {"poisson", 0}, {"poisson", math.NaN()}, {"poisson", 1e12}, {"speckle", -1}} {
		require.Error(t, m.Apply([]float32{0}, 1, 1), "%+v", m)
	}
}

// TestPoissonLaw: the frequencies of single numbers on both sides of the change of method.
func TestPoissonLaw(t *testing.T) {
	for _, mean := range []float64{0.5, 11.5, 12.5, 40} {
		const n = 100_000
		y := make([]float32, n)
		for i := range y {
			y[i] = 1
		}
		m := NoiseModel{"poisson", mean}
		require.NoError(t, m.Apply(y, 1, 0))
		seen := map[int]float64{}
		for _, v := range y {
			seen[int(math.Round((float64(v)+1)/2*mean))]++
		}
		for k := range int(mean + 4*math.Sqrt(mean)) {
			gamma, _ := math.Lgamma(float64(k) + 1)
			p := math.Exp(float64(k)*math.Log(mean) - mean - gamma)
			require.InDelta(t, p, seen[k]/n, 5*math.Sqrt(p/n)+1e-4, "mean %v, %d", mean, k)
		}
	}
}

// TestWeighted: what is measured with noise of its own everywhere becomes a problem of equal noise: the residuals of the truth
// have the deviation sigma, in the dark and in the light, and the run explains the measurement.
func TestWeighted(t *testing.T) {
	d := device(t)
	const h, w = 24, 32
	truth := make([]float32, 3*h*w)
	for i := range truth {
		truth[i] = -0.9 + 1.8*float32(i%w)/w
	}
	for _, model := range []NoiseModel{{"poisson", 60}, {"speckle", 0.15}} {
		for _, spec := range []Spec{{Kind: "denoise"}, {Kind: "hdr", Numbers: map[string]float64{"gain": 1.05, "sigma": 0.05}}} {
			m := &Measurement{Y: append([]float32(nil), truth...), Shape: [4]int{1, 3, h, w}, Image: [3]int{3, h, w}, Operator: spec, Noise: model}
			require.NoError(t, model.Apply(m.Y, 5, 0))
			path := filepath.Join(t.TempDir(), "y.safetensors")
			require.NoError(t, m.Save(path))
			back, err := LoadMeasurement(path)
			require.NoError(t, err)
			require.Equal(t, m, back)

			live := d.Stats().Live
			p, err := m.Problem(d)
			require.NoError(t, err)
			if spec.Kind == "denoise" {
				nhwc := make([]float32, len(truth))
				for i := range nhwc {
					nhwc[i] = truth[i%3*h*w+i/3]
				}
				r := floats(t, subtract(p.Operator.Apply(d.From(nhwc, 1, h, w, 3)), p.Y))
				var dark, light float64
				for i, v := range r {
					if i/3%w < w/2 {
						dark += float64(v) * float64(v) / float64(len(r)/2)
					} else {
						light += float64(v) * float64(v) / float64(len(r)/2)
					}
				}
				require.InDelta(t, 1, dark/(p.Sigma*p.Sigma), 0.25, "%+v", model)
				require.InDelta(t, 1, light/(p.Sigma*p.Sigma), 0.25, "%+v", model)
			}
			prior := &gaussianPrior{s: Linear(1000, 1e-4, 0.02), mu: make([]float32, len(truth)), variance: make([]float32, len(truth))}
			for i := range prior.variance {
				prior.variance[i] = 0.3
			}
			res, err := Spin(context.Background(), p, prior, Settings{Calls: 8})
			require.NoError(t, err)
			require.Less(t, res.Residual[0], 1.3)
			res.X0.Free()
			p.Y.Free()
			Release(p.Operator)
			if spec.Kind != "denoise" {
				require.Equal(t, live, d.Stats().Live)
			}
		}
	}
}
