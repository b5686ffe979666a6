package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/nn"
)

// TestFirstStageCost: first stages are rehearsed, and one that claims pictures beyond all measure is refused or priced, but
// nothing is taken for it.
func TestFirstStageCost(t *testing.T) {
	cost := func(c nn.AutoencoderConfig, size int) (total int64, err error) {
		k := Component{Role: RoleFirstStage, Info: newInfo(familyOf(c), "", size, linear, c), Tensors: made(autoencoderLayout(c), "", 0)}
		r, err := k.Cost()
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
