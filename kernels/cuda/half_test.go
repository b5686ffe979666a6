//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/kerneltest"
	"github.com/spin-native/spin/kernels/ref"
)

// TestTiles: every tile gives the same results, within the suite's bounds, whatever the number of parts that its sums are
// cut into, more than there are steps included.
func TestTiles(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	for _, tile := range append(gemmTiles[:len(gemmTiles):len(gemmTiles)], haloTiles...) {
		for _, splits := range []int{1, 3, 16} {
			if splits > 1 && !tile.splits() {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", tile.name, splits), func(t *testing.T) {
				b.force = chosen{tile, splits}
				kerneltest.HalfConv(t, b, 6)
				if splits == 1 {
					kerneltest.HalfConvWide(t, b, 2) // several steps deep
				}
			})
		}
	}
	require.NoError(t, b.Sync())
}

// TestChoice: shapes of real networks get blocks enough for the device, and no part of a sum is short.
func TestChoice(t *testing.T) {
	for _, c := range []struct {
		size, channels, in int
		halo               bool
		tile               string
		splits             int
	}{
		{256, 128, 128, true, "conv_halo_f16_8x16x128", 1},
		{128, 256, 256, true, "conv_halo_f16_8x16x128", 1},
		{64, 256, 256, true, "conv_halo_f16_8x16x64", 1},
		{32, 512, 512, true, "conv_halo_f16_8x8x64", 1},
		{16, 512, 512, true, "conv_halo_f16_8x8x64", 4},
		{8, 512, 512, true, "conv_halo_f16_8x8x64", 16},
		{256, 3, 128, true, "conv_halo_f16_8x16x16", 1},
		{128, 128, 128, false, "conv_gemm_f16_128x128", 1},
		{16, 512, 512, false, "conv_gemm_f16_64x32", 2},
		{8, 32, 32, false, "conv_gemm_f16_64x32", 1},
	} {
		tiles := gemmTiles
		if c.halo {
			tiles = haloTiles
		}
		steps := 9 * blocks(c.in, 32)
		got := choose(tiles, c.size, c.size, c.channels, steps)
		require.Equal(t, fmt.Sprint(c.tile, c.splits), fmt.Sprint(got.tile.name, got.splits), "%+v", c)
	}
	for _, tile := range append(gemmTiles[:len(gemmTiles):len(gemmTiles)], haloTiles...) {
		require.LessOrEqual(t, tile.shared, sharedLimit, tile.name)
	}
	for dim := 8; dim <= 512; dim += 8 {
		_, _, shared := flash(dim)
		require.LessOrEqual(t, shared, sharedLimit)
	}
}

// TestSharedMemory: the comments beside the kernels, which the table of docs/cuda.md is made from, say what is launched.
func TestSharedMemory(t *testing.T) {
	source, err := os.ReadFile("conv_half.cu")
	require.NoError(t, err)
	for _, tile := range append(gemmTiles[:len(gemmTiles):len(gemmTiles)], haloTiles...) {
		want := regexp.MustCompile(fmt.Sprintf(`\(%s, .*\)\s+// %d threads, %s KB`, tile.name, tile.threads, regexp.QuoteMeta(fmt.Sprint(float64(tile.shared)/1024))))
		require.Regexp(t, want, string(source))
	}
	source, err = os.ReadFile("attention_half.cu")
	require.NoError(t, err)
	for _, dim := range []int{32, 64, 128, 256, 512} {
		name, _, shared := flash(dim)
		require.Regexp(t, regexp.MustCompile(fmt.Sprintf(`\(%s, .*\)\s+// %s KB`, name, regexp.QuoteMeta(strconv.FormatFloat(math.Round(float64(shared)/102.4)/10, 'g', -1, 64)))), string(source))
	}
}

// apart is the difference in the L2 norm, relative to what is wanted.
func apart(got, want []float32) float64 {
	var off, norm float64
	for i := range want {
		d := float64(got[i] - want[i])
		off, norm = off+d*d, norm+float64(want[i])*float64(want[i])
	}
	return math.Sqrt(off / norm)
}

// attended is attention of one head over numbers that are exact in F16.
func attended(t *testing.T, b kernels.Backend, kind kernels.Type, queries, keys, dim int) []float32 {
	view := func(pixels int) kernels.View {
		buf, err := b.Alloc(kind.Room(pixels * dim))
		require.NoError(t, err)
		return kernels.View{Buf: buf, N: 1, H: 1, W: pixels, C: dim, Type: kind}
	}
	q, k, v, dst := view(queries), view(keys), view(keys), view(queries)
	for i, w := range []kernels.View{q, k, v} {
		data := make([]float32, w.Len())
		for j := range data {
			data[j] = float32(math.Round(64*math.Sin(float64(j*(i+3)+j*j%97)))) / 32
		}
		b.Upload(w, data)
	}
	b.Attention(&kernels.Attention{Dst: dst, Q: kernels.Heads{View: q}, K: kernels.Heads{View: k}, V: kernels.Heads{View: v},
		Heads: 1, Dim: dim, Scale: float32(1 / math.Sqrt(float64(dim)))})
	out := make([]float32, dst.Len())
	require.NoError(t, b.Download(out, dst))
	return out
}

// TestWideAttention: heads of which only one query at a time fits into shared memory, as the reference has them.
func TestWideAttention(t *testing.T) {
	b, oracle := openBackend(t), ref.Open()
	defer b.Close()
	const queries, keys, dim = 3, 150, 712
	for kind, tolerance := range map[kernels.Type]float64{kernels.F32: 1e-6, kernels.F16: 0x1p-11} { // a sum's rounding, and a result's
		before := b.launchesByKernel()
		require.LessOrEqual(t, apart(attended(t, b, kind, queries, keys, dim), attended(t, oracle, kernels.F32, queries, keys, dim)), tolerance, "%v", kind)
		name := fmt.Sprintf("attention_%v_1", kind)
		require.Equal(t, before[name]+1, b.launchesByKernel()[name])
	}
}

// TestLongAttention: more keys than the suite has, against the plain kernel, and scores far from each other.
func TestLongAttention(t *testing.T) {
	b := openBackend(t)
	defer b.Close()
	queries, keys := 70, 1100
	if testing.Short() {
		keys = 300
	}
	for _, dim := range []int{40, 128, 200, 512} {
		require.LessOrEqual(t, apart(attended(t, b, kernels.F16, queries, keys, dim), attended(t, b, kernels.F32, queries, keys, dim)), 0x1p-10, "heads of %d: probabilities and results are rounded to F16 once", dim)
	}
}
