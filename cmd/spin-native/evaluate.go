package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/lpips"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

type evaluateFlags struct {
	deviceFlags
	truth, manifest, measurements, inputs string
	lpips, grid, format                   string
	asJSON, quiet, force                  bool
}

func newEvaluate() *cobra.Command {
	var f evaluateFlags
	c := &cobra.Command{
		Use:   "evaluate --truth TRUTH RESULTS...",
		Short: "Compare results with the truth: PSNR, SSIM, LPIPS, residual",
		Long: `evaluate makes a table of how close results are to the truth, picture by picture with mean and standard deviation.

RESULTS are folders, one for each method, or single pictures; TRUTH is a folder with a picture for each of them, paired by
name without extension. --manifest names a list instead, CSV with a header or a JSON array of objects, with the fields
result, truth and, where they are there, measurement, input, method and name. Paths are relative to the manifest.

  PSNR       10 log10(1/mse) in dB over pixels and channels, on the scale 0..1
  SSIM       Gaussian window 11x11, deviation 1.5, population covariance (Wang et al. 2004)
  SSIM7      uniform window 7x7, sample covariance, the default of scikit-image
  LPIPS      version 0.1, with weights of your own (--lpips; convert --family lpips makes them)
  residual   |A(x)-y|^2 / (count sigma^2), about 1 where the result explains its measurement; the mean square where sigma is 0

docs/metrics.md has the definitions.`,
		Example: `  spin-native evaluate --truth photos results
  spin-native evaluate --truth photos --inputs damaged ddnm spin --grid figure.png --format markdown
  spin-native evaluate --truth photos --measurements y results --lpips lpips.safetensors --json
  spin-native evaluate --manifest list.csv --format csv > table.csv`,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
	}
	f.register(c)
	c.Flags().StringVar(&f.truth, "truth", "", "`FOLDER` of undamaged pictures, or one picture")
	c.Flags().StringVar(&f.manifest, "manifest", "", "`FILE`.csv or .json that lists results and truths")
	c.Flags().StringVar(&f.measurements, "measurements", "", "`FOLDER` of measurement files (degrade --save-measurement), for the residual")
	c.Flags().StringVar(&f.inputs, "inputs", "", "`FOLDER` of the damaged pictures, for --grid")
	c.Flags().StringVar(&f.lpips, "lpips", "", "`FILE` of LPIPS weights that convert made")
	c.Flags().StringVar(&f.grid, "grid", "", "also write a picture `FILE` with a row for each subject: input, methods, truth")
	c.Flags().StringVar(&f.format, "format", "text", "of the table: text, markdown, csv or json")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object on standard output, as --format json")
	c.Flags().BoolVar(&f.force, "force", false, "replace output files that exist")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "no remarks")
	return c
}

// evaluation is one result with what it is compared with.
type evaluation struct {
	Name        string   `json:"name"`
	Method      string   `json:"method"`
	Result      string   `json:"result"`
	Truth       string   `json:"truth"`
	Measurement string   `json:"measurement,omitempty"`
	Input       string   `json:"input,omitempty"`
	Figures     *figures `json:"figures,omitempty"`
}

// figures of one result, or their means. Absent ones were not asked for.
type figures struct {
	PSNR     float64  `json:"psnr"` // 999 where the pictures are equal
	SSIM     float64  `json:"ssim"`
	SSIM7    float64  `json:"ssim_uniform7"`
	LPIPS    *float64 `json:"lpips,omitempty"`
	Residual *float64 `json:"residual,omitempty"`
}

// methodSummary is the mean and standard deviation of one method over its pictures.
type methodSummary struct {
	Method    string  `json:"method"`
	Count     int     `json:"count"`
	Mean      figures `json:"mean"`
	Deviation figures `json:"deviation"` // of the population
}

// evaluateReport is what --json prints.
type evaluateReport struct {
	Definitions map[string]string `json:"definitions"`
	Results     []*evaluation     `json:"results"`
	Methods     []methodSummary   `json:"methods"`
	Notes       []string          `json:"notes,omitempty"`
}

