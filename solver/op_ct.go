package solver

import (
	"fmt"
	"math"
	"slices"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// CT is the measurement of parallel-beam projections (the Radon transform) of the mean M over the channels, divided by its
// norm so that lengths stay as they are:
//
//	A(x) = R M x / |R|
//
// View v looks along the angle pi v/V, at which a point right of and above the middle of the picture by (a, b) falls on the
// detector at a cos + b sin. Pixels are squares of side 1: R is the exact integral of such a picture over the strip in front
// of a detector, divided by the strip's width. Outside of the picture x is 0.
type CT struct {
	h, w, views, detectors int
	mean                   mean
	m                      *tensor.Sparse // R / |R|
	rows, ramp             *tensor.Matrix // of the first guess
	gain                   float64        // that its back projection needs
}

const (
	maxWeights   = 40_000_000 // of the matrix; the device holds it and its transpose, 8 bytes each
	maxDetectors = 4096       // and views
)

// NewCT readies the operator for images of h x w with c channels on a device; detectors of 0 means one for every pixel of
// the diagonal. The memory is the device's until it closes.
func NewCT(d *tensor.Device, h, w, c, views, detectors int) (op *CT, err error) {
	defer tensor.Catch(&err)
	detectors, err = ctDetectors(h, w, views, detectors)
	if err != nil || c < 1 {
		tensor.FailWith("solver.NewCT", err, "images of %d x %d with %d channels", h, w, c)
	}
	op = &CT{h: h, w: w, views: views, detectors: detectors, mean: newMean(d, c)}
	m := projections(h, w, views, detectors)
	norm := matrixNorm(m)
	for i := range m.W {
		m.W[i] = float32(float64(m.W[i]) / norm)
	}
	op.m = d.Sparse(m)
	// x = pi/V sum over the views of the ramp-filtered projections; R^T takes them as it spread them, per width.
	width := ctDiagonal(h, w) / float64(detectors)
	op.rows, op.ramp = d.Matrix(identity(views).banded()), d.Matrix(ramp(detectors, width).banded())
	op.gain = math.Pi / float64(views) * width * norm * norm
	return op, nil
}

func ctDiagonal(h, w int) float64 { return math.Ceil(math.Hypot(float64(h), float64(w))) }

// ctDetectors fills in the number of detectors, and refuses what makes no sense or no matrix that fits.
func ctDetectors(h, w, views, detectors int) (int, error) {
	if h < 1 || w < 1 || h > maxSide || w > maxSide {
		return 0, fmt.Errorf("images of %d x %d: sides may be 1 to %d", h, w, maxSide)
	}
	if detectors == 0 {
		detectors = int(ctDiagonal(h, w))
	}
	if views < 1 || views > maxDetectors || detectors < 1 || detectors > maxDetectors {
		return 0, fmt.Errorf("%d views with %d detectors: expected 1 to %d of each", views, detectors, maxDetectors)
	}
	// A pixel's shadow is 4/pi wide on average, and so falls on that many detectors, and one more.
	each := 1 + 4/math.Pi*float64(detectors)/ctDiagonal(h, w)
	if n := each * float64(views) * float64(h) * float64(w); n > maxWeights {
		return 0, fmt.Errorf("%d views of %d x %d pixels on %d detectors need a matrix of %.0f million weights (%.1f GB), at most %d million are taken: fewer views, fewer detectors or a smaller picture are needed",
			views, w, h, detectors, n/1e6, 16*n/1e9, maxWeights/1_000_000)
	}
	return detectors, nil
}

// projections is R.
func projections(h, w, views, detectors int) kernels.SparseMatrix {
	width := ctDiagonal(h, w) / float64(detectors)
	rows := make([]kernels.SparseMatrix, h) // the rows of R^T that belong to a row of the picture
	parallel(h, func(i int) {
		part := kernels.SparseMatrix{}
		for j := range w {
			a, b := float64(j)-float64(w-1)/2, float64(h-1)/2-float64(i)
			for v := range views {
				sin, cos := math.Sincos(math.Pi * float64(v) / float64(views))
				at := a*cos + b*sin + width*float64(detectors)/2 // from the first detector's edge
				half := (math.Abs(cos) + math.Abs(sin)) / 2
				first, last := int((at-half)/width), int((at+half)/width)
				for k := max(first, 0); k <= min(last, detectors-1); k++ {
					area := shadow(float64(k+1)*width-at, cos, sin) - shadow(float64(k)*width-at, cos, sin)
					if area > 1e-9 {
						part.Col, part.W = append(part.Col, int32(v*detectors+k)), append(part.W, float32(area/width))
					}
				}
			}
			part.Start = append(part.Start, int32(len(part.W)))
		}
		rows[i] = part
	})
	t := kernels.SparseMatrix{Rows: h * w, Cols: views * detectors, Start: []int32{0}}
	for i, part := range rows {
		before := int32(len(t.W))
		for _, end := range part.Start {
			t.Start = append(t.Start, before+end)
		}
		t.Col, t.W = append(t.Col, part.Col...), append(t.W, part.W...)
		rows[i] = kernels.SparseMatrix{}
	}
	return t.Transposed()
}

// shadow is the area of a pixel whose projection lies below t from its middle: the integral of a trapezoid, whose slopes
// are as wide as the smaller of |cos| and |sin|.
func shadow(t, cos, sin float64) float64 {
	long, short := math.Abs(cos), math.Abs(sin)
	if long < short {
		long, short = short, long
	}
	if short < 1e-6 { // a rectangle, to six digits
		return min(max(t/long+0.5, 0), 1)
	}
	outer, inner := (long+short)/2, (long-short)/2
	switch u := math.Abs(t); {
	case u >= outer:
		return (1 + math.Copysign(1, t)) / 2
	case u > inner:
		corner := (outer - u) * (outer - u) / (2 * long * short)
		if t < 0 {
			return corner
		}
		return 1 - corner
	}
	return 0.5 + t/long
}

// matrixNorm is |R| by the power method in float64. All weights are positive, so the constant picture lies near the vector
// that it converges to, and it gets there fast.
func matrixNorm(m kernels.SparseMatrix) float64 {
	t := m.Transposed()
	times := func(m kernels.SparseMatrix, x []float64) []float64 {
		out := make([]float64, m.Rows)
		parallel(m.Rows, func(i int) {
			for k := m.Start[i]; k < m.Start[i+1]; k++ {
				out[i] += float64(m.W[k]) * x[m.Col[k]]
			}
		})
		return out
	}
	square := func(x []float64) (sum float64) {
		for _, v := range x {
			sum += v * v
		}
		return sum
	}
	x := make([]float64, m.Cols)
	for i := range x {
		x[i] = 1
	}
	var largest float64
	for range 100 {
		y := times(m, x)
		next := square(y) / square(x)
		done := next < largest*(1+1e-10)
		largest = max(largest, next)
		if done {
			break
		}
		x = times(t, y)
		size := math.Sqrt(square(x))
		for i := range x {
			x[i] /= size
		}
	}
	return math.Sqrt(largest)
}

// ramp is the filter of filtered back projection over n detectors of a width: the band-limited |frequency|, which is
// 1/(4 width) in the middle, -1/(pi^2 j^2 width) at odd distances j and nothing at even ones, under a Hann window, (1/4, 1/2,
// 1/4), against noise.
func ramp(n int, width float64) *matrix {
	sharp := func(apart int) float64 {
		switch {
		case apart == 0:
			return 1 / (4 * width)
		case apart%2 != 0:
			return -1 / (math.Pi * math.Pi * float64(apart*apart) * width)
		}
		return 0
	}
	return newMatrix(n, n, func(i int, add func(j int, v float64)) {
		for j := range n {
			add(j, sharp(i-j-1)/4+sharp(i-j)/2+sharp(i-j+1)/4)
		}
	})
}

func (op *CT) Apply(x *tensor.Tensor) *tensor.Tensor { return op.applied(x, plain) }

func (op *CT) applied(x *tensor.Tensor, e ending) (y *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&y)()
	return d.Product(d.New(x.N(), op.views, op.detectors, 1), op.mean.of(x), tensor.Product{M: op.m, Alpha: e.alpha, Add: e.add, Beta: e.beta, Products: e.Products})
}

