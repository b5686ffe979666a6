package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/internal/hostmem"
	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// spin runs the program.
func spin(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return spinContext(t, context.Background(), args...)
}

func spinContext(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// ok runs the program and expects success.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := spin(t, args...)
	require.Zero(t, code, "spin-native %s: %s", strings.Join(args, " "), errs)
	return out
}

// tinyPrior writes a small random network: no prior for anything, but a program for everything.
func tinyPrior(t *testing.T, change func(list []weights.Tensor)) string {
	t.Helper()
	config := `{"in_channels":3,"out_channels":3,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,1],"attention_resolutions":[],
		"num_heads":2,"use_scale_shift_norm":true,"resblock_updown":true}`
	c, err := nn.ParseUNetConfig([]byte(config))
	require.NoError(t, err)
	f := weights.Synthetic("tiny", 1)
	dry, err := dryrun.Open(dryrun.Machine{})
	require.NoError(t, err)
	_, err = nn.LoadUNet(dry.Device, f.Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	var list []weights.Tensor
	for _, name := range f.Names() {
		x, _ := f.Tensor(name)
		list = append(list, x)
	}
	if change != nil {
		change(list)
	}
	info := weights.Info{Format: weights.InfoFormat, Family: familyUNet, Name: "tiny", Model: json.RawMessage(config),
		Schedule: weights.Schedule{Kind: "linear", T: 1000, BetaFirst: 1e-4, BetaLast: 0.02}, Prediction: "eps", ValueRange: [2]float64{-1, 1}, Color: "rgb", ImageSize: 32}
	path := filepath.Join(t.TempDir(), "tiny.safetensors")
	require.NoError(t, weights.Write(path, list, info.Metadata()))
	return path
}

// picture writes a smooth picture of w x h.
func picture(t *testing.T, dir string, w, h int) string {
	t.Helper()
	m := imagefile.New(w, h)
	for i := range m.Pix {
		x, y, c := float64(i/3%w), float64(i/3/w), float64(i%3)
		m.Pix[i] = float32(0.6 * math.Sin(x/7+c) * math.Cos(y/5-c))
	}
	path := filepath.Join(dir, fmt.Sprintf("picture-%dx%d.png", w, h))
	require.NoError(t, imagefile.Write(path, m, true))
	return path
}

func maskFile(t *testing.T, dir, name string, w, h int, missing func(x, y int) bool) string {
	t.Helper()
	m := imagefile.New(w, h)
	m.Gray = true
	for i := range m.Pix {
		m.Pix[i] = -1
		if missing(i/3%w, i/3/w) {
			m.Pix[i] = 1
		}
	}
	path := filepath.Join(dir, name)
	require.NoError(t, imagefile.Write(path, m, true))
	return path
}

func TestReconstructTasks(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 24)
	mask := maskFile(t, dir, "mask.png", 32, 24, func(x, y int) bool { return x > 10 && x < 14 })
	for name, args := range map[string][]string{
		"file mask":   {"--task", "inpaint", "--mask", mask},
		"box":         {"--task", "inpaint", "--mask", "box:8:3"},
		"center":      {"--task", "inpaint", "--mask", "center"},
		"half":        {"--task", "inpaint", "--mask", "half:left", "--sigma", "0.05"},
		"random":      {"--task", "inpaint", "--mask", "random:0.7:5"},
		"scratches":   {"--task", "inpaint", "--mask", "scratches:3:1"},
		"sr":          {"--task", "sr", "--scale", "2"},
		"gaussian":    {"--task", "deblur", "--kernel", "gaussian:9:1.5"},
		"motion":      {"--task", "deblur", "--kernel", "motion:15:0.5:2"},
		"denoise":     {"--task", "denoise", "--sigma", "0.2"},
		"its noise":   {"--task", "denoise", "--sigma", "auto"},
		"several":     {"--task", "denoise", "--sigma", "0.2", "--samples", "2"},
		"with truth":  {"--task", "denoise", "--sigma", "0.2", "--truth", pic, "--compare", filepath.Join(dir, "sheet.png")},
		"other steps": {"--task", "denoise", "--sigma", "0.2", "--steps", "2"},
		"colorize":    {"--task", "colorize"},
		"jpeg":        {"--task", "jpeg", "--quality", "20"},
		"jpeg box":    {"--task", "jpeg", "--quality", "20", "--jpeg-box", "--subsampling", "444"},
		"hdr":         {"--task", "hdr"},
		"levels":      {"--task", "dequantize", "--levels", "8"},
		"bits":        {"--task", "dequantize", "--bits", "3", "--sigma", "0.05"},
		"nonlinear":   {"--task", "nonlinear-blur", "--kernel", "gaussian:9:1.5"},
		"poisson":     {"--task", "denoise", "--sigma", "0.01", "--noise", "poisson:50"},
		"speckle":     {"--task", "deblur", "--kernel", "gaussian:9:1.5", "--noise", "speckle:0.1", "--samples", "2"},
		"old photo":   {"--task", "deblur | sr | jpeg", "--kernel", "gaussian:9:1.5", "--scale", "2", "--quality", "30"},
		"chain":       {"--task", "deblur | sr", "--scale", "2", "--kernel", "gaussian:9:1.5"},
		"own flags":   {"--task", "deblur --kernel motion:9:0.5 | sr --scale 2|inpaint", "--mask", "center:8"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.png")
			steps := []string{"--steps", "3"}
			if name == "other steps" {
				steps = nil
			}
			text := ok(t, append(append([]string{"reconstruct", "--prior", prior, "--json", "-o", out, pic}, args...), steps...)...)
			var r reconstructReport
			require.NoError(t, json.Unmarshal([]byte(text), &r), text)
			require.Equal(t, d(slices.Contains([]string{"sr", "chain", "own flags", "old photo"}, name), 64, 32), r.Width)
			for _, o := range r.Outputs {
				m, err := imagefile.Read(o, imagefile.Limits{})
				require.NoError(t, err)
				require.Equal(t, r.Width, m.W)
				require.Equal(t, r.Height, m.H)
			}
			require.LessOrEqual(t, r.Calls, 3)
			require.Len(t, r.Residual, len(r.Outputs))
			if name == "with truth" {
				require.NotNil(t, r.Measured)
				require.Len(t, r.Result, 1)
				require.FileExists(t, filepath.Join(dir, "sheet.png"))
			}
		})
	}
}

