package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// TestFirstStageCost: first stages are rehearsed, and one that claims pictures beyond all measure is refused or priced, but
// nothing is taken for it.
func TestFirstStageCost(t *testing.T) {
	cost := func(c nn.AutoencoderConfig, size int) (total int64, err error) {
		k := Component{Role: RoleFirstStage, Info: newInfo(familyOf(c), "", size, linear, c), Tensors: made(autoencoderLayout(c), "", 0)}
		r, err := k.Cost(dryrun.Machine{})
		return r.Memory.Total(), err
	}
	for _, double := range []bool{false, true} {
		small, err := cost(smallStage(double), 16)
		require.NoError(t, err)
		large, err := cost(smallStage(double), 256)
		require.NoError(t, err)
		require.Greater(t, large, small)
		require.Greater(t, small, int64(100_000))
		_, err = cost(smallStage(double), 1<<16)
		require.NoError(t, err)
	}
	flat := smallStage(true)
	flat.Channels, flat.DownAttention, flat.UpAttention = flat.Channels[:1], flat.DownAttention[:1], flat.UpAttention[:1]
	_, err := cost(flat, 1<<16)
	require.ErrorContains(t, err, "pixels")
}

// TestFit: a limit makes a decoder run in bands that are predicted to stay below it, and do so; what is impossible is said.
func TestFit(t *testing.T) {
	p, ok := FindPreset("ldm-ffhq-vq4")
	require.True(t, ok)
	const edge = 512
	f := weights.Synthetic("vq", 1)
	cost := func(tiling nn.Tiling) (dryrun.Cost, error) {
		return DecodeCost(dryrun.Machine{CPU: cpu.Options{Threads: 2}}, f, *p.FirstStage, 1, edge, edge, tiling)
	}
	none, whole, err := Fit(0, Tilings(edge, edge), cost)
	require.NoError(t, err)
	require.Zero(t, none)
	if whole.Memory.Weights == 0 {
		t.Skip("the reference backend does not count")
	}
	for _, share := range []float64{0.9, 0.6} {
		limit := whole.Memory.Weights + int64(share*float64(whole.Memory.Activations+whole.Memory.Scratch))
		tiling, c, err := Fit(limit, Tilings(edge, edge), cost)
		require.NoError(t, err)
		require.Positive(t, tiling.Pixels)
		require.LessOrEqual(t, c.Memory.Total(), limit)
		t.Logf("%v, %.0f GFLOP -> %+v: %v, %.0f GFLOP", whole.Memory, whole.FLOP/1e9, tiling, c.Memory, c.FLOP/1e9)
	}
	_, least, err := Fit(whole.Memory.Weights, Tilings(edge, edge), cost)
	require.ErrorIs(t, err, kernels.ErrOutOfMemory)
	require.Less(t, least.Memory.Activations, whole.Memory.Activations/2)

	// What the cheap rehearsal rules out is not tried at length.
	long := map[nn.Tiling]bool{}
	limit := whole.Memory.Total() - 1
	tiling, _, err := Fit(limit, Tilings(edge, edge), cost, func(t nn.Tiling) (dryrun.Cost, error) {
		long[t] = true
		c, err := cost(t)
		if !t.Lean {
			c.Memory.Activations = limit
		}
		return c, err
	})
	require.NoError(t, err)
	require.True(t, tiling.Lean)
	require.False(t, long[nn.Tiling{}])
}
