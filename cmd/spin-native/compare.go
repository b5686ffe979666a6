package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/atomicfile"
	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

type compareFlags struct {
	reconstructFlags
	methods []string
	degrade bool
}

// compareRow is one method on the input.
type compareRow struct {
	Method      string              `json:"method"`
	Output      string              `json:"output,omitempty"`
	Note        string              `json:"note,omitempty"` // why there is no result
	Calls       int                 `json:"calls"`
	Seconds     float64             `json:"seconds"`
	Score       *metrics.Score      `json:"score,omitempty"` // against the truth
	Certificate *solver.Certificate `json:"certificate,omitempty"`
	Timesteps   []int               `json:"timesteps,omitempty"`
}

// compareReport is what --json prints.
type compareReport struct {
	Input    string         `json:"input"`
	Task     string         `json:"task"`
	Width    int            `json:"width"`
	Height   int            `json:"height"`
	Prior    string         `json:"prior"`
	Device   string         `json:"device"`
	Sigma    float64        `json:"sigma"`
	Seed     uint64         `json:"seed"`
	Steps    int            `json:"steps"`              // denoiser calls that each method was given
	Measured *metrics.Score `json:"measured,omitempty"` // the input against the truth
	Methods  []compareRow   `json:"methods"`
	Sheet    string         `json:"sheet"`
	Table    string         `json:"table"`
	CSV      string         `json:"csv"`
	Memory   memoryReport   `json:"memory"`
}

func newCompare() *cobra.Command {
	var f compareFlags
	c := &cobra.Command{
		Use:   "compare --task TASK -o DIR IN",
		Short: "Repair one picture by several methods, with equal denoiser calls",
		Long: `compare runs Spin and its rivals on one input, with the same prior, the same noise seed and the same number of denoiser calls, and
writes into DIR the result of each, sheet.png with all of them side by side, table.md and table.csv. IN is a damaged picture, or a
measurement that degrade --save-measurement wrote; with --degrade a clean picture, which is damaged first and is then the
truth.

Methods: ` + strings.Join(methodNames(), ", ") + `. docs/solvers.md has their formulas, and how each differs from what was
published: above all, dps-approx is not DPS, since nothing here differentiates the network. A method that does not fit the task gets a
line that says why.

` + taskHelp,
		Example: `  spin-native compare --task sr --scale 4 --sigma 0.05 --degrade -o compared photo.png
  spin-native compare --task deblur --kernel k.png --truth sharp.png -o compared shaken.png
  spin-native compare --methods spin,diffpir,floor --steps 100 -o compared y.safetensors --json`,
		Args: exactArgs(1, "one picture"),
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args[0]) },
	}
	f.taskFlags.register(c)
	f.deviceFlags.register(c)
	f.memory.register(c)
	f.prior.register(c)
	c.Flags().StringSliceVar(&f.methods, "methods", methodNames(), "which, with commas between them")
	c.Flags().IntVar(&f.steps, "steps", solver.Standard, "denoiser calls for each method")
	c.Flags().Uint64Var(&f.seed, "seed", 0, "seed of the noise")
	c.Flags().BoolVar(&f.degrade, "degrade", false, "IN is clean: damage it as --task says, with noise --sigma, and compare with it")
	c.Flags().StringVar(&f.truth, "truth", "", "the undamaged picture `FILE`, for PSNR and SSIM")
	c.Flags().StringVarP(&f.output, "output", "o", "", "`DIR` for pictures and tables; made where it does not exist")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object on standard output")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "no progress and no remarks")
	c.Flags().BoolVar(&f.force, "force", false, "replace files that exist")
	return c
}