func d[T any](cond bool, a, b T) T {
	if cond {
		return a
	}
	return b
}

// TestKept: known pixels come back unchanged, odd sizes work, and grey, depth and transparency are kept.
func TestKept(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	m := imagefile.New(19, 13)
	m.Depth, m.Alpha = 16, make([]uint16, 19*13)
	for i := range m.Pix {
		m.Pix[i] = float32(i%97)/48 - 1
	}
	for i := range m.Alpha {
		m.Alpha[i] = uint16(i * 200)
	}
	in, out := filepath.Join(dir, "in.png"), filepath.Join(dir, "out.png")
	require.NoError(t, imagefile.Write(in, m, false))
	mask := maskFile(t, dir, "mask.png", 19, 13, func(x, y int) bool { return x == y })
	ok(t, "reconstruct", "--task", "inpaint", "--mask", mask, "--prior", prior, "--steps", "2", "-o", out, in)
	before, err := imagefile.Read(in, imagefile.Limits{})
	require.NoError(t, err)
	after, err := imagefile.Read(out, imagefile.Limits{})
	require.NoError(t, err)
	require.Equal(t, 16, after.Depth)
	require.Equal(t, before.Alpha, after.Alpha)
	for i := range before.Pix {
		if x, y := i/3%19, i/3/19; x != y {
			require.Equal(t, before.Pix[i], after.Pix[i], "pixel %d,%d", x, y)
		}
	}
}

// TestDeterminism: the same bytes for any number of threads, alone or in a batch, again and again.
func TestDeterminism(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 36, 28)
	for _, task := range [][]string{
		{"--task", "inpaint", "--mask", "random:0.5"}, {"--task", "sr", "--scale", "2"}, {"--task", "deblur", "--kernel", "motion:9:0.5"},
	} {
		var want []byte
		check := func(name, path string) {
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			if want == nil {
				want = got
			}
			require.True(t, bytes.Equal(want, got), "%v: %s gives another picture", task, name)
		}
		args := append([]string{"reconstruct", "--prior", prior, "--steps", "4", "--seed", "7", "--force", pic}, task...)
		for _, threads := range []string{"1", "2", "4", "2"} {
			out := filepath.Join(dir, "threads.png")
			ok(t, append(args, "--threads", threads, "-o", out)...)
			check("--threads "+threads, out)
		}
		ok(t, append(args, "--samples", "3", "--independent", "-o", filepath.Join(dir, "batch.png"))...)
		check("the first of three", filepath.Join(dir, "batch-1.png"))
		a, _ := os.ReadFile(filepath.Join(dir, "batch-2.png"))
		require.False(t, bytes.Equal(want, a), "samples are equal")
	}
}

