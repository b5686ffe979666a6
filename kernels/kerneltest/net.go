package kerneltest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/spin-native/spin/kernels"
)

// convCase is one convolution; the zero values of the options are the plain case.
type convCase struct {
	n, h, w, cin, cout, size, stride int
	skip                             int // channels of a second source, part of cin
	affine, bias, embed, residual    bool
	oneEmbed                         bool // one embedding for all images
	shortcut                         int  // channels of the shortcut, in place of the residual; the second source has a third of them
	act                              kernels.Activation
	sampling, rsampling              kernels.Sampling
	moments, relu                    bool
	rightBottom                      bool    // padding at the end only, as first stages pad where they halve
	mean                             float64 // of the inputs
}

// convCases are the shapes of the photo prior and of the guided-diffusion models at full width and a few rows, then
// shapes that meet every edge of a kernel: sizes below and just beside a tile, a vector and a panel.
var convCases = []convCase{
	{n: 1, h: 12, w: 256, cin: 3, cout: 32, size: 3, moments: true, bias: true},
	{n: 1, h: 12, w: 256, cin: 32, cout: 32, size: 3, affine: true, act: kernels.SiLU, bias: true, residual: true, moments: true},
	{n: 1, h: 12, w: 256, cin: 64, skip: 32, cout: 32, size: 3, affine: true, act: kernels.SiLU, bias: true, embed: true, moments: true},
	{n: 1, h: 12, w: 256, cin: 64, skip: 32, cout: 32, size: 1, bias: true},
	{n: 1, h: 12, w: 256, cin: 32, cout: 3, size: 3, affine: true, act: kernels.SiLU, bias: true},
	{n: 1, h: 12, w: 256, cin: 32, cout: 6, size: 3, affine: true, act: kernels.SiLU, bias: true},
	{n: 1, h: 32, w: 32, cin: 128, cout: 128, size: 3, affine: true, act: kernels.SiLU, bias: true, residual: true, moments: true},
	{n: 1, h: 32, w: 32, cin: 128, cout: 384, size: 1, affine: true, bias: true},
	{n: 1, h: 16, w: 16, cin: 256, cout: 128, size: 3, affine: true, act: kernels.SiLU, bias: true, sampling: kernels.Up2, moments: true},
	{n: 1, h: 32, w: 64, cin: 64, cout: 64, size: 3, affine: true, act: kernels.SiLU, bias: true, sampling: kernels.Down2, moments: true},
	{n: 1, h: 16, w: 16, cin: 64, cout: 64, size: 3, bias: true, residual: true, rsampling: kernels.Up2},
	{n: 1, h: 12, w: 256, cin: 32, cout: 32, size: 3, affine: true, act: kernels.SiLU, bias: true, shortcut: 96, moments: true},
	{n: 1, h: 8, w: 8, cin: 256, cout: 256, size: 3, affine: true, act: kernels.SiLU, bias: true, shortcut: 384, moments: true},
	{n: 2, h: 64, w: 64, cin: 32, cout: 32, size: 3, affine: true, act: kernels.SiLU, sampling: kernels.Up2, moments: true, mean: 10},
	{n: 1, h: 64, w: 48, cin: 128, cout: 3, size: 3, affine: true, act: kernels.SiLU, bias: true, moments: true},
	{n: 2, h: 9, w: 7, cin: 20, cout: 4, size: 3, bias: true, residual: true},
	{n: 1, h: 9, w: 30, cin: 40, cout: 1, size: 3, stride: 2},
	{n: 1, h: 9, w: 30, cin: 40, cout: 2, size: 5, shortcut: 12},
	{n: 1, h: 16, w: 16, cin: 64, cout: 64, size: 3, bias: true, residual: true, rsampling: kernels.Down2, moments: true},
	{n: 1, h: 8, w: 8, cin: 512, cout: 512, size: 3, affine: true, act: kernels.SiLU, bias: true, moments: true},
	{n: 3, h: 1, w: 1, cin: 128, cout: 512, size: 1, act: kernels.SiLU, bias: true},
	{n: 2, h: 22, w: 38, cin: 32, cout: 64, size: 3, stride: 2, bias: true, moments: true},
	{n: 1, h: 22, w: 64, cin: 128, cout: 128, size: 3, stride: 2, rightBottom: true, bias: true, moments: true},
	{n: 2, h: 9, w: 7, cin: 20, cout: 3, size: 3, stride: 2, rightBottom: true, bias: true},
	{n: 1, h: 5, w: 6, cin: 20, cout: 9, size: 5, rightBottom: true, sampling: kernels.Up2},
	{n: 1, h: 24, w: 32, cin: 64, cout: 64, size: 3, bias: true, residual: true, relu: true, moments: true},
	{n: 2, h: 16, w: 16, cin: 4, cout: 64, size: 3, affine: true, act: kernels.Tanh, bias: true, relu: true},
	{n: 1, h: 1, w: 1, cin: 1, cout: 1, size: 1},
	{n: 1, h: 1, w: 1, cin: 16, cout: 16, size: 3, bias: true, moments: true},
	{n: 2, h: 3, w: 5, cin: 17, cout: 19, size: 3, affine: true, act: kernels.SiLU, bias: true, moments: true},
	{n: 1, h: 7, w: 9, cin: 33, skip: 16, cout: 31, size: 3, bias: true, residual: true},
	{n: 1, h: 9, w: 4, cin: 16, cout: 129, size: 3},
	{n: 1, h: 5, w: 70, cin: 20, cout: 24, size: 3, affine: true, act: kernels.SiLU, moments: true},
	{n: 1, h: 6, w: 6, cin: 4, cout: 5, size: 5, bias: true},
	{n: 1, h: 2, w: 2, cin: 8, cout: 8, size: 3, sampling: kernels.Down2},
	{n: 1, h: 40, w: 33, cin: 16, cout: 40, size: 3, bias: true, moments: true, mean: 100},
	{n: 1, h: 64, w: 48, cin: 1, cout: 2, size: 1, bias: true, moments: true, mean: 1000},
}

