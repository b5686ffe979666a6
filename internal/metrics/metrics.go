// Package metrics measures how close a reconstruction is to the truth.
//
// Pictures are float32 in [-1, 1], RGB interleaved as in package imagefile. Both
// figures clip to [-1, 1] first and work on the scale [0, 1], in float64, before
// any rounding to 8 bits; so they can differ in the second decimal from figures
// taken from a saved PNG.
package metrics

import (
	"fmt"
	"math"
)

// unit maps [-1, 1] to [0, 1], clipped. NaN stays NaN, and so does the figure.
func unit(v float32) float64 { return (min(max(float64(v), -1), 1) + 1) / 2 }

// PSNR returns the peak signal-to-noise ratio in dB, 10 log10(1/mse), where mse is
// the mean over all pixels and channels. Equal pictures give +Inf.
// It panics if the lengths differ.
func PSNR(a, b []float32) float64 {
	if len(a) != len(b) || len(a) == 0 {
		panic(fmt.Sprintf("metrics: PSNR of %d and %d values", len(a), len(b)))
	}
	sum := 0.0
	for i, v := range a {
		d := unit(v) - unit(b[i])
		sum += d * d
	}
	return -10 * math.Log10(sum/float64(len(a)))
}

// Form is a variant of SSIM: a window, and how variances are taken under it. Papers mean one or the other and often do not say
// which, so figures should name it.
type Form struct {
	Name   string
	taps   []float64 // of the window along one axis, of sum 1
	sample bool      // variances with n/(n-1) for a window of n pixels, as of a sample
}

var (
	// Gaussian is the form of Wang et al. 2004: a Gaussian window of 11x11 with deviation 1.5 and the variances of a
	// population. In scikit-image: gaussian_weights=True, sigma=1.5, use_sample_covariance=False.
	Gaussian = Form{"gaussian", gaussian(5, 1.5), false}
	// GaussianSample is Gaussian with the variances of a sample, which is what scikit-image makes of gaussian_weights=True.
	GaussianSample = Form{"gaussian-sample", gaussian(5, 1.5), true}
	// Uniform is the default of scikit-image: a window of 7x7 equal weights, and the variances of a sample.
	Uniform = Form{"uniform7", uniform(7), true}
)

// SSIM returns the mean structural similarity of two pictures of w x h pixels with the given number of interleaved
// channels in the form Gaussian; see Form.SSIM.
func SSIM(a, b []float32, w, h, channels int) (float64, error) {
	return Gaussian.SSIM(a, b, w, h, channels)
}

// SSIM returns the mean structural similarity: K1 = 0.01, K2 = 0.03, data range 1. It is the mean over the channels and
// over the pixels whose window lies within the picture.
//
// Pictures with a side below that of the window have no such pixel and give an error, as do slices of the wrong length.
func (f Form) SSIM(a, b []float32, w, h, channels int) (float64, error) {
	if channels < 1 || w < 1 || h < 1 || len(a) != w*h*channels || len(b) != len(a) {
		return 0, fmt.Errorf("SSIM of %d and %d values, expected %dx%dx%d", len(a), len(b), w, h, channels)
	}
	if side := len(f.taps); w < side || h < side {
		return 0, fmt.Errorf("SSIM of a picture of %dx%d, expected at least %dx%d", w, h, side, side)
	}
	sum := 0.0
	for c := range channels {
		sum += f.channel(a, b, w, h, channels, c)
	}
	return sum / float64(channels), nil
}

// moments are the weighted means that SSIM is made of: a, b, a^2, b^2, ab.
type moments [5]float64

// channel filters along rows first and keeps as many filtered rows as the window has, over which it then filters along
// columns. So memory does not grow with the height.
func (f Form) channel(a, b []float32, w, h, channels, c int) float64 {
	side := len(f.taps)
	cols := w - side + 1
	scale := 1.0
	if n := float64(side * side); f.sample {
		scale = n / (n - 1)
	}
	ring := make([][]moments, side)
	for i := range ring {
		ring[i] = make([]moments, cols)
	}
	row := make([]moments, w)
	total := 0.0
	for y := range h {
		for x := range row {
			i := (y*w+x)*channels + c
			u, v := unit(a[i]), unit(b[i])
			row[x] = moments{u, v, u * u, v * v, u * v}
		}
		out := ring[y%side]
		for x := range out {
			out[x] = moments{}
			for k, g := range f.taps {
				addScaled(&out[x], g, &row[x+k])
			}
		}
		if y < side-1 {
			continue
		}
		for x := range cols {
			var m moments
			for k, g := range f.taps {
				// y+1 is the slot of the oldest row.
				addScaled(&m, g, &ring[(y+1+k)%side][x])
			}
			total += similarity(&m, scale)
		}
	}
	return total / float64(cols*(h-side+1))
}

func addScaled(m *moments, g float64, v *moments) {
	m[0] += g * v[0]
	m[1] += g * v[1]
	m[2] += g * v[2]
	m[3] += g * v[3]
	m[4] += g * v[4]
}

// similarity is (2 ma mb + C1)(2 cov + C2) / ((ma^2 + mb^2 + C1)(va + vb + C2)), the variances times scale.
func similarity(m *moments, scale float64) float64 {
	const c1, c2 = 0.01 * 0.01, 0.03 * 0.03
	ma, mb := m[0], m[1]
	va, vb, cov := scale*(m[2]-ma*ma), scale*(m[3]-mb*mb), scale*(m[4]-ma*mb)
	return (2*ma*mb + c1) * (2*cov + c2) / ((ma*ma + mb*mb + c1) * (va + vb + c2))
}

// gaussian is a window of 2 radius + 1 pixels.
func gaussian(radius int, deviation float64) []float64 {
	g, sum := make([]float64, 2*radius+1), 0.0
	for i := range g {
		d := float64(i - radius)
		g[i] = math.Exp(-d * d / (2 * deviation * deviation))
		sum += g[i]
	}
	for i := range g {
		g[i] /= sum
	}
	return g
}

func uniform(side int) []float64 {
	g := make([]float64, side)
	for i := range g {
		g[i] = 1 / float64(side)
	}
	return g
}
