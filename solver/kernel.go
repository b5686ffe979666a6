package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/tensor"
)

// BlurKernel is an odd-sized blur kernel with sum 1, row by row. It is correlated with the picture, not flipped.
type BlurKernel struct {
	H, W int
	K    []float32
	Task Task // TaskGaussianBlur, TaskMotionBlur or TaskBlur
}

// maxKernel bounds the side of kernels.
const maxKernel = 1023

// GaussianKernel is exp(-(i^2+j^2)/2s^2) for |i|, |j| <= floor(4s+1/2), inside a square of size x size, size odd.
func GaussianKernel(size int, s float64) (k *BlurKernel, err error) {
	defer tensor.Catch(&err)
	if size < 1 || size > maxKernel || size%2 == 0 || !(s > 0) || s > maxKernel {
		tensor.Fail("solver.GaussianKernel", "size %d and deviation %v: the size must be odd and at most %d, the deviation positive", size, s, maxKernel)
	}
	line := gaussian(s, min(size/2, int(4*s+0.5)))
	k = &BlurKernel{size, size, make([]float32, size*size), TaskGaussianBlur}
	p := size/2 - len(line)/2
	for i, a := range line {
		for j, b := range line {
			k.K[(p+i)*size+p+j] = float32(a * b)
		}
	}
	return k, nil
}

// DiscKernel is a disc of a radius in pixels, what a lens out of focus makes of a point: every pixel weighs as much as of
// it lies inside.
func DiscKernel(radius float64) (k *BlurKernel, err error) {
	defer tensor.Catch(&err)
	if !(radius > 0) || radius > maxKernel/2-1 {
		tensor.Fail("solver.DiscKernel", "radius %v: expected a positive number up to %d", radius, maxKernel/2-1)
	}
	const fine = 16 // points along the side of a pixel
	r := int(math.Ceil(radius - 0.5))
	n := 2*r + 1
	k = &BlurKernel{n, n, make([]float32, n*n), TaskBlur}
	sum := 0
	inside := make([]int, n*n)
	for i := range n * fine {
		y := (float64(i)+0.5)/fine - float64(n)/2
		for j := range n * fine {
			if x := (float64(j)+0.5)/fine - float64(n)/2; x*x+y*y <= radius*radius {
				inside[i/fine*n+j/fine]++
				sum++
			}
		}
	}
	if sum == 0 { // smaller than the distance of two points
		inside[0], sum = 1, 1
	}
	for i, v := range inside {
		k.K[i] = float32(float64(v) / float64(sum))
	}
	return k, nil
}

// LineKernel is a straight line of a length in pixels, what a steady movement makes of a point: its points are shared
// bilinearly by the four pixels around each. The angle is in degrees, counter-clockwise from the rows.
func LineKernel(length, angle float64) (k *BlurKernel, err error) {
	defer tensor.Catch(&err)
	if !(length > 0) || length > maxKernel-4 || math.IsNaN(angle) || math.Abs(angle) > 360 {
		tensor.Fail("solver.LineKernel", "length %v and angle %v: expected a positive length up to %d and an angle of -360 to 360 degrees", length, angle, maxKernel-4)
	}
	r := int(math.Ceil(length/2)) + 1
	n := 2*r + 1
	sin, cos := math.Sincos(angle * math.Pi / 180)
	points := int(8*length) + 1
	sum := make([]float64, n*n)
	for i := range points {
		t := ((float64(i)+0.5)/float64(points) - 0.5) * length
		x, y := float64(r)+t*cos, float64(r)-t*sin
		j, fx := int(x), x-math.Floor(x)
		l, fy := int(y), y-math.Floor(y)
		sum[l*n+j] += (1 - fx) * (1 - fy)
		sum[l*n+j+1] += fx * (1 - fy)
		sum[(l+1)*n+j] += (1 - fx) * fy
		sum[(l+1)*n+j+1] += fx * fy
	}
	k = &BlurKernel{n, n, make([]float32, n*n), TaskMotionBlur}
	for i, v := range sum {
		k.K[i] = float32(v / float64(points))
	}
	return k, nil
}

// NewKernel takes a kernel from an array or a picture: it is divided by its sum, unless that is 1 up to float32 rounding,
// and an even side grows by a line of zeros at its end.
func NewKernel(h, w int, values []float32) (k *BlurKernel, err error) {
	defer tensor.Catch(&err)
	const op = "solver.NewKernel"
	if h < 1 || w < 1 || h > maxKernel || w > maxKernel || len(values) != h*w {
		tensor.Fail(op, "kernel of %d x %d with %d values: sides must be 1 to %d", h, w, len(values), maxKernel)
	}
	var sum, largest float64
	for _, v := range values {
		sum += float64(v)
		largest = max(largest, math.Abs(float64(v)))
	}
	if math.IsNaN(sum) || math.IsInf(largest, 0) || !(sum > 1e-6*largest) {
		tensor.Fail(op, "the kernel's values must be finite, with a positive sum; it is %v", sum)
	}
	if math.Abs(sum-1) < 1e-6 {
		sum = 1 // kernels that were saved come back as they were
	}
	k = &BlurKernel{h | 1, w | 1, make([]float32, (h|1)*(w|1)), TaskBlur}
	for i := range h {
		for j := range w {
			k.K[i*k.W+j] = float32(float64(values[i*w+j]) / sum)
		}
	}
	return k, nil
}

// trimmed drops zero lines that lie around the kernel, keeping it centred.
func (k *BlurKernel) trimmed() *BlurKernel {
	ry, rx := 0, 0 // the farthest weight from the centre
	for i := range k.H {
		for j := range k.W {
			if k.K[i*k.W+j] != 0 {
				ry, rx = max(ry, abs(i-k.H/2)), max(rx, abs(j-k.W/2))
			}
		}
	}
	t := &BlurKernel{2*ry + 1, 2*rx + 1, nil, k.Task}
	for i := range t.H {
		from := (k.H/2-ry+i)*k.W + k.W/2 - rx
		t.K = append(t.K, k.K[from:from+t.W]...)
	}
	return t
}

func abs(i int) int { return max(i, -i) }

// factors splits a kernel of rank 1 into a column and a row; ok is false where what the product misses could change a
// pixel of a picture in [-1,1] by more than 1e-6.
func (k *BlurKernel) factors() (column, row []float64, ok bool) {
	pivot := 0
	for i, v := range k.K {
		if math.Abs(float64(v)) > math.Abs(float64(k.K[pivot])) {
			pivot = i
		}
	}
	pi, pj := pivot/k.W, pivot%k.W
	for _, v := range k.K[pi*k.W : (pi+1)*k.W] {
		row = append(row, float64(v))
	}
	var missed float64
	for i := range k.H {
		column = append(column, float64(k.K[i*k.W+pj])/float64(k.K[pivot]))
		for j, r := range row {
			missed += math.Abs(float64(k.K[i*k.W+j]) - column[i]*r)
		}
	}
	return column, row, missed <= 1e-6
}

// check proves the kernel odd, complete and of sum 1.
func (k *BlurKernel) check() error {
	if k.H < 1 || k.W < 1 || k.H > maxKernel || k.W > maxKernel || k.H%2 == 0 || k.W%2 == 0 || len(k.K) != k.H*k.W {
		return fmt.Errorf("kernel of %d x %d with %d values", k.H, k.W, len(k.K))
	}
	var sum float64
	for _, v := range k.K {
		sum += float64(v)
	}
	if !(math.Abs(sum-1) < 1e-4) {
		return fmt.Errorf("kernel with the sum %v, expected 1", sum)
	}
	return nil
}
