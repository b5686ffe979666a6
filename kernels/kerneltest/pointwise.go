package kerneltest

import (
	"fmt"
	"math"
	"testing"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
)

// formulas are all of kernels.PointOp, with the bound on the error of an element: of its operands, parameters and result.
var formulas = []struct {
	name  string
	op    kernels.PointOp
	bound func(x, y, b, p, q, want float64) float64
}{
	{"mul", kernels.PointMul, func(x, y, b, p, q, want float64) float64 { return unit * math.Abs(x*b) }},
	{"clip", kernels.PointClip, exact},
	{"round", kernels.PointRound, func(x, y, b, p, q, want float64) float64 { return unit * (math.Abs(x-q) + p + math.Abs(q)) }},
	{"power", kernels.PointPower, func(x, y, b, p, q, want float64) float64 { return 9 * unit * want }}, // four units in the last place, as CUDA states
	{"within", kernels.PointWithin, exact},
	{"saturate", kernels.PointSaturate, func(x, y, b, p, q, want float64) float64 { return unit * (math.Abs(x) + math.Abs(b)) }},
	{"complex", kernels.PointComplex, exact},
	{"real", kernels.PointReal, exact},
	// A quotient, its square, the sum, the root, the product. The phase adds a quotient and a product.
	{"abs", kernels.PointAbs, func(x, y, b, p, q, want float64) float64 { return 6 * unit * want }},
	{"phase", kernels.PointPhase, func(x, y, b, p, q, want float64) float64 { return 9 * unit * math.Abs(want) }},
}

func exact(x, y, b, p, q, want float64) float64 { return 0 }

// pointwise evaluates every formula, B repeated or not, in place or not.
func (p *pixels) pointwise() {
	what := p.what
	defer func() { p.what = what }()
	for _, f := range formulas {
		p.what = fmt.Sprintf("%s, %s", what, f.name)
		complexA, complexDst, needsB := f.op.Operands()
		ashape, dshape, bshape := p.shape, p.shape, p.shape
		if complexA {
			ashape[3] *= 2
		}
		if complexDst {
			dshape[3] *= 2
		}
		if p.rng.IntN(3) == 0 {
			bshape[0] = 1
		}
		if p.rng.IntN(3) == 0 {
			bshape[3] = 1
		}
		a, b, dst := p.random(ashape), pair{}, p.put(dshape, nil)
		if needsB || f.op == kernels.PointComplex && p.rng.IntN(2) == 0 {
			b = p.random(bshape)
		}
		lo, hi := float32(p.rng.NormFloat64()), float32(p.rng.NormFloat64())
		switch f.op {
		case kernels.PointRound:
			lo = 0.05 + p.rng.Float32()
		case kernels.PointPower:
			lo, hi = p.rng.Float32(), hi-1
			if p.rng.IntN(2) == 0 {
				lo, hi = 0, p.rng.Float32() // of zero, too
			}
		case kernels.PointPhase:
			lo = 0.5
		case kernels.PointSaturate, kernels.PointWithin:
			lo, hi = -p.rng.Float32(), p.rng.Float32()
		}
		got, want := kernels.Pointwise{Op: f.op, Dst: dst.got, A: a.got, B: b.got, P: lo, Q: hi}, kernels.Pointwise{Op: f.op, Dst: dst.want, A: a.want, B: b.want, P: lo, Q: hi}
		sources := []pair{a, b}
		switch place := p.rng.IntN(3); {
		case place == 1 && complexA == complexDst:
			got.Dst, want.Dst, dst, sources = a.got, a.want, a, []pair{b}
		case place == 2 && b.got.Present() && bshape == dshape:
			got.Dst, want.Dst, dst, sources = b.got, b.want, b, []pair{a}
		}
		p.ref.Pointwise(&want)
		p.b.Pointwise(&got)
		result := p.reference(dst.want)
		p.near(dst.got, dst.want, func(i int) float64 {
			var x, y, v float64
			number := i
			if complexDst {
				number /= 2
			}
			if x = float64(a.data[number]); complexA {
				x, y = float64(a.data[2*number]), float64(a.data[2*number+1])
			}
			if b.got.Present() {
				n, c := number/(p.shape[1]*p.shape[2]*p.shape[3]), number%p.shape[3]
				pixel := number / p.shape[3] % (p.shape[1] * p.shape[2])
				v = float64(b.data[(n%bshape[0]*p.shape[1]*p.shape[2]+pixel)*bshape[3]+c%bshape[3]])
			}
			return f.bound(x, y, v, float64(lo), float64(hi), float64(result[i]))
		})
		p.untouched(sources...)
	}
}

