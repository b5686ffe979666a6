package solver

import (
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/dsp/fourier"
)

// A decimation is the product of two spectra, of which every factor-th pixel is kept from the first on: computed so in float64,
// with the kernel's middle at the origin, it is the convolution on a circle.
func TestDecimate(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		factor := 2 + rng.IntN(3)
		h, w := factor*(1+rng.IntN(9)), factor*(1+rng.IntN(9))
		k, err := MotionKernel(3+2*rng.IntN(8), rng.Float64(), rng.Uint64())
		require.NoError(t, err)
		op, err := NewDecimate(d, h, w, factor, k)
		require.NoError(t, err)
		x := picture(h, w, 1)
		kernel, pixels := make([]complex128, h*w), make([]complex128, h*w)
		for i, v := range k.K {
			kernel[modulo(i/k.W-k.H/2, h)*w+modulo(i%k.W-k.W/2, w)] += complex(float64(v), 0)
		}
		for i, v := range x {
			pixels[i] = complex(float64(v), 0)
		}
		transform(kernel, h, w)
		transform(pixels, h, w)
		for i := range pixels { // the inverse transform by the forward one of the conjugate
			pixels[i] = cmplx.Conj(pixels[i] * kernel[i])
		}
		transform(pixels, h, w)
		var want []float32
		for i := 0; i < h; i += factor {
			for j := 0; j < w; j += factor {
				want = append(want, float32(real(pixels[i*w+j])/float64(h*w)))
			}
		}
		maxAbs(t, "A(x)", want, floats(t, op.Apply(d.From(x, 1, h, w, 1))), 2e-6)
		op.Free()
	}
}

// A smooth picture that is measured and enlarged again lies where it was: the guess is not shifted.
func TestDecimateGuess(t *testing.T) {
	d := device(t)
	k, err := NewKernel(1, 1, []float32{1})
	require.NoError(t, err)
	op, err := NewDecimate(d, 32, 48, 4, k)
	require.NoError(t, err)
	defer op.Free()
	x := make([]float32, 32*48)
	for i := range x {
		x[i] = float32(0.5*cosine(float64(i/48)/32) + 0.3*cosine(float64(i%48)/48+0.1))
	}
	y := op.Apply(d.From(x, 1, 32, 48, 1))
	for i, v := range floats(t, y) {
		require.Equal(t, x[i/12*4*48+i%12*4], v, "the kernel of one pixel keeps the first of every four")
	}
	maxAbs(t, "guess", x, floats(t, op.Guess(y)), 0.03)
}

func cosine(turn float64) float64 { return real(cmplx.Exp(complex(0, 2*3.141592653589793*turn))) }

// transform is the two-dimensional discrete Fourier transform, in place.
func transform(x []complex128, h, w int) {
	rows, columns := fourier.NewCmplxFFT(w), fourier.NewCmplxFFT(h)
	for i := range h {
		copy(x[i*w:], rows.Coefficients(nil, x[i*w:(i+1)*w]))
	}
	line := make([]complex128, h)
	for j := range w {
		for i := range h {
			line[i] = x[i*w+j]
		}
		for i, v := range columns.Coefficients(nil, line) {
			x[i*w+j] = v
		}
	}
}
