// Command claims plots what three settings of Spin do to its results, with the built-in prior: the noise level that it starts
// from (t*), the number of guided steps, and the number of denoiser calls.
//
//	go run ./tools/claims -photos FOLDER -o docs/images -journal claims.jsonl
//
// Every point is the mean over the photos of the PSNR's difference to that of the task's defaults, its bar the standard
// deviation over them. A run that was stopped goes on from its journal; -redraw only draws what that holds.
package main

import (
	"context"
	"flag"
	"fmt"
	"image/color"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/spin-native/spin/internal/study"
	"github.com/spin-native/spin/solver"
)

type task struct {
	name string
	args []string
}

var tasks = []task{
	{"super-resolution x4", []string{"--task", "sr", "--scale", "4", "--sigma", "0.05"}},
	{"motion deblurring", []string{"--task", "deblur", "--kernel", "motion:61:0.5:3", "--sigma", "0.05"}},
	{"inpainting, 70 % missing", []string{"--task", "inpaint", "--mask", "random:0.7:1", "--sigma", "0.05"}},
}

// sweep is one plot: a setting with its values.
type sweep struct {
	file, title, axis string
	log               bool
	values            []int
	ticks             ticks // of the axis; nil: those of counts up to 40
	set               func(p *solver.Parameters, v int)
	at                func(r *solver.Result, v int) float64 // where on the axis a run stands
}

var sweeps = []sweep{
	{
		"claim-tstar", "Quality against the starting noise level", "t*", false, []int{20, 80, 150, 300, 500, 800}, ticks{20, 80, 150, 300, 500, 800},
		func(p *solver.Parameters, v int) { p.TStar = v },
		func(_ *solver.Result, v int) float64 { return float64(v) },
	},
	{
		"claim-guided", "Quality against the number of guided steps (40 denoiser calls)", "guided steps", false, []int{1, 2, 4, 8, 40}, nil,
		func(p *solver.Parameters, v int) { p.K1, p.P, p.Every = 1, p.K1+p.P-1, v },
		func(r *solver.Result, _ int) float64 { return float64(r.Corrections) },
	},
	{
		"claim-calls", "Quality against the number of denoiser calls", "denoiser calls", true, []int{5, 10, 20, 40, 80}, ticks{5, 10, 20, 40, 80},
		func(p *solver.Parameters, v int) { *p = p.Budget(v) },
		func(_ *solver.Result, v int) float64 { return float64(v) },
	},
}

// entry is one run. The defaults have an empty sweep.
type entry struct {
	Sweep, Task, Photo string
	Value              int
	X, PSNR, SSIM      float64
}

