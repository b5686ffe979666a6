package kerneltest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/x448/float16"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
)

// Image checks every operation of the pixel-space side of b against the reference, over awkward and random shapes.
//
// Destinations start as NaN. All tensors lie inside larger buffers whose other elements are NaN too and must keep their
// bits: a read outside of a source shows in the result, a write in the guards. Results may differ from the reference by
// n u S, where u = 2^-24, n is the number of roundings that a naive float32 loop of the operation makes on one element,
// and S is the sum of the absolute values of what it adds up.
func Image(t *testing.T, b kernels.Backend) {
	for seed := range few(60) {
		p := newPixels(b, seed)
		for _, c := range []struct {
			name string
			run  func(*pixels)
		}{
			{"Blend", (*pixels).blend}, {"Dot", (*pixels).dot}, {"Separable", (*pixels).separable},
			{"Filter", (*pixels).filter}, {"Deconvolve", (*pixels).deconvolve}, {"Conjugate", (*pixels).conjugate}, {"Accelerate", (*pixels).accelerate}, {"Adam", (*pixels).adam},
			{"Fourier", (*pixels).fourier}, {"Pointwise", (*pixels).pointwise}, {"Sparse", (*pixels).sparse},
		} {
			p.what = fmt.Sprintf("%s, seed %d, shape %v", c.name, seed, p.shape)
			p.t = t
			c.run(p)
		}
		p.free()
		if t.Failed() {
			t.Fatalf("%s: stopped at seed %d", b.Name(), seed)
		}
	}
	t.Run("NaN", func(t *testing.T) { nanStays(t, b) })
	t.Run("edges", func(t *testing.T) { edges(t, b) })
	t.Run("refusals", func(t *testing.T) { refusals(t, b) })
}

const (
	unit  = 1.0 / (1 << 24) // u: the relative error of one float32 rounding
	guard = 67              // elements before and after every tensor; odd, so that nothing is aligned
)

// pixels is one case: a shape, a generator, and pairs of equal tensors on the backend under test and on the reference.
type pixels struct {
	t     *testing.T
	b     kernels.Backend
	ref   *ref.Backend
	rng   *rand.Rand
	shape [4]int
	what  string
	kind  kernels.Type // of activations
	bufs  []kernels.Buffer
}

// awkward shapes come first; the seeds after them draw theirs.
var awkward = [][4]int{
	{1, 1, 1, 1}, {1, 1, 1, 3}, {3, 1, 7, 3}, {2, 7, 1, 3}, {1, 2, 2, 1}, {1, 16, 16, 3}, {2, 17, 33, 3}, {1, 5, 129, 1},
	{4, 3, 5, 4}, {1, 31, 31, 7}, {2, 64, 48, 3}, {1, 9, 300, 3}, {5, 1, 1, 1},
}

func newPixels(b kernels.Backend, seed uint64) *pixels {
	p := &pixels{b: b, ref: ref.Open(), rng: rand.New(rand.NewPCG(seed, 1))}
	if seed < uint64(len(awkward)) {
		p.shape = awkward[seed]
	} else {
		p.shape = [4]int{1 + p.rng.IntN(3), 1 + p.rng.IntN(40), 1 + p.rng.IntN(40), 1 + p.rng.IntN(5)}
	}
	return p
}

func (p *pixels) free() {
	for _, buf := range p.bufs {
		p.b.Free(buf)
	}
	p.bufs = nil
}

func (p *pixels) errorf(format string, args ...any) {
	p.t.Helper()
	p.t.Errorf("%s: %s: "+format, append([]any{p.b.Name(), p.what}, args...)...)
}

// pair is one tensor on both backends, with the host's copy of its first contents.
type pair struct {
	got, want kernels.View
	data      []float32
}

var nan = float32(math.NaN())

// put makes a tensor with the given contents inside a field of NaN; nil contents are NaN as well.
func (p *pixels) put(shape [4]int, data []float32) pair {
	p.t.Helper()
	return p.putOf(kernels.F32, shape, data)
}

