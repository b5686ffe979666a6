package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// tiny is a network of two levels with attention on the second.
func tiny() nn.UNetConfig {
	return nn.UNetConfig{InChannels: 3, OutChannels: 6, ModelChannels: 32, NumResBlocks: 1, ChannelMult: []float64{1, 2},
		AttentionResolutions: []int{2}, NumHeads: 1, NumHeadChannels: 32, NumHeadsUpsample: -1,
		UseScaleShiftNorm: true, ResBlockUpDown: true, ConvResample: true}
}

func tinyInfo(t *testing.T, c nn.UNetConfig) weights.Info {
	t.Helper()
	info := presets["ffhq_10m"]
	info.Name = "tiny"
	var err error
	info.Model, err = json.Marshal(c)
	require.NoError(t, err)
	return info
}

// array makes an F32 tensor with values of its own.
func array(name string, shape ...int) weights.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	t := weights.Tensor{Name: name, DType: weights.F32, Shape: shape}
	for i := range n {
		v := float32(math.Sin(float64(i*(len(name)+1)))) / 3
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
	}
	return t
}

// tinyTensors is a whole network of the configuration.
func tinyTensors() []weights.Tensor {
	f := weights.Synthetic("tiny", 1)
	d, _ := dryrun.Open()
	if _, err := nn.LoadUNet(d, f.Scope(), tiny(), nn.LoadOptions{}); err != nil {
		panic(err)
	}
	var list []weights.Tensor
	for _, name := range f.Names() {
		x, _ := f.Tensor(name)
		list = append(list, x)
	}
	return list
}

// folder has in.safetensors and config.json; the returned function gives paths in it.
func folder(t *testing.T, list []weights.Tensor, info weights.Info) func(name string) string {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, weights.Write(path("in.safetensors"), list, map[string]string{"format": "pt"}))
	b, err := json.Marshal(info)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path("config.json"), b, 0o644))
	return path
}

