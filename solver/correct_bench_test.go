package solver

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/tensor"
)

// BenchmarkCorrect is one correction of a picture of 256 x 256 by the processor.
func BenchmarkCorrect(b *testing.B) {
	const edge = 256
	backend, err := cpu.Open(cpu.Options{})
	require.NoError(b, err)
	d := tensor.NewDevice(backend)
	defer d.Close()
	motion, err := MotionKernel(61, 0.5, 1)
	require.NoError(b, err)
	gaussian, err := GaussianKernel(61, 3)
	require.NoError(b, err)
	mask, err := RandomMask(edge, edge, 0.3, 1)
	require.NoError(b, err)
	for _, c := range []struct {
		spec  Spec
		inner Inner
	}{
		{Spec{Kind: "inpaint", Masks: []*Mask{mask}}, Inner{Method: Adam, Stop: 1e-6}},
		{Spec{Kind: "hdr", Numbers: map[string]float64{"gain": 2, "sigma": 0.05}}, Inner{Method: FGD}},
		{Spec{Kind: "downsample", Factor: 4}, Inner{Method: CG}},
		{Spec{Kind: "blur", Kernel: gaussian}, Inner{Method: CG}},
		{Spec{Kind: "blur", Kernel: motion}, Inner{Method: PCG}},
		{Spec{Kind: "phase", Numbers: map[string]float64{"oversample": 2, "unscaled": 0}}, Inner{Method: FGD, Steps: 40}},
	} {
		b.Run(fmt.Sprintf("operator=%s/inner=%s", c.spec.Kind, c.inner.Method), func(b *testing.B) {
			op, err := c.spec.Build(d, edge, edge, 3)
			require.NoError(b, err)
			x := random(d, rand.New(rand.NewPCG(1, 40)), [4]int{1, edge, edge, 3})
			defer x.Free()
			y, err := Measure(op, x, 0.05, 1, 0)
			require.NoError(b, err)
			defer y.Free()
			p := Problem{Operator: op, Y: y, Sigma: 0.05, Start: x}
			for b.Loop() {
				out, err := Correct(p, x, 0.01, c.inner)
				require.NoError(b, err)
				out.Free()
			}
		})
	}
}