// putOf is put for a type that the backend under test stores. The contents are rounded to it on both sides.
func (p *pixels) putOf(kind kernels.Type, shape [4]int, data []float32) pair {
	p.t.Helper()
	if kind == kernels.F16 {
		data = halves(data)
	}
	before := guard
	if kind == kernels.F16 && p.rng.IntN(4) > 0 {
		before = guard &^ 7 // most kernels want pixels at multiples of sixteen bytes, and have a way around
	}
	v := kernels.View{Off: before, N: shape[0], H: shape[1], W: shape[2], C: shape[3]}
	field := make([]float32, before+v.Len()+guard)
	for i := range field {
		field[i] = nan
	}
	copy(field[before:], data)
	whole := kernels.View{N: 1, H: 1, W: 1, C: len(field)}
	pr := pair{got: v, want: v, data: data}
	pr.got.Type = kind
	for _, side := range []struct {
		b kernels.Memory
		v *kernels.View
	}{{p.b, &pr.got}, {p.ref, &pr.want}} {
		buf, err := side.b.Alloc(side.v.Type.Room(len(field)))
		if err != nil {
			p.t.Fatalf("%s: %v", p.what, err)
		}
		side.v.Buf, whole.Buf, whole.Type = buf, buf, side.v.Type
		side.b.Upload(whole, field)
	}
	p.bufs = append(p.bufs, pr.got.Buf)
	return pr
}

// random makes a tensor of normally distributed values.
func (p *pixels) random(shape [4]int) pair {
	data := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
	for i := range data {
		data[i] = float32(p.rng.NormFloat64())
	}
	return p.put(shape, data)
}

// positive makes a tensor of values from lo to lo+1.
func (p *pixels) positive(shape [4]int, lo float64) pair {
	data := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
	for i := range data {
		data[i] = float32(lo + p.rng.Float64())
	}
	return p.put(shape, data)
}

// maybe makes a random tensor, or an absent one half of the time.
func (p *pixels) maybe(shape [4]int) pair {
	if p.rng.IntN(2) == 0 {
		return pair{}
	}
	return p.random(shape)
}

// read downloads a tensor of the backend under test and checks that its guards kept their bits.
func (p *pixels) read(v kernels.View) []float32 {
	p.t.Helper()
	field := make([]float32, v.Off+v.Len()+guard)
	if err := p.b.Download(field, kernels.View{Buf: v.Buf, N: 1, H: 1, W: 1, C: len(field), Type: v.Type}); err != nil {
		p.t.Fatalf("%s: %v", p.what, err)
	}
	for i, f := range field {
		if i >= v.Off && i < v.Off+v.Len() || math.Float32bits(f) == math.Float32bits(nan) || v.Type != kernels.F32 && f != f {
			continue // devices have NaNs of their own when they convert
		}
		p.errorf("element %d outside of a tensor of %d was overwritten with %v", i-v.Off, v.Len(), f)
		break
	}
	return field[v.Off : v.Off+v.Len()]
}

func (p *pixels) reference(v kernels.View) []float32 {
	out := make([]float32, v.Len())
	if err := p.ref.Download(out, v); err != nil {
		p.t.Fatal(err)
	}
	return out
}

// untouched checks that sources kept their contents.
func (p *pixels) untouched(prs ...pair) {
	p.t.Helper()
	for _, pr := range prs {
		if !pr.got.Present() {
			continue
		}
		for i, f := range p.read(pr.got) {
			if f != pr.data[i] {
				p.errorf("source of shape [%d %d %d %d] changed at element %d", pr.got.N, pr.got.H, pr.got.W, pr.got.C, i)
				break
			}
		}
	}
}

// near checks a result: |got - want| <= bound(i) for every element and its rounding to F16, and no NaN.
func (p *pixels) near(got, want kernels.View, bound func(i int) float64) {
	p.t.Helper()
	w := p.reference(want)
	for i, g := range p.read(got) {
		allowed := bound(i)
		if got.Type == kernels.F16 {
			allowed += halfUnit*(math.Abs(float64(w[i]))+allowed) + 0x1p-25
		}
		if d := math.Abs(float64(g) - float64(w[i])); !(d <= allowed) {
			p.errorf("element %d is %v, the reference has %v: off by %.3g, allowed %.3g", i, g, w[i], d, allowed)
			return
		}
	}
}

// halfUnit is the relative error of one rounding to F16 of a normal number.
const halfUnit = 0x1p-11

// halves rounds to F16.
func halves(data []float32) []float32 {
	out := make([]float32, len(data))
	for i, v := range data {
		out[i] = rounded(v)
	}
	return out
}

func rounded(v float32) float32 { return float16.Fromfloat32(v).Float32() }

func abs(data []float32) []float32 {
	out := make([]float32, len(data))
	for i, v := range data {
		out[i] = float32(math.Abs(float64(v)))
	}
	return out
}

// magnitude is the tensor of absolute values on the reference, for the sums S of the bounds.
func (p *pixels) magnitude(pr pair) kernels.View {
	if !pr.want.Present() {
		return kernels.View{}
	}
	v := pr.want
	v.Off = 0
	v.Buf, _ = p.ref.Alloc(v.Len())
	p.ref.Upload(v, abs(pr.data))
	return v
}

