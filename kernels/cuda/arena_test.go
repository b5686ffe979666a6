//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
)

// TestMain has arrays lie apart where SPIN_APART is set, as it is under the detector of bad addresses.
func TestMain(m *testing.M) {
	if os.Getenv("SPIN_APART") != "" {
		arenaSize = 0
	}
	testkit.Emulated()
	os.Exit(m.Run())
}

// Together has so many bytes of weights be put together while a test runs; 0 has arrays lie apart.
func Together(t *testing.T, bytes int) {
	before := arenaSize
	arenaSize = bytes
	t.Cleanup(func() { arenaSize = before })
}

// Pieces is how many pieces of memory a backend has.
func Pieces(b kernels.Backend) (n int) {
	k := b.(*Backend)
	_ = k.now(func() error { n = len(k.memory); return nil })
	return n
}

// fivePixels are what a 1x1 convolution makes of five pixels.
func fivePixels(t *testing.T, b *Backend, k kernels.Conv) []float32 {
	w := k.Weights()
	x, y := view(t, b, kernels.F32, 1, 1, 5, w.In), view(t, b, kernels.F32, 1, 1, 5, w.Out)
	defer b.Free(x.Buf)
	defer b.Free(y.Buf)
	b.Conv2D(&kernels.Conv2D{Src: [2]kernels.View{x}, Dst: y, Kernel: k})
	return floats(t, b, y)
}

// TestArena: weights take nothing until there are enough of them or something needs them, and then one piece of what they take, in which
// every array begins where tensor maps and wide copies can read it. A device that is planned tells the same.
func TestArena(t *testing.T) {
	Together(t, 1<<16)
	for _, kind := range []kernels.Type{kernels.F32, kernels.F16} {
		t.Run(kind.String(), func(t *testing.T) {
			var told []kernels.Usage
			for _, planning := range []bool{true, false} {
				b := openBackend(t)
				if planning {
					require.NoError(t, b.Close())
					k, err := Open(Options{Plan: true})
					require.NoError(t, err)
					b = k.(*Backend)
				}
				first := Pieces(b)
				var convs []*conv
				for _, c := range [][3]int{{3, 5, 3}, {5, 3, 1}, {8, 16, 3}, {1, 1, 1}} {
					convs = append(convs, convolution(t, b, c[0], c[1], c[2], kind).(*conv))
				}
				require.Equal(t, first, Pieces(b), "nobody has needed them")
				told = append(told, b.Usage())
				require.Equal(t, first+1, Pieces(b))
				need := 0
				for _, c := range convs {
					c.w.Weight = make([]float32, c.w.In*c.w.Out*c.w.Size*c.w.Size)
					need += room(4*packedLen(c.w)) + room(4*c.w.Out)
					require.NotEqual(t, c.weight, c.bias)
					for _, p := range []device{c.weight, c.bias} {
						require.NotZero(t, p)
						require.Zero(t, p%256)
					}
				}
				require.EqualValues(t, need, told[len(told)-1].Weights)
				for range 3 {
					convolution(t, b, 32, 32, 3, kind) // 36 KB in F32, 18 in F16
				}
				if kind == kernels.F32 {
					require.Equal(t, first+2, Pieces(b), "two of them are enough")
				} else {
					require.Equal(t, first+1, Pieces(b), "they are not")
				}
				told = append(told, b.Usage())
				_, err := b.Alloc(1)
				require.NoError(t, err)
				convolution(t, b, 1, 1, 1, kind)
				told = append(told, b.Usage())
				require.NoError(t, b.Close())
			}
			require.Equal(t, told[:3], told[3:], "the plan is what is taken")
		})
	}
}