func (f *evaluateFlags) run(c *cobra.Command, args []string) error {
	if f.asJSON {
		f.format = "json"
	}
	if !slices.Contains([]string{"text", "markdown", "csv", "json"}, f.format) {
		return usagef("--format %s: expected text, markdown, csv or json", f.format)
	}
	switch {
	case f.manifest != "" && (f.truth != "" || f.measurements != "" || f.inputs != "" || len(args) > 0):
		return usagef("--manifest says everything: leave --truth, --measurements, --inputs and the results away")
	case f.manifest == "" && (f.truth == "" || len(args) == 0):
		return usagef("what shall be compared? For example spin-native evaluate --truth photos results, or --manifest list.csv")
	}
	if f.grid != "" {
		if err := imagefile.CheckWritable(f.grid, f.force); err != nil {
			return err
		}
	}
	list, notes, err := f.pairs(args)
	if err != nil {
		return err
	}
	d, err := f.open(c)
	if err != nil {
		return err
	}
	defer d.Close()
	report := evaluateReport{Results: list, Notes: notes, Definitions: map[string]string{
		"psnr": "dB, data range 1, mean over pixels and channels", "ssim": "gaussian 11x11 sigma 1.5, population covariance",
		"ssim_uniform7": "uniform 7x7, sample covariance", "residual": "|A(x)-y|^2/(count sigma^2), mean square where sigma is 0",
	}}
	var net *lpips.Net
	if f.lpips != "" {
		if net, err = loadLPIPS(d, f.lpips); err != nil {
			return err
		}
		report.Definitions["lpips"] = "version 0.1, " + net.Name
	}
	e := evaluator{d: d, net: net, seen: map[string]map[string]string{}}
	for _, item := range list {
		if err := c.Context().Err(); err != nil {
			return err
		}
		if err := e.evaluate(item); err != nil {
			return err
		}
	}
	report.Notes = append(report.Notes, e.mixed()...)
	report.Methods = summaries(list)
	if f.grid != "" {
		if err := writeGrid(f.grid, list, f.force); err != nil {
			return err
		}
	}
	if !f.quiet {
		for _, n := range report.Notes {
			fmt.Fprintln(c.ErrOrStderr(), "spin-native: note: "+n)
		}
	}
	return report.print(c.OutOrStdout(), f.format)
}

func loadLPIPS(d *tensor.Device, path string) (*lpips.Net, error) {
	w, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return lpips.Load(d, w)
}

// evaluator compares, and remembers what differs between the pictures though it should not.
type evaluator struct {
	d    *tensor.Device
	net  *lpips.Net
	seen map[string]map[string]string // of each property its values, with the first file that has it
}

func (e *evaluator) note(property, value, path string) {
	if e.seen[property] == nil {
		e.seen[property] = map[string]string{}
	}
	if _, ok := e.seen[property][value]; !ok {
		e.seen[property][value] = path
	}
}

// mixed says where the figures of different pictures do not mean the same.
func (e *evaluator) mixed() (notes []string) {
	for _, property := range []string{"bits per channel", "colour profile", "convention", "noise level", "operator", "what the residual is"} {
		values := e.seen[property]
		if len(values) < 2 {
			continue
		}
		var list []string
		for _, v := range sortedKeys(values) {
			list = append(list, fmt.Sprintf("%s (%s)", v, values[v]))
		}
		notes = append(notes, fmt.Sprintf("%s differs, so a mean mixes different things: %s", property, strings.Join(list[:min(len(list), 4)], ", ")))
	}
	return notes
}

