package solver

import (
	"bytes"
	"fmt"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// centred is the centred unitary Fourier transform from its definition:
//
//	1/sqrt(h w) sum over i,j of u[i][j] exp(-2 pi i ((k-h/2)(i-h/2)/h + (l-w/2)(j-w/2)/w))
func centred(u []float64, h, w int) []complex128 {
	out := make([]complex128, h*w)
	for k := range h {
		for l := range w {
			var sum complex128
			for i := range h {
				for j := range w {
					turn := float64((k-h/2)*(i-h/2))/float64(h) + float64((l-w/2)*(j-w/2))/float64(w)
					sum += complex(u[i*w+j], 0) * cmplx.Exp(complex(0, -2*math.Pi*turn))
				}
			}
			out[k*w+l] = sum / complex(math.Sqrt(float64(h*w)), 0)
		}
	}
	return out
}

func TestPhaseIsItsDefinition(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(1, 20))
	for _, c := range []struct {
		h, w       int
		oversample float64
		unscaled   bool
		fh, fw     int
	}{{8, 8, 2, false, 12, 12}, {8, 12, 2, true, 12, 18}, {7, 5, 2, false, 10, 8}, {6, 9, 4, false, 12, 18}, {4, 6, 0, false, 4, 6}} {
		op, err := NewPhase(d, c.h, c.w, c.oversample, c.unscaled)
		require.NoError(t, err)
		x := random(d, rng, [4]int{2, c.h, c.w, 3})
		y := op.Apply(x)
		require.Equal(t, [4]int{2, c.fh, c.fw, 3}, y.Shape())
		require.Equal(t, x.Shape(), op.ImageShape(y.Shape()))
		margin := [2]int{int(c.oversample / 8 * float64(c.h)), int(c.oversample / 8 * float64(c.w))}
		var want []float32
		values := floats(t, x)
		for n := range 2 {
			planes := [3][]complex128{}
			for ch := range 3 {
				u := make([]float64, c.fh*c.fw)
				for i := range c.h {
					for j := range c.w {
						v := float64(values[((n*c.h+i)*c.w+j)*3+ch])
						if !c.unscaled {
							v = (v + 1) / 2
						}
						u[(margin[0]+i)*c.fw+margin[1]+j] = v
					}
				}
				planes[ch] = centred(u, c.fh, c.fw)
			}
			for i := range c.fh * c.fw {
				for ch := range 3 {
					want = append(want, float32(cmplx.Abs(planes[ch][i])))
				}
			}
		}
		maxAbs(t, fmt.Sprint(c), floats(t, y), want, 1e-5)
	}
}

// The derivative of 1/2 |A(x)-y|^2 along v is <J^T (A(x)-y), v>, and the gradient changes by at most L |v| along it.
func TestPhaseGradient(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 21))
		d := device(t)
		shape := [4]int{1 + rng.IntN(2), 2 + rng.IntN(20), 2 + rng.IntN(20), 1 + rng.IntN(3)}
		op, err := NewPhase(d, shape[1], shape[2], 4*rng.Float64(), rng.IntN(2) == 0)
		require.NoError(t, err)
		x, v := random(d, rng, shape), random(d, rng, shape)
		y := op.Apply(random(d, rng, shape))
		const h = 1e-3
		at := func(s float64) *tensor.Tensor {
			return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}, {X: v, C: s}}})
		}
		half := func(r *tensor.Tensor) (sum float64) {
			for _, r := range floats(t, r) {
				sum += float64(r) * float64(r) / 2
			}
			return sum
		}
		dot := func(a, b *tensor.Tensor) (sum float64) {
			fa, fb := floats(t, a), floats(t, b)
			for i := range fa {
				sum += float64(fa[i]) * float64(fb[i])
			}
			return sum
		}
		gradient := op.VJP(x, subtract(op.Apply(x), y))
		numeric := (half(subtract(op.Apply(at(h)), y)) - half(subtract(op.Apply(at(-h)), y))) / (2 * h)
		slope := dot(gradient, v)
		// Single precision leaves about 1e-7 |f| / h; the kinks of |z| near 0 come on top.
		scale := math.Sqrt(2*half(gradient)*2*half(v)) + half(subtract(op.Apply(x), y))
		require.InDelta(t, slope, numeric, 3e-3*scale, "seed %d, shape %v", seed, shape)

		far := at(1)
		change := subtract(op.VJP(far, op.Apply(far)), op.VJP(x, op.Apply(x)))
		require.LessOrEqual(t, math.Sqrt(2*half(change)), op.Lipschitz()*math.Sqrt(2*half(v))*(1+1e-5))
	}
}

