package latent

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/weights"
)

func TestOpen(t *testing.T) {
	unet, stage, err := Open()
	require.NoError(t, err)
	for _, c := range []struct {
		f      *weights.File
		family string
	}{{unet, "latent-diffusion-unet"}, {stage, "autoencoder-tiny"}} {
		defer c.f.Close()
		info, err := c.f.Info()
		require.NoError(t, err)
		require.Equal(t, c.family, info.Family)
		require.Equal(t, "photo-latent", info.Name)
		require.NotEmpty(t, info.Version)
		require.Equal(t, "eps", info.Prediction)
		require.Empty(t, info.Guesses)
		for _, name := range c.f.Names() {
			x, _ := c.f.Tensor(name)
			require.Equal(t, weights.F16, x.DType)
			c.f.Scope().Floats(name, x.Shape...) // panics on a NaN
		}
		require.NoError(t, c.f.CheckAllRead())
	}
}