// TestMeasurement: what degrade writes says everything that reconstruct needs.
func TestMeasurement(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 32)
	for name, args := range map[string][]string{
		"inpaint": {"--task", "inpaint", "--mask", "random:0.7:5"}, "sr": {"--task", "sr", "--scale", "4"},
		"deblur": {"--task", "deblur", "--kernel", "motion:15:0.5:2"}, "denoise": {"--task", "denoise"}, "colorize": {"--task", "colorize"},
		"hdr": {"--task", "hdr", "--gain", "3"}, "dequantize": {"--task", "dequantize", "--bits", "3"}, "nonlinear": {"--task", "nonlinear-blur", "--kernel", "gaussian:9:1"},
		"chain": {"--task", "deblur | sr | inpaint", "--kernel", "motion:15:0.5:2", "--scale", "2", "--mask", "random:0.3"},
	} {
		y, saved, out := filepath.Join(dir, name+".png"), filepath.Join(dir, name+".safetensors"), filepath.Join(dir, name+"-out.png")
		ok(t, append([]string{"degrade", "--sigma", "0.05", "--seed", "9", "-o", y, "--save-measurement", saved, pic}, args...)...)
		m, err := solver.LoadMeasurement(saved)
		require.NoError(t, err)
		require.InDelta(t, d(name == "dequantize", math.Hypot(0.05, 2./7/math.Sqrt(12)), 0.05), m.Sigma, 1e-12)
		require.Equal(t, uint64(9), m.Seed)
		require.FileExists(t, y)
		var r reconstructReport
		require.NoError(t, json.Unmarshal([]byte(ok(t, "reconstruct", "--prior", prior, "--steps", "3", "--json", "--truth", pic, "-o", out, saved)), &r))
		require.Equal(t, m.Sigma, r.Sigma)
		require.Contains(t, ok(t, "info", saved), "measurement")
		code, _, errs := spin(t, append([]string{"reconstruct", "-o", out, "--force", saved}, args...)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "says the task itself")
	}
}

