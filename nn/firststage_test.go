package nn_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// stageCases lists the cases with first stages: those of testdata, and the others where the shared fixtures are at hand.
func stageCases(t *testing.T) []string {
	var dirs []string
	shared := os.Getenv("SPIN_SHARED")
	if shared == "" {
		shared = filepath.Join(testkit.Root(), "..", "shared")
	}
	for _, name := range []string{"ldm_vq_attention", "diffusers_vq_model", "ldm_autoencoder_kl", "ldm_ffhq_style", "diffusers_autoencoder_kl", "diffusers_tiny_autoencoder"} {
		for _, dir := range []string{testkit.Testdata(name), filepath.Join(shared, "fixtures", name)} {
			if _, err := os.Stat(dir); err == nil {
				dirs = append(dirs, dir)
				break
			}
		}
	}
	require.GreaterOrEqual(t, len(dirs), 2)
	return dirs
}

// TestFirstStages compares whole first stages with what PyTorch computed: first the encoder's layers, so that the first one
// that departs is named, then the results.
func TestFirstStages(t *testing.T) {
	for name, b := range backends(t) {
		d := tensor.NewDevice(b)
		for _, dir := range stageCases(t) {
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) {
				c, err := parity.Load(dir)
				require.NoError(t, err)
				defer c.Close()
				stageProbes(t, d, c)
				results, _, err := c.Run(d, "")
				require.NoError(t, err)
				ran := 0
				for _, r := range results {
					require.True(t, r.OK(), "%+v", r)
					if r.Skipped == "" {
						ran++
					}
				}
				require.GreaterOrEqual(t, ran, 2)
			})
		}
		require.NoError(t, d.Close())
	}
}

// probe is the name that a case has for what a layer computes.
func probe(layer string, levels int) string {
	if i := strings.TrimSuffix(strings.TrimPrefix(layer, "encoder.down."), ".downsample"); len(i) == 1 {
		return "encoder.down_blocks." + i
	}
	switch layer {
	case fmt.Sprintf("encoder.down.%d.block.0", levels-1):
		return fmt.Sprintf("encoder.down_blocks.%d", levels-1)
	case "encoder.mid.block_2":
		return "encoder.mid_block"
	}
	return layer
}

func stageProbes(t *testing.T, d *tensor.Device, c *parity.Case) {
	s, err := parity.LoadFirstStage(d, filepath.Join(c.Dir, c.Weights[0].File))
	require.NoError(t, err)
	a, ok := s.(*nn.Autoencoder)
	if !ok || !strings.Contains(c.Runs[0].Fn, "encode") {
		return // no probes, or those of a UNet
	}
	limit := 0.0
	for _, name := range c.Runs[0].Outputs {
		limit = max(limit, 3*c.Tolerance[name].RelL2)
	}
	seen := map[string]bool{}
	a.Trace = func(layer string, x *tensor.Tensor) {
		for _, name := range []string{layer, probe(layer, len(a.Config.Channels))} {
			p, ok := c.Probes[name]
			if !ok || seen[name] {
				continue
			}
			seen[name] = true
			rel, err := c.Departure(p, x)
			require.NoError(t, err)
			require.LessOrEqual(t, rel, limit, layer)
		}
	}
	x, err := c.Input(d, "img")
	require.NoError(t, err)
	defer x.Free()
	z, err := a.Encode(x)
	require.NoError(t, err)
	z.Free()
	for name := range c.Probes {
		require.True(t, seen[name] || name == "quant_conv", name) // which the first output is
	}
}

func smallAutoencoder() nn.AutoencoderConfig {
	return nn.AutoencoderConfig{
		InChannels: 3, OutChannels: 3, ModelChannels: 16, Channels: []int{16, 32}, NumResBlocks: 1, ZChannels: 4, EmbedDim: 4, DoubleZ: true,
		DownAttention: []bool{false, true}, MiddleAttention: true, UpAttention: []bool{false, true}, ConvResample: true,
		DownsamplePadding: nn.PadRightBottom, QuantConv: true, PostQuantConv: true, NormGroups: 8, NormEps: 1e-6, ScaleFactor: 0.5,
	}
}

