package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

func latentPrior(t *testing.T) string {
	return testkit.Shared(t, "fixtures", "ldm_ffhq_style", "model.ckpt")
}

// TestLatentPrior: one latent prior as a checkpoint and as converted files. Its weights are random, so the filled pixels mean
// nothing; but they are the same every time and from either source, and the known ones are as they were.
func TestLatentPrior(t *testing.T) {
	ckpt, dir := latentPrior(t), t.TempDir()
	m, err := checkpoint.Open(ckpt, checkpoint.Options{})
	require.NoError(t, err)
	defer m.Close()
	converted := filepath.Join(dir, "converted")
	require.NoError(t, os.Mkdir(converted, 0o755))
	for _, c := range m.Components {
		require.NoError(t, weights.Write(filepath.Join(converted, c.Role+".safetensors"), c.Tensors, c.Info.Metadata()))
	}

	in := picture(t, dir, 37, 29) // multiples of neither network
	mask := maskFile(t, dir, "mask.png", 37, 29, func(x, y int) bool { return x > 10 && x < 18 && y < 20 })
	before, err := imagefile.Read(in, imagefile.Limits{})
	require.NoError(t, err)
	var first *imagefile.Image
	for i, prior := range []string{ckpt, ckpt, converted} {
		out := filepath.Join(dir, fmt.Sprintf("out-%d.png", i))
		text := ok(t, "reconstruct", "--prior", prior, "--task", "inpaint", "--mask", mask, "--seed", "3", "--steps", "12", "--quiet", "--json", "-o", out, in)
		var r reconstructReport
		require.NoError(t, json.Unmarshal([]byte(text), &r), text)
		require.NotNil(t, r.FirstStage)
		require.Equal(t, [2]int{37, 29}, [2]int{r.Width, r.Height})
		require.Equal(t, r.Corrections, r.FirstStage.Decodes)
		require.Equal(t, r.Corrections, r.FirstStage.Encodes, "the first guess more, the last picture less")
		require.Less(t, r.FirstStage.Decodes, r.Calls)
		require.Greater(t, r.FirstStage.DecodeShare, 0.0)
		require.Less(t, r.FirstStage.DecodeShare+r.FirstStage.EncodeShare, 1.0)
		require.Equal(t, []float64{0}, r.Residual)
		require.True(t, r.Settings.Final)
		pic, err := imagefile.Read(out, imagefile.Limits{})
		require.NoError(t, err)
		changed := 0
		for p := range pic.Pix {
			if x, y := p/3%37, p/3/37; !(x > 10 && x < 18 && y < 20) {
				require.Equal(t, before.Pix[p], pic.Pix[p])
			} else if before.Pix[p] != pic.Pix[p] {
				changed++
			}
		}
		require.Positive(t, changed)
		if first == nil {
			first = pic
		}
		require.Equal(t, first.Pix, pic.Pix, prior)
	}
	for name, args := range map[string][]string{
		"sr": {"--task", "sr", "--scale", "2"}, "deblur": {"--task", "deblur", "--kernel", "gaussian:9:1.5"}, "denoise": {"--task", "denoise", "--sigma", "0.2", "--samples", "2"},
	} {
		text := ok(t, append([]string{"reconstruct", "--prior", ckpt, "--steps", "4", "--quiet", "--json", "-o", filepath.Join(dir, name+".png"), in}, args...)...)
		var r reconstructReport
		require.NoError(t, json.Unmarshal([]byte(text), &r), text)
		for _, o := range r.Outputs {
			require.FileExists(t, o)
		}
	}
	text := ok(t, "reconstruct", "--prior", ckpt, "--task", "inpaint", "--mask", mask, "--steps", "4", "-o", filepath.Join(dir, "words.png"), in)
	require.Contains(t, text, "first stage")

	text = ok(t, "info", converted)
	require.Contains(t, text, "on latents 2 times smaller; sizes are padded to multiples of 4")
	var r infoReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "info", "--json", ckpt)), &r))
	require.Equal(t, 128, r.Prior.Size)
	require.Positive(t, r.Prior.Memory.Weights)
	r.Prior.Size, r.Prior.Memory = 0, nil
	require.Equal(t, &priorTable{Latent: true, Downsampling: 2, Multiple: 4}, r.Prior)
}

