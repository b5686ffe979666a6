package solver

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/tensor"
)

// operatorRows makes every operator, for n images of about h x w pixels with c channels: the operator, and the shape of its
// images. The tests below hold linear ones to their adjoints, and all to their derivatives.
var operatorRows = []struct {
	name string
	make func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error)
}{
	{"denoise", func(_ *tensor.Device, _ *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		return Denoise{}, [4]int{n, h, w, c}, nil
	}},
	{"gray", func(d *tensor.Device, _ *rand.Rand, n, h, w, _ int) (Operator, [4]int, error) {
		op, err := NewGray(d)
		return op, [4]int{n, h, w, 3}, err
	}},
	{"gray mean", func(d *tensor.Device, _ *rand.Rand, n, h, w, _ int) (Operator, [4]int, error) {
		op, err := NewGrayMean(d)
		return op, [4]int{n, h, w, 3}, err
	}},
	{"average", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		factor := 2 + rng.IntN(6)
		op, err := NewAverage(d, h*factor, w*factor, factor)
		return op, [4]int{n, h * factor, w * factor, c}, err
	}},
	{"weighted blur", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		k, err := GaussianKernel(1+2*rng.IntN(6), 0.3+3*rng.Float64())
		if err != nil {
			return nil, [4]int{}, err
		}
		blur, err := NewBlur(d, h, w, k)
		if err != nil {
			return nil, [4]int{}, err
		}
		weights := make([]float32, n*h*w*c)
		for i := range weights {
			weights[i] = 0.2 + float32(rng.Float64())
		}
		op, err := NewWeighted(d, blur, weights, [4]int{n, h, w, c})
		return op, [4]int{n, h, w, c}, err
	}},
	{"inpaint", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		mask, err := RandomMask(h, w, rng.Float64(), rng.Uint64())
		if err != nil {
			return nil, [4]int{}, err
		}
		op, err := NewInpaint(d, mask)
		return op, [4]int{n, h, w, c}, err
	}},
	{"downsample", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		factor := 2 + rng.IntN(6)
		op, err := NewDownsample(d, h*factor, w*factor, factor)
		return op, [4]int{n, h * factor, w * factor, c}, err
	}},
	{"Gaussian blur", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		k, err := GaussianKernel(1+2*rng.IntN(12), 0.3+3*rng.Float64())
		if err != nil {
			return nil, [4]int{}, err
		}
		op, err := NewBlur(d, h, w, k)
		return op, [4]int{n, h, w, c}, err
	}},
	{"motion blur", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		k, err := MotionKernel(3+2*rng.IntN(12), rng.Float64(), rng.Uint64())
		if err != nil {
			return nil, [4]int{}, err
		}
		op, err := NewBlur(d, h, w, k)
		return op, [4]int{n, h, w, c}, err
	}},
	{"phase", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		op, err := NewPhase(d, h, w, 4*rng.Float64(), rng.IntN(2) == 0)
		return op, [4]int{n, h, w, c}, err
	}},
	{"mri", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		kind := []string{"random", "equispaced"}[rng.IntN(2)]
		lines, err := Lines(w, 1+rng.Float64()*float64(min(w, 9)-1), 0.1*rng.Float64(), kind, rng.Uint64())
		if err != nil {
			return nil, [4]int{}, err
		}
		op, err := NewMRI(d, h, w, c, lines)
		return op, [4]int{n, h, w, c}, err
	}},
	{"ct", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		op, err := NewCT(d, h, w, c, 1+rng.IntN(9), rng.IntN(40))
		return op, [4]int{n, h, w, c}, err
	}},
	{"block sensing", func(d *tensor.Device, rng *rand.Rand, n, _, _, c int) (Operator, [4]int, error) {
		block := 2 + rng.IntN(5)
		h, w := block*(1+rng.IntN(5)), block*(1+rng.IntN(5))
		op, err := NewBlockSensing(d, h, w, block, 1-rng.Float64(), rng.Uint64())
		return op, [4]int{n, h, w, c}, err
	}},
	{"single pixel", func(d *tensor.Device, rng *rand.Rand, n, _, _, c int) (Operator, [4]int, error) {
		h, w := 1<<rng.IntN(6), 1<<rng.IntN(6)
		chosen, err := Coefficients(h, w, 1-rng.Float64(), []string{"random", "sequency"}[rng.IntN(2)], rng.Uint64())
		if err != nil {
			return nil, [4]int{}, err
		}
		op, err := NewSinglePixel(d, h, w, chosen)
		return op, [4]int{n, h, w, c}, err
	}},
	{"blur, then downsample, then mask", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		k, err := MotionKernel(3+2*rng.IntN(12), rng.Float64(), rng.Uint64())
		if err != nil {
			return nil, [4]int{}, err
		}
		mask, err := RandomMask(h, w, rng.Float64(), rng.Uint64())
		if err != nil {
			return nil, [4]int{}, err
		}
		factor := 2 + rng.IntN(6)
		s := Spec{Kind: "compose", Parts: []Spec{{Kind: "blur", Kernel: k}, {Kind: "downsample", Factor: factor}, {Kind: "inpaint", Masks: []*Mask{mask}}}}
		op, err := s.Build(d, h*factor, w*factor, c)
		return op, [4]int{n, h * factor, w * factor, c}, err
	}},
	{"JPEG", func(d *tensor.Device, rng *rand.Rand, n, h, w, _ int) (Operator, [4]int, error) {
		op, err := NewJPEG(d, h, w, randomJPEG(rng))
		return op, [4]int{n, h, w, 3}, err
	}},
	{"JPEG box", func(d *tensor.Device, rng *rand.Rand, n, h, w, _ int) (Operator, [4]int, error) {
		op, err := NewJPEGBox(d, h, w, randomJPEG(rng))
		return op, [4]int{n, h, w, 3}, err
	}},
	{"HDR", func(_ *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		op, err := NewHDR(1.5+2*rng.Float64(), 0.1*rng.Float64())
		return op, [4]int{n, h, w, c}, err
	}},
	{"quantize", func(_ *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		op, err := NewQuantize(2 + rng.IntN(300))
		return op, [4]int{n, h, w, c}, err
	}},
	{"response", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		op, err := NewResponse(d, h, w, []float64{2.2, 1 / 2.2, 0.7}[rng.IntN(3)])
		return op, [4]int{n, h, w, c}, err
	}},
	{"nonlinear blur", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		k, err := GaussianKernel(1+2*rng.IntN(6), 0.3+3*rng.Float64())
		if err != nil {
			return nil, [4]int{}, err
		}
		response := func(gamma float64) Spec { return Spec{Kind: "response", Numbers: map[string]float64{"gamma": gamma}} }
		s := Spec{Kind: "compose", Parts: []Spec{response(2.2), {Kind: "blur", Kernel: k}, response(1 / 2.2)}}
		op, err := s.Build(d, h, w, c)
		return op, [4]int{n, h, w, c}, err
	}},
	{"downsample, then HDR", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		s := Spec{Kind: "compose", Parts: []Spec{{Kind: "downsample", Factor: 2}, {Kind: "hdr", Numbers: map[string]float64{"gain": 2, "sigma": 0.05}}}}
		op, err := s.Build(d, 2*h, 2*w, c)
		return op, [4]int{n, 2 * h, 2 * w, c}, err
	}},
	{"downsample, then JPEG", func(d *tensor.Device, rng *rand.Rand, n, h, w, _ int) (Operator, [4]int, error) {
		s := Spec{Kind: "compose", Parts: []Spec{{Kind: "downsample", Factor: 2}, randomJPEG(rng).Spec(false)}}
		op, err := s.Build(d, 2*h, 2*w, 3)
		return op, [4]int{n, 2 * h, 2 * w, 3}, err
	}},
	{"decimate", func(d *tensor.Device, rng *rand.Rand, n, h, w, c int) (Operator, [4]int, error) {
		factor := 2 + rng.IntN(3)
		k, err := MotionKernel(3+2*rng.IntN(12), rng.Float64(), rng.Uint64())
		if err != nil {
			return nil, [4]int{}, err
		}
		op, err := NewDecimate(d, h*factor, w*factor, factor, k)
		return op, [4]int{n, h * factor, w * factor, c}, err
	}},
}