func main() {
	photos := flag.String("photos", "", "folder of *_256.png")
	names := flag.String("names", "", "only these photos: astronaut,cat")
	output := flag.String("o", "docs/images", "folder for the plots")
	journal := flag.String("journal", "claims.jsonl", "where finished runs are kept")
	redraw := flag.Bool("redraw", false, "draw what the journal holds, and run nothing")
	threads := flag.Int("threads", 0, "processor threads; 0: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	j, err := study.OpenJournal[entry](*journal)
	if err == nil && !*redraw {
		err = run(ctx, j, *photos, *names, *threads)
	}
	if err == nil {
		err = draw(j.Entries, *output)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "claims:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, j *study.Journal[entry], folder, names string, threads int) error {
	photos, err := study.Photos(folder, names)
	if err != nil {
		return err
	}
	lab, err := study.Open("photo", threads)
	if err != nil {
		return err
	}
	defer lab.Close()
	for _, p := range photos {
		for _, t := range tasks {
			m, err := lab.Measure(p, 1, t.args)
			if err != nil {
				return err
			}
			one := func(name string, v int, set func(*solver.Parameters, int), at func(*solver.Result, int) float64) error {
				e := entry{Sweep: name, Task: t.name, Photo: p.Name, Value: v}
				if slices.ContainsFunc(j.Entries, func(o entry) bool { return o.Sweep == name && o.Task == t.name && o.Photo == p.Name && o.Value == v }) {
					return nil
				}
				o, err := lab.Solve(ctx, m, p, func(ctx context.Context, p solver.Problem, prior study.Prior) (*solver.Result, error) {
					s := solver.Defaults(p.Operator.(solver.Tasker).Task(), p.Sigma, prior.Schedule())
					set(&s.Parameters, v)
					r, err := solver.Spin(ctx, p, prior, s)
					if err == nil {
						e.X = at(r, v)
					}
					return r, err
				})
				if err != nil {
					return err
				}
				e.PSNR, e.SSIM = o.PSNR, o.SSIM
				fmt.Fprintf(os.Stderr, "%s, %s, %s %d: %.2f dB, %.1f s\n", p.Name, t.name, name, v, e.PSNR, o.Seconds)
				return j.Add(e)
			}
			if err := one("", 0, func(*solver.Parameters, int) {}, func(*solver.Result, int) float64 { return 0 }); err != nil {
				return err
			}
			for _, s := range sweeps {
				for _, v := range s.values {
					if err := one(s.file, v, s.set, s.at); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// point is the mean and the standard deviation over the photos.
type point struct{ x, mean, sd float64 }

// curve is the points of one task in one sweep, relative to the defaults of the same photo.
func curve(all []entry, s sweep, t task) (points []point, photos int) {
	base := map[string]float64{}
	for _, e := range all {
		if e.Sweep == "" && e.Task == t.name {
			base[e.Photo] = e.PSNR
		}
	}
	for _, v := range s.values {
		var x, sum, squares, n float64
		for _, e := range all {
			if b, ok := base[e.Photo]; ok && e.Sweep == s.file && e.Task == t.name && e.Value == v {
				d := e.PSNR - b
				x, sum, squares, n = x+e.X, sum+d, squares+d*d, n+1
			}
		}
		if n > 0 {
			points = append(points, point{x / n, sum / n, math.Sqrt(max(0, squares/n-sum/n*sum/n))})
			photos = max(photos, int(n))
		}
	}
	slices.SortFunc(points, func(a, b point) int { return int(math.Copysign(1, a.x-b.x)) })
	return points, photos
}

func draw(all []entry, folder string) error {
	for _, s := range sweeps {
		p := plot.New()
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = s.title, s.axis, "PSNR relative to the defaults, dB"
		p.Title.TextStyle.Font.Size, p.Title.Padding = 13, 8
		p.X.Padding, p.Y.Padding = 6, 6
		p.Legend.Top, p.Legend.Padding, p.Legend.YOffs = false, 3, 12
		p.Legend.XOffs = -8
		p.Y.Tick.Marker = steps{}
		if p.X.Tick.Marker = (ticks{0, 10, 20, 30, 40}); s.ticks != nil {
			p.X.Tick.Marker = s.ticks
		}
		if s.log {
			p.X.Scale = plot.LogScale{}
		}
		grid := plotter.NewGrid()
		grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
		p.Add(grid)
		photos := 0
		fmt.Printf("%s, mean (standard deviation) in dB:\n", s.title)
		for i, t := range tasks {
			points, n := curve(all, s, t)
			if len(points) == 0 {
				continue
			}
			photos = max(photos, n)
			var c bars
			var text []string
			for _, q := range points {
				c.XYs = append(c.XYs, plotter.XY{X: q.x, Y: q.mean})
				c.YErrors = append(c.YErrors, struct{ Low, High float64 }{q.sd, q.sd})
				text = append(text, fmt.Sprintf("%g: %+.2f (%.2f)", q.x, q.mean, q.sd))
			}
			fmt.Printf("  %-26s %s\n", t.name, strings.Join(text, "  "))
			line, dots, err := plotter.NewLinePoints(c.XYs)
			if err != nil {
				return err
			}
			whiskers, err := plotter.NewYErrorBars(c)
			if err != nil {
				return err
			}
			line.Color, line.Width = plotutil.Color(i), 1.5
			dots.Color, dots.Shape, dots.Radius = plotutil.Color(i), plotutil.Shape(i), 3
			whiskers.Color = plotutil.Color(i)
			p.Add(line, dots, whiskers)
			p.Legend.Add(t.name, line, dots)
		}
		if photos == 0 {
			return fmt.Errorf("the journal holds no runs of %s", s.file)
		}
		p.X.Max += (p.X.Max - p.X.Min) / 50 // the whiskers of the last points
		p.Title.Text += fmt.Sprintf(", %d photos", photos)
		if err := p.Save(16*vg.Centimeter, 10*vg.Centimeter, filepath.Join(folder, s.file+".png")); err != nil {
			return err
		}
	}
	return nil
}

// bars are points with whiskers.
type bars struct {
	plotter.XYs
	plotter.YErrors
}

// ticks of an axis, all of them labelled.
type ticks []int

func (t ticks) Ticks(_, _ float64) (list []plot.Tick) {
	for _, n := range t {
		list = append(list, plot.Tick{Value: float64(n), Label: fmt.Sprint(n)})
	}
	return list
}

// steps are ticks every 0.5 dB, or every 1 dB on a longer axis.
type steps struct{}

func (steps) Ticks(low, high float64) (list []plot.Tick) {
	step := 0.5
	if high-low > 4 {
		step = 1
	}
	for v := math.Ceil(low/step) * step; v <= high; v += step {
		list = append(list, plot.Tick{Value: v, Label: fmt.Sprintf("%+.1f", v)})
	}
	return list
}
