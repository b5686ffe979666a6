package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/atomicfile"
	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

type reconstructFlags struct {
	taskFlags
	solveFlags
	output, compare, truth string
	samples                int
	asJSON, force          bool
	saveKernel             string
	blur                   *kernelReport         // of --kernel auto
	turn                   int                   // EXIF orientation that results still have to be turned by
	estimate               *solver.NoiseEstimate // of --sigma auto
}

func newReconstruct() *cobra.Command {
	var f reconstructFlags
	c := &cobra.Command{
		Use:   "reconstruct --task TASK -o OUT IN",
		Short: "Repair a damaged picture",
		Long: `reconstruct repairs a damaged picture: IN is the picture as it is (PNG, JPEG, WebP, TIFF or BMP), OUT the result (PNG, JPEG
or TIFF). IN can also be a measurement that degrade --save-measurement wrote; it says the task itself.

` + taskHelp + `

The noise of the picture, --sigma, is taken to be 0 for inpaint and 0.01 for sr and deblur unless you say otherwise. Too
little lets noise and ringing through; too much smooths. --sigma auto measures it in the smooth places of the picture.

--kernel auto finds the blur, if it is like a Gaussian, a disc or a straight line, and says with how much confidence. Where the
picture is sharp it is denoised only, and where no such blur fits nothing is written. The noise is measured unless --sigma is given.`,
		Example: `  spin-native reconstruct --task inpaint --mask scratches.png -o whole.png scratched.png
  spin-native reconstruct --task sr --scale 4 -o big.png small.png --compare sheet.png
  spin-native reconstruct --task deblur --kernel motion:61:0.5:7 --sigma 0.02 -o sharp.png shaken.jpg
  spin-native reconstruct --task deblur --kernel auto --report report.html -o sharp.png blurred.jpg
  spin-native reconstruct --task denoise --sigma 0.2 -o clean.png noisy.png
  spin-native reconstruct --task jpeg -o smooth.png compressed.jpg
  spin-native reconstruct --task "deblur | sr | jpeg" --kernel gaussian:9:2 --scale 2 -o big.png old.jpg
  spin-native reconstruct --task denoise --sigma auto -o clean.png noisy.png
  spin-native reconstruct --task sr --scale 4 --deadline 10s -o big.png small.png
  spin-native reconstruct --task sr --scale 4 --set tstar=250,lam=0.4,inner=fgd:10 --transition dpmpp -o big.png small.png
  spin-native reconstruct --task sr --scale 4 --method diffpir -o big.png small.png
  spin-native reconstruct -o out.png y.safetensors --truth original.png --json
  spin-native reconstruct --task inpaint --mask hole.png --samples 4 --report report.html -o whole.png torn.png`,
		Args: exactArgs(1, "one picture"),
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args[0]) },
	}
	f.taskFlags.register(c)
	f.solveFlags.register(c)
	f.corrections.register(c)
	f.tuningFlags.register(c)
	f.trust.register(c)
	c.Flags().StringVarP(&f.output, "output", "o", "", "where to write the result")
	c.Flags().IntVar(&f.samples, "samples", 1, "number of different results; written as OUT-1, OUT-2, ..., with their mean, OUT.mean, and how far they differ, OUT.std")
	c.Flags().StringVar(&f.compare, "compare", "", "also write a labelled picture of input and result side by side to `SHEET`")
	c.Flags().StringVar(&f.truth, "truth", "", "the undamaged picture `FILE`, to print PSNR and SSIM")
	c.Flags().StringVar(&f.saveKernel, "save-kernel", "", "write the kernel that --kernel auto finds as a picture, which --kernel reads, to `FILE`")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print one JSON object on standard output")
	c.Flags().BoolVar(&f.force, "force", false, "replace output files that exist")
	return c
}

