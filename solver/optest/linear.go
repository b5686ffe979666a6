package optest

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

func (k *checker) linearity() {
	const a, b = 0.75, -1.5
	u, v := k.normal(k.shape), k.normal(k.shape)
	sum := make([]float32, len(u))
	for i := range u {
		sum[i] = a*u[i] + b*v[i]
	}
	if zero := floats(k.op.Apply(k.upload(make([]float32, len(u)), k.shape))); largest(zero) != 0 {
		k.fail("IsLinear is true, but A(0) is %v at its largest: a linear operator gives 0 for 0; subtract the constant from the measurement, or let IsLinear be false", largest(zero))
		return
	}
	au, av := floats(k.op.Apply(k.upload(u, k.shape))), floats(k.op.Apply(k.upload(v, k.shape)))
	both := floats(k.op.Apply(k.upload(sum, k.shape)))
	bound := 4 * k.o.Tolerance * (largest(au) + largest(av))
	for i := range both {
		if want := a*float64(au[i]) + b*float64(av[i]); !(math.Abs(float64(both[i])-want) <= bound) {
			k.fail("IsLinear is true, but A(%va%+vb) is %v where %v A(a) %+v A(b) is %v, at %s", a, b, both[i], a, b, want, place(i, k.y))
			return
		}
	}
}

func (k *checker) adjoint() {
	for range 4 {
		u, v := k.normal(k.shape), k.normal(k.y)
		au := floats(k.op.Apply(k.upload(u, k.shape)))
		atv := floats(k.op.VJP(nil, k.upload(v, k.y)))
		left, scale := dot(au, v)
		right, other := dot(u, atv)
		if bound := k.o.Tolerance*max(scale, other) + 1e-12; !(math.Abs(left-right) <= bound) {
			k.fail("VJP is not the adjoint of Apply: <A u, v> is %.6g, <u, A^T v> is %.6g, allowed difference %.2g; %s", left, right, bound, k.explain(v, atv))
			return
		}
	}
	x, r := k.upload(k.picture(), k.shape), k.upload(k.normal(k.y), k.y)
	if at, ok := differ(floats(k.op.VJP(x, r)), floats(k.op.VJP(nil, r)), 0); ok {
		k.fail("VJP of a linear operator depends on x, at %s: the derivative of a linear operator is the same everywhere", place(at, k.shape))
	}
}

// mostColumns bounds the columns of A that explain computes.
const mostColumns = 600

// explain tells in which way VJP is wrong, from columns of A: element i of A^T v is <A e_i, v>.
func (k *checker) explain(v, atv []float32) string {
	if k.y == k.shape && equal(v, atv) {
		return "VJP returns its argument unchanged"
	}
	size := length(k.shape) / k.shape[0]
	var list []int
	for i := range size {
		if size <= mostColumns || k.border(i) && i%3 == 0 {
			list = append(list, i)
		}
	}
	for len(list) < mostColumns && size > mostColumns {
		list = append(list, k.rng.IntN(size))
	}
	list = list[:min(len(list), mostColumns)]

	want := make([]float64, len(list))
	unit := make([]float32, length(k.shape))
	for n, i := range list {
		unit[i] = 1
		want[n], _ = dot(k.column(unit), v)
		unit[i] = 0
	}
	var gg, gw, ww, most float64
	for n, i := range list {
		g := float64(atv[i])
		gg, gw, ww, most = gg+g*g, gw+g*want[n], ww+want[n]*want[n], max(most, math.Abs(want[n]))
	}
	if gg == 0 && ww > 0 {
		return "VJP is zero everywhere"
	}
	if ratio := gw / ww; ww > 0 && gg-gw*ratio <= 1e-6*gg {
		return proportion(ratio)
	}
	inside, outside, worst, at := 0, 0, 0.0, 0
	for n, i := range list {
		off := math.Abs(float64(atv[i]) - want[n])
		if off <= 1e-4*most {
			continue
		}
		if k.border(i) {
			outside++
		} else {
			inside++
		}
		if off > worst {
			worst, at = off, n
		}
	}
	where := fmt.Sprintf("at %s VJP gives %.6g, the transpose of A gives %.6g", place(list[at], k.shape), atv[list[at]], want[at])
	if inside == 0 && outside > 0 {
		return "VJP agrees inside the picture but not at its borders: fold what Apply mirrors or pads there back onto the pixels that it came from; " + where
	}
	return where
}

// column is A applied to a unit picture.
func (k *checker) column(unit []float32) []float32 {
	defer k.d.Tidy()()
	return floats(k.op.Apply(k.upload(unit, k.shape)))
}

// border is whether element i of an image lies within a quarter of the picture from its edge.
func (k *checker) border(i int) bool {
	h, w := k.shape[1], k.shape[2]
	y, x := i/(w*k.shape[3]), i/k.shape[3]%w
	return min(y, h-1-y) < (h+3)/4 || min(x, w-1-x) < (w+3)/4
}

func equal(a, b []float32) bool {
	_, off := differ(a, b, 0)
	return !off
}

// proportion is what a constant ratio means.
func proportion(ratio float64) string {
	switch {
	case math.Abs(ratio+1) < 1e-3:
		return "VJP has the opposite sign"
	case ratio < 0:
		return fmt.Sprintf("VJP is %.4g times what it should be: its sign and its scale are wrong", ratio)
	}
	return fmt.Sprintf("VJP is %.4g times what it should be: a scale is missing", ratio)
}

