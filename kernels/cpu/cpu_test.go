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

// ways are the ways to multiply bfloat16 that a level has on this machine.
func ways(t *testing.T, level string) (list []string) {
	for _, way := range []string{"bf16/amx", "bf16/dot", "bf16/any"} {
		b, err := cpu.Open(cpu.Options{Level: level, Products: way})
		if err != nil {
			require.ErrorContains(t, err, "not available")
			continue
		}
		require.NoError(t, b.Close())
		list = append(list, way)
	}
	require.Contains(t, list, "bf16/any")
	return list
}

// TestBFloat16Conformance runs the suite with bfloat16 products in every way.
func TestBFloat16Conformance(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref has F32 only")
	}
	for _, level := range []string{cpu.Levels()[0], "wide"} { // the template is the same for all
		for _, way := range ways(t, level) {
			t.Run(level+"/"+way, func(t *testing.T) {
				b, err := cpu.Open(cpu.Options{Level: level, Products: way, Threads: 2})
				require.NoError(t, err)
				defer func() { require.NoError(t, b.Close()) }()
				kerneltest.Net(t, b)
			})
		}
	}
}

// TestBFloat16Exact: whole numbers of few bits are the same in bfloat16, and so are their sums in any order; every way of
// multiplying has to agree with the direct form to the last bit, and with the reference.
func TestBFloat16Exact(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref has F32 only")
	}
	r := rand.New(rand.NewPCG(7, 8))
	whole := func(n int) []float32 {
		s := make([]float32, n)
		for i := range s {
			s[i] = float32(r.IntN(255) - 127)
		}
		return s
	}
	for _, c := range []struct{ in, out, size, stride, h, w int }{
		{32, 64, 3, 1, 5, 70}, {33, 31, 3, 2, 8, 8}, {100, 48, 1, 1, 6, 7}, {16, 5, 3, 1, 20, 33}, {64, 160, 1, 1, 1, 1}, {40, 40, 5, 1, 9, 16},
	} {
		weights := kernels.ConvWeights{Weight: whole(c.in * c.out * c.size * c.size), In: c.in, Out: c.out, Size: c.size, Stride: c.stride, Pad: c.size / 2}
		x := whole(2 * c.h * c.w * c.in)
		run := func(o cpu.Options, form kernels.ConvForm) []float32 {
			b, err := cpu.Open(o)
			require.NoError(t, err)
			defer b.Close()
			weights.Form = form
			k, err := b.PrepareConv(weights)
			require.NoError(t, err)
			view := func(h, w, c int) kernels.View {
				buf, err := b.Alloc(2 * h * w * c)
				require.NoError(t, err)
				return kernels.View{Buf: buf, N: 2, H: h, W: w, C: c}
			}
			src, dst := view(c.h, c.w, c.in), view(weights.OutSize(c.h), weights.OutSize(c.w), c.out)
			b.Upload(src, x)
			b.Conv2D(&kernels.Conv2D{Dst: dst, Src: [2]kernels.View{src}, Kernel: k})
			y := make([]float32, dst.Len())
			require.NoError(t, b.Download(y, dst))
			return y
		}
		for _, level := range append(cpu.Levels(), "wide") {
			want := run(cpu.Options{Level: level}, kernels.Direct)
			for _, way := range ways(t, level) {
				require.Equal(t, want, run(cpu.Options{Level: level, Products: way}, kernels.BFloat16), "%+v, %s, %s", c, level, way)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	_, err := cpu.Open(cpu.Options{Level: "sse9"})
	require.ErrorContains(t, err, "sse9")
	_, err = cpu.Open(cpu.Options{Products: "f8"})
	require.ErrorContains(t, err, "f8")
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
			return y, kernels.UsageOf(b).Weights
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
