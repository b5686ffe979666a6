package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels/cuda"
)

func TestMain(m *testing.M) {
	testkit.Emulated()
	os.Exit(m.Run())
}

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
		t.Skipf("no CUDA device: %v", missing)
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
	var r benchReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "bench", "--layers", "--device", "cuda", "--size", "16", "--runs", "2", "--json")), &r))
	require.NotEmpty(t, r.Profile.Layers)
	for _, l := range r.Profile.Layers {
		require.Positive(t, l.Ms, l.Op)
	}
	launches := map[string]int{}
	for _, how := range []string{"--dtype=f32", "--dtype=f16", "--dtype=f16 --eager", "--dtype=f16 --layers"} {
		var r benchReport
		require.NoError(t, json.Unmarshal([]byte(ok(t, append(strings.Fields("bench --device cuda --size 16 --runs 1 --json"), strings.Fields(how)...)...)), &r))
		launches[how] = r.Launches
	}
	require.Less(t, launches["--dtype=f16"], launches["--dtype=f32"])
	require.Equal(t, launches["--dtype=f16"], launches["--dtype=f16 --eager"], "told or not, the same kernels")
	require.Less(t, launches["--dtype=f16 --layers"], launches["--dtype=f32"], "normalisations are on their own, the moments are not")
	for _, brief := range []string{"--half-weights", "--dtype=bf16"} {
		code, _, errs := spin(t, "reconstruct", "--prior", prior, "--task", "denoise", "--sigma", "0.1", brief, "--device", "cuda", "-o", filepath.Join(dir, "brief.png"), pic)
		require.Equal(t, 2, code)
		require.Contains(t, errs, strings.ReplaceAll(brief, "=", " "))
	}
}

// TestCUDAMemory: samples that do not fit side by side are made in parts, with the same noise; what does not fit at all is an
// error with the figures.
func TestCUDAMemory(t *testing.T) {
	if info, err := cuda.Devices(); err != nil || !strings.Contains(info[0].Name, "emulation") {
		t.Skip("needs the emulated device, whose memory can be as small as a test wants")
	}
	prior, dir := tinyPrior(t, nil), t.TempDir()
	pic := picture(t, dir, 32, 32)
	run := func(memory, name string) (int, string) {
		t.Setenv("CUEMU_MEMORY", memory)
		code, _, errs := spin(t, "reconstruct", "--prior", prior, "--task", "denoise", "--sigma", "0.1", "--steps", "2", "--samples", "3", "--device", "cuda",
			"--force", "-o", filepath.Join(dir, name+".png"), pic)
		return code, errs
	}
	code, errs := run("4000000000", "whole")
	require.Zero(t, code, errs)
	require.Empty(t, errs)
	parts := false
	for memory := 8 << 20; memory > 1<<18; memory = memory * 3 / 4 {
		code, errs = run(strconv.Itoa(memory), "parts")
		if code != 0 {
			break
		}
		if errs == "" {
			continue
		}
		parts = true
		require.Contains(t, errs, "3 samples at a time do not fit")
		for i := 1; i <= 3; i++ {
			want, err := imagefile.Read(filepath.Join(dir, fmt.Sprintf("whole-%d.png", i)), imagefile.Limits{})
			require.NoError(t, err)
			got, err := imagefile.Read(filepath.Join(dir, fmt.Sprintf("parts-%d.png", i)), imagefile.Limits{})
			require.NoError(t, err)
			require.Equal(t, want.Pix, got.Pix)
		}
	}
	require.True(t, parts, errs)
	require.Equal(t, 1, code)
	require.Regexp(t, `a picture of 32 x 32 pixels takes .* MB are free on the device`, errs)
}