func (p *pixels) convCase() convCase {
	r := p.rng
	c := convCase{n: 1 + r.IntN(3), h: 1 + r.IntN(24), w: 1 + r.IntN(40), cin: 1 + r.IntN(70), cout: 1 + r.IntN(70),
		size: 1 + 2*r.IntN(2), stride: 1, affine: r.IntN(2) == 0, bias: r.IntN(2) == 0, embed: r.IntN(2) == 0,
		residual: r.IntN(2) == 0, act: kernels.Activation(r.IntN(3)), sampling: kernels.Sampling(r.IntN(3)),
		rsampling: kernels.Sampling(r.IntN(3)), moments: r.IntN(2) == 0}
	c.oneEmbed = r.IntN(2) == 0
	if r.IntN(4) == 0 {
		c.shortcut, c.residual = 1+r.IntN(50), false
	}
	if c.cin > 1 && r.IntN(2) == 0 {
		c.skip = 1 + r.IntN(c.cin-1)
	}
	if r.IntN(4) == 0 {
		c.stride = 2
		c.rightBottom = r.IntN(2) == 0 && c.h > 1 && c.w > 1
	}
	c.relu = r.IntN(4) == 0
	if c.sampling == kernels.Down2 {
		c.h, c.w = 2*c.h, 2*c.w
	}
	return c
}

// eights makes a case one of channels in eights, three by three taps three times of four.
func (c *convCase) eights(r *rand.Rand) {
	c.n, c.h, c.w, c.cin, c.cout = 1+r.IntN(2), 1+r.IntN(12), 1+r.IntN(20), 8*(1+r.IntN(5)), 1+r.IntN(20)
	c.size, c.stride, c.rightBottom, c.skip = 3, 1, false, 8*r.IntN(c.cin/8)
	if r.IntN(4) == 0 {
		c.size = 1
	}
	if c.sampling == kernels.Down2 {
		c.sampling = kernels.Same
	}
	if c.shortcut > 0 {
		c.shortcut = 24 * (1 + r.IntN(2)) // a third of it is in eights too
	}
}

// wide makes a case one that keeps the size, three by three taps from multiples of 64 channels to multiples of 128, and of one
// image: such channels are much to compute for the reference.
func (c *convCase) wide(r *rand.Rand) {
	c.n, c.h, c.w = 1, min(c.h, 18), min(c.w, 34)
	c.size, c.stride, c.rightBottom = 3, 1, false
	c.cin, c.cout = 64*(1+r.IntN(2)), 128+128*(r.IntN(4)/3)
	if c.skip > 0 {
		c.skip = 8 * (1 + r.IntN(c.cin/8-1))
	}
	if c.shortcut > 0 {
		c.shortcut = 64 * (1 + 2*r.IntN(2)) // the second source has 21 or 64
	}
	if r.IntN(2) == 0 { // small enough for -short
		c.h, c.w, c.cin, c.cout, c.skip = 1+r.IntN(3), 1+r.IntN(21), 64, 128, min(c.skip, 56)
		if r.IntN(2) == 0 {
			c.h, c.w = c.w, c.h
		}
	}
	if c.sampling == kernels.Down2 {
		c.sampling = kernels.Up2
	}
}

// Net checks every operation of the network side of b against the reference. With -short it leaves out large shapes.
func Net(t *testing.T, b kernels.Backend) { net(t, b, kernels.F32) }

