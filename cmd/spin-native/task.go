package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/solver"
)

// taskFlags say what happened to a picture.
type taskFlags struct {
	oversample   float64
	unscaled     bool
	acceleration float64
	center       float64
	maskKind     string
	views        int
	detectors    int
	ratio        float64
	block        int
	pattern      string
	patternSeed  uint64

	task   string
	mask   string
	invert bool
	scale  int
	kernel string
	gain   float64
	levels int
	bits   int
	gamma  float64

	noiseText  string
	noise      solver.NoiseModel // what it says, from check
	convention string
	words      convention // what it says, from check

	quality     int
	subsampling string
	box         bool
	jpeg        *solver.JPEGFormat // of the file that is reconstructed

	sigma float64
	auto  bool // --sigma auto

	changed func(flag string) bool // whether a flag was given
	chain   []step                 // what task says, from check
}

// step is one operator of a chain, with the flags that go with it.
type step struct {
	*task
	flags *taskFlags
}

// task is a value of --task.
type task struct {
	name  string
	flags []string // that belong to it
	need  string   // the one of them, or --sigma, that must be given; empty where none must
	help  string   // its lines in the help
	// sigma is the noise that a picture is taken to have where nobody says: none where pixels are to be kept as they are; else
	// a little, for the rounding to 8 bits and the compression that no real picture is without.
	sigma float64
	check func(f *taskFlags) error // of the values of the flags; optional
	// spec is the operator for pictures of h x w pixels. Remarks for the user go to stderr.
	spec func(f *taskFlags, h, w int, stderr io.Writer) (solver.Spec, error)
	// behind is the size of the pictures behind measured ones of h x w; nil where that is the same.
	behind func(f *taskFlags, h, w int) (int, int)
	// again says that the numbers measured are not those of the measured picture, but what the operator makes of it again.
	again bool
	// read reads the measurement from the file itself, where flags do not say it, with the step's flags for spec.
	read func(f *taskFlags, path string) (*solver.Measurement, error)
	// last says that nothing can come after it: what it measures is no picture, or its rounding is part of it.
	last bool
	// file says why a picture is not enough, and a measurement file is needed; empty where a picture will do.
	file string
}

