package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// SoftJPEG is a JPEG codec of 4:2:0 in pixels whose rounding has a slope, the measurement of research code. With C planes,
// averages and the DCT of blocks, T the tables and B its way back to pixels,
//
//	A(x) = clip(B(T round'(C(x)/T)), -1, 1),   round'(v) = round(v) + (v - round(v))^3
//
// Chroma is smoothed by a Gaussian of 3 x 3 before it is averaged, and interpolated linearly afterwards. The slope 3 (v - round(v))^2
// is nearly zero almost everywhere, so that nothing is reconstructed by it: JPEG is for that. It is here to be compared with.
type SoftJPEG struct {
	quality     int
	h, w        int
	forward     [2][2]*tensor.Matrix // luma and chroma: averaging and DCT, over rows and over columns
	forwardT    [2][2]*tensor.Matrix
	back        [2][2]*tensor.Matrix // inverse DCT and interpolation
	backT       [2][2]*tensor.Matrix
	split       [2]*tensor.Kernel // to luma and to chroma, in levels
	color       *tensor.Kernel
	splitT      *tensor.Kernel
	pick        [2]*tensor.Kernel // transposes of color
	scale, wide [2]*tensor.Tensor // 1/T and T in units of images, [1,H,W,C] of the coefficients
	shift       [2]*tensor.Tensor // what half a level is of the coefficients/T: the mean of a block lies half a level low
	middle      *tensor.Tensor    // what it is of the colours, [1,H,W,3]
}

// softMatrix and softInverse are the colours of that codec: Y, and B-Y and R-Y scaled.
var (
	softMatrix = [3][3]float64{
		{0.299, 0.587, 0.114},
		{-0.299 * 0.564, -0.587 * 0.564, 0.886 * 0.564},
		{0.701 * 0.713, -0.587 * 0.713, -0.114 * 0.713},
	}
	softInverse = [3][3]float64{{1, 0, 1.4025245442}, {1, -0.3443401356, -0.7144034731}, {1, 1.7730496454, 0}}
)

// softFloor is floor(v) + (v - 1/2 - floor(v))^3.
func softFloor(v float64) float64 { return math.Floor(v) + math.Pow(v-0.5-math.Floor(v), 3) }

// softTable are its steps.
func softTable(quality, plane int) (steps [64]float64) {
	scale := softFloor(200 - 2*float64(quality))
	if quality < 50 {
		scale = softFloor(5000 / float64(quality))
	}
	for i, q := range annexK[plane] {
		v := (float64(q)*scale + 50) / 100
		switch {
		case v > 255:
			v = 255 - 0.02*(math.Exp(-(v-255))-1)
		case v < 1:
			v = 1 + 0.02*(math.Exp(v-1)-1)
		}
		steps[i] = softFloor(v)
	}
	return steps
}

// NewSoftJPEG readies the operator for images of h x w, multiples of 16, on a device. Free gives the memory back.
func NewSoftJPEG(d *tensor.Device, h, w, quality int) (op *SoftJPEG, err error) {
	defer tensor.Catch(&err)
	if quality < 1 || quality > 100 || h <= 0 || w <= 0 || h > maxSide || w > maxSide || h%16 != 0 || w%16 != 0 {
		tensor.Fail("solver.NewSoftJPEG", "quality %d for images of %d x %d: it must be 1 to 100, and sides multiples of 16", quality, h, w)
	}
	op = &SoftJPEG{quality: quality, h: h, w: w}
	for p := range 2 {
		for axis, n := range [2]int{h, w} {
			forward, back := blocks(n, n, n, 1), unblocks(n, n, 1, false)
			if p == 1 {
				forward, back = softChroma(n), unblocks(n, n/2, 2, true)
			}
			op.forward[p][axis], op.forwardT[p][axis] = d.Matrix(forward.banded()), d.Matrix(forward.transposed().banded())
			op.back[p][axis], op.backT[p][axis] = d.Matrix(back.banded()), d.Matrix(back.transposed().banded())
		}
	}
	op.split = [2]*tensor.Kernel{colorKernel(d, 1, 3, func(_, i int) float64 { return softMatrix[0][i] }), colorKernel(d, 2, 3, func(o, i int) float64 { return softMatrix[1+o][i] })}
	op.splitT = colorKernel(d, 3, 3, func(o, i int) float64 { return softMatrix[i][o] })
	op.color = colorKernel(d, 3, 3, func(o, i int) float64 { return softInverse[o][i] })
	op.pick = [2]*tensor.Kernel{colorKernel(d, 1, 3, func(_, i int) float64 { return softInverse[i][0] }), colorKernel(d, 2, 3, func(o, i int) float64 { return softInverse[i][1+o] })}
	for p := range 2 {
		c, ch, cw := 1+p, h>>p, w>>p
		steps := softTable(quality, p)
		scale, wide, shift := make([]float32, ch*cw*c), make([]float32, ch*cw*c), make([]float32, ch*cw*c)
		for i := range scale {
			row, column := i/c/cw, i/c%cw
			step := steps[row%8*8+column%8]
			scale[i], wide[i] = float32(1/(step*jpegUnit)), float32(step*jpegUnit)
			if row%8 == 0 && column%8 == 0 {
				shift[i] = float32(-8 * 0.5 / step)
			}
		}
		op.scale[p], op.wide[p], op.shift[p] = d.From(scale, 1, ch, cw, c), d.From(wide, 1, ch, cw, c), d.From(shift, 1, ch, cw, c)
	}
	middle := make([]float32, h*w*3)
	for i := range middle {
		m := softInverse[i%3]
		middle[i] = float32((m[0] + m[1] + m[2]) * 0.5 * jpegUnit)
	}
	op.middle = d.From(middle, 1, h, w, 3)
	return op, nil
}