// HalfNet is Net for activations in F16, on a backend that stores it. Convolutions and attention are measured by a naive
// loop that stores what such a kernel has to store in F16 and sums in float32: twice its error is allowed, and one unit
// in the last place of F16. Moments are held to the same bound as in F32, for the values as they are stored.
func HalfNet(t *testing.T, b kernels.Backend) { net(t, b, kernels.F16) }

// HalfConv is the part of HalfNet that random convolutions are, so many of them: for a backend that is told how to compute
// them. All but every fourth are three by three or one by one with channels in eights, as those of networks are, and small
// enough for -short.
func HalfConv(t *testing.T, b kernels.Backend, random uint64) {
	convolutions(t, b, kernels.F16, uint64(len(convCases)), random, (*convCase).eights)
}

// HalfConvWide is HalfConv with multiples of 64 channels in three of four.
func HalfConvWide(t *testing.T, b kernels.Backend, random uint64) {
	convolutions(t, b, kernels.F16, uint64(len(convCases)), random, (*convCase).wide)
}

// convolutions runs the listed cases from one on, and random ones.
func convolutions(t *testing.T, b kernels.Backend, kind kernels.Type, from, random uint64, shape func(*convCase, *rand.Rand)) {
	for seed := from; seed < uint64(len(convCases))+random; seed++ {
		p := newPixels(b, 1000+seed)
		p.t, p.kind = t, kind
		var c convCase
		if seed < uint64(len(convCases)) {
			c = convCases[seed]
		} else {
			if c = p.convCase(); shape != nil && seed%4 != 0 {
				shape(&c, p.rng)
			}
		}
		if c.stride == 0 {
			c.stride = 1
		}
		if testing.Short() && c.n*c.h*c.w*c.cin*c.cout > 1<<19 {
			continue // for runs under a sanitizer
		}
		p.what = fmt.Sprintf("Conv2D, seed %d, %+v", seed, c)
		p.conv(c)
		p.free()
		if t.Failed() {
			t.Fatalf("%s: stopped at seed %d", b.Name(), seed)
		}
	}
}

func net(t *testing.T, b kernels.Backend, kind kernels.Type) {
	convolutions(t, b, kind, 0, few(40), nil)
	for seed := range few(40) {
		p := newPixels(b, 2000+seed)
		p.t, p.kind = t, kind
		for _, c := range []struct {
			name string
			run  func(*pixels)
		}{{"Attention", (*pixels).attention}, {"Moments", (*pixels).moments}, {"Norm", (*pixels).norm}, {"Resample", (*pixels).resample}, {"Nearest", (*pixels).nearest},
			{"LayerNorm", (*pixels).layerNorm}, {"GEGLU", (*pixels).geglu}} {
			p.what = fmt.Sprintf("%s, seed %d", c.name, seed)
			c.run(p)
		}
		p.free()
		if t.Failed() {
			t.Fatalf("%s: stopped at seed %d", b.Name(), seed)
		}
	}
}

func (p *pixels) normal(n int, scale, mean float64) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(mean + scale*p.rng.NormFloat64())
	}
	return s
}

// act makes a tensor of activations.
func (p *pixels) act(shape [4]int, data []float32) pair {
	p.t.Helper()
	return p.putOf(p.kind, shape, data)
}

func (p *pixels) randomAct(shape [4]int) pair {
	p.t.Helper()
	return p.act(shape, p.normal(shape[0]*shape[1]*shape[2]*shape[3], 1, 0))
}

