package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/internal/testkit"
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
	p, _ := checkpoint.FindPreset("ffhq_10m")
	info := *p.UNet
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
	d, err := dryrun.Open(dryrun.Machine{})
	if err != nil {
		panic(err)
	}
	if _, err := nn.LoadUNet(d.Device, f.Scope(), tiny(), nn.LoadOptions{}); err != nil {
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
	require.NotContains(t, stdout, "guessed")

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
		"unknown component": {join(in, out, []string{"--component", "x"}), 2, "expected unet or first_stage"},
		"unknown target":    {join(in, out, []string{"--to", "x"}), 2, "expected guided or diffusers"},
		"heads and width":   {join(in, out, []string{"--heads", "1", "--head-channels", "1"}), 2, "exclude each other"},
		"shards and zstd":   {join(in, out, []string{"--zstd", "--max-shard-size", "1MB"}), 2, "exclude each other"},
		"shard size":        {join(in, out, []string{"--max-shard-size", "huge"}), 2, "expected a size"},
		"wrong family":      {join(in, out, []string{"--family", "diffusers"}), 1, "comes from guided-diffusion"},
		"no component":      {join(in, out, []string{"--component", "first_stage"}), 1, "holds no first_stage"},
		"latent preset":     {join(in, out, []string{"--preset", "sd-vae"}), 1, "is for autoencoder-kl"},
		"both":              {join(in, out, config, []string{"--preset", "photo"}), 2, "exclude each other"},
		"unknown preset":    {join(in, out, []string{"--preset", "x"}), 2, "expected one of ffhq_10m"},
		"unknown dtype":     {join(in, out, config, []string{"--dtype", "f8"}), 2, "expected f32, f16 or bf16"},
		"unknown family":    {join(in, out, config, []string{"--family", "x"}), 2, "expected one of guided-diffusion"},
		"print what":        {[]string{"--print-config"}, 2, "needs --preset"},
		"other preset":      {join(in, out, []string{"--preset", "imagenet256"}), 1, "check model_channels"},
		"absent":            {join([]string{"-i", path("absent")}, out, config), 1, "no such file"},
		"checkpoint":        {join([]string{"-i", path("m.pt")}, out, config), 1, "m.pt"},
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
	path := folder(t, tinyTensors(), tinyInfo(t, tiny()))
	try := func(info weights.Info) string {
		b, err := json.Marshal(info)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path("config.json"), b, 0o644))
		code, _, stderr := call("-i", path("in.safetensors"), "--config", path("config.json"), "--dry-run")
		require.Equal(t, 1, code)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		return stderr
	}
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
			require.Contains(t, try(tinyInfo(t, config)), c.want)
		})
	}
	info := tinyInfo(t, tiny())
	info.Model = json.RawMessage(`{"chanels":3}`)
	require.Contains(t, try(info), "unknown field")
}

func TestPresets(t *testing.T) {
	for _, name := range checkpoint.PresetNames() {
		code, stdout, stderr := call("--preset", name, "--print-config")
		require.Zero(t, code, stderr)
		got, err := weights.ParseInfo([]byte(stdout))
		require.NoError(t, err)
		require.Equal(t, name, got.Name)
	}
	code, stdout, _ := call("--preset", "sd-1.5", "--print-config", "--component", "first_stage")
	require.Zero(t, code)
	require.Contains(t, stdout, "autoencoder-kl")
	code, _, stderr := call("--preset", "photo", "--print-config", "--component", "first_stage")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "has no first_stage")
	code, stdout, _ = call("--help")
	require.Zero(t, code)
	require.Contains(t, stdout, "Examples:")
}

