package solver

import (
	"github.com/spin-native/spin/tensor"
)

// Operator is a measurement A: it turns images [N,H,W,C] with values in [-1,1] into what was measured, in any shape with
// N images. These two methods are all that Spin needs; the small interfaces below make it faster or better.
//
// An operator works on the device of its arguments and may return an argument itself. It must treat every image of the
// batch alone.
type Operator interface {
	// Apply is A(x).
	Apply(x *tensor.Tensor) *tensor.Tensor
	// VJP is J_A(x)^T r, the transpose of the Jacobian of A at x applied to r: it has the shape of x. The gradient of
	// 1/2 |A(x)-y|^2 is VJP(x, A(x)-y). For a linear operator it is the adjoint, whatever x is.
	VJP(x, r *tensor.Tensor) *tensor.Tensor
}

// LinearOperator marks operators that are linear whenever IsLinear is true. Their VJP must accept a nil x. Conjugate gradients
// need it.
type LinearOperator interface{ IsLinear() bool }

// Proximal operators solve the correction in closed form: Prox is
//
//	argmin_x 1/2 |A(x)-y|^2 + rho/2 |x-x0|^2
type Proximal interface {
	Prox(x0, y *tensor.Tensor, rho float64) *tensor.Tensor
}

// Preconditioner operators are linear ones that can nearly undo A A^T + rho: Precondition is M^-1 r for r in the shape of a
// measurement, with a symmetric positive definite M that is close to it. rho is above zero.
type Preconditioner interface {
	Precondition(r *tensor.Tensor, rho float64) *tensor.Tensor
}

// Spectral operators are linear ones with A A^T = U diag(l) U^T in closed form, U orthonormal: Rotate is U^T r, or U r for
// back, of r in the shape of a measurement, and Spectrum is l for every element of measurements of shape y. They are the
// squares of A's singular values; DDRM needs them.
type Spectral interface {
	Rotate(r *tensor.Tensor, back bool) *tensor.Tensor
	Spectrum(y [4]int) ([]float32, error)
}

// Lipschitz operators know an L so that f(x) = 1/2 |A(x)-y|^2 rises above its tangents by no more than L/2 |d|^2,
//
//	f(x+d) <= f(x) + <grad f(x), d> + L/2 |d|^2
//
// as it does for every Lipschitz constant L of the gradient.
type Lipschitz interface{ Lipschitz() float64 }

// Guesser operators have a cheap first guess of the image behind a measurement.
type Guesser interface {
	Guess(y *tensor.Tensor) *tensor.Tensor
}

// Starter operators have first guesses that begin at random, for runs that are begun more than once: attempt 0, 1, ... of a
// seed.
type Starter interface {
	Attempt(y *tensor.Tensor, seed uint64, number int) *tensor.Tensor
}

// Sizer operators know the shape of the images [N,H,W,C] behind measurements of a shape. Without it the image has the
// shape of the measurement, or that of Problem.Start.
type Sizer interface {
	ImageShape(y [4]int) [4]int
}

// Counter operators say how many values of measurements of shape y were measured: one count per image, or one count for
// all images, or nil. Without it every element counts.
type Counter interface{ Counts(y [4]int) []int }

// Misfit operators have a residual r of their own in place of A(x)-y, for example a one-sided one where y is saturated.
// MisfitVJP is the transpose of the Jacobian of Misfit by x, applied to r: what VJP is to A.
type Misfit interface {
	Misfit(x, y *tensor.Tensor) *tensor.Tensor
	MisfitVJP(x, r *tensor.Tensor) *tensor.Tensor
}

// Recorder operators are measured by rounding: Record is what is kept of a = A(x), and Deviation the standard deviation of
// what that takes away, in units of the measurement. To reconstruct, it is noise like any other.
type Recorder interface {
	Record(a *tensor.Tensor) *tensor.Tensor
	Deviation() float64
}

// Viewer operators measure something that is no picture: View shows a measurement as one, with 1 or 3 channels in [-1,1].
type Viewer interface {
	View(y *tensor.Tensor) *tensor.Tensor
}

// Monochrome operators measure, where Monochrome is true, the mean of an image's channels only: their pictures are grey.
type Monochrome interface{ Monochrome() bool }

// Restricter operators measure only some elements of y: Restrict sets the others to zero.
type Restricter interface {
	Restrict(y *tensor.Tensor) *tensor.Tensor
}

// Keeper operators measure some pixels directly: Keep copies those from y into x. It is used where y has no noise.
type Keeper interface {
	Keep(x, y *tensor.Tensor) *tensor.Tensor
}

// Tasker operators name the row of the table of defaults that fits them.
type Tasker interface{ Task() Task }

// ending is what follows a map in the operation that ends it: alpha A(x) + beta add, where add may be nil, and sums of products of
// that.
type ending struct {
	alpha float64
	add   *tensor.Tensor
	beta  float64
	tensor.Products
}

