package solver

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/spin-native/spin/tensor"
)

// SinglePixel is the measurement of some coefficients of the orthonormal Walsh-Hadamard transform of every channel, as a
// camera with one detector behind a mask of black and white squares takes them: with a mask m of coefficients,
//
//	A(x) = m (Hh x Hw)
//
// Coefficient (i,j) changes sign i times from top to bottom and j times from left to right. The result has the size of the
// picture and is zero where nothing was measured; A A^T = 1 elsewhere.
type SinglePixel struct {
	h, w   int
	chosen []bool
	walsh  [2]*tensor.Matrix // symmetric
	mask   *tensor.Tensor    // [1,H,W,1]
}

const maxHadamard = 2048

// NewSinglePixel readies the operator for images of h x w, powers of two, on a device; chosen tells which coefficients are
// measured, row by row. Free gives the memory back.
func NewSinglePixel(d *tensor.Device, h, w int, chosen []bool) (op *SinglePixel, err error) {
	defer tensor.Catch(&err)
	if err := hadamardSize(h, w); err != nil {
		tensor.FailWith("solver.NewSinglePixel", err, "images of %d x %d", h, w)
	}
	if len(chosen) != h*w {
		tensor.Fail("solver.NewSinglePixel", "%d coefficients chosen or not for images of %d x %d", len(chosen), h, w)
	}
	op = &SinglePixel{h: h, w: w, chosen: chosen}
	for axis, n := range [2]int{h, w} {
		op.walsh[axis] = d.Matrix(walsh(n).banded())
	}
	mask := make([]float32, h*w)
	for i, v := range chosen {
		if v {
			mask[i] = 1
		}
	}
	op.mask = d.From(mask, 1, h, w, 1)
	return op, nil
}

func hadamardSize(h, w int) error {
	if h < 1 || w < 1 || h > maxHadamard || w > maxHadamard || h&(h-1) != 0 || w&(w-1) != 0 {
		return fmt.Errorf("images of %d x %d: the sides must be powers of two, at most %d", h, w, maxHadamard)
	}
	return nil
}

// walsh is the orthonormal Walsh matrix of size n, a power of two, its rows in the order of their changes of sign. It is
// symmetric. Row s is row bitreverse(s xor s/2) of Hadamard's matrix, whose element (r,j) is (-1)^bits(r and j).
func walsh(n int) *matrix {
	return newMatrix(n, n, func(s int, add func(j int, v float64)) {
		r := uint(0)
		if n > 1 {
			r = uint(bits.Reverse64(uint64(s^s>>1)) >> (64 - bits.TrailingZeros(uint(n))))
		}
		for j := range n {
			add(j, float64(1-2*(bits.OnesCount(r&uint(j))%2))/math.Sqrt(float64(n)))
		}
	})
}

// Coefficients chooses round(ratio h w) coefficients: those with the fewest changes of sign along both axes together (kind
// "sequency"), or the constant one and others drawn without replacement ("random").
func Coefficients(h, w int, ratio float64, kind string, seed uint64) (chosen []bool, err error) {
	if err := hadamardSize(h, w); err != nil {
		return nil, fmt.Errorf("solver.Coefficients: %w", err)
	}
	if !(ratio > 0 && ratio <= 1) {
		return nil, fmt.Errorf("solver.Coefficients: ratio %v: expected more than 0, and 1 at most", ratio)
	}
	order := make([]int, h*w)
	for i := range order {
		order[i] = i
	}
	n := max(int(math.Round(ratio*float64(h*w))), 1)
	switch kind {
	case "sequency":
		changes := func(i int) int { return i/w*w + i%w*h } // of the picture's share of a side
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(changes(a), changes(b)) })
	case "random":
		s := newStream(seed, domainLines)
		for i := 1; i < n; i++ {
			j := i + s.below(len(order)-i)
			order[i], order[j] = order[j], order[i]
		}
	default:
		return nil, fmt.Errorf("solver.Coefficients: kind %q: expected sequency or random", kind)
	}
	chosen = make([]bool, h*w)
	for _, i := range order[:n] {
		chosen[i] = true
	}
	return chosen, nil
}

// Free gives the operator's memory back to the device.
func (op *SinglePixel) Free() { op.mask.Free() }

func (op *SinglePixel) transform(x *tensor.Tensor) *tensor.Tensor {
	return x.Device().Separable(nil, x, tensor.Separable{H: op.walsh[0], W: op.walsh[1], Alpha: 1})
}

func (op *SinglePixel) Apply(x *tensor.Tensor) (y *tensor.Tensor) {
	defer x.Device().Tidy(&y)()
	return op.Restrict(op.transform(x))
}

func (op *SinglePixel) VJP(_, r *tensor.Tensor) (x *tensor.Tensor) {
	defer r.Device().Tidy(&x)()
	return op.transform(op.Restrict(r))
}

// Restrict clears what was not measured.
func (op *SinglePixel) Restrict(y *tensor.Tensor) *tensor.Tensor {
	return y.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}}, Mask: op.mask})
}

// Prox is x0 + A^T (y - A x0) / (1 + rho).
func (op *SinglePixel) Prox(x0, y *tensor.Tensor, rho float64) (x *tensor.Tensor) {
	d := y.Device()
	defer d.Tidy(&x)()
	r := subtract(op.Restrict(y), op.Apply(x0))
	return d.Separable(nil, r, tensor.Separable{H: op.walsh[0], W: op.walsh[1], Alpha: 1 / (1 + rho), Add: x0, Beta: 1})
}

// Guess is the smallest picture that explains y.
func (op *SinglePixel) Guess(y *tensor.Tensor) *tensor.Tensor { return op.VJP(nil, y) }

// Counts is the number of measured coefficients.
func (op *SinglePixel) Counts(y [4]int) []int { return []int{y[3] * count(op.chosen)} }

func (op *SinglePixel) Lipschitz() float64 { return 1 }
func (op *SinglePixel) IsLinear() bool     { return true }
func (op *SinglePixel) Task() Task         { return TaskSinglePixel }

// View is the logarithm of the absolute values.
func (op *SinglePixel) View(y *tensor.Tensor) *tensor.Tensor { return logarithmic(y, 1) }

var singlePixelKind = kind{
	other:  true,
	arrays: []string{"chosen"}, // [H,W], 1 for coefficients that are measured, 0 for others
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		if err := hadamardSize(h, w); err != nil {
			return out, err
		}
		_, err = s.choice("chosen", h, w)
		return [3]int{h, w, c}, err
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		chosen, err := s.choice("chosen", h, w)
		if err != nil {
			return nil, err
		}
		return orNil(NewSinglePixel(d, h, w, chosen))
	},
	text: func(s Spec) string {
		shape := s.Arrays["chosen"].Shape
		chosen, _ := s.choice("chosen", shape...)
		return fmt.Sprintf("%.3g of the Walsh-Hadamard coefficients", float64(count(chosen))/float64(max(len(chosen), 1)))
	},
}
