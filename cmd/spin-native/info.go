package main

import (
	"fmt"
	"io"
	"runtime"
	"sort"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/internal/lpips"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/weights"
)

// infoReport is what --json prints about a file.
type infoReport struct {
	File       string           `json:"file"`
	Kind       string           `json:"kind"` // networks, measurement, lpips or tensors
	Components []componentTable `json:"components,omitempty"`
	Prior      *priorTable      `json:"prior,omitempty"` // what the networks are together, as a prior for pictures
	Notes      []string         `json:"notes,omitempty"` // what was left out or chosen
	LeftOut    []string         `json:"left_out,omitempty"`

	LPIPS *lpips.Info `json:"lpips,omitempty"`

	measurement *solver.Measurement
}

// priorTable is how the networks of a file work together, or why they are no prior.
type priorTable struct {
	Latent       bool   `json:"latent"`
	Downsampling int    `json:"downsampling,omitempty"` // between pictures and latents
	Multiple     int    `json:"multiple,omitempty"`     // sizes of pictures are padded to multiples of it
	Classes      int    `json:"classes,omitempty"`
	Problem      string `json:"problem,omitempty"`

	Size   int           `json:"size,omitempty"`   // edge of the picture that Memory is for
	Memory *memoryReport `json:"memory,omitempty"` // of one call, for a latent prior with the way through its first stage
	TooBig string        `json:"too_big,omitempty"`

	plan plan
}

func (p priorTable) String() string {
	if p.Problem != "" {
		return "no: " + p.Problem
	}
	text := "for pictures"
	if p.Latent {
		text = fmt.Sprintf("for pictures, on latents %d times smaller", p.Downsampling)
	}
	if p.Classes > 0 {
		text += fmt.Sprintf(", with a class (--label 0 to %d)", p.Classes-1)
	}
	return text + fmt.Sprintf("; sizes are padded to multiples of %d", p.Multiple)
}

// componentTable is one network of a file.
type componentTable struct {
	Role       string             `json:"role"`
	Info       *weights.Info      `json:"info,omitempty"`
	Tensors    int                `json:"tensors"`
	Parameters int64              `json:"parameters"`
	DTypes     map[string]int     `json:"dtypes"` // tensors of each
	Bytes      int64              `json:"bytes"`
	Blocks     []checkpoint.Block `json:"blocks"`
	Memory     *memoryTable       `json:"memory,omitempty"` // absent where this version cannot run it

	list []weights.Tensor
}

// memoryTable is what one call on one picture, or latent, of the network's own size takes, or a picture's way through a
// first stage and back, in bytes.
type memoryTable struct {
	dryrun.Memory
	Total   int64  `json:"total"`
	Threads int    `json:"threads"`
	Device  string `json:"device"`
}

func tableOf(c dryrun.Cost) *memoryTable {
	return &memoryTable{c.Memory, c.Memory.Total(), runtime.GOMAXPROCS(0), c.Device}
}

