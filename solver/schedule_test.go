package solver

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

func TestScheduleFixture(t *testing.T) {
	var c struct {
		Grids []struct {
			Hi, Lo, N int
			Power     float64
			Out       []int
		}
	}
	f := openFixture(t, "solver_schedule", &c)
	s := Linear(1000, 1e-4, 0.02)
	want, _ := f.planar("abar")
	for i, w := range want {
		require.InEpsilon(t, w, s.AlphaBar(i), 1e-6, "t = %d", i)
	}
	for _, g := range c.Grids {
		require.Equal(t, g.Out, Grid(g.Hi, g.Lo, g.N, g.Power), "from %d to %d", g.Hi, g.Lo)
	}
}

func TestScheduleAgainstPeers(t *testing.T) {
	f := openFixture(t, "schedule", &struct{}{})
	for name, s := range map[string]*Schedule{"linear": Linear(1000, 1e-4, 0.02), "ldm": ScaledLinear(1000, 0.0015, 0.0195)} {
		a, ok := f.file.Tensor(name + ".alphas_cumprod")
		require.True(t, ok)
		a64, err := a.To(weights.F64)
		require.NoError(t, err)
		for i := range s.Len() {
			require.InEpsilon(t, float64At(a64.Data, i), s.AlphaBar(i), 1e-12, "%s, t = %d", name, i)
		}
	}
}

func float64At(b []byte, i int) float64 {
	var bits uint64
	for k := 7; k >= 0; k-- {
		bits = bits<<8 | uint64(b[8*i+k])
	}
	return math.Float64frombits(bits)
}

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
