//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/kerneltest"
)

// openWGMMA opens a device that has conv_wgmma, or skips the test.
func openWGMMA(t *testing.T) *Backend {
	b := openBackend(t)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	if !b.wgmma {
		t.Skipf("%s is not of capability 9.0", b.Name())
	}
	return b
}

// having says that the device has so many multiprocessors.
func (b *Backend) having(multiprocessors int) {
	_ = b.now(func() error { b.multiprocessors = multiprocessors; return nil })
}

// TestWGMMA: the same results as from every other kernel, within the suite's bounds, whatever the number of tiles that a
// block takes.
func TestWGMMA(t *testing.T) {
	b := openWGMMA(t)
	b.force = chosen{wgmmaTile, 1}
	for _, blocks := range []int{132, 1, 3} {
		t.Run(fmt.Sprint(blocks), func(t *testing.T) {
			b.having(blocks)
			kerneltest.HalfConvWide(t, b, 8)
		})
	}
	require.NoError(t, b.Sync())
}

// wideConv is a convolution of random numbers, from two sources through a normalisation, with a shortcut and moments.
type wideConv struct {
	b       *Backend
	args    kernels.Conv2D
	h, w, c int
}

func newWideConv(t *testing.T, b *Backend, n, h, w, in, out int) *wideConv {
	count := 0
	numbers := func(n int, scale float64) []float32 {
		s := make([]float32, n)
		for i := range s {
			count++
			s[i] = float32(scale * math.Sin(float64(count*count%9973)))
		}
		return s
	}
	view := func(shape [4]int, kind kernels.Type, data []float32) kernels.View {
		v := kernels.View{N: shape[0], H: shape[1], W: shape[2], C: shape[3], Type: kind}
		buf, err := b.Alloc(kind.Room(v.Len()))
		require.NoError(t, err)
		t.Cleanup(func() { b.Free(buf) })
		v.Buf = buf
		if data != nil {
			b.Upload(v, data)
		}
		return v
	}
	weights := func(in, size int) kernels.Conv {
		k, err := b.PrepareConv(kernels.ConvWeights{Weight: numbers(out*in*size*size, math.Sqrt(2/float64(in*size*size))), Bias: numbers(out, 1),
			Out: out, In: in, Size: size, Stride: 1, Pad: size / 2, Type: kernels.F16})
		require.NoError(t, err)
		return k
	}
	half := func(c int) kernels.View {
		return view([4]int{n, h, w, c}, kernels.F16, numbers(n*h*w*c, 1))
	}
	return &wideConv{b: b, h: h, w: w, c: out, args: kernels.Conv2D{
		Src: [2]kernels.View{half(in - 8), half(8)}, Kernel: weights(in, 3), Skip: [2]kernels.View{half(in)}, Shortcut: weights(in, 1),
		Affine: view([4]int{n, 1, 2, in}, kernels.F32, numbers(n*2*in, 1)), Act: kernels.SiLU,
		Dst: view([4]int{n, h, w, out}, kernels.F16, nil), Moments: view([4]int{n, 1, 2, out}, kernels.F32, nil),
	}}
}

// run returns the result and its moments.
func (c *wideConv) run(t *testing.T) (dst, moments []float32) {
	dst, moments = make([]float32, c.args.Dst.Len()), make([]float32, c.args.Moments.Len())
	c.b.Conv2D(&c.args)
	require.NoError(t, c.b.Download(dst, c.args.Dst))
	require.NoError(t, c.b.Download(moments, c.args.Moments))
	return dst, moments
}

// TestWGMMASame: the bytes of a result depend on nothing but its image: not on the run, on the number of blocks, or on the
// other images. From the kernels that earlier devices run it differs by the order of the sums alone.
func TestWGMMASame(t *testing.T) {
	b := openWGMMA(t)
	b.force = chosen{wgmmaTile, 1}
	c := newWideConv(t, b, 2, 17, 18, 128, 128)
	dst, moments := c.run(t)
	for _, blocks := range []int{132, 3} {
		b.having(blocks)
		again, m := c.run(t)
		require.Equal(t, dst, again)
		require.Equal(t, moments, m)
	}
	one := c.args
	for _, v := range []*kernels.View{&one.Src[0], &one.Src[1], &one.Skip[0], &one.Affine, &one.Dst, &one.Moments} {
		v.Off += v.Len() / 2 // the second image
		v.N = 1
	}
	image := wideConv{b: b, args: one}
	second, m := image.run(t)
	require.Equal(t, dst[len(dst)/2:], second)
	require.Equal(t, moments[len(moments)/2:], m)

	b.force = chosen{haloTiles[0], 1}
	other, _ := c.run(t)
	require.LessOrEqual(t, apart(other, dst), 0x1p-11, "both round the same sums to F16")
}

// TestWGMMAChoice: the kernel is for capability 9.0, where the driver makes tensor maps, and for channels and sizes that
// fill its tiles; everything else runs on every device's kernels. CUEMU_CC and CUEMU_ABSENT are for the emulated device.
func TestWGMMAChoice(t *testing.T) {
	const child, want = "WGMMA_CHOICE", "WGMMA_WANT"
	b := openBackend(t)
	defer b.Close()
	if os.Getenv(child) == "" {
		if b.wgmma {
			for _, c := range []struct {
				size, in, out int
				tile          string
			}{
				{256, 128, 128, wgmmaTile.name}, {128, 256, 256, wgmmaTile.name}, {256, 64, 128, wgmmaTile.name},
				{64, 256, 256, "conv_halo_f16_8x16x64"}, {128, 128, 128, "conv_halo_f16_8x16x128"}, // too few tiles
				{128, 96, 256, "conv_halo_f16_8x16x128"}, {128, 64, 192, "conv_halo_f16_8x16x128"}, {256, 128, 3, "conv_halo_f16_8x16x16"},
			} {
				k, err := b.PrepareConv(kernels.ConvWeights{Weight: make([]float32, 9*c.in*c.out), In: c.in, Out: c.out, Size: 3, Stride: 1, Pad: 1, Type: kernels.F16})
				require.NoError(t, err)
				require.NoError(t, b.place())
				args := kernels.Conv2D{Dst: kernels.View{N: 1, H: c.size, W: c.size, C: c.out, Type: kernels.F16}, Act: kernels.SiLU}
				require.Equal(t, c.tile, b.chosenFor(&args, k.(*conv), false).tile.name, "%+v", c)
			}
		}
		if info, err := Devices(); err != nil || info[0].Name[:4] != "host" {
			t.Skip("needs the emulated device to be another one")
		}
		for _, device := range []struct {
			env  []string
			want string
		}{{[]string{"CUEMU_CC=90"}, "yes"}, {[]string{"CUEMU_CC=89"}, "no"}, {[]string{"CUEMU_CC=100"}, "no"}, {[]string{"CUEMU_CC=120"}, "no"},
			{[]string{"CUEMU_CC=90", "CUEMU_ABSENT=cuTensorMapEncodeTiled"}, "no"}} {
			require.Contains(t, testkit.Elsewhere(t, "TestWGMMAChoice", append(device.env, child+"=1", want+"="+device.want)...), "--- PASS")
		}
		return
	}
	c := newWideConv(t, b, 1, 3, 5, 64, 128)
	require.NoError(t, b.place())
	require.Equal(t, os.Getenv(want) == "yes", c.args.Kernel.(*conv).tensor != nil)
	require.Equal(t, os.Getenv(want) == "yes", wgmmaFits(&c.args, c.args.Kernel.(*conv)))
	c.run(t)
}