// picture is a smooth picture with some structure, in [-1,1].
func picture(h, w, c int) []float32 {
	x := make([]float32, h*w*c)
	for i := range x {
		row, col, ch := i/c/w, i/c%w, i%c
		v := 0.5*math.Sin(float64(row)/3+float64(ch)) + 0.4*math.Cos(float64(col*col)/40)
		if row > h/3 && row < h/2 && col > w/4 {
			v = 0.9 - v/4
		}
		x[i] = float32(min(max(v, -1), 1))
	}
	return x
}

// Hybrid input-output explains the moduli of a picture far better than a grey one does, and begins elsewhere with every
// attempt and seed.
func TestPhaseGuess(t *testing.T) {
	d := device(t)
	const h, w = 4, 6
	rng := rand.New(rand.NewPCG(1, 25))
	for _, unscaled := range []bool{false, true} {
		op, err := NewPhase(d, h, w, 4, unscaled)
		require.NoError(t, err)
		pictures := make([]float32, 2*h*w*2)
		for i := range pictures {
			pictures[i] = float32(2*rng.Float64() - 1)
		}
		y := op.Apply(d.From(pictures, 2, h, w, 2))
		x := op.Guess(y)
		off := relL2(floats(t, op.Apply(x)), floats(t, y))
		grey := relL2(floats(t, op.Apply(d.From(make([]float32, len(pictures)), 2, h, w, 2))), floats(t, y))
		require.Less(t, off, 0.4*grey)
		require.LessOrEqual(t, largest(floats(t, x)), 1+1e-5)
		second := op.Guess(y.Rows(1, 0, y.H()))
		require.Equal(t, floats(t, x)[h*w*2:], floats(t, second), "a picture gets what it gets alone")
		if unscaled {
			require.NotEqual(t, floats(t, second), floats(t, op.Attempt(y.Rows(1, 0, y.H()), 0, 1)))
		} else {
			require.NotEqual(t, floats(t, second), floats(t, op.Attempt(y.Rows(1, 0, y.H()), 1, 0)))
		}
	}
}

func TestMRIIsItsDefinition(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(1, 22))
	for _, s := range [][2]int{{8, 8}, {7, 9}, {5, 6}} {
		h, w := s[0], s[1]
		lines, err := Lines(w, 2, 0.2, "random", 1)
		require.NoError(t, err)
		op, err := NewMRI(d, h, w, 3, lines)
		require.NoError(t, err)
		x := random(d, rng, [4]int{1, h, w, 3})
		g := make([]float64, h*w)
		for i, v := range floats(t, x) {
			g[i/3] += float64(v) / 3
		}
		var want []float32
		for i, z := range centred(g, h, w) {
			if !lines[i%w] {
				z = 0
			}
			want = append(want, float32(real(z)), float32(imag(z)))
		}
		y := op.Apply(x)
		require.Equal(t, [4]int{1, h, w, 2}, y.Shape())
		maxAbs(t, "A(x)", floats(t, y), want, 1e-6)
		require.Equal(t, []int{2 * h * count(lines)}, op.Counts(y.Shape()))
	}
}

// Every closed form is where conjugate gradients arrive, and first guesses without noise explain what was measured.
func TestProxIsTheMinimiser(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 23))
		d := device(t)
		for _, k := range linearOperators(t, d, rng) {
			name := k.name
			if _, ok := k.op.(Proximal); !ok {
				continue
			}
			x0 := random(d, rng, k.shape)
			y := k.op.Apply(random(d, rng, k.shape))
			for _, rho := range []float64{0.01, 1} {
				exact, err := Correct(Problem{Operator: k.op, Y: y}, x0, rho, Inner{Method: Exact})
				require.NoError(t, err)
				cg, err := Correct(Problem{Operator: k.op, Y: y}, x0, rho, Inner{Method: CG, Steps: 60})
				require.NoError(t, err)
				require.Less(t, relL2(floats(t, exact), floats(t, cg)), 1e-4, "%s, seed %d, shape %v, rho %v", name, seed, k.shape, rho)
			}
		}
	}
}

