package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/internal/hostmem"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/nn"
)

// memoryFlag bounds what a command takes.
type memoryFlag struct{ mb int }

func (f *memoryFlag) register(c *cobra.Command) {
	c.Flags().IntVar(&f.mb, "max-memory", 0, "memory to take at most, in `MB`: a first stage works in bands of the picture where it would take more (default: what the machine, or the device, has free)")
}

// limit is what the command may take in bytes, on a device of that; 0: nobody knows.
func (f memoryFlag) limit(o deviceFlags) (int64, error) {
	if f.mb < 0 || f.mb > 1<<40 {
		return 0, usagef("--max-memory %d: expected a number of MB from 1, or 0 for what the machine has free", f.mb)
	}
	if f.mb > 0 {
		return int64(f.mb) << 20, nil
	}
	if o.own() {
		free, err := cuda.Free(o.number())
		if err != nil {
			return 0, err
		}
		return max(free-free/32, 1), nil // the driver keeps graphs there, too
	}
	free := hostmem.Available()
	if free == 0 {
		return 0, nil
	}
	// For the program itself, and for what others may want in the meantime.
	return max(free-free/16-(32<<20), 1), nil
}

// plan is how a run gets along with the memory that there is.
type plan struct {
	limit    int64 // of everything, in bytes; 0: unknown
	pictures int64 // of that, what pictures take outside of the engine
	tiling   nn.Tiling
	width    int // of the pictures
	cost     dryrun.Cost
}

// total is what the run takes.
func (p plan) total() int64 { return p.cost.Memory.Total() + p.pictures }

// rows of the bands in which a first stage works, 0 where it works on the whole picture.
func (p plan) rows() int { return p.tiling.Rows(p.width) }

func (p plan) String() string {
	switch {
	case p.rows() == 0:
		return "whole"
	case p.tiling.Lean:
		return fmt.Sprintf("in bands of %d rows, nothing enlarged kept", p.rows())
	}
	return fmt.Sprintf("in bands of %d rows", p.rows())
}

// hostPictures is what n pictures of h x w take outside of the engine: the input in the file's form and as planes, the
// measurement of each sample, the result on its way to the file, panels; a dozen in float32.
func hostPictures(n, h, w int) int64 { return 12 * int64(n) * int64(h) * int64(w) * 3 * 4 }

// plan finds the fastest tiling with which a run on n pictures of h x w, which take so many bytes outside of the engine,
// fits into memory, or tells what it would take. On a device with memory of its own, pictures outside of the engine do not count.
func (f memoryFlag) plan(o deviceFlags, tilings []nn.Tiling, n, h, w int, pictures int64, rehearsals ...func(nn.Tiling) (dryrun.Cost, error)) (plan, error) {
	limit, err := f.limit(o)
	if err != nil {
		return plan{}, err
	}
	p := plan{limit: limit, pictures: pictures, width: w}
	engine := p.limit // what is left for it
	if p.limit > 0 && !o.own() {
		engine = max(p.limit-p.pictures, 1)
	}
	p.tiling, p.cost, err = checkpoint.Fit(engine, tilings, rehearsals...)
	if !errors.Is(err, kernels.ErrOutOfMemory) {
		return p, err
	}
	least, there := "", fmt.Sprintf("%d MB are free", p.limit>>20)
	if o.own() {
		there += " on the device"
	}
	if len(tilings) > 1 {
		least = ", even with its first stage in bands"
	}
	if f.mb > 0 {
		there = fmt.Sprintf("the limit is %d MB", f.mb)
	}
	advice := []string{"make the picture smaller, or cut it into parts"}
	if n > 1 {
		advice = append(advice, "--samples 1 needs less")
	}
	if !o.halfWeights && !o.own() && p.cost.Memory.Weights > p.total()/8 {
		advice = append(advice, "--half-weights needs less")
	}
	if f.mb > 0 {
		advice = append(advice, "--max-memory can allow more")
	}
	return p, &tooBig{fmt.Sprintf("a picture of %d x %d pixels takes %d MB of memory with this prior%s (pictures %d MB; %v), %s: %s",
		w, h, p.total()>>20+1, least, p.pictures>>20, p.cost.Memory, there, strings.Join(advice, "; "))}
}

// tooBig is what fits in no way.
type tooBig struct{ text string }

func (e *tooBig) Error() string { return e.text }
func (e *tooBig) Unwrap() error { return kernels.ErrOutOfMemory }

// memoryReport is a plan in bytes, for --json.
type memoryReport struct {
	dryrun.Memory
	Pictures int64 `json:"pictures"` // outside of the engine
	Total    int64 `json:"total"`
	Limit    int64 `json:"limit,omitempty"`
	BandRows int   `json:"band_rows"` // of a first stage's bands; 0: it works on the whole picture, or there is none
	Lean     bool  `json:"lean"`
}

func (p plan) report() memoryReport {
	return memoryReport{p.cost.Memory, p.pictures, p.total(), p.limit, p.rows(), p.tiling.Lean}
}