// randomJPEG is a format of any sampling and quality, sometimes grey.
func randomJPEG(rng *rand.Rand) JPEGFormat {
	steps := []int{1, 1, 2, 2, 4}
	f := StandardJPEG(1+rng.IntN(100), steps[rng.IntN(5)], steps[rng.IntN(5)])
	if rng.IntN(4) == 0 {
		f.Tables = f.Tables[:1]
	}
	return f
}

type operatorCase struct {
	name  string
	op    Operator
	shape [4]int // of the images
}

// operators is every operator at a random size.
func operators(t *testing.T, d *tensor.Device, rng *rand.Rand) (list []operatorCase) {
	n, h, w, c := 1+rng.IntN(2), 1+rng.IntN(24), 1+rng.IntN(24), 1+rng.IntN(3)
	for _, row := range operatorRows {
		op, shape, err := row.make(d, rng, n, h, w, c)
		require.NoError(t, err, row.name)
		list = append(list, operatorCase{row.name, op, shape})
	}
	return list
}

func linearOperators(t *testing.T, d *tensor.Device, rng *rand.Rand) (list []operatorCase) {
	for _, k := range operators(t, d, rng) {
		if isLinear(k.op) {
			list = append(list, k)
		}
	}
	return list
}

// J^T is the transpose of the derivative, <(A(x+hu)-A(x-hu))/2h, v> = <u, J^T v>; and for operators with a residual of their
// own, J^T r is the derivative of 1/2 |r|^2 in the direction of u.
func TestDerivative(t *testing.T) {
	const h = 2e-4
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 12))
		d := device(t)
		for _, k := range operators(t, d, rng) {
			x, u := random(d, rng, k.shape), random(d, rng, k.shape)
			x = d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 0.4}}})
			at := func(s float64) *tensor.Tensor {
				return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}, {X: u, C: s}}})
			}
			v := random(d, rng, k.op.Apply(x).Shape())
			above, below, fv := floats(t, k.op.Apply(at(h))), floats(t, k.op.Apply(at(-h))), floats(t, v)
			var left, scale, most float64
			for i := range fv {
				term := (float64(above[i]) - float64(below[i])) / (2 * h) * float64(fv[i])
				left += term
				scale += term * term
				most = max(most, math.Abs(term))
			}
			var right float64
			for _, v := range floats(t, d.Dot(nil, u, k.op.VJP(x, v))) {
				right += float64(v)
			}
			// Float32 leaves 1e-3 of the differences; where a kink lies between x-hu and x+hu, an element is lost.
			allowed := 0.02 * math.Sqrt(scale)
			if !isLinear(k.op) {
				allowed += most
			}
			require.InDelta(t, left, right, allowed+1e-5, "%s, seed %d, shape %v", k.name, seed, k.shape)

			m, ok := k.op.(Misfit)
			if !ok {
				continue
			}
			y := k.op.Apply(random(d, rng, k.shape))
			loss := func(x *tensor.Tensor) (sum float64) {
				for _, r := range floats(t, m.Misfit(x, y)) {
					sum += float64(r) * float64(r) / 2
				}
				return sum
			}
			left, right = (loss(at(h))-loss(at(-h)))/(2*h), 0
			for _, v := range floats(t, d.Dot(nil, u, m.MisfitVJP(x, m.Misfit(x, y)))) {
				right += float64(v)
			}
			require.InDelta(t, left, right, 0.01*math.Sqrt(loss(x)*2*scale/float64(len(fv)))+0.01*math.Abs(left)+1e-3, "%s: misfit, seed %d, shape %v", k.name, seed, k.shape)
		}
	}
}

