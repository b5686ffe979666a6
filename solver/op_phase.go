package solver

import (
	"fmt"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// Phase is the measurement of the absolute values of a Fourier transform, whose phases are lost:
//
//	A(x) = |F u|,   u = (x+1)/2 inside a margin of zeros
//
// per channel, with the centred unitary transform F. The data tell the picture up to a rotation by 180 degrees.
type Phase struct {
	d          *tensor.Device
	h, w       int
	frame      [2]int            // with the margin
	margin     [2]int            // above and to the left
	gain, bias float64           // u = gain x + bias
	ones       *tensor.Tensor    // [1,H,W,1]
	place, cut [2]*tensor.Matrix // into the frame and back, with the signs that centre the transform
	plain      [2]*tensor.Matrix // back, without them
	corner     [2]*tensor.Matrix // brings the zero frequency from the middle to the corner
}

const (
	maxOversample = 8
	maxPhase      = 4096 // side of pictures
)

// NewPhase readies the operator for images of h x w on a device. The margin is floor(oversample/8 n) on every side, n/4 for
// an oversampling of 2; a frame of odd size gets one more row or column of zeros at its end. unscaled transforms x itself in
// place of (x+1)/2, an older convention. Free gives the memory back.
func NewPhase(d *tensor.Device, h, w int, oversample float64, unscaled bool) (op *Phase, err error) {
	defer tensor.Catch(&err)
	frame, err := phaseFrame(h, w, oversample)
	if err != nil {
		tensor.FailWith("solver.NewPhase", err, "images of %d x %d", h, w)
	}
	op = &Phase{d: d, h: h, w: w, frame: frame, gain: 0.5, bias: 0.5}
	if unscaled {
		op.gain, op.bias = 1, 0
	}
	for axis, n := range [2]int{h, w} {
		op.margin[axis] = phaseMargin(n, oversample)
		if axis == 1 && h == w {
			op.place[1], op.cut[1], op.plain[1], op.corner[1] = op.place[0], op.cut[0], op.plain[0], op.corner[0]
			continue
		}
		// On a frame of even size the sign (-1)^i moves the zero frequency to the middle of the transform. That the middle of
		// the picture is not at the origin changes phases only.
		m := newMatrix(frame[axis], n, func(i int, add func(j int, v float64)) {
			if j := i - op.margin[axis]; j >= 0 && j < n {
				add(j, float64(1-2*(i%2)))
			}
		})
		op.place[axis], op.cut[axis] = d.Matrix(m.banded()), d.Matrix(m.transposed().banded())
		op.plain[axis] = d.Matrix(selection(n, frame[axis], func(i int) int { return i + op.margin[axis] }).banded())
		op.corner[axis] = d.Matrix(rotation(frame[axis], frame[axis]/2).banded())
	}
	op.ones = d.From(uniform(1, [4]int{1, h, w, 1}), 1, h, w, 1)
	return op, nil
}

func phaseMargin(n int, oversample float64) int { return int(oversample / 8 * float64(n)) }

// phaseFrame is the size of what is measured.
func phaseFrame(h, w int, oversample float64) (frame [2]int, err error) {
	if !(oversample >= 0 && oversample <= maxOversample) {
		return frame, fmt.Errorf("oversampling %v: expected 0 to %d", oversample, maxOversample)
	}
	for axis, n := range [2]int{h, w} {
		if n < 1 || n > maxPhase {
			return frame, fmt.Errorf("pictures of %d x %d: sides may be 1 to %d", h, w, maxPhase)
		}
		frame[axis] = n + 2*phaseMargin(n, oversample)
		frame[axis] += frame[axis] % 2
	}
	return frame, nil
}

// Free gives the operator's memory back to the device.
func (op *Phase) Free() { op.ones.Free() }

// transform is F u.
func (op *Phase) transform(x *tensor.Tensor) (z *tensor.Tensor) {
	defer op.d.Tidy(&z)()
	u := op.d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: op.gain}, {X: op.ones, C: op.bias}}})
	u = op.d.Separable(nil, u, tensor.Separable{H: op.place[0], W: op.place[1], Alpha: 1})
	z = op.d.Pointwise(nil, kernels.PointComplex, u, nil, 0, 0)
	return op.d.Fourier(z, z, false)
}

