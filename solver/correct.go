package solver

import (
	"math"

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
	weight, ones := make([]float32, c.Y.N()), make([]float32, c.Y.N())
	for i := range weight {
		c.counts = append(c.counts, float64(max(list[i%len(list)], 1)))
		weight[i], ones[i] = float32(c.counts[i]), 1
	}
	c.weight, c.ones = c.d.From(weight, c.Y.N(), 1, 1, 1), c.d.From(ones, c.Y.N(), 1, 1, 1)
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

func (c *corrector) apply(x *tensor.Tensor) *tensor.Tensor {
	c.calls++
	y := c.Operator.Apply(x)
	c.fits("Apply", y, c.Y.Shape())
	return y
}

func (c *corrector) vjp(x, r *tensor.Tensor) *tensor.Tensor {
	c.calls++
	g := c.Operator.VJP(x, r)
	c.fits("VJP", g, c.shape)
	return g
}

// residual is A(x) - y, or what the operator has in its place.
func (c *corrector) residual(x *tensor.Tensor) *tensor.Tensor {
	if m, ok := c.Operator.(Misfit); ok {
		c.calls++
		r := m.Misfit(x, c.Y)
		c.fits("Misfit", r, c.Y.Shape())
		return r
	}
	return subtract(c.apply(x), c.Y)
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

// cg solves (A^T A + rho) d = A^T (y - A x0) from d = 0; x = x0 + d. The scalars of the recursion stay on the device,
// one per image; a quotient whose denominator has become zero is zero, so an image that has converged rests.
func (c *corrector) cg(x0 *tensor.Tensor, rho float64, in Inner) *tensor.Tensor {
	d := c.d
	back := c.vjp(nil, subtract(c.Y, c.apply(x0)))
	x, r, p := copied(x0), copied(back), copied(back)
	rs, next := d.Dot(nil, r, r), d.New(x0.N(), 1, 1, 1)
	for range in.Steps {
		tidy := d.Tidy()
		q := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: c.vjp(nil, c.apply(p)), C: 1}, {X: p, C: rho}}})
		curvature := d.Dot(nil, p, q)
		d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}, {X: p, C: 1, Num: rs, Den: curvature}}})
		d.Blend(r, tensor.Blend{Terms: []tensor.Term{{X: r, C: 1}, {X: q, C: -1, Num: rs, Den: curvature}}})
		d.Dot(next, r, r)
		d.Blend(p, tensor.Blend{Terms: []tensor.Term{{X: r, C: 1}, {X: p, C: 1, Num: next, Den: rs}}})
		rs, next = next, rs
		tidy()
	}
	return x
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
	d := c.d
	r := subtract(c.Y, c.apply(x0))
	u, p := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: r, C: 0}}}), copied(r)
	rz, next := d.From(make([]float32, r.N()), r.N(), 1, 1, 1), d.New(r.N(), 1, 1, 1)
	for range in.Steps {
		tidy := d.Tidy()
		z := c.precondition(r, rho)
		d.Dot(next, r, z)
		d.Blend(p, tensor.Blend{Terms: []tensor.Term{{X: z, C: 1}, {X: p, C: 1, Num: next, Den: rz}}}) // rz is 0 at first
		q := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: c.apply(c.vjp(nil, p)), C: 1}, {X: p, C: rho}}})
		curvature := d.Dot(nil, p, q)
		d.Blend(u, tensor.Blend{Terms: []tensor.Term{{X: u, C: 1}, {X: p, C: 1, Num: next, Den: curvature}}})
		d.Blend(r, tensor.Blend{Terms: []tensor.Term{{X: r, C: 1}, {X: q, C: -1, Num: next, Den: curvature}}})
		rz, next = next, rz
		tidy()
	}
	return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x0, C: 1}, {X: c.vjp(nil, u), C: 1}}})
}

func (c *corrector) precondition(r *tensor.Tensor, rho float64) *tensor.Tensor {
	c.calls++
	z := c.Operator.(Preconditioner).Precondition(r, rho)
	c.fits("Precondition", z, c.Y.Shape())
	return z
}

// fgd is Nesterov's accelerated gradient with step Rate/(L+rho):
//
//	xn = z - step (grad f(z) + rho (z-x0));  th' = (1+sqrt(1+4 th^2))/2;  z = xn + (th-1)/th' (xn - x);  x = xn
func (c *corrector) fgd(x0 *tensor.Tensor, rho float64, in Inner) *tensor.Tensor {
	step := in.Rate / (lipschitz(c.Operator) + rho)
	x, z := copied(x0), copied(x0)
	theta := 1.0
	for range in.Steps {
		next := (1 + math.Sqrt(1+4*theta*theta)) / 2
		tidy := c.d.Tidy()
		a := tensor.Accelerate{X: x, Z: z, X0: x0, Step: step, Rho: rho, Momentum: (theta - 1) / next}
		if c.stops(in) {
			a.Stop = c.stop(c.residual(x), in) // the rule is about x, the gradient about z
		}
		a.Grad = c.gradient(z, c.residual(z))
		c.d.Accelerate(a)
		tidy()
		theta = next
	}
	return x
}

func (c *corrector) adam(x0 *tensor.Tensor, rho float64, in Inner) *tensor.Tensor {
	x, zero := copied(x0), tensor.Blend{Terms: []tensor.Term{{X: x0, C: 0}}}
	m, v := c.d.Blend(nil, zero), c.d.Blend(nil, zero)
	for t := range in.Steps {
		tidy := c.d.Tidy()
		r := c.residual(x)
		a := tensor.Adam{X: x, M: m, V: v, X0: x0, Rate: in.Rate, Rho: rho, T: t + 1}
		if c.stops(in) {
			a.Stop = c.stop(r, in)
		}
		a.Grad = c.gradient(x, r)
		c.d.Adam(a)
		tidy()
	}
	return x
}

func (c *corrector) stops(in Inner) bool { return in.Stop > 0 && c.Sigma > 0 }

// stop compares |r|^2 / count with Stop sigma^2 on the device.
func (c *corrector) stop(r *tensor.Tensor, in Inner) tensor.Stop {
	mean := c.d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: c.d.Dot(nil, r, r), C: 1, Num: c.ones, Den: c.weight}}})
	return tensor.Stop{Loss: mean, Limit: in.Stop * c.Sigma * c.Sigma}
}

// residuals is |A(x)-y|^2 / (count sigma^2) of every image: about 1 where x explains the measurement up to its noise.
// Where sigma is 0 it is the mean square |A(x)-y|^2 / count itself. The certificates look at the same residuals closely.
func (c *corrector) residuals(x *tensor.Tensor) ([]float64, []Certificate, error) {
	defer c.d.Tidy()()
	r := c.residual(x)
	squares, err := c.d.Dot(nil, r, r).Floats()
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
