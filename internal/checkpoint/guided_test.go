package checkpoint_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// fixture is a path in the module's testdata, or else in the shared fixtures.
func fixture(t *testing.T, parts ...string) string {
	t.Helper()
	if p := testkit.Testdata(parts...); exists(p) {
		return p
	}
	return testkit.Shared(t, append([]string{"fixtures"}, parts...)...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func open(t *testing.T, path string, o checkpoint.Options) *checkpoint.Model {
	t.Helper()
	m, err := checkpoint.Open(path, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// TestGuided: each guided-diffusion case, from each of its files, without a preset: what the file tells is right, what it
// does not is listed; and with the heads given, the network computes what PyTorch computed.
func TestGuided(t *testing.T) {
	for _, c := range []struct{ name, file string }{
		{"gd_class_cond", "model.pt"}, {"gd_class_cond", "model.safetensors"},
		{"gd_conv_resample", "model.pt"}, {"gd_conv_resample", "model.safetensors"},
		{"gd_ffhq_style", "model.pt"}, {"gd_ffhq_style", "model.safetensors"},
		{"gd_imagenet_style", "model.safetensors"},
		{"gd_batch_nonsquare", "../gd_imagenet_style/model.safetensors"},
	} {
		t.Run(c.name+"/"+filepath.Base(c.file), func(t *testing.T) {
			path := fixture(t, c.name, c.file)
			k, err := parity.Load(filepath.Dir(fixture(t, c.name, "case.json")))
			require.NoError(t, err)
			defer k.Close()
			want, err := k.UNetConfig()
			require.NoError(t, err)
			m := open(t, path, checkpoint.Options{})
			require.Len(t, m.Components, 1)
			u := m.Components[0]
			require.Equal(t, checkpoint.RoleUNet, u.Role)
			require.Equal(t, checkpoint.FamilyGuided, u.Info.Family)
			require.NoError(t, u.Info.Check())
			require.Equal(t, want.OutChannels == 6, u.Info.LearnedRange)
			found, err := nn.ParseUNetConfig(u.Info.Model)
			require.NoError(t, err)
			known := found
			known.NumHeads, known.NumHeadChannels, known.NumHeadsUpsample = want.NumHeads, want.NumHeadChannels, want.NumHeadsUpsample
			known.UseNewAttentionOrder = want.UseNewAttentionOrder
			require.Equal(t, want, known)
			require.Empty(t, m.LeftOut)
			for _, g := range []string{"heads", "use_new_attention_order", "schedule", "image_size", "prediction"} {
				require.True(t, slices.ContainsFunc(u.Info.Guesses, func(s string) bool { return strings.Contains(s, g) || g == "heads" && strings.Contains(s, "num_head") }), g)
			}

			o := checkpoint.Options{Heads: want.NumHeads, NewAttentionOrder: want.UseNewAttentionOrder}
			if want.NumHeadChannels > 0 {
				o = checkpoint.Options{HeadChannels: want.NumHeadChannels, NewAttentionOrder: want.UseNewAttentionOrder}
			}
			u = open(t, path, o).Components[0]
			found, err = nn.ParseUNetConfig(u.Info.Model)
			require.NoError(t, err)
			require.NotContains(t, strings.Join(u.Info.Guesses, " "), "num_head")
			if testing.Short() {
				return
			}
			f, err := weights.FromTensors("converted", u.Tensors, nil)
			require.NoError(t, err)
			b, err := cpu.Open(cpu.Options{})
			require.NoError(t, err)
			d := tensor.NewDevice(b)
			defer d.Close()
			net, err := nn.LoadUNet(d, f.Scope(), found, nn.LoadOptions{})
			require.NoError(t, err)
			require.NoError(t, f.CheckAllRead())
			for _, r := range k.Runs {
				got, _, err := k.Forward(d, net, r)
				require.NoError(t, err)
				out := r.Outputs["out"]
				expected, _, err := k.Array(out)
				require.NoError(t, err)
				maxAbs, rel := parity.Compare(got, expected)
				require.LessOrEqual(t, maxAbs, k.Tolerance[out].MaxAbs, out)
				require.LessOrEqual(t, rel, k.Tolerance[out].RelL2, out)
			}
		})
	}
}