// TestArenaFull: where memory lacks, what needs the weights says so, and once there is some, they are there.
func TestArenaFull(t *testing.T) {
	Together(t, 1<<16)
	if info, err := Devices(); err != nil || !strings.Contains(info[0].Name, "emulation") {
		t.Skip("needs the emulated device, which refuses to order")
	}
	b := openBackend(t)
	want := fivePixels(t, b, convolution(t, b, 1, 3, 1, kernels.F32))
	x, y := view(t, b, kernels.F32, 1, 1, 5, 1), view(t, b, kernels.F32, 1, 1, 5, 3)
	k := convolution(t, b, 1, 3, 1, kernels.F32)
	before := Pieces(b)
	t.Setenv("CUEMU_REFUSE", "cuMemAlloc")
	lacks := func(f func() error) {
		require.ErrorIs(t, func() (err error) {
			defer func() {
				if e, ok := recover().(*outOfMemory); ok {
					err = e
				}
			}()
			return f()
		}(), kernels.ErrOutOfMemory)
	}
	lacks(func() error { b.Conv2D(&kernels.Conv2D{Src: [2]kernels.View{x}, Dst: y, Kernel: k}); return nil })
	lacks(func() error {
		_, err := b.Alloc(1)
		require.ErrorContains(t, err, "weights of 1 convolution")
		return err
	})
	lacks(func() error { _, err := b.Fork(0); return err })
	lacks(func() error {
		_, err := b.PrepareConv(kernels.ConvWeights{Weight: make([]float32, 1<<14), In: 1 << 7, Out: 1 << 7, Size: 1, Stride: 1})
		return err
	})
	lacks(func() error {
		_, err := b.PrepareFilter(kernels.FilterWeights{H: 1, W: 1, K: []float32{1}})
		return err
	})
	without := b.Usage()
	require.Equal(t, before, Pieces(b))
	require.NoError(t, os.Setenv("CUEMU_REFUSE", ""))
	require.Equal(t, without.Weights+2*aligned, b.Usage().Weights, "what could not be prepared is not among them")
	require.Equal(t, want, fivePixels(t, b, k))
	require.NoError(t, b.Close())
}

// TestArenaFork: forks read weights that were prepared before and after, by each other too, though nothing else has needed them.
func TestArenaFork(t *testing.T) {
	Together(t, 1<<16)
	b := openBackend(t)
	want := fivePixels(t, b, convolution(t, b, 1, 3, 1, kernels.F32))
	before := convolution(t, b, 1, 3, 1, kernels.F32)
	f, err := b.Fork(0)
	require.NoError(t, err)
	require.Equal(t, want, fivePixels(t, f.(*Backend), before))
	require.Equal(t, want, fivePixels(t, f.(*Backend), convolution(t, b, 1, 3, 1, kernels.F32)))
	require.Equal(t, want, fivePixels(t, f.(*Backend), convolution(t, f.(*Backend), 1, 3, 1, kernels.F32)))
	up := convolution(t, f.(*Backend), 1, 3, 1, kernels.F32)
	require.NoError(t, f.Sync())
	require.Equal(t, want, fivePixels(t, b, up))
	require.NoError(t, b.Close())
	require.Equal(t, want, fivePixels(t, f.(*Backend), before))
	require.NoError(t, f.Close())
}

// TestSparseMemory: what a sparse map takes is given back with it.
func TestSparseMemory(t *testing.T) {
	for _, together := range []int{0, 1 << 16} {
		t.Run(fmt.Sprint(together), func(t *testing.T) {
			Together(t, together)
			b := openBackend(t)
			before, pieces := b.Usage(), Pieces(b)
			for range 3 {
				m, err := b.PrepareSparse(kernels.SparseMatrix{Rows: 1, Cols: 2, Start: []int32{0, 2}, Col: []int32{0, 1}, W: []float32{1, 2}})
				require.NoError(t, err)
				if together > 0 {
					require.Equal(t, pieces+1, Pieces(b))
					require.Equal(t, before.Scratch+6*aligned, b.Usage().Scratch)
				}
				m.Free()
				m.Free()
				require.Equal(t, before, b.Usage())
				require.Equal(t, pieces, Pieces(b))
			}
			require.NoError(t, b.Close())
		})
	}
}