func call(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(context.Background(), args, &out, &err)
	return code, out.String(), err.String()
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestRoundTrip(t *testing.T) {
	info := tinyInfo(t, tiny())
	path := folder(t, tinyTensors(), info)
	code, stdout, stderr := call("-i", path("in.safetensors"), "-o", path("out.safetensors"), "--config", path("config.json"))
	require.Zero(t, code, stderr)
	require.Empty(t, stderr)
	require.Contains(t, stdout, "tiny, guided-diffusion-unet: 144 tensors, 828358 parameters")

	f, err := weights.Open(path("out.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	got, err := f.Info()
	require.NoError(t, err)
	require.Equal(t, info, got)
	require.Len(t, f.Names(), len(tinyTensors()))
	for _, want := range tinyTensors() {
		tt, ok := f.Tensor(want.Name)
		require.True(t, ok)
		require.Equal(t, want.Data, tt.Data)
		require.Equal(t, want.Shape, tt.Shape)
	}

	// A converted file knows what it is: again, the same bytes; then compressed F16 and back.
	code, _, stderr = call("-i", path("out.safetensors"), "-o", path("again.safetensors"))
	require.Zero(t, code, stderr)
	requireSame(t, path("out.safetensors"), path("again.safetensors"))
	code, stdout, stderr = call("-i", path("out.safetensors"), "-o", path("half.zst"), "--dtype", "f16", "--json")
	require.Zero(t, code, stderr)
	var r report
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.EqualValues(t, 828358, r.Parameters)
	require.EqualValues(t, 2*828358, r.DataBytes)
	h, err := weights.Open(path("half.zst"))
	require.NoError(t, err)
	require.Equal(t, h.Size(), r.FileBytes)
	tt, _ := h.Tensor("out.2.weight")
	require.Equal(t, weights.F16, tt.DType)

	// --zstd compresses whatever the name; the reader goes by the contents.
	code, _, stderr = call("-i", path("half.zst"), "-o", path("plain.safetensors"))
	require.Zero(t, code, stderr)
	code, _, stderr = call("-i", path("plain.safetensors"), "-o", path("zipped.safetensors"), "--zstd")
	require.Zero(t, code, stderr)
	requireSame(t, path("half.zst"), path("zipped.safetensors"))
}

func requireSame(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	require.NoError(t, err)
	y, err := os.ReadFile(b)
	require.NoError(t, err)
	require.Equal(t, x, y)
}

func TestDryRun(t *testing.T) {
	path := folder(t, tinyTensors(), tinyInfo(t, tiny()))
	code, stdout, stderr := call("-i", path("in.safetensors"), "--config", path("config.json"), "--dtype", "bf16", "--dry-run")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "F32->BF16  [128 32]             time_embed.0.weight\n")
	require.Contains(t, stdout, "828358 parameters")
	code, stdout, stderr = call("-i", path("in.safetensors"), "-o", path("x"), "--config", path("config.json"), "--dry-run", "--json")
	require.Zero(t, code, stderr)
	var r report
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.Len(t, r.List, 144)
	require.Equal(t, []string{"config.json", "in.safetensors"}, files(t, path("")))
}

// TestRefusals: exit code, one line, no file left.
func TestRefusals(t *testing.T) {
	path := folder(t, tinyTensors(), tinyInfo(t, tiny()))
	require.NoError(t, os.WriteFile(path("old"), []byte("old"), 0o644))
	require.NoError(t, os.WriteFile(path("m.pt"), []byte("PK\x03\x04\x00\x00\x08\x08\x00\x00"), 0o644))
	require.NoError(t, os.WriteFile(path("bad.json"), []byte("{}"), 0o644))
	nan := tinyTensors()
	copy(nan[2].Data[8:], []byte{0, 0, 0xc0, 0x7f})
	require.NoError(t, weights.Write(path("nan.safetensors"), nan, nil))
	big := tinyTensors()
	copy(big[2].Data[8:], []byte{0, 0, 0x80, 0x7e})
	require.NoError(t, weights.Write(path("big.safetensors"), big, nil))
	require.NoError(t, weights.Write(path("none.safetensors"), nil, nil))
	before := files(t, path(""))

	in, out, config := []string{"-i", path("in.safetensors")}, []string{"-o", path("out")}, []string{"--config", path("config.json")}
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no arguments":      {nil, 2, "no input"},
		"no output":         {in, 2, "no output"},
		"unknown flag":      {[]string{"--bad"}, 2, "unknown flag"},
		"argument":          {[]string{"x"}, 2, "unexpected argument"},
		"no configuration":  {join(in, out), 2, "give --preset"},
		"both":              {join(in, out, config, []string{"--preset", "photo"}), 2, "exclude each other"},
		"unknown preset":    {join(in, out, []string{"--preset", "x"}), 2, "expected one of ffhq_10m"},
		"unknown dtype":     {join(in, out, config, []string{"--dtype", "f8"}), 2, "expected f32, f16 or bf16"},
		"unknown family":    {join(in, out, config, []string{"--family", "x"}), 2, "expected one of guided-diffusion"},
		"print what":        {[]string{"--print-config"}, 2, "needs --preset"},
		"other preset":      {join(in, out, []string{"--preset", "imagenet256"}), 1, "check model_channels"},
		"absent":            {join([]string{"-i", path("absent")}, out, config), 1, "no such file"},
		"checkpoint":        {join([]string{"-i", path("m.pt")}, out, config), 1, "safetensors.torch.save_file"},
		"config absent":     {join(in, out, []string{"--config", path("absent")}), 1, "no such file"},
		"config bad":        {join(in, out, []string{"--config", path("bad.json")}), 1, "format is 0"},
		"NaN":               {join([]string{"-i", path("nan.safetensors")}, out, config), 1, `"input_blocks.1.0.emb_layers.1.bias" holds NaN at index 2`},
		"overflow":          {join([]string{"-i", path("big.safetensors")}, out, config, []string{"--dtype", "f16"}), 1, "too large for F16"},
		"no tensors":        {join([]string{"-i", path("none.safetensors")}, out, config), 1, "no tensors"},
		"output exists":     {join(in, []string{"-o", path("old")}, config), 1, "use --force to replace it"},
		"folder is missing": {join(in, []string{"-o", path("no/out")}, config), 1, "no such file"},
		"not a file":        {join(in, []string{"-o", path("."), "--force"}, config), 1, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := call(c.args...)
			require.Equal(t, c.code, code, stderr)
			require.Contains(t, stderr, c.want)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
			require.Empty(t, stdout)
			require.Equal(t, before, files(t, path("")))
		})
	}
	b, err := os.ReadFile(path("old"))
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	code, _, stderr := call(join(in, []string{"-o", path("old"), "--force"}, config)...)
	require.Zero(t, code, stderr)
	requireOpens(t, path("old"))
}

