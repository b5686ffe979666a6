package tensor

import (
	"math"

	"github.com/spin-native/spin/kernels"
)

// Input is what a convolution reads: one or two tensors side by side by channel, normalised, activated and resampled on
// the way. The zero values of the fields mean 'as it is', so Input{X: x} is x itself.
type Input struct {
	X, Skip  *Tensor // Skip's channels follow X's
	Affine   *Tensor // scale and offset per image and channel, from GroupNorm
	Act      kernels.Activation
	Sampling kernels.Sampling
}

// SiLU returns the input with SiLU applied on load.
func (in Input) SiLU() Input { in.Act = kernels.SiLU; return in }

// Tanh returns the input with the hyperbolic tangent applied on load.
func (in Input) Tanh() Input { in.Act = kernels.Tanh; return in }

// Resampled returns the input read at another size.
func (in Input) Resampled(s kernels.Sampling) Input { in.Sampling = s; return in }

func (in Input) channels() int {
	c := in.X.C()
	if in.Skip != nil {
		c += in.Skip.C()
	}
	return c
}

// Epilogue is what a convolution adds to its result.
type Epilogue struct {
	Embed    *Tensor // [N or 1,1,1,Cout]
	Residual *Tensor
	Sampling kernels.Sampling // of Residual
	Shortcut *Shortcut        // in place of Residual
	ReLU     bool             // applied to the sum of all that
	Moments  bool             // gather the moments that a following GroupNorm needs
	Full     bool             // the result is F32 whatever the kernel's type, as where a network ends
}

// Shortcut is a residual that a 1x1 convolution makes on the way: Kernel * [X | Skip]. Skip may be nil.
type Shortcut struct {
	Kernel  *Kernel
	X, Skip *Tensor
}

// Kernel is a prepared convolution.
type Kernel struct {
	d *Device
	k kernels.Conv
}

// Kernel prepares the weights of a convolution.
func (d *Device) Kernel(w kernels.ConvWeights) *Kernel {
	k, err := d.b.PrepareConv(w)
	if err != nil {
		FailWith("tensor.Kernel", err, "convolution %d->%d of size %d", w.In, w.Out, w.Size)
	}
	return &Kernel{d, k}
}

// Channels are the kernel's input and output channels.
func (k *Kernel) Channels() (in, out int) {
	w := k.k.Weights()
	return w.In, w.Out
}

// Shape is what the kernel was prepared from, without the weights.
func (k *Kernel) Shape() kernels.ConvWeights { return k.k.Weights() }

// Conv2D runs a convolution; see kernels.Conv2D for the formula. The result is of the kernel's type, unless it is to be Full.
func (d *Device) Conv2D(k *Kernel, in Input, e Epilogue) *Tensor {
	const op = "tensor.Conv2D"
	w := k.k.Weights()
	if !d.reads(k.d) || e.Shortcut != nil && !d.reads(e.Shortcut.Kernel.d) {
		Fail(op, "the kernel lives on another device %s", k.d.Name())
	}
	if in.channels() != w.In {
		Fail(op, "input %v (skip %v) has %d channels, the kernel takes %d", in.X, in.Skip, in.channels(), w.In)
	}
	if in.Skip != nil && (in.Skip.N() != in.X.N() || in.Skip.H() != in.X.H() || in.Skip.W() != in.X.W()) {
		Fail(op, "skip has shape %v, expected the images of %v", in.Skip, in.X)
	}
	if in.Sampling == kernels.Down2 && (in.X.H()%2 != 0 || in.X.W()%2 != 0) {
		Fail(op, "input %v cannot be halved: height and width must be even", in.X)
	}
	n, h, wd := in.X.N(), w.OutSize(in.Sampling.Size(in.X.H())), w.OutSize(in.Sampling.Size(in.X.W()))
	if h <= 0 || wd <= 0 {
		Fail(op, "input %v is smaller than the kernel of size %d", in.X, w.Size)
	}
	if in.Affine != nil && in.Affine.Shape() != [4]int{n, 1, 2, w.In} {
		Fail(op, "normalisation has shape %v, expected [%d 1 2 %d]", in.Affine, n, w.In)
	}
	if e.Embed != nil && e.Embed.Shape() != [4]int{n, 1, 1, w.Out} && e.Embed.Shape() != [4]int{1, 1, 1, w.Out} {
		Fail(op, "embedding has shape %v, expected [%d 1 1 %d]", e.Embed, n, w.Out)
	}
	if r := e.Residual; r != nil && ([4]int{r.N(), e.Sampling.Size(r.H()), e.Sampling.Size(r.W()), r.C()} != [4]int{n, h, wd, w.Out} ||
		e.Sampling == kernels.Down2 && (r.H()%2 != 0 || r.W()%2 != 0)) {
		Fail(op, "residual of shape %v does not fit the result [%d %d %d %d]", r, n, h, wd, w.Out)
	}
	if w.Type == kernels.F32 {
		for _, t := range []*Tensor{in.X, in.Skip, e.Residual} {
			d.view(op, t)
		}
	}
	if w.Up && in.Sampling != kernels.Up2 {
		Fail(op, "the kernel was made for inputs that are enlarged")
	}
	var shortcut kernels.Conv
	var skip [2]kernels.View
	if s := e.Shortcut; s != nil {
		shortcut, skip = s.Kernel.k, [2]kernels.View{d.any(op, s.X), d.any(op, s.Skip)}
		w := shortcut.Weights()
		if w.Type != k.k.Weights().Type {
			Fail(op, "the shortcut's kernel is of type %v, the other of type %v", w.Type, k.k.Weights().Type)
		}
		if w.Type == kernels.F32 {
			d.view(op, s.X)
			d.view(op, s.Skip)
		}
		if e.Residual != nil || w.Size != 1 || w.Stride != 1 || w.Pad != 0 || w.Out != k.k.Weights().Out || skip[0].C+skip[1].C != w.In {
			Fail(op, "shortcut of size %d from %d to %d channels does not fit inputs %v, %v", w.Size, w.In, w.Out, s.X, s.Skip)
		}
		for _, v := range skip {
			if v.Present() && (v.N != n || v.H != h || v.W != wd) {
				Fail(op, "shortcut reads %d images of %d x %d, the result has %d of %d x %d", v.N, v.H, v.W, n, h, wd)
			}
		}
	}
	kind := w.Type
	if e.Full {
		kind = kernels.F32
	}
	out := d.NewOf(kind, n, h, wd, w.Out)
	if e.Moments {
		out.moments = d.New(n, 1, 2, w.Out)
	}
	d.b.Conv2D(&kernels.Conv2D{
		Dst: out.v, Src: [2]kernels.View{d.any(op, in.X), d.any(op, in.Skip)},
		Affine: d.view(op, in.Affine), Act: in.Act, Sampling: in.Sampling, Kernel: k.k,
		Embed: d.view(op, e.Embed), Residual: d.any(op, e.Residual), ResidualSampling: e.Sampling,
		Shortcut: shortcut, Skip: skip, ReLU: e.ReLU, Moments: d.view(op, out.moments),
	})
	return out
}

