package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
	"github.com/spin-native/spin/weights/photo"
)

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "0.1.0-dev"
}

// deviceFlags say where to compute.
type deviceFlags struct {
	device      string
	dtype       string
	threads     int
	halfWeights bool
}

func (f *deviceFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.device, "device", "cpu", "where to compute: cpu")
	c.Flags().StringVar(&f.dtype, "dtype", "f32", "number format of the network: f32")
	c.Flags().BoolVar(&f.halfWeights, "half-weights", false, "keep the network's weights as F16: half the memory for them, a little less exact")
	c.Flags().IntVar(&f.threads, "threads", 0, "processor threads (default: all that the system allows)")
}

func (f *deviceFlags) open(c *cobra.Command) (*tensor.Device, error) {
	if c.Flags().Changed("threads") && f.threads < 1 {
		return nil, usagef("--threads %d: expected 1 or more, for example --threads %d", f.threads, runtime.GOMAXPROCS(0))
	}
	if f.device != "cpu" {
		return nil, usagef("--device %s is not available in this build; use --device cpu", f.device)
	}
	if f.dtype != "f32" {
		return nil, usagef("--dtype %s is not available on --device %s; use --dtype f32", f.dtype, f.device)
	}
	b, err := cpu.Open(f.options())
	if err != nil {
		return nil, err
	}
	return tensor.NewDevice(b), nil
}

func (f *deviceFlags) options() cpu.Options {
	return cpu.Options{Threads: f.threads, HalfWeights: f.halfWeights}
}

// priorFlags say what pictures look like.
type priorFlags struct {
	path   string // "photo", or a file or folder
	preset string
}

func (f *priorFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.path, "prior", builtin, "what pictures look like: photo (built in), or a `FILE` or folder: converted, .safetensors, .pt, .ckpt or of diffusers")
	c.Flags().StringVar(&f.preset, "prior-preset", "", "what a raw checkpoint does not tell, by its model's `NAME`: "+strings.Join(checkpoint.PresetNames(), ", "))
}

const (
	builtin    = "photo"
	familyUNet = "guided-diffusion-unet"
)

// priorFile is an open prior.
type priorFile struct {
	weights *weights.File
	info    weights.Info
	config  nn.UNetConfig
	closers []io.Closer
}

func (p *priorFile) close() {
	for _, c := range p.closers {
		c.Close()
	}
	p.closers, p.weights = nil, nil
}

// open reads what the file says and checks that it can serve as a prior for pictures.
func (f priorFlags) open() (p *priorFile, err error) {
	p = &priorFile{}
	defer func() {
		if err != nil {
			p.close()
			p, err = nil, fmt.Errorf("prior: %w", err)
		}
	}()
	if f.path == builtin {
		if p.weights, err = photo.Open(); err != nil {
			return p, err
		}
		if p.info, err = p.weights.Info(); err != nil {
			return p, err
		}
	} else {
		m, err := checkpoint.Open(f.path, checkpoint.Options{Preset: f.preset})
		if err != nil {
			return p, err
		}
		p.closers = append(p.closers, m)
		unet, ok := m.Component(checkpoint.RoleUNet)
		if !ok {
			return p, fmt.Errorf("%s holds no UNet", f.path)
		}
		p.info = unet.Info
		if p.weights, err = weights.FromTensors(f.path, unet.Tensors, nil); err != nil {
			return p, err
		}
	}
	p.closers = append(p.closers, p.weights)
	if p.info.Family != familyUNet {
		return p, fmt.Errorf("%s holds a %s, expected a %s: latent networks cannot be run by this version", f.path, p.info.Family, familyUNet)
	}
	if p.config, err = nn.ParseUNetConfig(p.info.Model); err != nil {
		return p, err
	}
	if p.info.ValueRange != [2]float64{-1, 1} || p.info.Color != "rgb" || p.config.InChannels != 3 {
		return p, fmt.Errorf("%s works on %d channels of %s in %v; expected 3 of rgb in [-1, 1]", f.path, p.config.InChannels, p.info.Color, p.info.ValueRange)
	}
	return p, nil
}

// load builds the network on a device and closes the file. edge is the size of the pictures to come.
func (p *priorFile) load(d *tensor.Device, edge int) (*nn.UNet, error) {
	defer debug.FreeOSMemory() // what reading took: the engine's tensors would come on top of it
	defer p.close()
	net, err := nn.LoadUNet(d, p.weights.Scope(), p.config, nn.LoadOptions{MeanOnly: true, ImageSize: edge})
	if err == nil {
		err = p.weights.CheckAllRead()
	}
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	return net, nil
}

// prior is a network with what the solver must know about it.
type prior struct {
	info  weights.Info
	den   solver.Denoiser
	noise solver.Noise // nil: that of the seed
}