// TestBadInput: one line that says what is wrong and what to do, the right exit code, and nothing written.
func TestBadInput(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 32, 24)
	data, err := os.ReadFile(pic)
	require.NoError(t, err)
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o644))
		return path
	}
	truncated := write("truncated.png", data[:len(data)/2])
	text := write("text.png", []byte("this is not a picture"))
	notPrior := write("prior.safetensors", []byte("this is not a prior"))
	wrongSize := maskFile(t, dir, "wrong-size.png", 30, 24, func(x, y int) bool { return x == y })
	inverted := maskFile(t, dir, "inverted.png", 32, 24, func(x, y int) bool { return x != 5 })
	empty := maskFile(t, dir, "empty.png", 32, 24, func(x, y int) bool { return false })
	good := maskFile(t, dir, "good.png", 32, 24, func(x, y int) bool { return x == 5 })
	nan := tinyPrior(t, func(list []weights.Tensor) {
		for i, x := range list {
			if x.Name == "middle_block.1.qkv.weight" {
				copy(list[i].Data[40:], weights.FromFloats("", []float32{float32(math.NaN())}, 1).Data)
			}
		}
	})
	short := tinyPrior(t, func(list []weights.Tensor) {
		for i, x := range list {
			if x.Name == "out.2.weight" {
				list[i].Name = "out.3.weight"
			}
		}
	})
	exists := write("exists.png", []byte("precious"))
	inpaint := func(mask string) []string { return []string{"--task", "inpaint", "--mask", mask, pic} }
	denoise := func(in string) []string { return []string{"--task", "denoise", "--sigma", "0.1", in} }
	out := filepath.Join(dir, "out.png")
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"missing file", denoise(filepath.Join(dir, "nowhere.png")), 1, []string{"nowhere.png"}},
		{"truncated PNG", denoise(truncated), 1, []string{"truncated.png", "ends early"}},
		{"text", denoise(text), 1, []string{"text.png", "PNG"}},
		{"folder", denoise(dir), 1, []string{"folder"}},
		{"mask of another size", inpaint(wrongSize), 1, []string{"wrong-size.png", "30 x 24", "32 x 24"}},
		{"mask the wrong way round", inpaint(inverted), 1, []string{"white means", "--invert-mask"}},
		{"mask that keeps everything", inpaint(empty), 1, []string{"white means", "--invert-mask"}},
		{"inverted mask the wrong way round", append(inpaint(good), "--invert-mask"), 1, []string{"black means", "leave --invert-mask away"}},
		{"missing mask", inpaint(filepath.Join(dir, "no-mask.png")), 1, []string{"no-mask.png"}},
		{"mask without a size", inpaint("box:big"), 2, []string{"box:big"}},
		{"hole larger than the picture", inpaint("center:99"), 2, []string{"99"}},
		{"half of what", inpaint("half"), 2, []string{"half"}},
		{"half of which side", inpaint("half:up"), 2, []string{"left, right, top or bottom"}},
		{"more than all", inpaint("random:1.5"), 2, []string{"1.5"}},
		{"scale of one", []string{"--task", "sr", "--scale", "1", pic}, 2, []string{"--scale 1"}},
		{"even kernel", []string{"--task", "deblur", "--kernel", "gaussian:8:2", pic}, 2, []string{"gaussian:8:2"}},
		{"missing kernel", []string{"--task", "deblur", "--kernel", "none.png", pic}, 1, []string{"none.png"}},
		{"no kernel", []string{"--task", "deblur", pic}, 2, []string{"--kernel"}},
		{"no task", []string{pic}, 2, []string{"--task", "inpaint"}},
		{"unknown convention", append(denoise(pic), "--convention", "moon"), 2, []string{"moon", "ddrm"}},
		{"noise that is none", append(denoise(pic), "--noise", "rain:2"), 2, []string{"rain:2", "poisson"}},
		{"no photons", append(denoise(pic), "--noise", "poisson:0"), 2, []string{"poisson:0"}},
		{"noise behind a rounding", []string{"--task", "dequantize", "--bits", "3", "--noise", "speckle:0.1", pic}, 2, []string{"--noise", "dequantize"}},
		{"JPEG that is none", []string{"--task", "jpeg", pic}, 2, []string{"not a JPEG file", "--quality"}},
		{"JPEG with noise", []string{"--task", "jpeg", "--quality", "5", "--sigma", "0.1", pic}, 2, []string{"--sigma"}},
		{"JPEG in the middle", []string{"--task", "jpeg | sr", pic}, 2, []string{"jpeg can only be the last"}},
		{"no such quality", []string{"--task", "jpeg", "--quality", "0", pic}, 2, []string{"--quality 0"}},
		{"no such sampling", []string{"--task", "jpeg", "--quality", "9", "--subsampling", "333", pic}, 2, []string{"333", "420"}},
		{"levels of what", []string{"--task", "dequantize", pic}, 2, []string{"--levels", "--bits"}},
		{"no bits", []string{"--task", "dequantize", "--bits", "0", pic}, 2, []string{"--bits 0"}},
		{"no gain", []string{"--task", "hdr", "--gain", "1", pic}, 1, []string{"gain"}},
		{"no gamma", []string{"--task", "nonlinear-blur", "--kernel", "gaussian:9:1", "--gamma", "0", pic}, 2, []string{"--gamma 0"}},
		{"unknown task in a chain", []string{"--task", "sr | magic", pic}, 2, []string{"magic", "inpaint"}},
		{"nothing in a chain", []string{"--task", "sr | ", pic}, 2, []string{"nothing between"}},
		{"chain without a flag", []string{"--task", "sr | deblur", pic}, 2, []string{"deblur needs --kernel"}},
		{"flag of no task in a chain", []string{"--task", "sr | colorize", "--mask", "box", pic}, 2, []string{"--mask does not belong"}},
		{"flag of a step that is none", []string{"--task", "sr --magic 2", pic}, 2, []string{"--magic"}},
		{"chain without its line", []string{"--task", "sr deblur", pic}, 2, []string{"deblur is not a flag"}},
		{"unknown task", []string{"--task", "magic", pic}, 2, []string{"magic", "inpaint"}},
		{"denoising what", []string{"--task", "denoise", pic}, 2, []string{"--sigma"}},
		{"no noise", []string{"--task", "denoise", "--sigma", "0", pic}, 2, []string{"--sigma 0"}},
		{"flag of another task", append(denoise(pic), "--mask", "center"), 2, []string{"--mask", "denoise"}},
		{"no picture", []string{"--task", "denoise", "--sigma", "0.1"}, 2, []string{"one picture"}},
		{"two pictures", append(denoise(pic), pic), 2, []string{"one picture"}},
		{"unknown flag", append(denoise(pic), "--magic"), 2, []string{"--magic"}},
		{"prior that is none", append(denoise(pic), "--prior", notPrior), 1, []string{"prior.safetensors"}},
		{"prior that is a picture", append(denoise(pic), "--prior", pic), 1, []string{"PNG"}},
		{"missing prior", append(denoise(pic), "--prior", filepath.Join(dir, "no.safetensors")), 1, []string{"no.safetensors"}},
		{"NaN in the weights", append(denoise(pic), "--prior", nan), 1, []string{"middle_block.1.qkv.weight", "10", "NaN"}},
		{"missing weight", append(denoise(pic), "--prior", short), 1, []string{"out.2.weight"}},
		{"no threads", append(denoise(pic), "--threads", "0"), 2, []string{"--threads 0", "1 or more"}},
		{"no such device", append(denoise(pic), "--device", "cuda:1000"), 2, []string{"cuda", "cpu"}},
		{"no device at all", append(denoise(pic), "--device", "tpu"), 2, []string{"tpu", "cpu", "cuda"}},
		{"half a device", append(denoise(pic), "--device", "cuda:"), 2, []string{"cuda:", "cpu"}},
		{"device below zero", append(denoise(pic), "--device", "cuda:-1"), 2, []string{"cuda:-1", "cpu"}},
		{"no such type", append(denoise(pic), "--dtype", "f16"), 2, []string{"f16", "f32"}},
		{"type of another device", append(denoise(pic), "--dtype", "bf16", "--device", "cuda"), 2, []string{"--dtype bf16", "cuda"}},
		{"too few steps", append(denoise(pic), "--steps", "1"), 2, []string{"--steps 1"}},
		{"unknown preset", append(denoise(pic), "--preset", "slow"), 2, []string{"slow", "best"}},
		{"truth of another size", append(denoise(pic), "--truth", wrongSize), 1, []string{"30 x 24", "32 x 24"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"reconstruct", "--prior", prior, "-o", out}, c.args...)
			code, stdout, errs := spin(t, args...)
			require.Equal(t, c.code, code, errs)
			require.Empty(t, stdout)
			require.Equal(t, 1, strings.Count(errs, "\n"), errs)
			require.True(t, strings.HasPrefix(errs, "spin-native: "), errs)
			for _, w := range c.want {
				require.Contains(t, errs, w)
			}
			require.NoFileExists(t, out)
		})
	}
	for _, c := range []struct {
		name, out string
		code      int
		want      string
	}{
		{"no output", "", 2, "-o is missing"},
		{"folder that is not there", filepath.Join(dir, "nowhere", "out.png"), 1, "nowhere"},
		{"format that is not known", filepath.Join(dir, "out.xyz"), 1, ".png"},
		{"file that exists", exists, 1, "--force"},
		{"a folder", dir, 1, filepath.Base(dir)},
	} {
		t.Run("output: "+c.name, func(t *testing.T) {
			code, _, errs := spin(t, append([]string{"reconstruct", "--prior", prior, "-o", c.out}, denoise(pic)...)...)
			require.Equal(t, c.code, code, errs)
			require.Contains(t, errs, c.want)
			require.Equal(t, 1, strings.Count(errs, "\n"), errs)
		})
	}
	precious, err := os.ReadFile(exists)
	require.NoError(t, err)
	require.Equal(t, "precious", string(precious))

	code, _, errs := spin(t, "degrade", "--task", "sr", "--scale", "5", "-o", out, pic)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "crop it to 30 x 20")
	code, _, errs = spin(t, "restore", pic)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "restore")
	require.NoFileExists(t, out)
}

