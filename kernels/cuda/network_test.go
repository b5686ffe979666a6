//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
	"github.com/spin-native/spin/weights/photo"
)

// TestUNet compares small networks with what PyTorch computed, within the tolerances that the CPU is held to.
func TestUNet(t *testing.T) {
	b := open(t)
	dirs, err := filepath.Glob(testkit.Testdata("gd_*"))
	require.NoError(t, err)
	more, err := filepath.Glob(testkit.Testdata("*vq*"))
	require.NoError(t, err)
	for _, dir := range append(dirs, more...) {
		if testing.Short() && filepath.Base(dir) != "gd_class_cond" {
			continue
		}
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c, err := parity.Load(dir)
			require.NoError(t, err)
			defer c.Close()
			results, _, err := c.Run(tensor.NewDevice(b), "")
			require.NoError(t, err)
			require.NotEmpty(t, results)
			for _, r := range results {
				require.True(t, r.OK(), "%+v", r)
			}
		})
	}
}

// TestHalfUNet: the same networks with activations and weights in F16 end within one percent of what PyTorch computed in F32.
func TestHalfUNet(t *testing.T) {
	b := open(t)
	dirs, err := filepath.Glob(testkit.Testdata("gd_*"))
	require.NoError(t, err)
	more, err := filepath.Glob(testkit.Testdata("*vq*"))
	require.NoError(t, err)
	for _, dir := range append(dirs, more...) {
		if testing.Short() && filepath.Base(dir) != "gd_class_cond" {
			continue
		}
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c, err := parity.Load(dir)
			require.NoError(t, err)
			defer c.Close()
			results, _, err := c.Run(halfDevice(t, b), "")
			require.NoError(t, err)
			for _, r := range results {
				t.Logf("%s: relative L2 %.2g", r.Array, r.RelL2)
				require.True(t, r.Skipped != "" || r.RelL2 <= 1e-2, "%+v", r)
			}
		})
	}
}

// halfDevice is a device whose networks store F16.
func halfDevice(t *testing.T, b kernels.Backend) *tensor.Device {
	d := tensor.NewDevice(b)
	require.NoError(t, d.Store(kernels.F16))
	return d
}

// TestSpin reconstructs a picture with the built-in prior on this backend and on the CPU, for operators whose corrections
// take different ways: both see the same noise and must end at the same picture.
func TestSpin(t *testing.T) {
	b := open(t)
	host, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	defer host.Close()
	const edge, calls, sigma = 16, 4, 0.05
	kernel, err := solver.MotionKernel(9, 0.5, 1)
	require.NoError(t, err)
	mask, err := solver.RandomMask(edge, edge, 0.5, 1)
	require.NoError(t, err)
	truth := make([]float32, edge*edge*3)
	for i := range truth {
		truth[i] = float32(0.8 * math.Sin(float64(i%(3*edge))/11) * math.Cos(float64(i/(3*edge))/5))
	}
	for name, spec := range map[string]solver.Spec{
		"inpaint": {Kind: "inpaint", Masks: []*solver.Mask{mask}}, "downsample": {Kind: "downsample", Factor: 4}, "blur": {Kind: "blur", Kernel: kernel},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(d *tensor.Device) []float32 {
				net, info := loadPhoto(t, d)
				den := solver.FromModel(func(x *tensor.Tensor, at float64) *tensor.Tensor { return net.Forward(x, []float64{at}, nil) },
					solver.ModelOptions{Schedule: schedule(t, info), Prediction: solver.Prediction(info.Prediction), Multiple: net.Config.Downsampling()})
				op, err := spec.Build(d, edge, edge, 3)
				require.NoError(t, err)
				y, err := solver.Measure(op, d.From(truth, 1, edge, edge, 3), sigma, 4, 0)
				require.NoError(t, err)
				r, err := solver.Spin(context.Background(), solver.Problem{Operator: op, Y: y, Sigma: sigma}, den,
					solver.Settings{Calls: calls, Options: solver.Options{Seed: 7}})
				require.NoError(t, err)
				data, err := r.X0.Floats()
				require.NoError(t, err)
				return data
			}
			want := run(tensor.NewDevice(host))
			worst, _ := difference(t, run(tensor.NewDevice(b)), want)
			t.Logf("largest difference %.2g", worst)
			require.Less(t, worst, 1e-4)
			_, mean := difference(t, run(halfDevice(t, b)), want)
			psnr := 10 * math.Log10(4/mean) // pixels are from -1 to 1
			t.Logf("in F16: PSNR %.1f dB", psnr)
			require.Greater(t, psnr, 50.0)
		})
	}
}

// difference is the largest one and the mean of the squared ones.
func difference(t *testing.T, got, want []float32) (worst, mean float64) {
	for i := range want {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		require.False(t, math.IsNaN(d))
		worst, mean = max(worst, d), mean+d*d/float64(len(want))
	}
	return worst, mean
}

func loadPhoto(t *testing.T, d *tensor.Device) (*nn.UNet, weights.Info) {
	f, err := photo.Open()
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Info()
	require.NoError(t, err)
	c, err := nn.ParseUNetConfig(info.Model)
	require.NoError(t, err)
	net, err := nn.LoadUNet(d, f.Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	return net, info
}

// TestBatch: every image of a batch gets the bytes that it gets alone, and the second time the same.
func TestBatch(t *testing.T) {
	t.Run("f32", func(t *testing.T) { batch(t, tensor.NewDevice(open(t))) })
	t.Run("f16", func(t *testing.T) { batch(t, halfDevice(t, open(t))) })
}

func batch(t *testing.T, d *tensor.Device) {
	net, _ := loadPhoto(t, d)
	const edge = 16
	pictures := make([]float32, 2*edge*edge*3)
	for i := range pictures {
		pictures[i] = float32(math.Sin(float64(i * i)))
	}
	predict := func(data []float32) []float32 {
		x := d.From(data, len(data)/(edge*edge*3), edge, edge, 3)
		defer x.Free()
		y, err := net.Predict(x, []float64{300}, nil)
		require.NoError(t, err)
		defer y.Free()
		out, err := y.Floats()
		require.NoError(t, err)
		return out
	}
	both, half := predict(pictures), edge*edge*3
	first, second := predict(pictures[:half]), predict(pictures[half:])
	require.Equal(t, both, append(first, second...))
	require.Equal(t, both, predict(pictures))
}

func schedule(t *testing.T, info weights.Info) *solver.Schedule {
	betas, err := info.Schedule.Values()
	require.NoError(t, err)
	s, err := solver.FromBetas(betas)
	require.NoError(t, err)
	return s
}