// TestLabels: a prior that is conditioned on classes, with a first stage from a folder of its own, and the same as a
// pipeline of diffusers.
func TestLabels(t *testing.T) {
	unet, stage := testkit.Shared(t, "fixtures", "diffusers_class_unet", "sharded"), testkit.Shared(t, "fixtures", "diffusers_autoencoder_kl", "f16")
	dir := t.TempDir()
	in := picture(t, dir, 24, 16)
	pipeline := filepath.Join(dir, "pipeline")
	require.NoError(t, os.Mkdir(pipeline, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(pipeline, "model_index.json"), []byte(`{"unet":["diffusers","UNet2DModel"],"vae":["diffusers","AutoencoderKL"]}`), 0o644))
	require.NoError(t, os.Symlink(unet, filepath.Join(pipeline, "unet")))
	require.NoError(t, os.Symlink(stage, filepath.Join(pipeline, "vae")))
	base := []string{"reconstruct", "--task", "denoise", "--sigma", "0.2", "--steps", "3", "--quiet"}
	var pics []*imagefile.Image
	for _, args := range [][]string{
		{"--prior", unet, "--first-stage", stage, "--first-stage-scale", "4", "--label", "0"},
		{"--prior", unet, "--first-stage", stage, "--first-stage-scale", "4", "--label", "4"}, {"--prior", pipeline, "--label", "4"},
	} {
		out := filepath.Join(dir, fmt.Sprintf("out-%d.png", len(pics)))
		ok(t, append(append(base, "-o", out, in), args...)...)
		pic, err := imagefile.Read(out, imagefile.Limits{})
		require.NoError(t, err)
		pics = append(pics, pic)
	}
	require.NotEqual(t, pics[0].Pix, pics[1].Pix)
	require.Equal(t, pics[1].Pix, pics[2].Pix)
	require.Contains(t, ok(t, "info", unet), "first stage that decodes them")
	require.Contains(t, ok(t, "info", pipeline), "with a class (--label 0 to 4)")
}

// TestLatentRefusals: what does not belong together is refused before anything is computed or written.
func TestLatentRefusals(t *testing.T) {
	shared := func(parts ...string) string {
		return testkit.Shared(t, append([]string{"fixtures"}, parts...)...)
	}
	classes, text, kl := shared("diffusers_class_unet", "sharded"), shared("diffusers_sd_unet", "f16"), shared("diffusers_autoencoder_kl", "f16")
	vq := shared("diffusers_vq_model", "f16")
	dir := t.TempDir()
	in := picture(t, dir, 24, 16)
	m, err := checkpoint.Open(classes, checkpoint.Options{})
	require.NoError(t, err)
	defer m.Close()
	known, info := filepath.Join(dir, "known.safetensors"), m.Components[0].Info
	info.Downsampling = 2
	require.NoError(t, weights.Write(known, m.Components[0].Tensors, info.Metadata()))
	require.Contains(t, ok(t, "info", known), "of pictures 2 times larger")
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"no first stage", []string{"--prior", classes}, 1, []string{"latents of 4 channels", "missing", "--first-stage"}},
		{"first stage of other channels", []string{"--prior", classes, "--first-stage", vq}, 1, []string{"takes 4 channels", "have 3", "do not belong together"}},
		{"first stage that is none", []string{"--prior", classes, "--first-stage", text}, 1, []string{"holds no first stage"}},
		{"first stage that is not there", []string{"--prior", classes, "--first-stage", filepath.Join(dir, "none")}, 1, []string{"none"}},
		{"first stage alone", []string{"--prior", kl}, 1, []string{"holds no UNet"}},
		{"first stage of pictures", []string{"--prior", "photo", "--first-stage", kl}, 1, []string{"no use for a first stage"}},
		{"texts", []string{"--prior", text, "--first-stage", kl}, 1, []string{"conditioned on texts", "encoder is missing"}},
		{"first stage of other sizes", []string{"--prior", classes, "--first-stage", kl, "--label", "1"}, 1, []string{"latents of 20 pixels", "makes 80", "trained on 32", "--first-stage-scale 4"}},
		{"first stage of another scale", []string{"--prior", classes, "--first-stage", kl, "--first-stage-scale", "8", "--label", "1"}, 1, []string{"8 times larger", "4 times larger", "do not belong together"}},
		{"first stage of another scale than the converter saw", []string{"--prior", known, "--first-stage", kl, "--label", "1"}, 1, []string{"2 times larger", "4 times larger"}},
		{"scale against the file", []string{"--prior", known, "--first-stage", kl, "--first-stage-scale", "4", "--label", "1"}, 2, []string{"files that tell otherwise"}},
		{"scale for nothing", []string{"--prior", "photo", "--first-stage-scale", "4"}, 2, []string{"prior with a first stage"}},
		{"no label", []string{"--prior", classes, "--first-stage", kl, "--first-stage-scale", "4"}, 2, []string{"--label 0 to 4"}},
		{"label too large", []string{"--prior", classes, "--first-stage", kl, "--first-stage-scale", "4", "--label", "5"}, 2, []string{"--label 5", "0 to 4"}},
		{"negative label", []string{"--prior", classes, "--first-stage", kl, "--first-stage-scale", "4", "--label", "-2"}, 2, []string{"--label -2"}},
		{"label for nothing", []string{"--prior", "photo", "--label", "1"}, 2, []string{"--label 1", "no classes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(dir, "out.png")
			code, stdout, errs := spin(t, append([]string{"reconstruct", "--task", "denoise", "--sigma", "0.1", "-o", out, in}, c.args...)...)
			require.Equal(t, c.code, code, errs)
			require.Empty(t, stdout)
			require.Equal(t, 1, strings.Count(errs, "\n"), errs)
			for _, w := range c.want {
				require.Contains(t, errs, w)
			}
			require.NoFileExists(t, out)
		})
	}
	require.Contains(t, ok(t, "info", text), "conditioned on texts")
}

