package dryrun_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// networks are those of testdata, and the built-in prior's shapes.
func networks(t *testing.T) map[string]nn.UNetConfig {
	all := map[string]nn.UNetConfig{}
	preset, ok := checkpoint.FindPreset("photo")
	require.True(t, ok)
	c, err := nn.ParseUNetConfig(preset.UNet.Model)
	require.NoError(t, err)
	all["photo"] = c
	dirs, err := filepath.Glob(testkit.Testdata("gd_*"))
	require.NoError(t, err)
	for _, dir := range dirs {
		k, err := parity.Load(dir)
		require.NoError(t, err)
		c, err := k.UNetConfig()
		require.NoError(t, err)
		require.NoError(t, k.Close())
		all[filepath.Base(dir)] = c
	}
	require.Greater(t, len(all), 3)
	return all
}

// pass loads a network and calls it once, after which nothing is left but the network.
func pass(t *testing.T, d *tensor.Device, f *weights.File, c nn.UNetConfig, n, edge int) *nn.UNet {
	net, err := nn.LoadUNet(d, f.Scope(), c, nn.LoadOptions{MeanOnly: true, ImageSize: edge})
	require.NoError(t, err)
	call(t, net, n, edge)
	return net
}

func call(t *testing.T, net *nn.UNet, n, edge int) {
	x := net.Device().New(n, edge, edge, net.Config.InChannels)
	x.Set(make([]float32, x.Len()))
	out, err := net.Predict(x, []float64{500}, make([]int, n*min(net.Config.NumClasses, 1)))
	require.NoError(t, err)
	out.Free()
	x.Free()
}

// TestExact: what a rehearsal predicts is what the backend then takes, to the byte, and a second pass takes nothing.
func TestExact(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("the reference backend does not count")
	}
	for name, c := range networks(t) {
		for _, level := range cpu.Levels() {
			for threads := 1; threads <= 3; threads++ {
				t.Run(fmt.Sprintf("%s/%s/%d", name, level, threads), func(t *testing.T) {
					n, edge := threads, 8*c.Downsampling()
					o := cpu.Options{Level: level, Threads: threads}
					f := weights.Synthetic(name, 1)
					dry, err := dryrun.Open(dryrun.Machine{CPU: o})
					require.NoError(t, err)
					pass(t, dry.Device, f.ShapesOnly(), c, n, edge)
					want := dry.Cost()
					require.Positive(t, want.FLOP)
					require.Equal(t, "cpu/"+level, want.Device)
					require.NoError(t, dry.Close())

					b, err := cpu.Open(o)
					require.NoError(t, err)
					d := tensor.NewDevice(b)
					defer d.Close()
					require.NoError(t, d.Reserve(want.Memory.Activations))
					net := pass(t, d, f, c, n, edge)
					used := kernels.Usage{Tensors: want.Memory.Activations, Weights: want.Memory.Weights, Scratch: want.Memory.Scratch}
					require.Equal(t, used, kernels.UsageOf(b))
					require.Equal(t, int64(1), d.Stats().Allocs)
					require.Equal(t, want.Memory.Activations, d.Stats().Peak)

					call(t, net, n, edge)
					require.Equal(t, used, kernels.UsageOf(b))
					require.Equal(t, int64(1), d.Stats().Allocs)
				})
			}
		}
	}
}

// TestUnplanned: a program that reserves nothing takes little more, and its second pass takes nothing either.
func TestUnplanned(t *testing.T) {
	for name, c := range networks(t) {
		t.Run(name, func(t *testing.T) {
			f, edge := weights.Synthetic(name, 1), 8*c.Downsampling()
			dry, err := dryrun.Open(dryrun.Machine{})
			require.NoError(t, err)
			pass(t, dry.Device, f.ShapesOnly(), c, 1, edge)
			b, err := cpu.Open(cpu.Options{})
			require.NoError(t, err)
			d := tensor.NewDevice(b)
			defer d.Close()
			net := pass(t, d, f, c, 1, edge)
			first := d.Stats()
			call(t, net, 1, edge)
			require.Equal(t, first, d.Stats())
			require.Less(t, first.Allocated, 2*dry.Cost().Memory.Activations+4<<20)
		})
	}
}