func (op *Phase) Apply(x *tensor.Tensor) (y *tensor.Tensor) {
	defer op.d.Tidy(&y)()
	return op.d.Pointwise(nil, kernels.PointAbs, op.transform(x), nil, 0, 0)
}

// leastModulus keeps the phase of nothing at zero.
const leastModulus = 1e-8

// VJP is gain crop Re F^-1( r F u / |F u| ).
func (op *Phase) VJP(x, r *tensor.Tensor) (g *tensor.Tensor) {
	defer op.d.Tidy(&g)()
	return op.back(op.transform(x), r)
}

// slope transforms x once where Apply and VJP do it twice.
func (op *Phase) slope(x, y *tensor.Tensor) (g *tensor.Tensor) {
	defer op.d.Tidy(&g)()
	z := op.transform(x)
	return op.back(z, subtract(op.d.Pointwise(nil, kernels.PointAbs, z, nil, 0, 0), y))
}

// back is gain crop Re F^-1( r z / |z| ), in place of z.
func (op *Phase) back(z, r *tensor.Tensor) (g *tensor.Tensor) {
	defer op.d.Tidy(&g)()
	op.d.Pointwise(z, kernels.PointPhase, z, r, leastModulus, 0)
	v := op.d.Pointwise(nil, kernels.PointReal, op.d.Fourier(z, z, true), nil, 0, 0)
	return op.d.Separable(nil, v, tensor.Separable{H: op.cut[0], W: op.cut[1], Alpha: op.gain})
}

// Lipschitz is gain^2: the transform is unitary, and taking absolute values brings nothing farther apart.
func (op *Phase) Lipschitz() float64 { return op.gain * op.gain }

func (op *Phase) ImageShape(y [4]int) [4]int { return [4]int{y[0], op.h, op.w, y[3]} }
func (op *Phase) Task() Task                 { return TaskPhase }

// Guess is the first attempt of seed 0.
func (op *Phase) Guess(y *tensor.Tensor) *tensor.Tensor { return op.Attempt(y, 0, 0) }

// Effort of the first guess.
const (
	phaseStarts   = 4
	hybridSteps   = 200
	reducingSteps = 60
)

// Attempt is hybrid input-output with the picture's place and range as constraints (Fienup, Phase retrieval algorithms: a
// comparison). From u = clip(middle + n/4 range) with noise n in place, 0 outside,
//
//	v = Re F^-1( y F u / |F u| )
//	u = v where v is in place and in range, otherwise u - 0.9 v          200 times
//	u = clip(v) in place, 0 outside                                      60 times
//
// each channel from 4 starts. Channels found alone can be rotated against each other: so all of them are found once more from
// the u that explains its channel best.
func (op *Phase) Attempt(y *tensor.Tensor, seed uint64, number int) (x *tensor.Tensor) {
	d, c := op.d, y.C()
	defer d.Tidy(&x)()
	fh, fw := op.frame[0], op.frame[1]
	inside := make([]float32, fh*fw)
	for i := range op.h {
		for j := range op.w {
			inside[(op.margin[0]+i)*fw+op.margin[1]+j] = 1
		}
	}
	place := d.From(inside, 1, fh, fw, 1)
	starts := d.New(phaseStarts, fh, fw, c)
	noise := make([]float32, op.h*op.w*c)
	for k := range phaseStarts {
		philoxNoise{seed, domainPhase}.Normal(noise, 0, number*phaseStarts+k)
		u := make([]float32, fh*fw*c)
		for i, n := range noise {
			row, col := i/c/op.w, i/c%op.w
			v := min(max(0.5+float64(n)/4, 0), 1)
			u[((op.margin[0]+row)*fw+op.margin[1]+col)*c+i%c] = float32(op.gain*(2*v-1) + op.bias)
		}
		starts.SetImage(k, u)
	}
	found := d.New(y.N(), fh, fw, c)
	for n := range y.N() {
		tidy := d.Tidy()
		yn := d.Separable(nil, y.Rows(n, 0, fh), tensor.Separable{H: op.corner[0], W: op.corner[1], Alpha: 1})
		u := op.hybrid(copied(starts), yn, place)
		found.SetRows(n, 0, op.hybrid(op.best(u, yn), yn, place))
		tidy()
	}
	out := d.Separable(nil, found, tensor.Separable{H: op.plain[0], W: op.plain[1], Alpha: 1 / op.gain})
	return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: out, C: 1}, {X: op.ones, C: -op.bias / op.gain}}})
}

