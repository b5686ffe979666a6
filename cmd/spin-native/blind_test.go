package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/solver"
)

// The kernel of a blurred picture is found, used, told and kept; sharp pictures and shakes are not deblurred.
func TestKernelAuto(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	path := func(name string) string { return filepath.Join(dir, name) }
	photo := path("photo.png")
	require.NoError(t, os.WriteFile(photo, demoPhoto, 0o644))
	crop, err := imagefile.Read(photo, imagefile.Limits{})
	require.NoError(t, err)
	small := imagefile.New(160, 128)
	for y := range small.H {
		copy(small.Pix[3*y*small.W:3*(y+1)*small.W], crop.Pix[3*((y+20)*crop.W+40):])
	}
	require.NoError(t, imagefile.Write(photo, small, true))
	blurred := func(name string, args ...string) string {
		ok(t, append([]string{"degrade", "--task", "deblur", "--seed", "3", "--quiet", "-o", path(name), photo}, args...)...)
		return path(name)
	}
	args := func(out, in string, more ...string) []string {
		return append([]string{"reconstruct", "--task", "deblur", "--prior", prior, "--steps", "3", "--json", "-o", path(out), in}, more...)
	}
	type answer struct {
		Task     string
		Sigma    float64
		Estimate *struct {
			solver.BlurEstimate
			Done, File string
		} `json:"kernel_estimate"`
	}
	read := func(text string) (a answer) {
		require.NoError(t, json.Unmarshal([]byte(text), &a), text)
		require.NotNil(t, a.Estimate)
		return a
	}

	y := blurred("disc.png", "--kernel", "disc:3", "--sigma", "0.02")
	auto := []string{"--kernel", "auto", "--save-kernel", path("kernel.png"), "--report", path("report.html")}
	// This prior overrules every measurement, which is not what a kernel that was found has to answer for where the noise is known.
	code, text, errs := spin(t, args("out.png", y, auto...)...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "does not explain what was measured")
	require.Equal(t, nothing, read(text).Estimate.Done)
	for _, name := range []string{"out.png", "kernel.png", "report.html"} {
		require.NoFileExists(t, path(name))
	}
	code, text, errs = spin(t, args("out.png", y, append(auto, "--sigma", "0.02")...)...)
	require.Zero(t, code, errs)
	a := read(text)
	require.Equal(t, "deblur", a.Task)
	require.Equal(t, deblurred, a.Estimate.Done)
	require.Equal(t, solver.DiscBlur, a.Estimate.Family)
	require.InDelta(t, 3, a.Estimate.Size, 0.3)
	require.Equal(t, path("kernel.png"), a.Estimate.File)
	page, err := os.ReadFile(path("report.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), a.Estimate.Text)
	require.Contains(t, string(page), "<b>Kernel</b>")
	kh, kw, values, err := imagefile.ReadKernel(path("kernel.png"))
	require.NoError(t, err)
	saved, err := solver.NewKernel(kh, kw, values)
	require.NoError(t, err)
	found, err := a.Estimate.Kernel()
	require.NoError(t, err)
	require.InDeltaSlice(t, found.K, saved.K, 1e-5)
	code, _, errs = spin(t, args("again.png", y, "--kernel", path("kernel.png"), "--sigma", "0.02")...)
	require.Zero(t, code, errs)

	// The family may be named, and then it holds.
	code, text, errs = spin(t, args("line.png", blurred("l.png", "--kernel", "line:9:30"), "--kernel", "auto:line", "--sigma", "0.01")...)
	require.Zero(t, code, errs)
	a = read(text)
	require.Equal(t, solver.LineBlur, a.Estimate.Family)
	require.InDelta(t, 30, a.Estimate.Angle, 6)
	require.Equal(t, 0.01, a.Sigma, "given")

	// Sharp, and noisy or not.
	code, text, errs = spin(t, args("sharp.png", blurred("s.png", "--kernel", "gaussian:3:0.1", "--sigma", "0.05"), "--kernel", "auto")...)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "no blur that is worth removing")
	a = read(text)
	require.True(t, a.Estimate.None)
	require.Equal(t, denoised, a.Estimate.Done)
	require.Equal(t, "denoise", a.Task)
	require.InDelta(t, 0.05, a.Sigma, 0.005, "measured")
	code, text, errs = spin(t, args("clean.png", photo, "--kernel", "auto")...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "Nothing was written")
	require.Equal(t, nothing, read(text).Estimate.Done)
	require.NoFileExists(t, path("clean.png"))

	// Of no family.
	code, text, errs = spin(t, args("shaken.png", blurred("m.png", "--kernel", "motion:25:0.6:4", "--sigma", "0.01"), "--kernel", "auto", "--save-kernel", path("m-kernel.png"))...)
	require.Equal(t, 1, code, text)
	require.Contains(t, errs, "confidence low")
	require.Contains(t, errs, "--kernel FILE")
	a = read(text)
	require.Equal(t, nothing, a.Estimate.Done)
	require.Contains(t, errs, kernelArgument(a.Estimate.BlurEstimate))
	require.NoFileExists(t, path("shaken.png"))
	require.NoFileExists(t, path("m-kernel.png"))
}

func TestKernelAutoUsage(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 48, 32)
	out := filepath.Join(dir, "out.png")
	task := []string{"--prior", prior, "-o", out, pic}
	for name, c := range map[string]struct {
		args []string
		want string
		code int
	}{
		"degrade":   {[]string{"degrade", "--task", "deblur", "--kernel", "auto", "-o", out, pic}, "--kernel auto is for reconstruct", 2},
		"compare":   {append([]string{"compare", "--task", "deblur", "--kernel", "auto"}, task...), "--kernel auto is for reconstruct", 2},
		"family":    {append([]string{"reconstruct", "--task", "deblur", "--kernel", "auto:box"}, task...), "auto:gaussian,disc,line", 2},
		"empty":     {append([]string{"reconstruct", "--task", "deblur", "--kernel", "auto:"}, task...), "auto:gaussian,disc,line", 2},
		"chain":     {append([]string{"reconstruct", "--task", "deblur --kernel auto | sr --scale 2"}, task...), "for --task deblur alone", 2},
		"light":     {append([]string{"reconstruct", "--task", "nonlinear-blur", "--kernel", "auto"}, task...), "is for --task deblur", 2},
		"decimate":  {append([]string{"reconstruct", "--task", "decimate", "--scale", "2", "--kernel", "auto"}, task...), "is for --task deblur", 2},
		"photons":   {append([]string{"reconstruct", "--task", "deblur", "--kernel", "auto", "--noise", "poisson:100"}, task...), "leave --noise away", 2},
		"save":      {append([]string{"reconstruct", "--task", "deblur", "--kernel", "disc:2", "--save-kernel", out}, task...), "--save-kernel goes with --kernel auto", 2},
		"save file": {append([]string{"reconstruct", "--task", "deblur", "--kernel", "auto", "--save-kernel", filepath.Join(dir, "k.npy")}, task...), "k.npy", 1},
		"small":     {append([]string{"reconstruct", "--task", "deblur", "--kernel", "auto"}, task...), "48 x 32 pixels, at least 96 x 96", 1},
		"disc":      {append([]string{"reconstruct", "--task", "deblur", "--kernel", "disc:-1"}, task...), "radius -1", 2},
		"line":      {append([]string{"reconstruct", "--task", "deblur", "--kernel", "line:5"}, task...), "expected 2 to 2 values", 2},
	} {
		code, _, errs := spin(t, c.args...)
		require.Equal(t, c.code, code, "%s: %s", name, errs)
		require.Contains(t, errs, c.want, name)
		require.NoFileExists(t, out)
	}
}
