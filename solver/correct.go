package solver

import (
	"math"
	"reflect"

	"github.com/spin-native/spin/tensor"
)

// Method is a way of computing the correction.
type Method string

const (
	// Auto is Exact where the operator has Prox, PCG where it is a Preconditioner, CG where it is linear, FGD where it knows
	// Lipschitz, and otherwise Adam, with Stop = 1 where that is 0.
	Auto  Method = ""
	Exact Method = "exact" // the operator's closed form
	CG    Method = "cg"    // conjugate gradients on the normal equations; linear operators
	PCG   Method = "pcg"   // preconditioned conjugate gradients on the dual equations; operators that are a Preconditioner
	FGD   Method = "fgd"   // Nesterov's accelerated gradient; needs the Lipschitz constant
	Adam  Method = "adam"  // any operator
)

// Inner says how the correction is computed.
type Inner struct {
	Method Method
	Steps  int     // default 15 for CG and FGD, 4 for PCG, 20 for Adam
	Rate   float64 // FGD: share of the step 1/(L+rho), default 1. Adam: in units of the image, default 0.02
	// Stop freezes an image as soon as |A(x)-y|^2 <= Stop * count * sigma^2, checked before each step; 1 is the noise
	// level. 0, or no noise: never. FGD and Adam only: the others have nothing to stop early.
	Stop float64
}

// corrector computes corrections for one problem. It counts what it asks of the operator.
type corrector struct {
	Problem
	d      *tensor.Device
	shape  [4]int         // of the images
	counts []float64      // measured values of each image
	weight *tensor.Tensor // counts on the device, [N,1,1,1]
	ones   *tensor.Tensor
	calls  int // evaluations of A, of its transposed Jacobian, of Prox and of Precondition
}

// newCorrector checks a problem and readies it. Its tensors belong to the bracket that is open.
func newCorrector(p Problem) *corrector {
	const op = "solver.Problem"
	if p.Operator == nil || p.Y == nil {
		tensor.Fail(op, "operator and measurement must be given")
	}
	if !(p.Sigma >= 0) || math.IsInf(p.Sigma, 0) {
		tensor.Fail(op, "noise level %v, expected 0 or a positive number", p.Sigma)
	}
	c := &corrector{Problem: p, d: p.Y.Device()}
	if r, ok := p.Operator.(Restricter); ok {
		c.Y = r.Restrict(p.Y)
	}
	c.shape = imageShape(p.Operator, c.Y.Shape())
	if p.Start != nil {
		if _, ok := p.Operator.(Sizer); ok && p.Start.Shape() != c.shape {
			tensor.Fail(op, "first guess has shape %v, the operator's images have %v", p.Start, c.shape)
		}
		c.shape = p.Start.Shape()
	}
	if c.shape[0] != c.Y.N() {
		tensor.Fail(op, "%d measurements for %d images", c.Y.N(), c.shape[0])
	}
	list := counts(p.Operator, c.Y.Shape())
	if len(list) == 0 {
		list = []int{c.Y.Len() / c.Y.N()}
	}
	if len(list) != 1 && len(list) != c.Y.N() {
		tensor.Fail(op, "the operator counts the values of %d images, there are %d", len(list), c.Y.N())
	}
	weight := make([]float32, c.Y.N())
	for i := range weight {
		c.counts = append(c.counts, float64(max(list[i%len(list)], 1)))
		weight[i] = float32(c.counts[i])
	}
	one := [4]int{c.Y.N(), 1, 1, 1}
	c.weight, c.ones = c.d.From(weight, c.Y.N(), 1, 1, 1), c.d.From(uniform(1, one), c.Y.N(), 1, 1, 1)
	return c
}