// conv compares with the reference in the L2 norm. The yardstick is a naive float32 loop over the same input, whose own
// error against the float64 sums of the reference is measured: a direct form may err twice as much, plus one unit for
// the epilogue; Winograd F(4x4,3x3) eight times as much (its transforms amplify rounding by about 4 to 7, by channel
// count), F(6x6,3x3) twenty times, F(4x4,2x2) six times. Rounding its factors to bfloat16 changes a product by at most
// 2^-8 of it, up or down at random. The vector exponential of SiLU and the affine add up to 6 units to
// each input value. In F16 the naive loop rounds its input, the weights and the result as well.
func (p *pixels) conv(c convCase) {
	weights := kernels.ConvWeights{Out: c.cout, In: c.cin, Size: c.size, Stride: c.stride, Pad: c.size / 2, Up: c.sampling == kernels.Up2, Type: p.kind,
		Weight: p.normal(c.cout*c.cin*c.size*c.size, 1/math.Sqrt(float64(c.cin*c.size*c.size)), 0)}
	if c.bias {
		weights.Bias = p.normal(c.cout, 1, 0)
	}
	if c.rightBottom {
		weights.Pad, weights.PadEnd = 0, c.size/2
	}
	kWant, err := p.ref.PrepareConv(weights)
	if err != nil {
		p.t.Fatalf("%s: %v", p.what, err)
	}

	oh, ow := weights.OutSize(c.sampling.Size(c.h)), weights.OutSize(c.sampling.Size(c.w))
	source, result := p.kind, p.kind
	if p.kind == kernels.F16 { // a network's first layer reads F32, its last one writes it
		source, result = kernels.Type(min(p.rng.IntN(4), 1)), kernels.Type(min(p.rng.IntN(3), 1))
	}
	src := [2]pair{p.putOf(source, [4]int{c.n, c.h, c.w, c.cin - c.skip}, p.normal(c.n*c.h*c.w*(c.cin-c.skip), 1, c.mean))}
	if c.skip > 0 {
		src[1] = p.putOf(source, [4]int{c.n, c.h, c.w, c.skip}, p.normal(c.n*c.h*c.w*c.skip, 1, c.mean))
	}
	var affine, embed, residual, moments pair
	if c.affine {
		affine = p.random([4]int{c.n, 1, 2, c.cin})
	}
	if c.embed {
		images := c.n
		if c.oneEmbed {
			images = 1
		}
		embed = p.random([4]int{images, 1, 1, c.cout})
	}
	rh, rw := oh, ow
	switch c.rsampling {
	case kernels.Up2:
		if rh, rw = oh/2, ow/2; oh%2 != 0 || ow%2 != 0 {
			c.residual = false
		}
	case kernels.Down2:
		rh, rw = 2*oh, 2*ow
	}
	if c.residual {
		residual = p.randomAct([4]int{c.n, rh, rw, c.cout})
	}
	var skip [2]pair
	var shortcut kernels.ConvWeights
	if c.shortcut > 0 {
		second := c.shortcut / 3
		skip[0] = p.randomAct([4]int{c.n, oh, ow, c.shortcut - second})
		if second > 0 {
			skip[1] = p.randomAct([4]int{c.n, oh, ow, second})
		}
		shortcut = kernels.ConvWeights{Out: c.cout, In: c.shortcut, Size: 1, Stride: 1, Type: p.kind, Bias: p.normal(c.cout, 1, 0),
			Weight: p.normal(c.cout*c.shortcut, 1/math.Sqrt(float64(c.shortcut)), 0)}
	}
	if c.moments {
		moments = p.put([4]int{c.n, 1, 2, c.cout}, nil)
	}
	dst := p.putOf(result, [4]int{c.n, oh, ow, c.cout}, nil)
	args := kernels.Conv2D{Act: c.act, ReLU: c.relu, Sampling: c.sampling, ResidualSampling: c.rsampling}
	got, want := args, args
	got.Dst, want.Dst = dst.got, dst.want
	got.Src, want.Src = [2]kernels.View{src[0].got, src[1].got}, [2]kernels.View{src[0].want, src[1].want}
	got.Affine, want.Affine = affine.got, affine.want
	got.Embed, want.Embed = embed.got, embed.want
	got.Residual, want.Residual = residual.got, residual.want
	got.Moments, want.Moments = moments.got, moments.want
	want.Kernel = kWant
	if c.shortcut > 0 {
		if got.Shortcut, err = p.b.PrepareConv(shortcut); err != nil {
			p.t.Fatalf("%s: %v", p.what, err)
		}
		want.Shortcut, _ = p.ref.PrepareConv(shortcut)
		got.Skip, want.Skip = [2]kernels.View{skip[0].got, skip[1].got}, [2]kernels.View{skip[0].want, skip[1].want}
	}
	p.ref.Conv2D(&want)
	ref := p.reference(dst.want)
	u := p.input(want, c)
	kernel := weights.Weight
	if p.kind == kernels.F16 {
		u, kernel = halves(u), halves(kernel)
	}
	base := make([]float64, len(ref))                      // what the epilogue adds
	brief := make([]float64, len(ref))                     // what rounding the shortcut's weights to F16 adds to that
	var errNaive, norm, products, shortcutProducts float64 // squares
	if residual.want.Present() {
		r := residual.want
		if c.rsampling != kernels.Same {
			r = p.put([4]int{c.n, oh, ow, c.cout}, nil).want
			p.ref.Resample(r, residual.want, c.rsampling, kernels.View{})
		}
		for i, v := range p.reference(r) {
			base[i] += float64(v)
		}
	}
	if c.shortcut > 0 {
		r := p.put([4]int{c.n, oh, ow, c.cout}, nil).want
		p.ref.Conv2D(&kernels.Conv2D{Dst: r, Src: want.Skip, Kernel: want.Shortcut})
		for i := range ref {
			for k, w := range shortcut.Weight[i%c.cout*c.shortcut:][:c.shortcut] {
				first, at := skip[0].want.C, skip[0]
				if k >= first {
					at, k = skip[1], k-first
				}
				v := at.data[i/c.cout*at.want.C+k] * w
				shortcutProducts += float64(v) * float64(v)
				if p.kind == kernels.F16 {
					brief[i] += float64(at.data[i/c.cout*at.want.C+k]) * (float64(rounded(w)) - float64(w))
				}
			}
		}
		for i, v := range p.reference(r) {
			base[i] += float64(v)
		}
	}
	uh, uw := c.sampling.Size(c.h), c.sampling.Size(c.w)
	for i := range ref {
		o, x, y, n := i%c.cout, i/c.cout%ow, i/c.cout/ow%oh, i/c.cout/ow/oh
		if c.bias {
			base[i] += float64(weights.Bias[o])
		}
		if c.embed {
			base[i] += float64(embed.data[n*c.cout%len(embed.data)+o])
		}
		var sum float32
		for ky := range c.size {
			for kx := range c.size {
				iy, ix := y*c.stride+ky-weights.Pad, x*c.stride+kx-weights.Pad
				if iy < 0 || ix < 0 || iy >= uh || ix >= uw {
					continue
				}
				for ci := range c.cin {
					product := u[((n*uh+iy)*uw+ix)*c.cin+ci] * kernel[((o*c.cin+ci)*c.size+ky)*c.size+kx]
					sum += product
					products += float64(product) * float64(product)
				}
			}
		}
		e := float64(sum) + base[i] + brief[i]
		if c.relu {
			e = max(e, 0)
		}
		if result == kernels.F16 {
			e = float64(rounded(float32(e)))
		}
		e -= float64(ref[i])
		errNaive += e * e
		norm += float64(ref[i])*float64(ref[i]) + base[i]*base[i]
	}
	units := 2.0
	if c.act != kernels.Identity || c.affine || c.sampling == kernels.Down2 {
		units += 6
	}
	forms := map[kernels.ConvForm]float64{kernels.Auto: 20, kernels.Direct: 2, kernels.Winograd2: 2,
		kernels.Winograd4: 8, kernels.Winograd6: 20, kernels.WinogradUp: 6, kernels.BFloat16: 2}
	if p.kind == kernels.F16 {
		forms = map[kernels.ConvForm]float64{kernels.Auto: 2}
	}
	if result == kernels.F16 {
		units += 2 * halfUnit / unit
	}
	what := p.what
	for form, factor := range forms {
		if form.Winograd() && (c.size != 3 || c.stride != 1 || c.rightBottom) || form == kernels.WinogradUp && !weights.Up {
			continue
		}
		p.what = fmt.Sprintf("%s, form %v", what, form)
		weights.Form = form
		if got.Kernel, err = p.b.PrepareConv(weights); err != nil {
			p.t.Fatalf("%s: %v", p.what, err)
		}
		nan := p.normal(dst.got.Len(), math.NaN(), 0) // what is not written is found
		p.b.Upload(dst.got, nan)
		p.b.Conv2D(&got)
		p.untouched(src[0], src[1], affine, embed, residual, skip[0], skip[1])
		var sum float64
		for i, v := range p.read(dst.got) {
			d := float64(v) - float64(ref[i])
			if math.IsNaN(d) {
				p.errorf("element %d is %v, the reference has %v", i, v, ref[i])
				return
			}
			sum += d * d
		}
		var bf16 float64
		if got.Kernel.Weights().Form == kernels.BFloat16 {
			bf16 += products
		}
		if c.shortcut > 0 && got.Shortcut.Weights().Form == kernels.BFloat16 {
			bf16 += shortcutProducts
		}
		if limit := factor*math.Sqrt(errNaive) + units*unit*math.Sqrt(norm) + 0x1p-8*math.Sqrt(bf16); !(math.Sqrt(sum) <= limit) {
			p.errorf("L2 error %.3g, allowed %.3g; a naive loop has %.3g, the result's norm is %.3g", math.Sqrt(sum), limit, math.Sqrt(errNaive), math.Sqrt(norm))
		}
		if c.moments {
			p.sameMoments(moments.got, dst.got)
		}
	}
}