func smallTiny() nn.TinyConfig {
	return nn.TinyConfig{
		InChannels: 3, OutChannels: 3, EncoderBlockOutChannels: []int{16, 16, 16}, DecoderBlockOutChannels: []int{16, 16, 16},
		NumEncoderBlocks: []int{1, 0, 2}, NumDecoderBlocks: []int{2, 1, 0}, LatentChannels: 4, LatentMagnitude: 3, LatentShift: 0.5,
		UpsamplingScalingFactor: 2, ScaleFactor: 1,
	}
}

// stages makes one of every kind, of random weights.
func stages(t *testing.T, d *tensor.Device) map[string]nn.FirstStage {
	plain, book := smallAutoencoder(), smallAutoencoder()
	plain.ConvResample, plain.QuantConv, plain.PostQuantConv, plain.MiddleAttention = false, false, false, false
	book.DoubleZ, book.NumEmbeddings, book.EmbedDim = false, 40, 3
	all := map[string]nn.FirstStage{}
	for name, c := range map[string]nn.AutoencoderConfig{"kl": smallAutoencoder(), "plain": plain, "vq": book} {
		a, err := nn.LoadAutoencoder(d, weights.Synthetic(name, 1).Scope(), c, nn.LoadOptions{})
		require.NoError(t, err)
		all[name] = a
	}
	a, err := nn.LoadAutoencoderTiny(d, weights.Synthetic("tiny", 1).Scope(), smallTiny(), nn.LoadOptions{})
	require.NoError(t, err)
	all["tiny"] = a
	return all
}

func picture(d *tensor.Device, n, h, w, c int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]float32, n*h*w*c)
	for i := range data {
		data[i] = float32(2*r.Float64() - 1)
	}
	return d.From(data, n, h, w, c)
}

// TestFirstStageVarieties: what no case has (sizes changed without weights, no quant_conv, levels without blocks) computes
// the same on the processor's kernels as on the reference, and the images of a batch do not see each other.
func TestFirstStageVarieties(t *testing.T) {
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d, slow := tensor.NewDevice(b), tensor.NewDevice(ref.Open())
	defer d.Close()
	want := stages(t, slow)
	for name, s := range stages(t, d) {
		t.Run(name, func(t *testing.T) {
			f := s.Downsampling()
			pass := func(d *tensor.Device, s nn.FirstStage, n int) (z, x []float32) {
				defer d.Tidy()()
				e, err := s.Encode(picture(d, n, 4*f, 6*f, s.PictureChannels()))
				require.NoError(t, err)
				require.Equal(t, [4]int{n, 4, 6, s.LatentChannels()}, e.Shape())
				p, err := s.Decode(e)
				require.NoError(t, err)
				require.Equal(t, [4]int{n, 4 * f, 6 * f, 3}, p.Shape())
				z, err = e.Floats()
				require.NoError(t, err)
				x, err = p.Floats()
				require.NoError(t, err)
				return z, x
			}
			z, x := pass(d, s, 2)
			wantZ, wantX := pass(slow, want[name], 2)
			_, rel := parity.Compare(z, wantZ)
			require.Less(t, rel, 3e-5)
			_, rel = parity.Compare(x, wantX)
			require.Less(t, rel, 5e-5)
			one, _ := pass(d, s, 1)
			require.Equal(t, z[:len(one)], one)
		})
	}
}

// TestFirstStageMemory: nothing is left behind, and the second pass asks the backend for nothing.
func TestFirstStageMemory(t *testing.T) {
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	defer d.Close()
	for name, s := range stages(t, d) {
		x := picture(d, 1, 32, 32, s.PictureChannels())
		pass := func() tensor.Stats {
			z, err := s.Encode(x)
			require.NoError(t, err)
			out, err := s.Decode(z)
			require.NoError(t, err)
			z.Free()
			out.Free()
			return d.Stats()
		}
		before := d.Stats().Live
		first := pass()
		require.Equal(t, before, first.Live, name)
		require.Equal(t, first, pass(), name)
	}
}

