package solver

import (
	"math"

	"github.com/spin-native/spin/tensor"
)

// logarithmic shows absolute values over three span below the largest of an image, of complex numbers in pairs of
// channels where parts is 2.
func logarithmic(y *tensor.Tensor, parts int) *tensor.Tensor {
	return viewed(y, parts, func(values []float64) {
		var largest float64
		for i, v := range values {
			values[i] = math.Abs(v)
			largest = max(largest, values[i])
		}
		const span = 1000
		for i, v := range values {
			values[i] = 2*math.Log1p(span*v/max(largest, 1e-30))/math.Log1p(span) - 1
		}
	})
}

// viewed maps the values of every image, or the lengths of groups of parts of them, on the host. Images of other than 1 or
// 3 channels become the mean of theirs.
func viewed(y *tensor.Tensor, parts int, f func(values []float64)) *tensor.Tensor {
	data, err := y.Floats()
	if err != nil {
		tensor.FailWith("solver.Viewer", err, "view of %v", y)
	}
	c := y.C() / parts
	values := make([]float64, len(data)/parts)
	for i := range values {
		values[i] = float64(data[i*parts])
		for _, v := range data[i*parts+1 : (i+1)*parts] {
			values[i] = math.Hypot(values[i], float64(v))
		}
	}
	size := len(values) / y.N()
	for n := range y.N() {
		f(values[n*size : (n+1)*size])
	}
	shown := c
	if c != 3 {
		shown = 1
	}
	out := make([]float32, len(values)/c*shown)
	for i, v := range values {
		if c == 3 {
			out[i] = float32(v)
		} else {
			out[i/c] += float32(v / float64(c))
		}
	}
	return y.Device().From(out, y.N(), y.H(), y.W(), shown)
}