// input is u of kernels.Conv2D in float32: what the reference makes of the input with an identity kernel.
func (p *pixels) input(a kernels.Conv2D, c convCase) []float32 {
	id := make([]float32, c.cin*c.cin)
	for i := range c.cin {
		id[i*c.cin+i] = 1
	}
	k, _ := p.ref.PrepareConv(kernels.ConvWeights{Weight: id, In: c.cin, Out: c.cin, Size: 1, Stride: 1})
	u := p.put([4]int{c.n, c.sampling.Size(c.h), c.sampling.Size(c.w), c.cin}, nil).want
	p.ref.Conv2D(&kernels.Conv2D{Dst: u, Src: a.Src, Affine: a.Affine, Act: a.Act, Sampling: a.Sampling, Kernel: k})
	return p.reference(u)
}

// sameMoments recomputes the moments of x in float64. A mean may be off by 4 units of the largest value; squared
// deviations by 64 units of themselves and by what moving every value by 2 units of the largest would do.
func (p *pixels) sameMoments(moments, x kernels.View) {
	p.t.Helper()
	m, data := p.read(moments), p.read(x)
	pixels := x.Pixels()
	for n := range x.N {
		for c := range x.C {
			var mean, m2, top float64
			for i := range pixels {
				v := float64(data[(n*pixels+i)*x.C+c])
				mean += v / float64(pixels)
				top = max(top, math.Abs(v))
			}
			for i := range pixels {
				d := float64(data[(n*pixels+i)*x.C+c]) - mean
				m2 += d * d
			}
			gotMean, gotM2 := float64(m[n*2*x.C+c]), float64(m[n*2*x.C+x.C+c])
			move, count := 2*unit*top, float64(pixels)
			slack := 64*unit*m2 + 2*math.Sqrt(m2*count)*move + count*move*move
			if !(math.Abs(gotMean-mean) <= 4*unit*top) || !(math.Abs(gotM2-m2) <= slack) {
				p.errorf("moments of image %d, channel %d are %v, %v; expected %v, %v", n, c, gotMean, gotM2, mean, m2)
				return
			}
		}
	}
}