// softChroma is the matrix from n pixels to the coefficients of chroma: a Gaussian of deviation 1/2 on three pixels, the borders
// mirrored without their edge pixels, means of two, and the DCT of eight of those.
func softChroma(n int) *matrix {
	u := cosines(8)
	side := math.Exp(-2) / (1 + 2*math.Exp(-2))
	return newMatrix(n/2, n, func(i int, add func(j int, v float64)) {
		for k, v := range u.w[i%8] {
			for j := range 2 {
				at := (i/8*8+k)*2 + j
				add(mirrorCentre(at-1, n), v/2*side)
				add(at, v/2*(1-2*side))
				add(mirrorCentre(at+1, n), v/2*side)
			}
		}
	})
}

// Free gives the operator's memory back to the device.
func (op *SoftJPEG) Free() {
	for _, t := range []*tensor.Tensor{op.scale[0], op.scale[1], op.wide[0], op.wide[1], op.shift[0], op.shift[1], op.middle} {
		t.Free()
	}
}

// coefficients are C(x)/T of a plane and what rounding leaves of them.
func (op *SoftJPEG) coefficients(x *tensor.Tensor, p int) (v, rest *tensor.Tensor) {
	d := x.Device()
	v = d.Separable(nil, d.Conv2D(op.split[p], tensor.Input{X: x}, tensor.Epilogue{}), tensor.Separable{H: op.forward[p][0], W: op.forward[p][1], Alpha: 1})
	d.Pointwise(v, kernels.PointMul, v, op.scale[p], 0, 0)
	d.Blend(v, tensor.Blend{Terms: []tensor.Term{{X: v, C: 1}, {X: op.shift[p], C: 1}}})
	return v, subtract(v, d.Pointwise(nil, kernels.PointRound, v, nil, 1, 0))
}

// decoded is the picture before it is clipped.
func (op *SoftJPEG) decoded(x *tensor.Tensor) *tensor.Tensor {
	d := x.Device()
	var both [2]*tensor.Tensor
	for p := range both {
		v, rest := op.coefficients(x, p)
		cube := d.Pointwise(nil, kernels.PointMul, rest, rest, 0, 0)
		d.Pointwise(cube, kernels.PointMul, cube, rest, 0, 0)
		k := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: v, C: 1}, {X: rest, C: -1}, {X: cube, C: 1}}})
		d.Pointwise(k, kernels.PointMul, k, op.wide[p], 0, 0)
		both[p] = d.Separable(nil, k, tensor.Separable{H: op.back[p][0], W: op.back[p][1], Alpha: 1})
	}
	return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: mix(op.color, both), C: 1}, {X: op.middle, C: 1}}})
}

func (op *SoftJPEG) Apply(x *tensor.Tensor) (y *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&y)()
	return d.Pointwise(nil, kernels.PointClip, op.decoded(x), nil, -1, 1)
}

// VJP passes r where nothing was clipped, by the slope of the rounding.
func (op *SoftJPEG) VJP(x, r *tensor.Tensor) (g *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&g)()
	within := d.Pointwise(nil, kernels.PointWithin, op.decoded(x), nil, -1, 1)
	r = d.Pointwise(within, kernels.PointMul, within, r, 0, 0)
	var both [2]*tensor.Tensor
	for p := range both {
		back := d.Separable(nil, d.Conv2D(op.pick[p], tensor.Input{X: r}, tensor.Epilogue{}), tensor.Separable{H: op.backT[p][0], W: op.backT[p][1], Alpha: 3})
		_, rest := op.coefficients(x, p)
		for range 2 {
			d.Pointwise(back, kernels.PointMul, back, rest, 0, 0)
		}
		both[p] = d.Separable(nil, back, tensor.Separable{H: op.forwardT[p][0], W: op.forwardT[p][1], Alpha: 1})
	}
	return mix(op.splitT, both)
}

// Guess is y.
func (op *SoftJPEG) Guess(y *tensor.Tensor) *tensor.Tensor { return y }
func (op *SoftJPEG) Task() Task                            { return TaskOther }

var softJPEGKind = kind{
	numbers: []string{"quality"},
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		if _, err := s.whole("quality", 1, 100); err != nil {
			return out, err
		}
		if c != 3 || h%16 != 0 || w%16 != 0 {
			return out, fmt.Errorf("soft JPEG of images of %d x %d with %d channels: three are needed, and sides that are multiples of 16", h, w, c)
		}
		return [3]int{h, w, c}, nil
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		return orNil(NewSoftJPEG(d, h, w, int(s.Numbers["quality"])))
	},
	text: func(s Spec) string { return fmt.Sprintf("soft JPEG of quality %v", s.Numbers["quality"]) },
}