// choose fills in the defaults of how to correct.
func (c *corrector) choose(in Inner) Inner {
	const op = "solver.Inner"
	_, exact := c.Operator.(Proximal)
	_, preconditioned := c.Operator.(Preconditioner)
	preconditioned = preconditioned && isLinear(c.Operator)
	if in.Method == Auto {
		switch {
		case exact:
			in.Method = Exact
		case preconditioned:
			in.Method = PCG
		case isLinear(c.Operator):
			in.Method = CG
		case lipschitz(c.Operator) > 0:
			in.Method = FGD
		default:
			in.Method = Adam
			if in.Stop == 0 {
				in.Stop = 1 // the number of steps alone is a poor regulariser
			}
		}
	}
	switch {
	case in.Method == Exact && !exact:
		tensor.Fail(op, "%T has no closed form: it is not a Proximal", c.Operator)
	case in.Method == CG && !isLinear(c.Operator):
		tensor.Fail(op, "conjugate gradients need a linear operator, %T is not one", c.Operator)
	case in.Method == PCG && !preconditioned:
		tensor.Fail(op, "preconditioned conjugate gradients need a linear operator that is a Preconditioner, %T is not one", c.Operator)
	case in.Method == FGD && !(lipschitz(c.Operator) > 0):
		tensor.Fail(op, "accelerated gradient needs a Lipschitz constant, %T knows none", c.Operator)
	}
	if in.Steps == 0 {
		in.Steps = map[Method]int{Exact: 1, CG: 15, PCG: 4, FGD: 15, Adam: 20}[in.Method]
	}
	if in.Rate == 0 {
		in.Rate = map[Method]float64{Exact: 1, CG: 1, PCG: 1, FGD: 1, Adam: 0.02}[in.Method]
	}
	if in.Steps < 1 || !(in.Rate > 0) || !(in.Stop >= 0) {
		tensor.Fail(op, "method %q with %d steps, rate %v and stop %v", in.Method, in.Steps, in.Rate, in.Stop)
	}
	return in
}

// correct returns a new tensor with
//
//	argmin_x  1/2 |A(x)-y|^2 + rho/2 |x-x0|^2
//
// started from x0, as far as the method gets. Nothing is clipped.
func (c *corrector) correct(x0 *tensor.Tensor, rho float64, in Inner) (x *tensor.Tensor) {
	// The operations are the same for every picture of the size, but for numbers like rho.
	c.d.Bundle(alike{reflect.TypeOf(c.Operator), c.shape, c.Y.Shape(), in, c.Sigma > 0}, func() { x = c.corrected(x0, rho, in) })
	return x
}

// alike are corrections of the same operations.
type alike struct {
	operator reflect.Type
	x, y     [4]int
	inner    Inner
	noisy    bool // or nothing stops
}

func (c *corrector) corrected(x0 *tensor.Tensor, rho float64, in Inner) (x *tensor.Tensor) {
	defer c.d.Tidy(&x)()
	switch in.Method {
	case Exact:
		c.calls++
		x = c.Operator.(Proximal).Prox(x0, c.Y, rho)
		c.fits("Prox", x, c.shape)
	case CG:
		x = c.cg(x0, rho, in)
	case PCG:
		x = c.pcg(x0, rho, in)
	case FGD:
		x = c.fgd(x0, rho, in)
	case Adam:
		x = c.adam(x0, rho, in)
	default:
		tensor.Fail("solver.Inner", "method %q, expected exact, cg, pcg, fgd or adam", in.Method)
	}
	return x
}

// Correct is one correction of a picture x0, the step that Spin alternates with the denoiser:
//
//	argmin_x  1/2 |A(x)-y|^2 + rho/2 |x-x0|^2
func Correct(p Problem, x0 *tensor.Tensor, rho float64, in Inner) (x *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	if p.Start == nil {
		p.Start = x0
	}
	d := x0.Device()
	defer d.Tidy(&x)()
	c := newCorrector(p)
	return c.correct(x0, rho, c.choose(in)), nil
}

func (c *corrector) fits(what string, x *tensor.Tensor, want [4]int) {
	if x == nil || x.Shape() != want {
		tensor.Fail("solver.Operator", "%s of %T has shape %v, expected %v", what, c.Operator, x, want)
	}
}

func (c *corrector) apply(x *tensor.Tensor) *tensor.Tensor  { return c.applyThen(x, plain) }
func (c *corrector) vjp(x, r *tensor.Tensor) *tensor.Tensor { return c.vjpThen(x, r, plain) }

// applyThen is A(x) with an ending.
func (c *corrector) applyThen(x *tensor.Tensor, e ending) (y *tensor.Tensor) {
	c.calls++
	if m, ok := c.Operator.(ender); ok {
		y = m.applied(x, e)
		c.fits("Apply", y, c.Y.Shape())
		return y
	}
	y = c.Operator.Apply(x)
	c.fits("Apply", y, c.Y.Shape())
	return e.of(y)
}

// vjpThen is J^T r at x with an ending.
func (c *corrector) vjpThen(x, r *tensor.Tensor, e ending) (g *tensor.Tensor) {
	c.calls++
	if m, ok := c.Operator.(ender); ok && isLinear(c.Operator) {
		g = m.adjoint(r, e)
		c.fits("VJP", g, c.shape)
		return g
	}
	g = c.Operator.VJP(x, r)
	c.fits("VJP", g, c.shape)
	return e.of(g)
}

