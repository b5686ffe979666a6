package cpu_test

import (
	"fmt"
	"math"
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

// TestPower: powers are those of math.Pow, with all its cases of zeros, infinities, NaN and negative numbers, though no caller
// may give a negative P. They are off by what rounding to a float takes, half a unit in the last place, and a thousandth of one.
func TestPower(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref is tested by itself")
	}
	inf, nan := math.Inf(1), math.NaN()
	rng := rand.New(rand.NewPCG(9, 10))
	bases := []float32{0, 1, 2, 0.5, math.SmallestNonzeroFloat32, math.MaxFloat32, 0x1p-126, 0x1.fffffcp-127, 0x1.fffffep-1, 0x1.000002p0, 0x1.6a09e6p-1, 0x1.6a09e8p-1, 3, 10}
	for _, x := range bases {
		bases = append(bases, -x)
	}
	bases = append(bases, float32(math.Copysign(0, -1)), float32(inf), float32(-inf), float32(nan))
	special := len(bases)
	for range 800 {
		bases = append(bases, math.Float32frombits(rng.Uint32()), rng.Float32(), 1+rng.Float32()*float32(math.Ldexp(1, -rng.IntN(24))), -float32(rng.IntN(100)))
	}
	exponents := []float32{0, float32(math.Copysign(0, -1)), 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1 / 2.2, 2.2, 1. / 3, 126, 127, 128, -126, -127, -149, -150, 1e-30, 1 << 20, 1<<20 + 1,
		1<<24 - 1, 1 << 24, -1 << 24, 1e30, -1e30, math.SmallestNonzeroFloat32, math.MaxFloat32, float32(inf), float32(-inf), float32(nan)}
	for range 100 {
		exponents = append(exponents, float32(rng.NormFloat64()*math.Pow(10, float64(rng.IntN(5)-2))))
	}
	for _, level := range append(cpu.Levels(), "wide") {
		b, err := cpu.Open(cpu.Options{Level: level, Threads: 2})
		require.NoError(t, err)
		worst := 0.0
		check := func(bases, got []float32, src, dst kernels.View, p, q float32) {
			b.Upload(src, bases)
			b.Pointwise(&kernels.Pointwise{Op: kernels.PointPower, Dst: dst, A: src, P: p, Q: q})
			require.NoError(t, b.Download(got, dst))
			for i, y := range got {
				x := bases[i]
				if x < p {
					x = p
				}
				want, have := math.Pow(float64(x), float64(q)), float64(y)
				// Infinity stands for all numbers that round to 2^128.
				want, have = max(-0x1p128, min(want, 0x1p128)), max(-0x1p128, min(have, 0x1p128))
				off := math.Abs(have-want) / math.Ldexp(1, max(math.Ilogb(want)-23, -149))
				// The number, of up to 2^24 units, is off by 6e-11; and math.Pow multiplies up to q times.
				bound := 0.5 + 0x1p24*(6e-11+0x1p-53*min(math.Abs(float64(q)), 0x1p24))
				if want != want && have != have || q != q && want == have {
					continue
				}
				if !(off <= bound) || math.Signbit(want) != math.Signbit(have) {
					t.Fatalf("%s: max(%v, %v)^%v is %v, expected %v", level, bases[i], p, q, y, want)
				}
				if math.Abs(float64(q)) < 1e3 {
					worst = max(worst, off)
				}
			}
		}
		src, got := random(t, b, [4]int{1, 1, len(bases), 1})
		dst, _ := random(t, b, [4]int{1, 1, len(bases), 1})
		one, single := random(t, b, [4]int{1, 1, 1, 1})
		for _, q := range exponents {
			for _, p := range []float32{0, 0.1, -2, float32(-inf), float32(nan)} {
				check(bases, got, src, dst, p, q)
				for i := range special { // alone: whether it is found may not depend on what lies beside it
					check(bases[i:][:1], single, one, one, p, q)
				}
			}
		}
		t.Logf("%s: %.5f units in the last place at most", level, worst)
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