// TestTooLarge: a picture that cannot fit is refused before anything is computed.
func TestTooLarge(t *testing.T) {
	refused := func(f solveFlags, n, edge int) error {
		b, err := cpu.Open(cpu.Options{})
		require.NoError(t, err)
		d := tensor.NewDevice(b)
		defer d.Close()
		f.prior = priorFlags{path: builtin, label: noLabel}
		_, err = f.load(d, n, edge, edge, func(*tensor.Device, *prior) error {
			t.Error("a run that does not fit is rehearsed")
			return nil
		})
		require.Zero(t, d.Stats().Allocated)
		return err
	}
	err := refused(solveFlags{memory: memoryFlag{mb: 1000}}, 64, 8000)
	for _, w := range []string{"8000 x 8000", "--samples 1", "the limit is 1000 MB", "--max-memory can allow more"} {
		require.ErrorContains(t, err, w)
	}
	require.NotContains(t, err.Error(), "--half-weights", "they are nothing beside such pictures")
	if cpu.Levels()[0] != "ref" { // which does not count weights
		require.ErrorContains(t, refused(solveFlags{memory: memoryFlag{mb: 20}}, 1, 32), "--half-weights needs less")
	}
	require.ErrorContains(t, refused(solveFlags{memory: memoryFlag{mb: -1}}, 1, 32), "--max-memory -1")
	if hostmem.Available() > 0 {
		require.ErrorContains(t, refused(solveFlags{}, 64, 8000), "MB are free") // of some 4 TB
	}
	limit, err := memoryFlag{mb: 3}.limit(deviceFlags{})
	require.NoError(t, err)
	require.Equal(t, int64(3<<20), limit)
	limit, err = memoryFlag{}.limit(deviceFlags{})
	require.NoError(t, err)
	require.LessOrEqual(t, limit, hostmem.Available())
}

