//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/kernels"
)

// TestTable launches what docs/cuda.md tells the shared memory of where it depends on the shape: the table has the threads and the
// bytes that it is launched with.
func TestTable(t *testing.T) {
	const child = "CUEMU_TRACE"
	b := openBackend(t)
	defer b.Close()
	if os.Getenv(child) == "" {
		if info, err := Devices(); err != nil || !strings.Contains(info[0].Name, "emulation") {
			t.Skip("needs the emulated device, which tells what it launches")
		}
		out := testkit.Elsewhere(t, "TestTable", child+"=1", "CUEMU_EAGER=1")
		launched, kernels := map[string]bool{}, map[string]bool{}
		for _, m := range regexp.MustCompile(`launch (\w+)<<<\([\d,]+\),\((\d+),1,1\),(\d+)>>>`).FindAllStringSubmatch(out, -1) {
			launched[fmt.Sprint(m[1:])], kernels[m[1]] = true, true
		}
		text, err := os.ReadFile(filepath.Join(testkit.Root(), "docs", "cuda.md"))
		require.NoError(t, err)
		_, table, ok := strings.Cut(string(text), "| kernel | threads | shared bytes |")
		require.True(t, ok)
		rows := 0
		for _, m := range regexp.MustCompile("\\| `(\\w+)` \\| (\\d+) \\| (\\d+) \\|").FindAllStringSubmatch(table, -1) {
			if kernels[m[1]] {
				require.True(t, launched[fmt.Sprint(m[1:])], "%s is not launched with %s threads and %s bytes", m[1], m[2], m[3])
				rows++
			} else {
				require.Equal(t, "0", m[3], "%s: what it is launched with is not among this test's launches", m[1])
			}
		}
		require.GreaterOrEqual(t, rows, 20)
		return
	}
	picture, half := func() kernels.View { return view(t, b, kernels.F32, 1, 256, 256, 3) }, view(t, b, kernels.F16, 1, 4, 4, 8)
	x, y, sums := picture(), picture(), view(t, b, kernels.F32, 1, 1, 1, 1)
	p := kernels.Products{Sums: sums, Of: x}
	for _, c := range [][3]int{{16, 3, 64}, {16, 64, 3}, {2, 64, 64}} {
		b.Conv2D(&kernels.Conv2D{Src: [2]kernels.View{view(t, b, kernels.F32, 1, c[0], c[0], c[1])}, Kernel: convolution(t, b, c[1], c[2], 3, kernels.F32),
			Dst: view(t, b, kernels.F32, 1, c[0], c[0], c[2])})
	}
	b.Conv2D(&kernels.Conv2D{Src: [2]kernels.View{view(t, b, kernels.F32, 1, 1, 1, 512)}, Kernel: convolution(t, b, 512, 8, 1, kernels.F32), Dst: view(t, b, kernels.F32, 1, 1, 1, 8)})
	b.Moments(view(t, b, kernels.F32, 1, 1, 2, 3), x)
	b.Moments(view(t, b, kernels.F32, 1, 1, 2, 8), half)
	for _, a := range []struct {
		kind kernels.Type
		dim  int
	}{{kernels.F32, 64}, {kernels.F32, 712}, {kernels.F16, 60}, {kernels.F16, 712}} {
		v := view(t, b, a.kind, 1, 2, 2, a.dim)
		h := kernels.Heads{View: v}
		b.Attention(&kernels.Attention{Dst: view(t, b, a.kind, 1, 2, 2, a.dim), Q: h, K: h, V: h, Heads: 1, Dim: a.dim, Scale: 1})
	}
	b.Blend(&kernels.Blend{Dst: y, Terms: []kernels.Term{{X: x, C: 1}}, Products: p})
	b.Bundle(nil)
	b.Dot(sums, x, y)
	b.Dot(sums, x, x)
	b.Run()
	b.Dot(sums, x, y)
	b.Conjugate(&kernels.Conjugate{X: x, R: y, P: picture(), S: picture(), Z: picture(), W: picture(), Sums: view(t, b, kernels.F32, 1, 1, 1, 3),
		After: view(t, b, kernels.F32, 1, 1, 1, 2)})
	local := kernels.Local{Y: x, Gain: 1, Low: -9, High: 9, Loss: sums}
	b.Accelerate(&kernels.Accelerate{X: picture(), Z: picture(), X0: x, Local: local})
	b.Adam(&kernels.Adam{X: picture(), M: picture(), V: picture(), X0: x, Local: local, T: 1})
	wide, err := b.PrepareMatrix(kernels.Matrix{Rows: 256, Cols: 256, First: make([]int, 256), W: slices.Repeat([][]float32{{1}}, 256)})
	require.NoError(t, err)
	b.Separable(&kernels.Separable{Dst: y, Src: x, H: wide, W: wide, Alpha: 1, Products: p})
	long := view(t, b, kernels.F32, 1, 1, 5000, 3) // a row does not fit into shared memory
	one, err := b.PrepareMatrix(kernels.Matrix{Rows: 1, Cols: 1, First: []int{0}, W: [][]float32{{1}}})
	require.NoError(t, err)
	row, err := b.PrepareMatrix(kernels.Matrix{Rows: 5000, Cols: 5000, First: make([]int, 5000), W: slices.Repeat([][]float32{{1}}, 5000)})
	require.NoError(t, err)
	b.Separable(&kernels.Separable{Dst: view(t, b, kernels.F32, 1, 1, 5000, 3), Src: long, H: one, W: row, Alpha: 1, Products: kernels.Products{Sums: sums, Of: long}})
	for size, adjoint := range map[int][]bool{1: {false, true}, 61: {false}} {
		f, err := b.PrepareFilter(kernels.FilterWeights{H: size, W: size, K: slices.Repeat([]float32{1}, size*size)})
		require.NoError(t, err)
		for _, back := range adjoint {
			b.Filter(&kernels.Filter{Dst: y, Src: x, Kernel: f, Adjoint: back, Alpha: 1, Products: p})
		}
	}
	b.Fourier(&kernels.Fourier{Dst: view(t, b, kernels.F32, 1, 256, 256, 2), Src: view(t, b, kernels.F32, 1, 256, 256, 2)})
	m, err := b.PrepareSparse(kernels.SparseMatrix{Rows: 1, Cols: 1, Start: []int32{0, 1}, Col: []int32{0}, W: []float32{1}})
	require.NoError(t, err)
	pixel := view(t, b, kernels.F32, 1, 1, 1, 1)
	b.Sparse(&kernels.Sparse{Dst: pixel, Src: view(t, b, kernels.F32, 1, 1, 1, 1), M: m, Alpha: 1, Products: kernels.Products{Sums: sums, Of: pixel}})
	require.NoError(t, b.Sync())
}
