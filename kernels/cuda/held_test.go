//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
)

// Launches is the number of launches of each kernel, for tests outside of the package.
func Launches(b kernels.Backend) map[string]int { return b.(*Backend).launchesByKernel() }

// view makes a tensor of numbers between -1 and 1.
func view(t *testing.T, b *Backend, kind kernels.Type, n, h, w, c int) kernels.View {
	buf, err := b.Alloc(kind.Room(n * h * w * c))
	require.NoError(t, err)
	v := kernels.View{Buf: buf, N: n, H: h, W: w, C: c, Type: kind}
	data := make([]float32, v.Len())
	for i := range data {
		data[i] = float32(math.Sin(float64(i*i%1013 + c)))
	}
	b.Upload(v, data)
	return v
}

func floats(t *testing.T, b *Backend, v kernels.View) []float32 {
	data := make([]float32, v.Len())
	require.NoError(t, b.Download(data, v))
	return data
}

func convolution(t *testing.T, b *Backend, in, out, size int, kind kernels.Type) kernels.Conv {
	w := kernels.ConvWeights{Weight: make([]float32, out*in*size*size), Bias: make([]float32, out), In: in, Out: out, Size: size, Stride: 1, Pad: size / 2, Type: kind}
	for i := range w.Weight {
		w.Weight[i] = float32(math.Cos(float64(i*i%991))) / float32(math.Sqrt(float64(in*size*size)))
	}
	for i := range w.Bias {
		w.Bias[i] = float32(i%7) / 4
	}
	k, err := b.PrepareConv(w)
	require.NoError(t, err)
	return k
}

// TestHeldNorm: a normalisation that the last block of a convolution makes has the bytes of one that is told alone, whatever
// the tile and the number of parts, again and again, and the counters of the blocks are left at zero.
func TestHeldNorm(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	tiles := append(gemmTiles[:len(gemmTiles):len(gemmTiles)], haloTiles...)
	for i, c := range []struct {
		n, h, w, in, out, skip, groups, splits int
		tile                                   halfTile
		long                                   bool
	}{
		{1, 24, 40, 32, 64, 0, 32, 1, tiles[0], false},
		{2, 24, 40, 32, 64, 24, 8, 1, tiles[1], false},
		{1, 40, 56, 8, 24, 8, 16, 1, tiles[2], false}, // 35 tiles: two levels
		{2, 24, 24, 40, 200, 56, 32, 4, tiles[2], false},
		{1, 8, 8, 64, 160, 0, 5, 16, tiles[3], false},
		{3, 4, 4, 16, 12, 4, 1, 2, tiles[4], false},
		{1, 20, 20, 40, 160, 32, 32, 1, tiles[5], false},
		{2, 16, 48, 40, 72, 0, 4, 1, tiles[6], false},
		{1, 64, 72, 8, 16, 8, 2, 1, tiles[7], false}, // 72 tiles
		{1, 16, 16, 64, 10, 0, 10, 7, tiles[8], false},
		{1, 264, 264, 8, 8, 0, 2, 1, tiles[7], true}, // 1089 tiles: three levels
	} {
		if c.long && testing.Short() {
			continue
		}
		b.force = chosen{c.tile, c.splits}
		all := c.out + c.skip
		x := view(t, b, kernels.F16, c.n, c.h, c.w, c.in)
		k := kernels.Conv2D{Src: [2]kernels.View{x}, Kernel: convolution(t, b, c.in, c.out, 3, kernels.F16)}
		norm := kernels.Norm{Pixels: c.h * c.w, Groups: c.groups, Eps: 1e-5, Gamma: view(t, b, kernels.F32, 1, 1, 1, all), Beta: view(t, b, kernels.F32, 1, 1, 1, all)}
		if i%2 == 0 {
			norm.Modulate = view(t, b, kernels.F32, c.n, 1, 1, 2*all)
		}
		var skip kernels.View
		if c.skip > 0 {
			skip = view(t, b, kernels.F32, c.n, 1, 2, c.skip)
			b.Blend(&kernels.Blend{Dst: skip, Terms: []kernels.Term{{X: skip, C: 1}}, Clip: true})
			b.Pointwise(&kernels.Pointwise{Op: kernels.PointMul, Dst: skip, A: skip, B: skip}) // squared deviations are not negative
		}
		run := func(together bool) (out []float32) {
			k.Dst, k.Moments, norm.Dst = view(t, b, kernels.F16, c.n, c.h, c.w, c.out), view(t, b, kernels.F32, c.n, 1, 2, c.out), view(t, b, kernels.F32, c.n, 1, 2, all)
			norm.Moments = [2]kernels.View{k.Moments, skip}
			if i%4 == 1 {
				norm.Moments = [2]kernels.View{skip, k.Moments}
			}
			before := b.Launches()
			b.Conv2D(&k)
			launches := 2
			if together {
				launches = 1
			} else {
				require.NoError(t, b.Sync())
			}
			b.Norm(&norm)
			require.Equal(t, launches, b.Launches()-before)
			for _, v := range []kernels.View{k.Dst, k.Moments, norm.Dst} {
				out = append(out, floats(t, b, v)...)
			}
			return out
		}
		alone := run(false)
		for _, v := range alone {
			require.False(t, math.IsNaN(float64(v)), "%+v", c)
		}
		for range 2 {
			require.Equal(t, alone, run(true), "%+v", c)
		}
	}
	b.force = chosen{}
	counters := make([]float32, b.counts)
	require.NoError(t, b.download(bytesOf(counters), b.counters))
	require.Equal(t, make([]float32, b.counts), counters)
}

