package solver

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// JPEGFormat is what a JPEG file tells about the making of its coefficients.
type JPEGFormat struct {
	Across, Down int // pixels for one sample of chroma: 1, 2 or 4
	// Tables are the steps of the 64 coefficients of a block, row by row, on the scale of 8 bits: of luma, Cb and Cr, or of
	// luma alone where the file is grey.
	Tables [][64]int
}

// StandardJPEG is the format that most encoders write at a quality of 1 to 100: the tables of Annex K, scaled.
func StandardJPEG(quality, across, down int) JPEGFormat {
	quality = min(max(quality, 1), 100)
	scale := 200 - 2*quality
	if quality < 50 {
		scale = 5000 / quality
	}
	f := JPEGFormat{across, down, make([][64]int, 3)}
	for p := range f.Tables {
		for i, q := range annexK[min(p, 1)] {
			f.Tables[p][i] = min(max((q*scale+50)/100, 1), 255)
		}
	}
	return f
}

// annexK are the tables for luma and chroma of the standard's Annex K.
var annexK = [2][64]int{{
	16, 11, 10, 16, 24, 40, 51, 61,
	12, 12, 14, 19, 26, 58, 60, 55,
	14, 13, 16, 24, 40, 57, 69, 56,
	14, 17, 22, 29, 51, 87, 80, 62,
	18, 22, 37, 56, 68, 109, 103, 77,
	24, 35, 55, 64, 81, 104, 113, 92,
	49, 64, 78, 87, 103, 121, 120, 101,
	72, 92, 95, 98, 112, 100, 103, 99,
}, {
	17, 18, 24, 47, 99, 99, 99, 99,
	18, 21, 26, 66, 99, 99, 99, 99,
	24, 26, 56, 99, 99, 99, 99, 99,
	47, 66, 99, 99, 99, 99, 99, 99,
	99, 99, 99, 99, 99, 99, 99, 99,
	99, 99, 99, 99, 99, 99, 99, 99,
	99, 99, 99, 99, 99, 99, 99, 99,
	99, 99, 99, 99, 99, 99, 99, 99,
}}

// Quality is the quality whose standard table of luma comes nearest.
func (f JPEGFormat) Quality() int {
	best, least := 1, math.Inf(1)
	for q := 1; q <= 100; q++ {
		var off float64
		for i, v := range StandardJPEG(q, 1, 1).Tables[0] {
			off += math.Abs(math.Log(float64(v) / float64(f.Tables[0][i])))
		}
		if off < least {
			best, least = q, off
		}
	}
	return best
}

// Sampling is the sampling of chroma as it is called: 4:4:4, 4:2:2, 4:2:0, ..., or grey.
func (f JPEGFormat) Sampling() string {
	if len(f.Tables) == 1 {
		return "grey"
	}
	b := 4 / f.Across
	if f.Down == 1 {
		return fmt.Sprintf("4:%d:%d", b, b)
	}
	if f.Down == 2 {
		if f.Across == 1 {
			return "4:4:0"
		}
		return fmt.Sprintf("4:%d:0", b)
	}
	return fmt.Sprintf("chroma of %d x %d", f.Across, f.Down)
}

func (f JPEGFormat) check() error {
	for _, n := range []int{f.Across, f.Down} {
		if n != 1 && n != 2 && n != 4 {
			return fmt.Errorf("chroma of %d x %d pixels a sample, expected 1, 2 or 4", f.Across, f.Down)
		}
	}
	if len(f.Tables) != 1 && len(f.Tables) != 3 {
		return fmt.Errorf("%d tables, expected 1 or 3", len(f.Tables))
	}
	for _, t := range f.Tables {
		for i, q := range t {
			if q < 1 || q > 1<<16 {
				return fmt.Errorf("step %d of a table is %d", i, q)
			}
		}
	}
	return nil
}