// <A u, v> = <u, A^T v>
func TestAdjoint(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d := device(t)
		for _, k := range linearOperators(t, d, rng) {
			name := k.name
			u := random(d, rng, k.shape)
			au := k.op.Apply(u)
			v := random(d, rng, au.Shape())
			atv := k.op.VJP(nil, v)
			require.Equal(t, u.Shape(), atv.Shape(), name)
			require.Equal(t, u.Shape(), imageShape(k.op, au.Shape()), name)
			left, right, scale := 0.0, 0.0, 0.0
			fau, fv, fu, fatv := floats(t, au), floats(t, v), floats(t, u), floats(t, atv)
			for i := range fv {
				left += float64(fau[i]) * float64(fv[i])
				scale += math.Abs(float64(fau[i]) * float64(fv[i]))
			}
			for i := range fu {
				right += float64(fu[i]) * float64(fatv[i])
			}
			require.InDelta(t, left, right, 1e-5*scale+1e-12, "%s, seed %d, shape %v", name, seed, k.shape)
		}
	}
}

// The gradient is the derivative of 1/2 |A(x)-y|^2, and the Lipschitz constant bounds it: |A u|^2 <= L |u|^2.
func TestLipschitz(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		d := device(t)
		for _, k := range linearOperators(t, d, rng) {
			name := k.name
			bound := lipschitz(k.op)
			require.Positive(t, bound, name)
			u := random(d, rng, k.shape)
			var ratio float64
			for range 12 { // the power method
				next := k.op.VJP(nil, k.op.Apply(u))
				v, w := floats(t, u), floats(t, next)
				var vv, vw float64
				for i := range v {
					vv += float64(v[i]) * float64(v[i])
					vw += float64(v[i]) * float64(w[i])
				}
				if vv < 1e-20 {
					break
				}
				ratio = vw / vv
				u = d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: next, C: 1 / max(ratio, 1e-12)}}})
			}
			require.LessOrEqual(t, ratio, bound*(1+1e-5), "%s, seed %d, shape %v", name, seed, k.shape)
		}
	}
}