// TestGuesses: without a preset the architecture is found, and what nobody said is printed as a guess.
func TestGuesses(t *testing.T) {
	path := folder(t, tinyTensors(), tinyInfo(t, tiny()))
	code, stdout, stderr := call("-i", path("in.safetensors"), "-o", path("out.safetensors"))
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "guessed: num_head_channels 64: the file does not tell\n")
	require.Contains(t, stdout, "guessed: schedule linear from 0.0001 to 0.02 in 1000 steps")
	code, stdout, stderr = call("-i", path("in.safetensors"), "-o", path("out2.safetensors"), "--head-channels", "32", "--schedule", "cosine",
		"--image-size", "32", "--prediction", "v", "--new-attention-order")
	require.Zero(t, code, stderr)
	require.NotContains(t, stdout, "guessed")
	f, err := weights.Open(path("out2.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Info()
	require.NoError(t, err)
	require.Equal(t, "v", info.Prediction)
	require.Equal(t, 32, info.ImageSize)
	require.Len(t, info.Schedule.Betas, 1000)
	c, err := nn.ParseUNetConfig(info.Model)
	require.NoError(t, err)
	require.Equal(t, 32, c.NumHeadChannels)
	require.True(t, c.UseNewAttentionOrder)

	code, stdout, stderr = call("-i", path("in.safetensors"), "--dry-run", "--json")
	require.Zero(t, code, stderr)
	var r report
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.Greater(t, r.Memory, int64(4*828358))
	require.Equal(t, "input_blocks.0", r.Layers[0].Name)
	var sum int64
	for _, l := range r.Layers {
		sum += l.Parameters
	}
	require.EqualValues(t, 828358, sum)
}

// TestGuidedAndBack: --to guided gives a plain state dict with the bytes that came.
func TestGuidedAndBack(t *testing.T) {
	path := folder(t, tinyTensors(), tinyInfo(t, tiny()))
	for _, args := range [][]string{
		{"-i", path("in.safetensors"), "-o", path("ours.safetensors"), "--config", path("config.json")},
		{"-i", path("ours.safetensors"), "-o", path("back.safetensors"), "--to", "guided"},
		{"-i", path("ours.safetensors"), "-o", path("hf"), "--to", "diffusers"},
		{"-i", path("hf"), "-o", path("latent.safetensors")},
	} {
		code, _, stderr := call(args...)
		require.Zero(t, code, stderr)
	}
	requireSame(t, path("in.safetensors"), path("back.safetensors"))
	f, err := weights.Open(path("back.safetensors"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"format": "pt"}, f.Metadata())
	require.NoError(t, f.Close())
	require.Equal(t, []string{"config.json", "diffusion_pytorch_model.safetensors"}, files(t, path("hf")))
}

// TestShards: an output in pieces reads back equal.
func TestShards(t *testing.T) {
	path := folder(t, tinyTensors(), tinyInfo(t, tiny()))
	code, stdout, stderr := call("-i", path("in.safetensors"), "-o", path("s/out.safetensors"), "--config", path("config.json"), "--max-shard-size", "1MB")
	require.Equal(t, 1, code) // a folder is made only for an output that is one
	require.Contains(t, stderr, "no such file")
	require.NoError(t, os.Mkdir(path("s"), 0o777))
	code, stdout, stderr = call("-i", path("in.safetensors"), "-o", path("s/out.safetensors"), "--config", path("config.json"), "--max-shard-size", "1MB")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "wrote "+path("s/out.safetensors.index.json"))
	names := files(t, path("s"))
	require.Len(t, names, 5, names)
	code, _, stderr = call("-i", path("s"), "-o", path("whole.safetensors"))
	require.Zero(t, code, stderr)
	code, _, stderr = call("-i", path("in.safetensors"), "-o", path("direct.safetensors"), "--config", path("config.json"))
	require.Zero(t, code, stderr)
	requireSame(t, path("direct.safetensors"), path("whole.safetensors"))
	code, _, stderr = call("-i", path("in.safetensors"), "-o", path("s/out.safetensors"), "--config", path("config.json"), "--max-shard-size", "1MB")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "use --force")
	require.Equal(t, names, files(t, path("s")))
	for text, want := range map[string]int64{"2GB": 2e9, "500MB": 5e8, "150KB": 15e4, "12": 12, "12b": 12} {
		n, err := parseSize(text)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	for _, text := range []string{"", "x", "-1", "0", "1TB", "1.5GB", "99999999999999999999"} {
		_, err := parseSize(text)
		require.Error(t, err, text)
	}
}

