package ref

import (
	"fmt"
	"math"
	"slices"

	"github.com/spin-native/spin/kernels"
)

type conv struct {
	w kernels.ConvWeights
	k []float32 // [out][y][x][in], so that the inner loop of Conv2D reads straight on
}

func (c *conv) Weights() kernels.ConvWeights { return c.w }

// PrepareConv reorders the weights to the layout of the pixels.
func (*Backend) PrepareConv(w kernels.ConvWeights) (kernels.Conv, error) {
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("ref: %w", err)
	}
	area := w.Size * w.Size
	c := &conv{w: w, k: make([]float32, len(w.Weight))}
	for o := range w.Out {
		for i := range w.In {
			for t := range area {
				c.k[(o*area+t)*w.In+i] = w.Weight[(o*w.In+i)*area+t]
			}
		}
	}
	c.w.Weight, c.w.Bias = nil, slices.Clone(w.Bias) // the caller's may be a mapped file
	return c, nil
}

func silu(x float64) float64 { return x / (1 + math.Exp(-x)) }

// resample returns sampling(x) for one image of h x w x c.
func resample(x []float64, h, w, c int, s kernels.Sampling) []float64 {
	if s == kernels.Same {
		return x
	}
	oh, ow := s.Size(h), s.Size(w)
	out := make([]float64, oh*ow*c)
	for y := range oh {
		for xx := range ow {
			for k := range c {
				at := func(y, x0 int) float64 { return x[(y*w+x0)*c+k] }
				o := &out[(y*ow+xx)*c+k]
				if s == kernels.Up2 {
					*o = at(y/2, xx/2)
				} else {
					*o = (at(2*y, 2*xx) + at(2*y, 2*xx+1) + at(2*y+1, 2*xx) + at(2*y+1, 2*xx+1)) / 4
				}
			}
		}
	}
	return out
}

func image(v kernels.View, n int) []float64 {
	src := floats(v.Image(n))
	out := make([]float64, len(src))
	for i, x := range src {
		out[i] = float64(x)
	}
	return out
}

// Conv2D is the formula of kernels.Conv2D, step by step in float64.
func (b *Backend) Conv2D(a *kernels.Conv2D) {
	kernel := a.Kernel.(*conv)
	w := kernel.w
	for n := range a.Dst.N {
		u, h, wd := convInput(a, n, w.In)
		dst := floats(a.Dst.Image(n))
		oh, ow := a.Dst.H, a.Dst.W
		var res []float64
		if a.Residual.Present() {
			res = resample(image(a.Residual, n), a.Residual.H, a.Residual.W, w.Out, a.ResidualSampling)
		}
		if a.Shortcut != nil {
			res = shortcut(a, n)
		}
		var embed []float32
		if a.Embed.Present() {
			embed = floats(a.Embed.Image(min(n, a.Embed.N-1)))
		}
		each(oh, func(y int) {
			for x := range ow {
				for o := range w.Out {
					var sum float64
					for ky := range w.Size {
						for kx := range w.Size {
							iy, ix := y*w.Stride+ky-w.Pad, x*w.Stride+kx-w.Pad
							if iy < 0 || ix < 0 || iy >= h || ix >= wd {
								continue
							}
							px := u[(iy*wd+ix)*w.In:][:w.In]
							k := kernel.k[((o*w.Size+ky)*w.Size+kx)*w.In:][:w.In]
							for i, v := range px {
								sum += v * float64(k[i])
							}
						}
					}
					if w.Bias != nil {
						sum += float64(w.Bias[o])
					}
					if embed != nil {
						sum += float64(embed[o])
					}
					if res != nil {
						sum += res[(y*ow+x)*w.Out+o]
					}
					if a.ReLU {
						sum = max(sum, 0)
					}
					dst[(y*ow+x)*w.Out+o] = float32(sum)
				}
			}
		})
	}
	if a.Moments.Present() {
		b.Moments(a.Moments, a.Dst)
	}
}

