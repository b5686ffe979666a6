package tensor

import "github.com/spin-native/spin/kernels"

// The pixel-space operations. Each takes its destination; where that is nil a new tensor is made. All return it.

// Term is one summand of Blend: C * Num/Den * X. Num and Den are optional [N,1,1,1] tensors, read on the device.
type Term struct {
	X        *Tensor
	C        float64
	Num, Den *Tensor
}

// Blend is a masked sum of up to four terms; see kernels.Blend.
type Blend struct {
	Terms []Term
	Clip  bool    // to [-1, 1]
	Mask  *Tensor // optional [N or 1,H,W,1 or C]: where it is zero, Else is taken
	Else  *Tensor // optional; absent means 0
	Products
}

// Products are sums that an operation makes along with its result, into Sums [N,1,1,1 to 3]: of the result, and of the one or two
// With, each times Of, which is the result itself where it is nil. See kernels.Products.
type Products struct {
	Sums, Of *Tensor // nil Sums: none are wanted
	With     [2]*Tensor
}

func (d *Device) products(op string, dst *Tensor, p Products) (k kernels.Products) {
	if p.Sums == nil {
		return k
	}
	if p.Of == nil {
		p.Of = dst
	}
	sameShape(op, dst, p.Of, "factor of products")
	k.Of = d.view(op, p.Of)
	count := 1
	for i, w := range p.With {
		if w == nil {
			continue
		}
		if i != count-1 || w == dst {
			Fail(op, "the second operand of products is there without the first, or an operand is the result")
		}
		sameShape(op, dst, w, "operand of products")
		k.With[i] = d.view(op, w)
		count++
	}
	if want := [4]int{dst.N(), 1, 1, count}; p.Sums.Shape() != want {
		Fail(op, "sums of products have shape %v, expected %v", p.Sums, want)
	}
	k.Sums = d.own(op, p.Sums)
	return k
}

// Blend evaluates b into dst. The result has the shape of dst, or of the first term where dst is nil.
func (d *Device) Blend(dst *Tensor, b Blend) *Tensor {
	const op = "tensor.Blend"
	if len(b.Terms) == 0 || len(b.Terms) > 4 {
		Fail(op, "%d terms given, expected 1 to 4", len(b.Terms))
	}
	if dst == nil {
		x := b.Terms[0].X
		dst = d.New(x.N(), x.H(), x.W(), x.C())
	}
	k := kernels.Blend{Dst: d.own(op, dst), Clip: b.Clip, Mask: d.view(op, b.Mask), Else: d.view(op, b.Else)}
	k.Terms = make([]kernels.Term, len(b.Terms))
	for i, t := range b.Terms {
		d.repeats(op, dst, t.X, "term")
		d.scalars(op, dst, t.Num)
		d.scalars(op, dst, t.Den)
		if (t.Num == nil) != (t.Den == nil) {
			Fail(op, "a term has only one of numerator and denominator")
		}
		k.Terms[i] = kernels.Term{X: d.view(op, t.X), C: float32(t.C), Num: d.view(op, t.Num), Den: d.view(op, t.Den)}
	}
	if b.Mask != nil {
		d.repeats(op, dst, b.Mask, "mask")
	}
	if b.Else != nil {
		sameShape(op, dst, b.Else, "else")
	}
	k.Products = d.products(op, dst, b.Products)
	d.b.Blend(&k)
	return dst
}

func (d *Device) repeats(op string, dst, x *Tensor, what string) {
	if (x.N() != dst.N() && x.N() != 1) || x.H() != dst.H() || x.W() != dst.W() || (x.C() != dst.C() && x.C() != 1) {
		Fail(op, "%s of shape %v cannot be repeated to %v", what, x, dst)
	}
}

func (d *Device) scalars(op string, dst, x *Tensor) {
	if x != nil && x.Shape() != [4]int{dst.N(), 1, 1, 1} {
		Fail(op, "per-image scalars have shape %v, expected [%d 1 1 1]", x, dst.N())
	}
}

