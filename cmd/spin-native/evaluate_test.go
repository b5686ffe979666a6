package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/weights"
)

// gallery makes truths a and b, and two methods: one off by a constant, one exact.
func gallery(t *testing.T) (path func(parts ...string) string, off float64) {
	t.Helper()
	dir := t.TempDir()
	path = func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	for _, folder := range []string{"truth", "near", "exact", "y"} {
		require.NoError(t, os.Mkdir(path(folder), 0o755))
	}
	truth, err := imagefile.Read(picture(t, dir, 40, 36), imagefile.Limits{})
	require.NoError(t, err)
	near := imagefile.New(truth.W, truth.H)
	for i, v := range truth.Pix {
		near.Pix[i] = v + 8/127.5
	}
	for _, name := range []string{"a", "b"} {
		require.NoError(t, imagefile.Write(path("truth", name+".png"), truth, false))
		require.NoError(t, imagefile.Write(path("near", name+".png"), near, false))
		require.NoError(t, imagefile.Write(path("exact", name+".png"), truth, false))
	}
	return path, -20 * math.Log10(4/127.5)
}

func TestEvaluate(t *testing.T) {
	path, off := gallery(t)
	for _, name := range []string{"a", "b"} {
		ok(t, "degrade", "--task", "sr", "--scale", "2", "--sigma", "0.1", "--seed", "3", "--save-measurement", path("y", name+".safetensors"), path("truth", name+".png"))
	}
	out := ok(t, "evaluate", "--truth", path("truth"), "--measurements", path("y"), "--inputs", path("near"), "--grid", path("grid.png"), "--json", path("near"), path("exact"))
	var r evaluateReport
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.Len(t, r.Results, 4)
	require.Empty(t, r.Notes)
	require.InDelta(t, off, r.Results[0].Figures.PSNR, 0.05)
	truth, err := imagefile.Read(path("truth", "a.png"), imagefile.Limits{})
	require.NoError(t, err)
	near, err := imagefile.Read(path("near", "a.png"), imagefile.Limits{})
	require.NoError(t, err)
	for _, c := range []struct {
		form metrics.Form
		got  float64
	}{{metrics.Gaussian, r.Results[0].Figures.SSIM}, {metrics.Uniform, r.Results[0].Figures.SSIM7}} {
		want, err := c.form.SSIM(near.Pix, truth.Pix, truth.W, truth.H, 3)
		require.NoError(t, err)
		require.InDelta(t, want, c.got, 1e-12)
	}
	require.InDelta(t, 1, *r.Results[2].Figures.Residual, 0.25, "the truth explains its measurement up to its noise")
	require.Greater(t, *r.Results[0].Figures.Residual, *r.Results[2].Figures.Residual)
	require.Equal(t, "exact", r.Methods[1].Method)
	require.Equal(t, figures{PSNR: 999, SSIM: 1, SSIM7: 1, Residual: r.Methods[1].Mean.Residual}, r.Methods[1].Mean)
	require.InDelta(t, 0, r.Methods[0].Deviation.PSNR, 1e-6)
	grid, err := imagefile.Read(path("grid.png"), imagefile.Limits{})
	require.NoError(t, err)
	require.Greater(t, grid.W, 4*40)

	text := ok(t, "evaluate", "--truth", path("truth"), path("near"))
	require.Contains(t, text, "mean")
	require.NotContains(t, text, "residual", "a column without figures is left out")
	require.NotContains(t, text, "LPIPS")
	markdown := ok(t, "evaluate", "--truth", path("truth"), "--format", "markdown", path("near"))
	require.Contains(t, markdown, "| method | picture | PSNR | SSIM | SSIM7 |\n|---|---|---|---|---|\n| near | a |")
	require.Contains(t, markdown, "| **near** | **mean** |")
	table := ok(t, "evaluate", "--truth", path("truth"), "--format", "csv", path("near"))
	require.True(t, strings.HasPrefix(table, "method,picture,PSNR,SSIM,SSIM7\nnear,a,"), table)
	single := ok(t, "evaluate", "--truth", path("truth", "a.png"), path("near", "b.png"))
	require.NotContains(t, single, "mean", "one picture has no mean")
}