// TestLatentMemory: a run of a latent prior takes its memory in one piece, known beforehand.
func TestLatentMemory(t *testing.T) {
	f := solveFlags{prior: priorFlags{path: latentPrior(t), label: noLabel}, deviceFlags: deviceFlags{threads: 2}}
	pic := imagefile.New(30, 26)
	for i := range pic.Pix {
		pic.Pix[i] = float32(i%7)/7 - 0.5
	}
	scratches, err := solver.ScratchMask(26, 30, 3, 1)
	require.NoError(t, err)
	for sigma, spec := range map[float64]solver.Spec{0.05: {Kind: "downsample", Factor: 2}, 0: {Kind: "inpaint", Masks: []*solver.Mask{scratches}}} {
		t.Run(spec.Kind, func(t *testing.T) {
			other, err := cpu.Open(cpu.Options{})
			require.NoError(t, err)
			m, err := degrade(tensor.NewDevice(other), pic, spec, sigma, 1)
			require.NoError(t, err)
			require.NoError(t, other.Close())
			b, err := cpu.Open(f.options())
			require.NoError(t, err)
			d := tensor.NewDevice(b)
			defer d.Close()
			run := func(d *tensor.Device, p *prior, calls int) error {
				_, err := solve(t.Context(), d, p, m, calls, 2, 1, nil)
				return err
			}
			p, err := f.load(d, 2, 26, 30, func(d *tensor.Device, p *prior) error { return run(d, p, rehearsed) })
			require.NoError(t, err)
			require.NoError(t, run(d, p, rehearsed+5))
			s := d.Stats()
			require.Equal(t, int64(1), s.Allocs)
			require.Equal(t, s.Allocated, s.Peak)
		})
	}
}

