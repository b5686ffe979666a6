// Package study runs reconstructions of test photos one after the other in one process, with a built-in prior. The tools
// that make the tables and plots of docs/quality.md are built on it.
//
// Measurements come from the spin-native program itself (degrade --save-measurement), so that a task of a study is what its
// arguments say on the command line, and can be repeated there.
package study

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
	"github.com/spin-native/spin/weights/latent"
	"github.com/spin-native/spin/weights/photo"
)

// Photo is a test picture.
type Photo struct {
	Name  string // of the file, without _256.png
	Path  string
	Image *imagefile.Image
}

// Photos reads NAME_256.png of a folder: those named in names, separated by commas, or all.
func Photos(folder, names string) (list []Photo, err error) {
	const suffix = "_256.png"
	paths, err := filepath.Glob(filepath.Join(folder, "*"+suffix))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no *%s in %q: name the folder of the test photos with -photos", suffix, folder)
	}
	wanted := split(names)
	for _, p := range paths {
		name := strings.TrimSuffix(filepath.Base(p), suffix)
		if i := slices.Index(wanted, name); i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
		} else if names != "" {
			continue
		}
		img, err := imagefile.Read(p, imagefile.Limits{})
		if err != nil {
			return nil, err
		}
		list = append(list, Photo{name, p, img})
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("no %s%s in %s", wanted[0], suffix, folder)
	}
	return list, nil
}

func split(s string) (list []string) {
	for p := range strings.SplitSeq(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			list = append(list, p)
		}
	}
	return list
}

// Gray is the photo without its colours, for measurements that see none.
func (l *Lab) Gray(p Photo) (Photo, error) {
	img := imagefile.New(p.Image.W, p.Image.H)
	for i := 0; i < len(img.Pix); i += 3 {
		c := p.Image.Pix[i : i+3]
		v := 0.299*c[0] + 0.587*c[1] + 0.114*c[2]
		img.Pix[i], img.Pix[i+1], img.Pix[i+2] = v, v, v
	}
	img.Gray = true
	path := filepath.Join(l.dir, p.Name+"-gray.png")
	if err := imagefile.Write(path, img, true); err != nil {
		return p, err
	}
	img, err := imagefile.Read(path, imagefile.Limits{}) // rounded, as degrade will see it
	return Photo{p.Name, path, img}, err
}

// Lab is a device with the prior, and the program that makes measurements.
type Lab struct {
	dev     *tensor.Device
	prior   Prior
	dir     string
	program Program
}

// Prior is what pictures look like; FirstStage is nil where the denoiser works on them.
type Prior struct {
	solver.Denoiser
	FirstStage solver.FirstStage
}

// Schedule is the denoiser's.
func (p Prior) Schedule() *solver.Schedule { return p.Denoiser.(solver.Scheduled).Schedule() }

// Open loads a built-in prior, photo or photo-latent, and builds the program, from the folder of the module.
func Open(prior string, threads int) (l *Lab, err error) {
	l = &Lab{}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.dir, err = os.MkdirTemp("", "study"); err != nil {
		return l, err
	}
	if l.program, err = Build(l.dir); err != nil {
		return l, err
	}
	backend, err := cpu.Open(cpu.Options{Threads: threads})
	if err != nil {
		return l, err
	}
	l.dev = tensor.NewDevice(backend)
	if l.prior, err = load(l.dev, prior); err != nil {
		return l, fmt.Errorf("prior %s: %w", prior, err)
	}
	return l, nil
}

// load builds a built-in prior, photo or photo-latent.
func load(d *tensor.Device, name string) (p Prior, err error) {
	var files []*weights.File
	switch name {
	case "photo":
		f, err := photo.Open()
		if err != nil {
			return p, err
		}
		files = []*weights.File{f}
	case "photo-latent":
		unet, stage, err := latent.Open()
		if err != nil {
			return p, err
		}
		files = []*weights.File{unet, stage}
	default:
		return p, fmt.Errorf("expected photo or photo-latent")
	}
	m, err := checkpoint.Converted(files...)
	if err != nil {
		return p, err
	}
	defer m.Close()
	stack, err := m.Stack()
	if err != nil {
		return p, err
	}
	info := stack.UNet.Info
	betas, err := info.Schedule.Values()
	if err != nil {
		return p, err
	}
	o := solver.ModelOptions{Prediction: solver.Prediction(info.Prediction), NoClip: stack.FirstStage != nil}
	if o.Schedule, err = solver.FromBetas(betas); err != nil {
		return p, err
	}
	f, err := weights.FromTensors("unet", stack.UNet.Tensors, nil)
	if err != nil {
		return p, err
	}
	if c := stack.Guided; c != nil {
		net, err := nn.LoadUNet(d, f.Scope(), *c, nn.LoadOptions{MeanOnly: true})
		if err != nil {
			return p, err
		}
		o.Multiple = c.Downsampling()
		p.Denoiser = solver.FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor { return net.Forward(x, []float64{t}, nil) }, o)
		return p, nil
	}
	net, err := nn.LoadLatentUNet(d, f.Scope(), *stack.Latent, nn.LoadOptions{MeanOnly: true})
	if err != nil {
		return p, err
	}
	o.Multiple = net.Config.Downsampling()
	p.Denoiser = solver.FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor { return net.Forward(x, []float64{t}, nil, nil) }, o)
	if stack.FirstStage != nil {
		p.FirstStage, err = stack.FirstStage.LoadFirstStage(d, nn.LoadOptions{ImageSize: 256})
	}
	return p, err
}

