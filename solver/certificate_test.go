package solver

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// residuals of a picture of h x w x 3, each value made by its row, column and a standard normal number.
func residuals(h, w int, of func(y, x int, n float64) float64) []float32 {
	rng := rand.New(rand.NewPCG(2, 7))
	r := make([]float32, h*w*3)
	for i := range r {
		r[i] = float32(of(i/3/w, i/3%w, rng.NormFloat64()))
	}
	return r
}

func TestCertifyNoise(t *testing.T) {
	const h, w, sigma = 64, 80, 0.05
	c := certify(residuals(h, w, func(_, _ int, n float64) float64 { return sigma * n }), nil, h, w, 3, sigma, h*w*3)
	require.Equal(t, Explains, c.Verdict)
	require.InDelta(t, math.Sqrt(2./(h*w*3)), c.Spread, 1e-12)
	require.InDelta(t, 1, c.ChiSquare, 5*c.Spread)
	require.InDelta(t, sigma, c.RMS, 3*sigma*c.Spread)
	for i, q := range normalQuantiles {
		// A sample quantile has the deviation sqrt(p(1-p)/n)/density; |n| has twice the normal density.
		p, density := quantileShares[i], 2*math.Exp(-q*q/2)/math.Sqrt(2*math.Pi)
		require.InDelta(t, q, c.Quantiles[i], 5*math.Sqrt(p*(1-p)/float64(c.Count))/density)
	}
	for _, n := range c.Neighbours {
		require.InDelta(t, 0, n, 5/math.Sqrt(h*w*3))
	}
	// The largest mean of 20 squares of 768 values, each 1 +- sqrt(2/768).
	require.InDelta(t, 1.1, c.Worst, 0.1)
}

func TestCertifyVerdicts(t *testing.T) {
	const h, w = 32, 48
	known := make([]float32, h*w*3)
	for i := range known {
		if i/3%w < w/2 {
			known[i] = 1
		}
	}
	white := func(scale float64) []float32 {
		return residuals(h, w, func(_, _ int, n float64) float64 { return scale * n })
	}
	for name, c := range map[string]struct {
		r       []float32
		known   []float32
		sigma   float64
		verdict Verdict
		text    string
	}{
		"three times the noise": {r: white(0.3), sigma: 0.1, verdict: Underfits, text: "off the measurement by 3 times its noise"},
		"half the noise":        {r: white(0.05), sigma: 0.1, verdict: Overfits, text: "follows the noise"},
		"most of the noise":     {r: white(0.086), sigma: 0.1, verdict: Explains, text: "follows a part"},
		"no level":              {r: white(0.1), sigma: 0, verdict: Untold, text: "off the measurement by 1"},
		"one corner": {r: residuals(h, w, func(y, x int, n float64) float64 {
			if y < 16 && x >= 32 {
				return 0.17 * n
			}
			return 0.09 * n
		}), sigma: 0.1, verdict: Explains, text: "around row 0, column 32"},
		"the rest is not measured": {r: residuals(h, w, func(_, x int, n float64) float64 {
			if x >= w/2 {
				n = 0
			}
			return 0.1 * n
		}), known: known, sigma: 0.1, verdict: Explains, text: "explains the measurement up to its noise"},
		"smoothed away": {r: residuals(h, w, func(y, x int, n float64) float64 {
			return 0.1 * (0.85*n + 1.2*math.Sin(float64(x)/4)*math.Cos(float64(y)/4))
		}), sigma: 0.1, verdict: Explains, text: "neighbouring residuals agree"},
		"nothing":    {r: white(1), known: make([]float32, h*w*3), sigma: 0.1, verdict: Untold, text: "nothing was measured"},
		"not finite": {r: white(math.Inf(1)), sigma: 0.1, verdict: Untold, text: "not finite"},
	} {
		t.Run(name, func(t *testing.T) {
			count := h * w * 3
			if c.known != nil {
				count /= 2
			}
			got := certify(c.r, c.known, h, w, 3, c.sigma, count)
			require.Equal(t, c.verdict, got.Verdict, got.Text)
			require.Contains(t, got.Text, c.text)
		})
	}
}

// The certificate of a run looks at what was measured only, and at each image alone.
func TestCertificateOfRun(t *testing.T) {
	d := device(t)
	for _, kind := range []string{"denoise", "inpaint", "downsample", "blur"} {
		p, prior := smallProblem(t, d, kind, 3)
		r, err := Spin(context.Background(), p, prior, Settings{Calls: 8})
		require.NoError(t, err)
		require.Len(t, r.Certificates, 3)
		for i, c := range r.Certificates {
			require.InEpsilon(t, r.Residual[i], c.ChiSquare, 1e-5, kind)
			require.Equal(t, p.Sigma, c.Sigma)
			require.NotEmpty(t, c.Text)
			alone, err := Spin(context.Background(), p.image(t, d, i), prior, Settings{Calls: 8, Options: Options{First: i}})
			require.NoError(t, err)
			require.Equal(t, alone.Certificates[0], c, kind)
		}
	}
}
