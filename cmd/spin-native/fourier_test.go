package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/solver"
)

// What no picture can hold goes through a measurement file: measured, shown, and reconstructed from it alone.
func TestMeasuredElsewhere(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 16)
	for name, c := range map[string]struct {
		args  []string
		w, h  int // of what is shown
		grey  bool
		other bool // the same picture in two orientations
	}{
		"phase":               {args: []string{"--task", "phase"}, w: 48, h: 24, other: true},
		"phase, oversampled":  {args: []string{"--task", "phase", "--oversample", "4", "--unscaled"}, w: 64, h: 32, other: true},
		"mri":                 {args: []string{"--task", "mri", "--acceleration", "4", "--center", "0.08"}, w: 32, h: 16, grey: true},
		"mri, equispaced":     {args: []string{"--task", "mri", "--acceleration", "8", "--mask-kind", "equispaced", "--pattern-seed", "3"}, w: 32, h: 16, grey: true},
		"ct":                  {args: []string{"--task", "ct", "--views", "9"}, w: 36, h: 9, grey: true},
		"ct, detectors":       {args: []string{"--task", "ct", "--views", "5", "--detectors", "20"}, w: 20, h: 5, grey: true},
		"cs":                  {args: []string{"--task", "cs", "--ratio", "0.25", "--block", "8"}, w: 32, h: 16},
		"single pixel":        {args: []string{"--task", "single-pixel"}, w: 32, h: 16},
		"single pixel, blind": {args: []string{"--task", "single-pixel", "--ratio", "0.5", "--pattern", "random"}, w: 32, h: 16},
		"blurred before":      {args: []string{"--task", "deblur --kernel gaussian:5:1 | mri"}, w: 32, h: 16, grey: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			shown, saved, out := filepath.Join(dir, "y.png"), filepath.Join(dir, "y.safetensors"), filepath.Join(dir, "out.png")
			ok(t, append([]string{"degrade", "--sigma", "0.01", "-o", shown, "--save-measurement", saved, pic}, c.args...)...)
			y, err := imagefile.Read(shown, imagefile.Limits{})
			require.NoError(t, err)
			require.Equal(t, [2]int{c.w, c.h}, [2]int{y.W, y.H})
			args := []string{"reconstruct", "--prior", prior, "--steps", "4", "-o", out, "--truth", pic, "--json", saved}
			if c.other {
				args = append(args, "--restarts", "2")
			}
			var r reconstructReport
			require.NoError(t, json.Unmarshal([]byte(ok(t, args...)), &r))
			require.Nil(t, r.Measured, "what is measured is no picture")
			require.Len(t, r.Result, 1)
			x, err := imagefile.Read(out, imagefile.Limits{})
			require.NoError(t, err)
			require.Equal(t, [2]int{32, 16}, [2]int{x.W, x.H})
			require.Equal(t, c.grey, x.Gray)
			if c.other {
				require.Len(t, r.Attempts, 1)
				require.Len(t, r.Attempts[0], 2)
				require.Equal(t, 8, r.Calls)
			}

			code, _, errs := spin(t, append([]string{"reconstruct", "--prior", prior, "-o", out, "--force", pic}, c.args...)...)
			require.Equal(t, 2, code)
			require.Contains(t, errs, "measurement file")
		})
	}
}

func TestMeasuredElsewhereRefusals(t *testing.T) {
	dir := t.TempDir()
	pic := picture(t, dir, 30, 20)
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"too much oversampling":    {[]string{"--task", "phase", "--oversample", "9"}, "oversampling"},
		"no acceleration":          {[]string{"--task", "mri", "--acceleration", "0.5"}, "acceleration"},
		"centre too large":         {[]string{"--task", "mri", "--center", "0.5"}, "centre"},
		"unknown kind of mask":     {[]string{"--task", "mri", "--mask-kind", "spiral"}, "equispaced or random"},
		"no views":                 {[]string{"--task", "ct", "--views", "0"}, "views"},
		"blocks that do not fit":   {[]string{"--task", "cs", "--block", "16"}, "divide"},
		"ratio":                    {[]string{"--task", "cs", "--block", "10", "--ratio", "1.5"}, "ratio"},
		"seed that no file tells":  {[]string{"--task", "cs", "--block", "10", "--pattern-seed", "9007199254740993"}, "pattern-seed"},
		"no powers of two":         {[]string{"--task", "single-pixel"}, "powers of two"},
		"unknown pattern":          {[]string{"--task", "single-pixel", "--pattern", "spiral"}, "powers of two"},
		"flag of another task":     {[]string{"--task", "ct", "--ratio", "0.5"}, "--ratio"},
		"something after the last": {[]string{"--task", "mri | sr"}, "last"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errs := spin(t, append([]string{"degrade", "-o", filepath.Join(t.TempDir(), "y.png"), pic}, c.args...)...)
			require.NotZero(t, code)
			require.Contains(t, errs, c.says)
		})
	}
	code, _, errs := spin(t, "reconstruct", "--task", "denoise", "--sigma", "0.1", "--restarts", "0", "-o", filepath.Join(dir, "x.png"), pic)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--restarts")
}

// A picture turned by 180 degrees is as good where the measurement cannot tell.
func TestScoreOfEither(t *testing.T) {
	truth := imagefile.New(12, 12)
	for i := range truth.Pix {
		truth.Pix[i] = float32(i%17)/17 - 0.5
	}
	s, err := metrics.ScoreOfEither(truth, truth)
	require.NoError(t, err)
	require.Equal(t, metrics.Score{PSNR: 999, SSIM: 1}, s)
	s, err = metrics.ScoreOfEither(truth.Turned(), truth)
	require.NoError(t, err)
	require.Equal(t, metrics.Score{PSNR: 999, SSIM: 1, Turned: true}, s)
	require.Contains(t, s.String(), "turned by 180 degrees")
	require.True(t, solver.Spec{Kind: "phase"}.Turnable())
	require.False(t, solver.Spec{Kind: "mri"}.Turnable())
	require.False(t, solver.Spec{Kind: "mri"}.Pictures())
	require.True(t, solver.Spec{Kind: "blur"}.Pictures())
}
