package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// refused opens a path and expects an error of one line, of the kind and with the words.
func refused(t *testing.T, path string, o Options, kind error, words string) {
	t.Helper()
	_, err := Open(path, o)
	require.Error(t, err)
	require.ErrorIs(t, err, kind)
	require.ErrorContains(t, err, words)
	require.NotContains(t, err.Error(), "\n")
	require.Less(t, len(err.Error()), 600)
	e := new(Error)
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.File)
}

func TestRefusals(t *testing.T) {
	u := smallUNet(nn.AttendSelf)
	bare := func(change func([]weights.Tensor) []weights.Tensor) string {
		return save(t, change(made(unetLayout(u), "", 0)))
	}
	same := func(l []weights.Tensor) []weights.Tensor { return l }
	without := func(name string) func([]weights.Tensor) []weights.Tensor {
		return func(l []weights.Tensor) []weights.Tensor {
			return slices.DeleteFunc(l, func(x weights.Tensor) bool { return x.Name == name })
		}
	}
	reshaped := func(name string, shape ...int) func([]weights.Tensor) []weights.Tensor {
		return func(l []weights.Tensor) []weights.Tensor {
			for i := range l {
				if l[i].Name == name {
					l[i] = weights.FromFloats(name, make([]float32, l[i].Len()), shape...)
				}
			}
			return l
		}
	}
	latent := save(t, latentCheckpoint(t))
	for name, c := range map[string]struct {
		path  string
		o     Options
		kind  error
		words string
	}{
		"nothing known":      {save(t, []weights.Tensor{scalars("a", 1)}), Options{}, ErrUnrecognised, `1 tensors, the first is "a"`},
		"no tensors":         {save(t, nil), Options{}, ErrUnrecognised, "no tensors"},
		"one missing":        {bare(without("middle_block.0.in_layers.2.weight")), Options{}, ErrMissing, "middle_block.0.in_layers.2.weight"},
		"an end missing":     {bare(without("out.2.weight")), Options{}, ErrMissing, "out.2.weight"},
		"bias missing":       {bare(without("input_blocks.3.1.qkv.bias")), Options{}, ErrMissing, "input_blocks.3.1.qkv.bias"},
		"shape":              {bare(reshaped("middle_block.1.proj_out.weight", 32, 128, 1)), Options{}, ErrShape, "middle_block.1.proj_out.weight"},
		"one more":           {save(t, append(made(unetLayout(u), "", 0), scalars("zzz", 1))), Options{}, ErrUnused, "zzz"},
		"block missing":      {bare(without("output_blocks.3.0.in_layers.0.weight")), Options{}, ErrMissing, "output_blocks.3.0.in_layers.0.weight"},
		"two networks":       {save(t, append(made(unetLayout(u), "", 0), made(autoencoderLayout(smallStage(true)), "", 0)...)), Options{}, ErrMixed, "split it first"},
		"two sources":        {save(t, append(made(unetLayout(u), "", 0), made(unetLayout(u), "model.diffusion_model.", 0)...)), Options{}, ErrMixed, "split it first"},
		"wrong preset":       {bare(same), Options{Preset: "ffhq_10m"}, ErrConfig, "check in_channels"},
		"preset of others":   {bare(same), Options{Preset: "sd-vae"}, ErrConfig, "the configuration is for autoencoder-kl"},
		"preset lacks UNet":  {latent, Options{Preset: "sd-vae"}, ErrConfig, "no UNet"},
		"wrong latent":       {latent, Options{Preset: "ldm-ffhq-vq4"}, ErrConfig, "check in_channels"},
		"wrong source":       {bare(same), Options{Source: SourceDiffusers}, ErrConfig, "comes from guided-diffusion"},
		"wrong source again": {latent, Options{Source: SourceGuided}, ErrConfig, "comes from latent-diffusion"},
		"heads":              {bare(same), Options{Heads: 7}, ErrConfig, "7 heads"},
		"head channels":      {latent, Options{HeadChannels: 48}, ErrConfig, "0 heads"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.path, c.o, c.kind, c.words) })
	}
	for _, o := range []Options{{Preset: "x"}, {Source: "x"}, {Schedule: "x"}, {Heads: 1, HeadChannels: 1}, {ImageSize: -1},
		{Preset: "photo", Config: &weights.Info{}}} {
		_, err := Open("absent", o)
		require.ErrorIs(t, err, ErrConfig)
	}
	_, err := Open(filepath.Join(t.TempDir(), "absent"), Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestConverted: a file that carries its configuration is held against it.
func TestConverted(t *testing.T) {
	u := smallUNet(nn.AttendTransformer)
	write := func(info weights.Info, list []weights.Tensor) string {
		path := filepath.Join(t.TempDir(), "m.safetensors")
		require.NoError(t, weights.Write(path, list, info.Metadata()))
		return path
	}
	info := newInfo(FamilyLatent, "n", 16, linear, u)
	m := open(t, write(info, made(unetLayout(u), "", 0)), Options{})
	require.Equal(t, info, m.Components[0].Info)
	s := smallStage(false)
	m = open(t, write(newInfo(FamilyVQ, "n", 16, linear, s), made(autoencoderLayout(s), "", 0)), Options{})
	require.Equal(t, RoleFirstStage, m.Components[0].Role)

	refused(t, write(info, made(unetLayout(u), "", 0)[1:]), Options{}, ErrMissing, "time_embed.0.weight")
	refused(t, write(newInfo("other", "", 16, linear, u), made(unetLayout(u), "", 0)), Options{}, ErrUnsupported, "other")
	refused(t, write(newInfo(FamilyKL, "", 16, linear, s), made(autoencoderLayout(s), "", 0)), Options{}, ErrConfig, "num_embeddings")
	info.Model = json.RawMessage(`{"in_channels":1e99}`)
	refused(t, write(info, made(unetLayout(u), "", 0)), Options{}, ErrConfig, "configuration")
}

// TestConfigJSON: contradictions and hostility in config.json.
func TestConfigJSON(t *testing.T) {
	from := fixture(t, "diffusers_vq_model", "f16")
	good, err := os.ReadFile(filepath.Join(from, configFile))
	require.NoError(t, err)
	dir := t.TempDir()
	b, err := os.ReadFile(filepath.Join(from, "diffusion_pytorch_model.fp16.safetensors"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "diffusion_pytorch_model.fp16.safetensors"), b, 0o666))
	with := func(key, value string) string {
		var m map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(good, &m))
		if value == "" {
			delete(m, key)
		} else {
			m[key] = json.RawMessage(value)
		}
		b, err := json.Marshal(m)
		require.NoError(t, err)
		return string(b)
	}
	for name, c := range map[string]struct {
		text  string
		kind  error
		words string
	}{
		"empty":           {"", ErrConfig, "not a JSON object"},
		"not JSON":        {"{", ErrConfig, "not a JSON object"},
		"null":            {"null", ErrConfig, "not a JSON object"},
		"array":           {"[1]", ErrConfig, "not a JSON object"},
		"two objects":     {"{}{}", ErrConfig, "not a JSON object"},
		"no class":        {"{}", ErrConfig, "_class_name"},
		"class number":    {with("_class_name", "1"), ErrConfig, "_class_name"},
		"class unknown":   {with("_class_name", `"Transformer2DModel"`), ErrUnsupported, "Transformer2DModel"},
		"other class":     {with("_class_name", `"AutoencoderKL"`), ErrConfig, ""},
		"field unknown":   {with("zz", "1"), ErrConfig, `unknown field "zz"`},
		"act_fn":          {with("act_fn", `"gelu"`), ErrUnsupported, "act_fn"},
		"norm_type":       {with("norm_type", `"spatial"`), ErrUnsupported, "norm_type"},
		"wrong channels":  {with("block_out_channels", "[16,64]"), ErrShape, "the configuration means"},
		"more levels":     {with("block_out_channels", "[16,32,32]"), ErrConfig, "down_block_types"},
		"more blocks":     {with("layers_per_block", "2"), ErrMissing, "resnets.1"},
		"fewer vectors":   {with("num_vq_embeddings", "63"), ErrShape, "quantize.embedding.weight"},
		"no attention":    {with("mid_block_add_attention", "false"), ErrUnused, "attentions.0"},
		"groups":          {with("norm_num_groups", "7"), ErrConfig, "norm_groups"},
		"groups zero":     {with("norm_num_groups", "0"), ErrConfig, "norm_groups"},
		"huge":            {with("block_out_channels", "[9223372036854775807,32]"), ErrConfig, "channels"},
		"too huge":        {with("in_channels", "1e400"), ErrConfig, "VQModel"},
		"negative":        {with("latent_channels", "-3"), ErrConfig, "z_channels"},
		"million blocks":  {with("layers_per_block", "1000000"), ErrConfig, "num_res_blocks"},
		"fraction":        {with("in_channels", "3.5"), ErrConfig, "VQModel"},
		"text for number": {with("in_channels", `"3"`), ErrConfig, "VQModel"},
		"null for number": {with("in_channels", "null"), ErrConfig, "cannot be null"},
		"NaN":             {with("scaling_factor", "0"), ErrConfig, "scale_factor"},
		"size":            {with("sample_size", `{"a":1}`), ErrConfig, "sample_size"},
		"twice":           {strings.Replace(string(good), `"act_fn"`, `"in_channels": 4, "act_fn"`, 1), ErrConfig, "occurs twice"},
		"nested":          {with("zz", strings.Repeat("[", 5000)+strings.Repeat("]", 5000)), ErrConfig, "nested deeper"},
		"long list":       {with("down_block_types", "["+strings.Repeat(`"DownEncoderBlock2D",`, 5000)+`"x"]`), ErrConfig, "down_block_types"},
		"large":           {string(good) + strings.Repeat(" ", maxJSON), ErrConfig, "more than"},
		"block type":      {with("down_block_types", `["DownEncoderBlock2D","\u001b[31m\n"]`), ErrUnsupported, `\x1b[31m\n`},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, configFile), []byte(c.text), 0o666))
			refused(t, dir, Options{}, c.kind, c.words)
		})
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, configFile), good, 0o666))
	open(t, dir, Options{})
	refused(t, dir, Options{Preset: "photo"}, ErrConfig, "the configuration is for guided-diffusion-unet")
	refused(t, dir, Options{Preset: "ldm-ffhq-vq4"}, ErrConfig, "model_channels")
	refused(t, dir, Options{Source: SourceLatent}, ErrConfig, "comes from diffusers")
	refused(t, dir, Options{Variant: "fp32"}, ErrMissing, "fp32")
	require.NoError(t, os.Remove(filepath.Join(dir, "diffusion_pytorch_model.fp16.safetensors")))
	refused(t, dir, Options{}, ErrMissing, "no weights")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.safetensors"), b, 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b.safetensors"), b, 0o666))
	refused(t, dir, Options{}, ErrMixed, "a.safetensors and b.safetensors")
}

