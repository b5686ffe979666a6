package kerneltest

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
)

// lengths holds primes, powers of primes and products, small and large: every radix, every way to join them, and lengths
// for which a backend may need something else than radices.
var lengths = []int{
	1, 2, 3, 4, 5, 7, 8, 9, 11, 16, 25, 27, 30, 32, 49, 61, 64, 67, 77, 96, 101, 105, 122, 128, 134, 211, 243, 256, 360, 384,
	500, 509, 512,
}

// fourier transforms images of the case's shape, then rows and columns of some length, there and back.
func (p *pixels) fourier() {
	n, what := lengths[p.rng.IntN(len(lengths))], p.what
	defer func() { p.what = what }()
	shape := p.shape
	shape[3] *= 2
	for _, s := range [][4]int{shape, {1 + p.rng.IntN(2), 1 + p.rng.IntN(20), n, 2}, {1, n, 1 + p.rng.IntN(20), 2 + 2*p.rng.IntN(2)}} {
		p.what = fmt.Sprintf("%s, transform of %v", what, s)
		for _, inverse := range []bool{false, true} {
			x, y := p.random(s), p.put(s, nil)
			once := p.transform(y, x, inverse)
			p.untouched(x)
			spectrum := p.put(s, p.read(y.got))
			p.transform(spectrum, spectrum, !inverse) // in place
			twice := p.read(spectrum.got)
			var before, after float64
			for i, v := range x.data {
				if d := math.Abs(float64(v) - float64(twice[i])); !(d <= 2*once(i)) {
					p.errorf("element %d is %v after a transform there and back, it was %v: allowed %.3g", i, twice[i], v, 2*once(i))
					return
				}
				before, after = before+float64(v)*float64(v), after+float64(spectrum.data[i])*float64(spectrum.data[i])
			}
			if !(math.Abs(after-before) <= 2*roundings(x.want)*unit*before) {
				p.errorf("the sum of squares went from %v to %v", before, after)
			}
		}
	}
}

// roundings counts those that follow one another in the transform of a view: a few per halving of the length (Higham,
// Accuracy and Stability of Numerical Algorithms, 24.1), and three times as many where a length is transformed as a
// convolution.
func roundings(v kernels.View) float64 {
	return 3 * 3 * (1 + math.Log2(float64(v.H)) + math.Log2(float64(v.W)))
}

// transform runs one transform on both sides, compares, and returns the bound on an element's error: u times the
// roundings times the root mean square of its image, as errors spread evenly over all elements.
func (p *pixels) transform(dst, src pair, inverse bool) func(i int) float64 {
	p.t.Helper()
	per := src.want.Len() / src.want.N
	bounds := make([]float64, src.want.N)
	for k := range bounds {
		var squares float64
		for _, x := range src.data[k*per : (k+1)*per] {
			squares += float64(x) * float64(x)
		}
		bounds[k] = roundings(src.want) * unit * math.Sqrt(squares/float64(per))
	}
	bound := func(i int) float64 { return bounds[i/per] }
	p.ref.Fourier(&kernels.Fourier{Dst: dst.want, Src: src.want, Inverse: inverse})
	p.b.Fourier(&kernels.Fourier{Dst: dst.got, Src: src.got, Inverse: inverse})
	p.near(dst.got, dst.want, bound)
	return bound
}

// deconvolve divides by kernels that are smaller and larger than the image, strongly and weakly regularised.
func (p *pixels) deconvolve() {
	for _, rho := range []float32{1e-3, 0.3} {
		k := kernels.FilterWeights{H: 1 + 2*p.rng.IntN(8), W: 1 + 2*p.rng.IntN(24)}
		k.K = make([]float32, k.H*k.W)
		var sum float64
		for i := range k.K {
			k.K[i] = float32(p.rng.NormFloat64()) / float32(len(k.K))
			sum += math.Abs(float64(k.K[i]))
		}
		fade := max(0, p.rng.IntN(20)-8)
		src, dst := p.random(p.shape), p.put(p.shape, nil)
		got, want := kernels.Deconvolve{Dst: dst.got, Src: src.got, Rho: rho, Fade: fade}, kernels.Deconvolve{Dst: dst.want, Src: src.want, Rho: rho, Fade: fade}
		got.Kernel, want.Kernel = p.prepareFilter(p.b, k), p.prepareFilter(p.ref, k)
		inPlace := p.rng.IntN(2) == 0
		if inPlace {
			got.Dst, want.Dst, dst = src.got, src.want, src
		}
		p.ref.Deconvolve(&want)
		p.b.Deconvolve(&got)
		// Errors spread over the image. Those of the transforms of the image are divided by rho at most. An error e of the
		// kernel's spectrum moves the quotient by 2 |k| e / (|k|^2 + rho)^2, which is largest where |k|^2 = rho/3.
		per := p.shape[1] * p.shape[2] * p.shape[3]
		share := roundings(src.want) * unit * (2/float64(rho) + 0.65*sum/math.Pow(float64(rho), 1.5))
		bounds := make([]float64, p.shape[0])
		for n := range bounds {
			var squares float64
			for _, x := range src.data[n*per : (n+1)*per] {
				squares += float64(x) * float64(x)
			}
			bounds[n] = share * math.Sqrt(squares/float64(per))
		}
		p.near(dst.got, dst.want, func(i int) float64 { return bounds[i/per] })
		if !inPlace {
			p.untouched(src)
		}
	}
}