// denoiser makes a prior of the file's network.
func (p *priorFile) denoiser(net *nn.UNet) (*prior, error) {
	if net.OutChannels() != 3 {
		return nil, fmt.Errorf("prior: it predicts %d channels, expected 3, or 6 with a learned variance", net.OutChannels())
	}
	betas, err := p.info.Schedule.Values()
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	schedule, err := solver.FromBetas(betas)
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	return &prior{info: p.info, den: solver.FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor {
		return net.Forward(x, []float64{t}, nil)
	}, solver.ModelOptions{Schedule: schedule, Prediction: solver.Prediction(p.info.Prediction), Multiple: p.config.Downsampling()})}, nil
}

// load opens a prior and makes a denoiser of it, for n pictures of h x w at a time. run is what will be done with it: load
// rehearses it on a device that computes nothing, which tells how much memory to take, and refuses what would not fit.
func (f *solveFlags) load(d *tensor.Device, n, h, w int, run func(*tensor.Device, *prior) error) (*prior, error) {
	file, err := f.prior.open()
	if err != nil {
		return nil, err
	}
	defer file.close()
	if file.config.NumClasses > 0 {
		return nil, fmt.Errorf("prior: %s is conditioned on classes, which needs a label that pictures do not have; use an unconditional one", f.prior.path)
	}
	// One call first: a run that does not fit should not even be rehearsed, with the pictures that it has on the host.
	if err := file.checkMemory(f.options(), n, h, w); err != nil {
		return nil, err
	}
	cost, err := checkpoint.Rehearse(f.options(), file.weights, file.config, max(h, w), func(net *nn.UNet) error {
		p, err := file.denoiser(net)
		if err != nil {
			return err
		}
		p.noise = silence{}
		return run(net.Device(), p)
	})
	if err != nil {
		return nil, err
	}
	if err := fits(cost.Memory, n, h, w); err != nil {
		return nil, err
	}
	if err := d.Reserve(cost.Memory.Activations); err != nil {
		return nil, err
	}
	net, err := file.load(d, max(h, w))
	if err != nil {
		return nil, err
	}
	return file.denoiser(net)
}

// rehearsed is the number of denoiser calls of a rehearsal. Every step leaves the memory as it found it, so that a few
// calls tell of all.
const rehearsed = solver.Fast

// silence is the noise of a rehearsal.
type silence struct{}

func (silence) Normal(dst []float32, _, _ int) { clear(dst) }

// cost is what one call of the prior on n pictures of h x w takes.
func (p *priorFile) cost(o cpu.Options, n, h, w int) (dryrun.Cost, error) {
	c, err := checkpoint.GuidedCost(o, p.weights, p.config, n, h, w)
	if err != nil {
		err = fmt.Errorf("prior: %w", err)
	}
	return c, err
}

// checkMemory refuses pictures of which not even one call of the prior would fit.
func (p *priorFile) checkMemory(o cpu.Options, n, h, w int) error {
	cost, err := p.cost(o, n, h, w)
	if err != nil {
		return err
	}
	return fits(cost.Memory, n, h, w)
}

// fits refuses a run on n pictures of h x w that takes more than there is.
func fits(m dryrun.Memory, n, h, w int) error {
	// The input in the file's form and as planes, the measurement of each sample, the result on its way to the file, panels.
	const hostPictures = 12
	free, need := availableMemory(), m.Total()+hostPictures*int64(n)*int64(h)*int64(w)*3*4
	if free == 0 || need <= free {
		return nil
	}
	fit := ""
	if n > 1 {
		fit = "; --samples 1 needs less"
	}
	return fmt.Errorf("a picture of %d x %d pixels needs %d MB of memory with this prior, %d MB are free: make the picture smaller, or cut it into parts%s",
		w, h, need>>20, free>>20, fit)
}

// availableMemory is what the system can still give, in bytes; 0 where it does not say.
func availableMemory() int64 {
	free := int64(0)
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
				kb, _ := strconv.ParseInt(f[1], 10, 64)
				free = kb << 10
			}
		}
	}
	// A container's limit, less what is used already.
	read := func(path string) (int64, bool) {
		data, err := os.ReadFile(path)
		v, err2 := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return v, err == nil && err2 == nil
	}
	if top, ok := read("/sys/fs/cgroup/memory.max"); ok {
		if used, ok := read("/sys/fs/cgroup/memory.current"); ok && (free == 0 || top-used < free) {
			free = max(top-used, 1)
		}
	}
	return free
}

func newDevices() *cobra.Command {
	return &cobra.Command{
		Use: "devices", Short: "List what this program can compute on", Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			out := c.OutOrStdout()
			levels := cpu.Levels()
			fmt.Fprintf(out, "cpu   %s (in use), %d threads\n", levels[0], runtime.GOMAXPROCS(0))
			if len(levels) > 1 {
				fmt.Fprintf(out, "      also: %s\n", strings.Join(levels[1:], ", "))
			}
			fmt.Fprintln(out, "cuda  not part of this build")
			return nil
		},
	}
}
