package nn_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// latentCases are those with a UNet of latent-diffusion or diffusers: a .ckpt, a safetensors file, folders of diffusers
// with shards and with a variant.
var latentCases = []string{"ldm_class_crossattn", "ldm_ffhq_style", "diffusers_class_unet", "diffusers_ddpm_unet", "diffusers_sd_unet"}

// TestLatentUNet compares whole networks with what PyTorch computed, as TestUNet does.
func TestLatentUNet(t *testing.T) {
	shared := testkit.Shared(t, "fixtures")
	for name, b := range backends(t) {
		d := tensor.NewDevice(b)
		for _, dir := range latentCases {
			t.Run(dir+"/"+name, func(t *testing.T) {
				c, err := parity.Load(filepath.Join(shared, dir))
				require.NoError(t, err)
				defer c.Close()
				net, err := c.LoadLatentUNet(d, filepath.Join(c.Dir, c.Weights[0].File), checkpoint.Options{RawWeights: true})
				require.NoError(t, err)
				latentProbes(t, c, net)
				results, _, err := c.Run(d, "")
				require.NoError(t, err)
				ran := 0
				for _, r := range results {
					if r.Skipped == "" {
						ran++
						require.True(t, r.OK(), "%+v", r)
						t.Logf("%s %s: max abs %.2g of %.2g, relative L2 %.2g of %.2g", r.Weights, r.Array, r.MaxAbs, r.Limit.MaxAbs, r.RelL2, r.Limit.RelL2)
					}
				}
				require.GreaterOrEqual(t, ran, 2)
			})
		}
		require.NoError(t, d.Close())
	}
}

// latentProbes compares every block's output, so that the first one that departs is named.
func latentProbes(t *testing.T, c *parity.Case, net *nn.LatentUNet) {
	at := map[string]parity.Probe{}
	for name, p := range c.Probes {
		at[ours(name, net.Config)] = p
	}
	limit := 0.0
	for _, name := range c.Runs[0].Outputs {
		limit = 3 * c.Tolerance[name].RelL2
	}
	first, seen := "", 0
	net.Trace = func(name string, x *tensor.Tensor) {
		p, ok := at[name]
		if !ok || first != "" {
			return
		}
		seen++
		rel, err := c.Departure(p, x)
		require.NoError(t, err)
		if !(rel <= limit) {
			first = fmt.Sprintf("%s is off by a relative %.2g, allowed %.2g", name, rel, limit)
		}
	}
	defer func() { net.Trace = nil }()
	_, err := c.ForwardLatent(net, c.Runs[0])
	require.NoError(t, err)
	require.Empty(t, first, "the first block that departs")
	require.GreaterOrEqual(t, seen, len(at)-1) // conv_norm_out is never materialised
}

// ours is the name that Trace gives to the output of a module of CompVis or diffusers.
func ours(name string, c nn.LatentUNetConfig) string {
	per, last, i := c.NumResBlocks+1, len(c.Channels)-1, 0
	if n, _ := fmt.Sscanf(name, "down_blocks.%d", &i); n == 1 {
		if i == last { // which ends without a change of size
			return fmt.Sprint("input_blocks.", last*per+c.NumResBlocks)
		}
		return fmt.Sprint("input_blocks.", (i+1)*per)
	}
	if n, _ := fmt.Sscanf(name, "up_blocks.%d", &i); n == 1 {
		return fmt.Sprint("output_blocks.", (i+1)*per-1)
	}
	if o, ok := map[string]string{"time_embedding": "time_embed", "conv_in": "input_blocks.0", "mid_block": "middle_block"}[name]; ok {
		return o
	}
	return strings.TrimPrefix(name, "model.diffusion_model.")
}

// variety has every kind of block that the published networks have, on three levels.
var variety = nn.LatentUNetConfig{
	InChannels: 4, OutChannels: 8, ModelChannels: 16, TimeEmbedDim: 48, Channels: []int{16, 32, 48}, NumResBlocks: 1,
	DownAttention: []string{"transformer", "self", "none"}, MiddleAttention: "transformer", UpAttention: []string{"self", "none", "transformer"},
	Heads: []int{2, 4, 3}, UseNewAttentionOrder: true, ContextDim: 20, TransformerDepth: []int{1, 1, 2}, UseScaleShiftNorm: true,
	DownSample: []string{"resblock", "conv"}, UpSample: []string{"plain", "resblock"}, DownsamplePadding: "right-bottom", NumClasses: 3,
	NormGroups: 8, NormEps: 1e-6, TransformerNormEps: 1e-6, TimeCosFirst: true, TimeFreqShift: 1,
}