// Moments returns the tensor's per-channel moments, computing them where the tensor's producer did not.
func (t *Tensor) Moments() *Tensor {
	if t.moments == nil || t.moments.freed() {
		t.alive("tensor.Moments")
		t.moments = t.d.New(t.N(), 1, 2, t.C())
		t.d.b.Moments(t.moments.v, t.v)
	}
	return t.moments
}

// GroupNorm describes 'x, normalised so' for the convolution that consumes it: group normalisation over [x | skip] with
// gamma and beta [1,1,1,C], then, where modulate [N or 1,1,1,2C] = (s, b) is given, h*(1+s) + b. skip and modulate may be nil.
func (d *Device) GroupNorm(x, skip, gamma, beta *Tensor, groups int, eps float32, modulate *Tensor) Input {
	const op = "tensor.GroupNorm"
	in := Input{X: x, Skip: skip}
	c := in.channels()
	if groups <= 0 || c%groups != 0 {
		Fail(op, "%d channels do not divide into %d groups", c, groups)
	}
	if gamma.Shape() != [4]int{1, 1, 1, c} || beta.Shape() != gamma.Shape() {
		Fail(op, "gamma %v and beta %v given for %d channels", gamma, beta, c)
	}
	if modulate != nil && modulate.Shape() != [4]int{x.N(), 1, 1, 2 * c} && modulate.Shape() != [4]int{1, 1, 1, 2 * c} {
		Fail(op, "modulation has shape %v, expected [%d 1 1 %d]", modulate, x.N(), 2*c)
	}
	d.ownAny(op, x) // whose moments may have to be computed
	moments := [2]kernels.View{d.view(op, x.Moments())}
	if skip != nil {
		d.ownAny(op, skip)
		moments[1] = d.view(op, skip.Moments())
	}
	in.Affine = d.New(x.N(), 1, 2, c)
	d.b.Norm(&kernels.Norm{
		Dst: in.Affine.v, Moments: moments, Pixels: x.H() * x.W(), Groups: groups, Eps: eps,
		Gamma: d.view(op, gamma), Beta: d.view(op, beta), Modulate: d.view(op, modulate),
	})
	return in
}

// Affine is the normalisation of parts of images by the moments of the whole ones [N,1,2,C], which have so many pixels
// each: what Input.Affine takes. See GroupNorm.
func (d *Device) Affine(moments *Tensor, pixels int, gamma, beta *Tensor, groups int, eps float32) *Tensor {
	const op = "tensor.Affine"
	c := moments.C()
	if groups <= 0 || c%groups != 0 || moments.H() != 1 || moments.W() != 2 || pixels < 1 {
		Fail(op, "moments %v of %d pixels given for %d groups", moments, pixels, groups)
	}
	if gamma.Shape() != [4]int{1, 1, 1, c} || beta.Shape() != gamma.Shape() {
		Fail(op, "gamma %v and beta %v given for %d channels", gamma, beta, c)
	}
	out := d.New(moments.N(), 1, 2, c)
	d.b.Norm(&kernels.Norm{
		Dst: out.v, Moments: [2]kernels.View{d.view(op, moments)}, Pixels: pixels, Groups: groups, Eps: eps,
		Gamma: d.view(op, gamma), Beta: d.view(op, beta),
	})
	return out
}