func TestSmallestGuesses(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 24))
		d := device(t)
		for _, k := range linearOperators(t, d, rng) {
			name := k.name
			if !slices.Contains([]string{"mri", "block sensing", "single pixel"}, name) {
				continue
			}
			y := k.op.Apply(random(d, rng, k.shape))
			again := k.op.Apply(k.op.(Guesser).Guess(y))
			maxAbs(t, name, floats(t, again), floats(t, y), 2e-5)
		}
	}
}

func TestLines(t *testing.T) {
	show := func(lines []bool) (s string) {
		for _, v := range lines {
			s += map[bool]string{true: "|", false: "."}[v]
		}
		return s
	}
	for _, c := range []struct {
		w                    int
		acceleration, centre float64
		total, middle        int
	}{{256, 4, 0, 64, 20}, {256, 8, 0, 32, 10}, {320, 4, 0.08, 80, 26}, {256, 4, 0.25, 64, 64}, {17, 1, 0, 17, 5}, {9, 9, 0.1, 1, 1}} {
		for _, kind := range []string{"random", "equispaced"} {
			lines, err := Lines(c.w, c.acceleration, c.centre, kind, 7)
			require.NoError(t, err)
			require.Equal(t, c.total, count(lines), show(lines))
			first := c.w/2 - c.middle/2
			require.Equal(t, c.middle, count(lines[first:first+c.middle]), show(lines))
			again, err := Lines(c.w, c.acceleration, c.centre, kind, 7)
			require.NoError(t, err)
			require.Equal(t, lines, again)
		}
	}
	even, err := Lines(40, 4, 0.1, "equispaced", 3)
	require.NoError(t, err)
	require.Equal(t, "|.....|.....|.....|||||.....|.....|.....", show(even))
	a, err := Lines(256, 4, 0, "random", 1)
	require.NoError(t, err)
	b, err := Lines(256, 4, 0, "random", 2)
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	for name, c := range map[string]struct {
		acceleration, centre float64
		kind                 string
	}{
		"acceleration below 1": {0.5, 0, "random"}, "of more than there is": {65, 0, "random"}, "too large a centre": {4, 0.3, "random"},
		"no such kind": {4, 0, "spiral"}, "negative centre": {4, -1, "random"}, "not a number": {math.NaN(), 0, "random"},
	} {
		_, err := Lines(64, c.acceleration, c.centre, c.kind, 0)
		require.Error(t, err, name)
	}
}

// project is R x in float64.
func project(m kernels.SparseMatrix, x []float64) []float64 {
	out := make([]float64, m.Rows)
	for i := range out {
		for k := m.Start[i]; k < m.Start[i+1]; k++ {
			out[i] += float64(m.W[k]) * x[m.Col[k]]
		}
	}
	return out
}

// The projections of a disc are chords, 2 sqrt(r^2 - s^2), those of a Gaussian are Gaussians, and every view adds up to the
// sum of the picture. Discs are made of pixels here, which shows where a ray touches their edge.
func TestProjectionsOfShapes(t *testing.T) {
	const size, views, radius, deviation = 64, 12, 20.0, 4.0
	const fine = 8 // pixels are averages over so many points along a side
	disc, bell := make([]float64, size*size), make([]float64, size*size)
	for i := range disc {
		for k := range fine * fine {
			a := float64(i%size) - (size-1)/2.0 + (float64(k%fine)+0.5)/fine - 0.5
			b := (size-1)/2.0 - float64(i/size) + (float64(k/fine)+0.5)/fine - 0.5
			if math.Hypot(a-3, b-2) < radius {
				disc[i] += 1.0 / (fine * fine)
			}
			bell[i] += math.Exp(-((a-5)*(a-5)+(b+3)*(b+3))/(2*deviation*deviation)) / (fine * fine)
		}
	}
	for _, detectors := range []int{91, 60, 180} {
		m := projections(size, size, views, detectors)
		require.NoError(t, m.Check())
		width := ctDiagonal(size, size) / float64(detectors)
		discs, bells := project(m, disc), project(m, bell)
		var square, bellSquare, sum float64
		for i, got := range discs {
			sin, cos := math.Sincos(math.Pi * float64(i/detectors) / views)
			edge := float64(i%detectors)*width - width*float64(detectors)/2
			chords := func(s float64) float64 { // the integral of the chords up to s
				u := min(max((s-(3*cos+2*sin))/radius, -1), 1)
				return radius * radius * (u*math.Sqrt(1-u*u) + math.Asin(u))
			}
			off := got - (chords(edge+width)-chords(edge))/width
			square, sum = square+off*off, sum+got*width
			below := func(s float64) float64 {
				return math.Pi * deviation * deviation * math.Erf((s-(5*cos-3*sin))/(deviation*math.Sqrt2))
			}
			off = bells[i] - (below(edge+width)-below(edge))/width
			bellSquare += off * off
		}
		var total float64
		for _, v := range disc {
			total += v
		}
		require.InDelta(t, total*views, sum, 1e-3*total)
		require.Less(t, math.Sqrt(bellSquare/float64(len(bells))), 0.06, "%d detectors, of heights up to 10", detectors)
		require.Less(t, math.Sqrt(square/float64(len(discs))), 0.25, "%d detectors, of chords up to %v", detectors, 2*radius)
	}
}

