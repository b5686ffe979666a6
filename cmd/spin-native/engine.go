package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

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
	device  string
	dtype   string
	threads int
}

func (f *deviceFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.device, "device", "cpu", "where to compute: cpu")
	c.Flags().StringVar(&f.dtype, "dtype", "f32", "number format of the network: f32")
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
	b, err := cpu.Open(cpu.Options{Threads: f.threads})
	if err != nil {
		return nil, err
	}
	return tensor.NewDevice(b), nil
}

// prior is a network with what the solver must know about it.
type prior struct {
	name string
	info weights.Info
	net  *nn.UNet
	den  solver.Denoiser
}

// openPrior opens the built-in prior or a converted file.
func openPrior(name string) (*weights.File, weights.Info, nn.UNetConfig, error) {
	var f *weights.File
	var err error
	if name == "photo" {
		f, err = photo.Open()
	} else {
		f, err = weights.Open(name)
	}
	var info weights.Info
	var config nn.UNetConfig
	if err != nil {
		return nil, info, config, fmt.Errorf("prior: %w", err)
	}
	if info, err = f.Info(); err == nil && info.Family != familyUNet {
		err = fmt.Errorf("%s holds a %s, expected a %s", name, info.Family, familyUNet)
	}
	if err == nil {
		config, err = nn.ParseUNetConfig(info.Model)
	}
	if err == nil && (info.ValueRange != [2]float64{-1, 1} || info.Color != "rgb" || config.InChannels != 3) {
		err = fmt.Errorf("%s works on %d channels of %s in %v; expected 3 of rgb in [-1, 1]", name, config.InChannels, info.Color, info.ValueRange)
	}
	if err == nil && config.NumClasses > 0 {
		err = fmt.Errorf("%s is a class-conditional prior, which needs a label that pictures do not have; use an unconditional one", name)
	}
	if err != nil {
		f.Close()
		return nil, info, config, fmt.Errorf("prior: %w", err)
	}
	return f, info, config, nil
}

const familyUNet = "guided-diffusion-unet"

// loadPrior loads a prior and makes a denoiser of it. edge is the size of the pictures to come.
func loadPrior(d *tensor.Device, name string, edge int) (*prior, error) {
	f, info, config, err := openPrior(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	net, err := nn.LoadUNet(d, f.Scope(), config, nn.LoadOptions{MeanOnly: true, ImageSize: edge})
	if err == nil {
		err = f.CheckAllRead()
	}
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	if net.OutChannels() != 3 {
		return nil, fmt.Errorf("prior: %s predicts %d channels, expected 3, or 6 with a learned variance", name, net.OutChannels())
	}
	betas, err := info.Schedule.Values()
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	schedule, err := solver.FromBetas(betas)
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	p := &prior{name: name, info: info, net: net}
	p.den = solver.FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor {
		return net.Forward(x, []float64{t}, nil)
	}, solver.ModelOptions{Schedule: schedule, Prediction: solver.Prediction(info.Prediction), Multiple: config.Downsampling()})
	return p, nil
}

// plan runs the prior on n pictures of h x w without computing: the peak of its tensors in bytes, and its operations.
func plan(name string, n, h, w int) (peak, weights int64, flop float64, err error) {
	f, _, config, err := openPrior(name)
	if err != nil {
		return 0, 0, 0, err
	}
	defer f.Close()
	d, count := dryrun.Open()
	net, err := nn.LoadUNet(d, f.Scope(), config, nn.LoadOptions{MeanOnly: true})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("prior: %w", err)
	}
	m := config.Downsampling()
	h, w = (h+m-1)/m*m, (w+m-1)/m*m
	if _, err := net.Predict(d.New(n, h, w, config.InChannels), []float64{0}, nil); err != nil {
		return 0, 0, 0, err
	}
	return d.Stats().Peak, f.Size(), *count, nil
}

// memory is what a run of the prior on n pictures of h x w takes, in bytes: the network's tensors, exactly, from a dry
// run, the weights, and the solver's pictures.
func memory(name string, n, h, w int) (int64, error) {
	peak, weights, _, err := plan(name, n, h, w)
	const pictures = 24 // x, x0, noise, measurement, the inner optimiser's, and those of the file formats
	const packed = 8    // Winograd weights are 4 times as many as the file's, which may be half precision
	return peak + weights*packed + pictures*4*int64(n)*int64(h)*int64(w)*3, err
}

// checkMemory refuses a run that would not fit.
func checkMemory(name string, n, h, w int) error {
	free := availableMemory()
	if free == 0 {
		return nil
	}
	need, err := memory(name, n, h, w)
	if err != nil {
		return err
	}
	if need > free {
		fit := ""
		if n > 1 {
			fit = "; --samples 1 needs less"
		}
		return fmt.Errorf("a picture of %d x %d pixels needs about %d MB of memory with this prior, %d MB are free: make the picture smaller, or cut it into parts%s",
			w, h, need>>20, free>>20, fit)
	}
	return nil
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