// TestPlannedMemory: the rehearsal of a run tells how much memory its tensors take, to the byte, also of a run that is
// longer than it.
func TestPlannedMemory(t *testing.T) {
	path := tinyPrior(t, nil)
	pic := imagefile.New(44, 36) // no multiple of what the network takes
	for i := range pic.Pix {
		pic.Pix[i] = float32(i%7)/7 - 0.5
	}
	motion, err := solver.MotionKernel(11, 0.5, 1)
	require.NoError(t, err)
	scratches, err := solver.ScratchMask(36, 44, 3, 1)
	require.NoError(t, err)
	for _, spec := range []solver.Spec{
		{Kind: "denoise"}, {Kind: "downsample", Factor: 4}, {Kind: "blur", Kernel: motion}, {Kind: "inpaint", Masks: []*solver.Mask{scratches}},
	} {
		for samples := 1; samples <= 2; samples++ {
			t.Run(fmt.Sprint(spec.Kind, samples), func(t *testing.T) {
				other, err := cpu.Open(cpu.Options{})
				require.NoError(t, err)
				m, err := degrade(tensor.NewDevice(other), pic, spec, 0.05, 1)
				require.NoError(t, err)
				require.NoError(t, other.Close())

				f := solveFlags{prior: priorFlags{path: path, label: noLabel}, deviceFlags: deviceFlags{threads: 2}}
				b, err := cpu.Open(f.options())
				require.NoError(t, err)
				d := tensor.NewDevice(b)
				defer d.Close()
				run := func(d *tensor.Device, p *prior, calls int) error {
					_, err := solve(t.Context(), d, p, m, calls, samples, 1, nil)
					return err
				}
				p, err := f.load(d, samples, 36, 44, func(d *tensor.Device, p *prior) error { return run(d, p, rehearsed) })
				require.NoError(t, err)
				require.NoError(t, run(d, p, rehearsed+9))
				s := d.Stats()
				require.Equal(t, int64(1), s.Allocs)
				require.Equal(t, s.Allocated, s.Peak)
			})
		}
	}
}