// A kernel whose weight lies in its corner shifts the picture, and the mirror then counts border pixels twice along both
// axes: |A|^2 comes near 4.
func TestLipschitzOffCentre(t *testing.T) {
	d := device(t)
	values := make([]float32, 49)
	values[0] = 1
	k, err := NewKernel(7, 7, values)
	require.NoError(t, err)
	op, err := NewBlur(d, 16, 16, k)
	require.NoError(t, err)
	require.InDelta(t, 4, op.Lipschitz(), 0.25)
}

// prox minimises 1/2 |A x - y|^2 + rho/2 |x-x0|^2: its gradient A^T (A x - y) + rho (x - x0) is zero there.
func TestProx(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 4))
		d := device(t)
		for _, k := range linearOperators(t, d, rng) {
			name := k.name
			p, ok := k.op.(Proximal)
			if !ok {
				continue
			}
			x0 := random(d, rng, k.shape)
			y := random(d, rng, k.op.Apply(x0).Shape())
			if r, ok := k.op.(Restricter); ok {
				y = r.Restrict(y)
			}
			rho := math.Pow(10, -3+4*rng.Float64())
			x := p.Prox(x0, y, rho)
			g := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{
				{X: k.op.VJP(nil, subtract(k.op.Apply(x), y)), C: 1}, {X: x, C: rho}, {X: x0, C: -rho},
			}})
			size := largest(floats(t, x)) + largest(floats(t, x0))
			require.Less(t, largest(floats(t, g)), 1e-5*size*(1+rho), "%s, seed %d, shape %v, rho %v", name, seed, k.shape, rho)
		}
	}
}

