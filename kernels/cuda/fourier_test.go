//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
)

// image makes a view of normally distributed values.
func image(t *testing.T, b kernels.Backend, h, w, c int) kernels.View {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(h), uint64(w)))
	data := make([]float32, h*w*c)
	for i := range data {
		data[i] = float32(rng.NormFloat64())
	}
	buf, err := b.Alloc(len(data))
	require.NoError(t, err)
	v := kernels.View{Buf: buf, N: 1, H: h, W: w, C: c}
	b.Upload(v, data)
	return v
}

// off is the root mean square of the difference of two views, relative to that of the second.
func off(t *testing.T, b, oracle kernels.Backend, got, want kernels.View) float64 {
	t.Helper()
	g, w := make([]float32, got.Len()), make([]float32, want.Len())
	require.NoError(t, b.Download(g, got))
	require.NoError(t, oracle.Download(w, want))
	var sum, size float64
	for i := range w {
		sum += math.Pow(float64(g[i])-float64(w[i]), 2)
		size += math.Pow(float64(w[i]), 2)
	}
	return math.Sqrt(sum / size)
}

// TestTransforms: every way that a transform can take: neighbours in tiles and in whole, one block and many, lengths that fill
// the shared memory and ones that do not fit into it, of small factors and of a large one, in place and not.
func TestTransforms(t *testing.T) {
	b, oracle := open(t), ref.Open()
	for _, s := range [][3]int{
		{1, 3072, 2}, {3072, 1, 2}, {2, 1536, 4}, {768, 3, 6}, {1024, 2, 18}, {5, 2187, 2}, {1, 3061, 2}, // those of shared memory
		{1, 3073, 2}, {3125, 1, 2}, {2, 4096, 2}, {4096, 1, 4}, {1, 3079, 2}, {3079, 2, 2}, // 3079 is prime, 3073 is 7 * 439
	} {
		for _, inPlace := range []bool{false, true} {
			x, want := image(t, b, s[0], s[1], s[2]), image(t, oracle, s[0], s[1], s[2])
			got := x
			if !inPlace {
				got = image(t, b, s[0], s[1], s[2])
			}
			b.Fourier(&kernels.Fourier{Dst: got, Src: x, Inverse: inPlace})
			oracle.Fourier(&kernels.Fourier{Dst: want, Src: want, Inverse: inPlace})
			require.Less(t, off(t, b, oracle, got, want), 1e-6, "%v, in place %v", s, inPlace)
		}
	}
}

// TestLongDeconvolve: images that do not fit into shared memory.
func TestLongDeconvolve(t *testing.T) {
	b, oracle := open(t), ref.Open()
	kernel := kernels.FilterWeights{H: 3, W: 5, K: make([]float32, 15)}
	for i := range kernel.K {
		kernel.K[i] = 1. / 15
	}
	for fade, s := range [][3]int{{1, 3080, 1}, {3080, 1, 3}, {3079, 2, 2}, {4, 3060, 1}} { // the last one only when it fades
		x, want := image(t, b, s[0], s[1], s[2]), image(t, oracle, s[0], s[1], s[2])
		for _, side := range []struct {
			b kernels.Backend
			x kernels.View
		}{{b, x}, {oracle, want}} {
			f, err := side.b.PrepareFilter(kernel)
			require.NoError(t, err)
			side.b.Deconvolve(&kernels.Deconvolve{Dst: side.x, Src: side.x, Kernel: f, Rho: 0.1, Fade: 3 * fade})
		}
		require.Less(t, off(t, b, oracle, x, want), 1e-5, "%v", s)
	}
}

// TestLaunches: how many kernels an operation of the pixel side takes.
func TestLaunches(t *testing.T) {
	emulated(t)
	b := open(t)
	x, y, z, sum := image(t, b, 40, 50, 3), image(t, b, 40, 50, 3), image(t, b, 40, 50, 6), image(t, b, 1, 1, 1)
	small, err := b.PrepareFilter(kernels.FilterWeights{H: 3, W: 3, K: []float32{0, 1, 0, 1, 1, 1, 0, 1, 0}})
	require.NoError(t, err)
	wide := kernels.FilterWeights{H: 31, W: 31, K: make([]float32, 31*31)}
	for i := range wide.K {
		wide.K[i] = 1
	}
	large, err := b.PrepareFilter(wide)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		run  func()
		want int
	}{
		"dot":          {func() { b.Dot(sum, x, y) }, 1},
		"filter":       {func() { b.Filter(&kernels.Filter{Dst: y, Src: x, Kernel: small, Alpha: 1}) }, 1},
		"large filter": {func() { b.Filter(&kernels.Filter{Dst: y, Src: x, Kernel: large, Alpha: 1}) }, 3},
		"and its back": {func() { b.Filter(&kernels.Filter{Dst: y, Src: x, Kernel: large, Adjoint: true, Alpha: 1}) }, 3},
		"deconvolve":   {func() { b.Deconvolve(&kernels.Deconvolve{Dst: y, Src: x, Kernel: large, Rho: 1, Fade: 8}) }, 3},
		"transform":    {func() { b.Fourier(&kernels.Fourier{Dst: z, Src: z}) }, 2},
	} {
		c.run() // tables and spectra
		require.NoError(t, b.Sync())
		require.Equal(t, c.want, calls(t, func() { c.run(); require.NoError(t, b.Sync()) })["launch"], name)
	}
}

// TestDotOfManyImages: more images than one launch takes, twice, as the launches count their blocks.
func TestDotOfManyImages(t *testing.T) {
	b := open(t)
	const n = 600
	data, want := make([]float32, 3*n), make([]float32, n)
	for i := range data {
		data[i] = float32(i % 11)
		want[i/3] += data[i] * data[i]
	}
	buf, err := b.Alloc(len(data))
	require.NoError(t, err)
	out, err := b.Alloc(n)
	require.NoError(t, err)
	x, sums := kernels.View{Buf: buf, N: n, H: 1, W: 1, C: 3}, kernels.View{Buf: out, N: n, H: 1, W: 1, C: 1}
	b.Upload(x, data)
	for i := range 2 {
		b.Upload(sums, make([]float32, n))
		b.Dot(sums, x, x)
		got := make([]float32, n)
		require.NoError(t, b.Download(got, sums))
		require.Equal(t, want, got, fmt.Sprint(i))
	}
}