// reconstructReport is what --json prints.
type reconstructReport struct {
	Input          string                `json:"input"`
	Outputs        []string              `json:"outputs"`
	Width          int                   `json:"width"`
	Height         int                   `json:"height"`
	Task           string                `json:"task"`
	Prior          string                `json:"prior"`
	Device         string                `json:"device"`
	Sigma          float64               `json:"sigma"`           // on the scale -1..1, whatever the convention
	Noise          *noiseReport          `json:"noise,omitempty"` // of --noise
	Convention     string                `json:"convention"`
	NoiseEstimate  *solver.NoiseEstimate `json:"noise_estimate,omitempty"`  // of --sigma auto
	Kernel         *kernelReport         `json:"kernel_estimate,omitempty"` // of --kernel auto
	Seed           uint64                `json:"seed"`
	Method         string                `json:"method"`
	Transition     solver.Transition     `json:"transition,omitempty"` // of Spin
	Deadline       bool                  `json:"deadline"`             // it made the run take fewer steps
	Calls          int                   `json:"calls"`
	Timesteps      []int                 `json:"timesteps"` // of the calls
	Corrections    int                   `json:"corrections"`
	OperatorCalls  int                   `json:"operator_calls"`
	Seconds        float64               `json:"seconds"`
	DenoiseSeconds float64               `json:"denoise_seconds"`
	CorrectSeconds float64               `json:"correct_seconds"`
	FirstStage     *firstStageReport     `json:"first_stage,omitempty"` // of a latent prior
	Memory         memoryReport          `json:"memory"`
	Residual       []float64             `json:"residual"`
	Certificates   []solver.Certificate  `json:"certificates"` // how well every output explains the input
	Invented       *inventedReport       `json:"invented,omitempty"`
	Spread         *spreadReport         `json:"samples,omitempty"`     // where there are several
	Settings       *solver.Parameters    `json:"settings,omitempty"`    // of Spin
	Attempts       [][]float64           `json:"attempts,omitempty"`    // residuals of every output's runs, where there were restarts
	Measured       *metrics.Score        `json:"measured,omitempty"`    // the input against the truth
	FirstGuess     *metrics.Score        `json:"first_guess,omitempty"` // the operator's own, without the prior
	Result         []metrics.Score       `json:"result,omitempty"`      // the outputs against the truth
}

// noiseReport is what --noise said.
type noiseReport struct {
	Kind  string  `json:"kind"`
	Level float64 `json:"level"`
}

func noiseOf(m *solver.Measurement) *noiseReport {
	if m.Noise.Kind == "" {
		return nil
	}
	return &noiseReport{m.Noise.Kind, m.Noise.Level}
}

// firstStageReport is what encoding and decoding took, and their shares of the whole.
type firstStageReport struct {
	Encodes       int     `json:"encodes"`
	Decodes       int     `json:"decodes"`
	EncodeSeconds float64 `json:"encode_seconds"`
	DecodeSeconds float64 `json:"decode_seconds"`
	EncodeShare   float64 `json:"encode_share"`
	DecodeShare   float64 `json:"decode_share"`
}

func firstStageOf(r *solver.Result) *firstStageReport {
	if r.Encodes == 0 {
		return nil // the first guess of every latent run is encoded
	}
	return &firstStageReport{
		Encodes: r.Encodes, Decodes: r.Decodes, EncodeSeconds: r.Encoding.Seconds(), DecodeSeconds: r.Decoding.Seconds(),
		EncodeShare: r.Encoding.Seconds() / r.Elapsed.Seconds(), DecodeShare: r.Decoding.Seconds() / r.Elapsed.Seconds(),
	}
}

