package cpu_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/kerneltest"
)

// TestConformance runs the suite on every level of this machine, and on the templates of the level it may lack.
func TestConformance(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref is tested by itself")
	}
	for _, level := range append(cpu.Levels(), "wide") {
		t.Run(level, func(t *testing.T) {
			b, err := cpu.Open(cpu.Options{Level: level, Threads: 3})
			require.NoError(t, err)
			defer func() { require.NoError(t, b.Close()) }()
			t.Run("Net", func(t *testing.T) { kerneltest.Net(t, b) })
			t.Run("Image", func(t *testing.T) { kerneltest.Image(t, b) })
		})
	}
}

func TestOptions(t *testing.T) {
	_, err := cpu.Open(cpu.Options{Level: "sse9"})
	require.ErrorContains(t, err, "sse9")
	require.NotEmpty(t, cpu.Levels())
}

// TestPeak: the figures are those of a processor, not of a loop that the compiler saw through.
func TestPeak(t *testing.T) {
	for _, level := range cpu.Levels() {
		b, err := cpu.Open(cpu.Options{Level: level, Threads: 1})
		require.NoError(t, err)
		p, ok := b.(interface{ Peak() (gflops, gbps float64) })
		if !ok {
			t.Skip("built without cgo")
		}
		gflops, gbps := p.Peak()
		t.Logf("%s: %.0f GFLOP/s, %.1f GB/s", level, gflops, gbps)
		require.Greater(t, gflops, 0.1)
		require.Less(t, gflops, 16.*2*4*8, "16 lanes, 2 operations, 4 units, 8 GHz")
		require.Greater(t, gbps, 0.1)
		require.Less(t, gbps, 1000.)
		require.NoError(t, b.Close())
	}
}

// TestHalfWeights: weights that F16 holds exactly give the same bits in the direct form; Winograd's transformed weights are
// rounded, by up to 2^-11 each. A weight out of range keeps its layer in F32.
func TestHalfWeights(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref has F32 only")
	}
	r := rand.New(rand.NewPCG(5, 6))
	const in, out, edge = 40, 70, 13
	w := make([]float32, 9*in*out)
	for i := range w {
		w[i] = float32(int(256*r.NormFloat64())) / 4096 // nine bits and a sign
	}
	w[0] = 0x1p-24 // the least subnormal of F16
	large := slices.Clone(w)
	large[1] = 1e8
	x := make([]float32, edge*edge*in)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	for _, level := range append(cpu.Levels(), "wide") {
		run := func(half bool, form kernels.ConvForm, w []float32) (y []float32, weights int64) {
			b, err := cpu.Open(cpu.Options{Level: level, Threads: 2, HalfWeights: half})
			require.NoError(t, err)
			defer b.Close()
			k, err := b.PrepareConv(kernels.ConvWeights{Weight: w, In: in, Out: out, Size: 3, Stride: 1, Pad: 1, Form: form})
			require.NoError(t, err)
			view := func(c int) kernels.View {
				buf, err := b.Alloc(edge * edge * c)
				require.NoError(t, err)
				return kernels.View{Buf: buf, N: 1, H: edge, W: edge, C: c}
			}
			src, dst := view(in), view(out)
			b.Upload(src, x)
			b.Conv2D(&kernels.Conv2D{Dst: dst, Src: [2]kernels.View{src}, Kernel: k})
			y = make([]float32, dst.Len())
			require.NoError(t, b.Download(y, dst))
			return y, cpu.UsageOf(b).Weights
		}
		for form := kernels.Direct; form <= kernels.Winograd6; form++ {
			full, bytes := run(false, form, w)
			half, less := run(true, form, w)
			require.Equal(t, bytes/2, less, "%s %v", level, form)
			if form == kernels.Direct {
				require.Equal(t, full, half, level)
			}
			var diff, norm float64
			for i, v := range full {
				diff += math.Pow(float64(v-half[i]), 2)
				norm += float64(v) * float64(v)
			}
			// A rounding moves a product by at most 2^-11 of it, at random; A^T and A multiply by up to 32 and add the roundings of 64.
			require.Less(t, math.Sqrt(diff/norm), 0x1p-11*16, "%s %v", level, form)
			full, bytes = run(false, form, large)
			half, less = run(true, form, large)
			require.Equal(t, full, half, "%s %v", level, form)
			require.Equal(t, bytes, less)
		}
	}
}