// sides are the height and width of the coefficients of a plane, for pictures of h x w: whole blocks. Blocks in which
// nothing of the picture lies, which some files have, say nothing and do not count.
func (f JPEGFormat) sides(plane, h, w int) (int, int) {
	if plane > 0 {
		h, w = (h+f.Down-1)/f.Down, (w+f.Across-1)/f.Across
	}
	return (h + 7) / 8 * 8, (w + 7) / 8 * 8
}

// units of 8 bits in those of images.
const jpegUnit = 1 / 127.5

var rootTwelve = math.Sqrt(12)

// Spec describes the operator, JPEG or JPEGBox.
func (f JPEGFormat) Spec(box bool) Spec {
	s := Spec{Kind: "jpeg", Numbers: map[string]float64{"across": float64(f.Across), "down": float64(f.Down)}}
	if box {
		s.Kind = "jpeg_box"
	}
	a := Array{Shape: []int{len(f.Tables), 64}}
	for _, t := range f.Tables {
		for _, q := range t {
			a.Data = append(a.Data, float32(q))
		}
	}
	s.Arrays = map[string]Array{"tables": a}
	return s
}

// jpegFormat is the format that a spec describes.
func jpegFormat(s Spec) (f JPEGFormat, err error) {
	a := s.Arrays["tables"]
	if len(a.Shape) != 2 || a.Shape[1] != 64 {
		return f, fmt.Errorf("tables of shape %v, expected [1 64] or [3 64]", a.Shape)
	}
	f.Tables = make([][64]int, a.Shape[0])
	for i, v := range a.Data {
		if f.Tables[i/64][i%64] = int(v); float32(f.Tables[i/64][i%64]) != v {
			return f, fmt.Errorf("step %v in a table", v)
		}
	}
	if f.Across, err = s.whole("across", 1, 4); err == nil {
		f.Down, err = s.whole("down", 1, 4)
	}
	if err == nil {
		err = f.check()
	}
	return f, err
}

// Measurement is what a file of this format says about a picture of h x w pixels, by JPEG or JPEGBox: coefficients are the
// integers that it has for a plane, counted like pixels, blocks side by side.
func (f JPEGFormat) Measurement(h, w int, box bool, coefficients func(plane, row, column int) int) (*Measurement, error) {
	m := &Measurement{Image: [3]int{3, h, w}, Operator: f.Spec(box), Sigma: 1}
	if box {
		m.Sigma = 0
	}
	out, err := m.Operator.Check(h, w, 3)
	if err != nil {
		return nil, fmt.Errorf("solver.JPEGFormat: %w", err)
	}
	m.Shape = [4]int{1, out[2], out[0], out[1]}
	y := f.each(h, w, func(p, i, j int) float64 {
		return f.value(h, w, box, p, i, j, float64(coefficients(p, i, j)))
	})
	m.Y = planar(y, m.Shape)
	return m, nil
}

// value is what stands in a measurement for the integer k: sqrt(12) k with the weight of its place. 128, which luma is
// shifted by, is half a level above the middle of the scale.
func (f JPEGFormat) value(h, w int, box bool, p, i, j int, k float64) float64 {
	if p == 0 && i%8 == 0 && j%8 == 0 {
		k += 8 * 0.5 / float64(f.Tables[0][0])
	}
	return rootTwelve * k * f.weight(h, w, box, p, i, j)
}

// weight is 1, and less in blocks that a border cuts: the last row is repeated there, and would count for as many as it is
// repeated for. JPEGBox leaves it at that.
func (f JPEGFormat) weight(h, w int, box bool, p, i, j int) float64 {
	if box {
		return 1
	}
	weight := 1.0
	ph, pw := f.sides(p, h, w)
	for _, a := range [2][4]int{{i, ph, h, f.Down}, {j, pw, w, f.Across}} {
		at, size, n, step := a[0], a[1], a[2], a[3]
		if p == 0 {
			step = 1
		}
		if at/8 == size/8-1 {
			weight /= math.Sqrt(float64(1 + step*(size-(n+step-1)/step)))
		}
	}
	return weight
}

