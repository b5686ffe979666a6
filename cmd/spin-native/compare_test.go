package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
)

// TestCompare: every method in one table, equal calls, the same damage; what does not fit gets a line that says why.
func TestCompare(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 24)
	out := filepath.Join(dir, "sr")
	var r compareReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "compare", "--task", "sr", "--scale", "4", "--sigma", "0.05", "--degrade", "--prior", prior, "--steps", "6", "--json", "-o", out, pic)), &r))
	require.Len(t, r.Methods, len(methods))
	require.NotNil(t, r.Measured)
	for i, m := range r.Methods {
		require.Equal(t, methods[i].name, m.Method)
		require.Empty(t, m.Note)
		require.Equal(t, d(m.Method == "floor", 0, 6), m.Calls, m.Method)
		require.Len(t, m.Timesteps, m.Calls)
		require.NotNil(t, m.Score)
		img, err := imagefile.Read(m.Output, imagefile.Limits{})
		require.NoError(t, err)
		require.Equal(t, [2]int{32, 24}, [2]int{img.W, img.H})
	}
	text, err := os.ReadFile(r.CSV)
	require.NoError(t, err)
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, len(methods)+1)
	require.Equal(t, []string{"method", "calls", "seconds", "PSNR dB", "SSIM", "chi-square", "remark"}, rows[0])
	md, err := os.ReadFile(r.Table)
	require.NoError(t, err)
	require.Contains(t, string(md), "\n| spin | 6 |")
	require.FileExists(t, r.Sheet)

	// The picture of Spin is the one of reconstruct, and so are those of the rivals.
	saved := filepath.Join(dir, "y.safetensors")
	ok(t, "degrade", "--task", "sr", "--scale", "4", "--sigma", "0.05", "--save-measurement", saved, pic)
	for _, method := range []string{"spin", "daps", "floor"} {
		alone := filepath.Join(dir, method+".png")
		ok(t, "reconstruct", "--prior", prior, "--steps", "6", "--method", method, "-o", alone, saved)
		a, err := os.ReadFile(alone)
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(out, method+".png"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), method)
	}

	table := ok(t, "compare", "--prior", prior, "--steps", "4", "--methods", "ddrm,spin", "--task", "deblur", "--kernel", "gaussian:9:1.5", "-o", filepath.Join(dir, "blur"), pic)
	require.Contains(t, table, "singular value")
	require.NoFileExists(t, filepath.Join(dir, "blur", "ddrm.png"))
	require.FileExists(t, filepath.Join(dir, "blur", "spin.png"))
	code, _, errs := spin(t, "compare", "--prior", prior, "--steps", "4", "--methods", "ddrm", "--task", "deblur", "--kernel", "gaussian:9:1.5", "-o", filepath.Join(dir, "none"), pic)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "no method fits")
}

func TestCompareRefusals(t *testing.T) {
	dir := t.TempDir()
	pic := picture(t, dir, 32, 24)
	out := filepath.Join(dir, "out")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--methods", "spin,dps", "-o", out, pic}, "dps-approx"},
		{[]string{"--methods", "spin,spin", "-o", out, pic}, "twice"},
		{[]string{pic}, "-o is missing"},
		{[]string{"--steps", "1", "-o", out, pic}, "--steps 1"},
		{[]string{"--degrade", "--truth", pic, "-o", out, pic}, "--truth"},
		{[]string{"-o", out, pic}, "--task"},
	} {
		code, stdout, errs := spin(t, append([]string{"compare"}, c.args...)...)
		require.Equal(t, exitUsage, code, c.args)
		require.Empty(t, stdout)
		require.Contains(t, errs, c.want)
	}
	require.NoDirExists(t, out)
}

