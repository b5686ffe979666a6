//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/kernels"
)

// meeting says whether blocks of a launch may meet.
func (b *Backend) meeting(yes bool) {
	_ = b.now(func() error { b.cooperative = yes; return nil })
}

// TestRow: an attention block in one launch has the bytes of its operations one by one, whatever the tiles, again and again.
func TestRow(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	for i, c := range []struct {
		n, h, w, c, heads int
		normal            bool // a normalisation first, which is a phase of its own
		tile              halfTile
		splits            int
	}{
		{1, 8, 8, 64, 1, true, halfTile{}, 0},
		{2, 12, 20, 64, 2, true, halfTile{}, 0},
		{1, 8, 16, 128, 2, false, halfTile{}, 0},
		{1, 8, 8, 96, 3, true, gemmTiles[1], 1},
		{2, 10, 9, 64, 1, true, gemmTiles[2], 3},
		{1, 16, 16, 40, 1, true, gemmTiles[3], 2},
	} {
		b.force = chosen{c.tile, c.splits}
		x := view(t, b, kernels.F16, c.n, c.h, c.w, c.c)
		qkv, proj := convolution(t, b, c.c, 3*c.c, 1, kernels.F16), convolution(t, b, c.c, c.c, 1, kernels.F16)
		affine, norm := view(t, b, kernels.F32, c.n, 1, 2, c.c), kernels.Norm{
			Pixels: c.h * c.w, Groups: 4, Eps: 1e-5, Gamma: view(t, b, kernels.F32, 1, 1, 1, c.c), Beta: view(t, b, kernels.F32, 1, 1, 1, c.c)}
		run := func(together bool) (out []float32) {
			b.meeting(together)
			mid, att := view(t, b, kernels.F16, c.n, c.h, c.w, 3*c.c), view(t, b, kernels.F16, c.n, c.h, c.w, c.c)
			dst, moments := view(t, b, kernels.F16, c.n, c.h, c.w, c.c), view(t, b, kernels.F32, c.n, 1, 2, c.c)
			norm.Dst, norm.Moments = view(t, b, kernels.F32, c.n, 1, 2, c.c), [2]kernels.View{moments}
			before := b.launchesByKernel()
			first := kernels.Conv2D{Dst: mid, Src: [2]kernels.View{x}, Kernel: qkv}
			if c.normal {
				first.Affine = affine
			}
			b.Conv2D(&first)
			head := func(i int) kernels.Heads { return kernels.Heads{View: mid, First: i * c.c, Step: c.c / c.heads} }
			b.Attention(&kernels.Attention{Dst: att, Q: head(0), K: head(1), V: head(2), Heads: c.heads, Dim: c.c / c.heads, Scale: float32(1 / math.Sqrt(float64(c.c/c.heads)))})
			b.Conv2D(&kernels.Conv2D{Dst: dst, Src: [2]kernels.View{att}, Kernel: proj, Residual: x, Moments: moments})
			b.Norm(&norm)
			blocks, all := 0, 3
			if c.normal {
				all++
			}
			if together {
				blocks, all = 1, 1
			}
			after, n := b.launchesByKernel(), 0
			for name := range after {
				n += after[name] - before[name]
			}
			require.Equal(t, all, n, "%+v", c)
			require.Equal(t, blocks, after[attentionBlock]-before[attentionBlock])
			for _, v := range []kernels.View{mid, att, dst, moments, norm.Dst} {
				out = append(out, floats(t, b, v)...)
			}
			return out
		}
		apart := run(false)
		for _, v := range apart {
			require.False(t, math.IsNaN(float64(v)), "%+v", c)
		}
		for range 2 {
			require.Equal(t, apart, run(true), fmt.Sprint(i))
		}
	}
	b.force = chosen{}
	meet := make([]float32, 2)
	require.NoError(t, b.download(bytesOf(meet), b.meet))
	require.Zero(t, math.Float32bits(meet[0]), "nobody waits")
	require.NoError(t, b.Sync())
}

