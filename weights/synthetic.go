package weights

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// Synthetic is a file that holds whatever is asked of it: a Scope's Floats makes the tensor whenever it is read, of
// random values drawn from seed and name, scaled so that a network's activations stay of order one. Names then lists
// what the network read. It is for measuring speed and for tests, where only shapes count.
func Synthetic(name string, seed uint64) *File {
	return &File{path: name, synthetic: &seed}
}

// make adds a tensor to a synthetic file: its name and shape, since the values can be made again.
func (f *File) make(path string, shape []int) int {
	i, _ := f.find(path)
	f.tensors = slices.Insert(f.tensors, i, Tensor{Name: path, DType: F32, Shape: slices.Clone(shape)})
	return i
}

// random is the values of a tensor of a synthetic file, in buf if they fit.
func (f *File) random(buf []float32, t Tensor) []float32 {
	h := fnv.New64a()
	h.Write([]byte(t.Name))
	rng := rand.New(rand.NewPCG(*f.synthetic, h.Sum64()))
	n, fan := 1, 1
	for i, s := range t.Shape {
		n *= s
		if i > 0 {
			fan *= s
		}
	}
	mean, scale := 0.0, 1/math.Sqrt(float64(fan)) // a matrix or a convolution
	if len(t.Shape) == 1 {
		scale = 0.1
		if strings.HasSuffix(t.Name, "weight") {
			mean = 1 // of a norm
		}
	}
	values := sized(buf, n)
	for i := range values {
		values[i] = float32(mean + scale*rng.NormFloat64())
	}
	return values
}
