package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// made gives every tensor of a layout values of its own.
func made(list []param, prefix string, seed float64) []weights.Tensor {
	var out []weights.Tensor
	for _, p := range list {
		n := 1
		for _, d := range p.shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			seed++
			values[i] = float32(math.Sin(seed))
		}
		out = append(out, weights.FromFloats(prefix+p.name, values, p.shape...))
	}
	return out
}

// smallUNet has a level without and one with attention.
func smallUNet(kind string) nn.LatentUNetConfig {
	c := nn.LatentUNetConfig{
		InChannels: 4, OutChannels: 4, ModelChannels: 32, TimeEmbedDim: 128, Channels: []int{32, 64}, NumResBlocks: 1,
		DownAttention: []string{nn.AttendNone, kind}, MiddleAttention: kind, UpAttention: []string{nn.AttendNone, kind}, Heads: []int{1, 2},
		DownSample: []string{nn.SampleConv}, UpSample: []string{nn.SampleConv}, DownsamplePadding: nn.PadBoth,
		NormGroups: 32, NormEps: 1e-5, MiddleNormGroups: 32, TimeCosFirst: true,
	}
	if kind == nn.AttendTransformer {
		c.ContextDim, c.TransformerDepth, c.TransformerNormEps = 12, []int{1, 2}, 1e-6
	}
	return c
}

func smallStage(double bool) nn.AutoencoderConfig {
	c := nn.AutoencoderConfig{
		InChannels: 3, OutChannels: 3, ModelChannels: 32, Channels: []int{32, 64}, NumResBlocks: 1, ZChannels: 4, DoubleZ: double, EmbedDim: 4,
		DownAttention: []bool{false, true}, MiddleAttention: true, UpAttention: []bool{false, true}, ConvResample: true,
		DownsamplePadding: nn.PadRightBottom, QuantConv: true, PostQuantConv: true, NormGroups: 32, NormEps: 1e-6, ScaleFactor: 1,
	}
	if !double {
		c.NumEmbeddings = 20
	}
	return c
}

// scalars makes a vector.
func scalars(name string, v ...float32) weights.Tensor { return weights.FromFloats(name, v, len(v)) }

func betas(t *testing.T, s weights.Schedule) []float32 {
	t.Helper()
	v, err := s.Values()
	require.NoError(t, err)
	out := make([]float32, len(v))
	for i := range v {
		out[i] = float32(v[i])
	}
	return out
}

// latentCheckpoint is what a training of latent-diffusion leaves.
func latentCheckpoint(t *testing.T) []weights.Tensor {
	u, s := unetLayout(smallUNet(nn.AttendSelf)), autoencoderLayout(smallStage(false))
	list := made(u, "model.diffusion_model.", 0)
	for _, e := range made(u, "diffusion_model.", 1e6) {
		e.Name = "model_ema." + dotless(e.Name)
		list = append(list, e)
	}
	list = append(list, made(s, "first_stage_model.", 2e6)...)
	return append(list, scalars("betas", betas(t, ldmLinear)...), weights.FromFloats("scale_factor", []float32{0.5}),
		weights.FromFloats("model_ema.decay", []float32{0.99}), scalars("sqrt_alphas_cumprod", 1), scalars("cond_stage_model.a.weight", 1),
		scalars("first_stage_model.loss.discriminator.weight", 1))
}

func dotless(s string) string {
	return string(slices.DeleteFunc([]byte(s), func(c byte) bool { return c == '.' }))
}

func save(t *testing.T, list []weights.Tensor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.safetensors")
	require.NoError(t, weights.Write(path, list, map[string]string{"format": "pt"}))
	return path
}

func open(t *testing.T, path string, o Options) *Model {
	t.Helper()
	m, err := Open(path, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// fixture is a path in the shared fixtures, or in a copy of the smallest of them that the module has.
func fixture(t *testing.T, parts ...string) string {
	t.Helper()
	path := filepath.Join(parts...)
	if p := testkit.Testdata(path); exists(p) {
		return p
	}
	return testkit.Shared(t, "fixtures", path)
}

// caseConfig reads the config of a case.
func caseConfig(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(fixture(t, name, "case.json"))
	require.NoError(t, err)
	var c struct {
		Config json.RawMessage `json:"config"`
	}
	require.NoError(t, json.Unmarshal(b, &c))
	require.NoError(t, json.Unmarshal(c.Config, v))
}

// requireSame compares tensors by name, type, shape and bytes.
func requireSame(t *testing.T, want, got []weights.Tensor) {
	t.Helper()
	index := map[string]weights.Tensor{}
	for _, x := range got {
		index[x.Name] = x
	}
	require.Len(t, index, len(want))
	for _, w := range want {
		g, ok := index[w.Name]
		require.True(t, ok, w.Name)
		require.Equal(t, w.DType, g.DType, w.Name)
		require.Equal(t, fmt.Sprint(w.Shape), fmt.Sprint(g.Shape), w.Name)
		require.Equal(t, w.Data, g.Data, w.Name)
	}
}
