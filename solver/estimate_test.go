package solver

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/testkit"
)

func TestChiSquareQuantile(t *testing.T) {
	// Quantiles of chi-square from tables, over k.
	for _, c := range []struct {
		share float64
		k     int
		want  float64
	}{{0.05, 16, 7.962}, {0.5, 16, 15.338}, {0.1, 30, 20.599}, {0.95, 30, 43.773}, {0.1, 60, 46.459}} {
		require.InEpsilon(t, c.want, float64(c.k)*chiSquareQuantile(c.share, c.k), 2e-3, c)
	}
}

// flat is a measurement of nothing but noise of level 1/10 around a smooth picture.
func flat(t *testing.T, spec Spec, h, w int, grey bool) *Measurement {
	t.Helper()
	out, err := spec.Check(h, w, 3)
	require.NoError(t, err)
	m := &Measurement{Shape: [4]int{1, out[2], out[0], out[1]}, Image: [3]int{3, h, w}, Operator: spec, Sigma: 0.1}
	n := make([]float32, out[0]*out[1]*out[2])
	NewNoise(5).Normal(n, 0, 0)
	size := out[0] * out[1]
	for i := range n {
		v := n[i]
		if grey {
			v = n[i%size]
		}
		m.Y = append(m.Y, float32(0.3*math.Sin(float64(i%size%out[1])/50))+0.1*v)
	}
	return m
}

func TestEstimateNoise(t *testing.T) {
	random, err := RandomMask(192, 192, 0.7, 1)
	require.NoError(t, err)
	sparse, err := RandomMask(96, 96, 0.97, 1)
	require.NoError(t, err)
	k, err := GaussianKernel(9, 2)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		spec Spec
		grey bool
		from string
	}{
		"denoise": {spec: Spec{Kind: "denoise"}, from: "colour"},
		"grey":    {spec: Spec{Kind: "denoise"}, grey: true, from: "brightness"},
		"gray":    {spec: Spec{Kind: "gray"}, from: "brightness"},
		"blur":    {spec: Spec{Kind: "blur", Kernel: k}, from: "colour"},
		"mask":    {spec: Spec{Kind: "inpaint", Masks: []*Mask{random}}, from: "colour"},
		"chain":   {spec: Spec{Kind: "compose", Parts: []Spec{{Kind: "blur", Kernel: k}, {Kind: "downsample", Factor: 2}}}, from: "colour"},
	} {
		t.Run(name, func(t *testing.T) {
			m := flat(t, c.spec, 192, 192, c.grey)
			if m.Operator.Masks != nil {
				for i, known := range m.Operator.Masks[0].Known { // what lies in the holes changes nothing
					if !known {
						m.Y[i], m.Y[i+192*192] = 1, -1
					}
				}
			}
			e, err := EstimateNoise(m)
			require.NoError(t, err)
			require.Equal(t, c.from, e.From)
			require.LessOrEqual(t, e.Low, 0.1, e)
			require.GreaterOrEqual(t, e.High, 0.1*0.98, e) // 95 per cent are not all
			// A group's mean has the deviation sqrt(2/k), its root half of that; the quantile of few groups moves by more.
			require.InDelta(t, 0.1, e.Sigma, 0.1*0.12, e)
		})
	}
	_, err = EstimateNoise(flat(t, Spec{Kind: "inpaint", Masks: []*Mask{sparse}}, 96, 96, false))
	require.ErrorContains(t, err, "too few of them are known")
	_, err = EstimateNoise(&Measurement{})
	require.Error(t, err)
}

// Doubling the measurement doubles the estimate, up to rounding.
func TestEstimateNoiseScales(t *testing.T) {
	m := flat(t, Spec{Kind: "denoise"}, 64, 64, false)
	one, err := EstimateNoise(m)
	require.NoError(t, err)
	for i := range m.Y {
		m.Y[i] *= 2
	}
	two, err := EstimateNoise(m)
	require.NoError(t, err)
	require.InEpsilon(t, 2*one.Sigma, two.Sigma, 1e-6)
}

// Photos: the figures of docs/trust.md, 10 per cent where noise is strong and 20 per cent above its texture where it is weak.
func TestEstimateNoiseOfPhotos(t *testing.T) {
	d := device(t)
	for _, name := range []string{"astronaut", "cat", "coffee", "rocket"} {
		pic, err := imagefile.Read(testkit.Shared(t, "photos", name+"_256.png"), imagefile.Limits{})
		require.NoError(t, err)
		x := d.From(pic.Pix, 1, pic.H, pic.W, 3)
		for _, sigma := range []float64{0, 0.02, 0.1} {
			y, err := Measure(Denoise{}, x, sigma, 3, 0)
			require.NoError(t, err)
			m := &Measurement{Y: planes(floats(t, y), 3), Shape: [4]int{1, 3, pic.H, pic.W}, Image: [3]int{3, pic.H, pic.W}, Operator: Spec{Kind: "denoise"}}
			e, err := EstimateNoise(m)
			require.NoError(t, err)
			require.InDelta(t, sigma, e.Sigma, max(0.008, 0.1*sigma), "%s, sigma %v", name, sigma)
			require.LessOrEqual(t, e.Low, 1.02*sigma, "%s, sigma %v", name, sigma)
		}
	}
}

// planes sorts an interleaved picture by channels.
func planes(v []float32, c int) []float32 {
	out := make([]float32, len(v))
	for i, x := range v {
		out[i%c*(len(v)/c)+i/c] = x
	}
	return out
}
