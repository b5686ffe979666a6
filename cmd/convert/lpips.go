package main

import (
	"fmt"
	"io"

	"github.com/spin-native/spin/internal/atomicfile"
	"github.com/spin-native/spin/internal/lpips"
	"github.com/spin-native/spin/weights"
)

// familyLPIPS is a value of --family that is no diffusion network: a backbone with the linear heads of LPIPS.
const familyLPIPS = "lpips"

// lpipsReport is what --json prints of it.
type lpipsReport struct {
	Input      string     `json:"input"`
	Output     string     `json:"output,omitempty"`
	DryRun     bool       `json:"dry_run"`
	Tensors    int        `json:"tensors"`
	Parameters int64      `json:"parameters"`
	Info       lpips.Info `json:"info"`
}

// checkLPIPS finds the flags that have no meaning for it.
func (o *options) checkLPIPS() error {
	if o.preset != "" || o.config != "" || o.component != "" || o.to != "" || o.shard != "" || o.zstd {
		return usage("--family lpips takes -i, --lpips-heads, -o, --dtype, --dry-run, --force and --json only")
	}
	return nil
}

// convertLPIPS joins a backbone and its heads in one file.
func convertLPIPS(o options, stdout io.Writer) error {
	w, err := lpips.Read(o.input, o.lpipsHeads)
	if err != nil {
		return fmt.Errorf("%s: %w", o.input, err)
	}
	defer w.Close()
	r := lpipsReport{Input: o.input, DryRun: o.dryRun, Tensors: len(w.Tensors), Info: w.Info}
	list := make([]weights.Tensor, len(w.Tensors))
	for i, t := range w.Tensors {
		if err := t.CheckFinite(); err != nil {
			return fmt.Errorf("%s: tensor %s: %w", o.input, t.Name, err)
		}
		if list[i] = t; o.dtype != "" {
			if list[i], err = t.To(dtypes[o.dtype]); err != nil {
				return fmt.Errorf("%s: tensor %s: %w", o.input, t.Name, err)
			}
		}
		r.Parameters += elements(t.Shape)
	}
	if !o.dryRun {
		if err := atomicfile.RefuseExisting(o.output, o.force); err != nil {
			return err
		}
		if err := weights.Write(o.output, list, w.Metadata()); err != nil {
			return err
		}
		r.Output = o.output
	}
	if o.json {
		return printJSON(stdout, r)
	}
	where := r.Output
	if o.dryRun {
		where = "nothing written"
	}
	_, err = fmt.Fprintf(stdout, "%s: LPIPS %s with %s, %d tensors, %.1f M parameters\n", where, r.Info.Version, r.Info.Net, r.Tensors, float64(r.Parameters)/1e6)
	return err
}
