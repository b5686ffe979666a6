package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spin-native/spin/internal/study"
	"github.com/spin-native/spin/solver"
)

// task is one row of the tables: what spin-native degrade does to a photo.
type task struct {
	name  string
	args  []string
	turns bool // the measurement is blind to a turn by 180 degrees: the better of the two counts
	gray  bool // the measurement sees no colours, and gets a photo without
}

// command is the arguments as one would type them.
func (t task) command() string {
	var list []string
	for _, a := range t.args {
		if strings.ContainsAny(a, " |") {
			a = `"` + a + `"`
		}
		list = append(list, a)
	}
	return strings.Join(list, " ")
}

func (t task) key() string { return t.name + ": " + t.command() }

func row(name, args string) task { return task{name: name, args: strings.Fields(args)} }

var tasks = []task{
	row("denoising, sigma 0.2", "--task denoise --sigma 0.2"),
	row("random inpainting 70 %", "--task inpaint --mask random:0.7:1 --sigma 0.05"),
	row("scratches", "--task inpaint --mask scratches:14:3"),
	row("centre box 32", "--task inpaint --mask center:32"),
	row("box 128", "--task inpaint --mask box:128:1 --sigma 0.05"),
	row("right half", "--task inpaint --mask half:right --sigma 0.05"),
	row("super-resolution x4", "--task sr --scale 4 --sigma 0.05"),
	row("super-resolution x16", "--task sr --scale 16 --sigma 0.05"),
	row("Gaussian blur", "--task deblur --kernel gaussian:61:3 --sigma 0.05"),
	row("motion blur", "--task deblur --kernel motion:61:0.5:3 --sigma 0.05"),
	row("nonlinear blur", "--task nonlinear-blur --kernel gaussian:61:3 --sigma 0.05"),
	row("JPEG quality 10", "--task jpeg --quality 10"),
	row("JPEG quality 5", "--task jpeg --quality 5"),
	row("JPEG quality 2", "--task jpeg --quality 2"),
	row("2 bits per channel", "--task dequantize --bits 2"),
	row("high dynamic range", "--task hdr --sigma 0.05"),
	row("colouring", "--task colorize --sigma 0.05"),
	row("block compressed sensing 25 %", "--task cs --ratio 0.25 --sigma 0.05"),
	row("single pixel 25 %", "--task single-pixel --ratio 0.25 --sigma 0.05"),
	turns(row("phase retrieval", "--task phase --sigma 0.05")),
	gray(row("MRI 4x", "--task mri --acceleration 4 --sigma 0.05")),
	gray(row("CT, 30 views", "--task ct --views 30 --sigma 0.01")),
}

func turns(t task) task { t.turns = true; return t }
func gray(t task) task  { t.gray = true; return t }

// equal is the number of denoiser calls at which methods are compared: that of Spin's defaults.
const equal = solver.Standard

// method is one column of the tables.
type method struct {
	name  string
	calls int
	run   study.Method
}

func spin(name string, calls int) method {
	return method{name, calls, func(ctx context.Context, p solver.Problem, prior study.Prior) (*solver.Result, error) {
		return solver.Spin(ctx, p, prior, solver.Settings{Calls: calls, FirstStage: prior.FirstStage, Options: solver.Options{Seed: 1}})
	}}
}

// rival is a method with settings S in the space of pictures, at equal calls.
func rival[S any](name string, settings S, run func(context.Context, solver.Problem, solver.Denoiser, S) (*solver.Result, error)) method {
	return method{name, equal, func(ctx context.Context, p solver.Problem, prior study.Prior) (*solver.Result, error) {
		if prior.FirstStage != nil {
			return nil, fmt.Errorf("%s works on pictures, not on latents", name)
		}
		return run(ctx, p, prior, settings)
	}}
}

// ours is the column that the rivals are compared with.
const ours = "Spin default"

var seeded = solver.Options{Seed: 1}

var methods = []method{
	rival("DDNM+", solver.DDNMSettings{N: equal, Options: seeded}, solver.DDNM),
	rival("DiffPIR", solver.DiffPIRSettings{N: equal, Options: seeded}, solver.DiffPIR),
	rival("DDRM", solver.DDRMSettings{N: equal, Options: seeded}, solver.DDRM),
	rival("RED-diff", solver.REDDiffSettings{N: equal, Options: seeded}, solver.REDDiff),
	rival("DAPS", solver.DAPSSettings{N: equal, Options: seeded}, solver.DAPS),
	rival("DPS (approximation)", solver.DPSApproxSettings{N: equal, Options: seeded}, solver.DPSApprox),
	spin("Spin fast", solver.Fast),
	spin(ours, solver.Standard),
	spin("Spin best", solver.Best),
}

// isRival is whether a method is one that Spin is compared with.
func (m method) isRival() bool { return !strings.HasPrefix(m.name, "Spin") }

// figure is the mean of the photos' figures, and the largest peak.
type figure struct {
	psnr, ssim, seconds, peak, calls float64
	n                                int
}

func (f figure) String() string {
	if f.n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f / %.3f", f.psnr, f.ssim)
}

func mean(all []entry, t task, name string) (f figure) {
	for _, photo := range photosOf(all, t) {
		e := find(all, t, photo, name)
		if e == nil || e.Note != "" {
			continue
		}
		f.psnr, f.ssim, f.seconds, f.calls, f.n = f.psnr+e.PSNR, f.ssim+e.SSIM, f.seconds+e.Seconds, f.calls+float64(e.Calls), f.n+1
		f.peak = max(f.peak, e.PeakMB)
	}
	n := float64(max(f.n, 1))
	f.psnr, f.ssim, f.seconds, f.calls = f.psnr/n, f.ssim/n, f.seconds/n, f.calls/n
	return f
}