// scikit-image rotates the picture with bilinear interpolation and adds up its columns: the same up to that.
func TestRadonOfOthers(t *testing.T) {
	const size, views = 33, 6
	text, err := os.ReadFile("testdata/radon.txt")
	require.NoError(t, err)
	_, text, _ = bytes.Cut(text, []byte("\n")) // where it is from
	var want []float32
	for _, f := range strings.Fields(string(text)) {
		v, err := strconv.ParseFloat(f, 32)
		require.NoError(t, err)
		want = append(want, float32(v))
	}
	x := make([]float64, size*size)
	for i := range x {
		a, b := float64(i%size), float64(i/size)
		x[i] = math.Exp(-(a-18)*(a-18)/50-(b-12)*(b-12)/22) + 0.5*math.Exp(-((a-9)*(a-9)+(b-22)*(b-22))/12)
	}
	var got []float32
	for _, v := range project(projections(size, size, views, int(ctDiagonal(size, size))), x) {
		got = append(got, float32(v))
	}
	require.Less(t, relL2(got, want), 0.015)
	maxAbs(t, "view 0", got[:47], want[:47], 1e-3)
}

// Filtered back projection of many views is the picture.
func TestFilteredBackProjection(t *testing.T) {
	d := device(t)
	const size = 48
	x := make([]float32, size*size)
	for i := range x {
		a, b := float64(i%size)-size/2, float64(i/size)-size/2
		x[i] = float32(0.8 * math.Exp(-(a*a+b*b)/120) * math.Cos(a/6))
	}
	for _, detectors := range []int{0, 100, 40} {
		op, err := NewCT(d, size, size, 1, 120, detectors)
		require.NoError(t, err)
		guess := op.Guess(op.Apply(d.From(x, 1, size, size, 1)))
		maxAbs(t, fmt.Sprintf("%d detectors", detectors), floats(t, guess), x, 0.07) // the window blurs
	}
}

func TestNormOfProjections(t *testing.T) {
	d := device(t)
	op, err := NewCT(d, 30, 20, 1, 7, 0)
	require.NoError(t, err)
	x := d.From(picture(30, 20, 1), 1, 30, 20, 1)
	var ratio float64
	for range 200 {
		ax := op.Apply(x)
		next := op.VJP(nil, ax)
		a, b := floats(t, d.Dot(nil, ax, ax)), floats(t, d.Dot(nil, x, x))
		ratio = float64(a[0] / b[0])
		x = d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: next, C: 1}}})
	}
	require.InDelta(t, 1, ratio, 1e-5)
}

func TestWalsh(t *testing.T) {
	for _, n := range []int{1, 2, 4, 16, 128} {
		m := walsh(n)
		for i, row := range m.w {
			changes := 0
			for j, v := range row {
				if j > 0 && v*row[j-1] < 0 {
					changes++
				}
				require.Equal(t, v, m.w[j][i])
			}
			require.Equal(t, i, changes)
			for k, other := range m.w {
				var dot float64
				for j := range row {
					dot += row[j] * other[j]
				}
				require.InDelta(t, map[bool]float64{true: 1}[i == k], dot, 1e-12)
			}
		}
	}
	low, err := Coefficients(4, 8, 0.25, "sequency", 0)
	require.NoError(t, err)
	require.Equal(t, append([]bool{true, true, true, true, true, false, false, false, true, true, true}, make([]bool, 21)...), low)
	require.Equal(t, 8, count(low))
	some, err := Coefficients(16, 16, 0.25, "random", 5)
	require.NoError(t, err)
	require.True(t, some[0])
	require.Equal(t, 64, count(some))
	for _, c := range []struct {
		h, w  int
		ratio float64
		kind  string
	}{{12, 16, 0.5, "random"}, {16, 16, 0, "random"}, {16, 16, 1.5, "random"}, {16, 16, math.NaN(), "random"}, {16, 16, 0.5, "spiral"}, {0, 16, 0.5, "random"}} {
		_, err := Coefficients(c.h, c.w, c.ratio, c.kind, 0)
		require.Error(t, err)
	}
}