// TestBands: with less memory than a whole picture takes, the first stage works in bands; the run stays below the limit and
// makes the same pictures.
func TestBands(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("the reference backend does not count")
	}
	// A first stage without a code book: there rounding decides between vectors.
	f := solveFlags{
		prior:       priorFlags{path: testkit.Shared(t, "fixtures", "diffusers_class_unet", "sharded"), firstStage: testkit.Shared(t, "fixtures", "diffusers_autoencoder_kl", "f16"), scale: 4, label: 1},
		deviceFlags: deviceFlags{threads: 2},
	}
	const h, w, samples = 186, 202, 2 // not of a size that either network takes
	pic := imagefile.New(w, h)
	for i := range pic.Pix {
		pic.Pix[i] = float32(i%11)/11 - 0.5
	}
	other, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	m, err := degrade(tensor.NewDevice(other), pic, solver.Spec{Kind: "downsample", Factor: 2}, 0.05, 1)
	require.NoError(t, err)
	require.NoError(t, other.Close())
	run := func(mb int) (plan, []*imagefile.Image) {
		f.memory.mb = mb
		b, err := cpu.Open(f.options())
		require.NoError(t, err)
		d := tensor.NewDevice(b)
		defer d.Close()
		run := func(d *tensor.Device, p *prior) (s *solution) {
			s, err := solve(t.Context(), d, p, m, rehearsed, samples, 1, nil)
			require.NoError(t, err)
			return s
		}
		p, err := f.load(d, samples, h, w, func(d *tensor.Device, p *prior) error { run(d, p); return nil })
		require.NoError(t, err)
		s := run(d, p)
		used, want := kernels.UsageOf(b), p.memory.cost.Memory
		require.Equal(t, kernels.Usage{Tensors: want.Activations, Weights: want.Weights, Scratch: want.Scratch}, used)
		require.Equal(t, int64(1), d.Stats().Allocs)
		return p.memory, s.images
	}
	whole, want := run(0)
	require.Zero(t, whole.rows())
	require.Equal(t, "whole", whole.String())
	total := int(whole.total() >> 20)
	rows := map[string]bool{}
	for _, mb := range []int{total - 1, total * 4 / 5, total * 3 / 4} {
		p, got := run(mb)
		require.Positive(t, p.rows())
		require.LessOrEqual(t, p.total(), int64(mb)<<20)
		rows[p.String()] = true
		t.Logf("%d MB of %d: %v, %v", mb, total, p, p.cost.Memory)
		for i := range want {
			for k, v := range want[i].Pix {
				require.InDelta(t, v, got[i].Pix[k], 1e-4, "%v", p)
			}
		}
	}
	require.Greater(t, len(rows), 1)

	// The same from the command line, with its report.
	dir := t.TempDir()
	in := picture(t, dir, 200, 184)
	args := []string{"reconstruct", "--prior", f.prior.path, "--first-stage", f.prior.firstStage, "--first-stage-scale", "4", "--label", "1", "--task", "denoise", "--sigma", "0.2", "--steps", "3", "--max-memory"}
	var r reconstructReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, append(args, "0", "--json", "-o", filepath.Join(dir, "whole.png"), in)...)), &r))
	require.Zero(t, r.Memory.BandRows)
	less := r.Memory.Total>>20 - 2
	require.NoError(t, json.Unmarshal([]byte(ok(t, append(args, fmt.Sprint(less), "--quiet", "--json", "-o", filepath.Join(dir, "out.png"), in)...)), &r))
	require.Positive(t, r.Memory.BandRows)
	require.LessOrEqual(t, r.Memory.Total, r.Memory.Limit)
	require.Equal(t, less<<20, r.Memory.Limit)
	require.Contains(t, ok(t, append(args, fmt.Sprint(less), "-o", filepath.Join(dir, "again.png"), in)...), "% of the time; in bands of")
	code, _, errs := spin(t, append(args, "9", "-o", filepath.Join(dir, "none.png"), in)...)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "even with its first stage in bands")
	require.Contains(t, errs, "the limit is 9 MB")
	require.NoFileExists(t, filepath.Join(dir, "none.png"))

	text := ok(t, "info", "--size", "512", "--max-memory", "100", latentPrior(t))
	require.Contains(t, text, "too big")
	text = ok(t, "info", "--size", "512", latentPrior(t))
	require.Contains(t, text, "at 512 x 512; first stage whole")
	var i infoReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "info", "--json", "--size", "512", "--max-memory", "300", latentPrior(t))), &i))
	require.Equal(t, 512, i.Prior.Size)
	require.Positive(t, i.Prior.Memory.BandRows)
}