// edges are formulas at values where they bend: halves, limits, zeros, squares out of range, and NaN, which stays one.
func edges(t *testing.T, b kernels.Backend) {
	p := &pixels{t: t, b: b, ref: ref.Open()}
	defer p.free()
	inf := float32(math.Inf(1))
	for name, c := range map[string]struct {
		op         kernels.PointOp
		a, b       []float32
		p, q       float32
		want       []float32
		complexity int // channels of a and of the result where they are not one
	}{
		"halves":          {op: kernels.PointRound, a: []float32{0.5, 1.5, 2.5, -0.5, -1.5, 1.25, nan}, p: 1, want: []float32{0, 2, 2, 0, -2, 1, nan}},
		"halves of steps": {op: kernels.PointRound, a: []float32{1, 1.5, 2, 1e30, -1e30}, p: 1, q: 0.5, want: []float32{0.5, 1.5, 2.5, 1e30, -1e30}},
		"clip":            {op: kernels.PointClip, a: []float32{-inf, -2, -1, 0, 1, 2, inf, nan}, p: -1, q: 1, want: []float32{-1, -1, -1, 0, 1, 1, 1, nan}},
		"within":          {op: kernels.PointWithin, a: []float32{-inf, -1.5, -1, 0, 1, 1.5, nan}, p: -1, q: 1, want: []float32{0, 0, 1, 1, 1, 0, 0}},
		"saturate": {op: kernels.PointSaturate, a: []float32{2, 0, -2, 0, 2, -2, nan, 1}, b: []float32{1, 1, -1, -1, 0, 0, 1, nan}, p: -1, q: 1,
			want: []float32{0, -1, 0, 1, 2, -2, nan, nan}},
		"power": {op: kernels.PointPower, a: []float32{-1, 0, 4, nan}, q: 0.5, want: []float32{0, 0, 2, nan}},
		"mul":   {op: kernels.PointMul, a: []float32{0, 2, nan, 1}, b: []float32{1, 3, 1, nan}, want: []float32{0, 6, nan, nan}},
		"abs": {op: kernels.PointAbs, complexity: 2, a: []float32{0, 0, 3e30, 4e30, -3e-30, 4e-30, 0, -1, nan, 0, 0, nan, nan, 1, 1, nan, nan, nan},
			want: []float32{0, 5e30, 5e-30, 1, nan, nan, nan, nan, nan}},
		"phase": {op: kernels.PointPhase, complexity: 2, a: []float32{0, 0, 3e30, -4e30, 3e-30, 4e-30, nan, 1, 1, nan}, b: []float32{1, 5, 1, 1, 1}, p: 1e-8,
			want: []float32{0, 0, 3, -4, 3e-22, 4e-22, nan, nan, nan, nan}},
		"without imaginary part": {op: kernels.PointComplex, a: []float32{1, nan}, want: []float32{1, 0, nan, 0}},
	} {
		p.what = name
		channels := max(1, c.complexity)
		complexA, complexDst, _ := c.op.Operands()
		wide := func(complex bool) int {
			if complex {
				return 2
			}
			return 1
		}
		n := len(c.a) / channels
		a, other := p.put([4]int{1, 1, n, wide(complexA)}, c.a), pair{}
		if c.b != nil {
			other = p.put([4]int{1, 1, n, 1}, c.b)
		}
		dst := p.put([4]int{1, 1, n, wide(complexDst)}, nil)
		b.Pointwise(&kernels.Pointwise{Op: c.op, Dst: dst.got, A: a.got, B: other.got, P: c.p, Q: c.q})
		for i, g := range p.read(dst.got) {
			w := c.want[i]
			if (g != g) != (w != w) || g == g && !(math.Abs(float64(g)-float64(w)) <= 8*unit*math.Abs(float64(w))) {
				p.errorf("element %d is %v, expected %v", i, g, w)
			}
		}
	}
}

// sparseMatrix draws a matrix: rows are empty, short, or cover many columns, some of them twice.
func (p *pixels) sparseMatrix(rows, cols int) (m kernels.SparseMatrix) {
	m = kernels.SparseMatrix{Rows: rows, Cols: cols, Start: make([]int32, rows+1)}
	most := []int{1, 5, 2 * cols}[p.rng.IntN(3)]
	for i := range rows {
		n := p.rng.IntN(most + 1)
		if p.rng.IntN(4) == 0 {
			n = 0
		}
		for range n {
			m.Col, m.W = append(m.Col, int32(p.rng.IntN(cols))), append(m.W, float32(p.rng.NormFloat64()))
		}
		m.Start[i+1] = int32(len(m.W))
	}
	return m
}

func (p *pixels) prepareSparse(b kernels.Backend, m kernels.SparseMatrix) kernels.PreparedSparse {
	p.t.Helper()
	pm, err := b.PrepareSparse(m)
	if err != nil {
		p.t.Fatalf("%s: %v", p.what, err)
	}
	if r, c := pm.Shape(); r != m.Rows || c != m.Cols {
		p.errorf("prepared matrix is %d x %d, expected %d x %d", r, c, m.Rows, m.Cols)
	}
	return pm
}

