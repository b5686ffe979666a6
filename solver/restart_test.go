package solver

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Of several runs every image keeps the one that explains its measurement best, whatever the others of the batch do.
func TestRestarts(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "inpaint", 3)
	const n, calls = 4, 6
	steps, total := 0, 0
	s := Settings{Calls: calls, Restarts: n}
	s.Seed = 5
	s.Progress = func(v Progress) {
		require.Equal(t, steps+1, v.Step)
		steps, total = v.Step, v.Total
	}
	live := d.Stats().Live
	best, err := Spin(context.Background(), p, prior, s)
	require.NoError(t, err)
	require.Equal(t, n*calls, best.Calls)
	require.Equal(t, best.Calls, steps)
	require.Equal(t, best.Calls, total)
	require.Equal(t, live+4*int64(best.X0.Len()), d.Stats().Live)
	size := best.X0.Len() / best.X0.N()
	got := floats(t, best.X0)
	winners := map[int]bool{}
	for k := range n {
		alone := Settings{Calls: calls, Restarts: 1}
		alone.Noise = laterDraws{NewNoise(5), k * drawsOfRun}
		r, err := Spin(context.Background(), p, prior, alone)
		require.NoError(t, err)
		require.Equal(t, r.Parameters, best.Parameters)
		require.Equal(t, r.Timesteps, best.Timesteps[k*calls:(k+1)*calls])
		x := floats(t, r.X0)
		for i := range best.Residual {
			require.Equal(t, r.Residual[i], best.Attempts[i][k])
			if r.Residual[i] == best.Residual[i] {
				require.Equal(t, x[i*size:(i+1)*size], got[i*size:(i+1)*size])
				require.Equal(t, r.Certificates[i], best.Certificates[i])
				winners[k] = true
			}
		}
	}
	require.Greater(t, len(winners), 1, "the images of the batch have different winners with this seed")
	for i, attempts := range best.Attempts {
		require.Equal(t, slices.Min(attempts), best.Residual[i])
	}

	for _, n := range []int{-1, maxRestarts + 1} {
		_, err := Spin(context.Background(), p, prior, Settings{Restarts: n})
		require.Error(t, err)
	}
}

// A run that the context ends in the middle leaves the best of what there is.
func TestRestartsEnd(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "inpaint", 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := Settings{Calls: 6, Restarts: 4}
	s.Progress = func(v Progress) {
		if v.Step == 8 {
			cancel()
		}
	}
	r, err := Spin(ctx, p, prior, s)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 8, r.Calls)
	require.Len(t, r.Attempts[0], 2)
	require.Equal(t, slices.Min(r.Attempts[0]), r.Residual[0])
}

// Phase retrieval begins every run from another first guess, and with the same seed it is the same again.
func TestRestartsOfPhase(t *testing.T) {
	d := device(t)
	op, err := NewPhase(d, 4, 4, 2, false)
	require.NoError(t, err)
	x := d.From(picture(4, 4, 1), 1, 4, 4, 1)
	prior := &gaussianPrior{s: defaultSchedule(), mu: make([]float32, 16), variance: slices.Repeat([]float32{0.3}, 16)}
	p := Problem{Operator: op, Y: op.Apply(x), Sigma: 0.01}
	s := Defaults(TaskPhase, p.Sigma, nil)
	require.Equal(t, 4, s.Restarts)
	s.Calls = 8
	r, err := Spin(context.Background(), p, prior, s)
	require.NoError(t, err)
	require.Len(t, r.Attempts[0], 4)
	require.Less(t, r.Residual[0], 0.5*slices.Max(r.Attempts[0]), "no run differs from another")
	again, err := Spin(context.Background(), p, prior, s)
	require.NoError(t, err)
	require.Equal(t, floats(t, r.X0), floats(t, again.X0))
}