// scale is what turns coefficients into measurements, NHWC: sqrt(12)/q with the weight; 0 where there are none.
func (f JPEGFormat) scale(h, w int, box bool) []float32 {
	return f.each(h, w, func(p, i, j int) float64 {
		return rootTwelve * f.weight(h, w, box, p, i, j) / (float64(f.Tables[p][i%8*8+j%8]) * jpegUnit)
	})
}

// each fills the coefficients of a measurement, NHWC.
func (f JPEGFormat) each(h, w int, v func(plane, row, column int) float64) []float32 {
	lh, lw := f.sides(0, h, w)
	planes := len(f.Tables)
	out := make([]float32, lh*lw*planes)
	for p := range planes {
		ph, pw := f.sides(p, h, w)
		for i := range ph {
			for j := range pw {
				out[(i*lw+j)*planes+p] = float32(v(p, i, j))
			}
		}
	}
	return out
}

// JPEG is what a JPEG file says about a picture: for every coefficient c of its blocks an integer k and a step q, and with
// that c = k q up to a rounding error that is uniform over a step, of variance q^2/12. Measured are
//
//	A(x) = sqrt(12) C(x) / q,   y = sqrt(12) k,   sigma = 1
//
// where C is linear: luma and chroma by the matrix of JFIF, chroma averaged over Across x Down pixels, and the orthonormal
// DCT of blocks of 8 x 8; at the borders the last row and column are repeated. (The level shift, half a level of luma,
// is in y.)
//
// A measurement has the size of luma's blocks and a channel for each plane; where chroma has fewer samples, they fill
// the upper left.
type JPEG struct {
	format      JPEGFormat
	box         bool // all weights are 1
	h, w        int
	forward     [2][2]*tensor.Matrix // luma and chroma: averaging and DCT, over rows and over columns
	back        [2][2]*tensor.Matrix // their transposes
	decode      [2][2]*tensor.Matrix // inverse DCT and repetition
	smooth      [2][2]*tensor.Matrix // inverse DCT and linear interpolation
	split, pick [2]*tensor.Kernel    // pixel to luma and to chroma; measurement to its luma and its chroma
	pair        *tensor.Kernel       // luma and chroma side by side
	join, color *tensor.Kernel       // the transpose of split; its inverse
	scale       *tensor.Tensor       // [1,H,W,C]
	inverse     *tensor.Tensor       // 1/scale, 0 where scale is
	power       *tensor.Tensor       // the diagonal of A A^T, 1 where there is nothing
	ones        *tensor.Tensor       // [1,H,W,1]
}

// jfif is the matrix to luma, Cb and Cr.
var jfif = [3][3]float64{{0.299, 0.587, 0.114}, {-0.168735892, -0.331264108, 0.5}, {0.5, -0.418687589, -0.081312411}}

// NewJPEG readies the operator for images of h x w on a device. Free gives the memory back.
func NewJPEG(d *tensor.Device, h, w int, f JPEGFormat) (*JPEG, error) {
	return newJPEG(d, h, w, f, false)
}

// colorKernel mixes channels, pixel by pixel.
func colorKernel(d *tensor.Device, out, in int, weight func(o, i int) float64) *tensor.Kernel {
	k := kernels.ConvWeights{Out: out, In: in, Size: 1, Stride: 1}
	for o := range out {
		for i := range in {
			k.Weight = append(k.Weight, float32(weight(o, i)))
		}
	}
	return d.Kernel(k)
}

