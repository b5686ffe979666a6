//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/tensor"
)

// TestForks: one set of weights serves several backends at the same time, told and replayed, each gives the bytes that the
// first one gives, and in whatever order they are closed, everything is given back.
func TestForks(t *testing.T) {
	open(t).Close()
	emulated(t)
	n := calls(t, func() {
		b, err := cuda.Open(cuda.Options{})
		require.NoError(t, err)
		d := tensor.NewDevice(b)
		net, _ := loadPhoto(t, d)
		const edge, rounds = 8, 4
		picture := make([]float32, edge*edge*3)
		for i := range picture {
			picture[i] = float32(math.Sin(float64(i)))
		}
		predict := func(d *tensor.Device, at float64) []float32 {
			x := d.From(picture, 1, edge, edge, 3)
			defer x.Free()
			out, err := net.Predict(x, []float64{at}, nil)
			require.NoError(t, err)
			defer out.Free()
			data, err := out.Floats()
			require.NoError(t, err)
			return data
		}
		first, err := d.Fork(1)
		require.NoError(t, err)
		second, err := first.Fork(0) // a fork's fork reads the same weights
		require.NoError(t, err)
		forks := []*tensor.Device{first, second}
		want := predict(d, 100)
		later := d.Vector([]float32{1, 2, 3}) // arrives before Set returns, as a fork may read it at once
		sum, err := second.Dot(nil, later, later).Floats()
		require.NoError(t, err)
		require.Equal(t, []float32{14}, sum)
		require.NoError(t, d.Close()) // the weights stay
		var wg sync.WaitGroup
		for _, f := range forks {
			wg.Go(func() {
				for range rounds {
					if got := predict(f, 100); !slices.Equal(got, want) {
						t.Error("a fork computes something else")
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, first.Close())
		require.Equal(t, want, predict(second, 100))
		require.NoError(t, second.Close())
		require.NoError(t, second.Close())
		_, err = first.Fork(1)
		require.ErrorContains(t, err, "closed")
		_, err = b.(kernels.Forker).Fork(-1)
		require.ErrorContains(t, err, "-1 threads")
	})
	require.GreaterOrEqual(t, n["cuGraphLaunch"], 2*3)
	for _, pair := range [][2]string{
		{"cuMemAlloc", "cuMemFree"}, {"cuMemHostAlloc", "cuMemFreeHost"}, {"cuStreamCreate", "cuStreamDestroy"},
		{"cuModuleLoadDataEx", "cuModuleUnload"}, {"cuGraphInstantiateWithFlags", "cuGraphExecDestroy"}, {"cuStreamEndCapture", "cuGraphDestroy"},
	} {
		require.Positive(t, n[pair[0]], pair[0])
		require.Equal(t, n[pair[0]], n[pair[1]], "%v", pair)
	}
}