// tasks are the values of --task. An operator of package solver gets its place on the command line by a row here.
var tasks = []*task{
	{
		name: "inpaint", flags: []string{"mask", "invert-mask"}, need: "mask", spec: inpaintSpec,
		help: `--mask FILE            a picture of the same size: white = to be filled in, black = kept
                       (--invert-mask: the other way round)
--mask box[:SIZE[:SEED]]   a square hole at a random place    --mask center[:SIZE]  in the middle
--mask half:left|right|top|bottom                             --mask random:FRACTION_MISSING[:SEED]
--mask scratches[:COUNT[:SEED]]`,
	},
	{
		name: "sr", flags: []string{"scale"}, sigma: 0.01,
		help:  `--scale N              N times larger in both directions (antialiased bicubic reduction undone)`,
		check: checkScale,
		spec: func(f *taskFlags, h, w int, _ io.Writer) (solver.Spec, error) {
			return solver.Spec{Kind: f.words.reduce, Factor: f.scale}, f.divides(h, w)
		},
		behind: timesScale,
	},
	{
		name: "decimate", flags: []string{"scale", "kernel"}, need: "kernel", sigma: 0.01,
		help: `--scale N --kernel ... a blur on a circle of which one pixel in N x N is kept, the first (the kernel flipped):
                       what DiffPIR and USRNet call classical degradation`,
		check: checkScale,
		spec: func(f *taskFlags, h, w int, _ io.Writer) (solver.Spec, error) {
			if err := f.divides(h, w); err != nil {
				return solver.Spec{}, err
			}
			k, err := f.kernelOf()
			return solver.Spec{Kind: "decimate", Factor: f.scale, Kernel: k, Note: note(f.kernel)}, err
		},
		behind: timesScale,
	},
	{
		name: "deblur", flags: []string{"kernel"}, need: "kernel", sigma: 0.01,
		help: `--kernel FILE          the blur as a small picture, .npy array or text table, its centre in the middle
--kernel gaussian:SIZE:STD | disc:RADIUS | line:LENGTH:ANGLE | motion:SIZE:INTENSITY[:SEED]
--kernel auto[:FAMILY,...]   found from the picture (reconstruct): gaussian, disc (out of focus) or line`,
		check: func(f *taskFlags) error {
			if isAuto(f.kernel) {
				_, err := f.blurFamilies()
				return err
			}
			return nil
		},
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			k, err := f.kernelOf()
			return solver.Spec{Kind: "blur", Kernel: k, Note: note(f.kernel)}, err
		},
	},
	{
		name: "denoise", need: "sigma",
		help: `--sigma S              noise of standard deviation S on the scale -1..1 (0.05 is 6.4 grey levels)`,
		check: func(f *taskFlags) error {
			if !f.auto && !(f.sigma > 0) {
				return usagef("--sigma %v: denoising needs the noise level, for example --sigma 0.1 (12.8 grey levels)", f.sigma)
			}
			return nil
		},
		spec: func(*taskFlags, int, int, io.Writer) (solver.Spec, error) { return solver.Spec{Kind: "denoise"}, nil },
	},
	{
		name: "phase", flags: []string{"oversample", "unscaled"}, last: true, file: noPicture,
		help: `--oversample 2         a picture from the moduli of its Fourier transform, zeros around it (n/8 times 2 on every side)
                       (--unscaled: of pictures on the scale -1..1, an older convention)`,
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			unscaled := 0.0
			if f.unscaled || f.words.unscaled {
				unscaled = 1
			}
			return solver.Spec{Kind: "phase", Numbers: map[string]float64{"oversample": f.oversample, "unscaled": unscaled}}, nil
		},
	},
	{
		name: "mri", flags: []string{"acceleration", "center", "mask-kind", "pattern-seed"}, last: true, file: noPicture, spec: mriSpec,
		help: `--acceleration 4       a grey picture from every 4th column of its Fourier transform (--center 0.08 of them in the
                       middle, --mask-kind random or equispaced around, chosen by --pattern-seed)`,
	},
	{
		name: "ct", flags: []string{"views", "detectors"}, last: true, file: noPicture,
		help: `--views 30             a grey picture from 30 parallel projections (--detectors N, one per pixel of the diagonal)`,
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			return solver.Spec{Kind: "ct", Numbers: map[string]float64{"views": float64(f.views), "detectors": float64(f.detectors)}}, nil
		},
	},
	{
		name: "cs", flags: []string{"ratio", "block", "pattern-seed"}, last: true, file: noPicture,
		help:  `--ratio 0.25           a picture from random mixtures of blocks of pixels (--block 16, --pattern-seed)`,
		check: func(f *taskFlags) error { return f.checkSeed() },
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			return solver.Spec{Kind: "blocks", Numbers: map[string]float64{"block": float64(f.block), "ratio": f.ratio, "seed": float64(f.patternSeed)}}, nil
		},
	},
	{
		name: "single-pixel", flags: []string{"ratio", "pattern", "pattern-seed"}, last: true, file: noPicture,
		help: `--ratio 0.25           a picture from some Walsh-Hadamard coefficients (--pattern sequency: the coarse ones, or
                       random, chosen by --pattern-seed)`,
		spec: func(f *taskFlags, h, w int, _ io.Writer) (solver.Spec, error) {
			chosen, err := solver.Coefficients(h, w, f.ratio, f.pattern, f.patternSeed)
			return solver.Spec{Kind: "hadamard", Arrays: map[string]solver.Array{"chosen": solver.Choice(chosen, h, w)}, Note: f.pattern}, err
		},
	},
	{
		name: "jpeg", flags: []string{"quality", "subsampling", "jpeg-box"}, again: true, last: true, read: readJPEG, spec: jpegSpec,
		help: `                       a JPEG file itself: its coefficients and tables say everything
--quality Q            a picture that once was a JPEG file of standard quality Q, up to about 30
                       [--subsampling 444|422|420|440|411|grey]`,
		check: func(f *taskFlags) error {
			if f.quality < 1 || f.quality > 100 {
				return usagef("--quality %d: expected 1 to 100", f.quality)
			}
			if _, ok := samplings[f.subsampling]; !ok {
				return usagef("--subsampling %s: expected 444, 422, 420, 440, 411 or grey", f.subsampling)
			}
			if f.changed("sigma") {
				return usagef("--sigma does not go with --task jpeg: what its rounding takes away is its noise")
			}
			return nil
		},
	},
	{
		name: "hdr", flags: []string{"gain"}, sigma: 0.01,
		help: `[--gain G]             the lights of an exposure G times too long (default 2), and a picture G times darker`,
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			return solver.Spec{Kind: "hdr", Numbers: map[string]float64{"gain": f.gain, "sigma": f.sigma}}, nil
		},
	},
	{
		name: "dequantize", flags: []string{"levels", "bits"}, again: true, last: true,
		help: `--levels N | --bits B  smooth shades for a picture of N = 2^B levels in each channel`,
		check: func(f *taskFlags) error {
			switch levels, bits := f.changed("levels"), f.changed("bits"); {
			case levels == bits:
				return usagef("--task dequantize needs --levels or --bits")
			case bits && (f.bits < 1 || f.bits > 16):
				return usagef("--bits %d: expected 1 to 16", f.bits)
			case bits:
				f.levels = 1 << f.bits
			case f.levels < 2 || f.levels > 1<<16:
				return usagef("--levels %d: expected 2 to 65536", f.levels)
			}
			return nil
		},
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			return solver.Spec{Kind: "quantize", Numbers: map[string]float64{"levels": float64(f.levels)}}, nil
		},
	},
	{
		name: "nonlinear-blur", flags: []string{"kernel", "gamma"}, need: "kernel", sigma: 0.01,
		help: `--kernel ... [--gamma G]   a blur of light, in a picture whose numbers are light^(1/G) (default 2.2)`,
		check: func(f *taskFlags) error {
			if !(f.gamma >= 1./8 && f.gamma <= 8) {
				return usagef("--gamma %v: expected 1/8 to 8", f.gamma)
			}
			return nil
		},
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			k, err := f.kernelOf()
			response := func(gamma float64) solver.Spec {
				return solver.Spec{Kind: "response", Numbers: map[string]float64{"gamma": gamma}}
			}
			return solver.Spec{Kind: "compose", Parts: []solver.Spec{response(f.gamma), {Kind: "blur", Kernel: k, Note: note(f.kernel)}, response(1 / f.gamma)}}, err
		},
	},
	{
		name: "colorize", sigma: 0.01, again: true,
		help: `                       colours for a grey picture`,
		spec: func(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
			return solver.Spec{Kind: f.words.gray}, nil
		},
	},
}