// TestOldNamesOnce: a file with the old and the new name of one tensor is two files mixed.
func TestOldNamesOnce(t *testing.T) {
	k := open(t, fixture(t, "diffusers_vq_model", "f16"), Options{}).Components[0]
	config, plan, err := k.Diffusers("")
	require.NoError(t, err)
	var list []weights.Tensor
	for _, p := range plan {
		b, err := p.Produce()
		require.NoError(t, err)
		list = append(list, weights.Tensor{Name: p.Name, DType: p.DType, Shape: p.Shape, Data: b})
		if strings.HasSuffix(p.Name, "encoder.mid_block.attentions.0.to_q.weight") {
			list = append(list, weights.Tensor{Name: strings.Replace(p.Name, "to_q", "query", 1), DType: p.DType, Shape: p.Shape, Data: b})
		}
	}
	path := save(t, list)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), configFile), config, 0o666))
	refused(t, path, Options{}, ErrMixed, "is the same tensor as")
}

// FuzzConfig: no config.json makes the reader panic or ask for much, and what it takes describes a network that has
// tensors, each with a name.
func FuzzConfig(f *testing.F) {
	for _, dir := range []string{testkit.Testdata("diffusers_vq_model", "f16")} {
		b, err := os.ReadFile(filepath.Join(dir, configFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, class := range []string{classUNet, classConditional, classKL, classVQ, classTiny} {
		f.Add([]byte(fmt.Sprintf(`{"_class_name":%q}`, class)))
	}
	for _, c := range []nn.LatentUNetConfig{smallUNet(nn.AttendSelf), smallUNet(nn.AttendTransformer), smallUNet(nn.AttendNone)} {
		fields, err := diffusersOfUNet(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(marshal(fields)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, err := parseJSON(b)
		if err == nil {
			var n network
			if n, err = networkOf(fields); err == nil {
				if len(n.layout) == 0 || len(n.layout) > 200_000 {
					t.Fatalf("%d tensors", len(n.layout))
				}
				for _, p := range n.layout {
					if len(n.names.theirs[p.name]) == 0 {
						t.Fatalf("%s has no name", p.name)
					}
				}
				return
			}
		}
		if e := new(Error); !errors.As(err, &e) {
			t.Fatalf("%T: %v", err, err)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Fatalf("more than a line: %v", err)
		}
	})
}

// TestMalformed: whatever is wrong with a file, the error is one line and nothing is left open.
func TestMalformed(t *testing.T) {
	root := fixture(t, "malformed")
	n := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root || d.Name() == "expectations.json" {
			return err
		}
		if dir, _ := filepath.Split(path); filepath.Clean(dir) != root {
			return nil // of a folder, opened as a whole
		}
		_, err = Open(path, Options{})
		require.Error(t, err, path)
		require.NotContains(t, err.Error(), "\n")
		n++
		return nil
	}))
	require.Greater(t, n, 100)
}
