//go:build cuda && cgo && linux && amd64

package cuda

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
)

// TestFault: an error of the device does not end the process, stays, and stops what comes after it.
func TestFault(t *testing.T) {
	b := openBackend(t)
	buf, err := b.Alloc(4)
	require.NoError(t, err)
	v := kernels.View{Buf: buf, N: 1, H: 1, W: 1, C: 4}
	b.Upload(v, make([]float32, 4))
	f, err := b.PrepareFilter(kernels.FilterWeights{H: 1, W: 1, K: []float32{1}})
	require.NoError(t, err)
	require.NoError(t, b.Sync())
	launch(b, "geglu_f32", 1, 1, 1, 4096, 0, struct{ a [64]byte }{}) // no device has so many threads
	first := b.Sync()
	require.ErrorContains(t, first, "geglu_f32")
	require.ErrorContains(t, first, b.Name())
	require.Equal(t, first, b.Sync(), "for good")
	require.Equal(t, first, b.Download(make([]float32, 4), v))
	_, err = b.Alloc(1)
	require.Equal(t, first, err)
	b.Moments(v, v) // wants scratch memory, which is an error of the device and no lack of it
	b.Fourier(&kernels.Fourier{Dst: v, Src: v})
	b.Deconvolve(&kernels.Deconvolve{Dst: v, Src: v, Kernel: f, Rho: 1})
	b.Upload(v, make([]float32, 4))
	b.Free(buf)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	require.Error(t, b.Sync())

	_, err = Open(Options{Device: 1 << 20})
	require.ErrorContains(t, err, "no device 1048576")
}

// TestUnsupported: what a device cannot do is an error that says so.
func TestUnsupported(t *testing.T) {
	b := openBackend(t)
	b.Attention(&kernels.Attention{Dst: kernels.View{N: 1, H: 1, W: 1, C: 7000}, Heads: 1, Dim: 7000})
	require.ErrorContains(t, b.Sync(), "heads of 7000 channels")
	require.NoError(t, b.Close())
}

// openBackend opens the device, or skips the test where there is none.
func openBackend(t *testing.T) *Backend {
	_ = os.Getenv(lazycuda.Library) // which C reads: so does the cache of test results, now
	if _, err := Devices(); err != nil {
		t.Skipf("no CUDA device: %v", err)
	}
	k, err := Open(Options{})
	require.NoError(t, err)
	return k.(*Backend)
}

// TestTables: transforms of many lengths do not take ever more memory.
func TestTables(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	buf, err := b.Alloc(2 * 300)
	require.NoError(t, err)
	b.Upload(kernels.View{Buf: buf, N: 1, H: 1, W: 1, C: 600}, make([]float32, 600))
	for n := 1; n <= 300; n++ {
		v := kernels.View{Buf: buf, N: 1, H: 1, W: n, C: 2}
		b.Fourier(&kernels.Fourier{Dst: v, Src: v})
		require.LessOrEqual(t, len(b.tables), maxTables)
	}
	require.NoError(t, b.Sync())
	require.LessOrEqual(t, len(b.memory), maxTables+2)
}

// TestDeconvolve: a filter serves images of different sizes in turn, and keeps the spectrum for one of them.
func TestDeconvolve(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	f, err := b.PrepareFilter(kernels.FilterWeights{H: 3, W: 1, K: []float32{0.2, 0.5, 0.3}})
	require.NoError(t, err)
	src := make([]float32, 24)
	for i := range src {
		src[i] = float32(i * i % 7)
	}
	buf, err := b.Alloc(len(src))
	require.NoError(t, err)
	run := func(h, w int) []float32 {
		v, out := kernels.View{Buf: buf, N: 1, H: h, W: w, C: 1}, make([]float32, len(src))
		b.Upload(v, src)
		b.Deconvolve(&kernels.Deconvolve{Dst: v, Src: v, Kernel: f, Rho: 0.1, Fade: 2})
		require.NoError(t, b.Download(out, v))
		return out
	}
	first, pieces := run(6, 4), len(b.memory)
	require.NotEqual(t, first, run(4, 6))
	require.Equal(t, first, run(6, 4))
	require.Equal(t, first, run(6, 4))
	require.Len(t, b.memory, pieces)
}

// TestLostDevice: a kernel that fails while it runs comes to light where something waits for it, and the program lives on.
// The driver gives such a device up for the rest of the process, so this one is another process.
func TestLostDevice(t *testing.T) {
	const fail, kernel = "CUEMU_FAIL", "resample_f32"
	info, err := Devices()
	if err != nil || !strings.Contains(info[0].Name, "emulation") {
		t.Skip("needs the emulated device, whose kernels fail to order")
	}
	if os.Getenv(fail) == "" {
		require.Contains(t, testkit.Elsewhere(t, "TestLostDevice", fail+"="+kernel), "--- PASS")
		return
	}
	k, err := Open(Options{})
	require.NoError(t, err)
	src, err := k.Alloc(1)
	require.NoError(t, err)
	dst, err := k.Alloc(4)
	require.NoError(t, err)
	x, y := kernels.View{Buf: src, N: 1, H: 1, W: 1, C: 1}, kernels.View{Buf: dst, N: 1, H: 2, W: 2, C: 1}
	k.Upload(x, []float32{1})
	k.Resample(y, x, kernels.Up2, kernels.View{})
	lost := k.Download(make([]float32, 4), y)
	require.Error(t, lost)
	require.Equal(t, lost, k.Sync())
	_, err = k.Alloc(1)
	require.Equal(t, lost, err)
	_, err = k.PrepareConv(kernels.ConvWeights{Weight: []float32{1}, Out: 1, In: 1, Size: 1, Stride: 1})
	require.Equal(t, lost, err)
	k.Free(src)
	_ = k.Close()
	_, err = Open(Options{})
	require.Error(t, err)
}

// TestImageFor: code of the device's generation, translated code for later ones, none for earlier ones.
func TestImageFor(t *testing.T) {
	m, err := images()
	require.NoError(t, err)
	for capability, want := range map[[2]int]string{
		{7, 5}: "sm_75", {8, 0}: "sm_80", {8, 6}: "sm_86", {8, 7}: "sm_86", {8, 9}: "sm_89", {9, 0}: "sm_90", {10, 0}: "compute_80", {12, 0}: "compute_80",
	} {
		image, err := imageFor(capability[0], capability[1])
		require.NoError(t, err)
		require.NotEmpty(t, image)
		require.Equal(t, m[want], image, "%v", capability)
	}
	for _, capability := range [][2]int{{7, 0}, {7, 2}, {6, 1}} {
		_, err := imageFor(capability[0], capability[1])
		require.ErrorContains(t, err, "7.5")
	}
}