// TestRowOrder: what waits for others to follow is launched before anything else: another kernel, a transfer, a wait, memory that
// is given back; and what does not fit behind it begins another row.
func TestRowOrder(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	x, y := view(t, b, kernels.F16, 1, 8, 8, 64), view(t, b, kernels.F16, 1, 8, 8, 64)
	k := convolution(t, b, 64, 64, 1, kernels.F16)
	product := func() { b.Conv2D(&kernels.Conv2D{Dst: y, Src: [2]kernels.View{x}, Kernel: k}) }
	attend := func() {
		h := kernels.Heads{View: x, Step: 64}
		b.Attention(&kernels.Attention{Dst: y, Q: h, K: h, V: h, Heads: 1, Dim: 64, Scale: 1})
	}
	launches := func(f ...func()) int {
		before := b.Launches()
		for _, f := range f {
			f()
		}
		return b.Launches() - before
	}
	require.Equal(t, 1, launches(product, product), "the first and the last product")
	require.Equal(t, 2, launches(product, product, product))
	require.Equal(t, 1, launches(product, attend, product))
	require.Equal(t, 2, launches(attend, attend))
	require.Equal(t, 1, launches(attend, product))
	require.Equal(t, 2, launches(attend, product, attend))
	for name, between := range map[string]func(){
		"a wait":     func() { require.NoError(t, b.Sync()) },
		"a transfer": func() { b.Upload(y, make([]float32, y.Len())) },
		"a mark":     b.Mark,
		"memory": func() {
			m, err := b.Alloc(1)
			require.NoError(t, err)
			b.Free(m)
		},
	} {
		before := b.launchesByKernel()[attentionBlock]
		launches(product, between, attend)
		require.Equal(t, before, b.launchesByKernel()[attentionBlock], name)
	}
	require.Equal(t, 3, launches(product, func() { b.Resample(y, y, kernels.Same, kernels.View{}) }, attend), "another kernel")
	product()
	want := floats(t, b, y)
	product()
	b.Record()
	product()
	attend()
	product()
	g := b.End()
	require.NotNil(t, g)
	require.True(t, g.Replay())
	require.Equal(t, want, floats(t, b, y), "recorded and replayed")
	g.Free()
}

// TestRowApart: where the driver lets no blocks meet, or the device does not hold all of them at once, every phase is a launch.
func TestRowApart(t *testing.T) {
	if os.Getenv(lazycuda.Library) == "" {
		t.Skip("for the emulated device")
	}
	var want []float32
	for _, setting := range []string{"CUEMU_SMS=132", "CUEMU_SMS=1", "CUEMU_ABSENT=cooperative", "CUEMU_REFUSE=cuLaunchCooperativeKernel"} {
		name, value, _ := strings.Cut(setting, "=")
		t.Run(setting, func(t *testing.T) {
			t.Setenv(name, value)
			b := openBackend(t)
			defer b.Close()
			x, y := view(t, b, kernels.F16, 3, 16, 16, 64), view(t, b, kernels.F16, 3, 16, 16, 64)
			k := convolution(t, b, 64, 64, 1, kernels.F16)
			before := b.Launches()
			b.Conv2D(&kernels.Conv2D{Dst: y, Src: [2]kernels.View{x}, Kernel: k, Affine: view(t, b, kernels.F32, 3, 1, 2, 64)})
			b.Conv2D(&kernels.Conv2D{Dst: x, Src: [2]kernels.View{y}, Kernel: k})
			launches := b.Launches() - before
			if got := floats(t, b, x); want == nil {
				require.Equal(t, 1, launches)
				want = got
			} else {
				require.Equal(t, 3, launches)
				require.Equal(t, want, got)
			}
			x.N, y.N = 1, 1 // which fits
			before = b.Launches()
			b.Conv2D(&kernels.Conv2D{Dst: y, Src: [2]kernels.View{x}, Kernel: k})
			b.Conv2D(&kernels.Conv2D{Dst: x, Src: [2]kernels.View{y}, Kernel: k})
			require.Equal(t, name == "CUEMU_SMS", b.Launches()-before == 1)
		})
	}
}