// blank is a tensor on the reference.
func (p *pixels) blank(shape [4]int) kernels.View {
	v := kernels.View{N: shape[0], H: shape[1], W: shape[2], C: shape[3]}
	v.Buf, _ = p.ref.Alloc(v.Len())
	return v
}

func (p *pixels) blend() {
	n, h, w, c := p.shape[0], p.shape[1], p.shape[2], p.shape[3]
	for count := 1; count <= 4; count++ {
		dst := p.put(p.shape, nil)
		inPlace := p.rng.IntN(3) // 0: no; 1: the last term; 2: Else
		var got, want, mag kernels.Blend
		got.Clip = p.rng.IntN(2) == 0
		var sources []pair
		for k := range count {
			shape := p.shape
			if k > 0 && p.rng.IntN(4) == 0 {
				shape[3] = 1
			}
			if k > 0 && p.rng.IntN(4) == 0 {
				shape[0] = 1
			}
			if inPlace == 1 && k == count-1 {
				shape = p.shape
			}
			x := p.random(shape)
			factor := float32(p.rng.NormFloat64())
			num, den := pair{}, pair{}
			if p.rng.IntN(2) == 0 {
				num = p.random([4]int{n, 1, 1, 1})
				d := make([]float32, n)
				for i := range d {
					d[i] = float32(p.rng.NormFloat64() + 2)
					if p.rng.IntN(3) == 0 {
						d[i] = 0 // the quotient is 0 then, whatever is above
					}
				}
				den = p.put([4]int{n, 1, 1, 1}, d)
			}
			if inPlace == 1 && k == count-1 {
				dst = x
			} else {
				sources = append(sources, x)
			}
			sources = append(sources, num, den)
			got.Terms = append(got.Terms, kernels.Term{X: x.got, C: factor, Num: num.got, Den: den.got})
			want.Terms = append(want.Terms, kernels.Term{X: x.want, C: factor, Num: num.want, Den: den.want})
			mag.Terms = append(mag.Terms, kernels.Term{X: p.magnitude(x), C: float32(math.Abs(float64(factor))), Num: p.magnitude(num), Den: p.magnitude(den)})
		}
		if p.rng.IntN(2) == 0 {
			shape := [4]int{n, h, w, c}
			if p.rng.IntN(2) == 0 {
				shape[0] = 1
			}
			if p.rng.IntN(2) == 0 {
				shape[3] = 1
			}
			m := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
			for i := range m {
				m[i] = float32(p.rng.IntN(3) - 1) // -1 is not zero either
			}
			mask, other := p.put(shape, m), p.maybe(p.shape)
			if inPlace == 2 {
				other = p.random(p.shape)
				dst = other
			} else {
				sources = append(sources, other)
			}
			sources = append(sources, mask)
			got.Mask, got.Else = mask.got, other.got
			want.Mask, want.Else = mask.want, other.want
		}
		got.Dst, want.Dst, want.Clip = dst.got, dst.want, got.Clip
		mag.Dst = p.blank(p.shape)
		products := p.products(dst, &got.Products, &sources)
		p.ref.Blend(&mag)
		p.ref.Blend(&want)
		p.b.Blend(&got)
		products()
		s := p.reference(mag.Dst)
		// Per term: the quotient, times C, times X, the sum.
		p.near(dst.got, dst.want, func(i int) float64 { return float64(3*count+1) * unit * float64(s[i]) })
		p.untouched(sources...)
	}
}

func (p *pixels) dot() {
	a, b := p.random(p.shape), p.random(p.shape)
	same := p.rng.IntN(2) == 0
	if same {
		b = a
	}
	dst := p.put([4]int{p.shape[0], 1, 1, 1}, nil)
	p.ref.Dot(dst.want, a.want, b.want)
	p.b.Dot(dst.got, a.got, b.got)
	mag := p.blank([4]int{p.shape[0], 1, 1, 1})
	p.ref.Dot(mag, p.magnitude(a), p.magnitude(b))
	s, want := p.reference(mag), p.reference(dst.want)
	n := float64(p.shape[1] * p.shape[2] * p.shape[3])
	// Sums in float64, then one rounding on either side.
	p.near(dst.got, dst.want, func(i int) float64 { return 2*unit*math.Abs(float64(want[i])) + n*0x1p-52*float64(s[i]) })
	p.untouched(a, b)
}