// lipschitz: |A u|^2 <= L |u|^2 for linear operators, by the power method from below; others rise above their tangent
// by no more than L/2 times the square of the way.
func (k *checker) lipschitz() {
	l, ok := k.op.(solver.Lipschitz)
	if !ok {
		return
	}
	bound := l.Lipschitz()
	if bound == 0 && !k.linear {
		return // unknown
	}
	if !(bound > 0) || math.IsInf(bound, 0) {
		k.fail("Lipschitz is %v, expected a positive number", bound)
		return
	}
	if k.linear {
		u := k.upload(k.normal(k.shape), k.shape)
		for range 12 {
			next := k.op.VJP(nil, k.op.Apply(u))
			fu, fn := floats(u), floats(next)
			uu, _ := dot(fu, fu)
			un, _ := dot(fu, fn)
			nn, _ := dot(fn, fn)
			if uu < 1e-20 || nn == 0 {
				return
			}
			if un/uu > bound*(1+k.o.Tolerance) {
				k.fail("Lipschitz is %.6g, but |A u|^2/|u|^2 is %.6g for some u: accelerated gradient would diverge", bound, un/uu)
				return
			}
			for i, v := range fn {
				fn[i] = float32(float64(v) / math.Sqrt(nn)) // else large constants leave float32
			}
			u = k.upload(fn, k.shape)
		}
		return
	}
	y := k.measured(k.upload(k.picture(), k.shape))
	for range 6 {
		a := k.picture()
		b, step := k.normal(k.shape), float32(0.02+0.3*k.rng.Float64())
		var slope, way float64
		at := k.upload(a, k.shape)
		for i, g := range k.gradient(at, y) {
			b[i] = a[i] + step*b[i]
			d := float64(b[i]) - float64(a[i])
			slope, way = slope+d*float64(g), way+d*d
		}
		here, there := k.loss(at, y), k.loss(k.upload(b, k.shape), y)
		if rise, most := there-here-slope, bound/2*way; rise > 1.01*most+1e-6*(here+there) {
			k.fail("Lipschitz is %.6g, but 1/2 |A(x)-y|^2 rises above its tangent as if it were %.6g: accelerated gradient may diverge", bound, 2*rise/way)
			return
		}
	}
}

// loss is 1/2 |A(x)-y|^2, or what the operator has in its place.
func (k *checker) loss(x, y *tensor.Tensor) float64 {
	var r []float32
	if m, ok := k.op.(solver.Misfit); ok {
		r = floats(m.Misfit(x, y))
	} else {
		r = floats(k.d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: k.op.Apply(x), C: 1}, {X: y, C: -1}}}))
	}
	square, _ := dot(r, r)
	return square / 2
}

// gradient is that of 1/2 |A(x)-y|^2, or of what the operator has in its place.
func (k *checker) gradient(x, y *tensor.Tensor) []float32 {
	if m, ok := k.op.(solver.Misfit); ok {
		return floats(m.MisfitVJP(x, m.Misfit(x, y)))
	}
	return floats(k.op.VJP(x, k.d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: k.op.Apply(x), C: 1}, {X: y, C: -1}}})))
}

// prox: the gradient of 1/2 |A(x)-y|^2 + rho/2 |x-x0|^2 is zero at its result.
func (k *checker) prox() {
	p, ok := k.op.(solver.Proximal)
	if !ok {
		return
	}
	for _, rho := range []float64{0.01, 0.3, 5} {
		x0, y := k.upload(k.picture(), k.shape), k.measured(k.upload(k.picture(), k.shape))
		x := p.Prox(x0, y, rho)
		g, fx, f0 := k.gradient(x, y), floats(x), floats(x0)
		pull := k.gradient(x0, y)
		var worst, at = 0.0, 0
		for i := range g {
			if v := math.Abs(float64(g[i]) + rho*(float64(fx[i])-float64(f0[i]))); !(v <= worst) {
				worst, at = v, i
			}
		}
		if bound := k.o.Tolerance * (largest(pull) + largest(g) + (1+rho)*(largest(fx)+largest(f0))); !(worst <= bound) {
			k.fail("Prox(x0, y, %v) is not the minimum of 1/2 |A(x)-y|^2 + rho/2 |x-x0|^2: the gradient there is %.3g at %s, allowed %.2g", rho, worst, place(at, k.shape), bound)
			return
		}
	}
}

// precondition: M^-1 is symmetric and positive definite. The bound is wide, because M^-1 may enlarge rounding errors.
func (k *checker) precondition() {
	p, ok := k.op.(solver.Preconditioner)
	if !ok || !k.linear {
		return
	}
	a, b := k.normal(k.y), k.normal(k.y)
	pa, pb := floats(p.Precondition(k.upload(a, k.y), 0.05)), floats(p.Precondition(k.upload(b, k.y), 0.05))
	left, scale := dot(pa, b)
	right, _ := dot(a, pb)
	if !(math.Abs(left-right) <= 100*k.o.Tolerance*scale) {
		k.fail("Precondition is not symmetric: <M^-1 a, b> is %.6g, <a, M^-1 b> is %.6g", left, right)
	}
	for _, v := range [][2][]float32{{a, pa}, {b, pb}} {
		if s, _ := dot(v[0], v[1]); !(s > 0) {
			k.fail("Precondition is not positive definite: <a, M^-1 a> is %.6g", s)
		}
	}
}

// keep: what was kept is measured as it was.
func (k *checker) keep() {
	p, ok := k.op.(solver.Keeper)
	if !ok {
		return
	}
	y := k.measured(k.upload(k.picture(), k.shape))
	kept := p.Keep(k.upload(k.picture(), k.shape), y)
	if at, off := differ(floats(k.measured(kept)), floats(y), k.o.Tolerance); off {
		k.fail("Keep does not keep what was measured: A(Keep(x, y)) differs from y at %s", place(at, k.y))
	}
}
