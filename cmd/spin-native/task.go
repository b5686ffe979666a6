package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/solver"
)

// taskFlags say what happened to a picture.
type taskFlags struct {
	task   string
	mask   string
	invert bool
	scale  int
	kernel string
	sigma  float64
}

const taskHelp = `Tasks:
  inpaint   --mask FILE            a picture of the same size: white = to be filled in, black = kept
                                   (--invert-mask: the other way round)
            --mask box[:SIZE[:SEED]]   a square hole at a random place    --mask center[:SIZE]  in the middle
            --mask half:left|right|top|bottom                             --mask random:FRACTION_MISSING[:SEED]
            --mask scratches[:COUNT[:SEED]]
  sr        --scale N              N times larger in both directions (antialiased bicubic reduction undone)
  deblur    --kernel FILE          the blur as a small picture, .npy array or text table, its centre in the middle
            --kernel gaussian:SIZE:STD | motion:SIZE:INTENSITY[:SEED]
  denoise   --sigma S              noise of standard deviation S on the scale -1..1 (0.05 is 6.4 grey levels)`

func (f *taskFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.task, "task", "", "inpaint, sr, deblur or denoise")
	c.Flags().StringVar(&f.mask, "mask", "", "inpaint: what is missing; a picture (white = to be filled in, black = kept), box, center, half:SIDE, random:FRACTION or scratches")
	c.Flags().BoolVar(&f.invert, "invert-mask", false, "inpaint: black = to be filled in, white = kept")
	c.Flags().IntVar(&f.scale, "scale", 4, "sr: the factor")
	c.Flags().StringVar(&f.kernel, "kernel", "", "deblur: the kernel; a file, gaussian:SIZE:STD or motion:SIZE:INTENSITY[:SEED]")
	c.Flags().Float64Var(&f.sigma, "sigma", 0, "standard deviation of the noise in the measurement, pictures being on the scale -1..1")
}

// taskNames are the values of --task, and which flag each of them needs.
var taskNames = map[string]string{"inpaint": "mask", "sr": "scale", "deblur": "kernel", "denoise": "sigma"}

// check refuses combinations that make no sense, before any file is opened.
func (f *taskFlags) check(c *cobra.Command) error {
	need, ok := taskNames[f.task]
	switch {
	case f.task == "":
		return usagef("--task is missing: inpaint, sr, deblur or denoise; see %s --help", c.CommandPath())
	case !ok:
		return usagef("--task %s is not known: inpaint, sr, deblur or denoise", f.task)
	case need != "scale" && !c.Flags().Changed(need):
		return usagef("--task %s needs --%s; see %s --help", f.task, need, c.CommandPath())
	case f.task == "denoise" && !(f.sigma > 0):
		return usagef("--sigma %v: denoising needs the noise level, for example --sigma 0.1 (12.8 grey levels)", f.sigma)
	case !(f.sigma >= 0 && f.sigma <= 10):
		return usagef("--sigma %v: expected 0 to 10, on the scale where pictures are -1..1", f.sigma)
	case f.task == "sr" && (f.scale < 2 || f.scale > 64):
		return usagef("--scale %d: expected 2 to 64", f.scale)
	}
	for _, flag := range []string{"mask", "invert-mask", "scale", "kernel"} {
		owner := flag
		if flag == "invert-mask" {
			owner = "mask"
		}
		if c.Flags().Changed(flag) && owner != need {
			return usagef("--%s does not belong to --task %s", flag, f.task)
		}
	}
	return nil
}

// spec is the operator for pictures of h x w pixels. Remarks for the user go to stderr.
func (f *taskFlags) spec(h, w int, stderr io.Writer) (solver.Spec, error) {
	switch f.task {
	case "inpaint":
		m, err := f.maskOf(h, w, stderr)
		return solver.Spec{Kind: "inpaint", Masks: []*solver.Mask{m}, Note: note(f.mask)}, err
	case "sr":
		return solver.Spec{Kind: "downsample", Factor: f.scale}, nil
	case "deblur":
		k, err := f.kernelOf()
		return solver.Spec{Kind: "blur", Kernel: k, Note: note(f.kernel)}, err
	}
	return solver.Spec{Kind: "denoise"}, nil
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
		m, err = solver.BoxMask(h, w, size, seed)
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
	name, _, _ := strings.Cut(f.kernel, ":")
	count, ok := map[string][2]int{"gaussian": {2, 2}, "motion": {2, 3}}[name]
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
	size, err := number("kernel", f.kernel, p[0], strconv.Atoi)
	if err != nil {
		return nil, err
	}
	value, err := number("kernel", f.kernel, p[1], parseFloat)
	if err != nil {
		return nil, err
	}
	var k *solver.BlurKernel
	if name == "gaussian" {
		k, err = solver.GaussianKernel(size, value)
	} else {
		seed := uint64(0)
		if len(p) > 2 {
			if seed, err = number("kernel", f.kernel, p[2], parseSeed); err != nil {
				return nil, err
			}
		}
		k, err = solver.MotionKernel(size, value, seed)
	}
	if err != nil {
		return nil, usagef("--kernel %s: %v", f.kernel, err)
	}
	return k, nil
}