// TestInterrupt: the run ends within a step, with exit code 130 and nothing written.
func TestInterrupt(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic, out := picture(t, dir, 64, 64), filepath.Join(dir, "out.png")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(300*time.Millisecond, cancel)
	code, stdout, errs := spinContext(t, ctx, "reconstruct", "--task", "inpaint", "--mask", "center:16", "--sigma", "0.5", "--steps", "10000", "--prior", prior, "-o", out, pic)
	require.Equal(t, exitInterrupted, code, errs)
	require.Empty(t, stdout)
	require.Contains(t, errs, "interrupted")
	require.NoFileExists(t, out)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "only the input")
}

func TestCheckAndInfo(t *testing.T) {
	save := t.TempDir()
	out := ok(t, "check", "--save", save, testkit.Testdata("gd_conv_resample"))
	require.Contains(t, out, "ok")
	require.FileExists(t, filepath.Join(save, "gd_conv_resample", "1.safetensors"), "the second weights file of the case")
	code, _, errs := spin(t, "check", t.TempDir())
	require.Equal(t, 1, code)
	require.Contains(t, errs, "outside their tolerance")
	unknown := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(unknown, "case.json"), []byte(`{"kind":"weather"}`), 0o644))
	code, out, errs = spin(t, "check", unknown)
	require.Equal(t, 1, code)
	require.Contains(t, out, "skip")
	require.Contains(t, errs, "nothing in these cases")
	out = ok(t, "check", unknown, testkit.Testdata("solver_schedule"), testkit.Testdata("solver_spin_inpaint"))
	require.Contains(t, out, "not supported")
	require.Contains(t, out, "corrected x0 (worst of 14)")

	out = ok(t, "info", "photo")
	require.Contains(t, out, "4361475")
	require.Contains(t, out, "memory to run")
	var r infoReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "info", "--json", "photo")), &r))
	require.Equal(t, "networks", r.Kind)
	require.NotZero(t, r.Components[0].Memory.Activations)
	require.Equal(t, r.Components[0].Memory.Memory.Total(), r.Components[0].Memory.Total)
	bad := filepath.Join(t.TempDir(), "bad.safetensors")
	require.NoError(t, os.WriteFile(bad, []byte("\x08\x00\x00\x00\x00\x00\x00\x00{\"a\":1}}"), 0o644))
	code, _, errs = spin(t, "info", bad)
	require.Equal(t, 1, code)
	require.Equal(t, 1, strings.Count(errs, "\n"))
	require.Regexp(t, `(?s)cpu .*cuda.* `, ok(t, "devices"))
}

// TestLatentInfo: the memory of every network of a file.
func TestLatentInfo(t *testing.T) {
	file := testkit.Shared(t, "fixtures", "ldm_ffhq_style", "model.ckpt")
	require.Contains(t, ok(t, "info", file), "at 64 x 64 (1 latent")
	var r infoReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "info", "--json", file)), &r))
	require.Len(t, r.Components, 2)
	for _, c := range r.Components {
		require.Positive(t, c.Memory.Activations, c.Role)
		require.Equal(t, c.Memory.Memory.Total(), c.Memory.Total)
	}
}

func TestBench(t *testing.T) {
	prior := tinyPrior(t, nil)
	args := []string{"bench", "--model", prior, "--size", "32", "--runs", "2"}
	require.Equal(t, 1, strings.Count(ok(t, args...), "\n"))
	var r benchReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, append(args, "--json")...)), &r))
	require.Nil(t, r.Profile)

	args = append(args, "--layers")
	require.NoError(t, json.Unmarshal([]byte(ok(t, append(args, "--json")...)), &r))
	require.Len(t, r.Ms, 2)
	var gflop, ms float64
	blocks := map[string]bool{}
	for _, l := range r.Profile.Layers {
		gflop, ms, blocks[l.Block] = gflop+l.GFLOP, ms+l.Ms, true
	}
	require.InDelta(t, r.GFLOP, gflop, 1e-9)
	require.Less(t, ms, r.MsMin)
	for _, name := range []string{"time_embed", "input_blocks.0", "middle_block.1", "output_blocks.3", "out"} {
		require.True(t, blocks[name], name)
	}
	require.NotEmpty(t, r.Profile.Kinds)
	require.Equal(t, cpu.Levels()[0] != "ref", r.Profile.PeakGFLOPS > 0)

	text := ok(t, args...)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, prior) { // the path may be long
			require.LessOrEqual(t, len(line), 140, line)
		}
	}
	require.Contains(t, text, "input_blocks.1")
	require.Contains(t, text, "GFLOP/s")
}