// attention compares with the reference in the L2 norm, beside a naive float32 loop.
func (p *pixels) attention() {
	r := p.rng
	dims := []int{1, 8, 32, 64, 5, 17, 40, 512}
	if p.kind == kernels.F16 {
		dims = []int{1, 8, 32, 64, 5, 17, 40, 512, 48, 80, 96, 128, 136, 160, 256, 264}
	}
	heads, dim := 1+r.IntN(4), dims[r.IntN(len(dims))]
	if dim > 128 { // first stages
		heads = 1
	}
	n, qh, qw := 1+r.IntN(2), 1+r.IntN(12), 1+r.IntN(12)
	kh, kw := qh, qw
	legacy, cross := r.IntN(2) == 0, r.IntN(3) == 0
	spread := []float64{1, 1, 4}[r.IntN(3)]
	var q, k, v pair
	var qo, ko, vo, step int
	c := heads * dim
	if cross {
		kh, kw = 1, 1+r.IntN(300)
		if dim > 128 {
			kh, kw, qh, qw = 64, 64, min(qh, 5), min(qw, 5)
		}
		q, k, v = p.randomAct([4]int{n, qh, qw, c}), p.randomAct([4]int{n, kh, kw, c}), p.randomAct([4]int{n, kh, kw, c})
		step = dim
	} else {
		q = p.act([4]int{n, qh, qw, 3 * c}, p.normal(n*qh*qw*3*c, spread, 0))
		k, v = q, q
		if legacy {
			ko, vo, step = dim, 2*dim, 3*dim
		} else {
			ko, vo, step = c, 2*c, dim
		}
	}
	dst := p.act([4]int{n, qh, qw, c}, nil)
	scale := float32(1 / math.Sqrt(float64(dim)))
	args := func(dst, q, k, v kernels.View) *kernels.Attention {
		return &kernels.Attention{Dst: dst, Heads: heads, Dim: dim, Scale: scale, Q: kernels.Heads{View: q, First: qo, Step: step},
			K: kernels.Heads{View: k, First: ko, Step: step}, V: kernels.Heads{View: v, First: vo, Step: step}}
	}
	p.b.Attention(args(dst.got, q.got, k.got, v.got))
	p.ref.Attention(args(dst.want, q.want, k.want, v.want))
	p.untouched(q, k, v)
	out, ref := p.read(dst.got), p.reference(dst.want)
	queries, keys := qh*qw, kh*kw
	var errGot, errNaive, norm float64
	score := make([]float32, keys)
	for i := range ref {
		ch, px, img := i%c, i/c%queries, i/c/queries
		h := ch / dim
		if ch%dim == 0 { // the head's other channels have the same scores
			top := float32(math.Inf(-1))
			for j := range keys {
				var s float32
				for d := range dim {
					s += q.data[(img*queries+px)*q.got.C+qo+h*step+d] * k.data[(img*keys+j)*k.got.C+ko+h*step+d]
				}
				score[j] = s * scale
				top = max(top, score[j])
			}
			for j := range keys {
				score[j] = float32(math.Exp(float64(score[j] - top)))
			}
		}
		var total, sum float32
		for j, e := range score {
			total += e
			if p.kind == kernels.F16 {
				e = rounded(e)
			}
			sum += e * v.data[(img*keys+j)*v.got.C+vo+h*step+ch%dim]
		}
		naive := sum / total
		if p.kind == kernels.F16 {
			naive = rounded(naive)
		}
		d, e := float64(out[i])-float64(ref[i]), float64(naive)-float64(ref[i])
		if math.IsNaN(d) {
			p.errorf("element %d is %v, the reference has %v", i, out[i], ref[i])
			return
		}
		errGot, errNaive, norm = errGot+d*d, errNaive+e*e, norm+float64(ref[i])*float64(ref[i])
	}
	units := 4.0
	if p.kind == kernels.F16 {
		units = 2 * halfUnit / unit
	}
	if limit := 2*math.Sqrt(errNaive) + units*unit*math.Sqrt(norm); !(math.Sqrt(errGot) <= limit) {
		p.errorf("%d heads of %d, %d queries, %d keys: L2 error %.3g, allowed %.3g; a naive loop has %.3g", heads, dim, queries, keys, math.Sqrt(errGot), limit, math.Sqrt(errNaive))
	}
}

