//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"context"
	"math"
	"os"
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

// cases calls f with the small networks that PyTorch computed: UNets and first stages, one of each in short runs.
func cases(t *testing.T, f func(t *testing.T, c *parity.Case)) {
	dirs, err := filepath.Glob(testkit.Testdata("gd_*"))
	require.NoError(t, err)
	more, err := filepath.Glob(testkit.Testdata("*vq*"))
	require.NoError(t, err)
	for _, dir := range append(dirs, more...) {
		if name := filepath.Base(dir); !testing.Short() || name == "gd_class_cond" || name == "ldm_vq_attention" {
			t.Run(name, func(t *testing.T) {
				c, err := parity.Load(dir)
				require.NoError(t, err)
				defer c.Close()
				f(t, c)
			})
		}
	}
}

// TestUNet compares small networks with what PyTorch computed, within the tolerances that the CPU is held to.
func TestUNet(t *testing.T) {
	b := open(t)
	cases(t, func(t *testing.T, c *parity.Case) {
		results, _, err := c.Run(tensor.NewDevice(b), "")
		require.NoError(t, err)
		require.NotEmpty(t, results)
		for _, r := range results {
			require.True(t, r.OK(), "%+v", r)
		}
	})
}

// TestBlocks compares what every block of a UNet makes, the second of which is a ResBlock alone, with what PyTorch computed. Nothing
// is recorded meanwhile.
func TestBlocks(t *testing.T) {
	b := open(t)
	c, err := parity.Load(testkit.Testdata("gd_class_cond"))
	require.NoError(t, err)
	defer c.Close()
	run := c.Runs[0]
	for name, s := range map[string]struct {
		d     *tensor.Device
		limit float64
	}{"f32": {tensor.NewDevice(b), 3 * c.Tolerance[run.Outputs["out"]].RelL2}, "f16": {halfDevice(t, b), 1e-2}} {
		t.Run(name, func(t *testing.T) {
			net, err := c.LoadUNet(s.d, filepath.Join(c.Dir, c.Weights[0].File))
			require.NoError(t, err)
			var seen []string
			net.Trace = func(block string, x *tensor.Tensor) {
				if p, ok := c.Probes[block]; ok {
					off, err := c.Departure(p, x)
					require.NoError(t, err)
					require.LessOrEqual(t, off, s.limit, "%s is the first that departs", block)
					seen = append(seen, block)
				}
			}
			_, _, err = c.Forward(s.d, net, run)
			require.NoError(t, err)
			require.Len(t, seen, len(c.Probes)-1) // not the last norm, which is a part of the convolution
			require.Contains(t, seen, "input_blocks.1")
		})
	}
}

// TestVAE encodes and decodes with an autoencoder of random weights, as the CPU does.
func TestVAE(t *testing.T) {
	b := open(t)
	host, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	defer host.Close()
	config := nn.AutoencoderConfig{
		InChannels: 3, OutChannels: 3, ModelChannels: 16, Channels: []int{16, 32}, NumResBlocks: 1, ZChannels: 4, EmbedDim: 4, DoubleZ: true,
		DownAttention: []bool{false, true}, MiddleAttention: true, UpAttention: []bool{false, true}, ConvResample: true,
		DownsamplePadding: nn.PadRightBottom, QuantConv: true, PostQuantConv: true, NormGroups: 8, NormEps: 1e-6, ScaleFactor: 0.5,
	}
	wave := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(math.Sin(float64(i*i%977) / 7))
		}
		return x
	}
	run := func(d *tensor.Device) (all [][]float32) {
		a, err := nn.LoadAutoencoder(d, weights.Synthetic("vae", 1).Scope(), config, nn.LoadOptions{})
		require.NoError(t, err)
		p, err := a.Posterior(d.From(wave(2*16*24*3), 2, 16, 24, 3))
		require.NoError(t, err)
		sample, err := p.Sample(wave(2 * 8 * 12 * 4))
		require.NoError(t, err)
		picture, err := a.Decode(d.From(wave(2*8*12*4), 2, 8, 12, 4))
		require.NoError(t, err)
		for _, x := range []*tensor.Tensor{p.Mean, p.LogVar, sample, picture} {
			data, err := x.Floats()
			require.NoError(t, err)
			all = append(all, data)
		}
		return all
	}
	want := run(tensor.NewDevice(host))
	for i, got := range run(tensor.NewDevice(b)) {
		_, rel := parity.Compare(got, want[i])
		require.LessOrEqual(t, rel, 3e-5, "the tolerance of such networks' fixtures")
	}
	for i, got := range run(halfDevice(t, b)) {
		_, rel := parity.Compare(got, want[i])
		require.LessOrEqual(t, rel, 1e-2)
	}
}