var plain = ending{alpha: 1}

// of is the ending as an operation of its own.
func (e ending) of(x *tensor.Tensor) *tensor.Tensor {
	if e == plain {
		return x
	}
	terms := []tensor.Term{{X: x, C: e.alpha}}
	if e.add != nil {
		terms = append(terms, tensor.Term{X: e.add, C: e.beta})
	}
	return x.Device().Blend(nil, tensor.Blend{Terms: terms, Products: e.Products})
}

// ender operators end A, and where they are linear A^T, in an operation that an ending can be part of: it costs no passes over
// memory then.
type ender interface {
	applied(x *tensor.Tensor, e ending) *tensor.Tensor
	adjoint(r *tensor.Tensor, e ending) *tensor.Tensor
}

// applied is A(x) with an ending, for a part of another operator.
func applied(op Operator, x *tensor.Tensor, e ending) *tensor.Tensor {
	if m, ok := op.(ender); ok {
		return m.applied(x, e)
	}
	return e.of(op.Apply(x))
}

// adjoint is A^T r with an ending, for a linear part of another operator.
func adjoint(op Operator, r *tensor.Tensor, e ending) *tensor.Tensor {
	if m, ok := op.(ender); ok {
		return m.adjoint(r, e)
	}
	return e.of(op.VJP(nil, r))
}

// pixelwise operators see every element alone: local is their data term, which steps along its gradient compute themselves.
type pixelwise interface {
	local(y *tensor.Tensor) tensor.Local
}

// sloper operators know the gradient of 1/2 |A(x)-y|^2 for less than A and its transposed Jacobian cost one after the other.
type sloper interface {
	slope(x, y *tensor.Tensor) *tensor.Tensor
}

// Problem is one measurement, or a batch of measurements by the same operator.
type Problem struct {
	Operator Operator
	Y        *tensor.Tensor // what was measured, one or more images
	Sigma    float64        // standard deviation of the noise in Y, in units of Y (images are in [-1,1]); 0: none
	Start    *tensor.Tensor // optional first guess of the images, in place of the operator's
}

// imageShape is the shape of the images behind measurements of shape y.
func imageShape(op Operator, y [4]int) [4]int {
	if s, ok := op.(Sizer); ok {
		return s.ImageShape(y)
	}
	return y
}

// firstGuess is the operator's first guess. Where it has none, it is the point at which a step of steepest descent from
// the grey image z = 0 arrives: with r = y-A(z) and g = J^T r,
//
//	z + g <r, A(z+g)-A(z)> / |A(z+g)-A(z)|^2
func firstGuess(op Operator, y *tensor.Tensor) (x *tensor.Tensor) {
	d := y.Device()
	defer d.Tidy(&x)()
	if g, ok := op.(Guesser); ok {
		return g.Guess(y)
	}
	s := imageShape(op, y.Shape())
	zero := d.From(make([]float32, s[0]*s[1]*s[2]*s[3]), s[0], s[1], s[2], s[3])
	at := op.Apply(zero)
	r := subtract(y, at)
	g := op.VJP(zero, r)
	move := subtract(op.Apply(g), at)
	return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: g, C: 1, Num: d.Dot(nil, r, move), Den: d.Dot(nil, move, move)}}})
}

// Measure simulates a measurement: A(x) + sigma n, recorded as the operator records it and restricted to what it measures.
// The noise of image i of x is that of image first+i of the seed; it has nothing in common with what a run of the same
// seed draws.
func Measure(op Operator, x *tensor.Tensor, sigma float64, seed uint64, first int) (y *tensor.Tensor, err error) {
	return NoiseModel{}.Measure(op, x, sigma, seed, first)
}

// Picture shows a measurement as a picture of 1 or 3 channels: as the operator does, or as it is, or else by the first
// guess of what is behind it.
func Picture(op Operator, y *tensor.Tensor) (x *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	defer y.Device().Tidy(&x)()
	return copied(view(op, y)), nil
}

func view(op Operator, y *tensor.Tensor) *tensor.Tensor {
	switch v, ok := op.(Viewer); {
	case ok:
		return v.View(y)
	case y.C() == 1 || y.C() == 3:
		return y
	}
	return firstGuess(op, y)
}

// draw fills n with a draw of every image.
func draw(n *tensor.Tensor, noise Noise, first, number int) {
	buf := make([]float32, n.Len()/n.N())
	for i := range n.N() {
		noise.Normal(buf, first+i, number)
		n.SetImage(i, buf)
	}
}

func subtract(a, b *tensor.Tensor) *tensor.Tensor {
	return a.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: a, C: 1}, {X: b, C: -1}}})
}

func copied(x *tensor.Tensor) *tensor.Tensor {
	return x.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}}})
}