func TestPosterior(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	all := stages(t, d)
	a := all["plain"].(*nn.Autoencoder)
	x := picture(d, 2, 8, 8, 3)
	p, err := a.Posterior(x)
	require.NoError(t, err)
	mode, err := a.Encode(x)
	require.NoError(t, err)
	mean, err := mode.Floats()
	require.NoError(t, err)
	zero, err := p.Sample(make([]float32, p.Mean.Len()))
	require.NoError(t, err)
	same, err := zero.Floats()
	require.NoError(t, err)
	require.Equal(t, mean, same)

	logVar := make([]float32, p.LogVar.Len())
	for i := range logVar {
		logVar[i] = float32(2 * math.Log(3))
	}
	p.LogVar.Set(logVar)
	noise := make([]float32, p.Mean.Len())
	noise[5] = -2
	z, err := p.Sample(noise)
	require.NoError(t, err)
	got, err := z.Floats()
	require.NoError(t, err)
	require.InDelta(t, mean[5]-6, got[5], 1e-5)
	require.Equal(t, mean[6], got[6])

	_, err = p.Sample(noise[1:])
	require.ErrorContains(t, err, "noise")
	p.Free()
	_, err = all["vq"].(*nn.Autoencoder).Posterior(x)
	require.ErrorContains(t, err, "no variances")
}