// TestHeldNormApart: a normalisation is told alone where it is another tensor's, where anything comes in between, and where it
// would overwrite what the blocks of other images still read.
func TestHeldNormApart(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	launches := func(n int, f func(k *kernels.Conv2D, a *kernels.Norm)) int {
		k := kernels.Conv2D{Src: [2]kernels.View{view(t, b, kernels.F16, n, 8, 8, 16)}, Kernel: convolution(t, b, 16, 16, 3, kernels.F16),
			Dst: view(t, b, kernels.F16, n, 8, 8, 16), Moments: view(t, b, kernels.F32, n, 1, 2, 16)}
		gamma := view(t, b, kernels.F32, 1, 1, 1, 16)
		a := kernels.Norm{Dst: view(t, b, kernels.F32, n, 1, 2, 16), Moments: [2]kernels.View{k.Moments}, Pixels: 64, Groups: 4, Gamma: gamma, Beta: gamma}
		b.Conv2D(&kernels.Conv2D{Src: k.Src, Kernel: k.Kernel, Dst: k.Dst}) // scratch memory and counters are there
		before := b.Launches()
		b.Conv2D(&k)
		f(&k, &a)
		b.Norm(&a)
		return b.Launches() - before
	}
	source := func(k *kernels.Conv2D, n int) kernels.View {
		return kernels.View{Buf: k.Src[0].Buf, N: n, H: 1, W: 2, C: 16}
	}
	require.Equal(t, 1, launches(2, func(*kernels.Conv2D, *kernels.Norm) {}))
	require.Equal(t, 1, launches(1, func(k *kernels.Conv2D, a *kernels.Norm) { a.Dst = source(k, 1) }), "all blocks are done with it")
	require.Equal(t, 2, launches(2, func(k *kernels.Conv2D, a *kernels.Norm) { a.Dst = source(k, 2) }))
	require.Equal(t, 2, launches(1, func(_ *kernels.Conv2D, a *kernels.Norm) { a.Moments[0] = view(t, b, kernels.F32, 1, 1, 2, 16) }))
	require.Equal(t, 2, launches(1, func(*kernels.Conv2D, *kernels.Norm) { require.NoError(t, b.Sync()) }))
	require.Equal(t, 2, launches(1, func(*kernels.Conv2D, *kernels.Norm) { b.Mark() }))
	require.Equal(t, 3, launches(1, func(k *kernels.Conv2D, _ *kernels.Norm) {
		b.Blend(&kernels.Blend{Dst: k.Moments, Terms: []kernels.Term{{X: k.Moments, C: 1}}})
	}))
	require.NoError(t, b.Sync())
}

// TestHeldLinear: fully connected layers of the same vectors are one launch, with the bytes of layers that are told one by
// one; those of other vectors, and those that overwrite each other, are not.
func TestHeldLinear(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	const layers = 2*96 + 3
	var k []kernels.Conv2D
	x := view(t, b, kernels.F32, 2, 1, 1, 40)
	for i := range layers {
		out := 1 + i*37%150
		k = append(k, kernels.Conv2D{Src: [2]kernels.View{x}, Act: kernels.Activation(i / 130), Kernel: convolution(t, b, 40, out, 1, kernels.F32),
			Dst: view(t, b, kernels.F32, 2, 1, 1, out)})
	}
	run := func(wait bool) (launches int, out [][]float32) {
		before := b.Launches()
		for i := range k {
			b.Conv2D(&k[i])
			if wait {
				require.NoError(t, b.Sync())
			}
		}
		launches = b.Launches() - before
		for i := range k {
			out = append(out, floats(t, b, k[i].Dst))
		}
		return launches, out
	}
	launches, want := run(true)
	require.Equal(t, layers, launches)
	launches, got := run(false)
	require.Equal(t, 3, launches)
	require.Equal(t, want, got)
	in := floats(t, b, x)
	for i := 0; i < layers; i += 61 {
		for n := range 2 {
			for o := range k[i].Dst.C {
				silu, out, sum := k[i].Act == kernels.SiLU, k[i].Dst.C, float64(o%7)/4
				for c, x := range in[n*40:][:40] {
					x := float64(x)
					if silu {
						x /= 1 + math.Exp(-x)
					}
					j := o*40 + c
					sum += x * math.Cos(float64(j*j%991)) / math.Sqrt(40)
				}
				require.InDelta(t, sum, got[i][n*out+o], 1e-5, fmt.Sprint(i, n, o))
			}
		}
	}

	k = k[:2]
	k[1].Src[0] = view(t, b, kernels.F32, 2, 1, 1, 40)
	launches, _ = run(false)
	require.Equal(t, 2, launches, "of other vectors")
	k[1].Src[0], k[1].Dst = x, k[0].Dst
	k[1].Kernel = convolution(t, b, 40, k[0].Dst.C, 1, kernels.F32)
	launches, _ = run(false)
	require.Equal(t, 2, launches, "in the same place")
}