// taskHelp describes the tasks with their flags.
var taskHelp = func() string {
	var b strings.Builder
	b.WriteString("Tasks:\n")
	for _, t := range tasks {
		for i, line := range strings.Split(t.help, "\n") {
			name := t.name
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(&b, "  %-12s %s\n", name, line)
		}
	}
	b.WriteString(`Several in a row, in the order in which they happened, each with flags of its own where they differ:
  --task "deblur | sr" --kernel gaussian:9:2 --scale 2        --task "deblur --kernel k.png | sr --scale 2"`)
	return b.String()
}()

func taskList() string {
	var names []string
	for _, t := range tasks {
		names = append(names, t.name)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func (f *taskFlags) register(c *cobra.Command) {
	f.changed = c.Flags().Changed
	c.Flags().StringVar(&f.task, "task", "", taskList()+", or several in a row with | between them")
	f.registerOwn(c)
	f.registerNoise(c)
	c.Flags().Var(&sigmaValue{f}, "sigma", "standard deviation of the noise in the measurement, pictures being on the scale -1..1")
}

// registerNoise registers what says more about the noise, and what the words mean.
func (f *taskFlags) registerNoise(c *cobra.Command) {
	c.Flags().StringVar(&f.noiseText, "noise", "", "noise that depends on the picture: poisson:PHOTONS (in white) or speckle:DEVIATION; --sigma is Gaussian noise besides")
	c.Flags().StringVar(&f.convention, "convention", "spin", "whose meaning of --sigma, sr, colorize, box and poisson: "+conventionNames()+" (docs/operators.md)")
}

// registerOwn registers the flags that belong to certain tasks.
func (f *taskFlags) registerOwn(c *cobra.Command) {
	s := c.Flags()
	s.Float64Var(&f.oversample, "oversample", 2, "phase: how much the Fourier transform is oversampled, 0 to 8; the margin is an eighth of that on every side")
	s.BoolVar(&f.unscaled, "unscaled", false, "phase: transform pictures on the scale -1..1 in place of 0..1")
	s.Float64Var(&f.acceleration, "acceleration", 4, "mri: one in so many columns is measured")
	s.Float64Var(&f.center, "center", 0, "mri: share of the columns that is measured in a row around the zero frequency (default 0.32/acceleration)")
	s.StringVar(&f.maskKind, "mask-kind", "random", "mri: how the other columns are chosen, random or equispaced")
	s.IntVar(&f.views, "views", 30, "ct: number of projections, at equal angles over 180 degrees")
	s.IntVar(&f.detectors, "detectors", 0, "ct: values per projection (default: one for each pixel of the diagonal)")
	s.Float64Var(&f.ratio, "ratio", 0.25, "cs, single-pixel: numbers measured per pixel, above 0 and at most 1")
	s.IntVar(&f.block, "block", 16, "cs: side of the blocks in pixels, 2 to 32; it must divide the picture's")
	s.StringVar(&f.pattern, "pattern", "sequency", "single-pixel: which coefficients; sequency (the coarsest) or random")
	s.Uint64Var(&f.patternSeed, "pattern-seed", 0, "mri, cs, single-pixel: seed of what is chosen at random")
	s.StringVar(&f.mask, "mask", "", "inpaint: what is missing; a picture (white = to be filled in, black = kept), box, center, half:SIDE, random:FRACTION or scratches")
	s.BoolVar(&f.invert, "invert-mask", false, "inpaint: black = to be filled in, white = kept")
	s.IntVar(&f.scale, "scale", 4, "sr, decimate: the factor")
	s.StringVar(&f.kernel, "kernel", "", "deblur, nonlinear-blur, decimate: the kernel; a file, gaussian:SIZE:STD, disc:RADIUS, line:LENGTH:ANGLE or motion:SIZE:INTENSITY[:SEED]; for deblur also auto, or auto:gaussian,disc,line")
	s.IntVar(&f.quality, "quality", 10, "jpeg: the quality, 1 to 100, where the file itself is not at hand")
	s.StringVar(&f.subsampling, "subsampling", "420", "jpeg: sampling of chroma, with --quality; 444, 422, 420, 440, 411 or grey")
	s.BoolVar(&f.box, "jpeg-box", false, "jpeg: take the rounding as an interval without a distribution, for comparison")
	s.Float64Var(&f.gain, "gain", 2, "hdr: how many times too long the exposure was")
	s.IntVar(&f.levels, "levels", 0, "dequantize: levels of each channel")
	s.IntVar(&f.bits, "bits", 0, "dequantize: bits of each channel, in place of --levels")
	s.Float64Var(&f.gamma, "gamma", 2.2, "nonlinear-blur: the picture's numbers are light to the power of 1/gamma")
}

// ownFlags are the names of those flags.
func ownFlags() (names []string) {
	for _, t := range tasks {
		for _, flag := range t.flags {
			if !slices.Contains(names, flag) {
				names = append(names, flag)
			}
		}
	}
	return names
}

// check reads --task and refuses combinations that make no sense, before any file is opened.
func (f *taskFlags) check(c *cobra.Command) error {
	if strings.TrimSpace(f.task) == "" {
		return usagef("--task is missing: %s; see %s --help", taskList(), c.CommandPath())
	}
	if !(f.sigma >= 0 && f.sigma <= 10) {
		return usagef("--sigma %v: expected 0 to 10, on the scale where pictures are -1..1", f.sigma)
	}
	var ok bool
	if f.words, ok = conventionOf(f.convention); !ok {
		return usagef("--convention %s: expected one of %s", f.convention, conventionNames())
	}
	f.sigma *= f.words.sigma
	var err error
	if f.noise, err = f.noiseModel(); err != nil {
		return err
	}
	f.chain = nil
	segments := strings.Split(f.task, "|")
	for i, segment := range segments {
		s, err := f.step(c, segment)
		if err != nil {
			return err
		}
		if s.last && i < len(segments)-1 {
			return usagef("--task %q: %s can only be the last", f.task, s.name)
		}
		if s.last && f.noise.Kind != "" {
			return usagef("--noise does not go with --task %s", s.name)
		}
		f.chain = append(f.chain, s)
	}
	for _, flag := range ownFlags() {
		if f.changed(flag) && !slices.ContainsFunc(f.chain, func(s step) bool { return slices.Contains(s.task.flags, flag) }) {
			return usagef("--%s does not belong to --task %s", flag, f.task)
		}
	}
	return nil
}

// step reads one operator of a chain: its name, and the flags that are its own.
func (f *taskFlags) step(c *cobra.Command, segment string) (step, error) {
	words := strings.Fields(segment)
	if len(words) == 0 {
		return step{}, usagef("--task %s: nothing between two |", f.task)
	}
	at := slices.IndexFunc(tasks, func(t *task) bool { return t.name == words[0] })
	if at < 0 {
		return step{}, usagef("--task %s is not known: %s", words[0], taskList())
	}
	own, set := *f, &cobra.Command{}
	own.registerOwn(set)
	for _, flag := range ownFlags() { // what the command says holds where the step says nothing
		if f.changed(flag) {
			if err := set.Flags().Set(flag, c.Flags().Lookup(flag).Value.String()); err != nil {
				return step{}, usagef("--%s: %v", flag, err)
			}
		}
	}
	if err := set.ParseFlags(words[1:]); err != nil {
		return step{}, usagef("--task %q: %v", strings.TrimSpace(segment), err)
	}
	if set.Flags().NArg() > 0 {
		return step{}, usagef("--task %q: %s is not a flag; between two operators goes a |", strings.TrimSpace(segment), set.Flags().Arg(0))
	}
	own.changed = func(flag string) bool { return f.changed(flag) || set.Flags().Changed(flag) }
	s := step{tasks[at], &own}
	if s.need != "" && !s.flags.changed(s.need) {
		return step{}, usagef("--task %s needs --%s; see %s --help", s.name, s.need, c.CommandPath())
	}
	if s.name != "deblur" && slices.Contains(s.task.flags, "kernel") && isAuto(s.flags.kernel) {
		return s, usagef("--kernel auto is for --task deblur, not for %s: give the kernel", s.name)
	}
	if s.check != nil {
		return s, s.check(s.flags)
	}
	return s, nil
}

// spec is the operator for pictures of h x w pixels. Remarks for the user go to stderr.
func (f *taskFlags) spec(h, w int, stderr io.Writer) (solver.Spec, error) {
	all := solver.Spec{Kind: "compose"}
	c := 3
	for _, s := range f.chain {
		part, err := s.task.spec(s.flags, h, w, stderr)
		if err != nil {
			return part, err
		}
		next, err := part.Check(h, w, c)
		if err != nil {
			return part, fmt.Errorf("--task %s for pictures of %d x %d: %w", s.name, w, h, err)
		}
		h, w, c = next[0], next[1], next[2]
		if part.Kind == "compose" {
			all.Parts = append(all.Parts, part.Parts...)
			continue
		}
		all.Parts = append(all.Parts, part)
	}
	if len(all.Parts) == 1 {
		return all.Parts[0], nil
	}
	return all, nil
}

// behind is the size of the pictures behind measured ones of h x w.
func (f *taskFlags) behind(h, w int) (int, int) {
	for _, s := range slices.Backward(f.chain) {
		if s.task.behind != nil {
			h, w = s.task.behind(s.flags, h, w)
		}
	}
	return h, w
}

// usualSigma is the noise that a picture is taken to have where nobody says.
func (f *taskFlags) usualSigma() (sigma float64) {
	for _, s := range f.chain {
		sigma = max(sigma, s.sigma)
	}
	return sigma
}

func checkScale(f *taskFlags) error {
	if f.scale < 2 || f.scale > 64 {
		return usagef("--scale %d: expected 2 to 64", f.scale)
	}
	return nil
}

// divides refuses pictures whose sides --scale does not divide.
func (f *taskFlags) divides(h, w int) error {
	if w%f.scale != 0 || h%f.scale != 0 {
		return fmt.Errorf("a picture of %d x %d pixels, which --scale %d does not divide: crop it to %d x %d first", w, h, f.scale, w/f.scale*f.scale, h/f.scale*f.scale)
	}
	return nil
}

func timesScale(f *taskFlags, h, w int) (int, int) { return h * f.scale, w * f.scale }

func inpaintSpec(f *taskFlags, h, w int, stderr io.Writer) (solver.Spec, error) {
	m, err := f.maskOf(h, w, stderr)
	return solver.Spec{Kind: "inpaint", Masks: []*solver.Mask{m}, Note: note(f.mask)}, err
}

const noPicture = "what is measured is no picture, so that reconstruct needs a measurement file"

func mriSpec(f *taskFlags, _, w int, _ io.Writer) (solver.Spec, error) {
	lines, err := solver.Lines(w, f.acceleration, f.center, f.maskKind, f.patternSeed)
	return solver.Spec{
		Kind: "mri", Arrays: map[string]solver.Array{"lines": solver.Choice(lines, w)},
		Note: fmt.Sprintf("%s, acceleration %v, seed %d", f.maskKind, f.acceleration, f.patternSeed),
	}, err
}

// checkSeed refuses seeds that a measurement file cannot tell.
func (f *taskFlags) checkSeed() error {
	if f.patternSeed > 1<<53 {
		return usagef("--pattern-seed %d: expected at most 2^53", f.patternSeed)
	}
	return nil
}

// note records an argument; of a file only its name.
func note(arg string) string {
	if arg = filepath.Base(arg); len(arg) > 100 {
		arg = arg[:100]
	}
	return arg
}

// parts splits NAME:A:B and checks the number of arguments behind the name.
func parts(flag, arg string, least, most int) ([]string, error) {
	p := strings.Split(arg, ":")[1:]
	if len(p) < least || len(p) > most {
		return nil, usagef("--%s %s: expected %d to %d values after the name, with colons", flag, arg, least, most)
	}
	return p, nil
}

func number[T any](flag, arg, s string, parse func(string) (T, error)) (T, error) {
	v, err := parse(s)
	if err != nil {
		return v, usagef("--%s %s: %q is not a number of the right kind", flag, arg, s)
	}
	return v, nil
}

func parseSeed(s string) (uint64, error)   { return strconv.ParseUint(s, 10, 64) }
func parseFloat(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

func (f *taskFlags) maskOf(h, w int, stderr io.Writer) (m *solver.Mask, err error) {
	name, _, _ := strings.Cut(f.mask, ":")
	builtin := map[string][2]int{"box": {0, 2}, "center": {0, 1}, "half": {1, 1}, "random": {1, 2}, "scratches": {0, 2}}
	count, ok := builtin[name]
	if !ok {
		return f.pictureMask(h, w, stderr)
	}
	if f.invert {
		return nil, usagef("--invert-mask goes with a mask from a file")
	}
	p, err := parts("mask", f.mask, count[0], count[1])
	if err != nil {
		return nil, err
	}
	size, seed := 0, uint64(0)
	if name == "scratches" {
		size = 14
	}
	if (name == "box" || name == "center" || name == "scratches") && len(p) > 0 {
		if size, err = number("mask", f.mask, p[0], strconv.Atoi); err != nil {
			return nil, err
		}
	}
	if len(p) > 1 {
		if seed, err = number("mask", f.mask, p[1], parseSeed); err != nil {
			return nil, err
		}
	}
	switch name {
	case "box":
		m, err = solver.BoxMaskWithin(h, w, size, f.words.margin, seed)
	case "center":
		m, err = solver.CenterMask(h, w, size)
	case "half":
		m, err = solver.HalfMask(h, w, p[0])
	case "scratches":
		m, err = solver.ScratchMask(h, w, size, seed)
	case "random":
		var fraction float64
		if fraction, err = number("mask", f.mask, p[0], parseFloat); err != nil {
			return nil, err
		}
		m, err = solver.RandomMask(h, w, fraction, seed)
	}
	if err != nil {
		return nil, usagef("--mask %s: %v", f.mask, err)
	}
	return m, nil
}

func (f *taskFlags) pictureMask(h, w int, stderr io.Writer) (*solver.Mask, error) {
	pic, err := imagefile.ReadMask(f.mask)
	if err != nil {
		return nil, fmt.Errorf("mask: %w", err)
	}
	if pic.H != h || pic.W != w {
		return nil, fmt.Errorf("mask %s is %d x %d pixels, the picture is %d x %d: they must be of the same size", f.mask, pic.W, pic.H, w, h)
	}
	gray := make([]uint8, h*w)
	for i, v := range pic.Pix {
		gray[i] = uint8(v*255 + 0.5)
	}
	m, err := solver.PictureMask(h, w, gray, f.invert)
	if err != nil {
		return nil, err
	}
	meaning, other := "white means 'to be filled in' and black 'kept'", "turn that round with --invert-mask"
	if f.invert {
		meaning, other = "with --invert-mask, black means 'to be filled in' and white 'kept'", "leave --invert-mask away"
	}
	switch missing := float64(m.Missing()) / float64(h*w); {
	case missing == 0:
		return nil, fmt.Errorf("mask %s leaves nothing to fill in: %s; if it is drawn the other way, %s", f.mask, meaning, other)
	case missing > 0.95:
		return nil, fmt.Errorf("mask %s asks to fill in %.1f %% of the picture, too much to go by: %s; if it is drawn the other way, %s", f.mask, 100*missing, meaning, other)
	case missing > 0.5:
		fmt.Fprintf(stderr, "spin-native: note: the mask asks to fill in %.0f %% of the picture: %s; if it is drawn the other way, %s\n", 100*missing, meaning, other)
	}
	return m, nil
}

func (f *taskFlags) kernelOf() (*solver.BlurKernel, error) {
	if isAuto(f.kernel) { // until the picture is there
		return solver.NewKernel(1, 1, []float32{1})
	}
	name, _, _ := strings.Cut(f.kernel, ":")
	count, ok := map[string][2]int{"gaussian": {2, 2}, "motion": {2, 3}, "disc": {1, 1}, "line": {2, 2}}[name]
	if !ok {
		h, w, k, err := imagefile.ReadKernel(f.kernel)
		if err != nil {
			return nil, fmt.Errorf("kernel: %w", err)
		}
		return solver.NewKernel(h, w, k)
	}
	p, err := parts("kernel", f.kernel, count[0], count[1])
	if err != nil {
		return nil, err
	}
	var values [2]float64
	size, seed := 0, uint64(0)
	for i, s := range p {
		switch {
		case i == 0 && (name == "gaussian" || name == "motion"):
			size, err = number("kernel", f.kernel, s, strconv.Atoi)
		case i == 2:
			seed, err = number("kernel", f.kernel, s, parseSeed)
		default:
			values[i], err = number("kernel", f.kernel, s, parseFloat)
		}
		if err != nil {
			return nil, err
		}
	}
	var k *solver.BlurKernel
	switch name {
	case "gaussian":
		k, err = solver.GaussianKernel(size, values[1])
	case "motion":
		k, err = solver.MotionKernel(size, values[1], seed)
	case "disc":
		k, err = solver.DiscKernel(values[0])
	case "line":
		k, err = solver.LineKernel(values[0], values[1])
	}
	if err != nil {
		return nil, usagef("--kernel %s: %v", f.kernel, err)
	}
	return k, nil
}