// TestCorrections: how often a latent prior is corrected, and whether its last picture is, is up to the caller.
func TestCorrections(t *testing.T) {
	dir := t.TempDir()
	in := picture(t, dir, 16, 8)
	run := func(args ...string) (r reconstructReport) {
		text := ok(t, append([]string{"reconstruct", "--prior", latentPrior(t), "--task", "denoise", "--sigma", "0.1", "--steps", "16", "--quiet", "--json", "--force", "-o", filepath.Join(dir, "out.png"), in}, args...)...)
		require.NoError(t, json.Unmarshal([]byte(text), &r), text)
		return r
	}
	usual, all, rare, last := run(), run("--correct-every", "1"), run("--correct-every", "5"), run("--correct-last")
	require.Equal(t, 2, usual.Settings.Every)
	require.False(t, usual.Settings.Final)
	require.Equal(t, []int{1, 5}, []int{all.Settings.Every, rare.Settings.Every})
	require.Greater(t, all.Corrections, usual.Corrections)
	require.Less(t, rare.Corrections, usual.Corrections)
	require.True(t, last.Settings.Final)
	require.Equal(t, usual.Corrections+1, last.Corrections)
	require.Equal(t, usual.FirstStage.Encodes, last.FirstStage.Encodes)
	require.Equal(t, usual.FirstStage.Decodes, last.FirstStage.Decodes)
	require.Equal(t, usual.Calls, all.Calls)
	require.True(t, run("--sigma", "0.01").Settings.Final)
	require.False(t, run("--sigma", "0.01", "--correct-last=false").Settings.Final)

	for name, args := range map[string][]string{
		"0":                         {"--prior", latentPrior(t), "--correct-every", "0"},
		"--correct-every -1":        {"--prior", latentPrior(t), "--correct-every", "-1"},
		"are for latent priors":     {"--correct-every", "2"},
		"for latent priors: in":     {"--correct-last"},
		"the pictures of this":      {"--correct-last=false"},
		"invalid argument \"some\"": {"--correct-every", "some"},
	} {
		code, _, errs := spin(t, append([]string{"reconstruct", "--task", "denoise", "--sigma", "0.1", "-o", filepath.Join(dir, "none.png"), in}, args...)...)
		require.Equal(t, exitUsage, code, errs)
		require.Contains(t, errs, name)
		require.NoFileExists(t, filepath.Join(dir, "none.png"))
	}
}

// TestPixelUNet: a UNet2DModel serves for pictures where its pipeline says so, old and new, or its user, and when it has been
// converted.
func TestPixelUNet(t *testing.T) {
	dir, unet := t.TempDir(), testkit.Shared(t, "fixtures", "diffusers_ddpm_unet", "f16")
	const index = `{"_class_name":"DDPMPipeline","scheduler":["diffusers","DDPMScheduler"],"unet":["diffusers","UNet2DModel"]}`
	const scheduler = `{"_class_name":"DDPMScheduler","beta_start":0.0001,"beta_end":0.02,"beta_schedule":"linear","num_train_timesteps":1000}`
	write := func(text string, path ...string) {
		name := filepath.Join(append([]string{dir}, path...)...)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	write(index, "pipeline", "model_index.json")
	write(scheduler, "pipeline", "scheduler", "scheduler_config.json")
	require.NoError(t, os.Symlink(unet, filepath.Join(dir, "pipeline", "unet")))
	write(index, "flat", "model_index.json")
	write(scheduler, "flat", "scheduler_config.json")
	files, err := os.ReadDir(unet)
	require.NoError(t, err)
	for _, f := range files {
		require.NoError(t, os.Symlink(filepath.Join(unet, f.Name()), filepath.Join(dir, "flat", f.Name())))
	}
	pipeline, flat, converted := filepath.Join(dir, "pipeline"), filepath.Join(dir, "flat"), filepath.Join(dir, "unet.safetensors")
	m, err := checkpoint.Open(pipeline, checkpoint.Options{})
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, weights.Write(converted, m.Components[0].Tensors, m.Components[0].Info.Metadata()))

	in := picture(t, dir, 30, 18)
	args := []string{"reconstruct", "--task", "denoise", "--sigma", "0.2", "--steps", "4", "--seed", "5", "--quiet", "--json"}
	var first *imagefile.Image
	for i, prior := range [][]string{{pipeline}, {flat}, {converted}, {unet, "--prior-space", "pixels"}, {pipeline, "--prior-space", "pixels"}} {
		out := filepath.Join(dir, fmt.Sprint("out-", i, ".png"))
		var r reconstructReport
		text := ok(t, append(append(append(args, "-o", out, in), "--prior"), prior...)...)
		require.NoError(t, json.Unmarshal([]byte(text), &r))
		require.Nil(t, r.FirstStage)
		require.Equal(t, 1, r.Settings.Every)
		pic, err := imagefile.Read(out, imagefile.Limits{})
		require.NoError(t, err)
		if first == nil {
			first = pic
		}
		require.Equal(t, first.Pix, pic.Pix, prior)
	}
	require.Contains(t, ok(t, "info", pipeline), "for pictures; sizes are padded to multiples of 4")
	require.Contains(t, ok(t, "info", unet), "nothing tells whether the UNet works on pictures or on latents")
	require.Contains(t, ok(t, "bench", "--model", pipeline, "--size", "32", "--runs", "1"), "GFLOP")

	vq := testkit.Shared(t, "fixtures", "diffusers_vq_model", "f16")
	for _, c := range []struct {
		prior []string
		code  int
		want  string
	}{
		{[]string{unet}, exitFailed, "--prior-space pixels"},
		{[]string{unet, "--prior-space", "latents"}, exitUsage, "--first-stage names it"},
		{[]string{unet, "--prior-space", "frequencies"}, exitUsage, "expected pixels or latents"},
		{[]string{unet, "--prior-space", "pixels", "--first-stage", vq}, exitFailed, "no use for a first stage"},
		{[]string{pipeline, "--first-stage", vq}, exitFailed, "no use for a first stage"},
		{[]string{pipeline, "--prior-space", "latents"}, exitUsage, "tell otherwise"},
		{[]string{"photo", "--prior-space", "pixels"}, exitUsage, "tell otherwise"},
		{[]string{latentPrior(t), "--prior-space", "pixels"}, exitUsage, "tell otherwise"},
		{[]string{pipeline, "--correct-last"}, exitUsage, "for latent priors"},
	} {
		code, _, errs := spin(t, append(append(append(args, "-o", filepath.Join(dir, "none.png"), in), "--prior"), c.prior...)...)
		require.Equal(t, c.code, code, errs)
		require.Contains(t, errs, c.want)
	}
}