// stageConfig is a small first stage.
var stageConfig = nn.AutoencoderConfig{
	InChannels: 3, OutChannels: 3, ModelChannels: 32, Channels: []int{32, 64}, NumResBlocks: 1, ZChannels: 4, EmbedDim: 4,
	NumEmbeddings: 100, DownAttention: make([]bool, 2), MiddleAttention: true, UpAttention: make([]bool, 2), ConvResample: true,
	DownsamplePadding: nn.PadRightBottom, QuantConv: true, PostQuantConv: true, NormGroups: 32, NormEps: 1e-6, ScaleFactor: 1,
}

// TestFirstStages: the same for a first stage, whose pass is a picture's way into the latent space and back.
func TestFirstStages(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("the reference backend does not count")
	}
	for _, tiling := range []nn.Tiling{{}, {Pixels: 8 * 64}, {Pixels: 8 * 64, Lean: true}} {
		t.Run(fmt.Sprintf("%+v", tiling), func(t *testing.T) { firstStage(t, stageConfig, tiling) })
	}
}

func firstStage(t *testing.T, c nn.AutoencoderConfig, tiling nn.Tiling) {
	pass := func(d *tensor.Device, f *weights.File) {
		a, err := nn.LoadAutoencoder(d, f.Scope(), c, nn.LoadOptions{ImageSize: 64, Tiling: tiling})
		require.NoError(t, err)
		x := d.New(1, 64, 64, 3)
		x.Set(make([]float32, x.Len()))
		z, err := a.Encode(x)
		require.NoError(t, err)
		_, err = a.Decode(z)
		require.NoError(t, err)
	}
	dry, err := dryrun.Open(dryrun.Machine{})
	require.NoError(t, err)
	defer dry.Close()
	f := weights.Synthetic("stage", 1)
	pass(dry.Device, f.ShapesOnly())
	want := dry.Cost().Memory
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	defer d.Close()
	require.NoError(t, d.Reserve(want.Activations))
	pass(d, f)
	require.Equal(t, kernels.Usage{Tensors: want.Activations, Weights: want.Weights, Scratch: want.Scratch}, kernels.UsageOf(b))
	require.Equal(t, int64(1), d.Stats().Allocs)
}

// TestLatentExact: the same holds for a UNet of latents with transformers.
func TestLatentExact(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("the reference backend does not count")
	}
	c := nn.LatentUNetConfig{
		InChannels: 4, OutChannels: 4, ModelChannels: 32, TimeEmbedDim: 128, Channels: []int{32, 64}, NumResBlocks: 1,
		DownAttention: []string{"transformer", "self"}, MiddleAttention: "transformer", UpAttention: []string{"transformer", "self"},
		Heads: []int{2, 4}, ContextDim: 48, TransformerDepth: []int{1, 2}, DownSample: []string{"conv"}, UpSample: []string{"conv"},
		DownsamplePadding: "right-bottom", NormGroups: 32, NormEps: 1e-5, TransformerNormEps: 1e-6, TimeCosFirst: true,
	}
	pass := func(d *tensor.Device, f *weights.File) {
		net, err := nn.LoadLatentUNet(d, f.Scope(), c, nn.LoadOptions{})
		require.NoError(t, err)
		x, context := d.New(1, 16, 16, 4), d.New(1, 1, 7, 48)
		x.Set(make([]float32, x.Len()))
		context.Set(make([]float32, context.Len()))
		ready, err := net.Context(context)
		require.NoError(t, err)
		out, err := net.Predict(x, []float64{500}, nil, ready)
		require.NoError(t, err)
		out.Free()
	}
	for _, level := range cpu.Levels() {
		o, f := cpu.Options{Level: level, Threads: 2}, weights.Synthetic("latent", 1)
		dry, err := dryrun.Open(dryrun.Machine{CPU: o})
		require.NoError(t, err)
		pass(dry.Device, f.ShapesOnly())
		want := dry.Cost().Memory
		require.NoError(t, dry.Close())

		b, err := cpu.Open(o)
		require.NoError(t, err)
		d := tensor.NewDevice(b)
		require.NoError(t, d.Reserve(want.Activations))
		pass(d, f)
		require.Equal(t, kernels.Usage{Tensors: want.Activations, Weights: want.Weights, Scratch: want.Scratch}, kernels.UsageOf(b))
		require.Equal(t, int64(1), d.Stats().Allocs)
		require.NoError(t, d.Close())
	}
}
