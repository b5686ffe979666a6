package solver

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

func TestSchedule(t *testing.T) {
	s := Linear(1000, 1e-4, 0.02)
	require.Equal(t, 1.0, s.AlphaBar(-1))
	require.Equal(t, 1000, s.Len())
	for _, at := range []int{0, 3, 60, 500, 999} {
		require.Equal(t, at, s.Nearest(s.NoiseToSignal(at)))
	}
	require.Equal(t, 0, s.Nearest(0))
	require.Equal(t, 999, s.Nearest(1e9))
	// Printed values of the linear schedule.
	for at, ratio := range map[int]float64{3: 0.023, 8: 0.040, 15: 0.063, 25: 0.096, 60: 0.21, 100: 0.34, 200: 0.72, 300: 1.24, 400: 2.04, 500: 3.44, 600: 6.2} {
		require.InEpsilon(t, ratio, s.NoiseToSignal(at), 0.025, "t = %d", at)
	}
	require.Equal(t, []int{7}, Grid(7, 0, 1, 2))
	require.Equal(t, []int{3}, Grid(3, 3, 10, 2))

	for name, betas := range map[string][]float64{"none": nil, "zero": {0}, "one": {1}, "NaN": {math.NaN()}, "negative": {0.1, -0.1}} {
		_, err := FromBetas(betas)
		require.Error(t, err, name)
	}
	require.Panics(t, func() { Linear(0, 1e-4, 0.02) })
	var err error
	func() {
		defer tensor.Catch(&err)
		s.AlphaBar(1000)
	}()
	require.ErrorContains(t, err, "timestep 1000")
}
