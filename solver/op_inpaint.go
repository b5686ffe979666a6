package solver

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/spin-native/spin/tensor"
)

// Inpaint is the measurement of some pixels, A(x) = m x with a mask m of zeros and ones, the same for all channels.
type Inpaint struct {
	masks []*Mask
	m     *tensor.Tensor // [1 or N,H,W,1]
}

// NewInpaint readies the operator on a device: one mask for all images, or one for each. Free gives its memory back.
func NewInpaint(d *tensor.Device, masks ...*Mask) (op *Inpaint, err error) {
	defer tensor.Catch(&err)
	if len(masks) == 0 {
		tensor.Fail("solver.NewInpaint", "no mask given")
	}
	h, w := masks[0].H, masks[0].W
	data := make([]float32, 0, len(masks)*h*w)
	for i, m := range masks {
		if m.H != h || m.W != w || len(m.Known) != h*w {
			tensor.Fail("solver.NewInpaint", "mask %d has %d x %d pixels, the first has %d x %d", i, m.H, m.W, h, w)
		}
		for _, known := range m.Known {
			v := float32(0)
			if known {
				v = 1
			}
			data = append(data, v)
		}
	}
	return &Inpaint{masks, d.From(data, len(masks), h, w, 1)}, nil
}

// Free gives the operator's memory back to the device.
func (op *Inpaint) Free() { op.m.Free() }

func (op *Inpaint) Apply(x *tensor.Tensor) *tensor.Tensor {
	return x.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}}, Mask: op.m})
}

// VJP is m r.
func (op *Inpaint) VJP(_, r *tensor.Tensor) *tensor.Tensor { return op.Apply(r) }

func (op *Inpaint) local(y *tensor.Tensor) tensor.Local {
	return tensor.Local{Y: y, Mask: op.m, Gain: 1, Low: math.Inf(-1), High: math.Inf(1)}
}

// Restrict clears what lies in the holes of y.
func (op *Inpaint) Restrict(y *tensor.Tensor) *tensor.Tensor { return op.Apply(y) }

// Prox is (y + rho x0) / (1 + rho) where known, x0 elsewhere.
func (op *Inpaint) Prox(x0, y *tensor.Tensor, rho float64) *tensor.Tensor {
	return y.Device().Blend(nil, tensor.Blend{
		Terms: []tensor.Term{{X: y, C: 1 / (1 + rho)}, {X: x0, C: rho / (1 + rho)}},
		Mask:  op.m, Else: x0,
	})
}

// Spectrum is the mask.
func (op *Inpaint) Spectrum(y [4]int) ([]float32, error) {
	list := uniform(0, y)
	size := len(list) / y[0]
	for i := range list {
		if op.masks[i/size%len(op.masks)].Known[i%size/y[3]] {
			list[i] = 1
		}
	}
	return list, nil
}

func (op *Inpaint) Rotate(r *tensor.Tensor, _ bool) *tensor.Tensor { return r }

// Keep is y where known, x elsewhere.
func (op *Inpaint) Keep(x, y *tensor.Tensor) *tensor.Tensor {
	return y.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}}, Mask: op.m, Else: x})
}

// Counts is the number of known values of each image.
func (op *Inpaint) Counts(y [4]int) []int {
	list := make([]int, len(op.masks))
	for i, m := range op.masks {
		list[i] = y[3] * (len(m.Known) - m.Missing())
	}
	return list
}

func (op *Inpaint) IsLinear() bool     { return true }
func (op *Inpaint) Lipschitz() float64 { return 1 }

// Task is that of the first mask.
func (op *Inpaint) Task() Task { return cmp.Or(op.masks[0].Task, TaskInpaintMask) }

// Guess fills the holes with the normalised Gaussian blur of the known pixels, at radii s = 1, 2, 4, ...: wherever a
// pixel is still empty and blur(m) > 0.02, it becomes blur(m y) / blur(m). The kernel ends at 3 s, and nothing lies
// outside of the picture. What no radius reaches becomes the mean of the known pixels.
func (op *Inpaint) Guess(y *tensor.Tensor) *tensor.Tensor {
	data, err := y.Floats()
	if err != nil {
		tensor.FailWith("solver.Inpaint", err, "first guess")
	}
	size := y.Len() / y.N()
	for n := range y.N() {
		fill(op.masks[n%len(op.masks)], data[n*size:(n+1)*size], y.C())
	}
	return y.Device().From(data, y.N(), y.H(), y.W(), y.C())
}