// with is variety after a change.
func with(change func(*nn.LatentUNetConfig)) nn.LatentUNetConfig {
	c := variety
	for _, list := range []*[]string{&c.DownAttention, &c.UpAttention, &c.DownSample, &c.UpSample} {
		*list = slices.Clone(*list)
	}
	for _, list := range []*[]int{&c.Channels, &c.Heads, &c.TransformerDepth} {
		*list = slices.Clone(*list)
	}
	change(&c)
	return c
}

func noise(n int) []float32 {
	v := make([]float32, n)
	s := uint32(1)
	for i := range v {
		s = s*1664525 + 1013904223
		v[i] = float32(int32(s)) / (1 << 30)
	}
	return v
}

// outputOf runs a network of synthetic weights.
func outputOf(t *testing.T, d *tensor.Device, c nn.LatentUNetConfig, o nn.LoadOptions, x []float32, images, tokens int, context []float32) []float32 {
	net, err := nn.LoadLatentUNet(d, weights.Synthetic("variety", 3).Scope(), c, o)
	require.NoError(t, err)
	in, ctx := d.From(x, images, 8, 12, c.InChannels), d.From(context, images, 1, tokens, c.ContextDim)
	ready, err := net.Context(ctx)
	require.NoError(t, err)
	out, err := net.Predict(in, []float64{250.5}, []int{2, 1}[:images], ready)
	require.NoError(t, err)
	ready.Free()
	require.Equal(t, [4]int{images, 8, 12, net.OutChannels()}, out.Shape())
	v, err := out.Floats()
	require.NoError(t, err)
	for _, x := range []*tensor.Tensor{in, ctx, out} {
		x.Free()
	}
	return v
}

// TestVariety: levels agree with the reference, and the network keeps what its formula keeps.
func TestVariety(t *testing.T) {
	const size, tokens = 8 * 12 * 4, 5
	x, context := noise(2*size), noise(2*tokens*20)
	d := tensor.NewDevice(ref.Open())
	want := outputOf(t, d, variety, nn.LoadOptions{}, x, 2, tokens, context)
	near := func(got, want []float32) {
		t.Helper()
		_, rel := parity.Compare(got, want)
		require.LessOrEqual(t, rel, 1e-5)
	}
	for name, b := range backends(t) {
		d := tensor.NewDevice(b)
		near(outputOf(t, d, variety, nn.LoadOptions{}, x, 2, tokens, context), want)
		require.NoError(t, d.Close(), name)
	}

	one := outputOf(t, d, variety, nn.LoadOptions{}, x[:size], 1, tokens, context[:tokens*20])
	require.Equal(t, want[:len(one)], one, "an image alone")

	turned := slices.Clone(context) // the tokens are a set
	for n := range 2 {
		for i := range tokens {
			copy(turned[(n*tokens+i)*20:][:20], context[(n*tokens+tokens-1-i)*20:][:20])
		}
	}
	near(outputOf(t, d, variety, nn.LoadOptions{}, x, 2, tokens, turned), want)
	var twice []float32
	for n := range 2 {
		part := context[n*tokens*20:][:tokens*20]
		twice = append(append(twice, part...), part...)
	}
	near(outputOf(t, d, variety, nn.LoadOptions{}, x, 2, 2*tokens, twice), want)

	matrices := with(func(c *nn.LatentUNetConfig) { c.LinearProjection = true })
	require.Equal(t, want, outputOf(t, d, matrices, nn.LoadOptions{}, x, 2, tokens, context), "a matrix is a 1x1 convolution")

	mean := outputOf(t, d, variety, nn.LoadOptions{MeanOnly: true}, x, 2, tokens, context)
	for i, v := range mean {
		require.Equal(t, want[i/4*8+i%4], v)
	}
}

// loadVariety builds the network of variety on a device of its own.
func loadVariety(t *testing.T) (*tensor.Device, *nn.LatentUNet) {
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	net, err := nn.LoadLatentUNet(d, weights.Synthetic("variety", 3).Scope(), variety, nn.LoadOptions{})
	require.NoError(t, err)
	return d, net
}

// TestLatentMemory: nothing is left behind, and the second pass asks the backend for nothing.
func TestLatentMemory(t *testing.T) {
	d, net := loadVariety(t)
	defer d.Close()
	x, context := d.New(1, 16, 16, 4), d.New(1, 1, 5, 20)
	x.Set(noise(x.Len()))
	context.Set(noise(context.Len()))
	var ready *nn.Context
	var err error
	call := func() tensor.Stats {
		out, err := net.Predict(x, []float64{1}, []int{0}, ready)
		require.NoError(t, err)
		out.Free()
		return d.Stats()
	}
	empty := d.Stats()
	for range 2 {
		ready, err = net.Context(context)
		require.NoError(t, err)
		before := d.Stats()
		require.Greater(t, before.Live, empty.Live)
		first := call()
		require.Equal(t, before.Live, first.Live)
		require.Equal(t, first, call())
		ready.Free()
		ready.Free() // no harm
		require.Equal(t, empty.Live, d.Stats().Live)
	}
}

