// Command trust makes the tables of docs/trust.md, on every photo *_256.png of a folder.
//
//	go run ./tools/trust -photos FOLDER noise
//	go run ./tools/trust -photos FOLDER -journal FILE kernel
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

var (
	folder  = flag.String("photos", "", "folder of *_256.png")
	names   = flag.String("names", "", "kernel: some of them, with commas between them")
	journal = flag.String("journal", "", "kernel: file that keeps what is done, so that a run goes on where it was stopped")
)

func main() {
	flag.Parse()
	tables := map[string]func(*tensor.Device, []photo) error{"noise": noise, "kernel": kernels}
	table, ok := tables[flag.Arg(0)]
	if !ok {
		fmt.Fprintf(os.Stderr, "trust: which table? noise or kernel\n")
		os.Exit(2)
	}
	if err := run(*folder, table); err != nil {
		fmt.Fprintln(os.Stderr, "trust:", err)
		os.Exit(1)
	}
}

type photo struct {
	name string
	*imagefile.Image
}

func run(folder string, table func(*tensor.Device, []photo) error) error {
	files, err := filepath.Glob(filepath.Join(folder, "*_256.png"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no *_256.png in %q", folder)
	}
	var list []photo
	for _, f := range files {
		pic, err := imagefile.Read(f, imagefile.Limits{})
		if err != nil {
			return err
		}
		list = append(list, photo{strings.TrimSuffix(filepath.Base(f), "_256.png"), pic})
	}
	b, err := cpu.Open(cpu.Options{})
	if err != nil {
		return err
	}
	d := tensor.NewDevice(b)
	defer d.Close()
	return table(d, list)
}

// measure damages a photo.
func measure(d *tensor.Device, pic photo, spec solver.Spec, sigma float64, seed uint64) (m *solver.Measurement, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	op, err := spec.Build(d, pic.H, pic.W, 3)
	if err != nil {
		return nil, err
	}
	defer solver.Release(op)
	m, _, err = solver.NoiseModel{}.Simulate(op, spec, d.From(pic.Pix, 1, pic.H, pic.W, 3), sigma, seed)
	return m, err
}

// noise estimates the noise of measurements of known noise.
func noise(d *tensor.Device, photos []photo) error {
	gauss, err := solver.GaussianKernel(61, 3)
	if err != nil {
		return err
	}
	motion, err := solver.MotionKernel(61, 0.5, 3)
	if err != nil {
		return err
	}
	random, err := solver.RandomMask(256, 256, 0.7, 1)
	if err != nil {
		return err
	}
	scratches, err := solver.ScratchMask(256, 256, 14, 3)
	if err != nil {
		return err
	}
	kinds := []struct {
		name string
		spec solver.Spec
	}{
		{"the photo itself", solver.Spec{Kind: "denoise"}},
		{"scratches", solver.Spec{Kind: "inpaint", Masks: []*solver.Mask{scratches}}},
		{"70 % of the pixels missing", solver.Spec{Kind: "inpaint", Masks: []*solver.Mask{random}}},
		{"reduced by 2", solver.Spec{Kind: "downsample", Factor: 2}},
		{"reduced by 4", solver.Spec{Kind: "downsample", Factor: 4}},
		{"Gaussian blur", solver.Spec{Kind: "blur", Kernel: gauss}},
		{"motion blur", solver.Spec{Kind: "blur", Kernel: motion}},
		{"in grey", solver.Spec{Kind: "gray"}},
	}
	sigmas := []float64{0, 0.01, 0.02, 0.05, 0.1, 0.2}
	fmt.Print("| measurement |")
	for _, s := range sigmas {
		fmt.Printf(" %g |", s)
	}
	fmt.Print("\n|---|", strings.Repeat("---|", len(sigmas)), "\n")
	inside, all := 0, 0
	for _, k := range kinds {
		fmt.Printf("| %s |", k.name)
		for _, s := range sigmas {
			sum, worst := 0.0, s
			for _, p := range photos {
				m, err := measure(d, p, k.spec, s, 3)
				if err != nil {
					return err
				}
				e, err := solver.EstimateNoise(m)
				if err != nil {
					return err
				}
				sum += e.Sigma / float64(len(photos))
				if math.Abs(e.Sigma-s) > math.Abs(worst-s) {
					worst = e.Sigma
				}
				if all++; e.Low <= s && s <= e.High {
					inside++
				}
			}
			fmt.Printf(" %.4f (%.4f) |", sum, worst)
		}
		fmt.Println()
	}
	fmt.Printf("\n%d of %d intervals hold the truth.\n", inside, all)
	return nil
}