// TestFailureLeavesNothing: a bad weight in the last shard takes the shards before it away again.
func TestFailureLeavesNothing(t *testing.T) {
	list := tinyTensors()
	list = append(list[:len(list)-1], list[len(list)-1])
	for i := range list {
		if list[i].Name == "time_embed.2.weight" {
			copy(list[i].Data[8:], []byte{0, 0, 0x80, 0x7e}) // too large for F16
		}
	}
	path := folder(t, list, tinyInfo(t, tiny()))
	before := files(t, path(""))
	code, _, stderr := call("-i", path("in.safetensors"), "-o", path("out")+"/", "--config", path("config.json"), "--max-shard-size", "300KB", "--dtype", "f16")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "too large for F16")
	require.Equal(t, before, files(t, path("")))
}

// TestComponents: a checkpoint of two networks goes into a folder, or one of them into a file.
func TestComponents(t *testing.T) {
	in := testkit.Shared(t, "fixtures", "ldm_ffhq_style", "model.ckpt")
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	code, stdout, stderr := call("-i", in, "-o", path("both")+"/", "--head-channels", "32", "--json")
	require.Zero(t, code, stderr)
	var r report
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.Len(t, r.Networks, 2)
	require.Equal(t, 255, r.Tensors)
	require.Equal(t, []string{"first_stage.safetensors", "unet.safetensors"}, files(t, path("both")))
	code, _, stderr = call("-i", in, "-o", path("vq.safetensors"), "--component", "first_stage")
	require.Zero(t, code, stderr)
	requireSame(t, path("both/first_stage.safetensors"), path("vq.safetensors"))
	code, _, stderr = call("-i", in, "-o", path("raw"), "--ema=false", "--head-channels", "32")
	require.Zero(t, code, stderr)
	a, err := os.ReadFile(path("raw/unet.safetensors"))
	require.NoError(t, err)
	b, err := os.ReadFile(path("both/unet.safetensors"))
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	code, _, stderr = call("-i", in, "-o", path("x.safetensors"))
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "holds 2 networks")
	code, _, stderr = call("-i", path("vq.safetensors"), "-o", path("y.safetensors"), "--component", "unet")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "holds no unet")

	// To diffusers and back, the same tensors. Its first stages begin with as many channels as their first level has.
	code, _, stderr = call("-i", in, "-o", path("hf"), "--to", "diffusers")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "diffusers cannot describe model_channels 32")
	code, _, stderr = call("-i", in, "-o", path("hf"), "--to", "diffusers", "--component", "unet", "--heads", "1")
	require.Zero(t, code, stderr)
	require.Equal(t, []string{"config.json", "diffusion_pytorch_model.safetensors"}, files(t, path("hf")))
	code, _, stderr = call("-i", path("hf"), "-o", path("a.safetensors"), "--to", "guided")
	require.Zero(t, code, stderr)
	code, _, stderr = call("-i", in, "-o", path("b.safetensors"), "--to", "guided", "--component", "unet", "--heads", "1")
	require.Zero(t, code, stderr)
	requireSame(t, path("a.safetensors"), path("b.safetensors")) // with one head the orders of qkv agree
}

// TestStreaming: converting takes memory for the largest tensor, not for all.
func TestStreaming(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 50 MB")
	}
	c := tiny()
	c.ModelChannels, c.NumHeadChannels = 128, 64
	c.ChannelMult = []float64{1, 2}
	f := weights.Synthetic("big", 1)
	d, err := dryrun.Open(dryrun.Machine{})
	require.NoError(t, err)
	_, err = nn.LoadUNet(d.Device, f.Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	var list []weights.Tensor
	var most, total int
	for _, name := range f.Names() {
		x, _ := f.Tensor(name)
		list = append(list, x)
		most, total = max(most, len(x.Data)), total+len(x.Data)
	}
	require.Greater(t, total, 45<<20)
	path := folder(t, list, tinyInfo(t, c))
	list, f = nil, nil
	runtime.GC()
	var peak, before runtime.MemStats
	runtime.ReadMemStats(&before)
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		var high uint64
		for {
			runtime.ReadMemStats(&peak)
			high = max(high, peak.HeapAlloc)
			select {
			case <-stop:
				done <- high
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	code, _, stderr := call("-i", path("in.safetensors"), "-o", path("out.safetensors"), "--config", path("config.json"), "--dtype", "f16")
	close(stop)
	high := <-done
	require.Zero(t, code, stderr)
	require.Less(t, high-before.HeapAlloc, uint64(total/2), "of %d MB", total>>20)
}
