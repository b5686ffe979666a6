package nn_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// tilings are bands of the least height, of odd and even ones, and one with a rest.
func tilings() (all []nn.Tiling) {
	for _, pixels := range []int{1, 150, 400, 1100} {
		all = append(all, nn.Tiling{Pixels: pixels}, nn.Tiling{Pixels: pixels, Lean: true})
	}
	return all
}

// TestTiling: the cases' first stages, and kinds that no case has, compute the same in bands as whole, in batches too.
func TestTiling(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("takes minutes on the reference's loops, of which it shows nothing")
	}
	type load func(d *tensor.Device, o nn.LoadOptions) (nn.FirstStage, error)
	all := map[string]load{}
	for _, dir := range stageCases(t) {
		c, err := parity.Load(dir)
		require.NoError(t, err)
		m, err := checkpoint.Open(filepath.Join(dir, c.Weights[0].File), checkpoint.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { m.Close(); c.Close() })
		if stage, ok := m.Component(checkpoint.RoleFirstStage); ok {
			all[filepath.Base(dir)] = stage.LoadFirstStage
		}
	}
	plain := smallAutoencoder()
	plain.ConvResample, plain.QuantConv, plain.PostQuantConv, plain.MiddleAttention = false, false, false, false
	all["plain"] = func(d *tensor.Device, o nn.LoadOptions) (nn.FirstStage, error) {
		return nn.LoadAutoencoder(d, weights.Synthetic("plain", 1).Scope(), plain, o)
	}
	all["tiny"] = func(d *tensor.Device, o nn.LoadOptions) (nn.FirstStage, error) {
		return nn.LoadAutoencoderTiny(d, weights.Synthetic("tiny", 1).Scope(), smallTiny(), o)
	}
	b, err := cpu.Open(cpu.Options{Threads: 2})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	defer d.Close()
	for name, load := range all {
		pass := func(o nn.LoadOptions) (z, x []float32) {
			defer d.Tidy()()
			s, err := load(d, o)
			require.NoError(t, err)
			f := s.Downsampling()
			e, err := s.Encode(picture(d, 2, 9*f, 7*f, s.PictureChannels()))
			require.NoError(t, err)
			require.Equal(t, [4]int{2, 9, 7, s.LatentChannels()}, e.Shape())
			// Not of e: what is nearest in a code book may change by rounding.
			p, err := s.Decode(picture(d, 2, 13, 11, s.LatentChannels()))
			require.NoError(t, err)
			require.Equal(t, [4]int{2, 13 * f, 11 * f, p.C()}, p.Shape())
			z, err = e.Floats()
			require.NoError(t, err)
			x, err = p.Floats()
			require.NoError(t, err)
			return z, x
		}
		wantZ, wantX := pass(nn.LoadOptions{})
		for _, tiling := range tilings() {
			t.Run(fmt.Sprintf("%s/%+v", name, tiling), func(t *testing.T) {
				z, x := pass(nn.LoadOptions{Tiling: tiling})
				same(t, z, wantZ)
				same(t, x, wantX)
				again, _ := pass(nn.LoadOptions{Tiling: tiling})
				require.Equal(t, z, again)
			})
		}
	}
}

// same fails where arrays differ by 1e-4, by their norms or by the largest element.
func same(t *testing.T, got, want []float32) {
	t.Helper()
	most, rel := parity.Compare(got, want)
	scale := 0.0
	for _, v := range want {
		scale = max(scale, float64(v), -float64(v))
	}
	require.Less(t, rel, 1e-4)
	require.Less(t, most, 1e-4*scale)
}
