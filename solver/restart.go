package solver

import (
	"time"

	"github.com/spin-native/spin/tensor"
)

// restart runs an algorithm n times, each time with other noise and, where the operator is a Starter, from another first
// guess, and keeps, image by image, the result that explains its measurement best. It is for problems that are not convex,
// where a run may end in a wrong place: the measurement tells, and nobody has to know the truth.
//
// A run that the context ended counts with the picture that it has, and is the last. None begins after the deadline.
func restart(p Problem, n int, o Options, run func(Problem, Options) (*Result, error)) (best *Result, err error) {
	defer tensor.Catch(&err)
	if n < 1 || n > maxRestarts {
		tensor.Fail("solver.Settings", "%d restarts, expected 1 to %d", n, maxRestarts)
	}
	starter, ok := p.Operator.(Starter)
	if p.Y == nil || n == 1 && (!ok || p.Start != nil) {
		return run(p, o)
	}
	noise := o.Noise
	if noise == nil {
		noise = NewNoise(o.Seed)
	}
	var x0 *tensor.Tensor
	defer p.Y.Device().Tidy(&x0)()
	start := time.Now()
	for i := range n {
		if i > 0 && !o.Deadline.IsZero() && !time.Now().Before(o.Deadline) {
			best.Short = true
			break
		}
		from, options := p, o
		options.Noise = laterDraws{noise, i * drawsOfRun}
		if o.Progress != nil {
			options.Progress = func(v Progress) {
				v.Step, v.Total, v.Elapsed = v.Step+i*v.Total, v.Total*n, time.Since(start)
				o.Progress(v)
			}
		}
		if ok && p.Start == nil {
			from.Start = starter.Attempt(p.Y, o.Seed, i)
		}
		r, stopped := run(from, options)
		if r == nil {
			return nil, stopped
		}
		if best == nil {
			best = r
		} else {
			best.compare(r)
		}
		x0, best.Elapsed = best.X0, time.Since(start)
		for image, v := range r.Residual {
			if i == 0 {
				best.Attempts = append(best.Attempts, nil)
			}
			best.Attempts[image] = append(best.Attempts[image], v)
		}
		if stopped != nil {
			return best, stopped
		}
	}
	return best, nil
}

const maxRestarts = 1 << 8

// drawsOfRun is more than any run draws.
const drawsOfRun = 1 << 16

// laterDraws is the noise of another run of the same images.
type laterDraws struct {
	Noise
	first int
}

func (n laterDraws) Normal(dst []float32, image, draw int) { n.Noise.Normal(dst, image, n.first+draw) }

// compare takes over the images of o that explain their measurements better, and what o cost.
func (r *Result) compare(o *Result) {
	for i, v := range o.Residual {
		if v < r.Residual[i] {
			r.Residual[i], r.Certificates[i] = v, o.Certificates[i]
			r.X0.SetRows(i, 0, o.X0.Rows(i, 0, o.X0.H()))
		}
	}
	r.Timesteps = append(r.Timesteps, o.Timesteps...)
	r.Add(o)
}