// TestCUDADrivers: one program serves machines without a driver, with a driver and no device, and with both. Each is another
// process, as a process asks once.
func TestCUDADrivers(t *testing.T) {
	library := os.Getenv(lazycuda.Library)
	if _, err := cuda.Devices(); err != nil || library == "" {
		t.Skip("needs the emulated device")
	}
	for name, c := range map[string]struct {
		env  []string
		says string
	}{
		"no driver": {[]string{lazycuda.Library + "=/nonexistent/libcuda.so.1"}, "no CUDA device: no NVIDIA driver here: /nonexistent/libcuda.so.1 cannot be opened"},
		"no device": {[]string{"CUEMU_NO_DEVICE=1"}, "no CUDA device: the NVIDIA driver sees no device"},
		"a device":  {nil, "--- PASS: TestCUDA"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, testkit.Elsewhere(t, "TestCUDA", c.env...), c.says)
		})
	}
}

// TestCUDAFault: a kernel that fails while it runs, of the first, among others, or in a recorded call, ends the run with an error and
// without a picture, and the program goes on with the processor. The device is lost to the process, so each is another one.
func TestCUDAFault(t *testing.T) {
	const fail = "CUEMU_FAIL_LAUNCH"
	if info, err := cuda.Devices(); err != nil || !strings.Contains(info[0].Name, "emulation") {
		t.Skip("needs the emulated device, whose kernels fail to order")
	}
	if os.Getenv(fail) == "" {
		for _, launch := range []string{"1", "60", "350"} {
			require.Contains(t, testkit.Elsewhere(t, "TestCUDAFault", fail+"="+launch), "--- PASS")
		}
		return
	}
	prior, dir := tinyPrior(t, nil), t.TempDir()
	pic, out := picture(t, dir, 24, 16), filepath.Join(dir, "out.png")
	args := []string{"reconstruct", "--prior", prior, "--task", "inpaint", "--mask", "center:8", "--steps", "6", "-o", out, pic, "--device"}
	code, _, errs := spin(t, append(args, "cuda")...)
	require.Equal(t, 1, code)
	require.Regexp(t, `^spin-native: .*cuda/sm_90: the device failed.*\n$`, errs)
	require.NoFileExists(t, out)
	ok(t, append(args, "cpu")...)
	require.FileExists(t, out)
}

// TestCUDAInfo: the plan of a file is that of the device and its number format, and bands are for what the device has free.
func TestCUDAInfo(t *testing.T) {
	code, _, errs := spin(t, "info", "--dtype", "f16", "photo")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--dtype f16 is not available on --device cpu")
	if info, err := cuda.Devices(); err != nil || !strings.Contains(info[0].Name, "emulation") {
		t.Skip("needs the emulated device, whose memory can be as small as a test wants")
	}
	of := func(args ...string) (r infoReport) {
		require.NoError(t, json.Unmarshal([]byte(ok(t, append([]string{"info", "--json"}, args...)...)), &r))
		return r
	}
	full, half := of("--device", "cuda", "photo"), of("--device", "auto", "--dtype", "f16", "photo")
	for _, r := range []infoReport{full, half} {
		require.Equal(t, "cuda/sm_90", r.Components[0].Memory.Device)
		require.Positive(t, r.Components[0].Memory.Scratch)
	}
	a, b := full.Components[0].Memory, half.Components[0].Memory
	require.InDelta(t, 0.5, float64(b.Weights)/float64(a.Weights), 0.1, "the layers of the embedding stay in F32")
	require.InDelta(t, 0.5, float64(b.Activations)/float64(a.Activations), 0.1)

	whole := of("--device", "cuda", "--size", "256", "photo-latent").Prior
	require.Zero(t, whole.Memory.BandRows)
	m := whole.Memory.Memory
	t.Setenv("CUEMU_MEMORY", strconv.FormatInt(m.Total()-m.Activations/4, 10))
	bands := of("--device", "cuda", "--size", "256", "photo-latent").Prior
	require.Positive(t, bands.Memory.BandRows, bands.TooBig)
	require.Less(t, bands.Memory.Memory.Total(), bands.Memory.Limit)
	t.Setenv("CUEMU_MEMORY", strconv.FormatInt(m.Weights, 10))
	require.Contains(t, of("--device", "cuda", "--size", "256", "photo-latent").Prior.TooBig, "free on the device")
}
