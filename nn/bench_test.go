package nn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// BenchmarkPhoto is one denoiser call of the photo prior at 256x256.
func BenchmarkPhoto(b *testing.B) {
	be, err := cpu.Open(cpu.Options{})
	require.NoError(b, err)
	d := tensor.NewDevice(be)
	defer d.Close()
	f, err := weights.Open(testkit.Shared(b, "prior", "photo-v1.safetensors"))
	require.NoError(b, err)
	defer f.Close()
	net, err := nn.LoadUNet(d, f.Scope(), nn.UNetConfig{InChannels: 3, OutChannels: 3, ModelChannels: 32, NumResBlocks: 1,
		AttentionResolutions: []int{8}, ChannelMult: []float64{1, 2, 3, 4}, NumHeads: 4, NumHeadChannels: 32,
		UseScaleShiftNorm: true, ResBlockUpDown: true, ConvResample: true}, nn.LoadOptions{})
	require.NoError(b, err)
	x := d.From(make([]float32, 256*256*3), 1, 256, 256, 3)
	for b.Loop() {
		out, err := net.Predict(x, []float64{100}, nil)
		require.NoError(b, err)
		out.Free()
	}
	b.ReportMetric(float64(d.Stats().Peak)/1e6, "peakMB")
}

// BenchmarkContext is one call of Stable Diffusion's UNet on a latent of 32x32, with random weights, and what making its context
// ready for it takes.
func BenchmarkContext(b *testing.B) {
	be, err := cpu.Open(cpu.Options{})
	require.NoError(b, err)
	d := tensor.NewDevice(be)
	defer d.Close()
	preset, ok := checkpoint.FindPreset("sd-1.5")
	require.True(b, ok)
	c, err := nn.ParseLatentUNetConfig(preset.UNet.Model)
	require.NoError(b, err)
	net, err := nn.LoadLatentUNet(d, weights.Synthetic("sd", 1).Scope(), c, nn.LoadOptions{ImageSize: 32})
	require.NoError(b, err)
	x, tokens := d.From(noise(32*32*4), 1, 32, 32, 4), d.From(noise(77*768), 1, 1, 77, 768)
	once, err := net.Context(tokens)
	require.NoError(b, err)
	for _, run := range []struct {
		name string
		call func()
	}{
		{"part=network", func() {
			out, err := net.Predict(x, []float64{100}, nil, once)
			require.NoError(b, err)
			out.Free()
		}},
		{"part=context", func() {
			c, err := net.Context(tokens)
			require.NoError(b, err)
			c.Free()
		}},
	} {
		b.Run(run.name, func(b *testing.B) {
			for b.Loop() {
				run.call()
			}
		})
	}
}
