package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/tensor"
)

func newCheck() *cobra.Command {
	var dev deviceFlags
	var weightsFile, save string
	var asJSON bool
	c := &cobra.Command{
		Use:   "check [flags] CASE...",
		Short: "Compare networks, operators and whole runs with outputs saved from another implementation",
		Long: `check runs cases: folders that hold case.json (kind, configuration, tolerances), io.safetensors (inputs and expected
outputs, NCHW) and weights. It prints every array's error beside its tolerance and ends with exit code 1 if one is outside,
or if nothing could be compared; what this version cannot compute is skipped, which it says.
docs/parity.md shows the few lines of Python that write a case from a PyTorch model.`,
		Example: `  spin-native check fixtures/gd_class_cond
  spin-native check --save computed fixtures/gd_*
  spin-native check --weights converted.safetensors mycase`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("check takes one case folder or more; see spin-native check --help")
			}
			return nil
		},
		RunE: func(c *cobra.Command, dirs []string) error {
			d, err := dev.open(c)
			if err != nil {
				return err
			}
			defer d.Close()
			type caseResult struct {
				Case    string          `json:"case"`
				OK      bool            `json:"ok"`
				Error   string          `json:"error,omitempty"`
				Skipped string          `json:"skipped,omitempty"` // why nothing in it was computed
				Results []parity.Result `json:"results"`
			}
			var all []caseResult
			outside, compared := 0, 0
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
			for _, dir := range dirs {
				if err := c.Context().Err(); err != nil {
					return err
				}
				res := caseResult{Case: filepath.Base(filepath.Clean(dir)), OK: true}
				results, err := checkCase(d, dir, weightsFile, save)
				switch {
				case errors.Is(err, parity.ErrUnsupported):
					res.Skipped = oneLine(err)
				case err != nil:
					res.OK, res.Error = false, oneLine(err)
					outside++
				}
				if err != nil && !asJSON {
					verdict := "ERROR"
					if res.Skipped != "" {
						verdict = "skip"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, res.Case, oneLine(err))
				}
				for _, r := range results {
					verdict := "ok"
					switch {
					case r.Skipped != "":
						verdict = "skip"
					case !r.OK():
						verdict, res.OK = "FAIL", false
						outside++
					}
					if r.Skipped == "" {
						compared++
					}
					if asJSON {
						continue
					}
					if r.Skipped != "" {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", verdict, res.Case, r.Weights, r.Array, r.Skipped)
						continue
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\tmax abs %.2g (%.2g)\trel L2 %.2g (%.2g)\n", verdict, res.Case, r.Weights, r.Array, r.MaxAbs, r.Limit.MaxAbs, r.RelL2, r.Limit.RelL2)
				}
				res.Results = results
				all = append(all, res)
			}
			if asJSON {
				if err := writeJSON(c.OutOrStdout(), all); err != nil {
					return err
				}
			} else if err := w.Flush(); err != nil {
				return err
			}
			if outside > 0 {
				return fmt.Errorf("check: %d of the results are missing or outside their tolerance", outside)
			}
			if compared == 0 {
				return errors.New("check: nothing in these cases can be computed by this version")
			}
			return nil
		},
	}
	dev.register(c)
	c.Flags().StringVar(&weightsFile, "weights", "", "use these weights in place of those that the cases list")
	c.Flags().StringVar(&save, "save", "", "store the computed arrays in `DIR`/<case>/<k>.safetensors for the k-th weights file")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON array on standard output")
	return c
}

// checkCase runs one case and stores what it computed.
func checkCase(d *tensor.Device, dir, weightsFile, save string) ([]parity.Result, error) {
	k, err := parity.Load(dir)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	results, saved, err := k.Run(d, weightsFile)
	if err != nil {
		return results, err
	}
	if save != "" {
		for i, s := range saved {
			if len(s) == 0 {
				continue
			}
			err := s.Write(filepath.Join(save, filepath.Base(filepath.Clean(dir)), strconv.Itoa(i)+".safetensors"))
			if err != nil {
				return results, err
			}
		}
	}
	for _, r := range results {
		if r.Skipped == "" {
			return results, nil
		}
	}
	return results, fmt.Errorf("everything in this case is %w", parity.ErrUnsupported)
}
