package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// MRI is the measurement of some columns of the centred unitary Fourier transform of a picture, as one coil of a magnetic
// resonance scanner does it line by line: with the mean M over the channels and a mask m of columns,
//
//	A(x) = m F M x
//
// The result has a real and an imaginary channel, which are zero where nothing was measured. Pictures are real, so the
// frequency -k says the same as k, and a mask that is not symmetric tells up to twice what it measures.
type MRI struct {
	h, w           int
	lines          []bool
	mean           mean
	corner, centre [2]*tensor.Matrix // turn the middle into the corner and back
	mask           *tensor.Tensor    // [1,H,W,1], as are the following
	once, twice    *tensor.Tensor    // measured columns whose mirror image is not measured, and is
}

// NewMRI readies the operator for images of h x w with c channels on a device. lines tells which of the w columns of the
// transform are measured, the zero frequency being column w/2. Free gives the memory back.
func NewMRI(d *tensor.Device, h, w, c int, lines []bool) (op *MRI, err error) {
	defer tensor.Catch(&err)
	if h < 1 || w < 1 || h > maxSide || w > maxSide || c < 1 || len(lines) != w {
		tensor.Fail("solver.NewMRI", "%d lines for images of %d x %d with %d channels: expected one for every column", len(lines), h, w, c)
	}
	op = &MRI{h: h, w: w, lines: lines, mean: newMean(d, c)}
	for axis, n := range [2]int{h, w} {
		op.corner[axis], op.centre[axis] = d.Matrix(rotation(n, n/2).banded()), d.Matrix(rotation(n, n-n/2).banded())
	}
	columns := func(in func(k int) bool) *tensor.Tensor {
		data := make([]float32, h*w)
		for i := range data {
			if lines[i%w] && in(i%w) {
				data[i] = 1
			}
		}
		return d.From(data, 1, h, w, 1)
	}
	mirrored := func(k int) bool { return lines[(2*(w/2)-k+w)%w] }
	op.mask = columns(func(int) bool { return true })
	op.twice = columns(mirrored)
	op.once = columns(func(k int) bool { return !mirrored(k) })
	return op, nil
}

// Free gives the operator's memory back to the device.
func (op *MRI) Free() {
	for _, t := range []*tensor.Tensor{op.mask, op.once, op.twice} {
		t.Free()
	}
}

func (op *MRI) Apply(x *tensor.Tensor) (y *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&y)()
	g := d.Separable(nil, op.mean.of(x), tensor.Separable{H: op.corner[0], W: op.corner[1], Alpha: 1})
	z := d.Pointwise(nil, kernels.PointComplex, g, nil, 0, 0)
	d.Fourier(z, z, false)
	return op.Restrict(d.Separable(nil, z, tensor.Separable{H: op.centre[0], W: op.centre[1], Alpha: 1}))
}

// back is Re F^-1 m r.
func (op *MRI) back(r *tensor.Tensor) *tensor.Tensor {
	d := r.Device()
	z := d.Separable(nil, op.Restrict(r), tensor.Separable{H: op.corner[0], W: op.corner[1], Alpha: 1})
	g := d.Pointwise(nil, kernels.PointReal, d.Fourier(z, z, true), nil, 0, 0)
	return d.Separable(nil, g, tensor.Separable{H: op.centre[0], W: op.centre[1], Alpha: 1})
}

// VJP is M^T Re F^-1 m r.
func (op *MRI) VJP(_, r *tensor.Tensor) (g *tensor.Tensor) {
	defer r.Device().Tidy(&g)()
	return op.mean.spread(nil, op.back(r), 1)
}

// Restrict clears what was not measured.
func (op *MRI) Restrict(y *tensor.Tensor) *tensor.Tensor {
	return y.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}}, Mask: op.mask})
}

// Prox is exact. On real pictures B = m F has B^T B = F^-1 s F, with s the mean of the mask and its mirror image: 1 where
// a frequency was measured twice and 1/2 where once. So with c channels
//
//	x0 + c M^T Re F^-1[ m (y - A x0) / (s + c rho) ]
func (op *MRI) Prox(x0, y *tensor.Tensor, rho float64) (x *tensor.Tensor) {
	defer y.Device().Tidy(&x)()
	c := float64(op.mean.c)
	return op.mean.spread(x0, op.back(op.weighted(subtract(y, op.Apply(x0)), c*rho)), c)
}

