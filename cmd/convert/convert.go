package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spin-native/spin/internal/atomicfile"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// options are the flags.
type options struct {
	input, output, preset, config, family, dtype string
	zstd, dryRun, printConfig, force, json       bool
}

// check finds what is wrong with the command line itself.
func (o options) check() error {
	switch {
	case o.printConfig && o.preset == "":
		return usage("--print-config needs --preset")
	case o.printConfig:
		return nil
	case o.input == "":
		return usage("no input: give it with -i FILE")
	case o.output == "" && !o.dryRun:
		return usage("no output: give it with -o FILE, or use --dry-run")
	case o.preset != "" && o.config != "":
		return usage("--preset and --config exclude each other")
	}
	if _, ok := dtypes[o.dtype]; !ok {
		return usage("--dtype %q: expected f32, f16 or bf16", o.dtype)
	}
	if o.preset != "" {
		if _, ok := presets[o.preset]; !ok {
			return usage("--preset %q: expected one of %s", o.preset, strings.Join(presetNames(), ", "))
		}
	}
	if o.family != "" && !slices.Contains(sourceNames(), o.family) {
		return usage("--family %q: expected one of %s", o.family, strings.Join(sourceNames(), ", "))
	}
	return nil
}

// dtypes maps the flag; "" keeps the type.
var dtypes = map[string]weights.DType{"": "", "f32": weights.F32, "f16": weights.F16, "bf16": weights.BF16}

// report is what --json prints.
type report struct {
	Input      string       `json:"input"`
	Output     string       `json:"output,omitempty"`
	DryRun     bool         `json:"dry_run"`
	Tensors    int          `json:"tensors"`
	Parameters int64        `json:"parameters"`
	DataBytes  int64        `json:"data_bytes"`           // before compression
	FileBytes  int64        `json:"file_bytes,omitempty"` // as written
	Info       weights.Info `json:"info"`
	List       []row        `json:"list,omitempty"` // of a dry run
}

type row struct {
	Name  string        `json:"name"`
	From  string        `json:"from,omitempty"` // the name in the input, where it differs
	Was   weights.DType `json:"was"`
	DType weights.DType `json:"dtype"`
	Shape []int         `json:"shape"`
}

func convert(ctx context.Context, o options, stdout io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.printConfig {
		return printJSON(stdout, presets[o.preset])
	}
	if !o.dryRun {
		if err := atomicfile.RefuseExisting(o.output, o.force); err != nil {
			return err
		}
	}
	in, err := open(o.input)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := chooseInfo(o, in)
	if err != nil {
		return err
	}
	src, err := chooseSource(o.family, info)
	if err != nil {
		return err
	}
	list, rows, err := translate(ctx, in, src, dtypes[o.dtype])
	if err != nil {
		return err
	}
	if err := src.check(info, list); err != nil {
		return fmt.Errorf("%s: %w", o.input, err)
	}

	r := report{Input: o.input, DryRun: o.dryRun, Tensors: len(list), Info: info}
	for _, t := range list {
		r.Parameters += int64(t.Len())
		r.DataBytes += int64(len(t.Data))
	}
	if o.dryRun {
		r.List = rows
		return r.print(stdout, o.json)
	}
	encode := weights.Encode
	if o.zstd || strings.HasSuffix(o.output, ".zst") {
		encode = weights.EncodeZstd
	}
	err = atomicfile.WriteFile(o.output, func(w io.Writer) error {
		return encode(interruptible{ctx, w}, list, info.Metadata())
	})
	if err != nil {
		return err
	}
	r.Output = o.output
	if st, err := os.Stat(o.output); err == nil {
		r.FileBytes = st.Size()
	}
	return r.print(stdout, o.json)
}