// TestBenchLatent: of a latent prior the UNet is timed, on latents as large as those of the picture.
func TestBenchLatent(t *testing.T) {
	var r benchReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "bench", "--json", "--layers", "--runs", "1", "--size", "60", "--model", builtinLatent)), &r))
	gflop := 0.
	for _, l := range r.Profile.Layers {
		gflop += l.GFLOP
	}
	require.InDelta(t, r.GFLOP, gflop, 1e-9)
	padded := benchReport{}
	require.NoError(t, json.Unmarshal([]byte(ok(t, "bench", "--json", "--runs", "1", "--size", "64", "--model", builtinLatent)), &padded))
	require.Equal(t, padded.GFLOP, r.GFLOP)
	require.NotEmpty(t, ok(t, "bench", "--runs", "1", "--size", "24", "--model", latentPrior(t)))
}

// TestBenchDecoder: what has no prior is timed by its first stage's decoder, without the encoder.
func TestBenchDecoder(t *testing.T) {
	var r benchReport
	file := testkit.Testdata("ldm_vq_attention", "model.safetensors")
	require.NoError(t, json.Unmarshal([]byte(ok(t, "bench", "--json", "--layers", "--runs", "1", "--size", "32", "--model", file)), &r))
	gflop, blocks := 0., map[string]bool{}
	for _, l := range r.Profile.Layers {
		gflop, blocks[l.Block] = gflop+l.GFLOP, true
		require.NotEqual(t, "nearest", l.Op)
	}
	require.InDelta(t, r.GFLOP, gflop, 1e-9)
	require.True(t, blocks["post_quant_conv"] && blocks["decoder.conv_out"])
	require.False(t, blocks["encoder.conv_in"])
	code, _, errText := spin(t, "bench", "--size", "33", "--model", file)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errText, "multiple of 2")
	code, _, errText = spin(t, "bench", "--size", "32", "--model", "sd-vae", "--max-memory", "1")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errText, "even with its first stage in bands")
	require.Contains(t, errText, "the limit is 1 MB")
	code, _, errText = spin(t, "bench", "--max-memory", "1")
	require.Equal(t, exitFailed, code)
	require.NotContains(t, errText, "bands")
}

// demoCrop writes a square of the demonstration's photo.
func demoCrop(t *testing.T, dir string, size int) string {
	t.Helper()
	full, err := imagefile.Decode("photo", demoPhoto, imagefile.Limits{})
	require.NoError(t, err)
	crop := imagefile.New(size, size)
	for y := range size {
		copy(crop.Pix[y*size*3:][:size*3], full.Pix[((y+60)*full.W+70)*3:])
	}
	path := filepath.Join(dir, "truth.png")
	require.NoError(t, imagefile.Write(path, crop, false))
	return path
}

// TestPhotoPrior is the program's main job on a small crop: the built-in prior makes the picture better.
func TestPhotoPrior(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("the reference backend takes minutes for this")
	}
	dir := t.TempDir()
	truth := demoCrop(t, dir, 96)
	for name, c := range map[string]struct {
		args []string
		gain float64 // dB over the measurement
	}{
		"denoise": {[]string{"--task", "denoise", "--sigma", "0.2"}, 6},
		"deblur":  {[]string{"--task", "deblur", "--kernel", "gaussian:25:2", "--sigma", "0.03"}, 1.5},
		"inpaint": {[]string{"--task", "inpaint", "--mask", "random:0.5"}, 10},
	} {
		y, out := filepath.Join(dir, name+".safetensors"), filepath.Join(dir, name+".png")
		ok(t, append([]string{"degrade", "--save-measurement", y, truth}, c.args...)...)
		var r reconstructReport
		require.NoError(t, json.Unmarshal([]byte(ok(t, "reconstruct", "--preset", "fast", "--json", "--truth", truth, "-o", out, y)), &r))
		require.Greater(t, r.Result[0].PSNR, r.Measured.PSNR+c.gain, "%s: %+v -> %+v", name, r.Measured, r.Result)
	}
}