// shortcut is the 1x1 convolution that stands in place of the residual, for image n.
func shortcut(a *kernels.Conv2D, n int) []float64 {
	kernel := a.Shortcut.(*conv)
	in := &kernels.Conv2D{Src: a.Skip}
	u, h, w := convInput(in, n, kernel.w.In)
	out := make([]float64, h*w*kernel.w.Out)
	for p := range h * w {
		for o := range kernel.w.Out {
			sum := 0.0
			for i := range kernel.w.In {
				sum += u[p*kernel.w.In+i] * float64(kernel.k[o*kernel.w.In+i])
			}
			if kernel.w.Bias != nil {
				sum += float64(kernel.w.Bias[o])
			}
			out[p*kernel.w.Out+o] = sum
		}
	}
	return out
}

// convInput is u of kernels.Conv2D for image n, with its size.
func convInput(a *kernels.Conv2D, n, c int) (u []float64, h, w int) {
	h, w = a.Src[0].H, a.Src[0].W
	u = make([]float64, h*w*c)
	first := 0
	for _, s := range a.Src {
		if !s.Present() {
			continue
		}
		src := floats(s.Image(n))
		for p := range h * w {
			for k := range s.C {
				u[p*c+first+k] = float64(src[p*s.C+k])
			}
		}
		first += s.C
	}
	if a.Affine.Present() {
		f := floats(a.Affine.Image(n))
		for i := range u {
			u[i] = float64(f[i%c])*u[i] + float64(f[c+i%c])
		}
	}
	switch a.Act {
	case kernels.SiLU:
		for i := range u {
			u[i] = silu(u[i])
		}
	case kernels.Tanh:
		for i := range u {
			u[i] = math.Tanh(u[i])
		}
	}
	u = resample(u, h, w, c, a.Sampling)
	return u, a.Sampling.Size(h), a.Sampling.Size(w)
}

// Moments takes two passes: the mean, then the squared deviations from it.
func (*Backend) Moments(dst, x kernels.View) {
	pixels := x.Pixels()
	each(x.N, func(n int) {
		src, out := floats(x.Image(n)), floats(dst.Image(n))
		for c := range x.C {
			var sum, m2 float64
			for p := range pixels {
				sum += float64(src[p*x.C+c])
			}
			mean := sum / float64(pixels)
			for p := range pixels {
				d := float64(src[p*x.C+c]) - mean
				m2 += d * d
			}
			out[c], out[x.C+c] = float32(mean), float32(m2)
		}
	})
}

// Norm joins the channels' moments into groups: the squared deviations of a group are those inside its channels plus
// those of the channel means from the group's mean.
func (*Backend) Norm(a *kernels.Norm) {
	c := a.Dst.C
	for n := range a.Dst.N {
		mean, m2 := make([]float64, 0, c), make([]float64, 0, c)
		for _, m := range a.Moments {
			if m.Present() {
				f := floats(m.Image(n))
				for k := range m.C {
					mean, m2 = append(mean, float64(f[k])), append(m2, float64(f[m.C+k]))
				}
			}
		}
		dst, gamma, beta := floats(a.Dst.Image(n)), floats(a.Gamma), floats(a.Beta)
		var mod []float32
		if a.Modulate.Present() {
			mod = floats(a.Modulate.Image(min(n, a.Modulate.N-1)))
		}
		width := c / a.Groups
		for g := range a.Groups {
			var mu, dev float64
			for k := g * width; k < (g+1)*width; k++ {
				mu += mean[k] / float64(width)
			}
			for k := g * width; k < (g+1)*width; k++ {
				dev += m2[k] + float64(a.Pixels)*(mean[k]-mu)*(mean[k]-mu)
			}
			inv := 1 / math.Sqrt(dev/float64(a.Pixels*width)+float64(a.Eps))
			for k := g * width; k < (g+1)*width; k++ {
				scale := float64(gamma[k]) * inv
				offset := float64(beta[k]) - mu*scale
				if mod != nil {
					s, b := float64(mod[k]), float64(mod[c+k])
					scale, offset = scale*(1+s), offset*(1+s)+b
				}
				dst[k], dst[c+k] = float32(scale), float32(offset)
			}
		}
	}
}

