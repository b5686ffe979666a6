package nn

import (
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Tiling bounds the memory of a first stage, whose results stay the same up to rounding: layers of large images run in
// bands of rows, images of a batch one by one. See docs/design/0005-tiles.md. The zero value runs everything whole.
type Tiling struct {
	Pixels int  // of a band; images of no more than that stay whole. 0: all do
	Lean   bool // enlarged images are never kept, but made again for every use: less memory, more time
}

// image is one image that need not exist: rows makes a band of it, from <= y < to, whenever one is asked for. What it
// returns is the caller's bracket's.
type image struct {
	d       *tensor.Device
	h, w, c int
	kind    kernels.Type
	rows    func(from, to int) *tensor.Tensor
	whole   *tensor.Tensor // where it does exist
}

func existing(x *tensor.Tensor) *image {
	return &image{x.Device(), x.H(), x.W(), x.C(), x.Type(), func(from, to int) *tensor.Tensor { return x.Rows(0, from, to) }, x}
}

// local is a layer of which a pixel depends on few others, but for statistics of the whole image.
type local interface {
	layer
	// over is the layer's output for x. Statistics are gathered at once, the rest is left to the bands.
	over(x *image, t Tiling) *image
}

// bands calls f for every band of the image with its rows. They are freed after it.
func (x *image) bands(t Tiling, f func(from int, band *tensor.Tensor)) {
	step := t.Rows(x.w)
	for from := 0; from < x.h; from += step {
		func() {
			defer x.d.Tidy()()
			f(from, x.rows(from, min(from+step, x.h)))
		}()
	}
}

// reach is the most rows beyond its own that a band of any layer's output depends on: those of tinyBlock's convolutions.
const reach = 3

// Rows of a band of an image of the width w, 0 where everything runs whole.
func (t Tiling) Rows(w int) int {
	if t.Pixels == 0 {
		return 0
	}
	return max(t.Pixels/w, reach)
}

// moments are those of the whole image. Those of bands are merged in their order, in float64, by the rule of Chan, Golub
// and LeVeque (1983): exact but for rounding.
func (x *image) moments(t Tiling) *tensor.Tensor {
	if x.whole != nil {
		return x.whole.Moments()
	}
	mean, dev, pixels := make([]float64, x.c), make([]float64, x.c), 0.0
	x.bands(t, func(_ int, band *tensor.Tensor) {
		m, err := band.Moments().Floats()
		if err != nil {
			tensor.FailWith("nn.Tiling", err, "moments of %v", band)
		}
		n := float64(band.H() * band.W())
		all := pixels + n
		for c := range mean {
			delta := float64(m[c]) - mean[c]
			mean[c] += delta * n / all
			dev[c] += float64(m[x.c+c]) + delta*delta*pixels*n/all
		}
		pixels = all
	})
	both := make([]float32, 2*x.c)
	for c := range mean {
		both[c], both[x.c+c] = float32(mean[c]), float32(dev[c])
	}
	return x.d.From(both, 1, 1, 2, x.c)
}

// store makes the image exist, in place of into if that is given: of the same shape and type, and what the image is made of. A band
// is written when the next one has been computed, which is soon enough because bands are not smaller than their reach.
func (x *image) store(t Tiling, into *tensor.Tensor) *tensor.Tensor {
	if into == nil {
		out := x.d.NewOf(x.kind, 1, x.h, x.w, x.c)
		x.bands(t, func(from int, band *tensor.Tensor) { out.SetRows(0, from, band) })
		return out
	}
	held, first, count := x.d.NewOf(x.kind, 1, min(t.Rows(x.w), x.h), x.w, x.c), 0, 0
	write := func() { into.SetRows(0, first, held.Rows(0, 0, count)) }
	x.bands(t, func(from int, band *tensor.Tensor) {
		if count > 0 {
			write()
		}
		held.SetRows(0, 0, band)
		first, count = from, band.H()
	})
	write()
	return into
}

// conv is the convolution of an image. in says what happens to x on the way, e what is added, for bands of rows that it
// is given; both may make tensors. The result is F32 where full is set.
func (x *image) conv(k *tensor.Kernel, in tensor.Input, full bool, e func(from, to int) tensor.Epilogue) *image {
	w := k.Shape()
	out := &image{d: x.d, h: w.OutSize(in.Sampling.Size(x.h)), w: w.OutSize(in.Sampling.Size(x.w)), c: w.Out, kind: w.Type}
	if full {
		out.kind = kernels.F32
	}
	out.rows = func(from, to int) (band *tensor.Tensor) {
		defer x.d.Tidy(&band)()
		// Rows [top, bottom) of the result are computed from the rows [first, end). The convolution takes what lies beyond
		// them for zeros, which is right at the image's own borders only: elsewhere rows at the ends are thrown away.
		top, bottom := max(from-w.Pad, 0), min(to+w.Pad, out.h)
		first, end := top*w.Stride, min(bottom*w.Stride+w.PadEnd, x.h)
		if in.Sampling == kernels.Up2 {
			first, end = top/2, (bottom+1)/2
			top, bottom = 2*first, 2*end
		}
		in := in
		in.X = x.rows(first, end)
		epilogue := e(top, bottom)
		epilogue.Full = full
		return x.d.Conv2D(k, in, epilogue).Rows(0, from-top, to-top)
	}
	return out
}

// plain is an epilogue that adds nothing.
func plain(int, int) tensor.Epilogue { return tensor.Epilogue{} }

// normalised is GN and SiLU of an image.
func (g groupNorm) normalised(x *image, t Tiling) tensor.Input {
	return tensor.Input{Affine: x.d.Affine(x.moments(t), x.h*x.w, g.gamma, g.beta, g.groups, g.eps)}.SiLU()
}

func (c *conv) over(x *image, t Tiling) *image {
	in := tensor.Input{}
	if c.norm != nil {
		in = c.norm.normalised(x, t)
	}
	return x.conv(c.kernel, in, c.last, plain)
}

// over computes the first convolution twice: for the second norm's statistics, and for the second convolution.
func (b *resnet) over(x *image, t Tiling) *image {
	h := x.conv(b.conv1, b.norm1.normalised(x, t), false, plain)
	return h.conv(b.conv2, b.norm2.normalised(h, t), false, func(from, to int) tensor.Epilogue {
		if b.skip != nil {
			return tensor.Epilogue{Shortcut: &tensor.Shortcut{Kernel: b.skip, X: x.rows(from, to)}}
		}
		return tensor.Epilogue{Residual: x.rows(from, to)}
	})
}

func (r *resample) over(x *image, _ Tiling) *image {
	in := tensor.Input{}
	switch {
	case r.up:
		in.Sampling = kernels.Up2
	case r.conv == nil:
		in.Sampling = kernels.Down2
	}
	if r.conv != nil {
		return x.conv(r.conv, in, false, plain)
	}
	s := in.Sampling
	return &image{d: x.d, h: s.Size(x.h), w: s.Size(x.w), c: x.c, kind: x.kind, rows: func(from, to int) (band *tensor.Tensor) {
		defer x.d.Tidy(&band)()
		if r.up {
			return x.rows(from/2, (to+1)/2).Resample(s).Rows(0, from%2, from%2+to-from)
		}
		return x.rows(2*from, 2*to).Resample(s)
	}}
}

func (c *tinyConv) over(x *image, _ Tiling) *image {
	return x.conv(c.kernel, c.input(x.d, 1, x.c), c.last, func(int, int) tensor.Epilogue { return c.epilogue() })
}

func (b *tinyBlock) over(x *image, _ Tiling) *image {
	relu := func(int, int) tensor.Epilogue { return tensor.Epilogue{ReLU: true} }
	h := x.conv(b[0], tensor.Input{}, false, relu).conv(b[1], tensor.Input{}, false, relu)
	return h.conv(b[2], tensor.Input{}, false, func(from, to int) tensor.Epilogue {
		return tensor.Epilogue{Residual: x.rows(from, to), ReLU: true}
	})
}

// tiled is forward with bounded memory, image by image.
func (c chain) tiled(x *tensor.Tensor, t Tiling, trace func(string, *tensor.Tensor)) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	if x.N() == 1 {
		return c.tiledImage(x, t, trace)
	}
	for n := range x.N() {
		one := c.tiledImage(x.Rows(n, 0, x.H()), t, trace)
		if out == nil {
			out = d.NewOf(one.Type(), x.N(), one.H(), one.W(), one.C())
		}
		out.SetRows(n, 0, one)
		one.Free()
	}
	return out
}