// fill fills the holes of one picture in place, on the host. It runs once per reconstruction.
func fill(m *Mask, x []float32, c int) {
	h, w := m.H, m.W
	step := c + 1 // the known values, and a channel of ones there
	src := make([]float64, h*w*step)
	mean, known := make([]float64, c), 0
	empty := make([][]int, h)   // columns of the empty pixels of each row
	within := make([][2]int, h) // first column with a known pixel, and the one after the last
	for i, k := range m.Known {
		row, col := i/w, i%w
		if !k {
			empty[row] = append(empty[row], col)
			continue
		}
		if within[row][1] == 0 {
			within[row][0] = col
		}
		within[row][1] = col + 1
		known++
		src[i*step+c] = 1
		for ch := range c {
			src[i*step+ch] = float64(x[i*c+ch])
			mean[ch] += float64(x[i*c+ch])
		}
	}
	across, down := make([]float64, len(src)), make([]float64, len(src)) // blurred along the rows, and then down the columns
	for s := 1; s <= max(h, w); s *= 2 {
		lo, hi := w, 0 // the columns with empty pixels lie inside
		for _, cols := range empty {
			if len(cols) > 0 {
				lo, hi = min(lo, cols[0]), max(hi, cols[len(cols)-1]+1)
			}
		}
		if lo >= hi {
			return
		}
		k := gaussian(float64(s), 3*s)
		parallel(h, func(y int) {
			line := across[y*w*step : (y+1)*w*step]
			clear(line)
			for j, weight := range k {
				shift := j - 3*s
				from, to := max(lo+shift, within[y][0]), min(hi+shift, within[y][1])
				if from < to {
					addScaled(line[(from-shift)*step:], src[(y*w+from)*step:(y*w+to)*step], weight)
				}
			}
		})
		parallel(h, func(y int) {
			if len(empty[y]) == 0 {
				return
			}
			line := down[y*w*step : (y+1)*w*step]
			clear(line)
			for yy := max(0, y-3*s); yy <= min(h-1, y+3*s); yy++ {
				addScaled(line[lo*step:], across[(yy*w+lo)*step:(yy*w+hi)*step], k[yy-y+3*s])
			}
			left := empty[y][:0]
			for _, col := range empty[y] {
				v := line[col*step : (col+1)*step]
				if v[c] <= 0.02 {
					left = append(left, col)
					continue
				}
				for ch := range c {
					x[(y*w+col)*c+ch] = float32(v[ch] / v[c])
				}
			}
			empty[y] = left
		})
	}
	for y, cols := range empty {
		for _, col := range cols {
			for ch := range c {
				x[(y*w+col)*c+ch] = float32(mean[ch] / float64(max(known, 1)))
			}
		}
	}
}

// addScaled adds weight * src to dst.
func addScaled(dst, src []float64, weight float64) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] += weight * v
	}
}

// gaussian is exp(-i^2/2s^2) for |i| <= radius, with sum 1.
func gaussian(s float64, radius int) []float64 {
	k := make([]float64, 2*radius+1)
	var sum float64
	for i := range k {
		d := float64(i - radius)
		k[i] = math.Exp(-d * d / (2 * s * s))
		sum += k[i]
	}
	for i := range k {
		k[i] /= sum
	}
	return k
}

// parallel runs f(i) for i in [0,n) on all processors; every i writes its own results.
func parallel(n int, f func(i int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				f(i)
			}
		}()
	}
	wg.Wait()
}

var inpaintKind = kind{
	masks: true,
	shape: func(s Spec, h, w, c int) (out [3]int, err error) {
		for i, m := range s.Masks {
			if m.H != h || m.W != w {
				return out, fmt.Errorf("mask %d does not have the %d x %d pixels of the image", i, h, w)
			}
		}
		return [3]int{h, w, c}, nil
	},
	build: func(d *tensor.Device, s Spec, _, _, _ int) (Operator, error) { return orNil(NewInpaint(d, s.Masks...)) },
	text: func(s Spec) string {
		return fmt.Sprintf("%d of %d pixels missing", s.Masks[0].Missing(), len(s.Masks[0].Known))
	},
}
