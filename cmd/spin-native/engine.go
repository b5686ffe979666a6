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