// TestSettings: what --set says is what --json reports, and wrong names and values are told with the right ones.
func TestSettings(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 24)
	out := filepath.Join(dir, "out.png")
	args := []string{"reconstruct", "--task", "denoise", "--sigma", "0.2", "--prior", prior, "--force", "-o", out, pic}
	var r reconstructReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, append(args, "--json", "--transition", "dpmpp",
		"--set", "tstar=250,k1=1,p=5,tlow=2", "--set", "lam=0.4,every=2,etau=0.5,inner=fgd:3:0.7,tend=9,power=1,sdmin=0.04")...)), &r))
	s := r.Settings
	require.NotNil(t, s)
	require.Equal(t, []int{250, 1, 5, 2, 2, 9}, []int{s.TStar, s.K1, s.P, s.TLow, s.Every, s.TEnd})
	require.Equal(t, []float64{0.4, 0.4, 0.5, 1, 0.04, 0.7}, []float64{s.Lam1, s.Lam2, s.EtaU, s.Power, s.SDMin, s.Inner1.Rate})
	require.Equal(t, 3, s.Inner2.Steps)
	require.Equal(t, []int{250, 250, 188, 126, 64, 2}, r.Timesteps)
	require.Equal(t, 6, r.Calls)
	require.EqualValues(t, "dpmpp", r.Transition)
	require.False(t, r.Deadline)

	var plain reconstructReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, append(args, "--json", "--steps", "4")...)), &plain))
	require.NotEmpty(t, plain.Settings.Inner1.Method, "the defaults are told as they are")
	for _, c := range [][2]string{
		{"--set=tsart=3", "tstar"}, {"--set=k1=x", "whole number"}, {"--set=lam=?", "number"}, {"--set=inner=newton", "pcg"},
		{"--set=inner=fgd:0", "steps"}, {"--set=keep=maybe", "true or false"}, {"--transition=euler", "dpmpp"}, {"--method=dps", "dps-approx"},
		{"--deadline=-3s", "above 0"}, {"--deadline=soon", "invalid"},
	} {
		code, stdout, errs := spin(t, append(args, c[0])...)
		require.Equal(t, exitUsage, code, c[0])
		require.Empty(t, stdout)
		require.Contains(t, errs, c[1])
	}
	code, _, errs := spin(t, append(args, "--method", "ddnm", "--set", "k1=3")...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "Spin's")
	code, _, errs = spin(t, append(args, "--set", "tstar=5000")...)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "TStar 5000")
}

// TestDeadlineFlag: done in time with what there is, which is a success.
func TestDeadlineFlag(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 24)
	out := filepath.Join(dir, "out.png")
	for _, method := range []string{"spin", "diffpir"} {
		var r reconstructReport
		require.NoError(t, json.Unmarshal([]byte(ok(t, "reconstruct", "--task", "inpaint", "--mask", "center:8", "--sigma", "0.2", "--prior", prior, "--method", method,
			"--steps", "10000", "--deadline", "200ms", "--json", "--force", "-o", out, pic)), &r))
		require.True(t, r.Deadline)
		require.Positive(t, r.Calls)
		require.Less(t, r.Calls, 600)
		require.Less(t, r.Seconds, 30.0)
		require.FileExists(t, out)
	}
}