func newJPEG(d *tensor.Device, h, w int, f JPEGFormat, box bool) (op *JPEG, err error) {
	defer tensor.Catch(&err)
	if err := f.check(); err != nil {
		tensor.Fail("solver.NewJPEG", "%v", err)
	}
	if h <= 0 || w <= 0 || h > maxSide || w > maxSide {
		tensor.Fail("solver.NewJPEG", "images of %d x %d", h, w)
	}
	op = &JPEG{format: f, box: box, h: h, w: w}
	planes := len(f.Tables)
	lh, lw := f.sides(0, h, w)
	steps := [2][2]int{{1, 1}, {f.Down, f.Across}}
	var norms [2][2][]float64 // squares of the rows of the matrices
	for p := range min(planes, 2) {
		ph, pw := f.sides(p, h, w)
		for axis, n := range [2]int{h, w} {
			size, rows := [2]int{ph, pw}[axis], [2]int{lh, lw}[axis]
			m := blocks(rows, size, n, steps[p][axis])
			for _, row := range m.w {
				var sum float64
				for _, v := range row {
					sum += v * v
				}
				norms[p][axis] = append(norms[p][axis], sum)
			}
			op.forward[p][axis], op.back[p][axis] = d.Matrix(m.banded()), d.Matrix(m.transposed().banded())
			op.decode[p][axis] = d.Matrix(unblocks(n, rows, steps[p][axis], false).banded())
			op.smooth[p][axis] = op.decode[p][axis]
			if steps[p][axis] > 1 {
				op.smooth[p][axis] = d.Matrix(unblocks(n, rows, steps[p][axis], true).banded())
			}
		}
	}
	one := func(same bool) float64 {
		if same {
			return 1
		}
		return 0
	}
	op.split[0] = colorKernel(d, 1, 3, func(_, i int) float64 { return jfif[0][i] })
	if planes == 3 {
		op.split[1] = colorKernel(d, 2, 3, func(o, i int) float64 { return jfif[1+o][i] })
		op.pick[0] = colorKernel(d, 1, 3, func(_, i int) float64 { return one(i == 0) })
		op.pick[1] = colorKernel(d, 2, 3, func(o, i int) float64 { return one(i == 1+o) })
		op.pair = colorKernel(d, 3, 3, func(o, i int) float64 { return one(o == i) })
	}
	op.join = colorKernel(d, 3, planes, func(o, i int) float64 { return jfif[i][o] })
	op.color = colorKernel(d, 3, planes, func(o, i int) float64 { return jfifInverse[o][i] })

	scale := f.scale(h, w, box)
	inverse, power := make([]float32, len(scale)), make([]float32, len(scale))
	for i, s := range scale {
		power[i] = 1
		if s == 0 {
			continue
		}
		p, row, column := i%planes, i/planes/lw, i/planes%lw
		square := float64(s) * float64(s) * norms[min(p, 1)][0][row] * norms[min(p, 1)][1][column]
		m := jfif[p]
		inverse[i], power[i] = 1/s, float32(square*(m[0]*m[0]+m[1]*m[1]+m[2]*m[2]))
	}
	op.scale, op.inverse = d.From(scale, 1, lh, lw, planes), d.From(inverse, 1, lh, lw, planes)
	op.power, op.ones = d.From(power, 1, lh, lw, planes), d.From(uniform(1, [4]int{1, lh, lw, 1}), 1, lh, lw, 1)
	return op, nil
}

// jfifInverse turns luma, Cb and Cr into colours.
var jfifInverse = [3][3]float64{{1, 0, 1.402}, {1, -0.344136286, -0.714136286}, {1, 1.772, 0}}

// Lipschitz is 12/q^2 with the least q times the largest eigenvalue of C C^T.
func (op *JPEG) Lipschitz() float64 {
	least := math.MaxInt
	for _, t := range op.format.Tables {
		least = min(least, slices.Min(t[:]))
	}
	return op.format.bound() * 12 / math.Pow(float64(least)*jpegUnit, 2)
}

