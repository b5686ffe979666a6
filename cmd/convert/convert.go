package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/weights"
)

// options are the flags.
type options struct {
	input, output, preset, config, family, dtype string
	component, to, variant, shard, lpipsHeads    string
	ema                                          bool
	zstd, dryRun, printConfig, force, json       bool

	heads, headChannels, imageSize int
	newOrder                       bool
	prediction, schedule           string
	scaleFactor                    float64

	maxShard int64 // bytes, from shard
}

// check finds what is wrong with the command line itself.
func (o *options) check() error {
	if o.preset != "" {
		if _, ok := checkpoint.FindPreset(o.preset); !ok {
			return usage("--preset %q: expected one of %s", o.preset, strings.Join(checkpoint.PresetNames(), ", "))
		}
	}
	if o.component != "" && o.component != checkpoint.RoleUNet && o.component != checkpoint.RoleFirstStage {
		return usage("--component %q: expected %s or %s", o.component, checkpoint.RoleUNet, checkpoint.RoleFirstStage)
	}
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
	case o.heads < 0 || o.headChannels < 0 || o.imageSize < 0 || o.scaleFactor < 0:
		return usage("--heads, --head-channels, --image-size and --scale-factor are positive numbers")
	case o.heads > 0 && o.headChannels > 0:
		return usage("--heads and --head-channels exclude each other")
	case !slices.Contains([]string{"", "eps", "v", "x0"}, o.prediction):
		return usage("--prediction %q: expected eps, v or x0", o.prediction)
	case !slices.Contains([]string{"", "linear", "cosine", "ldm", "sd"}, o.schedule):
		return usage("--schedule %q: expected linear, cosine, ldm or sd", o.schedule)
	case !slices.Contains([]string{"", "guided", "diffusers"}, o.to):
		return usage("--to %q: expected guided or diffusers", o.to)
	}
	if _, ok := dtypes[o.dtype]; !ok {
		return usage("--dtype %q: expected f32, f16 or bf16", o.dtype)
	}
	if o.family == familyLPIPS {
		return o.checkLPIPS()
	}
	if o.lpipsHeads != "" {
		return usage("--lpips-heads goes with --family lpips")
	}
	if o.family != "" && !slices.Contains(checkpoint.Sources(), o.family) {
		return usage("--family %q: expected one of %s, %s", o.family, strings.Join(checkpoint.Sources(), ", "), familyLPIPS)
	}
	if o.shard != "" {
		var err error
		if o.maxShard, err = parseSize(o.shard); err != nil {
			return usage("--max-shard-size %q: expected a size as 2GB or 500MB", o.shard)
		}
		if o.zstd || strings.HasSuffix(o.output, ".zst") {
			return usage("--max-shard-size and compression exclude each other")
		}
	}
	return nil
}

// parseSize reads 2GB, 500MB, 150KB or a number of bytes; a thousand is a thousand, as in other tools of this kind.
func parseSize(s string) (int64, error) {
	var n int64
	var unit string
	if k, err := fmt.Sscanf(strings.ToUpper(s), "%d%s", &n, &unit); k < 1 || err != nil && k != 1 {
		return 0, fmt.Errorf("not a size")
	}
	factor, ok := map[string]int64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
	if !ok || n < 1 || n > 1<<40 {
		return 0, fmt.Errorf("not a size")
	}
	return n * factor, nil
}

// dtypes maps the flag; "" keeps the type.
var dtypes = map[string]weights.DType{"": "", "f32": weights.F32, "f16": weights.F16, "bf16": weights.BF16}

// checkpointOptions are what the flags say about the input.
func (o options) checkpointOptions() (checkpoint.Options, error) {
	c := checkpoint.Options{
		Source: o.family, Preset: o.preset, RawWeights: !o.ema, Variant: o.variant,
		Heads: o.heads, HeadChannels: o.headChannels, NewAttentionOrder: o.newOrder, ImageSize: o.imageSize,
		Prediction: o.prediction, Schedule: o.schedule, ScaleFactor: o.scaleFactor,
	}
	if o.config != "" {
		b, err := os.ReadFile(o.config)
		if err != nil {
			return c, err
		}
		info, err := weights.ParseInfo(b)
		if err != nil {
			return c, fmt.Errorf("%s: %w", o.config, err)
		}
		c.Config = &info
	}
	return c, nil
}