// Pixel by pixel from the definition: row k of the measurement is the mixtures of block k.
func TestBlockSensingIsItsDefinition(t *testing.T) {
	d := device(t)
	const h, w, block, m = 8, 12, 4, 5
	op, err := NewBlockSensing(d, h, w, block, m/16.0, 9)
	require.NoError(t, err)
	x := picture(h, w, 2)
	rows := mixtures(m, block*block, 9)
	var want []float32
	for k := range h / block * w / block {
		for i := range m {
			for ch := range 2 {
				var sum float64
				for j, v := range rows.w[i] {
					row, col := k/(w/block)*block+j/block, k%(w/block)*block+j%block
					sum += v * float64(x[(row*w+col)*2+ch])
				}
				want = append(want, float32(sum))
			}
		}
	}
	maxAbs(t, "A(x)", floats(t, op.Apply(d.From(x, 1, h, w, 2))), want, 1e-6)
	require.NotEqual(t, rows, mixtures(m, block*block, 10))
}

func TestFourierRefusals(t *testing.T) {
	d := device(t)
	only := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"phase of nothing":           only(NewPhase(d, 0, 8, 2, false)),
		"phase of too much":          only(NewPhase(d, 8, maxPhase+1, 2, false)),
		"negative oversampling":      only(NewPhase(d, 8, 8, -1, false)),
		"oversampling NaN":           only(NewPhase(d, 8, 8, math.NaN(), false)),
		"lines of other width":       only(NewMRI(d, 8, 8, 3, make([]bool, 7))),
		"no views":                   only(NewCT(d, 8, 8, 3, 0, 0)),
		"negative detectors":         only(NewCT(d, 8, 8, 3, 4, -1)),
		"projections of too much":    only(NewCT(d, 2048, 2048, 3, 60, 0)),
		"projections without bounds": only(NewCT(d, maxSide, maxSide, 3, maxDetectors, maxDetectors)),
		"blocks that do not fit":     only(NewBlockSensing(d, 8, 9, 4, 0.5, 0)),
		"blocks of nothing":          only(NewBlockSensing(d, 8, 8, 0, 0.5, 0)),
		"too much of a block":        only(NewBlockSensing(d, 8, 8, 4, 1.01, 0)),
		"Walsh of 12":                only(NewSinglePixel(d, 12, 8, make([]bool, 96))),
		"other coefficients":         only(NewSinglePixel(d, 8, 8, make([]bool, 63))),
	} {
		var e *tensor.Error
		require.ErrorAs(t, err, &e, name)
	}
	require.NoError(t, projections(3, 5, 2, 6).Check())
}

// fourierSpecs is one of every operator of these for images of 8 x 16.
func fourierSpecs(t testing.TB) map[string]Spec {
	lines, err := Lines(16, 4, 0, "random", 1)
	require.NoError(t, err)
	chosen, err := Coefficients(8, 16, 0.25, "sequency", 0)
	require.NoError(t, err)
	return map[string]Spec{
		"phase":        {Kind: "phase", Numbers: map[string]float64{"oversample": 2, "unscaled": 0}},
		"mri":          {Kind: "mri", Arrays: map[string]Array{"lines": Choice(lines, 16)}, Note: "random"},
		"ct":           {Kind: "ct", Numbers: map[string]float64{"views": 5, "detectors": 0}},
		"blocks":       {Kind: "blocks", Numbers: map[string]float64{"block": 4, "ratio": 0.25, "seed": 7}},
		"single pixel": {Kind: "hadamard", Arrays: map[string]Array{"chosen": Choice(chosen, 8, 16)}},
		"blurred mri":  {Kind: "compose", Parts: []Spec{{Kind: "denoise"}, {Kind: "mri", Arrays: map[string]Array{"lines": Choice(lines, 16)}}}},
	}
}