// weighted is r / (s + rho).
func (op *MRI) weighted(r *tensor.Tensor, rho float64) *tensor.Tensor {
	d := r.Device()
	w := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: op.once, C: 1 / (0.5 + rho)}, {X: op.twice, C: 1 / (1 + rho)}}})
	return d.Pointwise(nil, kernels.PointMul, r, w, 0, 0)
}

// Guess is the smallest picture that explains y, zero where nothing was measured.
func (op *MRI) Guess(y *tensor.Tensor) (x *tensor.Tensor) {
	defer y.Device().Tidy(&x)()
	return op.mean.spread(nil, op.back(op.weighted(y, 0)), float64(op.mean.c))
}

// Counts is the number of real and imaginary parts that were measured.
func (op *MRI) Counts([4]int) []int { return []int{2 * op.h * count(op.lines)} }

// Lipschitz is 1/c.
func (op *MRI) Lipschitz() float64         { return 1 / float64(op.mean.c) }
func (op *MRI) ImageShape(y [4]int) [4]int { return [4]int{y[0], op.h, op.w, op.mean.c} }
func (op *MRI) IsLinear() bool             { return true }
func (op *MRI) Task() Task                 { return TaskMRI }

func count(list []bool) (n int) {
	for _, v := range list {
		if v {
			n++
		}
	}
	return n
}

// Lines chooses round(w/acceleration) of w columns of a centred transform: round(centre w) around the zero frequency, 0
// meaning a share of 0.32/acceleration, and others at equal distances (kind "equispaced", the seed choosing where they
// begin) or drawn without replacement ("random").
func Lines(w int, acceleration, centre float64, kind string, seed uint64) (lines []bool, err error) {
	if w < 1 || w > maxSide || !(acceleration >= 1 && acceleration <= float64(w)) || !(centre >= 0 && centre <= 1) {
		return nil, fmt.Errorf("solver.Lines: acceleration %v of %d columns with the share %v in the centre: expected 1 to the number of columns, and 0 to 1", acceleration, w, centre)
	}
	if centre == 0 {
		centre = 0.32 / acceleration
	}
	total, middle := int(math.Round(float64(w)/acceleration)), int(math.Round(centre*float64(w)))
	if middle > total {
		return nil, fmt.Errorf("solver.Lines: the centre has %d columns, and acceleration %v leaves %d of %d: a smaller centre is needed", middle, acceleration, total, w)
	}
	lines = make([]bool, w)
	first := w/2 - middle/2
	var rest []int // columns that are left, from one end to the other
	for k := range w {
		if k >= first && k < first+middle {
			lines[k] = true
		} else {
			rest = append(rest, k)
		}
	}
	s, wanted := newStream(seed, domainLines), total-middle
	switch kind {
	case "equispaced":
		from := s.float()
		for i := range wanted {
			lines[rest[int((float64(i)+from)*float64(len(rest))/float64(wanted))]] = true
		}
	case "random":
		for i := range wanted {
			j := i + s.below(len(rest)-i)
			rest[i], rest[j] = rest[j], rest[i]
			lines[rest[i]] = true
		}
	default:
		return nil, fmt.Errorf("solver.Lines: kind %q: expected equispaced or random", kind)
	}
	return lines, nil
}

// Monochrome is true: only the mean of the channels is measured.
func (op *MRI) Monochrome() bool { return true }

// View is the logarithm of the absolute values.
func (op *MRI) View(y *tensor.Tensor) *tensor.Tensor { return logarithmic(y, 2) }

var mriKind = kind{
	other:  true,
	arrays: []string{"lines"}, // 1 for columns that are measured, 0 for others
	shape: func(s Spec, h, w, _ int) (out [3]int, err error) {
		_, err = s.choice("lines", w)
		return [3]int{h, w, 2}, err
	},
	build: func(d *tensor.Device, s Spec, h, w, c int) (Operator, error) {
		lines, err := s.choice("lines", w)
		if err != nil {
			return nil, err
		}
		return orNil(NewMRI(d, h, w, c, lines))
	},
	text: func(s Spec) string {
		lines, _ := s.choice("lines", len(s.Arrays["lines"].Data))
		return fmt.Sprintf("%d of %d lines in Fourier space", count(lines), len(lines))
	},
}