// Dot returns the sum of a*b for each image, [N,1,1,1].
func (d *Device) Dot(dst, a, b *Tensor) *Tensor {
	const op = "tensor.Dot"
	sameShape(op, a, b, "second operand")
	if dst == nil {
		dst = d.New(a.N(), 1, 1, 1)
	}
	d.scalars(op, a, dst)
	d.b.Dot(d.own(op, dst), d.view(op, a), d.view(op, b))
	return dst
}

// Matrix is a banded matrix on the device, for Separable.
type Matrix struct {
	d          *Device
	m          kernels.PreparedMatrix
	Rows, Cols int
}

// Matrix readies a banded matrix.
func (d *Device) Matrix(m kernels.Matrix) *Matrix {
	p, err := d.b.PrepareMatrix(m)
	if err != nil {
		FailWith("tensor.Matrix", err, "%d x %d matrix", m.Rows, m.Cols)
	}
	return &Matrix{d, p, m.Rows, m.Cols}
}

// Separable describes Alpha * (H x W^T, divided where spectra are given) + Beta * Add; see kernels.Separable.
type Separable struct {
	H, W                     *Matrix
	RowSpectrum, ColSpectrum *Tensor
	Rho                      float64
	Alpha                    float64
	Add                      *Tensor
	Beta                     float64
	Products
}

// Separable evaluates s on src into dst.
func (d *Device) Separable(dst, src *Tensor, s Separable) *Tensor {
	const op = "tensor.Separable"
	if s.H.d != d || s.W.d != d {
		Fail(op, "matrices of another device")
	}
	if src.H() != s.H.Cols || src.W() != s.W.Cols {
		Fail(op, "input %v does not fit the matrices %dx%d and %dx%d", src, s.H.Rows, s.H.Cols, s.W.Rows, s.W.Cols)
	}
	if dst == nil {
		dst = d.New(src.N(), s.H.Rows, s.W.Rows, src.C())
	}
	if want := [4]int{src.N(), s.H.Rows, s.W.Rows, src.C()}; dst.Shape() != want {
		Fail(op, "destination has shape %v, expected %v", dst, want)
	}
	if s.Add != nil {
		sameShape(op, dst, s.Add, "addend")
	}
	if (s.RowSpectrum == nil) != (s.ColSpectrum == nil) || s.RowSpectrum != nil && (s.RowSpectrum.Len() != s.H.Rows || s.ColSpectrum.Len() != s.W.Rows) {
		Fail(op, "spectra %v and %v do not fit the result %v", s.RowSpectrum, s.ColSpectrum, dst)
	}
	d.b.Separable(&kernels.Separable{
		Dst: d.own(op, dst), Src: d.view(op, src), H: s.H.m, W: s.W.m,
		RowSpectrum: d.view(op, s.RowSpectrum), ColSpectrum: d.view(op, s.ColSpectrum),
		Rho: float32(s.Rho), Alpha: float32(s.Alpha), Add: d.view(op, s.Add), Beta: float32(s.Beta),
		Products: d.products(op, dst, s.Products),
	})
	return dst
}

// FilterKernel is a two-dimensional filter on the device.
type FilterKernel struct {
	d    *Device
	k    kernels.PreparedFilter
	H, W int
}

// FilterKernel readies an odd-sized filter.
func (d *Device) FilterKernel(w kernels.FilterWeights) *FilterKernel {
	k, err := d.b.PrepareFilter(w)
	if err != nil {
		FailWith("tensor.FilterKernel", err, "filter of %d x %d", w.H, w.W)
	}
	return &FilterKernel{d, k, w.H, w.W}
}

// Filter describes Alpha * K x + Beta * Add, or with the transpose of K; see kernels.Filter.
type Filter struct {
	Kernel  *FilterKernel
	Adjoint bool
	Alpha   float64
	Add     *Tensor
	Beta    float64
	Products
}