// back is R^T r / |R|.
func (op *CT) back(r *tensor.Tensor) *tensor.Tensor {
	d := r.Device()
	return d.Product(d.New(r.N(), op.h, op.w, 1), r, tensor.Product{M: op.m, Adjoint: true, Alpha: 1})
}

func (op *CT) VJP(_, r *tensor.Tensor) *tensor.Tensor { return op.adjoint(r, plain) }

func (op *CT) adjoint(r *tensor.Tensor, e ending) (g *tensor.Tensor) {
	defer r.Device().Tidy(&g)()
	return op.mean.adjoint(op.back(r), e)
}

// Guess is the filtered back projection, within [-1,1].
func (op *CT) Guess(y *tensor.Tensor) (x *tensor.Tensor) {
	d := y.Device()
	defer d.Tidy(&x)()
	q := d.Separable(nil, y, tensor.Separable{H: op.rows, W: op.ramp, Alpha: op.gain})
	x = op.mean.spread(nil, op.back(q), float64(op.mean.c))
	return d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}}, Clip: true})
}

// Lipschitz is 1/c; the margin covers that the norm is approached from below, and the rounding of the weights.
func (op *CT) Lipschitz() float64         { return (1 + 1e-5) / float64(op.mean.c) }
func (op *CT) ImageShape(y [4]int) [4]int { return [4]int{y[0], op.h, op.w, op.mean.c} }
func (op *CT) IsLinear() bool             { return true }
func (op *CT) Task() Task                 { return TaskCT }

// Monochrome is true: only the mean of the channels is measured.
func (op *CT) Monochrome() bool { return true }

// View stretches every image's values to what a picture can show.
func (op *CT) View(y *tensor.Tensor) *tensor.Tensor {
	return viewed(y, 1, func(values []float64) {
		lo, hi := slices.Min(values), slices.Max(values)
		for i, v := range values {
			values[i] = 2*(v-lo)/max(hi-lo, 1e-12) - 1
		}
	})
}

var ctKind = kind{
	other:   true,
	numbers: []string{"views", "detectors"},
	shape: func(s Spec, h, w, _ int) (out [3]int, err error) {
		views, err := s.whole("views", 1, maxDetectors)
		if err != nil {
			return out, err
		}
		detectors, err := s.whole("detectors", 0, maxDetectors)
		if err == nil {
			detectors, err = ctDetectors(h, w, views, detectors)
		}
		return [3]int{views, detectors, 1}, err
	},
	build: func(d *tensor.Device, s Spec, h, w, c int) (Operator, error) {
		return orNil(NewCT(d, h, w, c, int(s.Numbers["views"]), int(s.Numbers["detectors"])))
	},
	text: func(s Spec) string { return fmt.Sprintf("%v parallel projections", s.Numbers["views"]) },
}
