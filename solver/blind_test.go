package solver

import (
	"math"
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/tensor"
)

// leaves is a picture of opaque discs of all sizes over each other, whose edges and spectra are much like those of photos.
func leaves(side int, seed uint64) []float32 {
	const fine = 3
	rng := rand.New(rand.NewPCG(seed, 1))
	n := side * fine
	big := make([][3]float64, n*n)
	for range 1500 {
		r := 2 * fine / math.Sqrt(rng.Float64()+1e-3) // areas of equal weight in every octave
		y, x := rng.Float64()*float64(n), rng.Float64()*float64(n)
		grey := 1.6*rng.Float64() - 0.8
		colour := [3]float64{grey + 0.2*(rng.Float64()-0.5), grey, grey + 0.2*(rng.Float64()-0.5)}
		for i := max(int(y-r), 0); i < min(int(y+r)+1, n); i++ {
			for j := max(int(x-r), 0); j < min(int(x+r)+1, n); j++ {
				if math.Hypot(float64(i)-y, float64(j)-x) < r {
					big[i*n+j] = colour
				}
			}
		}
	}
	out := make([]float32, 3*side*side)
	for i, v := range big {
		for c := range 3 {
			out[(i/n/fine*side+i%n/fine)*3+c] += float32(v[c] / (fine * fine))
		}
	}
	return out
}

// blurredLeaves is a measurement of them.
func blurredLeaves(t *testing.T, d *tensor.Device, side int, k *BlurKernel, sigma float64) *Measurement {
	t.Helper()
	defer d.Tidy()()
	spec := Spec{Kind: "blur", Kernel: k}
	op, err := spec.Build(d, side, side, 3)
	require.NoError(t, err)
	defer Release(op)
	m, _, err := NoiseModel{}.Simulate(op, spec, d.From(leaves(side, 7), 1, side, side, 3), sigma, 3)
	require.NoError(t, err)
	return m
}