// Filter evaluates f on src into dst.
func (d *Device) Filter(dst, src *Tensor, f Filter) *Tensor {
	const op = "tensor.Filter"
	if f.Kernel.d != d {
		Fail(op, "filter of another device")
	}
	if dst == nil {
		dst = d.New(src.N(), src.H(), src.W(), src.C())
	}
	sameShape(op, src, dst, "destination")
	if f.Add != nil {
		sameShape(op, dst, f.Add, "addend")
	}
	if dst == src {
		Fail(op, "destination and source are the same tensor")
	}
	d.b.Filter(&kernels.Filter{
		Dst: d.own(op, dst), Src: d.view(op, src), Kernel: f.Kernel.k, Adjoint: f.Adjoint,
		Alpha: float32(f.Alpha), Add: d.view(op, f.Add), Beta: float32(f.Beta), Products: d.products(op, dst, f.Products),
	})
	return dst
}

// Deconvolve divides src by the squared spectrum of a kernel plus rho, without borders or with such that fade out over a number
// of pixels, into dst, which may be src; see kernels.Deconvolve.
func (d *Device) Deconvolve(dst, src *Tensor, k *FilterKernel, rho float64, fade int) *Tensor {
	const op = "tensor.Deconvolve"
	if k.d != d {
		Fail(op, "filter of another device")
	}
	if !(float32(rho) > 0) {
		Fail(op, "weight %v, expected a positive number", rho)
	}
	if fade < 0 {
		Fail(op, "fading over %d pixels, expected 0 or more", fade)
	}
	if dst == nil {
		dst = d.New(src.N(), src.H(), src.W(), src.C())
	}
	sameShape(op, src, dst, "destination")
	d.b.Deconvolve(&kernels.Deconvolve{Dst: d.own(op, dst), Src: d.view(op, src), Kernel: k.k, Rho: float32(rho), Fade: fade})
	return dst
}

// Fourier is the unitary two-dimensional Fourier transform of complex images, or its inverse, into dst, which may be src;
// see kernels.Fourier.
func (d *Device) Fourier(dst, src *Tensor, inverse bool) *Tensor {
	const op = "tensor.Fourier"
	if src.C()%2 != 0 {
		Fail(op, "%v has %d channels, expected pairs of real and imaginary part", src, src.C())
	}
	if dst == nil {
		dst = d.New(src.N(), src.H(), src.W(), src.C())
	}
	sameShape(op, src, dst, "destination")
	d.b.Fourier(&kernels.Fourier{Dst: d.own(op, dst), Src: d.view(op, src), Inverse: inverse})
	return dst
}

// Sparse is a sparse matrix on the device.
type Sparse struct {
	d          *Device
	m          kernels.PreparedSparse
	Rows, Cols int
}

// Sparse readies a sparse matrix over the pixels of an image.
func (d *Device) Sparse(m kernels.SparseMatrix) *Sparse {
	p, err := d.b.PrepareSparse(m)
	if err != nil {
		FailWith("tensor.Sparse", err, "%d x %d matrix", m.Rows, m.Cols)
	}
	return &Sparse{d, p, m.Rows, m.Cols}
}

// Free gives the matrix's memory back to the device.
func (s *Sparse) Free() { s.m.Free() }

// Product describes Alpha * M x + Beta * Add for a sparse matrix M, or its transpose; see kernels.Sparse.
type Product struct {
	M       *Sparse
	Adjoint bool
	Alpha   float64
	Add     *Tensor
	Beta    float64
	Products
}

