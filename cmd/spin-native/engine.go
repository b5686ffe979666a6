package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/kernels/cpu"
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
	c.Flags().StringVar(&f.device, "device", "cpu", "where to compute: cpu")
	c.Flags().StringVar(&f.dtype, "dtype", "f32", "number format that convolutions multiply in: f32, or bf16, which is fast on processors with AMX and less exact")
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
	if f.dtype != "f32" && f.dtype != "bf16" {
		return nil, usagef("--dtype %s is not available on --device %s; use --dtype f32 or bf16", f.dtype, f.device)
	}
	b, err := cpu.Open(f.options())
	if err != nil {
		return nil, err
	}
	return tensor.NewDevice(b), nil
}

func (f *deviceFlags) options() cpu.Options {
	return cpu.Options{Threads: f.threads, HalfWeights: f.halfWeights, Products: f.dtype}
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
