package main

import (
	"fmt"
	"strconv"

	"github.com/spin-native/spin/solver"
)

// sigmaValue is the flag --sigma: a number, or auto.
type sigmaValue struct{ *taskFlags }

func (v *sigmaValue) String() string {
	if v.taskFlags == nil { // as the flag package asks for the zero value
		return "0"
	}
	if v.auto {
		return "auto"
	}
	return strconv.FormatFloat(v.sigma, 'g', -1, 64)
}

func (v *sigmaValue) Set(s string) (err error) {
	if v.auto = s == "auto"; v.auto {
		return nil
	}
	if v.sigma, err = strconv.ParseFloat(s, 64); err != nil {
		return fmt.Errorf("expected a number such as 0.05, or auto")
	}
	return nil
}

func (*sigmaValue) Type() string { return "S" }

// estimateNoise sets the noise level of a measurement from itself. Where there may be none at all, the task's usual level is
// taken if it is less.
func (f *reconstructFlags) estimateNoise(m *solver.Measurement) error {
	e, err := solver.EstimateNoise(m)
	if err != nil {
		return fmt.Errorf("--sigma auto: %w", err)
	}
	f.noise, m.Sigma = &e, e.Sigma
	if e.Low == 0 && m.Operator.Kind != "denoise" && len(f.chain) > 0 {
		m.Sigma = min(m.Sigma, f.usualSigma())
	}
	return nil
}
