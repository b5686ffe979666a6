package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/kernels/cuda"
)

// TestCUDA reconstructs on the device and on the processor: the pictures differ by no more than a rounding to eight bits.
// Without a device, auto is the processor.
func TestCUDA(t *testing.T) {
	_ = os.Getenv(lazycuda.Library)
	_, missing := cuda.Devices()
	prior, dir := tinyPrior(t, nil), t.TempDir()
	pic := picture(t, dir, 24, 16)
	reconstruct := func(device string) *imagefile.Image {
		out := filepath.Join(dir, device+".png")
		ok(t, "reconstruct", "--prior", prior, "--task", "denoise", "--sigma", "0.1", "--steps", "3", "--device", device, "-o", out, pic)
		img, err := imagefile.Read(out, imagefile.Limits{})
		require.NoError(t, err)
		return img
	}
	want, auto := reconstruct("cpu"), reconstruct("auto")
	for i, v := range want.Pix {
		require.InDelta(t, v, auto.Pix[i], 2.1/255)
	}
	if missing != nil {
		require.Equal(t, want.Pix, auto.Pix)
		require.Contains(t, ok(t, "devices"), missing.Error())
		t.Skip("no CUDA device: ", missing)
	}
	require.Equal(t, auto.Pix, reconstruct("cuda").Pix, "the same device, the same bytes")
	require.Contains(t, ok(t, "devices"), "cuda:0")
	half := filepath.Join(dir, "half.png")
	ok(t, "reconstruct", "--prior", prior, "--task", "denoise", "--sigma", "0.1", "--steps", "3", "--device", "cuda", "--dtype", "f16", "-o", half, pic)
	img, err := imagefile.Read(half, imagefile.Limits{})
	require.NoError(t, err)
	for i, v := range want.Pix {
		require.InDelta(t, v, img.Pix[i], 4.1/255)
	}
	code, _, errs := spin(t, "bench", "--layers", "--device", "cuda", "--size", "16")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--layers")
	for _, brief := range []string{"--half-weights", "--dtype=bf16"} {
		code, _, errs = spin(t, "reconstruct", "--prior", prior, "--task", "denoise", "--sigma", "0.1", brief, "--device", "cuda", "-o", filepath.Join(dir, "brief.png"), pic)
		require.Equal(t, 2, code)
		require.Contains(t, errs, strings.ReplaceAll(brief, "=", " "))
	}
}