func photosOf(all []entry, t task) (names []string) {
	for _, e := range all {
		if e.Task == t.key() && !slices.Contains(names, e.Photo) {
			names = append(names, e.Photo)
		}
	}
	slices.Sort(names)
	return names
}

// report is the tables in Markdown.
func report(all []entry, some []task, by []method) string {
	var b strings.Builder
	some = slices.DeleteFunc(slices.Clone(some), func(t task) bool { return len(photosOf(all, t)) == 0 })
	line := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	head := func(cells ...string) {
		line(cells...)
		b.WriteString(strings.Repeat("|---", len(cells)) + "|\n")
	}
	columns := []string{"task", "measured", "first guess"}
	for _, m := range by {
		columns = append(columns, m.name)
	}
	head(append(columns, "Spin - best rival")...)
	for _, t := range some {
		cells := []string{t.name, mean(all, t, measured).String(), mean(all, t, guess).String()}
		best, from, own := math.Inf(-1), "", mean(all, t, ours)
		for _, m := range by {
			if f := mean(all, t, m.name); m.isRival() && f.n > 0 && f.n == own.n && f.psnr > best {
				best, from = f.psnr, m.name
			}
		}
		for _, m := range by {
			text := mean(all, t, m.name).String()
			if m.name == from && best > own.psnr || m.name == ours && own.n > 0 && best <= own.psnr {
				text = "**" + text + "**"
			}
			cells = append(cells, text)
		}
		gap := "-"
		if from != "" && own.n > 0 {
			gap = fmt.Sprintf("%+.2f (%s)", own.psnr-best, from)
		}
		line(append(cells, gap)...)
	}
	b.WriteString("\n" + score(all, some, by) + "\n")
	head(columnsOf("seconds, calls", by)...)
	for _, t := range some {
		cells := []string{t.name}
		for _, m := range by {
			f := mean(all, t, m.name)
			if f.n == 0 {
				cells = append(cells, "-")
				continue
			}
			cells = append(cells, fmt.Sprintf("%.1f s, %.0f", f.seconds, f.calls))
		}
		line(cells...)
	}
	b.WriteString("\n")
	head(columnsOf("peak memory, MB", by)...)
	for _, t := range some {
		cells := []string{t.name}
		for _, m := range by {
			f := mean(all, t, m.name)
			if f.n == 0 || f.peak == 0 {
				cells = append(cells, "-")
				continue
			}
			cells = append(cells, fmt.Sprintf("%.0f", f.peak))
		}
		line(cells...)
	}
	b.WriteString("\n")
	columns[0] = "task, photo"
	head(columns...)
	for _, t := range some {
		for _, photo := range photosOf(all, t) {
			cells := []string{t.name + ", " + photo}
			for _, name := range append([]string{measured, guess}, names(by)...) {
				text := "-"
				if e := find(all, t, photo, name); e != nil && e.Note == "" {
					text = fmt.Sprintf("%.2f / %.3f", e.PSNR, e.SSIM)
				}
				cells = append(cells, text)
			}
			line(cells...)
		}
	}
	b.WriteString("\n")
	head("task", "`spin-native degrade --seed 1`")
	for _, t := range some {
		line(t.name, "`"+strings.ReplaceAll(t.command(), "|", `\|`)+"`")
	}
	return b.String()
}

// score counts where Spin's default is ahead: task by task in the mean, and photo by photo.
func score(all []entry, some []task, by []method) string {
	var tasks, psnr, ssim, runs, first int
	beats, met := map[string]int{}, map[string]int{}
	for _, t := range some {
		own, rivals, higher, closer := mean(all, t, ours), 0, true, true
		for _, m := range by {
			if f := mean(all, t, m.name); m.isRival() && f.n > 0 && f.n == own.n {
				rivals++
				higher, closer = higher && own.psnr > f.psnr, closer && own.ssim > f.ssim
			}
		}
		if rivals > 0 {
			tasks, psnr, ssim = tasks+1, psnr+count(higher), ssim+count(closer)
		}
		for _, photo := range photosOf(all, t) {
			e, rivals := find(all, t, photo, ours), 0
			if e == nil || e.Note != "" {
				continue
			}
			best := true
			for _, m := range by {
				if r := find(all, t, photo, m.name); m.isRival() && r != nil && r.Note == "" {
					rivals, met[m.name], beats[m.name] = rivals+1, met[m.name]+1, beats[m.name]+count(e.PSNR > r.PSNR)
					best = best && e.PSNR > r.PSNR
				}
			}
			if rivals > 0 {
				runs, first = runs+1, first+count(best)
			}
		}
	}
	text := fmt.Sprintf("%s is ahead of all rivals in the mean PSNR of %d of %d tasks and in the mean SSIM of %d, and in the PSNR of %d of %d single pictures", ours, psnr, tasks, ssim, first, runs)
	between := ":"
	for _, m := range by {
		if met[m.name] > 0 {
			text += fmt.Sprintf("%s %s in %d of %d", between, m.name, beats[m.name], met[m.name])
			between = ","
		}
	}
	return text + ".\n"
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func names(by []method) (list []string) {
	for _, m := range by {
		list = append(list, m.name)
	}
	return list
}

func columnsOf(first string, by []method) []string { return append([]string{first}, names(by)...) }
