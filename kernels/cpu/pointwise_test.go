package cpu_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
)

// sparseMatrix has rows of some weights each, on columns at random.
func sparseMatrix(rows, cols, weights int) kernels.SparseMatrix {
	rng := rand.New(rand.NewPCG(7, 8))
	m := kernels.SparseMatrix{Rows: rows, Cols: cols, Start: make([]int32, rows+1)}
	for i := range rows {
		for range weights {
			m.Col, m.W = append(m.Col, int32(rng.IntN(cols))), append(m.W, rng.Float32())
		}
		m.Start[i+1] = int32(len(m.W))
	}
	return m
}

// TestSparse: the same bytes for any number of threads and in any batch, and no memory that grows. A plan tells the same
// memory.
func TestSparse(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref is tested by itself")
	}
	m := sparseMatrix(700, 60*70, 300)
	var first []float32
	var usage kernels.Usage
	for _, o := range []cpu.Options{{Threads: 1}, {Threads: 2}, {Threads: 5}, {Threads: 2, Plan: true}} {
		b, err := cpu.Open(o)
		require.NoError(t, err)
		s, err := b.PrepareSparse(m)
		require.NoError(t, err)
		x, data := random(t, b, [4]int{3, 60, 70, 3})
		y, out := random(t, b, [4]int{3, 1, 700, 3})
		back, _ := random(t, b, [4]int{3, 60, 70, 3})
		run := func(dst, src kernels.View, adjoint bool) {
			b.Sparse(&kernels.Sparse{Dst: dst, Src: src, M: s, Adjoint: adjoint, Alpha: 0.5})
		}
		run(y, x, false)
		run(back, y, true)
		took := kernels.UsageOf(b)
		if usage == (kernels.Usage{}) {
			usage = took
		}
		require.Equal(t, usage, took, "%+v", o)
		run(y, x, false)
		run(back, y, true)
		require.Equal(t, took, kernels.UsageOf(b))
		if !o.Plan {
			require.NoError(t, b.Download(out, y))
			require.NoError(t, b.Download(data, back))
			if first == nil {
				first = append(out, data...)
			}
			require.Equal(t, first, append(out, data...), "%+v", o)
			for n := range 3 {
				run(y.Image(1), x.Image(n), false)
				alone := make([]float32, 700*3)
				require.NoError(t, b.Download(alone, y.Image(1)))
				require.Equal(t, first[n*2100:][:2100], alone, "image %d", n)
			}
		}
		s.Free()
		require.NoError(t, b.Close())
	}
}

// TestPointwiseThreads: numbers of more than one task, in all of their channels.
func TestPointwiseThreads(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref is tested by itself")
	}
	var first []float32
	for _, threads := range []int{1, 3} {
		b, err := cpu.Open(cpu.Options{Threads: threads})
		require.NoError(t, err)
		x, data := random(t, b, [4]int{2, 250, 201, 6})
		w, weights := random(t, b, [4]int{1, 250, 201, 1})
		y, out := random(t, b, [4]int{2, 250, 201, 6})
		b.Pointwise(&kernels.Pointwise{Op: kernels.PointMul, Dst: y, A: x, B: w})
		require.NoError(t, b.Download(out, y))
		for i, v := range out {
			require.Equal(t, data[i]*weights[i/6%len(weights)], v, i)
		}
		b.Pointwise(&kernels.Pointwise{Op: kernels.PointPhase, Dst: x, A: x, B: w, P: 1e-8}) // of three complex numbers
		require.NoError(t, b.Download(data, x))
		if first == nil {
			first = data
		}
		require.Equal(t, first, data)
		require.NoError(t, b.Close())
	}
}

func BenchmarkSparse(b *testing.B) {
	for _, c := range []struct {
		name                string
		rows, cols, weights int
	}{{"tomography", 256 * 180, 256 * 256, 180}, {"compressed", 256, 64 * 64, 64 * 64}, {"halving", 128 * 128, 256 * 256, 4}} {
		for name, adjoint := range map[string]bool{"forward": false, "adjoint": true} {
			b.Run(fmt.Sprintf("%s/%s", c.name, name), func(b *testing.B) {
				k, err := cpu.Open(cpu.Options{})
				require.NoError(b, err)
				defer k.Close()
				s, err := k.PrepareSparse(sparseMatrix(c.rows, c.cols, c.weights))
				require.NoError(b, err)
				dst, _ := random(b, k, [4]int{1, 1, c.rows, 3})
				src, _ := random(b, k, [4]int{1, 1, c.cols, 3})
				if adjoint {
					dst, src = src, dst
				}
				for b.Loop() {
					k.Sparse(&kernels.Sparse{Dst: dst, Src: src, M: s, Adjoint: adjoint, Alpha: 1})
				}
				b.ReportMetric(float64(c.rows*c.weights)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "weights/ns")
			})
		}
	}
}

func BenchmarkPointwise(b *testing.B) {
	for name, op := range map[string]kernels.PointOp{"mul": kernels.PointMul, "round": kernels.PointRound, "power": kernels.PointPower, "abs": kernels.PointAbs, "phase": kernels.PointPhase} {
		b.Run(name, func(b *testing.B) {
			k, err := cpu.Open(cpu.Options{})
			require.NoError(b, err)
			defer k.Close()
			complexA, complexDst, needsB := op.Operands()
			wide := map[bool]int{false: 3, true: 6}
			a, _ := random(b, k, [4]int{1, 256, 256, wide[complexA]})
			dst, _ := random(b, k, [4]int{1, 256, 256, wide[complexDst]})
			var other kernels.View
			if needsB {
				other, _ = random(b, k, [4]int{1, 256, 256, 3})
			}
			for b.Loop() {
				k.Pointwise(&kernels.Pointwise{Op: op, Dst: dst, A: a, B: other, P: 0.1, Q: 0.5})
			}
		})
	}
}