// TestClamp: log variances that an encoder exaggerates are cut off.
func TestClamp(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	c := smallAutoencoder()
	random := weights.Synthetic("clamp", 1)
	_, err := nn.LoadAutoencoder(d, random.Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	var list []weights.Tensor
	for _, name := range random.Names() {
		x, _ := random.Tensor(name)
		values := random.Scope().Floats(name, x.Shape...)
		if name == "quant_conv.bias" {
			values[4], values[5] = 1e6, -1e6
		}
		list = append(list, weights.FromFloats(name, values, x.Shape...))
	}
	a, err := nn.LoadAutoencoder(d, must(weights.FromTensors("clamp", list, nil)).Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	p, err := a.Posterior(picture(d, 1, 8, 8, 3))
	require.NoError(t, err)
	v, err := p.LogVar.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{20, -30}, v[:2])
}

func TestCodeBook(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	all := stages(t, d)
	a := all["vq"].(*nn.Autoencoder)
	z := picture(d, 2, 3, 5, 3)
	zq, indices, err := a.Quantise(z)
	require.NoError(t, err)
	require.Len(t, indices, 30)
	back, err := a.Lookup(indices, 2, 3, 5)
	require.NoError(t, err)
	want, err := back.Floats()
	require.NoError(t, err)
	got, err := zq.Floats()
	require.NoError(t, err)
	for i := range got {
		require.InDelta(t, want[i], got[i], 1e-6)
	}
	again, same, err := a.Quantise(back)
	require.NoError(t, err)
	require.Equal(t, indices, same)
	got, err = again.Floats()
	require.NoError(t, err)
	require.Equal(t, want, got)

	pictures := map[string][]float32{}
	for name, f := range map[string]func(*tensor.Tensor) (*tensor.Tensor, error){"book": a.Decode, "as is": a.DecodeAsIs} {
		for from, z := range map[string]*tensor.Tensor{"z": z, "zq": back} {
			x, err := f(z)
			require.NoError(t, err)
			pictures[name+" "+from], err = x.Floats()
			require.NoError(t, err)
		}
	}
	require.Equal(t, pictures["book zq"], pictures["as is zq"])
	require.NotEqual(t, pictures["book z"], pictures["as is z"])
	_, rel := parity.Compare(pictures["book z"], pictures["book zq"])
	require.Less(t, rel, 1e-5)

	_, err = a.Lookup([]int{40}, 1, 1, 1)
	require.ErrorContains(t, err, "code number 40")
	_, err = a.Lookup([]int{1, 2}, 1, 1, 1)
	require.ErrorContains(t, err, "2 code numbers")
	_, _, err = all["kl"].(*nn.Autoencoder).Quantise(z)
	require.ErrorContains(t, err, "no code book")
}

func TestScale(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	c := smallAutoencoder()
	c.ShiftFactor, c.ScaleFactor = 0.25, 0.5
	c.LatentsMean, c.LatentsStd = []float64{0, 1, 2, 3}, []float64{1, 2, 4, 0.5}
	a, err := nn.LoadAutoencoder(d, weights.Synthetic("scale", 1).Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	z := picture(d, 2, 3, 2, 4)
	seen, err := a.Scale(z)
	require.NoError(t, err)
	back, err := a.Unscale(seen)
	require.NoError(t, err)
	in, err := z.Floats()
	require.NoError(t, err)
	mid, err := seen.Floats()
	require.NoError(t, err)
	out, err := back.Floats()
	require.NoError(t, err)
	for i := range in {
		require.InDelta(t, (float64(in[i])-0.25-c.LatentsMean[i%4])/c.LatentsStd[i%4]*0.5, mid[i], 1e-6)
		require.InDelta(t, in[i], out[i], 1e-6)
	}
	_, err = a.Scale(d.New(1, 2, 2, 3))
	require.ErrorContains(t, err, "channels")
}

func TestFirstStageMisuse(t *testing.T) {
	d := tensor.NewDevice(ref.Open())
	for name, s := range stages(t, d) {
		_, err := s.Encode(d.New(1, 8, 8, 4))
		require.ErrorContains(t, err, "channels", name)
		_, err = s.Encode(d.New(1, 9, 8, 3))
		require.ErrorContains(t, err, "multiples of", name)
		_, err = s.Decode(d.New(1, 8, 8, 7))
		require.ErrorContains(t, err, "7 channels", name)
		x := d.New(1, 8, 8, 3)
		x.Free()
		_, err = s.Encode(x)
		require.ErrorContains(t, err, "freed", name)
	}
	c := smallAutoencoder()
	half, err := nn.LoadAutoencoder(d, weights.Synthetic("kl", 1).Scope(), c, nn.LoadOptions{DecoderOnly: true})
	require.NoError(t, err)
	_, err = half.Posterior(d.New(1, 8, 8, 3))
	require.ErrorContains(t, err, "without its encoder")
	_, err = half.Decode(d.New(1, 4, 4, 4))
	require.NoError(t, err)
	_, err = nn.LoadAutoencoder(d, must(weights.FromTensors("empty", nil, nil)).Scope(), c, nn.LoadOptions{})
	require.ErrorIs(t, err, weights.ErrMissing)
	require.ErrorContains(t, err, "encoder.conv_in.weight")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestFirstStageConfigs(t *testing.T) {
	for want, change := range map[string]func(*nn.AutoencoderConfig){
		"in_channels":      func(c *nn.AutoencoderConfig) { c.InChannels = 0 },
		"norm_groups":      func(c *nn.AutoencoderConfig) { c.NormGroups = 0 },
		"norm_eps":         func(c *nn.AutoencoderConfig) { c.NormEps = 0 },
		"number of levels": func(c *nn.AutoencoderConfig) { c.Channels = nil },
		"multiple":         func(c *nn.AutoencoderConfig) { c.Channels = []int{16, 20} },
		"up_attention":     func(c *nn.AutoencoderConfig) { c.UpAttention = nil },
		"padding":          func(c *nn.AutoencoderConfig) { c.DownsamplePadding = "both" },
		"embed_dim":        func(c *nn.AutoencoderConfig) { c.EmbedDim, c.PostQuantConv = 3, false },
		"variance":         func(c *nn.AutoencoderConfig) { c.NumEmbeddings = 3 },
		"scale_factor":     func(c *nn.AutoencoderConfig) { c.ScaleFactor = 0 },
		"latents_mean":     func(c *nn.AutoencoderConfig) { c.LatentsMean = []float64{1} },
		"latents_std":      func(c *nn.AutoencoderConfig) { c.LatentsMean, c.LatentsStd = make([]float64, 4), make([]float64, 4) },
	} {
		c := smallAutoencoder()
		change(&c)
		require.ErrorContains(t, c.Check(), want)
	}
	tiny := smallTiny()
	tiny.EncoderBlockOutChannels = []int{16, 32, 16}
	require.ErrorContains(t, tiny.Check(), "the same")
	_, err := nn.ParseTinyConfig([]byte(`{"what":1}`))
	require.ErrorContains(t, err, "what")
	_, err = nn.ParseAutoencoderConfig([]byte(`{} {}`))
	require.ErrorContains(t, err, "more text")
}
