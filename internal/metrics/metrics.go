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

// Window of SSIM: Gaussian with this deviation, cut at this radius (11x11).
const (
	ssimSigma  = 1.5
	ssimRadius = 5
	ssimSide   = 2*ssimRadius + 1
)

// SSIM returns the mean structural similarity of two pictures of w x h pixels with
// the given number of interleaved channels (Wang et al. 2004): Gaussian window of
// 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, population covariance.
// It is the mean over the channels and over the pixels whose window lies within
// the picture. These are the conventions of scikit-image with
// gaussian_weights=True, use_sample_covariance=False.
//
// Pictures with a side below 11 have no such pixel and give an error, as do slices
// of the wrong length.
func SSIM(a, b []float32, w, h, channels int) (float64, error) {
	if channels < 1 || w < 1 || h < 1 || len(a) != w*h*channels || len(b) != len(a) {
		return 0, fmt.Errorf("SSIM of %d and %d values, expected %dx%dx%d", len(a), len(b), w, h, channels)
	}
	if w < ssimSide || h < ssimSide {
		return 0, fmt.Errorf("SSIM of a picture of %dx%d, expected at least %dx%d", w, h, ssimSide, ssimSide)
	}
	sum := 0.0
	for c := range channels {
		sum += ssimChannel(a, b, w, h, channels, c)
	}
	return sum / float64(channels), nil
}

// moments are the weighted means that SSIM is made of: a, b, a^2, b^2, ab.
type moments [5]float64

// ssimChannel filters along rows first and keeps the last 11 filtered rows, over
// which it then filters along columns. So memory does not grow with the height.
func ssimChannel(a, b []float32, w, h, channels, c int) float64 {
	g := gaussian()
	cols := w - 2*ssimRadius
	var ring [ssimSide][]moments
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
		out := ring[y%ssimSide]
		for x := range out {
			out[x] = moments{}
			for k, gk := range g {
				addScaled(&out[x], gk, &row[x+k])
			}
		}
		if y < 2*ssimRadius {
			continue
		}
		for x := range cols {
			var m moments
			for k, gk := range g {
				// y+1 is the slot of the oldest row, y-10.
				addScaled(&m, gk, &ring[(y+1+k)%ssimSide][x])
			}
			total += similarity(&m)
		}
	}
	return total / float64(cols*(h-2*ssimRadius))
}

func addScaled(m *moments, g float64, v *moments) {
	m[0] += g * v[0]
	m[1] += g * v[1]
	m[2] += g * v[2]
	m[3] += g * v[3]
	m[4] += g * v[4]
}

// similarity is (2 ma mb + C1)(2 cov + C2) / ((ma^2 + mb^2 + C1)(va + vb + C2)).
func similarity(m *moments) float64 {
	const c1, c2 = 0.01 * 0.01, 0.03 * 0.03
	ma, mb := m[0], m[1]
	va, vb, cov := m[2]-ma*ma, m[3]-mb*mb, m[4]-ma*mb
	return (2*ma*mb + c1) * (2*cov + c2) / ((ma*ma + mb*mb + c1) * (va + vb + c2))
}

// gaussian returns the window along one axis, of sum 1.
func gaussian() (g [ssimSide]float64) {
	sum := 0.0
	for i := range g {
		d := float64(i - ssimRadius)
		g[i] = math.Exp(-d * d / (2 * ssimSigma * ssimSigma))
		sum += g[i]
	}
	for i := range g {
		g[i] /= sum
	}
	return g
}