// Close releases the device and the program.
func (l *Lab) Close() error {
	os.RemoveAll(l.dir)
	if l.dev == nil {
		return nil
	}
	return l.dev.Close()
}

// Device says where the lab computes.
func (l *Lab) Device() string { return l.dev.Name() }

// Measure damages a photo as spin-native degrade does with these arguments and this seed of the noise.
func (l *Lab) Measure(p Photo, seed uint64, args []string) (*solver.Measurement, error) {
	y := filepath.Join(l.dir, "y.safetensors")
	all := append([]string{"degrade", "--force", "--quiet", "--seed", strconv.FormatUint(seed, 10), "--save-measurement", y, p.Path}, args...)
	if _, err := l.program.Run(all...); err != nil {
		return nil, err
	}
	return solver.LoadMeasurement(y)
}

// Outcome is a picture with how close it came to the truth.
type Outcome struct {
	Image *imagefile.Image
	metrics.Score
	Calls    int
	Seconds  float64
	PeakMB   float64 // of resident memory, the prior and the photos included; 0 where the system does not tell
	Residual float64
}

// Method makes a picture from a measurement.
type Method func(ctx context.Context, p solver.Problem, prior Prior) (*solver.Result, error)

// Solve runs a method on a measurement of a photo.
func (l *Lab) Solve(ctx context.Context, m *solver.Measurement, truth Photo, method Method) (o *Outcome, err error) {
	defer tensor.Catch(&err)
	defer l.dev.Tidy()()
	p, err := m.Problem(l.dev)
	if err != nil {
		return nil, err
	}
	defer solver.Release(p.Operator)
	resetPeak()
	r, err := method(ctx, p, l.prior)
	if err != nil {
		return nil, err
	}
	o = &Outcome{Calls: r.Calls, Seconds: r.Elapsed.Seconds(), PeakMB: peakMB()}
	if len(r.Residual) > 0 {
		o.Residual = r.Residual[0]
	}
	if o.Image, err = picture(p.Operator, r.X0); err == nil {
		err = o.score(truth)
	}
	return o, err
}

// Start is what there is without a prior: the measurement as a picture, enlarged by repetition where it is smaller, and the
// operator's first guess. Either is nil where the operator has none.
func (l *Lab) Start(m *solver.Measurement, truth Photo) (measured, guess *Outcome, err error) {
	defer tensor.Catch(&err)
	defer l.dev.Tidy()()
	p, err := m.Problem(l.dev)
	if err != nil {
		return nil, nil, err
	}
	defer solver.Release(p.Operator)
	_, other := p.Operator.(solver.Viewer) // what was measured is no picture
	if y := p.Y; !other && (y.C() == 3 || y.C() == 1) && truth.Image.H%y.H() == 0 && truth.Image.W%y.W() == 0 {
		small, err := picture(nil, y)
		if err != nil {
			return nil, nil, err
		}
		measured = &Outcome{Image: small.Enlarged(truth.Image.W, truth.Image.H)}
		if err := measured.score(truth); err != nil {
			return nil, nil, err
		}
	}
	if g, ok := p.Operator.(solver.Guesser); ok {
		guess = &Outcome{}
		if guess.Image, err = picture(p.Operator, g.Guess(p.Y)); err == nil {
			err = guess.score(truth)
		}
	}
	return measured, guess, err
}

func (o *Outcome) score(truth Photo) (err error) {
	if o.Score, err = metrics.ScoreOf(o.Image, truth.Image); err != nil {
		return fmt.Errorf("%s: %w", truth.Name, err)
	}
	return nil
}

// Turn scores the picture rotated by 180 degrees and keeps it so where that is closer, for measurements that are blind to it.
func (o *Outcome) Turn(truth Photo) (err error) {
	if o.Score, err = metrics.ScoreOfEither(o.Image, truth.Image); o.Turned {
		o.Image = o.Image.Turned()
	}
	return err
}

// picture is the first image of a tensor, grey where the operator measures nothing else.
func picture(op solver.Operator, x *tensor.Tensor) (*imagefile.Image, error) {
	data, err := x.Floats()
	if err != nil {
		return nil, err
	}
	pic := imagefile.FromPixels(data, x.W(), x.H(), x.C())
	if k, ok := op.(solver.Monochrome); ok && k.Monochrome() {
		pic.Average()
	}
	return pic, nil
}

// resetPeak makes the peak of resident memory start anew, where the system can.
func resetPeak() {
	debug.FreeOSMemory()
	os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200)
}

// peakMB is the peak of resident memory since then.
func peakMB() float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return kb / 1000
		}
	}
	return 0
}