func (f *reconstructFlags) run(c *cobra.Command, input string) error {
	if f.output == "" {
		return usagef("-o is missing: where shall the result go? For example -o out.png")
	}
	if f.samples < 1 || f.samples > 64 {
		return usagef("--samples %d: expected 1 to 64", f.samples)
	}
	calls, err := f.calls(c)
	if err == nil {
		err = f.corrections.check(c)
	}
	if err == nil {
		err = f.tuningFlags.check(c)
	}
	if err != nil {
		return err
	}
	measured := isMeasurement(input)
	if !measured {
		if err := f.check(c); err != nil {
			return err
		}
		if err := f.checkBlind(); err != nil {
			return err
		}
	} else if own := slices.DeleteFunc(append(ownFlags(), "task"), func(flag string) bool { return !c.Flags().Changed(flag) }); len(own) > 0 {
		return usagef("%s says the task itself: leave --%s away", input, strings.Join(own, " and --"))
	}
	outputs := f.outputs()
	mean, std := f.spreadFiles()
	for _, o := range append(outputs[:len(outputs):len(outputs)], f.compare, f.trust.invented, mean, std) {
		if o != "" {
			if err := imagefile.CheckWritable(o, f.force); err != nil {
				return err
			}
		}
	}
	if f.trust.report != "" {
		if err := atomicfile.RefuseExisting(f.trust.report, f.force); err != nil {
			return err
		}
	}
	d, err := f.open(c)
	if err != nil {
		return err
	}
	defer func() { d.Close() }()

	m, pic, err := f.measurement(c, d, input, measured)
	if err == nil && f.auto {
		err = f.estimateNoise(m)
	}
	if err == nil && f.blind() {
		err = f.estimateBlur(c, d, m, input)
	}
	if err != nil {
		return err
	}
	h, w := f.upright(m)
	truth, err := f.readTruth(h, w)
	if err != nil {
		return err
	}
	var p *prior
	var s *solution
	for n := f.samples; ; n = (n + 1) / 2 {
		p, s, err = f.reconstruct(c, d, m, calls, n)
		if n == 1 || !f.own() || !errors.Is(err, kernels.ErrOutOfMemory) {
			break
		}
		if !f.quiet {
			fmt.Fprintf(c.ErrOrStderr(), "spin-native: note: %d samples at a time do not fit, %d are tried: %v\n", n, (n+1)/2, err)
		}
		fresh, err := f.open(c) // all that was loaded goes with the other one
		if err != nil {
			return err
		}
		d.Close()
		d = fresh
	}
	if err != nil {
		return err
	}

	if err := f.checkBlur(c, input, s.result.Certificates); err != nil {
		return err
	}
	s.orient(f.turn)
	scoreOf := scorer(m, s, truth)
	report := reconstructReport{
		Input: input, Outputs: outputs, Width: w, Height: h, Task: string(s.task), Prior: f.prior.path, Device: d.Name(), Sigma: m.Sigma, Noise: noiseOf(m), Convention: cmp.Or(m.Convention, "spin"), NoiseEstimate: f.estimate, Kernel: f.blur, Seed: f.seed,
		Method: f.method, Deadline: s.result.Short, Timesteps: s.result.Timesteps,
		Calls: s.result.Calls, Corrections: s.result.Corrections, OperatorCalls: s.result.OperatorCalls,
		Seconds: s.result.Elapsed.Seconds(), DenoiseSeconds: s.result.Denoising.Seconds(), CorrectSeconds: s.result.Correcting.Seconds(),
		FirstStage: firstStageOf(s.result), Memory: p.memory.report(), Residual: s.result.Residual, Certificates: s.result.Certificates, Attempts: s.result.Attempts,
	}
	if f.tuning.by() == methods[0] {
		report.Transition, report.Settings = f.tuning.transition, &s.result.Parameters
	}
	shown := enlarged(s.measured, w)
	panels := []sheet.Panel{{Title: "Measured", Caption: caption(m), Img: shown}}
	if truth != nil {
		if shown.W == w && shown.H == h && m.Operator.Pictures() {
			v, err := scoreOf(shown)
			if err != nil {
				return err
			}
			report.Measured = &v
			panels[0].Caption += "\n" + v.String()
		}
	}
	if truth != nil && s.guess != nil {
		v, err := scoreOf(s.guess)
		if err != nil {
			return err
		}
		report.FirstGuess = &v
	}
	for i, img := range s.images {
		img.Gray, img.Depth, img.ICC, img.Alpha = pic.Gray || img.Gray, pic.Depth, pic.ICC, alphaFor(pic, h, w)
		title, caption := "Reconstructed", residualText(s.result.Certificates[i])
		if len(s.images) > 1 {
			title = fmt.Sprintf("Sample %d", i+1)
		}
		if truth != nil {
			v, err := scoreOf(img)
			if err != nil {
				return err
			}
			report.Result = append(report.Result, v)
			caption = v.String()
		}
		panels = append(panels, sheet.Panel{Title: title, Caption: caption, Img: img})
	}
	extra, err := f.trustPictures(s, &report, scoreOf)
	if err != nil {
		return err
	}
	for _, e := range extra {
		panels = append(panels, e.Panel)
	}
	if f.blur != nil {
		k, err := f.kernelPanel()
		if err != nil {
			return err
		}
		extra, panels = append(extra, k), append(panels, k.Panel)
	}
	if truth != nil {
		panels = append(panels, sheet.Panel{Title: "Truth", Img: truth})
	}
	if err := c.Context().Err(); err != nil {
		return err
	}
	for i, img := range s.images {
		if err := imagefile.Write(outputs[i], img, f.force); err != nil {
			return err
		}
	}
	for _, e := range extra {
		if e.file != "" {
			if err := imagefile.Write(e.file, e.Img, f.force); err != nil {
				return err
			}
		}
	}
	if f.trust.report != "" {
		if err := writeReport(f.trust.report, report, panels, s.images[0], truth); err != nil {
			return err
		}
	}
	if f.compare != "" {
		if err := sheet.Write(f.compare, panels, sheet.Options{}, f.force); err != nil {
			return err
		}
	}
	if f.asJSON {
		return writeJSON(c.OutOrStdout(), report)
	}
	if !f.quiet {
		report.print(c.OutOrStdout(), m, p.memory)
	}
	return nil
}