// sparse multiplies by random matrices and their transposes.
func (p *pixels) sparse() {
	pixels := p.shape[1] * p.shape[2]
	rows := 1 + p.rng.IntN(90)
	m := p.sparseMatrix(rows, pixels)
	prepared, reference := p.prepareSparse(p.b, m), p.prepareSparse(p.ref, m)
	defer prepared.Free()
	size := m
	size.W = abs(m.W)
	sizes := p.prepareSparse(p.ref, size)
	transposed := size.Transposed().Start
	for i := range m.W { // what was prepared is a copy
		m.W[i], m.Col[i] = nan, -1
	}
	image, measured := p.shape, [4]int{p.shape[0], 1, rows, p.shape[3]}
	if rows%2 == 0 {
		measured[1], measured[2] = 2, rows/2
	}
	var weights [2]int // of the longest row of either
	for axis, s := range [2][]int32{size.Start, transposed} {
		for i := range len(s) - 1 {
			weights[axis] = max(weights[axis], int(s[i+1]-s[i]))
		}
	}
	var plain [2][]float32 // M x and M^T y
	var sources [2]pair
	for i, adjoint := range []bool{false, true} {
		from, to := image, measured
		if adjoint {
			from, to = measured, image
		}
		src := p.random(from)
		for _, bare := range []bool{true, false} {
			dst, add := p.put(to, nil), pair{}
			got := kernels.Sparse{Dst: dst.got, Src: src.got, M: prepared, Adjoint: adjoint, Alpha: 1}
			if !bare {
				add = p.maybe(to)
				got.Alpha, got.Add, got.Beta = float32(p.rng.NormFloat64()), add.got, float32(p.rng.NormFloat64())
			}
			want := got
			want.Dst, want.Src, want.Add, want.M = dst.want, src.want, add.want, reference
			mag := want
			mag.Dst, mag.Src, mag.Add, mag.M = p.blank(to), p.magnitude(src), p.magnitude(add), sizes
			mag.Alpha, mag.Beta = float32(math.Abs(float64(got.Alpha))), float32(math.Abs(float64(got.Beta)))
			kept := []pair{src, add}
			if add.got.Present() && p.rng.IntN(2) == 0 {
				got.Dst, want.Dst, dst, kept = add.got, add.want, add, []pair{src}
			}
			products := p.products(dst, &got.Products, &kept)
			p.ref.Sparse(&mag)
			p.ref.Sparse(&want)
			p.b.Sparse(&got)
			products()
			s := p.reference(mag.Dst)
			// A product and a sum per weight, Alpha, Beta and their sum.
			n := float64(2*weights[i] + 4)
			p.near(dst.got, dst.want, func(i int) float64 { return n * unit * float64(s[i]) })
			p.untouched(kept...)
			if bare {
				plain[i], sources[i] = p.read(dst.got), src
			}
		}
	}
	var left, right, scale float64 // <M x, y> and <x, M^T y>
	for i, v := range plain[0] {
		left += float64(v) * float64(sources[1].data[i])
		scale += math.Abs(float64(v) * float64(sources[1].data[i]))
	}
	for i, v := range plain[1] {
		right += float64(v) * float64(sources[0].data[i])
		scale += math.Abs(float64(v) * float64(sources[0].data[i]))
	}
	if !(math.Abs(left-right) <= 1e-5*scale) {
		p.errorf("<M x, y> is %v and <x, M^T y> is %v", left, right)
	}
}

// refusedSparse checks that a matrix that is not one is an error.
func refusedSparse(t *testing.T, b kernels.Backend) {
	for name, m := range map[string]kernels.SparseMatrix{
		"nothing":                    {},
		"no columns":                 {Rows: 1, Start: []int32{0, 0}},
		"negative rows":              {Rows: -1, Cols: 1},
		"more columns than memory":   {Rows: 1, Cols: 1 << 40, Start: []int32{0, 0}},
		"a start missing":            {Rows: 2, Cols: 2, Start: []int32{0, 1}, Col: []int32{0}, W: []float32{1}},
		"a first row of its own":     {Rows: 1, Cols: 2, Start: []int32{1, 1}, Col: []int32{0}, W: []float32{1}},
		"weights left over":          {Rows: 1, Cols: 2, Start: []int32{0, 1}, Col: []int32{0, 1}, W: []float32{1, 1}},
		"weights missing":            {Rows: 1, Cols: 2, Start: []int32{0, 2}, Col: []int32{0}, W: []float32{1}},
		"columns missing":            {Rows: 1, Cols: 2, Start: []int32{0, 2}, Col: []int32{0}, W: []float32{1, 1}},
		"a row that ends before it":  {Rows: 2, Cols: 2, Start: []int32{0, 2, 1}, Col: []int32{0}, W: []float32{1}},
		"a row below zero":           {Rows: 2, Cols: 2, Start: []int32{0, -5, 1}, Col: []int32{0}, W: []float32{1}},
		"a column past the end":      {Rows: 1, Cols: 2, Start: []int32{0, 1}, Col: []int32{2}, W: []float32{1}},
		"a column before the image":  {Rows: 1, Cols: 2, Start: []int32{0, 1}, Col: []int32{-1}, W: []float32{1}},
		"rows that nobody could fit": {Rows: math.MaxInt - 1, Cols: 1, Start: []int32{0}},
	} {
		if _, err := b.PrepareSparse(m); err == nil {
			t.Errorf("%s: a sparse matrix with %s was accepted", b.Name(), name)
		}
	}
}