// What a spec says of its measurement holds, whether channels are one or three, and it can be saved, shown and told.
func TestFourierSpecs(t *testing.T) {
	d := device(t)
	for name, s := range fourierSpecs(t) {
		for _, c := range []int{1, 3} {
			live := d.Stats().Live
			shape, err := s.Check(8, 16, c)
			require.NoError(t, err, name)
			op, err := s.Build(d, 8, 16, c)
			require.NoError(t, err, name)
			tidy := d.Tidy()
			y, err := Measure(op, d.From(picture(8, 16, c), 1, 8, 16, c), 0.1, 1, 0)
			require.NoError(t, err, name)
			require.Equal(t, [4]int{1, shape[0], shape[1], shape[2]}, y.Shape(), name)
			require.Equal(t, [4]int{1, 8, 16, c}, imageShape(op, y.Shape()), name)
			require.False(t, s.Pictures(), name)
			require.Equal(t, name == "phase", s.Turnable(), name)
			grey := false
			if m, ok := op.(Monochrome); ok {
				grey = m.Monochrome()
			}
			require.Equal(t, slices.Contains([]string{"mri", "ct", "blurred mri"}, name), grey, name)
			shown, err := Picture(op, y)
			require.NoError(t, err, name)
			require.Contains(t, []int{1, 3}, shown.C(), name)
			require.False(t, math.IsNaN(largest(floats(t, shown))), name)
			require.NotEmpty(t, s.String())

			m := &Measurement{Shape: [4]int{1, y.C(), y.H(), y.W()}, Image: [3]int{c, 8, 16}, Operator: s, Sigma: 0.1}
			m.Y = make([]float32, y.Len())
			path := filepath.Join(t.TempDir(), "y.safetensors")
			require.NoError(t, m.Save(path))
			back, err := LoadMeasurement(path)
			require.NoError(t, err)
			require.Equal(t, m, back, name)
			tidy()
			Release(op)
			require.Equal(t, live, d.Stats().Live, name)
		}
	}
}

func TestFourierSpecRefusals(t *testing.T) {
	for name, change := range map[string]struct {
		of     string
		change func(s *Spec)
	}{
		"half unscaled":         {"phase", func(s *Spec) { s.Numbers["unscaled"] = 0.5 }},
		"huge oversampling":     {"phase", func(s *Spec) { s.Numbers["oversample"] = 1e300 }},
		"negative oversampling": {"phase", func(s *Spec) { s.Numbers["oversample"] = -1 }},
		"number missing":        {"phase", func(s *Spec) { delete(s.Numbers, "unscaled") }},
		"number too much":       {"ct", func(s *Spec) { s.Numbers["more"] = 1 }},
		"lines of other width":  {"mri", func(s *Spec) { s.Arrays["lines"] = Array{[]int{15}, make([]float32, 15)} }},
		"lines of two rows":     {"mri", func(s *Spec) { s.Arrays["lines"] = Array{[]int{1, 16}, make([]float32, 16)} }},
		"half a line":           {"mri", func(s *Spec) { s.Arrays["lines"].Data[3] = 0.5 }},
		"no lines":              {"mri", func(s *Spec) { s.Arrays = nil }},
		"half a view":           {"ct", func(s *Spec) { s.Numbers["views"] = 1.5 }},
		"views without end":     {"ct", func(s *Spec) { s.Numbers["views"] = 1e9 }},
		"negative detectors":    {"ct", func(s *Spec) { s.Numbers["detectors"] = -1 }},
		"block of 3":            {"blocks", func(s *Spec) { s.Numbers["block"] = 3 }},
		"block of 64":           {"blocks", func(s *Spec) { s.Numbers["block"] = 64 }},
		"ratio of 0":            {"blocks", func(s *Spec) { s.Numbers["ratio"] = 0 }},
		"negative seed":         {"blocks", func(s *Spec) { s.Numbers["seed"] = -1 }},
		"seed too long":         {"blocks", func(s *Spec) { s.Numbers["seed"] = 1e17 }},
		"coefficient of 2":      {"single pixel", func(s *Spec) { s.Arrays["chosen"].Data[0] = 2 }},
		"coefficients turned":   {"single pixel", func(s *Spec) { s.Arrays["chosen"] = Array{[]int{16, 8}, make([]float32, 128)} }},
	} {
		s := fourierSpecs(t)[change.of]
		change.change(&s)
		_, err := s.Check(8, 16, 3)
		require.Error(t, err, name)
		_, err = s.Build(device(t), 8, 16, 3)
		require.Error(t, err, name)
	}
	_, err := fourierSpecs(t)["single pixel"].Check(8, 12, 3)
	require.Error(t, err)
	_, err = Spec{Kind: "ct", Numbers: map[string]float64{"views": 4096, "detectors": 4096}}.Check(4096, 4096, 3)
	require.ErrorContains(t, err, "million weights")
}