func TestEvaluateManifest(t *testing.T) {
	path, _ := gallery(t)
	require.NoError(t, os.WriteFile(path("list.csv"), []byte("result, truth, method\nnear/a.png, truth/a.png, one\nexact/b.png, truth/b.png, two\n"), 0o644))
	out := ok(t, "evaluate", "--manifest", path("list.csv"), "--format", "csv")
	require.Contains(t, out, "\none,a,")
	require.Contains(t, out, "\ntwo,b,999.00,1.0000,1.0000\n")
	require.NoError(t, os.WriteFile(path("list.json"), []byte(`[{"result":"near/a.png","truth":"truth/a.png","name":"x"}]`), 0o644))
	require.Contains(t, ok(t, "evaluate", "--manifest", path("list.json"), "--format", "csv"), "\nresult,x,")
	for name, c := range map[string]struct{ file, text, says string }{
		"column":  {"bad.csv", "result,truth,colour\na,b,c\n", `column "colour"`},
		"header":  {"bad.csv", "result\na\n", "result and truth must be among them"},
		"empty":   {"bad.csv", "result,truth\n", "lists nothing"},
		"short":   {"bad.csv", "result,truth\na\n", "wrong number of fields"},
		"no pair": {"bad.json", `[{"result":"near/a.png"}]`, "entry 1 has no result or no truth"},
		"field":   {"bad.json", `[{"result":"a","truth":"b","x":1}]`, "unknown field"},
		"null":    {"bad.json", `[null]`, "entry 1 has no result"},
	} {
		require.NoError(t, os.WriteFile(path(c.file), []byte(c.text), 0o644))
		code, _, errs := spin(t, "evaluate", "--manifest", path(c.file))
		require.Equal(t, exitFailed, code, name)
		require.Contains(t, errs, c.says, name)
	}
}

func TestEvaluateRefuses(t *testing.T) {
	path, _ := gallery(t)
	pic := picture(t, path(), 44, 36)
	require.NoError(t, os.Rename(pic, path("near", "c.png")))
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing":      {[]string{"--truth", path("truth")}, exitUsage, "what shall be compared"},
		"format":       {[]string{"--truth", path("truth"), "--format", "xml", path("exact")}, exitUsage, "expected text, markdown, csv or json"},
		"both":         {[]string{"--truth", path("truth"), "--manifest", "x"}, exitUsage, "leave --truth"},
		"no truth":     {[]string{"--truth", path("truth"), path("near")}, exitFailed, "c.png has no truth: expected c with"},
		"size":         {[]string{"--truth", path("truth", "a.png"), path("near", "c.png")}, exitFailed, "44 x 36 pixels, its truth"},
		"no folder":    {[]string{"--truth", path("nowhere"), path("exact")}, exitFailed, "nowhere"},
		"empty":        {[]string{"--truth", path("y"), path("exact")}, exitFailed, "holds no files"},
		"measurements": {[]string{"--truth", path("truth"), "--measurements", path("y"), path("exact")}, exitFailed, "holds no files"},
		"not lpips":    {[]string{"--truth", path("truth"), "--lpips", tinyPrior(t, nil), path("exact")}, exitFailed, "holds no LPIPS weights"},
	} {
		code, _, errs := spin(t, append([]string{"evaluate"}, c.args...)...)
		require.Equal(t, c.code, code, "%s: %s", name, errs)
		require.Contains(t, errs, c.says, name)
	}
	require.NoError(t, os.Remove(path("exact", "b.png")))
	require.NoError(t, os.Remove(path("near", "c.png")))
	deep, err := imagefile.Read(path("near", "a.png"), imagefile.Limits{})
	require.NoError(t, err)
	deep.Depth = 16
	require.NoError(t, imagefile.Write(path("near", "a.png"), deep, true))
	for i, s := range []string{"0.1", "0.2"} {
		ok(t, "degrade", "--task", "denoise", "--sigma", s, "--save-measurement", path("y", string(rune('a'+i))+".safetensors"), path("truth", "a.png"))
	}
	_, _, notes := spin(t, "evaluate", "--truth", path("truth"), "--measurements", path("y"), path("near"))
	require.Contains(t, notes, "bits per channel differs")
	require.Contains(t, notes, "noise level differs")
}

// LPIPS of a backbone with four channels.
func TestEvaluateLPIPS(t *testing.T) {
	path, _ := gallery(t)
	var list []weights.Tensor
	for i, l := range []struct {
		name     string
		in, size int
	}{{"0", 3, 11}, {"3", 4, 5}, {"6", 4, 3}, {"8", 4, 3}, {"10", 4, 3}} {
		w := make([]float32, 4*l.in*l.size*l.size)
		for j := range w {
			w[j] = float32(math.Sin(float64(j*j+i))) / float32(l.size)
		}
		list = append(list, weights.FromFloats("features."+l.name+".weight", w, 4, l.in, l.size, l.size),
			weights.FromFloats("features."+l.name+".bias", make([]float32, 4), 4),
			weights.FromFloats("lin"+string(rune('0'+i))+".model.1.weight", []float32{1, 1, 1, 1}, 1, 4, 1, 1))
	}
	file := path("lpips.safetensors")
	require.NoError(t, weights.Write(file, list, map[string]string{"spin.lpips": `{"format":1,"net":"alex","version":"0.1"}`}))
	require.Contains(t, ok(t, "info", file), "LPIPS 0.1 with alex")
	var r evaluateReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "evaluate", "--truth", path("truth"), "--lpips", file, "--json", path("near"), path("exact"))), &r))
	require.Positive(t, *r.Results[0].Figures.LPIPS)
	require.Zero(t, *r.Results[2].Figures.LPIPS)
	require.Equal(t, "version 0.1, alex", r.Definitions["lpips"])
}