// bound is the largest eigenvalue of C C^T for pictures of whole blocks: 0.48 for 4:2:0, and more where chroma weighs more.
func (f JPEGFormat) bound() float64 {
	// A picture that is even over the pixels of a chroma sample shows all of them: C C^T is 3 x 3 for it.
	var g [3][3]float64
	for p := range f.Tables {
		share := 1.0
		if p > 0 {
			share = 1 / float64(f.Across*f.Down)
		}
		for i := range 3 {
			for j := range 3 {
				g[i][j] += share * jfif[p][i] * jfif[p][j]
			}
		}
	}
	v, largest := [3]float64{0.6, 0.64, 0.48}, 0.0
	for range 200 {
		var next [3]float64
		for i := range 3 {
			for j := range 3 {
				next[i] += g[i][j] * v[j]
			}
		}
		largest = math.Sqrt(next[0]*next[0] + next[1]*next[1] + next[2]*next[2])
		for i := range 3 {
			v[i] = next[i] / largest
		}
	}
	return max(1.001*largest, 0.48)
}

// blocks is the matrix from n pixels to the coefficients of their blocks: averages of step pixels, the last of which is
// repeated as far as needed, and the DCT of eight averages each. size coefficients are made, and rows without any follow.
func blocks(rows, size, n, step int) *matrix {
	u := cosines(8)
	return newMatrix(rows, n, func(i int, add func(j int, v float64)) {
		if i >= size {
			return
		}
		for k, v := range u.w[i%8] {
			for j := range step {
				add(min((i/8*8+k)*step+j, n-1), v/float64(step))
			}
		}
	})
}

// unblocks is the matrix from coefficients to n pixels: the inverse DCT, every sample repeated step times, or interpolated
// between the two that are nearest.
func unblocks(n, rows, step int, smooth bool) *matrix {
	u := cosines(8)
	last := (n - 1) / step
	return newMatrix(n, rows, func(i int, add func(j int, v float64)) {
		sample := func(at int, share float64) {
			at = min(max(at, 0), last)
			for k := range 8 {
				add(at/8*8+k, share*u.w[k][at%8])
			}
		}
		if !smooth {
			sample(i/step, 1)
			return
		}
		at := (float64(i)+0.5)/float64(step) - 0.5
		below := int(math.Floor(at))
		sample(below, 1-(at-float64(below)))
		sample(below+1, at-float64(below))
	})
}

// Free gives the operator's memory back to the device.
func (op *JPEG) Free() {
	for _, t := range []*tensor.Tensor{op.scale, op.inverse, op.power, op.ones} {
		t.Free()
	}
}

// planes runs a pair of matrices over luma and one over chroma; the result has both.
func (op *JPEG) planes(luma, chroma *tensor.Tensor, by *[2][2]*tensor.Matrix) (x [2]*tensor.Tensor) {
	for p, plane := range []*tensor.Tensor{luma, chroma} {
		if plane != nil {
			x[p] = plane.Device().Separable(nil, plane, tensor.Separable{H: by[p][0], W: by[p][1], Alpha: 1})
		}
	}
	return x
}

// mix is a 1x1 convolution of luma and chroma side by side; of luma alone where there is no chroma.
func mix(k *tensor.Kernel, x [2]*tensor.Tensor) *tensor.Tensor {
	return x[0].Device().Conv2D(k, tensor.Input{X: x[0], Skip: x[1]}, tensor.Epilogue{})
}

// apart gives luma and chroma of a measurement.
func (op *JPEG) apart(y *tensor.Tensor) (luma, chroma *tensor.Tensor) {
	if len(op.format.Tables) == 1 {
		return y, nil
	}
	d := y.Device()
	return d.Conv2D(op.pick[0], tensor.Input{X: y}, tensor.Epilogue{}), d.Conv2D(op.pick[1], tensor.Input{X: y}, tensor.Epilogue{})
}

func (op *JPEG) Apply(x *tensor.Tensor) *tensor.Tensor {
	d := x.Device()
	luma, chroma := d.Conv2D(op.split[0], tensor.Input{X: x}, tensor.Epilogue{}), (*tensor.Tensor)(nil)
	if op.split[1] != nil {
		chroma = d.Conv2D(op.split[1], tensor.Input{X: x}, tensor.Epilogue{})
	}
	both := op.planes(luma, chroma, &op.forward)
	c := both[0]
	if op.pair != nil {
		c = mix(op.pair, both)
	}
	return d.Pointwise(nil, kernels.PointMul, c, op.scale, 0, 0)
}

