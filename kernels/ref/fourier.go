package ref

import (
	"math"
	"math/cmplx"

	"github.com/spin-native/spin/kernels"
)

// Fourier implements kernels.Image.
func (*Backend) Fourier(f *kernels.Fourier) {
	src, dst, h, w, c := floats(f.Src), floats(f.Dst), f.Src.H, f.Src.W, f.Src.C
	sign := -1.0
	if f.Inverse {
		sign = 1
	}
	scale := complex(1/math.Sqrt(float64(h*w)), 0)
	each(f.Src.N*c/2, func(plane int) {
		at := func(y, x int) int { return ((plane/(c/2)*h+y)*w+x)*c + 2*(plane%(c/2)) }
		z := make([]complex128, h*w)
		for y := range h {
			for x := range w {
				z[y*w+x] = complex(float64(src[at(y, x)]), float64(src[at(y, x)+1]))
			}
		}
		for i, v := range dft2(z, h, w, sign) {
			dst[at(i/w, i%w)], dst[at(i/w, i%w)+1] = float32(real(v*scale)), float32(imag(v*scale))
		}
	})
}

// Deconvolve implements kernels.Image.
func (*Backend) Deconvolve(d *kernels.Deconvolve) {
	src, dst, c, f := floats(d.Src), floats(d.Dst), d.Src.C, d.Kernel.(*filter)
	rows, above := kernels.Fading(d.Src.H, d.Fade)
	columns, beside := kernels.Fading(d.Src.W, d.Fade)
	h, w := len(rows), len(columns)
	kernel := make([]complex128, h*w)
	for i, v := range f.K {
		kernel[i/f.W%h*w+i%f.W%w] += complex(float64(v), 0)
	}
	k := dft2(kernel, h, w, -1)
	each(d.Src.N*c, func(plane int) {
		z := make([]complex128, h*w)
		lay := func(f func(i, at int, weight float64)) { // every place, the pixel that it holds, and with what weight
			for i := range z {
				if y, x := rows[i/w], columns[i%w]; y >= 0 && x >= 0 {
					at := ((plane/c*d.Src.H+int(y))*d.Src.W+int(x))*c + plane%c
					f(i, at, float64(above[i/w])*float64(beside[i%w]))
				}
			}
		}
		lay(func(i, at int, weight float64) { z[i] = complex(weight*float64(src[at]), 0) })
		z = dft2(z, h, w, -1)
		for i := range z {
			z[i] /= complex(real(k[i])*real(k[i])+imag(k[i])*imag(k[i])+float64(d.Rho), 0)
		}
		z = dft2(z, h, w, 1)
		sums := make([]float64, len(dst))
		lay(func(i, at int, weight float64) { sums[at] += weight * real(z[i]) / float64(h*w) })
		for i := plane / c * d.Src.Pixels(); i < (plane/c+1)*d.Src.Pixels(); i++ {
			dst[i*c+plane%c] = float32(sums[i*c+plane%c])
		}
	})
}

// dft2 transforms an image along rows and columns.
func dft2(x []complex128, h, w int, sign float64) []complex128 {
	z := make([]complex128, h*w)
	for y := range h {
		copy(z[y*w:], dft(x[y*w:], w, 1, sign))
	}
	for x := range w {
		for y, v := range dft(z[x:], h, w, sign) {
			z[y*w+x] = v
		}
	}
	return z
}

// dft transforms elements 0, step, 2 step, ... n of them, by the smallest prime factor p of n (Cooley and Tukey 1965):
//
//	X[k] = sum over j < p of exp(sign 2 pi i jk/n) Xj[k mod n/p],   Xj the transform of elements j, j+p, j+2p, ...
func dft(x []complex128, n, step int, sign float64) []complex128 {
	if n == 1 {
		return x[:1]
	}
	p := 2
	for n%p != 0 {
		p++
	}
	out := make([]complex128, n)
	for j := range p {
		part := dft(x[j*step:], n/p, p*step, sign)
		for k := range out {
			out[k] += part[k%len(part)] * cmplx.Exp(complex(0, sign*2*math.Pi*float64(j*k%n)/float64(n)))
		}
	}
	return out
}
