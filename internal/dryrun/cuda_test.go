package dryrun_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// onDevice runs the same on a rehearsal and on the device itself, in what the rehearsal said that tensors take, and compares what both
// have taken, to the byte. The second time takes nothing.
func onDevice(t *testing.T, store kernels.Type, run func(d *tensor.Device) (again func())) {
	dry, err := dryrun.Open(dryrun.Machine{CUDA: &cuda.Options{}, Store: store})
	require.NoError(t, err)
	run(dry.Device)()
	want := dry.Cost().Memory
	require.NoError(t, dry.Close())

	b, err := cuda.Open(cuda.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	defer func() { require.NoError(t, d.Close()) }()
	require.NoError(t, d.Store(store))
	require.NoError(t, d.Reserve(want.Activations))
	again := run(d)
	for range 3 { // told, recorded, replayed
		require.NoError(t, d.Sync())
		require.Equal(t, kernels.Usage{Tensors: want.Activations, Weights: want.Weights, Scratch: want.Scratch}, b.(kernels.Accountant).Usage())
		require.Equal(t, int64(1), d.Stats().Allocs)
		again()
	}
}

// TestDevicePlan: what a rehearsal predicts for a device is what the device then takes, for networks in both types, first stages
// whole and in bands, and corrections.
func TestDevicePlan(t *testing.T) {
	if _, err := cuda.Devices(); err != nil {
		t.Skipf("no CUDA device: %v", err)
	}
	for name, c := range networks(t) {
		for _, store := range []kernels.Type{kernels.F32, kernels.F16} {
			if testing.Short() && name != "photo" {
				continue
			}
			t.Run(name+"/"+store.String(), func(t *testing.T) {
				edge := 4 * c.Downsampling()
				onDevice(t, store, func(d *tensor.Device) func() {
					net := pass(t, d, weights.Synthetic(name, 1), c, 2, edge)
					return func() { call(t, net, 2, edge) }
				})
			})
		}
	}
	for _, tiling := range []nn.Tiling{{}, {Pixels: 8 * 32}, {Pixels: 8 * 32, Lean: true}} {
		t.Run(fmt.Sprintf("%+v", tiling), func(t *testing.T) {
			onDevice(t, kernels.F16, func(d *tensor.Device) func() {
				a, err := nn.LoadAutoencoder(d, weights.Synthetic("stage", 1).Scope(), stageConfig, nn.LoadOptions{ImageSize: 32, Tiling: tiling})
				require.NoError(t, err)
				through := func() {
					defer d.Tidy()()
					z, err := a.Encode(d.From(make([]float32, 32*32*3), 1, 32, 32, 3))
					require.NoError(t, err)
					_, err = a.Decode(z)
					require.NoError(t, err)
				}
				through()
				return through
			})
		})
	}
	t.Run("corrections", func(t *testing.T) {
		onDevice(t, kernels.F32, func(d *tensor.Device) func() {
			const edge = 24
			kernel, err := solver.MotionKernel(21, 0.5, 1)
			require.NoError(t, err)
			data := make([]float32, 2*edge*edge*3)
			for i := range data {
				data[i] = float32(math.Sin(float64(i * i)))
			}
			x := d.From(data, 2, edge, edge, 3)
			var problems []solver.Problem
			for _, s := range []solver.Spec{{Kind: "blur", Kernel: kernel}, {Kind: "downsample", Factor: 4}, {Kind: "phase", Numbers: map[string]float64{"oversample": 2, "unscaled": 0}}} {
				op, err := s.Build(d, edge, edge, 3)
				require.NoError(t, err)
				y, err := solver.Measure(op, x, 0.05, 1, 0)
				require.NoError(t, err)
				problems = append(problems, solver.Problem{Operator: op, Y: y, Sigma: 0.05, Start: x})
			}
			correct := func() {
				for _, p := range problems {
					out, err := solver.Correct(p, x, 0.01, solver.Inner{Steps: 2})
					require.NoError(t, err)
					out.Free()
				}
			}
			correct()
			return correct
		})
	})
}
