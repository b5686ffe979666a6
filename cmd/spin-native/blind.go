package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// kernelReport is what --json says of --kernel auto.
type kernelReport struct {
	solver.BlurEstimate
	Done string `json:"done"` // what was made of it: deblurred, denoised or nothing
	File string `json:"file,omitempty"`
}

// What was made of an estimate.
const (
	deblurred = "deblurred"
	denoised  = "denoised"
	nothing   = "nothing"
)

// isAuto is whether the kernel is to be found.
func isAuto(kernel string) bool { return kernel == "auto" || strings.HasPrefix(kernel, "auto:") }

// blind is whether the kernel of one of the operators is to be found.
func (f *taskFlags) blind() bool {
	return slices.ContainsFunc(f.chain, func(s step) bool { return isAuto(s.flags.kernel) })
}

// blurFamilies are those that --kernel auto:FAMILY,... names; none where it names none.
func (f *taskFlags) blurFamilies() (list []solver.BlurFamily, err error) {
	_, names, named := strings.Cut(f.kernel, ":")
	if !named {
		return nil, nil
	}
	for name := range strings.SplitSeq(names, ",") {
		family := solver.BlurFamily(strings.TrimSpace(name))
		if !slices.Contains(solver.BlurFamilies, family) {
			return nil, usagef("--kernel %s: expected auto, or some of auto:gaussian,disc,line", f.kernel)
		}
		list = append(list, family)
	}
	return list, nil
}

// checkBlind refuses what does not go with a kernel that is to be found.
func (f *reconstructFlags) checkBlind() error {
	switch {
	case !f.blind() && f.saveKernel != "":
		return usagef("--save-kernel goes with --kernel auto: this kernel is known")
	case !f.blind():
		return nil
	case len(f.chain) > 1:
		return usagef("--kernel auto is for --task deblur alone, not for several operators in a row: give the kernel")
	case f.noise.Kind != "":
		return usagef("--kernel auto knows noise that is the same everywhere: leave --noise away, or give the kernel")
	}
	if !f.changed("sigma") {
		f.auto = true
	}
	if f.saveKernel != "" {
		return imagefile.CheckWritable(f.saveKernel, f.force)
	}
	return nil
}

// leastNoise is the noise of a sharp picture up to which denoising does harm: the built-in prior takes away more of the picture
// than of the noise.
const leastNoise = 0.01

// estimateBlur sets the operator of a measurement from itself. Where no blur is worth removing it is that of denoising, and where
// there is nothing to denoise either, or the estimate is not to be trusted, an error that says so.
func (f *reconstructFlags) estimateBlur(c *cobra.Command, d *tensor.Device, m *solver.Measurement, input string) error {
	flags := f.chain[0].flags
	families, err := flags.blurFamilies()
	if err != nil {
		return err
	}
	e, err := solver.EstimateBlur(d, m, families...)
	if err != nil {
		return fmt.Errorf("--kernel auto: %w", err)
	}
	d.Trim()
	f.blur = &kernelReport{BlurEstimate: e, Done: nothing}
	switch {
	case e.Word == "low":
		return f.refuseBlur(c, input, "give the kernel, --kernel FILE, or --kernel "+kernelArgument(e)+" to try that one all the same")
	case e.None && m.Sigma <= leastNoise:
		return f.refuseBlur(c, input, "there is next to no noise to remove either")
	case e.None:
		m.Operator = solver.Spec{Kind: "denoise"}
		f.blur.Done = denoised
		if !f.quiet {
			fmt.Fprintf(c.ErrOrStderr(), "spin-native: note: --kernel auto: %s; the picture is denoised only\n", e.Text)
		}
		return nil
	}
	f.blur.Done = deblurred
	k, err := e.Kernel()
	if err != nil {
		return err
	}
	m.Operator = solver.Spec{Kind: "blur", Kernel: k, Note: kernelArgument(e)}
	if !f.changed("sigma") {
		m.Sigma = max(m.Sigma, e.Noise, f.usualSigma()) // at least so much for what is wrong with the kernel
	}
	return nil
}

// refuseBlur is the error that ends a run for its kernel. --json has the estimate all the same.
func (f *reconstructFlags) refuseBlur(c *cobra.Command, input, why string) error {
	f.blur.Done = nothing
	if f.asJSON {
		if err := writeJSON(c.OutOrStdout(), map[string]any{"input": input, "kernel_estimate": f.blur}); err != nil {
			return err
		}
	}
	return fmt.Errorf("--kernel auto: %s. Nothing was written: %s", f.blur.Text, why)
}

// checkBlur refuses results that do not explain their measurement by the kernel that was found. Where the noise was said it may
// be that, and the certificate has to do.
func (f *reconstructFlags) checkBlur(c *cobra.Command, input string, certificates []solver.Certificate) error {
	if f.blur == nil || f.blur.Done != deblurred || f.changed("sigma") {
		return nil
	}
	for _, v := range certificates {
		if v.Verdict == solver.Underfits {
			return f.refuseBlur(c, input, fmt.Sprintf("deblurred with it, the picture does not explain what was measured (chi-square %.2f); give the kernel, --kernel FILE, or --kernel %s to see the result all the same",
				v.ChiSquare, kernelArgument(f.blur.BlurEstimate)))
		}
	}
	return nil
}

// kernelArgument is the value of --kernel that says the same as an estimate.
func kernelArgument(e solver.BlurEstimate) string {
	switch size := strconv.FormatFloat(e.Size, 'f', 2, 64); e.Family {
	case solver.DiscBlur:
		return "disc:" + size
	case solver.LineBlur:
		return fmt.Sprintf("line:%s:%.1f", size, e.Angle)
	default:
		return fmt.Sprintf("gaussian:%d:%.2f", 2*int(4*e.Size+0.5)+1, max(e.Size, 0.1))
	}
}

// kernelPicture is the kernel of an estimate, its largest weight white.
func kernelPicture(e solver.BlurEstimate) (*imagefile.Image, error) {
	k, err := e.Kernel()
	if err != nil {
		return nil, err
	}
	img := imagefile.New(k.W, k.H)
	img.Gray, img.Depth = true, 16
	most := slices.Max(k.K)
	for i, v := range k.K {
		for c := range 3 {
			img.Pix[3*i+c] = 2*v/most - 1
		}
	}
	return img, nil
}

// kernelPanel shows the kernel that was found, and says where it goes.
func (f *reconstructFlags) kernelPanel() (p trustPicture, err error) {
	img, err := kernelPicture(f.blur.BlurEstimate)
	if err != nil {
		return p, err
	}
	f.blur.File = f.saveKernel
	return trustPicture{sheet.Panel{Title: "Kernel", Caption: f.blur.Text, Img: img}, f.saveKernel}, nil
}