// Attention is softmax(Scale Q K^T) V, one query at a time.
func (*Backend) Attention(a *kernels.Attention) {
	queries, keys := a.Q.Pixels(), a.K.Pixels()
	for n := range a.Dst.N {
		q, k, v, dst := floats(a.Q.Image(n)), floats(a.K.Image(n)), floats(a.V.Image(n)), floats(a.Dst.Image(n))
		each(queries, func(i int) {
			score := make([]float64, keys)
			for h := range a.Heads {
				qi := q[i*a.Q.C+a.Q.First+h*a.Q.Step:][:a.Dim]
				top := math.Inf(-1)
				for j := range keys {
					kj := k[j*a.K.C+a.K.First+h*a.K.Step:][:a.Dim]
					var dot float64
					for c := range qi {
						dot += float64(qi[c]) * float64(kj[c])
					}
					score[j] = dot * float64(a.Scale)
					top = max(top, score[j])
				}
				var total float64
				for j := range score {
					score[j] = math.Exp(score[j] - top)
					total += score[j]
				}
				for c := range a.Dim {
					var sum float64
					for j := range keys {
						sum += score[j] * float64(v[j*a.V.C+a.V.First+h*a.V.Step+c])
					}
					dst[i*a.Dst.C+h*a.Dim+c] = float32(sum / total)
				}
			}
		})
	}
}

// LayerNorm takes the mean of a pixel, then the squared deviations from it.
func (*Backend) LayerNorm(a *kernels.LayerNorm) {
	c := a.Src.C
	src, dst, gamma, beta := floats(a.Src), floats(a.Dst), floats(a.Gamma), floats(a.Beta)
	each(len(src)/c, func(p int) {
		x, out := src[p*c:][:c], dst[p*c:][:c]
		var mean, dev float64
		for _, v := range x {
			mean += float64(v) / float64(c)
		}
		for _, v := range x {
			dev += (float64(v) - mean) * (float64(v) - mean)
		}
		inv := 1 / math.Sqrt(dev/float64(c)+float64(a.Eps))
		for k, v := range x {
			out[k] = float32(float64(gamma[k])*(float64(v)-mean)*inv + float64(beta[k]))
		}
	})
}

// GEGLU uses erfc, which loses nothing where Phi is small.
func (*Backend) GEGLU(dst, src kernels.View) {
	c := dst.C
	x, out := floats(src), floats(dst)
	each(len(out)/c, func(p int) {
		for k := range c {
			a, b := float64(x[2*p*c+k]), float64(x[2*p*c+c+k])
			out[p*c+k] = float32(a * b * math.Erfc(-b/math.Sqrt2) / 2)
		}
	})
}

// Resample writes sampling(src).
func (b *Backend) Resample(dst, src kernels.View, s kernels.Sampling, moments kernels.View) {
	each(src.N, func(n int) {
		out := floats(dst.Image(n))
		for i, v := range resample(image(src, n), src.H, src.W, src.C, s) {
			out[i] = float32(v)
		}
	})
	if moments.Present() {
		b.Moments(moments, dst)
	}
}

// Nearest tries all code vectors.
func (*Backend) Nearest(a *kernels.Nearest) {
	dim, count := a.X.C, a.Codes.C
	x, codes, dst, index := floats(a.X), floats(a.Codes), floats(a.Dst), floats(a.Index)
	each(a.X.N*a.X.Pixels(), func(p int) {
		px, best, least := x[p*dim:][:dim], 0, math.Inf(1)
		for k := range count {
			var sum float64
			for c, v := range px {
				d := float64(v) - float64(codes[c*count+k])
				sum += d * d
			}
			if sum < least {
				best, least = k, sum
			}
		}
		for c, v := range px {
			dst[p*dim+c] = v + (codes[c*count+best] - v)
		}
		if index != nil {
			index[p] = float32(best)
		}
	})
}
