package profile_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/internal/profile"
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// network is a UNet with every operation of kernels.Net but Moments, random.
func network(t *testing.T, d *tensor.Device) *nn.UNet {
	t.Helper()
	c, err := nn.ParseUNetConfig([]byte(`{"in_channels":3,"out_channels":3,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2],
		"attention_resolutions":[2],"num_heads":2,"use_scale_shift_norm":true,"conv_resample":false}`))
	require.NoError(t, err)
	net, err := nn.LoadUNet(d, weights.Synthetic("tiny", 1).Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	return net
}

func TestNetwork(t *testing.T) {
	dry, err := dryrun.Open(dryrun.Machine{})
	require.NoError(t, err)
	network(t, dry.Device).Forward(dry.New(1, 16, 8, 3), []float64{200}, nil)

	p := profile.New(ref.Open())
	require.Equal(t, "ref", p.Name())
	d := tensor.NewDevice(p)
	net := network(t, d)
	net.Trace = p.Trace
	x := d.From(make([]float32, 16*8*3), 1, 16, 8, 3)
	for i := range 3 {
		if i > 0 {
			p.Next()
		}
		out := net.Forward(x, []float64{200}, nil)
		p.Trace("out", out)
		out.Free()
	}
	r, err := p.Report(100, 10)
	require.NoError(t, err)

	var blocks, rows []string
	var gflop, moved, ms, share float64
	for _, l := range r.Layers {
		if !slices.Contains(blocks, l.Block) {
			blocks = append(blocks, l.Block)
		}
		rows = append(rows, l.Block+": "+l.Op+" "+l.Shape)
		gflop, moved, ms, share = gflop+l.GFLOP, moved+l.Bytes, ms+l.Ms, share+l.Share
		require.NotZero(t, l.Bytes, "%+v", l)
		require.InDelta(t, l.GFLOPS/100, l.OfGFLOPS, 1e-9)
		require.InDelta(t, l.GBps/10, l.OfGBps, 1e-9)
	}
	require.Equal(t, []string{"time_embed", "input_blocks.0", "input_blocks.1", "input_blocks.2", "input_blocks.3", "middle_block.0",
		"middle_block.1", "middle_block", "output_blocks.0", "output_blocks.1", "output_blocks.2", "output_blocks.3", "out"}, blocks)
	for _, want := range []string{
		"time_embed: linear 32->128", "input_blocks.0: conv3x3 3->32 @8x16", "input_blocks.2: resample 32 @4x8 down2", "input_blocks.3: norm 64",
		"middle_block.1: attention 2 heads of 32 @4x8", "output_blocks.0: conv3x3 64->64 (+64+64) @4x8", "output_blocks.1: resample 64 @8x16 up2",
		"out: conv3x3 32->3 @8x16",
	} {
		require.Contains(t, rows, want)
	}
	require.InDelta(t, dry.Cost().FLOP/1e9, gflop, 1e-9)
	require.InDelta(t, 1, share, 1e-9)

	layers := 0
	for i, k := range r.Kinds {
		require.True(t, i == 0 || k.Ms <= r.Kinds[i-1].Ms)
		layers, gflop, moved, ms = layers+k.Layers, gflop-k.GFLOP, moved-k.Bytes, ms-k.Ms
	}
	require.Equal(t, len(r.Layers), layers)
	require.InDelta(t, 0, gflop, 1e-9)
	require.InDelta(t, 0, moved, 1e-3)
	require.InDelta(t, 0, ms, 1e-6)
}

// slow waits in Moments.
type slow struct {
	kernels.Backend
	wait time.Duration
}

func (s *slow) Moments(kernels.View, kernels.View) { time.Sleep(s.wait) }

// TestRuns: the least time of the runs counts, and runs of other operations are refused.
func TestRuns(t *testing.T) {
	inner := &slow{Backend: ref.Open()}
	p := profile.New(inner)
	x := kernels.View{N: 1, H: 4, W: 4, C: 8}
	for _, wait := range []time.Duration{100, 1, 100} {
		inner.wait = wait * time.Millisecond
		p.Next()
		p.Moments(kernels.View{}, x)
	}
	r, err := p.Report(0, 0)
	require.NoError(t, err)
	require.Len(t, r.Layers, 1)
	require.Equal(t, "8 @4x4", r.Layers[0].Shape)
	require.GreaterOrEqual(t, r.Layers[0].Ms, 1.)
	require.Less(t, r.Layers[0].Ms, 100.)
	require.Zero(t, r.Layers[0].OfGBps)

	for want, run := range map[string]func(p *profile.Backend){
		"0 operations, expected 1": func(*profile.Backend) {},
		"moments 3 @4x4":           func(p *profile.Backend) { p.Moments(kernels.View{}, kernels.View{N: 1, H: 4, W: 4, C: 3}) },
		"expected the end": func(p *profile.Backend) {
			p.Moments(kernels.View{}, x)
			p.Moments(kernels.View{}, x)
		},
	} {
		p := profile.New(&slow{Backend: ref.Open()})
		p.Next()
		p.Moments(kernels.View{}, x)
		p.Next()
		run(p)
		_, err := p.Report(0, 0)
		require.ErrorContains(t, err, want)
	}
}

func TestPrint(t *testing.T) {
	conv := profile.Row{Block: "out", Op: "conv3x3", Shape: "64+32->3 @256x256 up2", Form: "direct", Ms: 1.5, Share: 0.75,
		GFLOP: 0.3, Bytes: 3e6, GFLOPS: 200, OfGFLOPS: 1.25, GBps: 2, OfGBps: 0.1}
	norm := profile.Row{Block: "input_blocks.12", Op: "norm", Shape: "96", Ms: 0.5, Share: 0.25, Bytes: 1e4, GBps: 0.02, OfGBps: 0.001}
	kind := conv
	kind.Layers, kind.Shape = 1, "@256x256 up2"
	r := profile.Report{PeakGFLOPS: 160, PeakGBps: 20, Layers: []profile.Row{norm, conv}, Kinds: []profile.Row{kind}}
	var b bytes.Buffer
	require.NoError(t, r.Print(&b))
	require.Equal(t, `block            operation  shape                  form       ms  share  GFLOP  GFLOP/s  of peak    MB  GB/s  of peak
input_blocks.12  norm       96                             0.500  25.0%                           0.01   0.0       0%
out              conv3x3    64+32->3 @256x256 up2  direct  1.500  75.0%  0.300      200     125%  3.00   2.0      10%

layers  operation  shape         form       ms   share  GFLOP  GFLOP/s  of peak    MB  GB/s  of peak
1       conv3x3    @256x256 up2  direct  1.500   75.0%  0.300      200     125%  3.00   2.0      10%
2       all                              2.000  100.0%  0.300      150      94%  3.01   1.5       8%

measured peaks: 160 GFLOP/s of multiply-adds, 20.0 GB/s of memory
`, b.String())

	b.Reset()
	r.PeakGFLOPS, r.PeakGBps = 0, 0
	require.NoError(t, r.Print(&b))
	require.NotContains(t, b.String(), "peak")
}
