package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/internal/profile"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
)

// benchReport is what --json prints.
type benchReport struct {
	Model   string    `json:"model"`
	Size    int       `json:"size"`
	Batch   int       `json:"batch"`
	Threads int       `json:"threads"`
	Level   string    `json:"level"`
	GFLOP   float64   `json:"gflop"`
	Ms      []float64 `json:"ms"`
	MsMin   float64   `json:"ms_min"`
	PeakRSS int       `json:"peak_rss_mb,omitempty"`

	Launches int `json:"launches,omitempty"` // of kernels by a call, on a GPU

	Memory memoryReport `json:"memory"`

	Profile *profile.Report `json:"profile,omitempty"` // with --layers
}

func newBench() *cobra.Command {
	var dev deviceFlags
	var memory memoryFlag
	var model string
	var size, batch, runs int
	var asJSON, layers, eager bool
	c := &cobra.Command{
		Use:   "bench",
		Short: "Time one denoiser call, or one decoding of latents",
		Long: `bench times the forward pass of a prior, of a latent one on the latents of a picture of --size, or the decoder of a first
stage: one call to warm up, then --runs calls. GFLOP counts convolutions and attention as they are written, whatever
algorithm computes them. Decoders get latents as they are: none is
looked up in a code book, which other programs' decoders do not do either. Their --size is that of the picture that comes out.

--layers adds a table of the layers in the network's order, each with the least time of its calls, so that they add up to
less than one call of the network, and a table of the kinds of layers. On a GPU its own clock tells the times, and the calls are
told to it operation by operation; without --layers it replays a recorded call. Both tell GFLOP/s and GB/s (inputs, weights and
results, each moved once) and their shares of what the machine was measured to do at most: an algorithm that saves
operations can exceed the former, data that stay in the caches the latter.`,
		Example: `  spin-native bench
  spin-native bench --model photo-latent
  spin-native bench --model ffhq_10m
  spin-native bench --layers --runs 20
  spin-native bench --model sd-vae --size 512
  spin-native bench --model sd-vae --size 1024 --max-memory 2000
  spin-native bench --model model.safetensors --size 512 --threads 1 --json`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if size < 1 || batch < 1 || batch > 256 || runs < 1 || runs > 10000 || size > 8192 {
				return usagef("--size %d, --batch %d, --runs %d: expected 1 to 8192, 1 to 256, 1 to 10000", size, batch, runs)
			}
			s, err := openSubject(model)
			if err != nil {
				return err
			}
			defer s.close()
			d, err := dev.open(c)
			if err != nil {
				return err
			}
			defer d.Close()
			plan, err := memory.plan(dev, s.tilings(size, size), batch, size, size, 0, func(t nn.Tiling) (dryrun.Cost, error) {
				return s.cost(dev.machine(), t, batch, size, size)
			})
			if err != nil {
				return err
			}
			if err := d.Reserve(plan.cost.Memory.Activations); err != nil {
				return err
			}
			r := benchReport{Model: model, Size: size, Batch: batch, Threads: dev.threads, Level: d.Name(), GFLOP: plan.cost.FLOP / 1e9, Memory: plan.report()}
			if r.Threads == 0 {
				r.Threads = runtime.GOMAXPROCS(0)
			}
			inner := d.Backend()
			var p *profile.Backend
			if layers || eager {
				told, stored := profile.New(inner), d.Stored() // which hides that it is a kernels.Recorder
				if layers {
					p = told
				}
				d = tensor.NewDevice(told) // the first one still closes the backend
				if err := d.Store(stored); err != nil {
					return err
				}
			}
			if err := r.time(c, d, inner, s, plan.tiling, runs, p); err != nil {
				return err
			}
			r.PeakRSS = peakRSS() // before the arrays that the memory is measured with
			if layers {
				var gflops, gbps float64
				if m, ok := inner.(interface{ Peak() (gflops, gbps float64) }); ok {
					gflops, gbps = m.Peak()
				}
				if r.Profile, err = p.Report(gflops, gbps); err != nil {
					return err
				}
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), r)
			}
			if layers {
				if err := r.Profile.Print(c.OutOrStdout()); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout())
			}
			where, bands := r.Level, ""
			if !dev.own() {
				where = fmt.Sprintf("%d threads on %s", r.Threads, r.Level)
			}
			if plan.rows() > 0 {
				bands = ", " + plan.String()
			}
			fmt.Fprintf(c.OutOrStdout(), "%s at %d x %d, batch %d, %s: %.1f ms (least of %d), %.1f GFLOP, %.0f GFLOP/s, peak %d MB%s\n",
				r.Model, size, size, batch, where, r.MsMin, runs, r.GFLOP, r.GFLOP/r.MsMin*1e3, r.PeakRSS, bands)
			return nil
		},
	}
	dev.register(c)
	memory.register(c)
	c.Flags().StringVar(&model, "model", "photo", "photo or photo-latent (built in), a `FILE` with a prior, or with a first stage alone, or a network's name, for random weights: ffhq_10m, imagenet256, sd-vae, ldm-ffhq-vq4 (its first stage), ...")
	c.Flags().IntVar(&size, "size", 256, "edge of the picture in pixels")
	c.Flags().IntVar(&batch, "batch", 1, "pictures at a time")
	c.Flags().IntVar(&runs, "runs", 5, "calls that are timed")
	c.Flags().BoolVar(&layers, "layers", false, "time every layer as well")
	c.Flags().BoolVar(&eager, "eager", false, "tell a GPU every operation of every call; do not replay a recorded one")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object on standard output")
	return c
}

// time runs s on d, whose backend is inner or one around it; p measures if it is given.
func (r *benchReport) time(c *cobra.Command, d *tensor.Device, inner kernels.Backend, s subject, t nn.Tiling, runs int, p *profile.Backend) (err error) {
	defer tensor.Catch(&err)
	trace := func(string, *tensor.Tensor) {}
	if p != nil {
		trace = p.Trace
	}
	call, err := s.load(d, t, r.Batch, r.Size, trace)
	if err != nil {
		return err
	}
	for i := range runs + 1 {
		if err := c.Context().Err(); err != nil {
			return err
		}
		if p != nil && i > 0 {
			p.Next()
		}
		counter, _ := inner.(interface{ Launches() int })
		before := 0
		if counter != nil {
			before = counter.Launches()
		}
		start := time.Now()
		out, err := call()
		if err != nil {
			return err
		}
		out.Free()
		if err := d.Sync(); err != nil {
			return err
		}
		ms := float64(time.Since(start).Microseconds()) / 1e3
		if i == 0 {
			if counter != nil {
				r.Launches = counter.Launches() - before
			}
			continue
		}
		r.Ms = append(r.Ms, ms)
		if r.MsMin == 0 || ms < r.MsMin {
			r.MsMin = ms
		}
	}
	return nil
}

// peakRSS is the largest resident memory of the process so far in MB; 0 where the system does not tell.
func peakRSS() int {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmHWM:" {
			kb, _ := strconv.Atoi(f[1])
			return kb >> 10
		}
	}
	return 0
}