// VJP is C^T (sqrt(12) r / q).
func (op *JPEG) VJP(_, r *tensor.Tensor) *tensor.Tensor {
	luma, chroma := op.apart(r.Device().Pointwise(nil, kernels.PointMul, r, op.scale, 0, 0))
	return mix(op.join, op.planes(luma, chroma, &op.back))
}

// Restrict clears what lies beside the coefficients of chroma.
func (op *JPEG) Restrict(y *tensor.Tensor) *tensor.Tensor {
	return y.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}}, Mask: op.scale})
}

// Counts is the number of coefficients.
func (op *JPEG) Counts([4]int) []int {
	n := 0
	for p := range op.format.Tables {
		h, w := op.format.sides(p, op.h, op.w)
		n += h * w
	}
	return []int{n}
}

// Precondition divides by the diagonal of A A^T + rho, which is nearly all of it: only the planes of a pixel are not
// orthogonal.
func (op *JPEG) Precondition(r *tensor.Tensor, rho float64) *tensor.Tensor {
	d := r.Device()
	diagonal := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: op.power, C: 1}, {X: op.ones, C: rho}}})
	d.Pointwise(diagonal, kernels.PointPower, diagonal, nil, 0, -1)
	return d.Pointwise(nil, kernels.PointMul, r, diagonal, 0, 0)
}

func (op *JPEG) IsLinear() bool { return true }

// Record rounds to the integers of a file. It is for making measurements, once, and works on the host.
func (op *JPEG) Record(a *tensor.Tensor) *tensor.Tensor {
	values, err := a.Floats()
	if err != nil {
		tensor.FailWith("solver.JPEG", err, "rounding")
	}
	c, size := a.C(), a.Len()/a.N()
	unit := func(k float64) []float32 {
		return op.format.each(op.h, op.w, func(p, i, j int) float64 {
			return op.format.value(op.h, op.w, op.box, p, i, j, k)
		})
	}
	zero, one := unit(0), unit(1)
	for i, v := range values {
		at := i % size
		if step := float64(one[at]) - float64(zero[at]); step != 0 {
			values[i] = zero[at] + float32(step*math.RoundToEven((float64(v)-float64(zero[at]))/step))
		}
	}
	return a.Device().From(values, a.N(), a.H(), a.W(), c)
}

// Deviation is 1: residuals are in units of their own.
func (op *JPEG) Deviation() float64 { return 1 }

// View is the picture that a decoder makes: samples rounded to whole levels and clipped, halves up, chroma repeated, and colours
// by the integer arithmetic of image/color. It is for showing measurements and works on the host.
func (op *JPEG) View(y *tensor.Tensor) *tensor.Tensor {
	both := op.samples(y, &op.decode)
	var planes [2][]float32
	for p, x := range both {
		if x == nil {
			continue
		}
		var err error
		if planes[p], err = x.Floats(); err != nil {
			tensor.FailWith("solver.JPEG", err, "decoding")
		}
	}
	level := func(v float32, middle float64) uint8 {
		const half = 0.5 + 1e-3 // levels at the half are frequent, where a block has its mean alone, and float32 is off by 1e-4
		return uint8(min(max(math.Floor(float64(v)/jpegUnit+middle+half), 0), 255))
	}
	n := len(planes[0])
	out := make([]float32, 3*n)
	for i, v := range planes[0] {
		r := level(v, 127.5)
		g, b := r, r
		if c := planes[1]; c != nil {
			r, g, b = color.YCbCrToRGB(r, level(c[2*i], 128), level(c[2*i+1], 128))
		}
		for k, c := range [3]uint8{r, g, b} {
			out[3*i+k] = float32(float64(c)*jpegUnit - 1)
		}
	}
	return y.Device().From(out, y.N(), op.h, op.w, 3)
}