func (p *pixels) moments() {
	r := p.rng
	shape := [4]int{1 + r.IntN(2), 1 + r.IntN(100), 1 + r.IntN(100), 1 + r.IntN(40)}
	mean := []float64{0, 1, 100, 1e4}[r.IntN(4)]
	x := p.act(shape, p.normal(shape[0]*shape[1]*shape[2]*shape[3], 1, mean))
	dst := p.put([4]int{shape[0], 1, 2, shape[3]}, nil)
	p.b.Moments(dst.got, x.got)
	p.untouched(x)
	p.sameMoments(dst.got, x.got)
}

// norm has few operations per value; the reference's are in float64.
func (p *pixels) norm() {
	r := p.rng
	groups, width, n := 1+r.IntN(32), 1+r.IntN(6), 1+r.IntN(3)
	c := groups * width
	c1 := 0
	if c > 1 && r.IntN(2) == 0 {
		c1 = 1 + r.IntN(c-1)
	}
	pixels := 1 + r.IntN(1000)
	make1 := func(c int) pair {
		data := make([]float32, 0, n*2*c)
		for range n {
			data = append(data, p.normal(c, 1, 0)...)
			for range c {
				data = append(data, float32(float64(pixels)*(0.5+r.Float64())))
			}
		}
		return p.put([4]int{n, 1, 2, c}, data)
	}
	m := [2]pair{make1(c - c1)}
	if c1 > 0 {
		m[1] = make1(c1)
	}
	gamma, beta, mod := p.random([4]int{1, 1, 1, c}), p.random([4]int{1, 1, 1, c}), p.maybe([4]int{n, 1, 1, 2 * c})
	dst := p.put([4]int{n, 1, 2, c}, nil)
	args := kernels.Norm{Pixels: pixels, Groups: groups, Eps: 1e-5}
	got, want := args, args
	got.Dst, got.Moments, got.Gamma, got.Beta, got.Modulate = dst.got, [2]kernels.View{m[0].got, m[1].got}, gamma.got, beta.got, mod.got
	want.Dst, want.Moments, want.Gamma, want.Beta, want.Modulate = dst.want, [2]kernels.View{m[0].want, m[1].want}, gamma.want, beta.want, mod.want
	p.b.Norm(&got)
	p.ref.Norm(&want)
	ref := p.reference(dst.want)
	p.near(dst.got, dst.want, func(i int) float64 { return 16 * unit * (math.Abs(float64(ref[i])) + 4) })
}

// layerNorm: a naive loop rounds its sum of c squares c times, vectors have a quarter of that or less, and the root
// halves what is left; deviations from a mean that is itself rounded count as small.
func (p *pixels) layerNorm() {
	r := p.rng
	shape := [4]int{1 + r.IntN(2), 1 + r.IntN(12), 1 + r.IntN(30), []int{1, 3, 16, 40, 67, 320, 1 + r.IntN(100)}[r.IntN(7)]}
	mean := []float64{0, 1, 100}[r.IntN(3)]
	c := shape[3]
	src := p.act(shape, p.normal(shape[0]*shape[1]*shape[2]*c, 1, mean))
	gamma, beta := p.random([4]int{1, 1, 1, c}), p.random([4]int{1, 1, 1, c})
	dst := p.act(shape, nil)
	p.b.LayerNorm(&kernels.LayerNorm{Dst: dst.got, Src: src.got, Gamma: gamma.got, Beta: beta.got, Eps: 1e-5})
	p.ref.LayerNorm(&kernels.LayerNorm{Dst: dst.want, Src: src.want, Gamma: gamma.want, Beta: beta.want, Eps: 1e-5})
	p.untouched(src, gamma, beta)
	ref := p.reference(dst.want)
	p.near(dst.got, dst.want, func(i int) float64 {
		g, b := math.Abs(float64(gamma.data[i%c])), math.Abs(float64(beta.data[i%c]))
		return (8 + float64(c)/8) * unit * (math.Abs(float64(ref[i])) + g + 2*b)
	})
}