// products asks for sums of what an operation on dst makes, half of the time. What it returns holds them to the bound of Dot for the
// result as it is.
func (p *pixels) products(dst pair, got *kernels.Products, sources *[]pair) (check func()) {
	if p.rng.IntN(2) == 0 {
		return func() {}
	}
	shape := [4]int{dst.got.N, dst.got.H, dst.got.W, dst.got.C}
	count := 1 + p.rng.IntN(3)
	sums, with, of, own := p.put([4]int{shape[0], 1, 1, count}, nil), []pair{dst}, dst, true
	got.Sums, got.Of = sums.got, dst.got
	if p.rng.IntN(3) > 0 {
		of, own = p.random(shape), false
		got.Of = of.got
		*sources = append(*sources, of)
	}
	for i := range count - 1 {
		with = append(with, p.random(shape))
		if i == 0 && p.rng.IntN(3) == 0 && !own {
			with[1] = of
		}
		got.With[i] = with[i+1].got
		*sources = append(*sources, with[i+1])
	}
	return func() {
		p.t.Helper()
		dst.data = p.read(dst.got)
		if with[0] = dst; own {
			of = dst
		}
		n := dst.got.Len() / shape[0]
		for i, g := range p.read(sums.got) {
			var want, size float64
			for j := i / count * n; j < (i/count+1)*n; j++ {
				v := float64(of.data[j]) * float64(with[i%count].data[j])
				want, size = want+v, size+math.Abs(v)
			}
			if allowed := unit*math.Abs(want) + float64(n)*0x1p-52*size; !(math.Abs(float64(g)-want) <= allowed) {
				p.errorf("sum %d of image %d is %v, expected %v: allowed %.3g", i%count, i/count, g, want, allowed)
				return
			}
		}
	}
}

// conjugate makes a first step and a later one, with a preconditioned residual and without, with quotients that are zero.
func (p *pixels) conjugate() {
	n := p.shape[0]
	for _, first := range []bool{true, false} {
		x, r, q, s, w := p.random(p.shape), p.random(p.shape), p.random(p.shape), p.random(p.shape), p.random(p.shape)
		if first {
			q, s = p.put(p.shape, nil), p.put(p.shape, nil)
		}
		z, kept := r, []pair{w}
		if p.rng.IntN(2) == 0 {
			z = p.random(p.shape)
			kept = append(kept, z)
		}
		sums, before := make([]float32, 3*n), make([]float32, 2*n)
		for i := range n {
			sums[3*i], sums[3*i+1], sums[3*i+2] = 1+p.rng.Float32(), p.rng.Float32(), p.rng.Float32()-0.3
			before[2*i], before[2*i+1] = 0.5+p.rng.Float32(), 1+p.rng.Float32()
			switch p.rng.IntN(4) {
			case 0:
				before[2*i] = 0
			case 1:
				sums[3*i], sums[3*i+1] = 0, 0 // as where the image has been found
			}
		}
		sum, was, is := p.put([4]int{n, 1, 1, 3}, sums), p.put([4]int{n, 1, 1, 2}, before), p.put([4]int{n, 1, 1, 2}, nil)
		got := kernels.Conjugate{X: x.got, R: r.got, P: q.got, S: s.got, Z: z.got, W: w.got, Sums: sum.got, Before: was.got, After: is.got}
		want := kernels.Conjugate{X: x.want, R: r.want, P: q.want, S: s.want, Z: z.want, W: w.want, Sums: sum.want, Before: was.want, After: is.want}
		if first {
			got.Before, want.Before = kernels.View{}, kernels.View{}
		}
		p.ref.Conjugate(&want)
		p.b.Conjugate(&got)
		kept = append(kept, sum, was)
		alpha, beta := make([]float64, n), make([]float64, n)
		for i := range n {
			from := before[2*i : 2*i+2]
			if first {
				from = nil
			}
			alpha[i], beta[i] = kernels.Quotients(sums[3*i:3*i+3], from, make([]float32, 2))
		}
		size := func(i int, a, b pair) float64 { // of a + beta b
			if first {
				return math.Abs(float64(a.data[i]))
			}
			return math.Abs(float64(a.data[i])) + math.Abs(beta[i/(p.shape[1]*p.shape[2]*p.shape[3])]*float64(b.data[i]))
		}
		step := func(i int) float64 { return math.Abs(alpha[i/(p.shape[1]*p.shape[2]*p.shape[3])]) }
		// The quotient, its product, and the sum; for x and r once more.
		p.near(q.got, q.want, func(i int) float64 { return 4 * unit * size(i, z, q) })
		p.near(s.got, s.want, func(i int) float64 { return 4 * unit * size(i, w, s) })
		p.near(x.got, x.want, func(i int) float64 { return 8 * unit * (math.Abs(float64(x.data[i])) + step(i)*size(i, z, q)) })
		p.near(r.got, r.want, func(i int) float64 { return 8 * unit * (math.Abs(float64(r.data[i])) + step(i)*size(i, w, s)) })
		after := p.reference(is.want)
		p.near(is.got, is.want, func(i int) float64 { return 2 * unit * math.Abs(float64(after[i])) })
		p.untouched(kept...)
	}
}