// Product evaluates p on src into dst, whose height and width are its own: only the number of pixels must be that of the
// matrix. Where dst is nil the result has one row of pixels.
func (d *Device) Product(dst, src *Tensor, p Product) *Tensor {
	const op = "tensor.Product"
	if p.M.d != d {
		Fail(op, "matrix of another device")
	}
	rows, cols := p.M.Rows, p.M.Cols
	if p.Adjoint {
		rows, cols = cols, rows
	}
	if src.H()*src.W() != cols {
		Fail(op, "input %v has %d pixels, expected %d", src, src.H()*src.W(), cols)
	}
	if dst == nil {
		dst = d.New(src.N(), 1, rows, src.C())
	}
	if dst.N() != src.N() || dst.C() != src.C() || dst.H()*dst.W() != rows {
		Fail(op, "destination has shape %v, expected %d images of %d pixels with %d channels", dst, src.N(), rows, src.C())
	}
	if p.Add != nil {
		sameShape(op, dst, p.Add, "addend")
	}
	if dst == src {
		Fail(op, "destination and source are the same tensor")
	}
	d.b.Sparse(&kernels.Sparse{
		Dst: d.own(op, dst), Src: d.view(op, src), M: p.M.m, Adjoint: p.Adjoint,
		Alpha: float32(p.Alpha), Add: d.view(op, p.Add), Beta: float32(p.Beta), Products: d.products(op, dst, p.Products),
	})
	return dst
}

// Pointwise evaluates one of the formulas of kernels.PointOp, with the parameters lo and hi that it calls P and Q, into dst.
// b is nil for formulas of one operand.
func (d *Device) Pointwise(dst *Tensor, f kernels.PointOp, a, b *Tensor, lo, hi float64) *Tensor {
	const op = "tensor.Pointwise"
	if f < kernels.PointMul || f > kernels.PointPhase {
		Fail(op, "formula %d, there are %d", f, kernels.PointPhase+1)
	}
	complexA, complexDst, needsB := f.Operands()
	numbers := a.Shape() // the shape of real operands
	if complexA {
		if numbers[3]%2 != 0 {
			Fail(op, "%v has %d channels, expected pairs of real and imaginary part", a, a.C())
		}
		numbers[3] /= 2
	}
	want := numbers
	if complexDst {
		want[3] *= 2
	}
	if needsB && b == nil {
		Fail(op, "the second operand is missing")
	}
	if !needsB && b != nil && f != kernels.PointComplex {
		Fail(op, "a second operand of shape %v, expected none", b)
	}
	if (f == kernels.PointRound || f == kernels.PointPhase) && !(float32(lo) > 0) {
		Fail(op, "parameter %v, expected a positive number", lo)
	}
	if f == kernels.PointPower && !(lo >= 0) {
		Fail(op, "parameter %v, expected 0 or a positive number", lo)
	}
	if b != nil && (b.N() != numbers[0] && b.N() != 1 || b.H() != numbers[1] || b.W() != numbers[2] || b.C() != numbers[3] && b.C() != 1) {
		Fail(op, "second operand of shape %v cannot be repeated to %v", b, numbers)
	}
	if dst == nil {
		dst = d.New(want[0], want[1], want[2], want[3])
	}
	if dst.Shape() != want {
		Fail(op, "destination has shape %v, expected %v", dst, want)
	}
	d.b.Pointwise(&kernels.Pointwise{Op: f, Dst: d.own(op, dst), A: d.view(op, a), B: d.view(op, b), P: float32(lo), Q: float32(hi)})
	return dst
}

// Conjugate is a step of conjugate gradients; see kernels.Conjugate. Before is nil at the first step.
type Conjugate struct {
	X, R, P, S, Z, W    *Tensor
	Sums, Before, After *Tensor
}

// Conjugate updates X, R, P and S in place, and fills After.
func (d *Device) Conjugate(c Conjugate) {
	const op = "tensor.Conjugate"
	for _, t := range []*Tensor{c.R, c.P, c.S, c.Z, c.W} {
		sameShape(op, c.X, t, "operand")
	}
	sums := 3
	if c.Before == nil {
		sums = c.Sums.C()
	}
	for _, t := range []struct {
		t *Tensor
		c int
	}{{c.Sums, max(sums, 2)}, {c.Before, 2}, {c.After, 2}} {
		if want := [4]int{c.X.N(), 1, 1, t.c}; t.t != nil && t.t.Shape() != want {
			Fail(op, "scalars of a step have shape %v, expected %v", t.t, want)
		}
	}
	if c.Before == c.After {
		Fail(op, "the scalars of the step before and of this one are the same tensor")
	}
	d.b.Conjugate(&kernels.Conjugate{
		X: d.own(op, c.X), R: d.own(op, c.R), P: d.own(op, c.P), S: d.own(op, c.S), Z: d.view(op, c.Z), W: d.view(op, c.W),
		Sums: d.view(op, c.Sums), Before: d.view(op, c.Before), After: d.own(op, c.After),
	})
}

