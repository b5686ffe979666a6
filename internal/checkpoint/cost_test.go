package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/weights"
)

// TestLatentCost: what is known of Stable Diffusion's UNet: 860 million weights, and 0.8 TFLOP for a latent of 64 x 64 and
// the 77 tokens of a text.
func TestLatentCost(t *testing.T) {
	p, ok := FindPreset("sd-1.5")
	require.True(t, ok)
	c, err := ParseUNetConfig(p.UNet.Model)
	require.NoError(t, err)
	cost, err := LatentCost(dryrun.Machine{}, weights.Synthetic("sd", 1), c, 1, 64, 64)
	require.NoError(t, err)
	require.InEpsilon(t, 0.8e12, cost.FLOP, 0.05)
	require.Greater(t, cost.Memory.Weights, int64(4*859_000_000)) // those of the norms are tensors
	require.Positive(t, cost.Memory.Activations)
	odd, err := LatentCost(dryrun.Machine{}, weights.Synthetic("sd", 1), c, 1, 57, 64) // as 64 x 64
	require.NoError(t, err)
	require.Equal(t, cost, odd)
	t.Logf("%v, %.1f GFLOP", cost.Memory, cost.FLOP/1e9)
}