func (e *evaluator) evaluate(item *evaluation) error {
	read := func(path string) (*imagefile.Image, error) {
		m, err := imagefile.Read(path, imagefile.Limits{})
		if err != nil {
			return nil, err
		}
		e.note("bits per channel", strconv.Itoa(max(m.Depth, 8)), path)
		if name := m.ProfileName(); name != "" && !strings.Contains(name, "sRGB") {
			e.note("colour profile", name, path)
		} else {
			e.note("colour profile", "sRGB", path)
		}
		return m, nil
	}
	result, err := read(item.Result)
	if err != nil {
		return err
	}
	truth, err := read(item.Truth)
	if err != nil {
		return err
	}
	if result.W != truth.W || result.H != truth.H {
		return fmt.Errorf("%s is %d x %d pixels, its truth %s is %d x %d: they must be of the same size", item.Result, result.W, result.H, item.Truth, truth.W, truth.H)
	}
	s, err := metrics.ScoreOf(result, truth)
	if err != nil {
		return fmt.Errorf("%s: %w", item.Result, err)
	}
	item.Figures = &figures{PSNR: s.PSNR, SSIM: s.SSIM}
	if item.Figures.SSIM7, err = metrics.Uniform.SSIM(result.Pix, truth.Pix, truth.W, truth.H, 3); err != nil {
		return fmt.Errorf("%s: %w", item.Result, err)
	}
	if e.net != nil {
		v, _, err := e.net.Distance(result.Pix, truth.Pix, truth.H, truth.W)
		if err != nil {
			return fmt.Errorf("%s: %w", item.Result, err)
		}
		item.Figures.LPIPS = &v
	}
	if item.Measurement != "" {
		v, err := e.residual(item, result)
		if err != nil {
			return fmt.Errorf("%s: %w", item.Measurement, err)
		}
		item.Figures.Residual = &v
	}
	return nil
}

func (e *evaluator) residual(item *evaluation, result *imagefile.Image) (v float64, err error) {
	defer tensor.Catch(&err)
	defer e.d.Tidy()()
	m, err := solver.LoadMeasurement(item.Measurement)
	if err != nil {
		return 0, err
	}
	if m.Image != [3]int{3, result.H, result.W} || m.Shape[0] != 1 {
		return 0, fmt.Errorf("it is of %d pictures with %d channels of %d x %d, the result has 3 of %d x %d", m.Shape[0], m.Image[0], m.Image[2], m.Image[1], result.W, result.H)
	}
	e.note("convention", m.Convention, item.Measurement)
	e.note("noise level", strconv.FormatFloat(m.Sigma, 'g', -1, 64), item.Measurement)
	e.note("operator", m.Operator.String(), item.Measurement)
	p, err := m.Problem(e.d)
	if err != nil {
		return 0, err
	}
	defer solver.Release(p.Operator)
	c, err := solver.Certify(p, e.d.From(result.Pix, 1, result.H, result.W, 3))
	if err != nil {
		return 0, err
	}
	if c[0].Sigma == 0 {
		e.note("what the residual is", "mean square", item.Measurement)
		return c[0].RMS * c[0].RMS, nil
	}
	e.note("what the residual is", "relative to the noise", item.Measurement)
	return c[0].ChiSquare, nil
}

// columns of the table, with what each of them is worth of a row; NaN where it is not there.
var evaluateColumns = []struct {
	name, unit string
	digits     int
	of         func(f *figures) float64
	set        func(f *figures, v float64)
}{
	{"PSNR", "dB", 2, func(f *figures) float64 { return f.PSNR }, func(f *figures, v float64) { f.PSNR = v }},
	{"SSIM", "", 4, func(f *figures) float64 { return f.SSIM }, func(f *figures, v float64) { f.SSIM = v }},
	{"SSIM7", "", 4, func(f *figures) float64 { return f.SSIM7 }, func(f *figures, v float64) { f.SSIM7 = v }},
	{"LPIPS", "", 4, func(f *figures) float64 { return orNaN(f.LPIPS) }, func(f *figures, v float64) { f.LPIPS = &v }},
	{"residual", "", 3, func(f *figures) float64 { return orNaN(f.Residual) }, func(f *figures, v float64) { f.Residual = &v }},
}

func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

// summaries are the means of every method, over the pictures that have the figure.
func summaries(list []*evaluation) (out []methodSummary) {
	for _, method := range methodsOf(list) {
		s := methodSummary{Method: method}
		for _, e := range list {
			if e.Method == method {
				s.Count++
			}
		}
		for _, c := range evaluateColumns {
			var sum, squares, n float64
			for _, e := range list {
				if v := c.of(e.Figures); e.Method == method && !math.IsNaN(v) {
					sum, squares, n = sum+v, squares+v*v, n+1
				}
			}
			if n > 0 {
				mean := sum / n
				c.set(&s.Mean, mean)
				c.set(&s.Deviation, math.Sqrt(max(0, squares/n-mean*mean)))
			}
		}
		out = append(out, s)
	}
	return out
}