// local draws a data term that sees every element alone, half of the time. size is the sum of the absolute values in its gradient
// at element i, where x has the value v; loss holds what was told to the x that the step left.
func (p *pixels) local(stop kernels.Stop, old pair) (got, want kernels.Local, size func(i int, v float32) float64, loss func(x pair)) {
	if p.rng.IntN(2) == 0 {
		return
	}
	y, mask := p.random(p.shape), pair{}
	shape := p.shape
	if p.rng.IntN(2) == 0 {
		shape[0] = 1
	}
	if p.rng.IntN(2) == 0 {
		shape[3] = 1
	}
	if p.rng.IntN(2) == 0 {
		m := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
		for i := range m {
			m[i] = float32(p.rng.IntN(3) - 1)
		}
		mask = p.put(shape, m)
	}
	got = kernels.Local{Y: y.got, Mask: mask.got, Gain: float32(p.rng.NormFloat64()), Low: float32(math.Inf(-1)), High: float32(math.Inf(1))}
	if p.rng.IntN(2) == 0 {
		got.Low, got.High = -p.rng.Float32(), p.rng.Float32()
	}
	want = got
	want.Y, want.Mask = y.want, mask.want
	gain := math.Abs(float64(got.Gain))
	size = func(i int, v float32) float64 {
		return gain * (gain*math.Abs(float64(v)) + math.Abs(float64(y.data[i])))
	}
	out := pair{}
	if p.rng.IntN(3) > 0 {
		out = p.put([4]int{p.shape[0], 1, 1, 1}, nil)
		if stop.Loss.Present() {
			out = old
		}
		got.Loss, want.Loss = out.got, out.want
	}
	n := p.shape[1] * p.shape[2] * p.shape[3]
	return got, want, size, func(x pair) {
		p.t.Helper()
		p.untouched(y, mask)
		if !out.got.Present() {
			return
		}
		result := p.read(x.got)
		for i, g := range p.read(out.got) {
			if p.frozen(old, i*n) {
				if g != old.data[i] {
					p.errorf("image %d is frozen at a loss of %v, which became %v", i, old.data[i], g)
				}
				continue
			}
			var sum, allowed float64
			for j := i * n; j < (i+1)*n; j++ {
				if mask.got.Present() {
					pixel, c := j%n/p.shape[3], j%p.shape[3]
					if mask.data[(i%shape[0]*p.shape[1]*p.shape[2]+pixel)*shape[3]+c%shape[3]] == 0 {
						continue
					}
				}
				v, yj := float64(got.Gain)*float64(result[j]), float64(y.data[j])
				r, off := v-yj, 2*unit*(math.Abs(v)+math.Abs(yj))
				if yj >= float64(got.High) && r > 0 || yj <= float64(got.Low) && r < 0 {
					r = 0
				}
				sum, allowed = sum+r*r, allowed+2*math.Abs(r)*off+off*off
			}
			if allowed += 2 * unit * sum; !(math.Abs(float64(g)-sum) <= allowed) {
				p.errorf("loss of image %d is %v, expected %v: allowed %.3g", i, g, sum, allowed)
				return
			}
		}
	}
}

// band draws a banded matrix; some rows are empty, some cover everything.
func (p *pixels) band(rows, cols int) kernels.Matrix {
	m := kernels.Matrix{Rows: rows, Cols: cols, First: make([]int, rows), W: make([][]float32, rows)}
	width := min(cols, 1+p.rng.IntN(12))
	if p.rng.IntN(5) == 0 {
		width = cols
	}
	for i := range rows {
		m.First[i] = p.rng.IntN(cols - width + 1)
		m.W[i] = make([]float32, width-p.rng.IntN(2)*p.rng.IntN(width+1))
		for j := range m.W[i] {
			m.W[i][j] = float32(p.rng.NormFloat64())
		}
	}
	return m
}

func longest(m kernels.Matrix) int {
	n := 0
	for _, w := range m.W {
		n = max(n, len(w))
	}
	return n
}

func magnitudes(m kernels.Matrix) kernels.Matrix {
	w := make([][]float32, len(m.W))
	for i := range w {
		w[i] = abs(m.W[i])
	}
	m.W = w
	return m
}

func (p *pixels) prepare(b kernels.Backend, m kernels.Matrix) kernels.PreparedMatrix {
	p.t.Helper()
	pm, err := b.PrepareMatrix(m)
	if err != nil {
		p.t.Fatalf("%s: %v", p.what, err)
	}
	if r, c := pm.Shape(); r != m.Rows || c != m.Cols {
		p.errorf("prepared matrix is %d x %d, expected %d x %d", r, c, m.Rows, m.Cols)
	}
	return pm
}

