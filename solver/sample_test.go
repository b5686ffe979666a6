package solver

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// Phase 1 runs once, the samples differ, none depends on how many there are, and memory stays level.
func TestSample(t *testing.T) {
	d := device(t)
	for _, kind := range []string{"inpaint", "downsample", "blur"} {
		p, prior := smallProblem(t, d, kind, 1)
		live := d.Stats().Live
		var seen []Progress
		run := func(n int) []float32 {
			seen = nil
			s := Settings{Calls: 10, Options: Options{Seed: 3, Progress: func(at Progress) { seen = append(seen, at) }}}
			prior.calls = 0
			r, err := Sample(context.Background(), p, prior, s, n)
			require.NoError(t, err)
			require.Equal(t, prior.calls, r.Calls, kind)
			require.Equal(t, n, r.X0.N())
			require.Len(t, r.Certificates, n)
			for i, at := range seen {
				require.Equal(t, i+1, at.Step, kind)
				require.Equal(t, r.Calls, at.Total, kind)
			}
			require.Len(t, seen, r.Calls, kind)
			v := floats(t, r.X0)
			r.X0.Free()
			require.Equal(t, live, d.Stats().Live, kind)
			return v
		}
		three := run(3)
		size := len(three) / 3
		require.NotEqual(t, three[:size], three[size:2*size])
		require.Equal(t, three[:2*size], run(2), kind)
	}
	p, prior := smallProblem(t, d, "inpaint", 2)
	_, err := Sample(context.Background(), p, prior, Settings{}, 2)
	require.ErrorContains(t, err, "one measurement")
}

// A run that is cut short in the shared phase still gives its pictures.
func TestSampleCancelled(t *testing.T) {
	d := device(t)
	p, prior := smallProblem(t, d, "downsample", 1)
	for _, after := range []int{1, 6} {
		ctx, cancel := context.WithCancel(context.Background())
		s := Defaults("sr4", 0.05, nil)
		s.K1, s.P = 4, 6
		s.Progress = func(at Progress) {
			if at.Step == after {
				cancel()
			}
		}
		r, err := Sample(ctx, p, prior, s, 3)
		require.ErrorIs(t, err, context.Canceled)
		require.NotNil(t, r)
		require.Equal(t, 3, r.X0.N())
		require.Len(t, r.Residual, 3)
		require.Len(t, r.Certificates, 3)
		require.Equal(t, after, r.Calls)
		r.X0.Free()
	}
}
