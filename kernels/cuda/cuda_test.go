//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/kernels/kerneltest"
)

// open returns a backend on the first device, which may be the emulated one, or skips the test.
func open(t *testing.T) kernels.Backend {
	t.Helper()
	_ = os.Getenv(lazycuda.Library) // so that go test caches no result of another library
	if _, err := cuda.Devices(); err != nil {
		t.Skipf("no CUDA device: %v; for the emulated one: make -f kernels.mk emu, then set %s to its libcuda.so.1", err, lazycuda.Library)
	}
	b, err := cuda.Open(cuda.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func TestConformance(t *testing.T) {
	b := open(t)
	t.Run("Net", func(t *testing.T) { kerneltest.Net(t, b) })
	t.Run("HalfNet", func(t *testing.T) { kerneltest.HalfNet(t, b) })
	t.Run("Image", func(t *testing.T) { kerneltest.Image(t, b) })
	require.NoError(t, b.Sync())
}

// TestMemory: sizes that cannot be had are errors of their kind, and the backend lives on.
func TestMemory(t *testing.T) {
	b := open(t)
	for _, n := range []int{-1, 1 << 40, 1 << 62} {
		_, err := b.Alloc(n)
		require.ErrorIs(t, err, kernels.ErrOutOfMemory, fmt.Sprint(n))
	}
	require.NoError(t, b.Sync())
	empty, err := b.Alloc(0)
	require.NoError(t, err)
	require.Zero(t, empty.Len())
	b.Free(empty)
	buf, err := b.Alloc(3)
	require.NoError(t, err)
	v := kernels.View{Buf: buf, N: 1, H: 1, W: 1, C: 3}
	src := []float32{1, 2, 3}
	b.Upload(v, src)
	src[0] = 9 // it was read already
	got := make([]float32, 3)
	require.NoError(t, b.Download(got, v))
	require.Equal(t, []float32{1, 2, 3}, got)
}