func (p *pixels) separable() {
	for range 3 {
		h, w := p.band(1+p.rng.IntN(45), p.shape[1]), p.band(1+p.rng.IntN(45), p.shape[2])
		src := p.random(p.shape)
		shape := [4]int{p.shape[0], h.Rows, w.Rows, p.shape[3]}
		dst, add := p.put(shape, nil), p.maybe(shape)
		spectra := p.rng.IntN(2) == 0
		got := kernels.Separable{
			Dst: dst.got, Src: src.got, H: p.prepare(p.b, h), W: p.prepare(p.b, w),
			Alpha: float32(p.rng.NormFloat64()), Add: add.got, Beta: float32(p.rng.NormFloat64()),
		}
		want := got
		want.Dst, want.Src, want.Add = dst.want, src.want, add.want
		want.H, want.W = p.prepare(p.ref, h), p.prepare(p.ref, w)
		sources := []pair{src}
		if add.got.Present() && p.rng.IntN(2) == 0 {
			got.Dst, want.Dst = add.got, add.want
			dst = add
		} else {
			sources = append(sources, add)
		}
		if spectra {
			rows, cols := p.positive([4]int{1, 1, 1, h.Rows}, 0.1), p.positive([4]int{1, 1, 1, w.Rows}, 0.1)
			got.RowSpectrum, got.ColSpectrum, got.Rho = rows.got, cols.got, 0.01
			want.RowSpectrum, want.ColSpectrum, want.Rho = rows.want, cols.want, 0.01
			sources = append(sources, rows, cols)
		}
		mag := want
		mag.Dst, mag.Src, mag.Add = p.blank(shape), p.magnitude(src), p.magnitude(add)
		mag.H, mag.W = p.prepare(p.ref, magnitudes(h)), p.prepare(p.ref, magnitudes(w))
		mag.Alpha, mag.Beta = float32(math.Abs(float64(mag.Alpha))), float32(math.Abs(float64(mag.Beta)))
		products := p.products(dst, &got.Products, &sources)
		p.ref.Separable(&mag)
		p.ref.Separable(&want)
		p.b.Separable(&got)
		products()
		s := p.reference(mag.Dst)
		// A product and a sum per weight in both passes, the division, Alpha, Beta and their sum.
		n := float64(longest(h) + longest(w) + 8)
		p.near(dst.got, dst.want, func(i int) float64 { return n * unit * float64(s[i]) })
		p.untouched(sources...)
	}
}

func (p *pixels) prepareFilter(b kernels.Backend, k kernels.FilterWeights) kernels.PreparedFilter {
	p.t.Helper()
	f, err := b.PrepareFilter(k)
	if err != nil {
		p.t.Fatalf("%s: %v", p.what, err)
	}
	if h, w := f.Size(); h != k.H || w != k.W {
		p.errorf("prepared filter is %d x %d, expected %d x %d", h, w, k.H, k.W)
	}
	return f
}

func (p *pixels) filter() {
	for _, adjoint := range []bool{false, true} {
		// Up to 15 x 15 taps, sometimes 47 x 47, and often larger than the image: the mirror folds any index.
		most := 8
		if p.rng.IntN(4) == 0 {
			most = 24
		}
		k := kernels.FilterWeights{H: 1 + 2*p.rng.IntN(most), W: 1 + 2*p.rng.IntN(most)}
		k.K = make([]float32, k.H*k.W)
		sparse := p.rng.IntN(2) == 0
		taps := 0
		for i := range k.K {
			if !sparse || p.rng.IntN(8) == 0 {
				k.K[i] = float32(p.rng.NormFloat64())
				taps++
			}
		}
		src, dst, add := p.random(p.shape), p.put(p.shape, nil), p.maybe(p.shape)
		got := kernels.Filter{
			Dst: dst.got, Src: src.got, Kernel: p.prepareFilter(p.b, k), Adjoint: adjoint,
			Alpha: float32(p.rng.NormFloat64()), Add: add.got, Beta: float32(p.rng.NormFloat64()),
		}
		want := got
		want.Dst, want.Src, want.Add, want.Kernel = dst.want, src.want, add.want, p.prepareFilter(p.ref, k)
		sources := []pair{src}
		if add.got.Present() && p.rng.IntN(2) == 0 {
			got.Dst, want.Dst = add.got, add.want
			dst = add
		} else {
			sources = append(sources, add)
		}
		mag := want
		mag.Dst, mag.Src, mag.Add = p.blank(p.shape), p.magnitude(src), p.magnitude(add)
		mag.Kernel = p.prepareFilter(p.ref, kernels.FilterWeights{H: k.H, W: k.W, K: abs(k.K)})
		mag.Alpha, mag.Beta = float32(math.Abs(float64(mag.Alpha))), float32(math.Abs(float64(mag.Beta)))
		products := p.products(dst, &got.Products, &sources)
		p.ref.Filter(&mag)
		p.ref.Filter(&want)
		p.b.Filter(&got)
		products()
		s := p.reference(mag.Dst)
		// A product and a sum per tap. In the adjoint a pixel collects each tap once for every time that it is mirrored
		// into the frame, along either axis.
		folds := 1
		if adjoint {
			folds = (2 + k.H/max(1, p.shape[1]-1)) * (2 + k.W/max(1, p.shape[2]-1))
		}
		n := float64(taps*folds + 6)
		p.near(dst.got, dst.want, func(i int) float64 { return n * unit * float64(s[i]) })
		p.untouched(sources...)
	}
}

