package photo

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOpen(t *testing.T) {
	f, err := Open()
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Info()
	require.NoError(t, err)
	require.Equal(t, "guided-diffusion-unet", info.Family)
	require.Equal(t, "photo", info.Name)
	require.NotEmpty(t, info.Version)
	require.Equal(t, "eps", info.Prediction)
	for _, name := range f.Names() {
		tt, _ := f.Tensor(name)
		f.Scope().Floats(name, tt.Shape...) // panics on a NaN
	}
	require.NoError(t, f.CheckAllRead())
	first, ok := f.Scope().At("input_blocks", 0, 0).Shape("weight")
	require.True(t, ok)
	require.Equal(t, []int{3, 3, 3}, first[1:], "RGB")
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		f, err := Open()
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
