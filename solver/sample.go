package solver

import (
	"context"
	"fmt"
	"slices"

	"github.com/spin-native/spin/tensor"
)

// warmImage is where the noise of the shared phase 1 lies in a seed's sequence of images: far from that of the samples.
const warmImage = 1 << 30

// Sample makes n reconstructions of one image that share phase 1: it runs once, and phase 2 runs n times from what it
// found, each with noise of its own. That costs K1 + n P denoiser calls on an image in place of n (K1 + P). The samples
// differ by what phase 2 draws only; where something must be invented they are less different from one another than
// those of Spin on a batch of n equal measurements, which begin apart. Where the start is Noisy, more than one sample take the
// whole budget of s.Calls: a few calls lead to the mean of what is plausible, which is the same for all. Result.Calls counts calls on the batch as one, as ever.
func Sample(ctx context.Context, p Problem, den Denoiser, s Settings, n int) (res *Result, err error) {
	defer tensor.Catch(&err)
	if n < 1 || p.Y == nil || p.Y.N() != 1 {
		return nil, fmt.Errorf("solver.Sample: %d samples of %v, expected at least one of one measurement", n, p.Y)
	}
	schedule := s.Schedule
	if schedule == nil {
		schedule = scheduleOf(den)
	}
	budget := s.Calls
	s.Parameters, s.Calls = s.parameters(p, schedule), 0
	if s.Noisy && n > 1 {
		s.P, s.Most = max(s.P, budget), 0
	}
	if s.Restarts == 0 {
		s.Restarts = restartsOf(taskOf(p.Operator))
	}
	d := p.Y.Device()
	var x0 *tensor.Tensor
	defer d.Tidy(&x0)()
	many := p
	many.Y = repeated(p.Y, n)
	var warm *Result
	total := s.Restarts*s.K1 + len(Grid(s.TStar, s.TLow, s.P, or(s.Power, 2)))
	progress := s.Progress
	report := func(before int) func(Progress) {
		if progress == nil {
			return nil
		}
		return func(at Progress) {
			at.Step, at.Total = at.Step+before, total
			if warm != nil {
				at.Elapsed += warm.Elapsed
			}
			progress(at)
		}
	}
	if s.K1 > 0 {
		first := s
		first.P, first.First = 0, warmImage // whichever part of the samples this is
		first.Progress = report(0)
		first.Final, first.Keep = false, false
		if warm, err = Spin(ctx, p, den, first); warm == nil {
			return nil, err
		}
		many.Start = repeated(warm.X0, n)
		if err != nil { // cut short: the best so far is the same n times
			warm.X0, x0 = many.Start, many.Start
			for range n - 1 {
				warm.Residual = append(warm.Residual, warm.Residual[0])
				warm.Certificates = append(warm.Certificates, warm.Certificates[0])
			}
			return warm, err
		}
	}
	s.Progress, s.K1, s.Restarts = report(s.Restarts*s.K1), 0, 1 // where to start has been chosen
	res, err = Spin(ctx, many, den, s)
	if res == nil {
		return nil, err
	}
	x0 = res.X0
	if warm != nil {
		res.Timesteps = slices.Concat(warm.Timesteps, res.Timesteps)
		res.Parameters.K1 = warm.Parameters.K1
		res.Add(warm)
	}
	return res, err
}

// Add counts what another run for the same measurement has taken: calls, corrections and times. What the run made is left out.
func (r *Result) Add(o *Result) {
	r.Calls += o.Calls
	r.Short = r.Short || o.Short
	r.Corrections += o.Corrections
	r.OperatorCalls += o.OperatorCalls
	r.Elapsed += o.Elapsed
	r.Denoising += o.Denoising
	r.Correcting += o.Correcting
	r.Encodes += o.Encodes
	r.Decodes += o.Decodes
	r.Encoding += o.Encoding
	r.Decoding += o.Decoding
}

// repeated is the image x, n times.
func repeated(x *tensor.Tensor, n int) *tensor.Tensor {
	d := x.Device()
	return d.Blend(d.New(n, x.H(), x.W(), x.C()), tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}}})
}
