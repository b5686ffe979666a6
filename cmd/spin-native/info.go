package main

import (
	"fmt"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/weights"
	"github.com/spin-native/spin/weights/photo"
)

// infoReport is what --json prints about a file of weights.
type infoReport struct {
	File       string         `json:"file"`
	Kind       string         `json:"kind"` // prior, measurement or tensors
	Tensors    int            `json:"tensors"`
	Parameters int64          `json:"parameters"`
	DTypes     map[string]int `json:"dtypes"` // tensors of each
	Bytes      int64          `json:"bytes"`
	Info       *weights.Info  `json:"info,omitempty"`
	// Memory is what a picture of the prior's own size takes to run, in bytes.
	Memory      int64               `json:"memory,omitempty"`
	Measurement *solver.Measurement `json:"-"`
}

func newInfo() *cobra.Command {
	var asJSON, tensors bool
	c := &cobra.Command{
		Use:   "info FILE",
		Short: "Tell what a file of weights or a measurement holds",
		Long: `info tells what a safetensors file holds: family, configuration, number of parameters, memory to run, and which of that the
converter had to guess; or, of a measurement, its operator and noise. FILE "photo" is the built-in prior.`,
		Example: `  spin-native info photo
  spin-native info --tensors model.safetensors
  spin-native info y.safetensors`,
		Args: exactArgs(1, "one file"),
		RunE: func(c *cobra.Command, args []string) error {
			r, f, err := inspect(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if asJSON {
				return writeJSON(c.OutOrStdout(), r)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
			r.print(w)
			if tensors {
				fmt.Fprintln(w)
				for _, name := range f.Names() {
					t, _ := f.Tensor(name)
					fmt.Fprintf(w, "%s\t%s\t%v\n", name, t.DType, t.Shape)
				}
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object on standard output")
	c.Flags().BoolVar(&tensors, "tensors", false, "also list every tensor with its type and shape")
	return c
}

func inspect(name string) (r *infoReport, f *weights.File, err error) {
	if name == "photo" {
		f, err = photo.Open()
	} else {
		f, err = weights.Open(name)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	r = &infoReport{File: name, Kind: "tensors", DTypes: map[string]int{}, Bytes: f.Size()}
	for _, n := range f.Names() {
		t, _ := f.Tensor(n)
		r.Tensors++
		r.Parameters += int64(t.Len())
		r.DTypes[string(t.DType)]++
	}
	switch _, has := f.Metadata()[weights.InfoKey]; {
	case solver.IsMeasurement(f):
		r.Kind = "measurement"
		if r.Measurement, err = solver.ReadMeasurement(f); err != nil {
			return nil, nil, err
		}
	case has:
		r.Kind = "prior"
		info, err := f.Info()
		if err != nil {
			return nil, nil, err
		}
		r.Info = &info
		if info.Family == familyUNet {
			if _, err := nn.ParseUNetConfig(info.Model); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
			if r.Memory, err = memory(name, 1, info.ImageSize, info.ImageSize); err != nil {
				return nil, nil, err
			}
		}
	}
	return r, f, nil
}

func (r *infoReport) print(w *tabwriter.Writer) {
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("file", "%s", r.File)
	var types []string
	for t, n := range r.DTypes {
		types = append(types, fmt.Sprintf("%d %s", n, t))
	}
	sort.Strings(types)
	switch r.Kind {
	case "measurement":
		m := r.Measurement
		row("kind", "measurement")
		row("operator", "%s", operatorText(m.Operator))
		row("measured", "%d picture(s) of %d x %d, %d channels", m.Shape[0], m.Shape[3], m.Shape[2], m.Shape[1])
		row("picture behind it", "%d x %d, %d channels, in [-1, 1]", m.Image[2], m.Image[1], m.Image[0])
		row("noise", "standard deviation %g, seed %d", m.Sigma, m.Seed)
		return
	case "tensors":
		row("kind", "tensors without a configuration: convert them to use them as a prior")
	case "prior":
		i := r.Info
		row("kind", "prior")
		row("name", "%s", strings.TrimSpace(i.Name+" "+i.Version))
		if i.License != "" {
			row("licence", "%s", i.License)
		}
		row("family", "%s", i.Family)
		row("configuration", "%s", i.Model)
		row("schedule", "%s, %d steps", i.Schedule.Kind, i.Schedule.T)
		variance := ""
		if i.LearnedRange {
			variance = ", with a learned variance"
		}
		row("predicts", "%s%s", i.Prediction, variance)
		row("pictures", "%s in [%g, %g], trained at %d pixels", i.Color, i.ValueRange[0], i.ValueRange[1], i.ImageSize)
		if r.Memory > 0 {
			row("memory to run", "about %d MB at %d x %d", r.Memory>>20, i.ImageSize, i.ImageSize)
		}
		for _, g := range i.Guesses {
			row("guessed", "%s", g)
		}
	}
	row("parameters", "%d in %d tensors (%s), %.1f MB", r.Parameters, r.Tensors, strings.Join(types, ", "), float64(r.Bytes)/1e6)
}

func operatorText(s solver.Spec) string {
	text := s.Kind
	switch s.Kind {
	case "inpaint":
		text += fmt.Sprintf(", %d of %d pixels missing", s.Masks[0].Missing(), len(s.Masks[0].Known))
	case "downsample":
		text += fmt.Sprintf(" by %d", s.Factor)
	case "blur":
		text += fmt.Sprintf(" with a kernel of %d x %d", s.Kernel.W, s.Kernel.H)
	case "compose":
		var parts []string
		for _, p := range s.Parts {
			parts = append(parts, operatorText(p))
		}
		text = strings.Join(parts, ", then ")
	}
	if s.Note != "" {
		text += " (" + s.Note + ")"
	}
	return text
}