// TestPreconditioned: where 15 steps of plain CG have not converged, the 4 of PCG come closer to the minimiser, over motion
// and Gaussian kernels, noise levels and shapes; for small kernels that shift the picture they may stay behind. Many steps
// arrive. The minimiser is computed in float64 from the definition of the blur.
func TestPreconditioned(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("takes minutes on the reference's loops, of which it shows nothing")
	}
	d := device(t)
	kernels := map[string]func(seed uint64) (*BlurKernel, error){
		"motion":   func(seed uint64) (*BlurKernel, error) { return MotionKernel(15, 0.5, seed) },
		"gaussian": func(uint64) (*BlurKernel, error) { return GaussianKernel(15, 1.5) },
		"off centre": func(seed uint64) (*BlurKernel, error) {
			rng := rand.New(rand.NewPCG(seed, 8))
			values := make([]float32, 49)
			for range 5 {
				values[rng.IntN(4)*7+rng.IntN(4)] += 1
			}
			return NewKernel(7, 7, values)
		},
	}
	for name, kernel := range kernels {
		for seed, shape := range [][4]int{{1, 64, 64, 1}, {2, 50, 67, 1}} {
			k, err := kernel(uint64(seed))
			require.NoError(t, err)
			op, err := NewBlur(d, shape[1], shape[2], k)
			require.NoError(t, err)
			rng := rand.New(rand.NewPCG(uint64(seed), 6))
			x0, x := random(d, rng, shape), random(d, rng, shape)
			for _, c := range []struct{ sigma, rho float64 }{{0.05, 0.2}, {0.05, 0.02}, {0.02, 0.005}, {0.01, 5e-4}} {
				y, err := Measure(op, x, c.sigma, 1, 0)
				require.NoError(t, err)
				want := minimiser(k, shape, floats(t, x0), floats(t, y), c.rho)
				away := map[Method]float64{}
				for _, m := range []Method{CG, PCG, Auto} {
					got, err := Correct(Problem{Operator: op, Y: y, Sigma: c.sigma}, x0, c.rho, Inner{Method: m})
					require.NoError(t, err)
					away[m] = relL2(floats(t, got), want)
				}
				bound := max(away[CG], 0.03)
				if name == "off centre" {
					bound = max(2.5*away[CG], 0.05)
				}
				require.Less(t, away[PCG], bound, "%s, shape %v, rho %v", name, shape, c.rho)
				require.Equal(t, away[PCG], away[Auto])
				many, err := Correct(Problem{Operator: op, Y: y, Sigma: c.sigma}, x0, c.rho, Inner{Method: PCG, Steps: 30})
				require.NoError(t, err)
				require.Less(t, relL2(floats(t, many), want), 0.05, "%s, shape %v, rho %v", name, shape, c.rho)
			}
		}
	}
}

// relL2 is |got - want| / |want|.
func relL2(got, want []float32) float64 {
	var diff, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff += d * d
		norm += float64(want[i]) * float64(want[i])
	}
	return math.Sqrt(diff / norm)
}