// TestRowRefused: a launch that the driver refuses while it records ends the recording and nothing else.
func TestRowRefused(t *testing.T) {
	if os.Getenv(lazycuda.Library) == "" {
		t.Skip("for the emulated device")
	}
	b := openBackend(t)
	defer b.Close()
	x, y := view(t, b, kernels.F16, 1, 8, 8, 64), view(t, b, kernels.F16, 1, 8, 8, 64)
	k := convolution(t, b, 64, 64, 1, kernels.F16)
	run := func() {
		for range 2 {
			b.Conv2D(&kernels.Conv2D{Dst: y, Src: [2]kernels.View{x}, Kernel: k})
		}
	}
	run()
	want := floats(t, b, y)
	for _, setting := range []string{"cuLaunchCooperativeKernel", "cuOccupancyMaxActiveBlocksPerMultiprocessor"} {
		b.meeting(true)
		t.Setenv("CUEMU_REFUSE", setting)
		b.Record()
		run()
		require.Nil(t, b.End(), setting)
		t.Setenv("CUEMU_REFUSE", "")
		run()
		require.Equal(t, want, floats(t, b, y))
		b.Record()
		run()
		g := b.End()
		require.NotNil(t, g, setting)
		g.Free()
	}
	require.NoError(t, b.Sync())
}

// TestRowInSeries: what belongs to a series waits for nothing else: it runs in its order.
func TestRowInSeries(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	x, y := view(t, b, kernels.F16, 1, 8, 8, 64), view(t, b, kernels.F16, 1, 8, 8, 64)
	in, out := view(t, b, kernels.F32, 1, 8, 8, 64), view(t, b, kernels.F32, 1, 8, 8, 64)
	k := convolution(t, b, 64, 64, 1, kernels.F16)
	run := func(scale float32) {
		b.Blend(&kernels.Blend{Dst: out, Terms: []kernels.Term{{X: in, C: scale}}})
		b.Resample(x, out, kernels.Same, kernels.View{})
		b.Conv2D(&kernels.Conv2D{Dst: y, Src: [2]kernels.View{x}, Kernel: k})
		b.Resample(out, y, kernels.Same, kernels.View{})
		b.Blend(&kernels.Blend{Dst: out, Terms: []kernels.Term{{X: out, C: 2}}})
	}
	var bundle kernels.Bundle
	for _, scale := range []float32{1, 0.5, 0.25} {
		run(scale)
		want := floats(t, b, out)
		run(0) // and nothing is there yet
		b.Bundle(bundle)
		run(scale)
		bundle = b.Run()
		require.Equal(t, want, floats(t, b, out))
	}
}

// TestMeets: blocks wait for each other as long as a backend is alone on its device, and give the same bytes when they do not.
func TestMeets(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	x, y, z := view(t, b, kernels.F16, 1, 8, 8, 64), view(t, b, kernels.F16, 1, 8, 8, 64), view(t, b, kernels.F16, 1, 8, 8, 64)
	k := convolution(t, b, 64, 64, 1, kernels.F16)
	run := func() (launches int, out []float32) {
		before := b.Launches()
		b.Conv2D(&kernels.Conv2D{Dst: y, Src: [2]kernels.View{x}, Kernel: k})
		b.Conv2D(&kernels.Conv2D{Dst: z, Src: [2]kernels.View{y}, Kernel: k, Residual: x})
		return b.Launches() - before, floats(t, b, z)
	}
	launches, want := run()
	require.Equal(t, 1, launches)
	f, err := b.Fork(0)
	require.NoError(t, err)
	launches, got := run()
	require.Equal(t, 2, launches)
	require.Equal(t, want, got)
	require.NoError(t, f.Close())
	launches, got = run()
	require.Equal(t, 1, launches)
	require.Equal(t, want, got)
}

// TestFollow: launches are phases of one as long as their kernels are among its phases and their arguments fit.
func TestFollow(t *testing.T) {
	n := func(name string, bytes int) node { return node{name: name, args: make([]byte, bytes)} }
	require.Equal(t, 1, follow([]node{n("blend_f32", 8)}))
	require.Equal(t, 1, follow([]node{n("norm_f32", 8), n("blend_f32", 8)}))
	require.Equal(t, 2, follow([]node{n("dot_f32", 8), n("blend_f32", 8), n("norm_f32", 8)}))
	require.Equal(t, 2, follow([]node{n("dot_f32", 1976), n("blend_f32", 1976), n("blend_f32", 8)}), "4000 bytes")
	require.Equal(t, 1, follow([]node{n("dot_f32", 1976), n("blend_f32", 1977)}))
	for name := range phases {
		require.Contains(t, kernelNames, name)
	}
	for name := range products {
		require.Contains(t, kernelNames, name)
	}
}