// upright is the height and width of results, which lie as the file's orientation has its picture shown.
func (f *reconstructFlags) upright(m *solver.Measurement) (h, w int) {
	if h, w = m.Image[1], m.Image[2]; f.turn >= 5 {
		h, w = w, h
	}
	return h, w
}

// readTruth is the picture of --truth for results of h x w pixels, nil where there is none.
func (f *reconstructFlags) readTruth(h, w int) (*imagefile.Image, error) {
	if f.truth == "" {
		return nil, nil
	}
	truth, err := imagefile.Read(f.truth, imagefile.Limits{})
	if err != nil {
		return nil, fmt.Errorf("truth: %w", err)
	}
	if truth.W != w || truth.H != h {
		return nil, fmt.Errorf("truth %s is %d x %d pixels, the result will be %d x %d: they must be of the same size", f.truth, truth.W, truth.H, w, h)
	}
	return truth, nil
}

// scorer compares pictures with the truth, as far as the measurement tells: by the mean of the channels, which it makes of the
// truth, where nothing else was measured, and in the better orientation where both are one. It is nil without a truth.
func scorer(m *solver.Measurement, s *solution, truth *imagefile.Image) func(*imagefile.Image) (metrics.Score, error) {
	if truth == nil {
		return nil
	}
	if s.grey {
		truth.Average()
	}
	of := metrics.ScoreOf
	if m.Operator.Turnable() {
		of = metrics.ScoreOfEither
	}
	return func(img *imagefile.Image) (metrics.Score, error) { return of(img, truth) }
}