func TestEstimateBlur(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("takes minutes on the reference's loops, of which it shows nothing")
	}
	d := device(t)
	made := func(k *BlurKernel, err error) *BlurKernel {
		require.NoError(t, err)
		return k
	}
	point := made(NewKernel(1, 1, []float32{1}))
	for name, c := range map[string]struct {
		kernel      *BlurKernel
		sigma       float64
		family      BlurFamily
		size, angle float64
	}{
		"gaussian":       {made(GaussianKernel(31, 1.5)), 0.01, GaussianBlur, 1.5, 0},
		"gaussian noise": {made(GaussianKernel(31, 3)), 0.05, GaussianBlur, 3, 0},
		"disc":           {made(DiscKernel(4)), 0.02, DiscBlur, 4, 0},
		"line":           {made(LineKernel(12, 60)), 0.02, LineBlur, 12, 60},
		"level line":     {made(LineKernel(9, 0)), 0.01, LineBlur, 9, 0},
		"none":           {point, 0.01, "", 0, 0},
		"none noise":     {point, 0.05, "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := EstimateBlur(d, blurredLeaves(t, d, 160, c.kernel, c.sigma))
			require.NoError(t, err)
			require.GreaterOrEqual(t, e.Confidence, LowConfidence, e.Text)
			require.NotEqual(t, "low", e.Word)
			require.Equal(t, c.size == 0, e.None, e.Text)
			if c.size == 0 {
				require.Contains(t, e.Text, "no blur")
				return
			}
			require.Equal(t, c.family, e.Family, e.Text)
			require.Less(t, e.Low, c.size, e.Text)
			require.Greater(t, e.High, c.size, e.Text)
			require.Less(t, e.High-e.Low, 0.4*c.size, "an interval that says something: %s", e.Text)
			turned := math.Abs(math.Mod(e.Angle-c.angle+270, 180) - 90)
			require.LessOrEqual(t, turned, e.AngleError, e.Text)
			k, err := e.Kernel()
			require.NoError(t, err)
			require.NoError(t, k.check())
		})
	}

	t.Run("no family", func(t *testing.T) {
		e, err := EstimateBlur(d, blurredLeaves(t, d, 160, made(MotionKernel(25, 0.6, 4)), 0.01))
		require.NoError(t, err)
		require.Equal(t, "low", e.Word, e.Text)
	})
	t.Run("more noise than told", func(t *testing.T) {
		m := blurredLeaves(t, d, 160, made(GaussianKernel(31, 2)), 0.03)
		m.Sigma = 0.01
		e, err := EstimateBlur(d, m)
		require.NoError(t, err)
		require.Equal(t, GaussianBlur, e.Family)
		require.InEpsilon(t, 2, e.Size, 0.15, e.Text)
		require.InEpsilon(t, 0.03, e.Noise, 0.1)
	})
	t.Run("nothing but noise", func(t *testing.T) {
		m := &Measurement{Shape: [4]int{1, 3, 128, 128}, Image: [3]int{3, 128, 128}, Operator: Spec{Kind: "denoise"}, Sigma: 0.1, Y: make([]float32, 3*128*128)}
		NewNoise(5).Normal(m.Y, 0, 0)
		for i := range m.Y {
			m.Y[i] *= 0.1
		}
		e, err := EstimateBlur(d, m)
		require.NoError(t, err)
		require.Equal(t, "low", e.Word, e.Text)
		clear(m.Y)
		e, err = EstimateBlur(d, m)
		require.NoError(t, err)
		require.Equal(t, "low", e.Word, e.Text)
		m.Sigma = 0
		e, err = EstimateBlur(d, m)
		require.NoError(t, err)
		require.Equal(t, "low", e.Word, e.Text)
	})
	t.Run("one family", func(t *testing.T) {
		e, err := EstimateBlur(d, blurredLeaves(t, d, 160, made(DiscKernel(4)), 0.02), GaussianBlur)
		require.NoError(t, err)
		require.Equal(t, GaussianBlur, e.Family)
		require.Empty(t, e.Next)
	})
	t.Run("one channel", func(t *testing.T) {
		m := blurredLeaves(t, d, 160, made(GaussianKernel(31, 2)), 0.02)
		m.Y, m.Shape, m.Image = m.Y[:160*160], [4]int{1, 1, 160, 160}, [3]int{1, 160, 160}
		e, err := EstimateBlur(d, m)
		require.NoError(t, err)
		require.Equal(t, GaussianBlur, e.Family)
		require.InEpsilon(t, 2, e.Size, 0.15, e.Text)
		again, err := EstimateBlur(d, m)
		require.NoError(t, err)
		require.Equal(t, e, again)
		require.Zero(t, d.Stats().Live, "nothing stays on the device")
	})
}

func TestEstimateBlurRefuses(t *testing.T) {
	d := device(t)
	m := &Measurement{Shape: [4]int{1, 3, 96, 95}, Image: [3]int{3, 96, 95}, Operator: Spec{Kind: "denoise"}, Y: make([]float32, 3*96*95)}
	_, err := EstimateBlur(d, m)
	require.ErrorContains(t, err, "95 x 96 pixels")
	m.Y[7] = float32(math.NaN())
	_, err = EstimateBlur(d, m)
	require.ErrorContains(t, err, "NaN")
	m = &Measurement{Shape: [4]int{1, 3, 96, 96}, Image: [3]int{3, 192, 192}, Operator: Spec{Kind: "downsample", Factor: 2}, Y: make([]float32, 3*96*96)}
	_, err = EstimateBlur(d, m)
	require.ErrorContains(t, err, "give the kernel")
	m = &Measurement{Shape: [4]int{1, 3, 96, 96}, Image: [3]int{3, 96, 96}, Operator: Spec{Kind: "denoise"}, Y: make([]float32, 3*96*96)}
	_, err = EstimateBlur(d, m, "box")
	require.ErrorContains(t, err, `"box"`)
	_, err = BlurEstimate{Family: "box"}.Kernel()
	require.ErrorContains(t, err, `"box"`)
}