// TestContext: keys and values that were made ready once serve every step as new ones would, and outlive their tokens.
func TestContext(t *testing.T) {
	d, net := loadVariety(t)
	defer d.Close()
	tokens := func() *tensor.Tensor { return d.From(noise(2*5*20), 2, 1, 5, 20) }
	x := d.From(noise(2*8*8*4), 2, 8, 8, 4)
	step := func(at float64, c *nn.Context) []float32 {
		defer d.Tidy()()
		out, err := net.Predict(x, []float64{at}, []int{0, 1}, c)
		require.NoError(t, err)
		v, err := out.Floats()
		require.NoError(t, err)
		return v
	}
	in := tokens()
	once, err := net.Context(in)
	require.NoError(t, err)
	in.Set(make([]float32, in.Len()))
	in.Free()
	var last []float32
	for _, at := range []float64{900, 500.5, 1} {
		in := tokens()
		again, err := net.Context(in)
		require.NoError(t, err)
		in.Free()
		want := step(at, again)
		again.Free()
		require.Equal(t, want, step(at, once))
		require.NotEqual(t, last, want)
		last = want
	}
	once.Free()
}

func TestLatentMisuse(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	net, err := nn.LoadLatentUNet(d, weights.Synthetic("variety", 3).Scope(), variety, nn.LoadOptions{})
	require.NoError(t, err)
	plain := with(func(c *nn.LatentUNetConfig) {
		c.DownAttention, c.UpAttention, c.MiddleAttention = []string{"none", "none", "none"}, []string{"none", "none", "none"}, "none"
		c.ContextDim, c.TransformerDepth, c.NumClasses = 0, nil, 0
	})
	bare, err := nn.LoadLatentUNet(d, weights.Synthetic("plain", 3).Scope(), plain, nn.LoadOptions{})
	require.NoError(t, err)
	twin, err := nn.LoadLatentUNet(d, weights.Synthetic("variety", 3).Scope(), variety, nn.LoadOptions{})
	require.NoError(t, err)
	ready := func(net *nn.LatentUNet, n int) *nn.Context {
		c, err := net.Context(d.New(n, 1, 5, 20))
		require.NoError(t, err)
		return c
	}
	x, context, freed := d.New(2, 8, 8, 4), ready(net, 2), ready(net, 2)
	freed.Free()
	fork, err := d.Fork(1)
	require.NoError(t, err)
	defer fork.Close()
	elsewhere, err := net.Context(fork.New(2, 1, 5, 20))
	require.NoError(t, err)
	for _, bad := range []struct {
		net     *nn.LatentUNet
		x       *tensor.Tensor
		t       []float64
		y       []int
		context *nn.Context
		want    string
	}{
		{net, d.New(2, 8, 8, 3), []float64{1}, []int{0, 1}, context, "3 channels, the network takes 4"},
		{net, d.New(2, 8, 10, 4), []float64{1}, []int{0, 1}, context, "multiples of 4"},
		{net, x, []float64{1, 2, 3}, []int{0, 1}, context, "3 timesteps for 2 images"},
		{net, x, []float64{1}, nil, context, "0 class labels for 2 images"},
		{net, x, []float64{1}, []int{0, 3}, context, "class label 3, expected 0 to 2"},
		{net, x, []float64{1}, []int{0, -1}, context, "class label -1"},
		{net, x, []float64{1}, []int{0, 1}, nil, "no context given: the network attends to tokens of 20 channels"},
		{net, x, []float64{1}, []int{0, 1}, ready(net, 1), "the context is for 1 latents, there are 2"},
		{net, x, []float64{1}, []int{0, 1}, ready(twin, 2), "another network"},
		{net, x, []float64{1}, []int{0, 1}, freed, "has been freed"},
		{net, x, []float64{1}, []int{0, 1}, elsewhere, "another device"},
		{bare, x, []float64{1}, nil, context, "another network"},
		{bare, x, []float64{1}, []int{0, 1}, nil, "no classes"},
	} {
		before := d.Stats()
		_, err := bad.net.Predict(bad.x, bad.t, bad.y, bad.context)
		require.ErrorContains(t, err, bad.want)
		require.Equal(t, before, d.Stats(), "nothing was computed: %v", err)
	}
	gone := d.New(2, 1, 5, 20)
	gone.Free()
	for _, bad := range []struct {
		net    *nn.LatentUNet
		tokens *tensor.Tensor
		want   string
	}{
		{net, d.New(2, 1, 5, 24), "context has shape [2 1 5 24], expected [N 1 L 20]"},
		{net, d.New(2, 5, 1, 20), "context has shape"},
		{bare, d.New(2, 1, 5, 20), "attends to none"},
		{net, gone, "tensor.Conv2D"},
		{net, tensor.NewDevice(ref.Open()).New(2, 1, 5, 20), "tensor.Conv2D"},
	} {
		live := d.Stats().Live
		c, err := bad.net.Context(bad.tokens)
		require.ErrorContains(t, err, bad.want)
		require.Nil(t, c)
		require.Equal(t, live, d.Stats().Live)
	}
}

