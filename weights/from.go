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

// FromFloats makes an F32 tensor that can be written.
func FromFloats(name string, data []float32, shape ...int) Tensor {
	b := make([]byte, 0, 4*len(data))
	for _, v := range data {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return Tensor{Name: name, DType: F32, Shape: shape, Data: b}
}
