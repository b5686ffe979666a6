package weights

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// FromTensors makes a File of tensors that are at hand, so that Scopes can read them before they are written.
func FromTensors(name string, list []Tensor, metadata map[string]string) (*File, error) {
	sorted := slices.SortedFunc(slices.Values(list), func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	for i, t := range sorted {
		if err := t.check(); err != nil {
			return nil, err
		}
		if i > 0 && sorted[i-1].Name == t.Name {
			return nil, fmt.Errorf("weights: %s: tensor %s is given twice", name, quote(t.Name))
		}
	}
	return &File{path: name, tensors: sorted, meta: metadata}, nil
}

// ShapesOnly returns a view of the file whose Scopes check names and shapes as ever, and hand out zeros without reading
// the data. That is enough to prove that a network fits, or to measure what it takes. The zeros are shared: do not change
// them. Closing the view does nothing.
func (f *File) ShapesOnly() *File {
	return &File{path: f.path, tensors: f.tensors, meta: f.meta, synthetic: f.synthetic, shapes: true}
}

// zeros are as many as the shape has elements. All tensors share them.
func (f *File) zeros(shape []int) []float32 {
	n := 1
	for _, s := range shape {
		n *= s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.zero) < n {
		f.zero = make([]float32, n)
	}
	return f.zero[:n:n]
}

// FromFloats makes an F32 tensor that can be written.
func FromFloats(name string, data []float32, shape ...int) Tensor {
	b := make([]byte, 0, 4*len(data))
	for _, v := range data {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return Tensor{Name: name, DType: F32, Shape: shape, Data: b}
}