func TestSampleCommand(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return data
	}
	var r sampleReport
	first := filepath.Join(dir, "ddim")
	require.NoError(t, json.Unmarshal([]byte(ok(t, "sample", "--prior", prior, "-n", "3", "--steps", "4", "--json", "-o", first)), &r))
	require.Equal(t, []int{32, 32, 4}, []int{r.Width, r.Height, r.Calls})
	require.Equal(t, []int{999, 666, 333, 0}, r.Timesteps)
	require.Len(t, r.Outputs, 3)
	require.FileExists(t, r.Grid)
	require.NotEqual(t, read(r.Outputs[0]), read(r.Outputs[1]))
	for _, args := range [][]string{
		{"--sampler", "ddim", "--eta", "0.5"}, {"--sampler", "ddpm"}, {"--sampler", "ddpm-large"}, {"--sampler", "pndm"}, {"--sampler", "dpmpp"},
		{"--sampler", "dpmpp3"}, {"--threshold", "dynamic:0.9"}, {"--threshold", "none"}, {"--time-shift", "100:10"}, {"--seed", "5"}, {"--size", "24x16"},
	} {
		out := filepath.Join(dir, strings.Join(args, ""))
		ok(t, append([]string{"sample", "--prior", prior, "-n", "1", "--steps", "4", "--quiet", "-o", out}, args...)...)
		require.NotEqual(t, read(r.Outputs[0]), read(filepath.Join(out, "sample-1.png")), args)
	}
	again := filepath.Join(dir, "again")
	ok(t, "sample", "--prior", prior, "-n", "2", "--steps", "4", "--threads", "1", "-o", again)
	require.Equal(t, read(r.Outputs[1]), read(filepath.Join(again, "sample-2.png")), "number two of the seed")

	latent := filepath.Join(dir, "latent")
	require.NoError(t, json.Unmarshal([]byte(ok(t, "sample", "--prior", builtinLatent, "-n", "1", "--steps", "2", "--size", "64", "--json", "-o", latent)), &r))
	require.Equal(t, 64, r.Width)

	for _, c := range [][]string{
		{"-o is missing"}, {"--steps 0", "--steps", "0", "-o", dir}, {"--sampler renoise", "--sampler", "renoise", "-o", dir}, {"--eta 2", "--eta", "2", "-o", dir},
		{"belongs to", "--eta", "0.5", "--sampler", "pndm", "-o", dir}, {"--size 0", "--size", "0", "-o", dir}, {"--threshold dynamic:2", "--threshold", "dynamic:2", "-o", dir},
		{"--time-shift x", "--time-shift", "x", "-o", dir}, {"dynamic thresholds", "--threshold", "dynamic:0.9", "--prior", builtinLatent, "-o", dir},
	} {
		code, _, errs := spin(t, append([]string{"sample"}, c[1:]...)...)
		require.Equal(t, exitUsage, code, c)
		require.Contains(t, errs, c[0])
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	code, _, _ := spinContext(t, ctx, "sample", "--prior", prior, "-o", filepath.Join(dir, "broken"))
	require.Equal(t, exitInterrupted, code)
	require.NoFileExists(t, filepath.Join(dir, "broken", "sample-1.png"))
}

// What is compared with the truth, and how, is what reconstruct compares: grey where the measurement is, in the better of two
// orientations where it cannot tell, and lying as the file says.
func TestCompareScores(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 16)
	jpeg := jpegOf(t, pic, 10, 6)
	measured := func(task string) string {
		y := filepath.Join(dir, task+".safetensors")
		ok(t, "degrade", "--task", task, "--sigma", "0.01", "--save-measurement", y, pic)
		return y
	}
	for name, args := range map[string][]string{
		"mri":   {"--truth", pic, measured("mri")},
		"phase": {"--truth", pic, measured("phase")},
		"jpeg":  {"--truth", jpeg, "--task", "jpeg", jpeg},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			alone := filepath.Join(dir, "alone.png")
			args = append([]string{"--prior", prior, "--steps", "4", "--json"}, args...)
			var r reconstructReport
			require.NoError(t, json.Unmarshal([]byte(ok(t, append([]string{"reconstruct", "-o", alone}, args...)...)), &r))
			var c compareReport
			require.NoError(t, json.Unmarshal([]byte(ok(t, append([]string{"compare", "--methods", "spin,floor", "-o", dir}, args...)...)), &c))
			require.Equal(t, r.Result[0], *c.Methods[0].Score)
			require.Equal(t, r.Measured, c.Measured)
			require.Equal(t, [2]int{r.Width, r.Height}, [2]int{c.Width, c.Height})
			want, err := imagefile.Read(alone, imagefile.Limits{})
			require.NoError(t, err)
			got, err := imagefile.Read(c.Methods[0].Output, imagefile.Limits{})
			require.NoError(t, err)
			require.Equal(t, want.Pix, got.Pix)
		})
	}
}