func (f *compareFlags) run(c *cobra.Command, input string) error {
	var by []*method
	for _, name := range f.methods {
		m, err := findMethod(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		if slices.Contains(by, m) {
			return usagef("--methods names %s twice", m.name)
		}
		by = append(by, m)
	}
	saved := isMeasurement(input)
	switch {
	case f.output == "":
		return usagef("-o is missing: where shall the pictures go? For example -o compared")
	case len(by) == 0:
		return usagef("--methods is empty: expected some of %s", strings.Join(methodNames(), ", "))
	case f.steps < 2 || f.steps > 10000:
		return usagef("--steps %d: expected 2 to 10000", f.steps)
	case f.degrade && (saved || f.truth != ""):
		return usagef("--degrade takes a clean picture, which is its own truth: leave --truth away, and measurements are damaged already")
	case saved && c.Flags().Changed("task"):
		return usagef("%s says the task itself: leave --task away", input)
	}
	if !saved {
		if err := f.check(c); err != nil {
			return err
		}
		if f.blind() {
			return usagef("--kernel auto is for reconstruct: methods are compared with one kernel; give it, for example the one that reconstruct --json finds")
		}
	}
	report := compareReport{Input: input, Prior: f.prior.path, Seed: f.seed, Steps: f.steps, Sheet: filepath.Join(f.output, "sheet.png"),
		Table: filepath.Join(f.output, "table.md"), CSV: filepath.Join(f.output, "table.csv")}
	if err := os.MkdirAll(f.output, 0o755); err != nil {
		return err
	}
	path := func(m *method) string { return filepath.Join(f.output, m.name+".png") }
	for _, m := range by {
		if err := imagefile.CheckWritable(path(m), f.force); err != nil {
			return err
		}
	}
	for _, file := range []string{report.Sheet, report.Table, report.CSV} {
		if err := atomicfile.RefuseExisting(file, f.force); err != nil {
			return err
		}
	}
	d, err := f.open(c)
	if err != nil {
		return err
	}
	defer d.Close()
	m, truth, err := f.input(c, d, input, saved)
	if err != nil {
		return err
	}
	report.Height, report.Width = f.upright(m)
	report.Sigma = m.Sigma
	p, err := f.load(d, 1, m.Image[1], m.Image[2], func(d *tensor.Device, p *prior) error {
		for _, method := range by {
			p.tuning.method = method
			_, err := f.try(c, d, p, m, min(f.steps, rehearsed), nil)
			if err != nil && !errors.Is(err, errUnfit) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	report.Device, report.Memory = d.Name(), p.memory.report()

	var panels []sheet.Panel
	var scoreOf func(*imagefile.Image) (metrics.Score, error)
	results := map[string]*imagefile.Image{}
	for i, method := range by {
		progress, done := watch(c.ErrOrStderr(), f.quiet, fmt.Sprintf("%d/%d %s", i+1, len(by), method.title))
		p.tuning.method = method
		s, err := f.try(c, d, p, m, f.steps, progress)
		done()
		row := compareRow{Method: method.name}
		switch {
		case errors.Is(err, errUnfit):
			row.Note = strings.TrimPrefix(oneLine(err), errUnfit.Error()+": ")
		case err != nil:
			return err
		default:
			s.orient(f.turn)
			if panels == nil { // the first that works tells what the measurement looks like
				scoreOf = scorer(m, s, truth)
				if panels, err = f.measured(&report, m, s, scoreOf); err != nil {
					return err
				}
			}
			r, img := s.result, s.images[0]
			row.Output, row.Calls, row.Seconds, row.Certificate, row.Timesteps = path(method), r.Calls, r.Elapsed.Seconds(), &r.Certificates[0], r.Timesteps
			text := residualText(*row.Certificate)
			if truth != nil {
				v, err := scoreOf(img)
				if err != nil {
					return err
				}
				row.Score, text = &v, v.String()
			}
			panels = append(panels, sheet.Panel{Title: method.title, Caption: fmt.Sprintf("%s\n%d calls, %.1f s", text, row.Calls, row.Seconds), Img: img})
			results[row.Output] = img
		}
		report.Methods = append(report.Methods, row)
	}
	if len(results) == 0 {
		return fmt.Errorf("no method fits: %s", report.Methods[0].Note)
	}
	if truth != nil {
		panels = append(panels, sheet.Panel{Title: "Truth", Img: truth})
	}
	if err := c.Context().Err(); err != nil {
		return err
	}
	for file, img := range results {
		if err := imagefile.Write(file, img, f.force); err != nil {
			return err
		}
	}
	if err := sheet.Write(report.Sheet, panels, sheet.Options{}, f.force); err != nil {
		return err
	}
	if err := report.write(f.force); err != nil {
		return err
	}
	if f.asJSON {
		return writeJSON(c.OutOrStdout(), report)
	}
	if !f.quiet {
		fmt.Fprint(c.OutOrStdout(), report.table())
		fmt.Fprintf(c.OutOrStdout(), "\n%s and %s have it with the pictures\n", report.Sheet, report.Table)
	}
	return nil
}

// input is the measurement, and the truth where there is one.
func (f *compareFlags) input(c *cobra.Command, d *tensor.Device, input string, saved bool) (m *solver.Measurement, truth *imagefile.Image, err error) {
	if f.degrade {
		if truth, err = imagefile.Read(input, imagefile.Limits{}); err != nil {
			return nil, nil, err
		}
		spec, err := f.spec(truth.H, truth.W, c.ErrOrStderr())
		if err != nil {
			return nil, nil, err
		}
		if m, _, err = degradeWith(d, truth, spec, f.noise, f.sigma, f.seed); err == nil {
			m.Convention = f.recorded()
		}
		d.Trim()
		return m, truth, err
	}
	if m, _, err = f.measurement(c, d, input, saved); err == nil && f.auto {
		err = f.estimateNoise(m)
	}
	if err == nil {
		truth, err = f.readTruth(f.upright(m))
	}
	return m, truth, err
}

// errUnfit is matched by the error of a method that is not for this task or prior.
var errUnfit = errors.New("does not fit")

// try runs the prior's method. What a method refuses is not the end of the others.
func (f *compareFlags) try(c *cobra.Command, d *tensor.Device, p *prior, m *solver.Measurement, calls int, progress func(solver.Progress)) (*solution, error) {
	s, err := solve(c.Context(), d, p, m, calls, 1, f.seed, progress)
	var misuse *tensor.Error
	var usage usageError
	if errors.As(err, &misuse) || errors.As(err, &usage) {
		err = fmt.Errorf("%w: %w", errUnfit, err)
	}
	return s, err
}

// measured is the sheet's panel of the input.
func (f *compareFlags) measured(report *compareReport, m *solver.Measurement, s *solution, scoreOf func(*imagefile.Image) (metrics.Score, error)) ([]sheet.Panel, error) {
	report.Task = string(s.task)
	shown := enlarged(s.measured, report.Width)
	panel := sheet.Panel{Title: "Measured", Caption: caption(m), Img: shown}
	if scoreOf != nil && m.Operator.Pictures() && shown.W == report.Width && shown.H == report.Height {
		v, err := scoreOf(shown)
		if err != nil {
			return nil, err
		}
		report.Measured = &v
		panel.Caption += "\n" + v.String()
	}
	return []sheet.Panel{panel}, nil
}

// cells are the rows of the table, the first its head.
func (r compareReport) cells() [][]string {
	scored := slices.ContainsFunc(r.Methods, func(m compareRow) bool { return m.Score != nil })
	head := []string{"method", "calls", "seconds"}
	if scored {
		head = append(head, "PSNR dB", "SSIM")
	}
	rows := [][]string{append(head, "chi-square", "remark")}
	for _, m := range r.Methods {
		row := []string{m.Method, strconv.Itoa(m.Calls), fmt.Sprintf("%.2f", m.Seconds)}
		if m.Note != "" {
			row[1], row[2] = "-", "-"
		}
		switch {
		case scored && m.Score != nil:
			row = append(row, fmt.Sprintf("%.2f", m.Score.PSNR), fmt.Sprintf("%.3f", m.Score.SSIM))
		case scored:
			row = append(row, "-", "-")
		}
		fit, remark := "-", m.Note
		if m.Certificate != nil {
			remark = m.Certificate.Text
			if m.Certificate.Sigma > 0 {
				fit = fmt.Sprintf("%.3f", m.Certificate.ChiSquare)
			}
		}
		rows = append(rows, append(row, fit, remark))
	}
	return rows
}

// table is the table in columns, for a terminal.
func (r compareReport) table() string {
	rows := r.cells()
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row[:len(row)-1] {
			width := 0
			for _, other := range rows {
				width = max(width, len(other[i]))
			}
			fmt.Fprintf(&b, "%-*s  ", width, cell)
		}
		fmt.Fprintln(&b, row[len(row)-1])
	}
	return b.String()
}

// write writes the tables.
func (r compareReport) write(force bool) error {
	rows := r.cells()
	var md, text strings.Builder
	fmt.Fprintf(&md, "%s, %d x %d, prior %s, sigma %v, %d denoiser calls, seed %d\n\n", r.Task, r.Width, r.Height, r.Prior, r.Sigma, r.Steps, r.Seed)
	writeMarkdown(&md, rows[0], rows[1:])
	w := csv.NewWriter(&text)
	if err := w.WriteAll(rows); err != nil {
		return err
	}
	for file, content := range map[string]string{r.Table: md.String(), r.CSV: text.String()} {
		if err := atomicfile.RefuseExisting(file, force); err != nil {
			return err
		}
		err := atomicfile.WriteFile(file, func(w io.Writer) error { _, err := io.WriteString(w, content); return err })
		if err != nil {
			return err
		}
	}
	return nil
}