// kernelMoments are the covariances of a kernel over rows and columns, rows counted upwards.
func kernelMoments(k *BlurKernel) (yy, yx, xx float64) {
	for i, v := range k.K {
		y, x := float64(k.H/2-i/k.W), float64(i%k.W-k.W/2)
		yy, yx, xx = yy+float64(v)*y*y, yx+float64(v)*y*x, xx+float64(v)*x*x
	}
	return yy, yx, xx
}

func TestDiscAndLineKernels(t *testing.T) {
	for _, r := range []float64{0.01, 0.3, 1, 2.5, 8} {
		k, err := DiscKernel(r)
		require.NoError(t, err)
		require.NoError(t, k.check())
		if r >= 2 { // smaller ones are no more than a few pixels
			yy, yx, xx := kernelMoments(k)
			require.InEpsilon(t, r*r/4+1./12, xx, 0.03, "a disc seen through pixels")
			require.InEpsilon(t, xx, yy, 1e-5)
			require.InDelta(t, 0, yx, 1e-6)
		}
	}
	for _, l := range []float64{3, 10, 25.5} {
		for _, angle := range []float64{0, 30, 90, 135, 200, -20} {
			k, err := LineKernel(l, angle)
			require.NoError(t, err)
			require.NoError(t, k.check())
			yy, yx, xx := kernelMoments(k)
			sin, cos := math.Sincos(angle * math.Pi / 180)
			along := yy*sin*sin + 2*yx*sin*cos + xx*cos*cos
			across := yy*cos*cos - 2*yx*sin*cos + xx*sin*sin
			require.InDelta(t, l*l/12, along, 0.26, "the pixels that share a point add up to 1/4")
			require.InDelta(t, 0.125, across, 0.13)
		}
	}
	for _, v := range []float64{0, -1, math.NaN(), math.Inf(1), 1e4} {
		_, err := DiscKernel(v)
		require.Error(t, err, v)
		_, err = LineKernel(v, 0)
		require.Error(t, err, v)
	}
	for _, angle := range []float64{math.NaN(), math.Inf(1), 361} {
		_, err := LineKernel(5, angle)
		require.Error(t, err, angle)
	}
}

// The transfer function is that of the kernel's sum; and the spectrum of filtered noise through the window is what the law says.
func TestSpectra(t *testing.T) {
	k, err := LineKernel(9, 30)
	require.NoError(t, err)
	got := transfer(k)
	for _, f := range [][2]int{{0, 0}, {1, 3}, {60, 17}, {32, 32}, {5, 63}} {
		var sum complex128
		for i, v := range k.K {
			sum += complex(float64(v), 0) * cmplx.Exp(complex(0, -2*math.Pi*float64(f[0]*(i/k.W)+f[1]*(i%k.W))/spectrumSide))
		}
		require.InDelta(t, real(sum)*real(sum)+imag(sum)*imag(sum), got[f[0]*spectrumSide+f[1]], 1e-12)
	}

	d := device(t)
	const side = 256
	noise := make([]float32, side*side)
	NewNoise(9).Normal(noise, 0, 0)
	op, err := NewBlur(d, side, side, k)
	require.NoError(t, err)
	y := floats(t, op.Apply(d.From(noise, 1, side, side, 1)))
	s, err := spectraOf(d, &Measurement{Y: y, Shape: [4]int{1, 1, side, side}, Image: [3]int{1, side, side}, Operator: Spec{Kind: "denoise"}})
	require.NoError(t, err)
	law := leaked(got)
	// Means of exponential numbers over squares and over groups of frequencies of like power.
	const groups = 8
	var sum, want, count [groups]float64
	for j, at := range s.at {
		g := min(int(-math.Log(law[at])), groups-1)
		for _, p := range s.power {
			sum[g] += p[j]
			want[g] += law[at]
			count[g]++
		}
	}
	for g := range groups {
		if n := count[g]; n > 200 {
			// Half-overlapping squares and neighbouring frequencies repeat each other: a quarter of the numbers are taken for
			// independent. Deep in the zeros the law on the grid of frequencies is off by a few per cent.
			require.InEpsilon(t, want[g], sum[g], 4/math.Sqrt(n/4)+0.05, "group %d of %v", g, n)
		}
	}
}