// stop draws a stop rule that freezes about half of the images, one of them exactly at the limit.
func (p *pixels) stop() (got, want kernels.Stop, loss pair) {
	if p.rng.IntN(2) == 0 {
		return
	}
	data := make([]float32, p.shape[0])
	for i := range data {
		data[i] = []float32{0.5, 1, 1.5}[p.rng.IntN(3)]
	}
	loss = p.put([4]int{p.shape[0], 1, 1, 1}, data)
	got, want = kernels.Stop{Loss: loss.got, Limit: 1}, kernels.Stop{Loss: loss.want, Limit: 1}
	if p.rng.IntN(2) == 0 {
		count := make([]float32, p.shape[0])
		for i := range count {
			count[i] = 4
		}
		per := p.put([4]int{p.shape[0], 1, 1, 1}, count)
		got.Count, want.Count, got.Limit, want.Limit = per.got, per.want, 0.25, 0.25
	}
	return got, want, loss
}

// frozen reports whether element i belongs to an image that may not move.
func (p *pixels) frozen(loss pair, i int) bool {
	return loss.got.Present() && loss.data[i/(p.shape[1]*p.shape[2]*p.shape[3])] <= 1
}

func (p *pixels) accelerate() {
	x, z, g, x0 := p.random(p.shape), p.random(p.shape), p.random(p.shape), p.random(p.shape)
	got := kernels.Accelerate{X: x.got, Z: z.got, Grad: g.got, X0: x0.got,
		Step: float32(p.rng.Float64()), Rho: float32(p.rng.Float64()), Momentum: float32(p.rng.Float64())}
	want := got
	want.X, want.Z, want.Grad, want.X0 = x.want, z.want, g.want, x0.want
	var loss pair
	got.Stop, want.Stop, loss = p.stop()
	local, reference, slope, told := p.local(got.Stop, loss)
	if slope != nil {
		got.Grad, want.Grad, got.Local, want.Local = kernels.View{}, kernels.View{}, local, reference
	}
	p.ref.Accelerate(&want)
	p.b.Accelerate(&got)
	size := func(i int) float64 { // sum of the absolute values in xn
		gi, zi, ai := math.Abs(float64(g.data[i])), math.Abs(float64(z.data[i])), math.Abs(float64(x0.data[i]))
		if slope != nil {
			gi = 2 * slope(i, z.data[i]) // it has as many roundings as what follows
		}
		return zi + float64(got.Step)*(gi+float64(got.Rho)*(zi+ai))
	}
	p.near(x.got, x.want, func(i int) float64 {
		if p.frozen(loss, i) {
			return 0
		}
		return 7 * unit * size(i)
	})
	p.near(z.got, z.want, func(i int) float64 {
		if p.frozen(loss, i) {
			return 0
		}
		return 12 * unit * (size(i) + float64(got.Momentum)*(size(i)+math.Abs(float64(x.data[i]))))
	})
	p.untouched(g, x0)
	if slope != nil {
		told(x)
	}
	if slope == nil || !local.Loss.Present() {
		p.untouched(loss)
	}
}