func requireOpens(t *testing.T, path string) {
	t.Helper()
	f, err := weights.Open(path)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestInterrupted(t *testing.T) {
	path := folder(t, tinyTensors(), tinyInfo(t, tiny()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"-i", path("in.safetensors"), "-o", path("out"), "--config", path("config.json")}, &out, &errs)
	require.Equal(t, 130, code)
	require.Equal(t, []string{"config.json", "in.safetensors"}, files(t, path("")))
}

// TestMismatch changes one thing of the configuration at a time; the message must name it.
func TestMismatch(t *testing.T) {
	require.NoError(t, checkGuided(tinyInfo(t, tiny()), tinyTensors()))
	for name, c := range map[string]struct {
		change func(*nn.UNetConfig)
		want   string
	}{
		"model_channels":   {func(c *nn.UNetConfig) { c.ModelChannels = 64 }, "check model_channels"},
		"in_channels":      {func(c *nn.UNetConfig) { c.InChannels, c.OutChannels = 4, 8 }, "in_channels"},
		"out_channels":     {func(c *nn.UNetConfig) { c.OutChannels = 3 }, "learned_range"},
		"num_classes":      {func(c *nn.UNetConfig) { c.NumClasses = 10 }, "check num_classes"},
		"num_res_blocks":   {func(c *nn.UNetConfig) { c.NumResBlocks = 2 }, "check num_res_blocks"},
		"levels":           {func(c *nn.UNetConfig) { c.ChannelMult = []float64{1, 2, 2} }, "channel_mult"},
		"channel_mult":     {func(c *nn.UNetConfig) { c.ChannelMult = []float64{1, 3} }, "check channel_mult"},
		"attention none":   {func(c *nn.UNetConfig) { c.AttentionResolutions = nil }, "check attention_resolutions"},
		"attention more":   {func(c *nn.UNetConfig) { c.AttentionResolutions = []int{1, 2} }, "check attention_resolutions"},
		"scale-shift":      {func(c *nn.UNetConfig) { c.UseScaleShiftNorm = false }, "check use_scale_shift_norm"},
		"resblock_updown":  {func(c *nn.UNetConfig) { c.ResBlockUpDown = false }, "check resblock_updown"},
		"size zero":        {func(c *nn.UNetConfig) { c.ModelChannels = 0 }, "model_channels 0"},
		"size enormous":    {func(c *nn.UNetConfig) { c.NumResBlocks = math.MaxInt }, "num_res_blocks"},
		"negative classes": {func(c *nn.UNetConfig) { c.NumClasses = -1 }, "num_classes -1"},
	} {
		t.Run(name, func(t *testing.T) {
			config := tiny()
			c.change(&config)
			require.ErrorContains(t, checkGuided(tinyInfo(t, config), tinyTensors()), c.want)
		})
	}
	info := tinyInfo(t, tiny())
	info.Model = json.RawMessage(`{"chanels":3}`)
	require.ErrorContains(t, checkGuided(info, nil), "unknown field")
	more := append(tinyTensors(), array("label_emb.weight", 10, 128))
	require.ErrorContains(t, checkGuided(tinyInfo(t, tiny()), more), `"label_emb.weight" exists`)
}

func TestPresets(t *testing.T) {
	for name, info := range presets {
		require.NoError(t, info.Check(), name)
		require.Equal(t, name, info.Name)
		code, stdout, stderr := call("--preset", name, "--print-config")
		require.Zero(t, code, stderr)
		got, err := weights.ParseInfo([]byte(stdout))
		require.NoError(t, err)
		require.JSONEq(t, string(info.Model), string(got.Model))
	}
	code, stdout, _ := call("--help")
	require.Zero(t, code)
	require.Contains(t, stdout, "Examples:")
}
