package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
)

// Samples have a mean and a deviation, the map of a mask is the mask, and the report holds everything in one file.
func TestTrust(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 24)
	hole := func(x, _ int) bool { return x > 10 && x < 14 }
	mask := maskFile(t, dir, "mask.png", 32, 24, hole)
	path := func(name string) string { return filepath.Join(dir, name) }
	args := []string{"reconstruct", "--prior", prior, "--steps", "4", "--task", "inpaint", "--mask", mask, "--samples", "3", "--invented-map", path("map.png"),
		"--report", path("report.html"), "--truth", pic, "--json", "-o", path("out.tiff"), pic}
	var r struct {
		Calls        int
		Certificates []struct{ Verdict, Text string }
		Samples      *spreadReport
		Invented     *inventedReport
	}
	require.NoError(t, json.Unmarshal([]byte(ok(t, args...)), &r))
	require.Equal(t, 4, r.Calls)
	require.Len(t, r.Certificates, 3)
	require.Equal(t, "not told", r.Certificates[0].Verdict)
	read := func(name string) *imagefile.Image {
		m, err := imagefile.Read(path(name), imagefile.Limits{})
		require.NoError(t, err)
		require.Equal(t, [2]int{32, 24}, [2]int{m.W, m.H})
		return m
	}
	invented, std, mean, original := read("map.png"), read("out.std.tiff"), read("out.mean.tiff"), read(filepath.Base(pic))
	for i := range invented.Pix {
		if hole(i/3%32, i/3/32) {
			require.EqualValues(t, 1, invented.Pix[i])
		} else { // known, and kept
			require.EqualValues(t, -1, invented.Pix[i])
			require.EqualValues(t, -1, std.Pix[i])
			require.Equal(t, original.Pix[i], mean.Pix[i])
		}
	}
	require.Zero(t, r.Samples.StdMeasured)
	require.Positive(t, r.Samples.StdInvented)
	require.NotNil(t, r.Samples.Mean)
	require.Positive(t, r.Invented.Mean)
	page, err := os.ReadFile(path("report.html"))
	require.NoError(t, err)
	for _, what := range []string{"Measured", "Sample 3", "Mean", "Deviation", "Invented", "Truth", "Difference", "chi-square", "picture-32x24.png"} {
		require.Contains(t, string(page), what)
	}
	require.Equal(t, 9, strings.Count(string(page), "<img src=\"data:image/png;base64,"))
	require.NotContains(t, string(page), "ZgotmplZ")

	code, _, errs := spin(t, args...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "--force")
	code, _, errs = spin(t, "degrade", "--task", "denoise", "--sigma", "auto", "-o", path("no.png"), pic)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--sigma auto is for reconstruct")
	code, _, errs = spin(t, "reconstruct", "--prior", prior, "--task", "denoise", "--sigma", "some", "-o", path("no.png"), pic)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "auto")
}