// Stop freezes an image whose Loss [N,1,1,1] is at or below Limit, times its Count [N,1,1,1] where there is one. A nil Loss means
// that no image stops.
type Stop struct {
	Loss  *Tensor
	Limit float64
	Count *Tensor
}

func (d *Device) stop(op string, x *Tensor, s Stop) kernels.Stop {
	d.scalars(op, x, s.Loss)
	d.scalars(op, x, s.Count)
	return kernels.Stop{Loss: d.view(op, s.Loss), Limit: float32(s.Limit), Count: d.view(op, s.Count)}
}

// Local is the data term of a measurement that sees every element alone, from which a step computes the gradient itself; see
// kernels.Local. Low and High are infinite where nothing is one-sided. A nil Y means that the gradient is given.
type Local struct {
	Y, Mask         *Tensor
	Gain, Low, High float64
	Loss            *Tensor // optional [N,1,1,1]: |r|^2 after the step
}

func (d *Device) local(op string, x, grad *Tensor, l Local) (k kernels.Local) {
	if (grad == nil) == (l.Y == nil) {
		Fail(op, "expected either a gradient or a local data term")
	}
	if l.Y == nil {
		sameShape(op, x, grad, "operand")
		return k
	}
	sameShape(op, x, l.Y, "measurement")
	if l.Mask != nil {
		d.repeats(op, x, l.Mask, "mask")
	}
	k = kernels.Local{Y: d.view(op, l.Y), Mask: d.view(op, l.Mask), Gain: float32(l.Gain), Low: float32(l.Low), High: float32(l.High)}
	if l.Loss != nil {
		d.scalars(op, x, l.Loss)
		k.Loss = d.own(op, l.Loss)
	}
	return k
}

// Accelerate is one step of Nesterov's accelerated gradient; see kernels.Accelerate. Either Grad or Local is given.
type Accelerate struct {
	X, Z, Grad, X0      *Tensor
	Step, Rho, Momentum float64
	Stop                Stop
	Local               Local
}

// Accelerate updates X and Z in place.
func (d *Device) Accelerate(a Accelerate) {
	const op = "tensor.Accelerate"
	for _, t := range []*Tensor{a.Z, a.X0} {
		sameShape(op, a.X, t, "operand")
	}
	d.b.Accelerate(&kernels.Accelerate{
		X: d.own(op, a.X), Z: d.own(op, a.Z), Grad: d.view(op, a.Grad), X0: d.view(op, a.X0),
		Step: float32(a.Step), Rho: float32(a.Rho), Momentum: float32(a.Momentum),
		Stop: d.stop(op, a.X, a.Stop), Local: d.local(op, a.X, a.Grad, a.Local),
	})
}

// Adam is step T of Adam; see kernels.Adam. Either Grad or Local is given.
type Adam struct {
	X, M, V, Grad, X0 *Tensor
	Rate, Rho         float64
	T                 int
	Stop              Stop
	Local             Local
}

// Adam updates X, M and V in place.
func (d *Device) Adam(a Adam) {
	const op = "tensor.Adam"
	for _, t := range []*Tensor{a.M, a.V, a.X0} {
		sameShape(op, a.X, t, "operand")
	}
	if a.T < 1 {
		Fail(op, "step %d, expected 1 or more", a.T)
	}
	d.b.Adam(&kernels.Adam{
		X: d.own(op, a.X), M: d.own(op, a.M), V: d.own(op, a.V), Grad: d.view(op, a.Grad), X0: d.view(op, a.X0),
		Rate: float32(a.Rate), Rho: float32(a.Rho), T: a.T,
		Stop: d.stop(op, a.X, a.Stop), Local: d.local(op, a.X, a.Grad, a.Local),
	})
}
