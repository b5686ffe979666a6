//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// TestNetworkLaunches: a call of a network of full size is so many launches at most, counted on a device that only plans.
func TestNetworkLaunches(t *testing.T) {
	open(t)
	for model, most := range map[string]int{"ffhq_10m": 120, "imagenet256": 120} {
		preset, ok := checkpoint.FindPreset(model)
		require.True(t, ok)
		c, err := nn.ParseUNetConfig(preset.UNet.Model)
		require.NoError(t, err)
		b, err := cuda.Open(cuda.Options{Plan: true})
		require.NoError(t, err)
		d := tensor.NewDevice(b)
		require.NoError(t, d.Store(kernels.F16))
		net, err := nn.LoadUNet(d, weights.Synthetic(model, 1).ShapesOnly().Scope(), c, nn.LoadOptions{MeanOnly: true})
		require.NoError(t, err)
		require.NoError(t, d.Reserve(1<<30)) // as from the second call on
		x := d.New(1, 256, 256, 3)
		net.Forward(x, []float64{0}, make([]int, min(c.NumClasses, 1)))
		all, table := 0, ""
		for name, n := range cuda.Launches(b) {
			all += n
			table += fmt.Sprintf("\n%4d %s", n, name)
		}
		t.Logf("%s: %d launches%s", model, all, table)
		require.LessOrEqual(t, all, most)
		require.NoError(t, d.Close())
	}
}

// TestArenas: the weights of a network are a few pieces of memory, no larger than what arrays that lie apart take, to the last of the
// addresses that they begin at.
func TestArenas(t *testing.T) {
	open(t)
	for _, model := range []string{"photo", "ffhq_10m"} {
		for _, store := range []kernels.Type{kernels.F32, kernels.F16} {
			load := func(together int) (pieces int, taken int64) {
				cuda.Together(t, together)
				b, err := cuda.Open(cuda.Options{Plan: true})
				require.NoError(t, err)
				d := tensor.NewDevice(b)
				defer d.Close()
				require.NoError(t, d.Store(store))
				if model == "photo" {
					loadPhoto(t, d)
				} else {
					preset, ok := checkpoint.FindPreset(model)
					require.True(t, ok)
					c, err := nn.ParseUNetConfig(preset.UNet.Model)
					require.NoError(t, err)
					_, err = nn.LoadUNet(d, weights.Synthetic(model, 1).ShapesOnly().Scope(), c, nn.LoadOptions{MeanOnly: true})
					require.NoError(t, err)
				}
				taken = kernels.UsageOf(b).Weights
				return cuda.Pieces(b), taken
			}
			apart, needed := load(0)
			together, taken := load(32 << 20)
			t.Logf("%s, %v: %d pieces of memory, %d apart; %d bytes of weights, %d apart", model, store, together, apart, taken, needed)
			require.Less(t, 10*together, apart)
			require.LessOrEqual(t, taken, needed+255*int64(apart))
			require.GreaterOrEqual(t, taken, needed)
		}
	}
}