// samples undoes everything but the mixing of colours.
func (op *JPEG) samples(y *tensor.Tensor, by *[2][2]*tensor.Matrix) [2]*tensor.Tensor {
	luma, chroma := op.apart(y.Device().Pointwise(nil, kernels.PointMul, y, op.inverse, 0, 0))
	return op.planes(luma, chroma, by)
}

// Guess is the decoded picture before samples are rounded, chroma interpolated.
func (op *JPEG) Guess(y *tensor.Tensor) *tensor.Tensor {
	x := mix(op.color, op.samples(y, &op.smooth))
	return y.Device().Pointwise(x, kernels.PointClip, x, nil, -1, 1)
}

func (op *JPEG) ImageShape(y [4]int) [4]int { return [4]int{y[0], op.h, op.w, 3} }
func (op *JPEG) Task() Task                 { return TaskJPEG(op.format.Quality()) }

// JPEGBox is JPEG without a distribution inside of the steps: its residual is the distance, in units of the picture, of a
// coefficient to the interval of values that are rounded to k. That is exact as a constraint, but a smooth prior then leaves
// every coefficient at the near edge of its interval: it is here for comparison.
type JPEGBox struct{ *JPEG }

// NewJPEGBox readies the operator as NewJPEG does.
func NewJPEGBox(d *tensor.Device, h, w int, f JPEGFormat) (*JPEGBox, error) {
	op, err := newJPEG(d, h, w, f, true)
	if err != nil {
		return nil, err
	}
	return &JPEGBox{op}, nil
}

// Misfit is c - clip(c, (k-1/2) q, (k+1/2) q).
func (op *JPEGBox) Misfit(x, y *tensor.Tensor) *tensor.Tensor {
	d := x.Device()
	r := subtract(op.Apply(x), y)
	r = subtract(r, d.Pointwise(nil, kernels.PointClip, r, nil, -rootTwelve/2, rootTwelve/2))
	return d.Pointwise(r, kernels.PointMul, r, op.inverse, 0, 0)
}

// MisfitVJP is C^T r.
func (op *JPEGBox) MisfitVJP(x, r *tensor.Tensor) *tensor.Tensor {
	return op.VJP(x, r.Device().Pointwise(nil, kernels.PointMul, r, op.inverse, 0, 0))
}

func (op *JPEGBox) IsLinear() bool     { return false }
func (op *JPEGBox) Deviation() float64 { return 0 }

// Lipschitz is that of Misfit.
func (op *JPEGBox) Lipschitz() float64 {
	if op.h%(8*op.format.Down) == 0 && op.w%(8*op.format.Across) == 0 {
		return op.format.bound()
	}
	// The last row and column count for as many as they are repeated for.
	repeats := func(n, step int) float64 { return float64((n+8*step-1)/(8*step)*8*step - n + 1) }
	return op.format.bound() * repeats(op.h, op.format.Down) * repeats(op.w, op.format.Across)
}

var jpegKind = kind{
	numbers: []string{"across", "down"}, arrays: []string{"tables"},
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		f, err := jpegFormat(s)
		if err != nil {
			return out, err
		}
		if c != 3 {
			return out, fmt.Errorf("JPEG of images with %d channels", c)
		}
		h, w = f.sides(0, h, w)
		return [3]int{h, w, len(f.Tables)}, nil
	},
	build: func(d *tensor.Device, s Spec, h, w, _ int) (Operator, error) {
		f, err := jpegFormat(s)
		if err != nil {
			return nil, err
		}
		if s.Kind == "jpeg_box" {
			return orNil(NewJPEGBox(d, h, w, f))
		}
		return orNil(NewJPEG(d, h, w, f))
	},
	text: func(s Spec) string {
		f, err := jpegFormat(s)
		if err != nil {
			return "JPEG"
		}
		return fmt.Sprintf("JPEG of quality %d, %s", f.Quality(), f.Sampling())
	},
}