// methodsOf is the methods in the order of their first result.
func methodsOf(list []*evaluation) (methods []string) {
	for _, e := range list {
		if !slices.Contains(methods, e.Method) {
			methods = append(methods, e.Method)
		}
	}
	return methods
}

// table is the head and the rows; kinds tells means (1) and deviations (2) from pictures (0).
func (r evaluateReport) table() (head []string, rows [][]string, kinds []int) {
	shown := evaluateColumns[:0:0]
	for _, c := range evaluateColumns {
		if slices.ContainsFunc(r.Results, func(e *evaluation) bool { return !math.IsNaN(c.of(e.Figures)) }) {
			shown = append(shown, c)
		}
	}
	head = []string{"method", "picture"}
	for _, c := range shown {
		head = append(head, c.name)
	}
	row := func(kind int, method, name string, f *figures) {
		cells := []string{method, name}
		for _, c := range shown {
			text := "-"
			if v := c.of(f); !math.IsNaN(v) {
				text = strconv.FormatFloat(v, 'f', c.digits, 64)
			}
			cells = append(cells, text)
		}
		rows, kinds = append(rows, cells), append(kinds, kind)
	}
	for _, m := range r.Methods {
		for _, e := range r.Results {
			if e.Method == m.Method {
				row(0, e.Method, e.Name, e.Figures)
			}
		}
		if m.Count > 1 {
			row(1, m.Method, "mean", &m.Mean)
			row(2, m.Method, "deviation", &m.Deviation)
		}
	}
	return head, rows, kinds
}

func (r evaluateReport) print(w io.Writer, format string) error {
	head, rows, kinds := r.table()
	switch format {
	case "json":
		return writeJSON(w, r)
	case "csv":
		out := csv.NewWriter(w)
		out.Write(head)
		out.WriteAll(rows)
		return out.Error()
	case "markdown":
		for i, cells := range rows {
			for j, c := range cells {
				if kinds[i] == 1 {
					cells[j] = "**" + c + "**"
				}
			}
		}
		writeMarkdown(w, head, rows)
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range append([][]string{head}, rows...) {
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// writeMarkdown writes a table.
func writeMarkdown(w io.Writer, head []string, rows [][]string) {
	fmt.Fprintf(w, "| %s |\n%s|\n", strings.Join(head, " | "), strings.Repeat("|---", len(head)))
	for _, cells := range rows {
		var escaped []string
		for _, c := range cells {
			escaped = append(escaped, strings.ReplaceAll(c, "|", `\|`))
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(escaped, " | "))
	}
}

// writeGrid draws a row for every subject: its input where there is one, every method, the truth.
func writeGrid(path string, list []*evaluation, force bool) error {
	methods := methodsOf(list)
	inputs := slices.ContainsFunc(list, func(e *evaluation) bool { return e.Input != "" })
	var columns []string
	if inputs {
		columns = append(columns, "Input")
	}
	columns = append(append(columns, methods...), "Truth")
	var rows []sheet.Row
	at := map[string]int{}
	for _, e := range list {
		i, ok := at[e.Name]
		if !ok {
			i = len(rows)
			at[e.Name] = i
			rows = append(rows, sheet.Row{Label: e.Name, Cells: make([]sheet.Panel, len(columns))})
			truth, err := imagefile.Read(e.Truth, imagefile.Limits{})
			if err != nil {
				return err
			}
			rows[i].Cells[len(columns)-1].Img = truth
		}
		if inputs && e.Input != "" && rows[i].Cells[0].Img == nil {
			input, err := imagefile.Read(e.Input, imagefile.Limits{})
			if err != nil {
				return err
			}
			rows[i].Cells[0].Img = input
		}
		result, err := imagefile.Read(e.Result, imagefile.Limits{})
		if err != nil {
			return err
		}
		column := slices.Index(methods, e.Method)
		if inputs {
			column++
		}
		caption := fmt.Sprintf("%.2f dB / %.3f", e.Figures.PSNR, e.Figures.SSIM)
		if e.Figures.LPIPS != nil {
			caption += fmt.Sprintf(" / %.3f", *e.Figures.LPIPS)
		}
		rows[i].Cells[column] = sheet.Panel{Img: result, Caption: caption}
	}
	return sheet.WriteGrid(path, columns, rows, sheet.Options{}, force)
}