// geglu: rounding b^2/2 by one unit moves the exponential by that many units; the polynomial, the quotient, the
// exponential and the products have about 12 more. Below the smallest normal number nothing is promised.
func (p *pixels) geglu() {
	r := p.rng
	shape := [4]int{1 + r.IntN(2), 1 + r.IntN(12), 1 + r.IntN(30), 1 + r.IntN(70)}
	n, c := shape[0]*shape[1]*shape[2], shape[3]
	src := p.act([4]int{shape[0], shape[1], shape[2], 2 * c}, p.normal(2*n*c, []float64{0.1, 1, 4, 30}[r.IntN(4)], 0))
	dst := p.act(shape, nil)
	p.b.GEGLU(dst.got, src.got)
	p.ref.GEGLU(dst.want, src.want)
	p.untouched(src)
	ref := p.reference(dst.want)
	p.near(dst.got, dst.want, func(i int) float64 {
		b := float64(src.data[i/c*2*c+c+i%c])
		return (12+b*b)*unit*math.Abs(float64(ref[i])) + 1e-33
	})
}

func (p *pixels) resample() {
	r := p.rng
	s := kernels.Sampling(r.IntN(3))
	n, h, w, c := 1+r.IntN(2), 2*(1+r.IntN(20)), 2*(1+r.IntN(20)), 1+r.IntN(40)
	src, kind := p.randomAct([4]int{n, h, w, c}), p.kind
	if s == kernels.Same {
		kind = kernels.Type(min(r.IntN(2), int(p.kind))) // a copy may be of another type
	}
	dst, moments := p.putOf(kind, [4]int{n, s.Size(h), s.Size(w), c}, nil), p.put([4]int{n, 1, 2, c}, nil)
	p.b.Resample(dst.got, src.got, s, moments.got)
	p.ref.Resample(dst.want, src.want, s, moments.want)
	p.untouched(src)
	p.near(dst.got, dst.want, func(int) float64 { return 4 * 4 * unit })
	p.sameMoments(moments.got, dst.got)
}

// nearest: the distance to the vector found is the least one up to the rounding of a sum of squares, and of code vectors
// that are alike the first is found.
func (p *pixels) nearest() {
	r := p.rng
	n, h, w, dim, count := 1+r.IntN(3), 1+r.IntN(20), 1+r.IntN(20), 1+r.IntN(9), 1+r.IntN(200)
	twin := r.IntN(2) == 0 && count > 1
	values := p.normal(dim*count, 1, 0)
	if twin { // the second half repeats the first
		count -= count % 2
		values = values[:dim*count]
		for i := range values {
			if k := i % count; k >= count/2 {
				values[i] = values[i-count/2]
			}
		}
	}
	x, codes := p.random([4]int{n, h, w, dim}), p.put([4]int{1, 1, dim, count}, values)
	dst, index := p.put([4]int{n, h, w, dim}, nil), p.put([4]int{n, h, w, 1}, nil)
	args := kernels.Nearest{Dst: dst.got, X: x.got, Codes: codes.got}
	p.b.Nearest(&args)
	alone := p.read(dst.got)
	args.Index = index.got
	p.b.Nearest(&args)
	p.untouched(x, codes)
	out, found := p.read(dst.got), p.read(index.got)
	if !slices.Equal(alone, out) {
		p.errorf("the vectors differ where no index is asked for")
	}
	for i, f := range found {
		distance := func(k int) (sum float64) {
			for c := range dim {
				d := float64(x.data[i*dim+c]) - float64(values[c*count+k])
				sum += d * d
			}
			return sum
		}
		k := int(f)
		if f != float32(k) || k < 0 || k >= count || twin && k >= count/2 {
			p.errorf("index %v of pixel %d, expected 0 to %d, and the first of equal vectors", f, i, count-1)
			return
		}
		for other := range count {
			if distance(k) > distance(other)*(1+float64(2*dim+4)*unit) {
				p.errorf("vector %d of pixel %d is at %v, but vector %d at %v", k, i, distance(k), other, distance(other))
				return
			}
		}
		for c := range dim {
			if v := x.data[i*dim+c]; out[i*dim+c] != v+(values[c*count+k]-v) {
				p.errorf("pixel %d, channel %d is %v, expected %v + (%v - %v)", i, c, out[i*dim+c], v, values[c*count+k], v)
				return
			}
		}
	}
}
