package nn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

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