// Heads says where the heads of a query, key or value lie inside a tensor's channels.
type Heads struct {
	X           *Tensor
	First, Step int
}

// Attention runs multi-head attention over the pixels of q (queries) and of k and v; see kernels.Attention. All are of one
// type.
func (d *Device) Attention(q, k, v Heads, heads, dim int, scale float32) *Tensor {
	const op = "tensor.Attention"
	for _, h := range []Heads{q, k, v} {
		if h.First < 0 || h.Step < 0 || h.First+(heads-1)*h.Step+dim > h.X.C() {
			Fail(op, "%d heads of %d channels do not lie inside %v (first %d, step %d)", heads, dim, h.X, h.First, h.Step)
		}
	}
	if k.X.N() != q.X.N() || v.X.N() != q.X.N() || k.X.H()*k.X.W() != v.X.H()*v.X.W() {
		Fail(op, "query %v, key %v and value %v do not fit together", q.X, k.X, v.X)
	}
	if k.X.Type() != q.X.Type() || v.X.Type() != q.X.Type() {
		Fail(op, "query, key and value are of types %v, %v and %v, expected one", q.X.Type(), k.X.Type(), v.X.Type())
	}
	if most := max(q.X.H()*q.X.W(), k.X.H()*k.X.W()); most > math.MaxInt32 {
		Fail(op, "%d pixels, at most %d are possible", most, math.MaxInt32)
	}
	out := d.NewOf(q.X.Type(), q.X.N(), q.X.H(), q.X.W(), heads*dim)
	view := func(h Heads) kernels.Heads { return kernels.Heads{View: d.any(op, h.X), First: h.First, Step: h.Step} }
	d.b.Attention(&kernels.Attention{Dst: out.v, Q: view(q), K: view(k), V: view(v), Heads: heads, Dim: dim, Scale: scale})
	return out
}

// LayerNorm normalises every pixel of t over its channels, with gamma and beta [1,1,1,C]; see kernels.LayerNorm.
func (t *Tensor) LayerNorm(gamma, beta *Tensor, eps float32) *Tensor {
	const op = "tensor.LayerNorm"
	if want := [4]int{1, 1, 1, t.C()}; gamma.Shape() != want || beta.Shape() != want {
		Fail(op, "gamma %v and beta %v given for %d channels", gamma, beta, t.C())
	}
	src := t.d.any(op, t)
	out := t.d.NewOf(t.Type(), t.N(), t.H(), t.W(), t.C())
	t.d.b.LayerNorm(&kernels.LayerNorm{Dst: out.v, Src: src, Gamma: t.d.view(op, gamma), Beta: t.d.view(op, beta), Eps: eps})
	return out
}

// GEGLU gates the first half of t's channels by the GELU of the second (Shazeer, arXiv 2002.05202): [N,H,W,2C] to
// [N,H,W,C].
func (t *Tensor) GEGLU() *Tensor {
	const op = "tensor.GEGLU"
	if t.C()%2 != 0 {
		Fail(op, "%v has an odd number of channels: expected values and as many gates", t)
	}
	src := t.d.any(op, t)
	out := t.d.NewOf(t.Type(), t.N(), t.H(), t.W(), t.C()/2)
	t.d.b.GEGLU(out.v, src)
	return out
}

// Resample returns the tensor at twice (nearest) or half (2x2 mean) its size, with its moments.
func (t *Tensor) Resample(s kernels.Sampling) *Tensor {
	const op = "tensor.Resample"
	if s == kernels.Down2 && (t.H()%2 != 0 || t.W()%2 != 0) {
		Fail(op, "%v cannot be halved: height and width must be even", t)
	}
	out := t.d.NewOf(t.Type(), t.N(), s.Size(t.H()), s.Size(t.W()), t.C())
	out.moments = t.d.New(t.N(), 1, 2, t.C())
	t.d.b.Resample(out.v, t.d.any(op, t), s, out.moments.v)
	return out
}

// Nearest finds for every pixel of x [N,H,W,D] the code vector at the least distance among codes [1,1,D,K], whose columns
// they are: out [N,H,W,D] is that vector, index [N,H,W,1] its number. See kernels.Nearest.
func (d *Device) Nearest(x, codes *Tensor) (out, index *Tensor) {
	const op = "tensor.Nearest"
	if codes.N() != 1 || codes.H() != 1 || codes.W() != x.C() {
		Fail(op, "code vectors of shape %v do not fit pixels of %v, expected [1 1 %d K]", codes, x, x.C())
	}
	out, index = d.New(x.N(), x.H(), x.W(), x.C()), d.New(x.N(), x.H(), x.W(), 1)
	d.b.Nearest(&kernels.Nearest{Dst: out.v, Index: index.v, X: d.view(op, x), Codes: d.view(op, codes)})
	return out, index
}
