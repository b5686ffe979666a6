package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/tensor"
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
	c.Flags().StringVar(&f.device, "device", "cpu", "where to compute: cpu, cuda (or cuda:1, ...; see spin-native devices), or auto, which takes cuda where it is there")
	c.Flags().StringVar(&f.dtype, "dtype", "f32", "number format of networks: f32; f16, for tensor cores (--device cuda); or bf16, for processors with AMX; both less exact")
	c.Flags().BoolVar(&f.halfWeights, "half-weights", false, "keep the network's weights as F16: half the memory for them, a little less exact")
	c.Flags().IntVar(&f.threads, "threads", 0, "processor threads (default: all that the system allows)")
}

func (f *deviceFlags) open(c *cobra.Command) (*tensor.Device, error) {
	b, err := f.backend(c, false)
	if err != nil {
		return nil, err
	}
	d := tensor.NewDevice(b)
	return d, d.Store(f.stored())
}

// choose is open without opening: it checks the flags, and settles what auto is.
func (f *deviceFlags) choose(c *cobra.Command) error {
	b, err := f.backend(c, true)
	if err != nil {
		return err
	}
	return b.Close()
}

// backend opens what --device names, or a plan for it. Auto settles for the processor, for which --half-weights and --dtype bf16
// are, too.
func (f *deviceFlags) backend(c *cobra.Command, plan bool) (kernels.Backend, error) {
	if c.Flags().Changed("threads") && f.threads < 1 {
		return nil, usagef("--threads %d: expected 1 or more, for example --threads %d", f.threads, runtime.GOMAXPROCS(0))
	}
	switch f.dtype {
	case "f32", "f16", "bf16":
	default:
		return nil, usagef("--dtype %s: expected f32, f16 (with --device cuda) or bf16 (on the processor)", f.dtype)
	}
	onCPU := func() (kernels.Backend, error) {
		if f.dtype == "f16" {
			return nil, usagef("--dtype f16 is not available on --device %s; use --device cuda, or --dtype f32", f.device)
		}
		o := f.options()
		o.Plan = plan
		return cpu.Open(o)
	}
	kind, number, _ := strings.Cut(f.device, ":")
	n, err := 0, error(nil)
	if kind == "cuda" && number != "" {
		n, err = strconv.Atoi(number)
	}
	switch {
	case f.device == "cpu":
		return onCPU()
	case f.device == "auto":
		if !f.halfWeights && f.dtype != "bf16" {
			if b, err := cuda.Open(cuda.Options{Plan: plan}); err == nil {
				f.device = "cuda"
				return b, nil
			}
		}
		f.device = "cpu"
		return onCPU()
	case kind != "cuda" || err != nil || n < 0 || strings.HasSuffix(f.device, ":"):
		return nil, usagef("--device %s: expected cpu, cuda, cuda:1 or auto", f.device)
	case f.halfWeights:
		return nil, usagef("--half-weights is not available on --device %s; use --dtype f16", f.device)
	case f.dtype == "bf16":
		return nil, usagef("--dtype bf16 is not available on --device %s; use --dtype f16 or f32", f.device)
	}
	b, err := cuda.Open(cuda.Options{Device: n, Plan: plan})
	if err != nil {
		return nil, usagef("--device %s is not available: %v; use --device cpu", f.device, err)
	}
	return b, nil
}

// stored is what networks store.
func (f *deviceFlags) stored() kernels.Type {
	if f.dtype == "f16" {
		return kernels.F16
	}
	return kernels.F32
}

// number is the device's among those of its kind, once it was opened or chosen.
func (f *deviceFlags) number() int {
	_, number, _ := strings.Cut(f.device, ":")
	n, _ := strconv.Atoi(number)
	return n
}

// machine is what a run is rehearsed for, once the device was opened or chosen.
func (f *deviceFlags) machine() dryrun.Machine {
	if f.own() {
		return dryrun.Machine{CUDA: &cuda.Options{Device: f.number()}, Store: f.stored()}
	}
	return dryrun.Machine{CPU: f.options()}
}

// own reports whether the device has memory of its own. Its name is that of an open device.
func (f *deviceFlags) own() bool { return strings.HasPrefix(f.device, "cuda") }

func (f *deviceFlags) options() cpu.Options {
	o := cpu.Options{Threads: f.threads, HalfWeights: f.halfWeights}
	if f.dtype == "bf16" {
		o.Products = f.dtype
	}
	return o
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
			all, err := cuda.Devices()
			if err != nil {
				fmt.Fprintf(out, "cuda  %v\n", err)
			}
			for i, d := range all {
				fmt.Fprintf(out, "cuda:%d  %s, compute capability %d.%d, %d MB\n", i, d.Name, d.Major, d.Minor, d.Memory>>20)
			}
			return nil
		},
	}
}
