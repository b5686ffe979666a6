package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/internal/study"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// blurCase is one true kernel.
type blurCase struct {
	name   string
	family solver.BlurFamily // "" for shakes, which are of no family
	size   float64
	kernel func() (*solver.BlurKernel, error)
}

// right is whether an estimate is that blur, up to a fifth of its size.
func (b blurCase) right(e solver.BlurEstimate) bool {
	if b.size == 0 {
		return e.None
	}
	return !e.None && e.Family == b.family && math.Abs(e.Size-b.size) <= 0.2*b.size
}

// blurResult is what the program made of one case.
type blurResult struct {
	Photo, Kernel          string
	Sigma                  float64
	Estimate               solver.BlurEstimate
	Done                   string
	Measured, Found, Known float64 // PSNR
}

// kernels damages photos, and has spin-native find the kernel: the table is what its users get. A journal keeps what is done.
func kernels(*tensor.Device, []photo) error {
	dir, err := os.MkdirTemp("", "trust")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := study.Build(dir)
	if err != nil {
		return err
	}
	file := *journal
	if file == "" {
		file = filepath.Join(dir, "journal")
	}
	j, err := study.OpenJournal[blurResult](file)
	if err != nil {
		return err
	}
	defer j.Close()
	photos, err := study.Photos(*folder, *names)
	if err != nil {
		return err
	}

	gaussian := func(s float64) blurCase {
		return blurCase{fmt.Sprintf("Gaussian %g", s), solver.GaussianBlur, s, func() (*solver.BlurKernel, error) { return solver.GaussianKernel(61, s) }}
	}
	disc := func(r float64) blurCase {
		return blurCase{fmt.Sprintf("disc %g", r), solver.DiscBlur, r, func() (*solver.BlurKernel, error) { return solver.DiscKernel(r) }}
	}
	line := func(l, a float64) blurCase {
		return blurCase{fmt.Sprintf("line %g at %g", l, a), solver.LineBlur, l, func() (*solver.BlurKernel, error) { return solver.LineKernel(l, a) }}
	}
	shake := func(n int, v float64, seed uint64) blurCase {
		return blurCase{fmt.Sprintf("shake %d:%g:%d", n, v, seed), "", math.NaN(), func() (*solver.BlurKernel, error) { return solver.MotionKernel(n, v, seed) }}
	}
	none := blurCase{"none", solver.GaussianBlur, 0, func() (*solver.BlurKernel, error) { return solver.NewKernel(1, 1, []float32{1}) }}
	smooth := []blurCase{none, gaussian(1), gaussian(1.5), gaussian(2), gaussian(3), gaussian(4)}
	others := []blurCase{disc(2), disc(4), disc(7), line(7, 20), line(12, 60), line(20, 100), shake(15, 0.2, 2), shake(15, 0.5, 3), shake(31, 0.5, 5)}
	for _, table := range []struct {
		sigma float64
		cases []blurCase
	}{{0.01, smooth}, {0.05, smooth}, {0.02, others}, {0.02, smooth}} {
		if err := kernelTable(j, program, dir, table.sigma, table.cases, photos); err != nil {
			return err
		}
	}
	summary(j.Entries, append(smooth, others...))
	return nil
}

func kernelTable(j *study.Journal[blurResult], program study.Program, dir string, sigma float64, cases []blurCase, photos []study.Photo) error {
	for _, c := range cases {
		for _, p := range photos {
			if find(j.Entries, p.Name, c.name, sigma) != nil {
				continue
			}
			r, err := blurRun(program, dir, c, p, sigma)
			if err != nil {
				return fmt.Errorf("%s, %s, sigma %g: %w", c.name, p.Name, sigma, err)
			}
			if err := j.Add(r); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%s, %s, sigma %g: %s\n", c.name, p.Name, sigma, r.cell())
		}
	}
	fmt.Printf("| sigma %g |", sigma)
	for _, p := range photos {
		fmt.Printf(" %s |", p.Name)
	}
	fmt.Print("\n|---|", strings.Repeat("---|", len(photos)), "\n")
	for _, c := range cases {
		fmt.Printf("| %s |", c.name)
		for _, p := range photos {
			fmt.Printf(" %s |", find(j.Entries, p.Name, c.name, sigma).cell())
		}
		fmt.Println()
	}
	fmt.Println()
	return nil
}

func find(all []blurResult, photo, kernel string, sigma float64) *blurResult {
	for i, r := range all {
		if r.Photo == photo && r.Kernel == kernel && r.Sigma == sigma {
			return &all[i]
		}
	}
	return nil
}