// residual is A(x) - y, or what the operator has in its place.
func (c *corrector) residual(x *tensor.Tensor) *tensor.Tensor { return c.residualOf(x, nil) }

// residualOf also makes |r|^2 of every image, where squares is there.
func (c *corrector) residualOf(x, squares *tensor.Tensor) *tensor.Tensor {
	m, ok := c.Operator.(Misfit)
	if !ok {
		return c.applyThen(x, ending{alpha: 1, add: c.Y, beta: -1, Products: tensor.Products{Sums: squares}})
	}
	c.calls++
	r := m.Misfit(x, c.Y)
	c.fits("Misfit", r, c.Y.Shape())
	if squares != nil {
		c.d.Dot(squares, r, r)
	}
	return r
}

// gradient is that of 1/2 |r|^2 at x, where r is the residual.
func (c *corrector) gradient(x, r *tensor.Tensor) *tensor.Tensor {
	m, ok := c.Operator.(Misfit)
	if !ok {
		return c.vjp(x, r)
	}
	c.calls++
	g := m.MisfitVJP(x, r)
	c.fits("MisfitVJP", g, c.shape)
	return g
}

// slope is the gradient at x where the residual is of no other use.
func (c *corrector) slope(x *tensor.Tensor) *tensor.Tensor {
	s, ok := c.Operator.(sloper)
	if !ok {
		return c.gradient(x, c.residual(x))
	}
	c.calls += 2
	g := s.slope(x, c.Y)
	c.fits("slope", g, c.shape)
	return g
}

// cg solves (A^T A + rho) d = A^T (y - A x0) from d = 0; x = x0 + d.
func (c *corrector) cg(x0 *tensor.Tensor, rho float64, in Inner) *tensor.Tensor {
	x := copied(x0)
	r := c.vjp(nil, c.applyThen(x0, ending{alpha: -1, add: c.Y, beta: 1}))
	same := func(r *tensor.Tensor) *tensor.Tensor { return r }
	c.conjugate(x, r, in.Steps, same, func(z *tensor.Tensor, p tensor.Products) *tensor.Tensor {
		return c.vjpThen(nil, c.apply(z), ending{alpha: 1, add: z, beta: rho, Products: p})
	})
	return x
}

// conjugate makes steps of conjugate gradients on B x = b, where r = b - B x. It overwrites x and r. product is B z, with sums of
// the products that it is asked for. The scalars of the recursion stay on the device, for each image; a quotient whose denominator
// has become zero is zero, so an image that has converged rests.
//
// B is applied to z and not to the direction p: then the sums that the length of a step depends on can all be made along with B z,
// and everything else is one operation (kernels.Conjugate). <p, B p> follows from them without the orthogonality that
// rounding takes away.
func (c *corrector) conjugate(x, r *tensor.Tensor, steps int, precondition func(r *tensor.Tensor) *tensor.Tensor,
	product func(z *tensor.Tensor, p tensor.Products) *tensor.Tensor) {
	d, n := c.d, x.N()
	like := func() *tensor.Tensor { return d.New(n, x.H(), x.W(), x.C()) }
	p, s := like(), like()
	first, later := d.New(n, 1, 1, 2), d.New(n, 1, 1, 3)
	scalars := [2]*tensor.Tensor{d.New(n, 1, 1, 2), d.New(n, 1, 1, 2)}
	for i := range steps {
		tidy := d.Tidy()
		z := precondition(r)
		step := tensor.Conjugate{X: x, R: r, P: p, S: s, Z: z, Sums: first, After: scalars[i%2]}
		sums := tensor.Products{Sums: first, Of: z, With: [2]*tensor.Tensor{r}}
		if i > 0 {
			sums.With[1], sums.Sums, step.Sums, step.Before = s, later, later, scalars[1-i%2]
		}
		step.W = product(z, sums)
		d.Conjugate(step)
		tidy()
	}
}

// leastRho is where the dual equations become singular for float32. Below it pcg is cg.
const leastRho = 1e-6

