package weights

import (
	"cmp"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// Synthetic is a file that holds whatever is asked of it: a Scope's Floats makes the tensor when it is first read, of
// random values drawn from seed and name, scaled so that a network's activations stay of order one. Names then lists
// what the network read. It is for measuring speed and for tests, where only shapes count.
func Synthetic(name string, seed uint64) *File {
	return &File{path: name, synthetic: &seed}
}

// make adds a tensor to a synthetic file.
func (f *File) make(path string, shape []int) {
	h := fnv.New64a()
	h.Write([]byte(path))
	rng := rand.New(rand.NewPCG(*f.synthetic, h.Sum64()))
	n, fan := 1, 1
	for i, s := range shape {
		n *= s
		if i > 0 {
			fan *= s
		}
	}
	mean, scale := 0.0, 1/math.Sqrt(float64(fan)) // a matrix or a convolution
	if len(shape) == 1 {
		scale = 0.1
		if strings.HasSuffix(path, "weight") {
			mean = 1 // of a norm
		}
	}
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(mean + scale*rng.NormFloat64())
	}
	i, _ := slices.BinarySearchFunc(f.tensors, path, func(t Tensor, name string) int { return cmp.Compare(t.Name, name) })
	f.tensors = slices.Insert(f.tensors, i, FromFloats(path, values, shape...))
}