// cell is the estimate with its confidence, and the PSNR of the blurred picture, the result, and the result with the kernel
// given.
func (r blurResult) cell() string {
	e := r.Estimate
	what := map[solver.BlurFamily]string{solver.GaussianBlur: "g", solver.DiscBlur: "d", solver.LineBlur: "l"}[e.Family] + fmt.Sprintf(" %.2f", e.Size)
	if e.Family == solver.LineBlur {
		what += fmt.Sprintf(" at %.0f", e.Angle)
	}
	if e.None {
		what = "none"
	}
	found := fmt.Sprintf("%.1f", r.Found)
	if r.Done == "nothing" {
		found = "refused"
	}
	return fmt.Sprintf("%s (%.2f): %.1f, %s, %.1f", what, e.Confidence, r.Measured, found, r.Known)
}

func blurRun(program study.Program, dir string, c blurCase, p study.Photo, sigma float64) (r blurResult, err error) {
	r = blurResult{Photo: p.Name, Kernel: c.name, Sigma: sigma}
	k, err := c.kernel()
	if err != nil {
		return r, err
	}
	var text strings.Builder
	for i, v := range k.K {
		fmt.Fprint(&text, v, map[bool]string{true: "\n", false: " "}[i%k.W == k.W-1])
	}
	kernel, y, out := filepath.Join(dir, "kernel.txt"), filepath.Join(dir, "y.png"), filepath.Join(dir, "out.png")
	if err := os.WriteFile(kernel, []byte(text.String()), 0o644); err != nil {
		return r, err
	}
	level := strconv.FormatFloat(sigma, 'g', -1, 64)
	if _, err := program.Run("degrade", "--force", "--quiet", "--seed", "3", "--task", "deblur", "--kernel", kernel, "--sigma", level, "-o", y, p.Path); err != nil {
		return r, err
	}
	type answer struct {
		Kernel struct {
			solver.BlurEstimate
			Done string `json:"done"`
		} `json:"kernel_estimate"`
		Measured metrics.Score   `json:"measured"`
		Result   []metrics.Score `json:"result"`
	}
	reconstruct := func(args ...string) (a answer, err error) {
		text, failed := program.Run(append([]string{"reconstruct", "--force", "--quiet", "--json", "--preset", "fast", "--seed", "1", "--truth", p.Path, "-o", out}, append(args, y)...)...)
		if len(text) == 0 {
			return a, failed
		}
		return a, json.Unmarshal(text, &a) // a refusal has one as well
	}
	found, err := reconstruct("--task", "deblur", "--kernel", "auto")
	if err != nil {
		return r, err
	}
	r.Estimate, r.Done = found.Kernel.BlurEstimate, found.Kernel.Done
	if len(found.Result) > 0 {
		r.Found = found.Result[0].PSNR
	}
	args := []string{"--task", "deblur", "--kernel", kernel, "--sigma", level}
	if c.size == 0 {
		args = []string{"--task", "denoise", "--sigma", level}
	}
	known, err := reconstruct(args...)
	if err != nil {
		return r, err
	}
	r.Measured, r.Known = known.Measured.PSNR, known.Result[0].PSNR
	return r, nil
}

// summary counts how often which confidence was right.
func summary(all []blurResult, cases []blurCase) {
	type count struct{ all, right, better, deblurred int }
	var words = []string{"high", "fair", "low"}
	counts := map[string]map[string]*count{"of a family": {}, "shakes": {}}
	inside, measured := 0, 0
	for _, group := range counts {
		for _, w := range words {
			group[w] = &count{}
		}
	}
	for _, r := range all {
		for _, c := range cases {
			if c.name != r.Kernel {
				continue
			}
			group := "of a family"
			if c.family == "" {
				group = "shakes"
			}
			n := counts[group][r.Estimate.Word]
			n.all++
			if c.right(r.Estimate) {
				n.right++
			}
			if r.Done != "nothing" {
				n.deblurred++
				if r.Found > r.Measured {
					n.better++
				}
			}
			if c.size > 0 && r.Estimate.Family == c.family && r.Estimate.Word != "low" {
				if measured++; r.Estimate.Low <= c.size && c.size <= r.Estimate.High {
					inside++
				}
			}
		}
	}
	fmt.Println("| blur | confidence | cases | right | better than the input |\n|---|---|---|---|---|")
	for _, group := range []string{"of a family", "shakes"} {
		for _, w := range words {
			n := counts[group][w]
			fmt.Printf("| %s | %s | %d | %d | %d of %d |\n", group, w, n.all, n.right, n.better, n.deblurred)
		}
	}
	fmt.Printf("\n%d of %d intervals hold the true size.\n", inside, measured)
}
