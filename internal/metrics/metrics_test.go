package metrics

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
)

// scatter is a repeatable noise in [-1, 1] with 256 levels (Knuth's
// multiplicative hash), which the Python below computes as well.
func scatter(i int) float64 {
	return float64(uint32(uint64(i)*2654435761)>>24)/127.5 - 1
}

// The expected figures of this file come from scikit-image 0.26.0 with numpy
// 2.4.6:
//
//	from skimage.metrics import structural_similarity as ssim, peak_signal_noise_ratio as psnr
//	noise = lambda a: (np.arange(a.size, dtype=np.uint64).reshape(a.shape)*2654435761 % 2**32 >> 24)/127.5 - 1
//	unit = lambda v: (np.clip(v.astype(np.float32).astype(np.float64), -1, 1) + 1)/2
//	psnr(unit(a), unit(b), data_range=1)
//	ssim(unit(a), unit(b), channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
func check(t *testing.T, a, b []float32, w, h int, wantPSNR, wantSSIM float64) {
	t.Helper()
	require.InDelta(t, wantPSNR, PSNR(a, b), 1e-5)
	got, err := SSIM(a, b, w, h, 3)
	require.NoError(t, err)
	require.InDelta(t, wantSSIM, got, 1e-6)
}

// a = sin(x/5) cos(y/7+c), b = a + 0.4 noise, 40x29.
func TestFigures(t *testing.T) {
	const w, h = 40, 29
	var a, b []float32
	for i := range w * h * 3 {
		x, y, c := i/3%w, i/3/w, i%3
		v := math.Sin(float64(x)/5) * math.Cos(float64(y)/7+float64(c))
		a = append(a, float32(v))
		b = append(b, float32(v+0.4*scatter(i)))
	}
	check(t, a, b, w, h, 19.037267563, 0.527845318)

	var green, other []float32
	for i := 1; i < len(a); i += 3 {
		green, other = append(green, a[i]), append(other, b[i])
	}
	for _, c := range []struct {
		form        Form
		color, gray float64
	}{
		// gaussian_weights=True, sigma=1.5, use_sample_covariance=False; the same with True; win_size=7
		{Gaussian, 0.5278453184609081, 0.5389968619818165},
		{GaussianSample, 0.5276893726974555, 0.5388448896569593},
		{Uniform, 0.6455370743670624, 0.6414438001779171},
		{Form{"uniform7-population", uniform(7), false}, 0.6457563699626494, 0.6416680593208917},
	} {
		got, err := c.form.SSIM(a, b, w, h, 3)
		require.NoError(t, err)
		require.InDelta(t, c.color, got, 1e-6, c.form.Name)
		got, err = c.form.SSIM(green, other, w, h, 1)
		require.NoError(t, err)
		require.InDelta(t, c.gray, got, 1e-6, c.form.Name)
	}
}

// a = photo/127.5 - 1, b = a + 0.5 noise. The photos are not part of the
// repository; SPIN_SHARED names the folder that holds them.
func TestPhotos(t *testing.T) {
	dir := os.Getenv("SPIN_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	for _, c := range []struct {
		name       string
		psnr, ssim float64
	}{
		{"astronaut_256", 17.2725630, 0.2360488},
		{"cat_256", 16.8894067, 0.2016967},
		{"coffee_256", 17.6789917, 0.2179751},
		{"coffee_600x400", 17.5049934, 0.1953305},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, "photos", c.name+".png")
			if _, err := os.Stat(path); err != nil {
				t.Skip("no test photos; set SPIN_SHARED")
			}
			m, err := imagefile.Read(path, imagefile.Limits{})
			require.NoError(t, err)
			b := make([]float32, len(m.Pix))
			for i, v := range m.Pix {
				b[i] = float32(float64(v) + 0.5*scatter(i))
			}
			check(t, m.Pix, b, m.W, m.H, c.psnr, c.ssim)
		})
	}
}

func TestEqualAndClipped(t *testing.T) {
	a := make([]float32, 11*11)
	b := make([]float32, 11*11)
	for i := range a {
		a[i], b[i] = 1, 7 // the same after clipping
	}
	require.Equal(t, math.Inf(1), PSNR(a, b))
	s, err := SSIM(a, b, 11, 11, 1)
	require.NoError(t, err)
	require.InDelta(t, 1, s, 1e-12)
	a[0] = float32(math.NaN())
	require.True(t, math.IsNaN(PSNR(a, b)), "NaN must not pass for a figure")
}

func TestRefuses(t *testing.T) {
	_, err := SSIM(make([]float32, 100), make([]float32, 100), 10, 10, 1)
	require.ErrorContains(t, err, "at least 11x11")
	_, err = SSIM(make([]float32, 100), make([]float32, 99), 10, 10, 1)
	require.ErrorContains(t, err, "expected 10x10x1")
	require.Panics(t, func() { PSNR(make([]float32, 2), make([]float32, 3)) })
}

func BenchmarkSSIM(b *testing.B) {
	const n = 512
	x, y := make([]float32, n*n*3), make([]float32, n*n*3)
	for i := range x {
		x[i], y[i] = float32(scatter(i)), float32(scatter(i+1))
	}
	for b.Loop() {
		SSIM(x, y, n, n, 3)
	}
}
