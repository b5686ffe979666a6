package weights

import (
	"encoding/binary"
	"math"
)

// FromFloats makes an F32 tensor that can be written.
func FromFloats(name string, data []float32, shape ...int) Tensor {
	b := make([]byte, 0, 4*len(data))
	for _, v := range data {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return Tensor{Name: name, DType: F32, Shape: shape, Data: b}
}
