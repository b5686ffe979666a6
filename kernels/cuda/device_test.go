//go:build cuda && cgo && linux && amd64

package cuda

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/kernels"
)

// TestFault: an error of the device does not end the process, stays, and stops what comes after it.
func TestFault(t *testing.T) {
	_ = os.Getenv(lazycuda.Library)
	if _, err := Devices(); err != nil {
		t.Skipf("no CUDA device: %v", err)
	}
	k, err := Open(Options{})
	require.NoError(t, err)
	b := k.(*Backend)
	buf, err := b.Alloc(4)
	require.NoError(t, err)
	v := kernels.View{Buf: buf, N: 1, H: 1, W: 1, C: 4}
	b.Upload(v, make([]float32, 4))
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
	b.Upload(v, make([]float32, 4))
	b.Free(buf)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	require.Error(t, b.Sync())

	_, err = Open(Options{Device: 1 << 20})
	require.ErrorContains(t, err, "no device 1048576")
}

// TestTables: transforms of many lengths do not take ever more memory.
func TestTables(t *testing.T) {
	if _, err := Devices(); err != nil {
		t.Skipf("no CUDA device: %v", err)
	}
	k, err := Open(Options{})
	require.NoError(t, err)
	defer k.Close()
	b := k.(*Backend)
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
