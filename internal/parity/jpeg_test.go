package parity_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/parity"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// hostJPEG is an operator as another program would write it: two methods, plain loops on the host, one picture with
// 4:2:0 chroma. It measures the scaled coefficients sqrt(12) C(x)/q of a JPEG file; the measurement is sqrt(12) k.
type hostJPEG struct {
	h, w   int
	k      [3][]float32 // the file's integers: luma, then chroma, by block
	q      [3][]float32 // steps
	smooth float64      // Lipschitz constant
}

func newHostJPEG(t *testing.T, f *parity.Case, h, w int) *hostJPEG {
	j := &hostJPEG{h: h, w: w}
	least := math.Inf(1)
	for i, name := range []string{"k_y", "k_cb", "k_cr"} {
		var err error
		j.k[i], _, err = f.Array(name)
		require.NoError(t, err)
		table := "table_c"
		if i == 0 {
			table = "table_y"
		}
		q, _, err := f.Array(table)
		require.NoError(t, err)
		require.Len(t, q, 64)
		for _, v := range q {
			j.q[i] = append(j.q[i], v/127.5)
			least = min(least, float64(v)/127.5)
		}
	}
	j.smooth = 0.48 * 12 / (least * least)
	return j
}

func (j *hostJPEG) Lipschitz() float64 { return j.smooth }

func (j *hostJPEG) measured(d *tensor.Device) *tensor.Tensor {
	var y []float32
	for _, k := range j.k {
		for _, v := range k {
			y = append(y, float32(math.Sqrt(12)*float64(v)))
		}
	}
	return d.Vector(y)
}

var jfif = [3][3]float64{{0.299, 0.587, 0.114}, {-0.168735892, -0.331264108, 0.5}, {0.5, -0.418687589, -0.081312411}}

// dct is one 8x8 block's orthonormal DCT-II, or its inverse.
func dct(block *[64]float64, inverse bool) {
	var u [8][8]float64
	for k := range 8 {
		for i := range 8 {
			v := math.Cos(math.Pi*float64(k)*(float64(i)+0.5)/8) / 2
			if k == 0 {
				v = math.Sqrt(1. / 8)
			}
			if inverse {
				u[i][k] = v
			} else {
				u[k][i] = v
			}
		}
	}
	for range 2 { // rows, then columns: each pass transposes
		var out [64]float64
		for r := range 8 {
			for k := range 8 {
				for i := range 8 {
					out[k*8+r] += u[k][i] * block[r*8+i]
				}
			}
		}
		*block = out
	}
}

// size is the size of a plane.
func (j *hostJPEG) size(plane int) (h, w, step int) {
	step = min(plane, 1) + 1
	return j.h / step, j.w / step, step
}

func (j *hostJPEG) Apply(x *tensor.Tensor) *tensor.Tensor {
	rgb, err := x.Floats()
	if err != nil {
		tensor.FailWith("jpeg", err, "Apply")
	}
	var out []float32
	for p := range 3 {
		h, w, step := j.size(p)
		plane := make([]float64, h*w)
		for i := range j.h * j.w {
			at := i/j.w/step*w + i%j.w/step
			for c := range 3 {
				plane[at] += jfif[p][c] * float64(rgb[3*i+c]) / float64(step*step)
			}
		}
		for by := 0; by < h; by += 8 {
			for bx := 0; bx < w; bx += 8 {
				var b [64]float64
				for i := range b {
					b[i] = plane[(by+i/8)*w+bx+i%8]
					if p == 0 {
						b[i] -= 0.5 / 127.5
					}
				}
				dct(&b, false)
				for i := range b {
					out = append(out, float32(math.Sqrt(12)*b[i]/float64(j.q[p][i])))
				}
			}
		}
	}
	return x.Device().Vector(out)
}

func (j *hostJPEG) VJP(x, r *tensor.Tensor) *tensor.Tensor {
	scaled, err := r.Floats()
	if err != nil {
		tensor.FailWith("jpeg", err, "VJP")
	}
	rgb := make([]float64, 3*j.h*j.w)
	at := 0
	for p := range 3 {
		h, w, step := j.size(p)
		plane := make([]float64, h*w)
		for by := 0; by < h; by += 8 {
			for bx := 0; bx < w; bx += 8 {
				var b [64]float64
				for i := range b {
					b[i] = math.Sqrt(12) * float64(scaled[at]) / float64(j.q[p][i])
					at++
				}
				dct(&b, true)
				for i := range b {
					plane[(by+i/8)*w+bx+i%8] = b[i]
				}
			}
		}
		for i := range j.h * j.w {
			for c := range 3 {
				rgb[3*i+c] += jfif[p][c] * plane[i/j.w/step*w+i%j.w/step] / float64(step*step)
			}
		}
	}
	g := make([]float32, len(rgb))
	for i, v := range rgb {
		g[i] = float32(v)
	}
	return x.Device().From(g, 1, j.h, j.w, 3)
}

// TestCustomOperator follows a run with an operator that is not this program's; the program's own does the same.
func TestCustomOperator(t *testing.T) {
	c, err := parity.Load(testkit.Shared(t, "fixtures", "solver_spin_jpeg"))
	require.NoError(t, err)
	defer c.Close()
	d := device(t)
	builtin, _, err := c.Run(d, "")
	require.NoError(t, err)
	c.Custom = map[string]parity.CustomOperator{"jpeg": func(d *tensor.Device, h, w int) (solver.Operator, *tensor.Tensor, float64, error) {
		op := newHostJPEG(t, c, h, w)
		return op, op.measured(d), 1, nil
	}}
	results, _, err := c.Run(d, "")
	require.NoError(t, err)
	require.Len(t, results, 5)
	for _, r := range append(results, builtin...) {
		require.True(t, r.OK(), "%+v", r)
	}
}