// minimiser solves (A^T A + rho) d = A^T (y - A x0) in float64 and returns x0 + d.
func minimiser(k *BlurKernel, shape [4]int, x0, y []float32, rho float64) []float32 {
	h, w, c := shape[1], shape[2], shape[3]
	// each calls f(i, j, v) for every entry of A: pixel i of the measurement sees v of pixel j.
	each := func(f func(i, j int, v float64)) {
		for n := range shape[0] {
			for a, v := range k.K {
				if v == 0 {
					continue
				}
				for i := range h {
					row := (n*h + mirrorCentre(i+a/k.W-k.H/2, h)) * w
					for j := range w {
						at := row + mirrorCentre(j+a%k.W-k.W/2, w)
						for ch := range c {
							f(((n*h+i)*w+j)*c+ch, at*c+ch, float64(v))
						}
					}
				}
			}
		}
	}
	x, r, p := make([]float64, len(x0)), make([]float64, len(x0)), make([]float64, len(x0))
	rest := make([]float64, len(y))
	for i, v := range y {
		rest[i] = float64(v)
	}
	each(func(i, j int, v float64) { rest[i] -= v * float64(x0[j]) })
	each(func(i, j int, v float64) { r[j] += v * rest[i] })
	copy(p, r)
	dot := func(a, b []float64) (sum float64) {
		for i := range a {
			sum += a[i] * b[i]
		}
		return sum
	}
	first := dot(r, r)
	for rs := first; rs > 1e-9*first; {
		ap, q := make([]float64, len(y)), make([]float64, len(p))
		each(func(i, j int, v float64) { ap[i] += v * p[j] })
		each(func(i, j int, v float64) { q[j] += v * ap[i] })
		for i := range q {
			q[i] += rho * p[i]
		}
		alpha := rs / dot(p, q)
		for i := range x {
			x[i], r[i] = x[i]+alpha*p[i], r[i]-alpha*q[i]
		}
		next := dot(r, r)
		for i := range p {
			p[i] = r[i] + next/rs*p[i]
		}
		rs = next
	}
	out := make([]float32, len(x0))
	for i := range out {
		out[i] = float32(float64(x0[i]) + x[i])
	}
	return out
}

// W W^T is diagonal in the DCT-II basis, with the eigenvalues that the operator uses.
func TestDownsampleSpectrum(t *testing.T) {
	for _, c := range [][2]int{{8, 2}, {32, 4}, {64, 16}, {16, 16}, {21, 7}, {9, 3}, {30, 5}, {512, 2}} {
		n, factor := c[0], c[1]
		m := n / factor
		down, u := reduction(m, n), cosines(m)
		for k := range m {
			lambda := 0.0
			back := down.leftProduct(u.w[k]) // W^T u
			for _, v := range back {
				lambda += v * v
			}
			for i := range m { // W W^T u = lambda u
				var sum float64
				for j, v := range down.w[i] {
					sum += v * back[down.first[i]+j]
				}
				require.InDelta(t, lambda*u.w[k][i], sum, 1e-12, "n %d, factor %d, vector %d", n, factor, k)
			}
		}
	}
}

func TestOperatorRefusals(t *testing.T) {
	d := device(t)
	mask := func(h, w int) *Mask { m, _ := CenterMask(h, w, 0); return m }
	kernel := func(h, w int, v ...float32) error { _, err := NewKernel(h, w, v); return err }
	only := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"factor 1":              only(NewDownsample(d, 8, 8, 1)),
		"factor does not fit":   only(NewDownsample(d, 8, 9, 4)),
		"no mask":               only(NewInpaint(d)),
		"two sizes of masks":    only(NewInpaint(d, mask(4, 4), mask(4, 5))),
		"kernel sum 0":          kernel(1, 3, 1, 0, -1),
		"kernel NaN":            kernel(1, 1, float32(math.NaN())),
		"kernel infinite":       kernel(1, 1, float32(math.Inf(1))),
		"kernel too short":      kernel(2, 2, 1),
		"kernel empty":          kernel(0, 0),
		"Gaussian of even size": only(GaussianKernel(4, 1)),
		"Gaussian without":      only(GaussianKernel(5, 0)),
		"motion of even size":   only(MotionKernel(8, 0.5, 0)),
		"motion too intense":    only(MotionKernel(9, 1.5, 0)),
		"blur of nothing":       only(NewBlur(d, 0, 4, &BlurKernel{H: 1, W: 1, K: []float32{1}})),
		"box too large":         only(BoxMask(8, 8, 9, 0)),
		"centre too large":      only(CenterMask(8, 8, 9)),
		"unknown half":          only(HalfMask(8, 8, "front")),
		"fraction above 1":      only(RandomMask(8, 8, 1.1, 0)),
		"picture of other size": only(PictureMask(8, 8, make([]uint8, 63), false)),
		"mask without pixels":   only(CenterMask(0, 8, 0)),
	} {
		var e *tensor.Error
		require.ErrorAs(t, err, &e, name)
	}
}