func (c chain) tiledImage(x *tensor.Tensor, t Tiling, trace func(string, *tensor.Tensor)) (out *tensor.Tensor) {
	defer x.Device().Tidy(&out)()
	h := x
	for i := 0; i < len(c); i++ {
		next := (*tensor.Tensor)(nil)
		pixels := h.H() * h.W() // of the larger of input and output
		if r, ok := c[i].layer.(*resample); ok && r.up {
			pixels *= 4
		}
		if l, ok := c[i].layer.(local); ok && pixels > t.Pixels {
			next, i = c.runBands(i, l, h, h != x, t)
		} else {
			next = c[i].layer.forward(h)
		}
		if h != x && next != h {
			h.Free()
		}
		h = next
		if trace != nil {
			trace(c[i].name, h)
		}
	}
	return h
}

// runBands runs layer i over h, which it may overwrite if that is owned, or with it the one behind. It returns the number
// of the last one that was run.
func (c chain) runBands(i int, l local, h *tensor.Tensor, owned bool, t Tiling) (out *tensor.Tensor, last int) {
	defer h.Device().Tidy(&out)()
	y := l.over(existing(h), t)
	if r, ok := l.(*resample); ok && r.up && t.Lean && i+1 < len(c) {
		if n, ok := c[i+1].layer.(local); ok {
			i++
			y = n.over(y, t)
		}
	}
	if owned && h.Shape() == [4]int{1, y.h, y.w, y.c} && h.Type() == y.kind {
		return y.store(t, h), i
	}
	return y.store(t, nil), i
}