func convert(ctx context.Context, o options, stdout, stderr io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.printConfig {
		return o.print(stdout)
	}
	if o.family == familyLPIPS {
		return convertLPIPS(o, stdout)
	}
	in, err := o.checkpointOptions()
	if err != nil {
		return err
	}
	m, err := checkpoint.Open(o.input, in)
	if err != nil {
		return err
	}
	defer m.Close()
	chosen := m.Components
	if o.component != "" {
		c, ok := m.Component(o.component)
		if !ok {
			return fmt.Errorf("%s: holds no %s, only %s", o.input, o.component, m.Components[0].Role)
		}
		chosen = []checkpoint.Component{c}
	}
	jobs, err := o.plan(chosen)
	if err != nil {
		return err
	}
	r := report{Input: o.input, DryRun: o.dryRun, Notes: m.Notes, LeftOut: len(m.LeftOut)}
	if o.dryRun {
		if err := try(ctx, stderr, jobs); err != nil {
			return fmt.Errorf("%s: %w", o.input, err)
		}
	} else {
		if err := write(ctx, stderr, jobs, o); err != nil {
			return err
		}
		r.Output = o.output
	}
	if err := r.fill(jobs, o.dryRun); err != nil {
		return err
	}
	return r.print(stdout, o.json)
}

// print writes the configuration of a preset.
func (o options) print(stdout io.Writer) error {
	p, _ := checkpoint.FindPreset(o.preset)
	for _, i := range []*weights.Info{p.UNet, p.FirstStage} {
		if i != nil && (o.component == "" || (o.component == checkpoint.RoleUNet) == (i == p.UNet)) {
			return printJSON(stdout, i)
		}
	}
	return usage("preset %s has no %s", o.preset, o.component)
}

// job is one component on its way into one file, or one folder.
type job struct {
	component checkpoint.Component
	list      []weights.Planned
	metadata  map[string]string
	config    []byte // config.json beside it
	path      string // "" in a dry run without -o
	folder    bool   // its folder is made if it is not there
	files     []file
}

// plan says what goes where.
func (o options) plan(list []checkpoint.Component) ([]job, error) {
	folder := strings.HasSuffix(o.output, "/") || strings.HasSuffix(o.output, string(filepath.Separator)) || o.to == "diffusers"
	if len(list) > 1 && o.output != "" && !folder {
		if ext := filepath.Ext(o.output); ext == ".safetensors" || ext == ".zst" {
			return nil, usage("the input holds %d networks: give a folder (-o %s/), or --component", len(list), strings.TrimSuffix(o.output, ext))
		}
		folder = true
	}
	var jobs []job
	for _, c := range list {
		j := job{component: c, folder: folder}
		switch o.to {
		case "diffusers":
			var err error
			if j.config, j.list, err = c.Diffusers(dtypes[o.dtype]); err != nil {
				return nil, fmt.Errorf("%s: %w", o.input, err)
			}
			j.metadata = map[string]string{"format": "pt"}
		case "guided":
			j.list, j.metadata = c.Plan(dtypes[o.dtype]), map[string]string{"format": "pt"}
		default:
			j.list, j.metadata = c.Plan(dtypes[o.dtype]), c.Info.Metadata()
		}
		if o.output != "" {
			switch {
			case o.to == "diffusers" && len(list) == 1:
				j.path = filepath.Join(o.output, "diffusion_pytorch_model.safetensors")
			case o.to == "diffusers":
				part := map[string]string{checkpoint.RoleUNet: "unet", checkpoint.RoleFirstStage: "vae"}[c.Role]
				j.path = filepath.Join(o.output, part, "diffusion_pytorch_model.safetensors")
			case folder:
				j.path = filepath.Join(o.output, c.Role+".safetensors")
			default:
				j.path = o.output
			}
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
