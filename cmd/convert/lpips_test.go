package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/lpips"
	"github.com/spin-native/spin/weights"
)

func TestLPIPS(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	// AlexNet of 4 channels: its shape, not its size.
	backbone := []weights.Tensor{array("classifier.1.weight", 3, 3)}
	var heads []weights.Tensor
	for i, l := range []struct{ index, in, size int }{{0, 3, 11}, {3, 4, 5}, {6, 4, 3}, {8, 4, 3}, {10, 4, 3}} {
		name := "features." + map[int]string{0: "0", 3: "3", 6: "6", 8: "8", 10: "10"}[l.index]
		backbone = append(backbone, array(name+".weight", 4, l.in, l.size, l.size), array(name+".bias", 4))
		heads = append(heads, array("lin"+string(rune('0'+i))+".model.1.weight", 1, 4, 1, 1))
	}
	require.NoError(t, weights.Write(path("alexnet.safetensors"), backbone, nil))
	require.NoError(t, weights.Write(path("alex.safetensors"), heads, nil))
	args := []string{"--family", "lpips", "-i", path("alexnet.safetensors"), "--lpips-heads", path("alex.safetensors")}

	code, out, errs := call(append(args, "--dry-run")...)
	require.Zero(t, code, errs)
	require.Contains(t, out, "LPIPS 0.1 with alex, 15 tensors")
	require.Len(t, files(t, dir), 2)

	code, out, errs = call(append(args, "-o", path("lpips.safetensors"), "--json", "--dtype", "f16")...)
	require.Zero(t, code, errs)
	require.Contains(t, out, `"net": "alex"`)
	f, err := weights.Open(path("lpips.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	require.True(t, lpips.Is(f))
	require.Len(t, f.Names(), 15)
	x, ok := f.Tensor("features.10.weight")
	require.True(t, ok)
	require.Equal(t, weights.F16, x.DType)

	code, _, errs = call(append(args, "-o", path("lpips.safetensors"))...)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "--force")
	code, _, errs = call("--family", "lpips", "-i", path("alexnet.safetensors"), "-o", path("x.safetensors"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "--lpips-heads")
	code, _, _ = call(append(args, "-o", path("x.safetensors"), "--preset", "ffhq_10m")...)
	require.Equal(t, exitUsage, code)
	code, _, errs = call("-i", path("alexnet.safetensors"), "--lpips-heads", "x", "-o", path("x.safetensors"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--family lpips")
}
