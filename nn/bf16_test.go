package nn_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/tensor"
)

// TestBFloat16 runs the built-in prior with bfloat16 products. Every factor is off by up to 2^-9 of itself, so a layer's sums
// by about 2^-9 of their norm, and the errors of some fifty layers in a row, which the residual paths dilute, add up to a
// few times that.
func TestBFloat16(t *testing.T) {
	const size = 32
	r := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, size*size*3)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	run := func(o cpu.Options) []float32 {
		b, err := cpu.Open(o)
		require.NoError(t, err)
		d := tensor.NewDevice(b)
		defer d.Close()
		out, err := loadPhoto(t, d).Predict(d.From(x, 1, size, size, 3), []float64{300}, nil)
		require.NoError(t, err)
		y, err := out.Floats()
		require.NoError(t, err)
		return y
	}
	if _, err := cpu.Open(cpu.Options{Products: "bf16"}); err != nil {
		t.Skip(err)
	}
	want, got := run(cpu.Options{}), run(cpu.Options{Products: "bf16"})
	require.Equal(t, got, run(cpu.Options{Products: "bf16", Threads: 3}), "for any number of threads")
	var diff, norm float64
	for i, v := range want {
		diff += math.Pow(float64(v-got[i]), 2)
		norm += float64(v) * float64(v)
	}
	rel := math.Sqrt(diff / norm)
	t.Logf("relative L2 %.2g", rel)
	require.Less(t, rel, 8*0x1p-9)
	require.Greater(t, rel, 0x1p-12, "it was not used")
}