// TestHalfUNet: the same networks with activations and weights in F16 end within one percent of what PyTorch computed in F32.
func TestHalfUNet(t *testing.T) {
	b := open(t)
	cases(t, func(t *testing.T, c *parity.Case) {
		results, _, err := c.Run(halfDevice(t, b), "")
		require.NoError(t, err)
		for _, r := range results {
			t.Logf("%s: relative L2 %.2g", r.Array, r.RelL2)
			require.True(t, r.Skipped != "" || r.RelL2 <= 1e-2, "%+v", r)
		}
	})
}

// halfDevice is a device whose networks store F16.
func halfDevice(t *testing.T, b kernels.Backend) *tensor.Device {
	d := tensor.NewDevice(b)
	require.NoError(t, d.Store(kernels.F16))
	return d
}

// TestSpin reconstructs a picture with the built-in prior on this backend and on the CPU, for operators whose corrections
// take different ways: both see the same noise and must end at the same picture. Short runs have one operator.
func TestSpin(t *testing.T) {
	b := open(t)
	host, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	defer host.Close()
	for name, spec := range problems(t) {
		if testing.Short() && name != "blur" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			run := func(d *tensor.Device) []float32 { return reconstructed(t, d, spec, 4, nil) }
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

const pictureEdge = 16 // of what is reconstructed

// problems are operators whose corrections take different ways.
func problems(t *testing.T) map[string]solver.Spec {
	kernel, err := solver.MotionKernel(9, 0.5, 1)
	require.NoError(t, err)
	mask, err := solver.RandomMask(pictureEdge, pictureEdge, 0.5, 1)
	require.NoError(t, err)
	return map[string]solver.Spec{
		"inpaint": {Kind: "inpaint", Masks: []*solver.Mask{mask}}, "downsample": {Kind: "downsample", Factor: 4}, "blur": {Kind: "blur", Kernel: kernel},
	}
}

// reconstructed is a picture of Spin's with the built-in prior.
func reconstructed(t *testing.T, d *tensor.Device, spec solver.Spec, calls int, progress func(solver.Progress)) []float32 {
	const edge, sigma = pictureEdge, 0.05
	truth := make([]float32, edge*edge*3)
	for i := range truth {
		truth[i] = float32(0.8 * math.Sin(float64(i%(3*edge))/11) * math.Cos(float64(i/(3*edge))/5))
	}
	net, info := loadPhoto(t, d)
	den := solver.FromModel(func(x *tensor.Tensor, at float64) *tensor.Tensor { return net.Forward(x, []float64{at}, nil) },
		solver.ModelOptions{Schedule: schedule(t, info), Prediction: solver.Prediction(info.Prediction), Multiple: net.Config.Downsampling()})
	op, err := spec.Build(d, edge, edge, 3)
	require.NoError(t, err)
	y, err := solver.Measure(op, d.From(truth, 1, edge, edge, 3), sigma, 4, 0)
	require.NoError(t, err)
	r, err := solver.Spin(context.Background(), solver.Problem{Operator: op, Y: y, Sigma: sigma}, den,
		solver.Settings{Calls: calls, Options: solver.Options{Seed: 7, Progress: progress}})
	require.NoError(t, err)
	data, err := r.X0.Floats()
	require.NoError(t, err)
	return data
}

// TestLoop: in the middle of a run of Spin no memory is taken or given back and nothing is recorded; a step is a graph for the
// network, one for the correction, and a few launches beside, and what it waits for is of the step before, so that the device
// always has something to do.
func TestLoop(t *testing.T) {
	emulated(t)
	for name, spec := range problems(t) {
		if testing.Short() && name != "blur" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			log, steps := filepath.Join(t.TempDir(), "log"), 0
			t.Setenv("CUEMU_LOG", "")
			reconstructed(t, halfDevice(t, open(t)), spec, 12, func(p solver.Progress) {
				to := ""
				if p.Step >= 6 && p.Step < p.Total-1 {
					to = log
					steps++
				}
				require.NoError(t, os.Setenv("CUEMU_LOG", to))
			})
			n := logged(t, log)
			require.Equal(t, 5, steps)
			require.LessOrEqual(t, n["cuGraphLaunch"], 2*steps)
			require.GreaterOrEqual(t, n["cuGraphLaunch"], steps)
			require.LessOrEqual(t, n["cuLaunchKernel"]+n["cuLaunchCooperativeKernel"], 5*steps)
			require.Zero(t, n["cuStreamSynchronize"])
			require.Positive(t, n["cuEventSynchronize"], "which are of the step before")
			require.Equal(t, steps, n["cuMemcpyDtoHAsync"], "the norm")
			require.LessOrEqual(t, n["cuMemcpyHtoDAsync"], 2*steps, "timestep and noise")
			for call := range n {
				require.NotRegexp(t, "Alloc|Free|Capture|Instantiate|Create|Destroy|AddKernelNode|Load", call)
			}
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