// hybrid overwrites pictures u in their frames, which lie as the transform has them, and returns them.
func (op *Phase) hybrid(u, y, place *tensor.Tensor) *tensor.Tensor {
	d := op.d
	lo, hi := op.bias-op.gain, op.bias+op.gain
	for step := range hybridSteps + reducingSteps {
		tidy := d.Tidy()
		z := d.Pointwise(nil, kernels.PointComplex, u, nil, 0, 0)
		d.Pointwise(z, kernels.PointPhase, d.Fourier(z, z, false), y, leastModulus, 0)
		v := d.Pointwise(nil, kernels.PointReal, d.Fourier(z, z, true), nil, 0, 0)
		if step < hybridSteps {
			good := d.Pointwise(nil, kernels.PointWithin, v, nil, lo, hi)
			d.Pointwise(good, kernels.PointMul, good, place, 0, 0)
			d.Blend(u, tensor.Blend{Terms: []tensor.Term{{X: u, C: 1}, {X: v, C: -0.9}}})
			d.Blend(u, tensor.Blend{Terms: []tensor.Term{{X: v, C: 1}}, Mask: good, Else: u})
		} else {
			d.Pointwise(v, kernels.PointClip, v, nil, lo, hi)
			d.Blend(u, tensor.Blend{Terms: []tensor.Term{{X: v, C: 1}}, Mask: place})
		}
		tidy()
	}
	return u
}

// best is, in all channels, the channel of the starts u with the smallest | |F u| - y | / |y|.
func (op *Phase) best(u, y *tensor.Tensor) *tensor.Tensor {
	d, c := op.d, y.C()
	modulus := d.Pointwise(nil, kernels.PointComplex, u, nil, 0, 0)
	d.Fourier(modulus, modulus, false)
	var data [3][]float32
	for i, t := range []*tensor.Tensor{d.Pointwise(nil, kernels.PointAbs, modulus, nil, 0, 0), y, u} {
		var err error
		if data[i], err = t.Floats(); err != nil {
			tensor.FailWith("solver.Phase", err, "first guess")
		}
	}
	misfit, size := make([]float64, u.N()*c), make([]float64, c)
	for i, v := range data[0] {
		want := float64(data[1][i%len(data[1])])
		diff := float64(v) - want
		misfit[i/len(data[1])*c+i%c] += diff * diff
		size[i%c] += want * want / float64(u.N())
	}
	first := 0
	for i := range misfit {
		if misfit[i]*size[first%c] < misfit[first]*size[i%c] {
			first = i
		}
	}
	plane := make([]float32, len(data[1]))
	for i := range plane {
		plane[i] = data[2][first/c*len(plane)+i/c*c+first%c]
	}
	return d.From(plane, 1, y.H(), y.W(), c)
}

// View is the logarithm of the absolute values.
func (op *Phase) View(y *tensor.Tensor) *tensor.Tensor { return logarithmic(y, 1) }

var phaseKind = kind{
	other: true, turnable: true,
	numbers: []string{"oversample", "unscaled"},
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		if _, err := s.whole("unscaled", 0, 1); err != nil {
			return out, err
		}
		frame, err := phaseFrame(h, w, s.Numbers["oversample"])
		return [3]int{frame[0], frame[1], c}, err
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		return orNil(NewPhase(d, h, w, s.Numbers["oversample"], s.Numbers["unscaled"] == 1))
	},
	text: func(s Spec) string {
		return fmt.Sprintf("Fourier moduli, oversampled %v times", s.Numbers["oversample"])
	},
}