// open adds to the reader's own advice what only the name tells.
func open(path string) (*weights.File, error) {
	f, err := weights.Open(path)
	ext := strings.ToLower(filepath.Ext(path))
	if errors.Is(err, weights.ErrFormat) && slices.Contains([]string{".pt", ".pth", ".ckpt", ".bin"}, ext) {
		return nil, fmt.Errorf("%s: a PyTorch checkpoint cannot be read yet: convert it first to safetensors, for example with safetensors.torch.save_file", path)
	}
	return f, err
}

// chooseInfo takes the configuration from the preset, the file given, or the input itself.
func chooseInfo(o options, in *weights.File) (weights.Info, error) {
	switch {
	case o.preset != "":
		return presets[o.preset], nil
	case o.config != "":
		b, err := os.ReadFile(o.config)
		if err != nil {
			return weights.Info{}, err
		}
		info, err := weights.ParseInfo(b)
		if err != nil {
			return info, fmt.Errorf("%s: %w", o.config, err)
		}
		return info, nil
	}
	info, err := in.Info()
	if errors.Is(err, weights.ErrNoInfo) {
		return info, usage("%s does not say which network it is: give --preset (%s) or --config FILE", o.input, strings.Join(presetNames(), ", "))
	}
	return info, err
}

func chooseSource(name string, info weights.Info) (*source, error) {
	for i, s := range sources {
		if s.family == info.Family && (name == "" || name == s.name) {
			return &sources[i], nil
		}
	}
	if name != "" {
		return nil, usage("--family %s does not fit the configuration, which is of family %s", name, info.Family)
	}
	return nil, fmt.Errorf("family %q is not known", info.Family)
}

// translate renames and converts, and refuses weights that are not finite.
func translate(ctx context.Context, in *weights.File, src *source, d weights.DType) (list []weights.Tensor, rows []row, err error) {
	defer tensor.Catch(&err)
	for _, from := range in.Names() {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		name, ok := src.rename(from)
		if !ok {
			continue
		}
		t, _ := in.Tensor(from)
		r := row{Name: name, Was: t.DType, Shape: t.Shape}
		if name != from {
			r.From = from
		}
		if t.DType.Float() {
			in.Scope().Floats(from, t.Shape...) // panics on a NaN, with a message that names it
			if d != "" {
				if t, err = t.To(d); err != nil {
					return nil, nil, err
				}
			}
		}
		t.Name, r.DType = name, t.DType
		list, rows = append(list, t), append(rows, r)
	}
	if len(list) == 0 {
		return nil, nil, fmt.Errorf("%s: no tensors", in.Path())
	}
	return list, rows, nil
}

// interruptible lets a signal end a long write between two blocks.
type interruptible struct {
	ctx context.Context
	w   io.Writer
}

func (i interruptible) Write(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.w.Write(p)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (r report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	var b strings.Builder
	for _, t := range r.List {
		was := string(t.Was)
		if t.Was != t.DType {
			was += "->" + string(t.DType)
		}
		fmt.Fprintf(&b, "%-10s %-20s %s", was, fmt.Sprint(t.Shape), printable(t.Name))
		if t.From != "" {
			fmt.Fprintf(&b, "  (was %s)", printable(t.From))
		}
		b.WriteByte('\n')
	}
	for _, g := range r.Info.Guesses {
		fmt.Fprintf(&b, "guessed: %s\n", printable(g))
	}
	what := strings.TrimSpace(r.Info.Name + " " + r.Info.Version)
	fmt.Fprintf(&b, "%s, %s: %d tensors, %d parameters, %.1f MB", printable(what), r.Info.Family, r.Tensors, r.Parameters, float64(r.DataBytes)/1e6)
	if r.Output != "" {
		fmt.Fprintf(&b, "; wrote %s, %.1f MB", r.Output, float64(r.FileBytes)/1e6)
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

// printable keeps a name from a file from playing with the terminal.
func printable(s string) string {
	if q := fmt.Sprintf("%q", s); q[1:len(q)-1] != s {
		return q
	}
	return s
}
