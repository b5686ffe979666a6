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