func TestLatentConfig(t *testing.T) {
	good, err := json.Marshal(variety)
	require.NoError(t, err)
	back, err := nn.ParseLatentUNetConfig(good)
	require.NoError(t, err)
	require.Equal(t, variety, back)
	require.Equal(t, 4, back.Downsampling())
	for want, change := range map[string]func(*nn.LatentUNetConfig){
		"in_channels":        func(c *nn.LatentUNetConfig) { c.InChannels = 0 },
		"model_channels":     func(c *nn.LatentUNetConfig) { c.ModelChannels = 20 },
		"stem_channels":      func(c *nn.LatentUNetConfig) { c.StemChannels = -1 },
		"of norm_groups 8":   func(c *nn.LatentUNetConfig) { c.StemChannels = 12 },
		"number of levels":   func(c *nn.LatentUNetConfig) { c.Channels = nil },
		"every level":        func(c *nn.LatentUNetConfig) { c.Channels[1] = 33 },
		"num_res_blocks":     func(c *nn.LatentUNetConfig) { c.NumResBlocks = 65 },
		"norm_groups":        func(c *nn.LatentUNetConfig) { c.NormGroups = 0 },
		"norm_eps":           func(c *nn.LatentUNetConfig) { c.NormEps = 0 },
		"down_attention is":  func(c *nn.LatentUNetConfig) { c.DownAttention[0] = "cross" },
		"up_attention has 2": func(c *nn.LatentUNetConfig) { c.UpAttention = c.UpAttention[:2] },
		"middle_attention":   func(c *nn.LatentUNetConfig) { c.MiddleAttention = "" },
		"down_sample is":     func(c *nn.LatentUNetConfig) { c.DownSample[1] = "" },
		"up_sample has 3":    func(c *nn.LatentUNetConfig) { c.UpSample = append(c.UpSample, "conv") },
		"downsample_padding": func(c *nn.LatentUNetConfig) { c.DownsamplePadding = "left" },
		"5 heads":            func(c *nn.LatentUNetConfig) { c.Heads[0] = 5 },
		"middle_norm_groups": func(c *nn.LatentUNetConfig) { c.MiddleAttention, c.MiddleNormGroups = "self", 7 },
		"context_dim 0":      func(c *nn.LatentUNetConfig) { c.ContextDim = 0 },
		"transformer_norm":   func(c *nn.LatentUNetConfig) { c.TransformerNormEps = 0 },
		"transformer_depth":  func(c *nn.LatentUNetConfig) { c.TransformerDepth[2] = 0 },
		"time_freq_shift":    func(c *nn.LatentUNetConfig) { c.TimeFreqShift = 8 },
		"num_classes":        func(c *nn.LatentUNetConfig) { c.NumClasses = -1 },
		"but no level has": func(c *nn.LatentUNetConfig) {
			c.DownAttention[0], c.UpAttention[2], c.MiddleAttention = "none", "none", "self"
		},
		"expected 1 to 65536": func(c *nn.LatentUNetConfig) { c.OutChannels = 1 << 17 },
	} {
		bad, err := json.Marshal(with(change))
		require.NoError(t, err)
		_, err = nn.ParseLatentUNetConfig(bad)
		require.ErrorContains(t, err, "nn: latent UNet configuration: ", want)
		require.ErrorContains(t, err, want)
		_, err = nn.LoadLatentUNet(tensor.NewDevice(ref.Open()), weights.Synthetic("bad", 1).Scope(), with(change), nn.LoadOptions{})
		require.ErrorContains(t, err, want)
	}
	_, err = nn.ParseLatentUNetConfig([]byte(`{"zz":1}`))
	require.ErrorContains(t, err, `unknown field "zz"`)
}