// reconstruct loads the prior and makes all samples, n at a time.
func (f *reconstructFlags) reconstruct(c *cobra.Command, d *tensor.Device, m *solver.Measurement, calls, n int) (*prior, *solution, error) {
	p, err := f.load(d, n, m.Image[1], m.Image[2], func(d *tensor.Device, p *prior) error {
		_, err := solvePart(c.Context(), d, p, m, min(calls, rehearsed), part{0, n, f.samples}, f.seed, nil)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(p.guesses) > 0 && !f.quiet {
		fmt.Fprintf(c.ErrOrStderr(), "spin-native: note: %s does not tell everything; guessed: %s; name its model with --prior-preset if that is wrong\n", f.prior.path, strings.Join(p.guesses, "; "))
	}
	for _, note := range p.notes {
		if !f.quiet {
			fmt.Fprintf(c.ErrOrStderr(), "spin-native: note: %s: %s\n", f.prior.path, note)
		}
	}
	progress, done := watch(c.ErrOrStderr(), f.quiet, f.task)
	defer done()
	s, err := solveAll(c.Context(), d, p, m, calls, f.samples, n, f.seed, progress)
	return p, s, err
}

func (r reconstructReport) print(w io.Writer, m *solver.Measurement, plan plan) {
	fmt.Fprintf(w, "%s: %d x %d, %d denoiser calls in %.1f s on %s\n", strings.Join(r.Outputs, ", "), r.Width, r.Height, r.Calls, r.Seconds, r.Device)
	if r.Deadline {
		fmt.Fprintf(w, "  deadline       fewer steps than asked for, to be done in time\n")
	}
	if s := r.FirstStage; s != nil {
		fmt.Fprintf(w, "  first stage    %d encodes in %.1f s, %d decodes in %.1f s: %.0f %% of the time; %s\n",
			s.Encodes, s.EncodeSeconds, s.Decodes, s.DecodeSeconds, 100*(s.EncodeShare+s.DecodeShare), plan)
	}
	if r.NoiseEstimate != nil {
		fmt.Fprintf(w, "  noise          %s; taken: %.3g\n", r.NoiseEstimate.Text, r.Sigma)
	}
	if r.Kernel != nil {
		fmt.Fprintf(w, "  blur           %s; %s\n", r.Kernel.Text, r.Kernel.Done)
	}
	for i := range r.Outputs {
		fmt.Fprintf(w, "  certificate    %s\n", r.Certificates[i].Text)
		fmt.Fprintf(w, "                 %s\n", residualText(r.Certificates[i]))
	}
	if r.Invented != nil {
		fmt.Fprintf(w, "  invented       %s\n", r.Invented)
	}
	if r.Spread != nil {
		fmt.Fprintf(w, "  samples        %s\n", r.Spread)
	}
	if r.Measured != nil {
		fmt.Fprintf(w, "  measured       %s\n", *r.Measured)
	}
	if r.FirstGuess != nil {
		fmt.Fprintf(w, "  first guess    %s\n", *r.FirstGuess)
	}
	for _, v := range r.Result {
		fmt.Fprintf(w, "  reconstructed  %s\n", v)
	}
}

func (f *reconstructFlags) outputs() []string {
	if f.samples == 1 {
		return []string{f.output}
	}
	ext := filepath.Ext(f.output)
	var list []string
	for i := range f.samples {
		list = append(list, fmt.Sprintf("%s-%d%s", strings.TrimSuffix(f.output, ext), i+1, ext))
	}
	return list
}

func isMeasurement(path string) bool {
	return strings.HasSuffix(path, ".safetensors") || strings.HasSuffix(path, ".safetensors.zst")
}

// measurement reads the input, with what its picture is besides its pixels.
func (f *reconstructFlags) measurement(c *cobra.Command, d *tensor.Device, input string, saved bool) (*solver.Measurement, *imagefile.Image, error) {
	if saved {
		m, err := solver.LoadMeasurement(input)
		if err != nil {
			return nil, nil, err
		}
		if m.Shape[0] != 1 || m.Image[0] != 3 {
			return nil, nil, fmt.Errorf("measurement %s is of %d pictures with %d channels, expected one of 3", input, m.Shape[0], m.Image[0])
		}
		words, known := conventionOf(m.Convention)
		if c.Flags().Changed("sigma") {
			m.Sigma = f.sigma
			if known {
				m.Sigma *= words.sigma // as the measurement's
			}
		}
		if c.Flags().Changed("convention") && f.convention != words.name && !f.quiet {
			fmt.Fprintf(c.ErrOrStderr(), "spin-native: note: %s was measured in the convention %s, which holds; --convention %s does not\n", input, cmp.Or(m.Convention, "spin"), f.convention)
		}
		if c.Flags().Changed("noise") {
			return nil, nil, usagef("%s says its noise itself: leave --noise away", input)
		}
		return m, imagefile.New(m.Image[2], m.Image[1]), nil
	}
	for _, s := range f.chain {
		if s.file != "" {
			return nil, nil, usagef("--task %s: %s; degrade --save-measurement makes one, and so can a program of yours (docs/operators.md)", s.name, s.file)
		}
	}
	pic, err := imagefile.Read(input, imagefile.Limits{})
	if err != nil {
		return nil, nil, err
	}
	if name := pic.ProfileName(); name != "" && !strings.Contains(name, "sRGB") && !f.quiet {
		fmt.Fprintf(c.ErrOrStderr(), "spin-native: note: %s has the colour profile %q; the prior knows sRGB, colours are taken as they are and the profile is kept\n", input, name)
	}
	m := &solver.Measurement{Y: planar(pic.Pix, pic.H, pic.W), Shape: [4]int{1, 3, pic.H, pic.W}, Image: [3]int{3, pic.H, pic.W}, Sigma: f.sigma, Noise: f.noise, Convention: f.recorded()}
	if !c.Flags().Changed("sigma") {
		m.Sigma = f.usualSigma()
	}
	h, w := pic.H, pic.W
	last := f.chain[len(f.chain)-1]
	var own *solver.Measurement // that of the file itself
	if last.read != nil {
		if own, err = last.read(last.flags, input); err != nil {
			return nil, nil, err
		}
		if own != nil {
			f.turn = pic.Orientation // what is in the file has not been turned
			h, w = own.Image[1], own.Image[2]
		}
	}
	m.Image[1], m.Image[2] = f.behind(h, w)
	for _, s := range f.chain {
		s.flags.sigma = m.Sigma
	}
	stderr := c.ErrOrStderr()
	if f.quiet {
		stderr = io.Discard
	}
	if m.Operator, err = f.spec(m.Image[1], m.Image[2], stderr); err != nil {
		return nil, nil, fmt.Errorf("%s of %d x %d pixels: %w", input, pic.W, pic.H, err)
	}
	switch {
	case own != nil:
		m.Y, m.Shape, m.Sigma = own.Y, own.Shape, own.Sigma
	case last.again:
		spec := m.Operator
		if len(spec.Parts) > 0 {
			spec = spec.Parts[len(spec.Parts)-1]
		}
		again, err := degrade(d, pic, spec, 0, 0)
		if err != nil {
			return nil, nil, err
		}
		d.Trim()
		m.Y, m.Shape, m.Sigma = again.Y, again.Shape, math.Hypot(m.Sigma, again.Sigma)
	}
	pic.Gray = pic.Gray && !slices.ContainsFunc(f.chain, func(s step) bool { return s.name == "colorize" })
	return m, pic, nil
}

func caption(m *solver.Measurement) string {
	what := m.Operator.String()
	if m.Noise.Kind != "" {
		what += fmt.Sprintf(", %s noise %.3g", m.Noise.Kind, m.Noise.Level)
	}
	if m.Sigma > 0 {
		what += fmt.Sprintf(", noise %.3g", m.Sigma)
	}
	return what
}