func newInfo() *cobra.Command {
	var asJSON, tensors bool
	var preset string
	var size int
	var memory memoryFlag
	var dev deviceFlags
	c := &cobra.Command{
		Use:   "info FILE",
		Short: "Tell what a file of weights or a measurement holds",
		Long: `info tells what a file or folder holds: networks with family, configuration, number of parameters and memory to run, and
which of that is a guess; or a measurement with its operator and noise. It reads converted files, safetensors, .pt and .ckpt
and diffusers folders, and runs nothing that is in them. FILE "photo" is the built-in prior, "photo-latent" the
built-in latent one.

Of a prior it tells what one call takes on a picture of --size, and how a first stage would get along with the memory that
there is, or with --max-memory; on the device and in the number format that a reconstruction would be told. A whole one takes little more.`,
		Example: `  spin-native info photo
  spin-native info photo-latent
  spin-native info --tensors ffhq_10m.pt
  spin-native info --size 4096 --max-memory 8000 model.ckpt
  spin-native info --device cuda --dtype f16 model.ckpt
  spin-native info y.safetensors`,
		Args: exactArgs(1, "one file"),
		RunE: func(c *cobra.Command, args []string) error {
			if size < 0 || size > 1<<16 {
				return usagef("--size %d: expected 1 to %d", size, 1<<16)
			}
			if err := dev.choose(c); err != nil {
				return err
			}
			r, closer, err := inspect(args[0], preset, dev.machine())
			if err != nil {
				return err
			}
			defer closer.Close()
			if r.Prior != nil && r.Prior.Problem == "" {
				if err := r.Prior.fill(priorFlags{path: args[0], preset: preset, label: noLabel}, dev, memory, size); err != nil {
					return err
				}
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), r)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
			r.print(w, tensors)
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object on standard output")
	c.Flags().BoolVar(&tensors, "tensors", false, "also list every block, and every tensor with its type and shape")
	c.Flags().IntVar(&size, "size", 0, "edge of a picture in pixels, to tell the memory that it takes (default: what the prior was trained on)")
	memory.register(c)
	dev.register(c)
	c.Flags().StringVar(&preset, "preset", "", "what a raw checkpoint does not tell, by its model's `NAME`")
	return c
}

// inspect reads a file. The closer ends the tensors of the report.
func inspect(name, preset string, on dryrun.Machine) (r *infoReport, closer io.Closer, err error) {
	r = &infoReport{File: name}
	if f, err := weights.Open(name); err == nil && !isBuiltin(name) {
		if solver.IsMeasurement(f) {
			r.Kind = "measurement"
			if r.measurement, err = solver.ReadMeasurement(f); err != nil {
				f.Close()
				return nil, nil, err
			}
			return r, f, nil
		}
		if lpips.Is(f) {
			r.Kind = "lpips"
			if r.LPIPS, err = lpips.ReadInfo(f); err != nil {
				f.Close()
				return nil, nil, err
			}
			return r, f, nil
		}
		f.Close()
	}
	m, err := openModel(name, checkpoint.Options{Preset: preset})
	if err != nil {
		return nil, nil, err
	}
	r.Kind, r.Notes, r.LeftOut = "networks", m.Notes, m.LeftOut
	for _, c := range m.Components {
		r.Components = append(r.Components, tabulate(c.Role, &c.Info, c.Tensors))
	}
	if _, ok := m.Component(checkpoint.RoleUNet); ok {
		r.stack(m.Stack())
	}
	if err := r.memory(on); err != nil {
		m.Close()
		return nil, nil, err
	}
	return r, m, nil
}

// stack tells what the networks are together.
func (r *infoReport) stack(s checkpoint.Stack, err error) {
	if err != nil {
		r.Prior = &priorTable{Problem: err.Error()}
		return
	}
	r.Prior = &priorTable{Latent: s.FirstStage != nil, Downsampling: s.Downsampling, Multiple: s.Multiple, Classes: s.Classes}
	r.Notes = append(r.Notes, s.Notes...)
}

// fill tells what one call on a picture of the given edge takes.
func (p *priorTable) fill(prior priorFlags, dev deviceFlags, memory memoryFlag, size int) error {
	file, err := prior.open()
	if err != nil {
		return err
	}
	defer file.close()
	file.label = 0 // all of them cost the same
	if p.Size = size; size == 0 {
		p.Size = file.info.ImageSize * file.stack.Downsampling
	}
	plan, err := memory.plan(dev, file.tilings(p.Size, p.Size), 1, p.Size, p.Size, hostPictures(1, p.Size, p.Size), func(t nn.Tiling) (dryrun.Cost, error) {
		return file.cost(dev.machine(), t, 1, p.Size, p.Size)
	})
	if plan.cost.Memory.Total() == 0 {
		return err // before anything was rehearsed
	}
	if err != nil {
		p.TooBig = err.Error()
	}
	r := plan.report()
	p.Memory, p.plan = &r, plan
	return nil
}

// memory fills in what the networks of the file take to run, where this version can run them.
func (r *infoReport) memory(on dryrun.Machine) error {
	for i, c := range r.Components {
		cost, err := checkpoint.Component{Info: *c.Info, Tensors: c.list}.Cost(on)
		if err != nil {
			return fmt.Errorf("%s: %w", r.File, err)
		}
		if cost.Memory.Total() > 0 {
			r.Components[i].Memory = tableOf(cost)
		}
	}
	return nil
}

func tabulate(role string, info *weights.Info, list []weights.Tensor) componentTable {
	c := componentTable{Role: role, Info: info, Tensors: len(list), DTypes: map[string]int{}, list: list}
	for _, t := range list {
		c.Parameters += int64(t.Len())
		c.Bytes += int64(len(t.Data))
		c.DTypes[string(t.DType)]++
	}
	c.Blocks = checkpoint.Blocks(func(yield func(string, int64) bool) {
		for _, t := range list {
			if !yield(t.Name, int64(t.Len())) {
				return
			}
		}
	})
	return c
}

func (r *infoReport) print(w *tabwriter.Writer, tensors bool) {
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("file", "%s", r.File)
	if m := r.measurement; m != nil {
		row("kind", "measurement")
		row("operator", "%s", operatorText(m.Operator))
		row("measured", "%d picture(s) of %d x %d, %d channels", m.Shape[0], m.Shape[3], m.Shape[2], m.Shape[1])
		row("picture behind it", "%d x %d, %d channels, in [-1, 1]", m.Image[2], m.Image[1], m.Image[0])
		row("noise", "standard deviation %g, seed %d", m.Sigma, m.Seed)
		return
	}
	if i := r.LPIPS; i != nil {
		row("kind", "weights of LPIPS %s with %s, for spin-native evaluate --lpips", i.Version, i.Net)
		return
	}
	for _, c := range r.Components {
		i := c.Info
		fmt.Fprintln(w)
		row("network", "%s", strings.TrimSpace(c.Role+"  "+i.Name+" "+i.Version))
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
		if i.Downsampling > 0 {
			row("latents", "of pictures %d times larger", i.Downsampling)
		}
		row("pictures", "%s in [%g, %g], trained at %d pixels", i.Color, i.ValueRange[0], i.ValueRange[1], i.ImageSize)
		if m := c.Memory; m != nil {
			what := "picture"
			if i.Family == checkpoint.FamilyLatent {
				what = "latent"
			}
			row("memory to run", "%s at %d x %d (1 %s, %d threads, %s)", m.Memory, i.ImageSize, i.ImageSize, what, m.Threads, m.Device)
		}
		var types []string
		for t, n := range c.DTypes {
			types = append(types, fmt.Sprintf("%d %s", n, t))
		}
		sort.Strings(types)
		row("parameters", "%d in %d tensors (%s), %.1f MB", c.Parameters, c.Tensors, strings.Join(types, ", "), float64(c.Bytes)/1e6)
		for _, g := range i.Guesses {
			row("guess", "%s", g)
		}
		if tensors {
			for _, b := range c.Blocks {
				row("block "+b.Name, "%d parameters in %d tensors", b.Parameters, b.Tensors)
			}
			for _, t := range c.list {
				fmt.Fprintf(w, "  %s\t%s %v\n", t.Name, t.DType, t.Shape)
			}
		}
	}
	if r.Prior != nil {
		fmt.Fprintln(w)
		row("as a prior", "%s", r.Prior)
		if p := r.Prior; p.TooBig != "" {
			row("too big", "%s", p.TooBig)
		} else if p.Memory != nil {
			stage := ""
			if p.Latent {
				stage = "; first stage " + p.plan.String()
			}
			row("memory as a prior", "%s + pictures %d MB at %d x %d%s", p.plan.cost.Memory, p.plan.pictures>>20, p.Size, p.Size, stage)
		}
	}
	for _, n := range r.Notes {
		row("note", "%s", n)
	}
}

func operatorText(s solver.Spec) string {
	text := s.String()
	for _, p := range append([]solver.Spec{s}, s.Parts...) {
		if p.Note != "" {
			text += " (" + p.Note + ")"
		}
	}
	return text
}