// TestPhotoLatentPrior is the latent way from end to end, on a small crop of a photo that the prior was not trained on: the
// result is better than the measurement.
func TestPhotoLatentPrior(t *testing.T) {
	size, tasks := 96, map[string]struct {
		args []string
		gain float64 // dB over the measurement
	}{
		"denoise": {[]string{"--task", "denoise", "--sigma", "0.2"}, 5.5}, // weights at random gain up to 4.8
		"sr":      {[]string{"--task", "sr", "--scale", "4", "--sigma", "0.05"}, 1},
		"inpaint": {[]string{"--task", "inpaint", "--mask", "scratches:5:3"}, 8},
	}
	if cpu.Levels()[0] == "ref" { // which takes a minute for all of it
		size = 48
		delete(tasks, "sr")
		delete(tasks, "inpaint")
	}
	dir := t.TempDir()
	truth := demoCrop(t, dir, size)
	for name, c := range tasks {
		y, out := filepath.Join(dir, name+".safetensors"), filepath.Join(dir, name+".png")
		ok(t, append([]string{"degrade", "--save-measurement", y, truth}, c.args...)...)
		var r reconstructReport
		text := ok(t, "reconstruct", "--prior", builtinLatent, "--preset", "fast", "--json", "--truth", truth, "-o", out, y)
		require.NoError(t, json.Unmarshal([]byte(text), &r), text)
		require.NotNil(t, r.FirstStage)
		require.Greater(t, r.Result[0].PSNR, r.Measured.PSNR+c.gain, "%s: %+v -> %+v", name, r.Measured, r.Result)
		t.Logf("%s: %+v -> %+v", name, r.Measured, r.Result)
	}

	var r infoReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "info", "--json", builtinLatent)), &r))
	require.True(t, r.Prior.Latent)
	require.Equal(t, []int{4, 16}, []int{r.Prior.Downsampling, r.Prior.Multiple})
	require.Empty(t, r.Prior.Problem)
	require.Empty(t, r.Notes)
}

// TestDemoLatent: the demonstration with latents tells what the first stage alone costs, which is not much.
func TestDemoLatent(t *testing.T) {
	dir := t.TempDir()
	code, _, errs := spin(t, "demo", "--latent", "--prior", "photo", "-o", dir)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--latent is --prior photo-latent")
	if cpu.Levels()[0] == "ref" {
		t.Skip("the reference backend takes minutes for this")
	}
	var lines []demoLine
	require.NoError(t, json.Unmarshal([]byte(ok(t, "demo", "--latent", "--steps", "4", "--json", "-o", dir)), &lines))
	require.Len(t, lines, 1+len(demoTasks))
	require.Nil(t, lines[0].Measured)
	require.Greater(t, lines[0].Result.PSNR, 31.)
	for _, l := range lines {
		require.FileExists(t, l.File)
	}
	for _, l := range lines[1:] {
		require.NotNil(t, l.Measured)
	}
}