func (p *pixels) adam() {
	for _, step := range []int{1, 2, 17, 1000} {
		x, m, g, x0 := p.random(p.shape), p.random(p.shape), p.random(p.shape), p.random(p.shape)
		// v is kept away from zero, where the square root would magnify the rounding of g^2; the first step, where v is
		// zero, moves by the rate times the sign of g, if g is not the difference of two large numbers: no rho there.
		v := p.positive(p.shape, 0.1)
		rho := float32(p.rng.Float64())
		if step == 1 {
			m, v = p.put(p.shape, make([]float32, len(x.data))), p.put(p.shape, make([]float32, len(x.data)))
			rho = 0
		}
		got := kernels.Adam{X: x.got, M: m.got, V: v.got, Grad: g.got, X0: x0.got, Rate: 0.02, Rho: rho, T: step}
		want := got
		want.X, want.M, want.V, want.Grad, want.X0 = x.want, m.want, v.want, g.want, x0.want
		var loss pair
		got.Stop, want.Stop, loss = p.stop()
		local, reference, slope, told := p.local(got.Stop, loss)
		if step == 1 {
			slope = nil
		}
		if slope != nil {
			got.Grad, want.Grad, got.Local, want.Local = kernels.View{}, kernels.View{}, local, reference
		}
		p.ref.Adam(&want)
		p.b.Adam(&got)
		gsize := func(i int) float64 {
			gi := math.Abs(float64(g.data[i]))
			if slope != nil {
				gi = 2 * slope(i, x.data[i])
			}
			return gi + float64(rho)*(math.Abs(float64(x.data[i]))+math.Abs(float64(x0.data[i])))
		}
		msize := func(i int) float64 { return 0.9*math.Abs(float64(m.data[i])) + 0.1*gsize(i) }
		vsize := func(i int) float64 { return 0.999*float64(v.data[i]) + 0.001*gsize(i)*gsize(i) }
		unless := func(bound func(i int) float64) func(i int) float64 {
			return func(i int) float64 {
				if p.frozen(loss, i) {
					return 0
				}
				return bound(i)
			}
		}
		p.near(m.got, m.want, unless(func(i int) float64 { return 8 * unit * msize(i) }))
		p.near(v.got, v.want, unless(func(i int) float64 { return 12 * unit * vsize(i) }))
		vOut, bias1, bias2 := p.reference(v.want), 1-math.Pow(0.9, float64(step)), 1-math.Pow(0.999, float64(step))
		p.near(x.got, x.want, unless(func(i int) float64 {
			// The quotient's relative error: that of m (by msize, as m itself may cancel), half that of v, and five roundings.
			move := float64(got.Rate) * msize(i) / bias1 / (math.Sqrt(float64(vOut[i])/bias2) + 1e-8)
			spread := vsize(i) / max(float64(vOut[i]), 1e-30)
			return unit * (2*math.Abs(float64(x.data[i])) + move*(8+6*spread+6))
		}))
		p.untouched(g, x0)
		if slope != nil {
			told(x)
		}
		if slope == nil || !local.Loss.Present() {
			p.untouched(loss)
		}
	}
}

// nanStays checks that a clipped Blend does not turn the NaN of a broken network into a colour.
func nanStays(t *testing.T, b kernels.Backend) {
	p := &pixels{t: t, b: b, ref: ref.Open(), what: "NaN"}
	defer p.free()
	const n = 61
	data := make([]float32, n)
	for i := 0; i < n; i += 3 {
		data[i] = nan
	}
	x, dst := p.put([4]int{1, 1, n, 1}, data), p.put([4]int{1, 1, n, 1}, nil)
	b.Blend(&kernels.Blend{Dst: dst.got, Terms: []kernels.Term{{X: x.got, C: 1}}, Clip: true})
	for i, v := range p.read(dst.got) {
		if (v != v) != (i%3 == 0) {
			p.errorf("element %d of a clipped blend is %v, the source has %v", i, v, data[i])
		}
	}
}

// refusals checks that what cannot be prepared is an error and not a crash.
func refusals(t *testing.T, b kernels.Backend) {
	for name, m := range map[string]kernels.Matrix{
		"row past the end":  {Rows: 1, Cols: 2, First: []int{1}, W: [][]float32{{1, 1}}},
		"negative column":   {Rows: 1, Cols: 2, First: []int{-1}, W: [][]float32{{1, 1}}},
		"missing row":       {Rows: 2, Cols: 2, First: []int{0}, W: [][]float32{{1, 1}}},
		"missing row start": {Rows: 2, Cols: 2, First: []int{0}, W: [][]float32{{1}, {1}}},
	} {
		if _, err := b.PrepareMatrix(m); err == nil {
			t.Errorf("%s: matrix with a %s was accepted", b.Name(), name)
		}
	}
	for name, f := range map[string]kernels.FilterWeights{
		"even":  {H: 2, W: 3, K: make([]float32, 6)},
		"short": {H: 3, W: 3, K: make([]float32, 8)},
		"empty": {},
	} {
		if _, err := b.PrepareFilter(f); err == nil {
			t.Errorf("%s: filter that is %s was accepted", b.Name(), name)
		}
	}
	refusedSparse(t, b)
}