func TestMasks(t *testing.T) {
	picture := func(m *Mask) (s string) {
		for i, k := range m.Known {
			if i%m.W == 0 && i > 0 {
				s += " "
			}
			s += map[bool]string{true: ".", false: "#"}[k]
		}
		return s
	}
	m, err := CenterMask(4, 6, 0)
	require.NoError(t, err)
	require.Equal(t, "...... .###.. .###.. ......", picture(m))
	for side, want := range map[string]string{"left": "##... ##...", "right": "...## ...##", "top": "##### .....", "bottom": "..... #####"} {
		m, err := HalfMask(2, 5, side)
		require.NoError(t, err)
		require.Equal(t, want, picture(m), side)
	}
	m, err = PictureMask(1, 4, []uint8{0, 127, 128, 255}, false)
	require.NoError(t, err)
	require.Equal(t, "..##", picture(m))
	m, err = PictureMask(1, 4, []uint8{0, 127, 128, 255}, true)
	require.NoError(t, err)
	require.Equal(t, "##..", picture(m))

	corners := map[string]bool{}
	for seed := range uint64(200) {
		m, err := BoxMask(32, 48, 0, seed)
		require.NoError(t, err)
		require.Equal(t, 16*24, m.Missing())
		first := 0
		for m.Known[first] {
			first++
		}
		y, x := first/48, first%48
		require.True(t, y >= 2 && y+16 <= 30 && x >= 3 && x+24 <= 45, "corner %d %d", y, x)
		corners[fmt.Sprint(y, x)] = true
	}
	require.Greater(t, len(corners), 120)

	for _, c := range []struct {
		h, w     int
		fraction float64
		missing  int
	}{{256, 256, 0.7, 45875}, {10, 10, 0.29, 29}, {5, 5, 0, 0}, {5, 5, 1, 25}} {
		m, err := RandomMask(c.h, c.w, c.fraction, 3)
		require.NoError(t, err)
		require.Equal(t, c.missing, m.Missing())
	}
	a, _ := RandomMask(16, 16, 0.5, 1)
	b, _ := RandomMask(16, 16, 0.5, 1)
	c, _ := RandomMask(16, 16, 0.5, 2)
	require.Equal(t, a, b)
	require.NotEqual(t, a, c)
}

func TestMotionKernel(t *testing.T) {
	for seed := range uint64(50) {
		for _, intensity := range []float64{0, 0.5, 1} {
			k, err := MotionKernel(61, intensity, seed)
			require.NoError(t, err)
			again, _ := MotionKernel(61, intensity, seed)
			require.Equal(t, k, again)
			var sum, mx, my float64
			lit := 0
			for i, v := range k.K {
				require.GreaterOrEqual(t, v, float32(0))
				sum += float64(v)
				mx += float64(v) * float64(i%61-30)
				my += float64(v) * float64(i/61-30)
				if v > 0 {
					lit++
				}
			}
			require.InDelta(t, 1, sum, 1e-6)
			require.InDelta(t, 0, mx, 1e-5, "a kernel must not shift the picture")
			require.InDelta(t, 0, my, 1e-5)
			require.Greater(t, lit, 20)
		}
	}
	a, _ := MotionKernel(61, 0.5, 1)
	b, _ := MotionKernel(61, 0.5, 2)
	require.NotEqual(t, a, b)
	for size := 3; size < 12; size += 2 {
		_, err := MotionKernel(size, 1, uint64(size))
		require.NoError(t, err)
	}
}

func TestSeparableKernelIsFound(t *testing.T) {
	gauss, _ := GaussianKernel(61, 3)
	require.Equal(t, 25, gauss.trimmed().H)
	_, _, ok := gauss.trimmed().factors()
	require.True(t, ok)
	motion, _ := MotionKernel(61, 0.5, 1)
	_, _, ok = motion.factors()
	require.False(t, ok)
}