// pcg solves (A A^T + rho) u = y - A x0 from u = 0, with the operator's preconditioner; x = x0 + A^T u, which is the same x
// as that of cg when both have converged. What k steps minimise is
//
//	|x - x*|^2 + rho |u - u*|^2
//
// with x* and u* the solution. It holds the distance of the picture, while cg minimises |A(x-x*)|^2 + rho |x-x*|^2, which a
// preconditioner may do at the price of ringing from the borders.
func (c *corrector) pcg(x0 *tensor.Tensor, rho float64, in Inner) *tensor.Tensor {
	if rho < leastRho {
		return c.cg(x0, rho, Inner{Steps: 3 * in.Steps})
	}
	r := c.applyThen(x0, ending{alpha: -1, add: c.Y, beta: 1})
	u := scaled(r, 0)
	precondition := func(r *tensor.Tensor) *tensor.Tensor {
		c.calls++
		z := c.Operator.(Preconditioner).Precondition(r, rho)
		c.fits("Precondition", z, c.Y.Shape())
		return z
	}
	c.conjugate(u, r, in.Steps, precondition, func(z *tensor.Tensor, p tensor.Products) *tensor.Tensor {
		return c.applyThen(c.vjp(nil, z), ending{alpha: 1, add: z, beta: rho, Products: p})
	})
	return c.vjpThen(nil, u, ending{alpha: 1, add: x0, beta: 1})
}

// fgd is Nesterov's accelerated gradient with step Rate/(L+rho):
//
//	xn = z - step (grad f(z) + rho (z-x0));  th' = (1+sqrt(1+4 th^2))/2;  z = xn + (th-1)/th' (xn - x);  x = xn
func (c *corrector) fgd(x0 *tensor.Tensor, rho float64, in Inner) *tensor.Tensor {
	step := in.Rate / (lipschitz(c.Operator) + rho)
	x, z := copied(x0), copied(x0)
	local, stop := c.local(x, in)
	theta := 1.0
	for range in.Steps {
		next := (1 + math.Sqrt(1+4*theta*theta)) / 2
		tidy := c.d.Tidy()
		a := tensor.Accelerate{X: x, Z: z, X0: x0, Step: step, Rho: rho, Momentum: (theta - 1) / next, Stop: stop, Local: local}
		if local.Y != nil {
			c.calls += 2
		} else {
			if stop.Loss != nil {
				c.residualOf(x, stop.Loss) // the rule is about x, the gradient about z
			}
			a.Grad = c.slope(z)
		}
		c.d.Accelerate(a)
		tidy()
		theta = next
	}
	return x
}

func (c *corrector) adam(x0 *tensor.Tensor, rho float64, in Inner) *tensor.Tensor {
	x := copied(x0)
	m, v := scaled(x0, 0), scaled(x0, 0)
	local, stop := c.local(x, in)
	for t := range in.Steps {
		tidy := c.d.Tidy()
		a := tensor.Adam{X: x, M: m, V: v, X0: x0, Rate: in.Rate, Rho: rho, T: t + 1, Stop: stop, Local: local}
		switch {
		case local.Y != nil:
			c.calls += 2
		case stop.Loss != nil:
			a.Grad = c.gradient(x, c.residualOf(x, stop.Loss))
		default:
			a.Grad = c.slope(x)
		}
		c.d.Adam(a)
		tidy()
	}
	return x
}

// local is the data term of an operator that sees every element alone, and the rule by which images stop: |r|^2 / count against
// Stop sigma^2, on the device. Of a local data term |r|^2 is told by every step for the next one, and so it is there at first.
func (c *corrector) local(x *tensor.Tensor, in Inner) (l tensor.Local, s tensor.Stop) {
	if in.Stop > 0 && c.Sigma > 0 {
		s = tensor.Stop{Loss: c.d.New(x.N(), 1, 1, 1), Limit: in.Stop * c.Sigma * c.Sigma, Count: c.weight}
	}
	if p, ok := c.Operator.(pixelwise); ok {
		l = p.local(c.Y)
		if l.Loss = s.Loss; s.Loss != nil {
			c.residualOf(x, s.Loss)
		}
	}
	return l, s
}

// residuals is |A(x)-y|^2 / (count sigma^2) of every image: about 1 where x explains the measurement up to its noise.
// Where sigma is 0 it is the mean square |A(x)-y|^2 / count itself. The certificates look at the same residuals closely.
func (c *corrector) residuals(x *tensor.Tensor) ([]float64, []Certificate, error) {
	defer c.d.Tidy()()
	sums := c.d.New(x.N(), 1, 1, 1)
	r := c.residualOf(x, sums)
	squares, err := sums.Floats()
	if err != nil {
		return nil, nil, err
	}
	scale := 1.0
	if c.Sigma > 0 {
		scale = c.Sigma * c.Sigma
	}
	out := make([]float64, len(squares))
	for i, s := range squares {
		out[i] = float64(s) / (c.counts[i] * scale)
	}
	certificates, err := c.certificates(r)
	return out, certificates, err
}
