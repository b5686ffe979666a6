package optest

import (
	"math"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// steps of the differences. Short ones meet fewer kinks, long ones less rounding; the best of them counts.
var steps = []float64{3e-2, 1e-2, 3e-3, 1e-3}

// directions are tried of each derivative. One that is wrong by ten tolerances passes all of them practically never.
const directions = 8

// moved is x + s u.
func (k *checker) moved(x, u []float32, s float64) *tensor.Tensor {
	v := make([]float32, len(x))
	for i := range v {
		v[i] = float32(float64(x[i]) + s*float64(u[i]))
	}
	return k.upload(v, k.shape)
}

// derivative: <VJP(x, r), u> = d/ds <A(x + s u), r>, for r on the elements of A that are smooth between x - s u and x + s u.
func (k *checker) derivative() {
	var ratios []comparison
	for range directions {
		x, u, r := k.picture(), k.normal(k.shape), k.normal(k.y)
		here := floats(k.op.Apply(k.upload(x, k.shape)))
		best := comparison{off: math.Inf(1)}
		smooth := 0
		for _, s := range steps {
			back, ahead := floats(k.op.Apply(k.moved(x, u, -s))), floats(k.op.Apply(k.moved(x, u, s)))
			rounding := 3e-7 * largest(here) / s
			kept := make([]float32, len(r))
			var slope float64
			n := 0
			for i := range r {
				f, b := (float64(ahead[i])-float64(here[i]))/s, (float64(here[i])-float64(back[i]))/s
				if math.Abs(f-b) > 0.05*max(math.Abs(f), math.Abs(b))+4*rounding {
					continue
				}
				kept[i] = r[i]
				slope += (f + b) / 2 * float64(r[i])
				n++
			}
			smooth = max(smooth, n)
			if 4*n < len(r) {
				continue
			}
			g := floats(k.op.VJP(k.upload(x, k.shape), k.upload(kept, k.y)))
			best = best.better(compare(g, u, slope))
		}
		if math.IsInf(best.off, 1) {
			k.fail("A jumps or has kinks in most of its values: %d of %d are smooth over a step of %v; such an operator needs a Misfit whose square has a gradient", smooth, length(k.y), steps[len(steps)-1])
			return
		}
		ratios = append(ratios, best)
	}
	k.judge("VJP is not the transposed Jacobian of A: the derivative of <A(x), r> along u", ratios)
}

// misfit: <MisfitVJP(x, m), u> = d/ds 1/2 |m(x + s u)|^2 with m = Misfit(x, y).
func (k *checker) misfit(m solver.Misfit) {
	var ratios []comparison
	for range directions {
		truth, u := k.picture(), k.normal(k.shape)
		y := k.measured(k.upload(truth, k.shape))
		x := floats(k.moved(truth, k.normal(k.shape), 0.2))
		at := k.upload(x, k.shape)
		g := k.gradient(at, y)
		best := comparison{off: math.Inf(1)}
		for _, s := range steps {
			ahead, back := floats(m.Misfit(k.moved(x, u, s), y)), floats(m.Misfit(k.moved(x, u, -s), y))
			var slope float64
			for i := range ahead {
				a, b := float64(ahead[i]), float64(back[i])
				slope += (a - b) * (a + b) / (4 * s)
			}
			best = best.better(compare(g, u, slope))
		}
		ratios = append(ratios, best)
	}
	k.judge("MisfitVJP(x, Misfit(x, y)) is not the gradient of 1/2 |Misfit(x, y)|^2: its derivative along u", ratios)
}

// comparison is a derivative by VJP and by differences, and how far they are apart relative to the gradient's norm, which
// is what a derivative along a random direction of unit variance is like.
type comparison struct{ got, want, off float64 }

func compare(g, u []float32, slope float64) comparison {
	got, _ := dot(g, u)
	gg, _ := dot(g, g)
	size := max(math.Sqrt(gg), math.Abs(slope))
	if size == 0 {
		return comparison{}
	}
	return comparison{got, slope, math.Abs(got-slope) / size}
}

func (c comparison) better(o comparison) comparison {
	if o.off < c.off || math.IsInf(c.off, 1) {
		return o
	}
	return c
}

// judge reports the worst comparison, and what all of them have in common.
func (k *checker) judge(what string, all []comparison) {
	var worst comparison
	var gg, gw, ww float64
	for _, c := range all {
		if !(c.off <= worst.off) {
			worst = c
		}
		gg, gw, ww = gg+c.got*c.got, gw+c.got*c.want, ww+c.want*c.want
	}
	if worst.off <= k.o.Derivative {
		return
	}
	why := "compare it with the derivative on paper, element by element"
	switch ratio := gw / ww; {
	case gg == 0:
		why = "VJP is zero"
	case ww == 0:
		why = "A does not change at all along u"
	case gg-gw*ratio <= 1e-4*gg:
		why = proportion(ratio)
	}
	k.fail("%s is %.6g by VJP and %.6g by differences, off by %.2g of the gradient's norm, allowed %.2g; %s", what, worst.got, worst.want, worst.off, k.o.Derivative, why)
}
