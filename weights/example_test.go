package weights_test

import (
	"bytes"
	"fmt"

	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// A loader asks for each tensor by its path and shape, and finally whether anything was left over.
func ExampleScope() {
	one := []byte{0, 0, 0x80, 0x3f} // 1.0
	var file bytes.Buffer
	err := weights.Encode(&file, []weights.Tensor{
		{Name: "out.2.weight", DType: weights.F32, Shape: []int{1, 1, 1, 1}, Data: one},
		{Name: "out.2.bias", DType: weights.F32, Shape: []int{1}, Data: one},
		{Name: "spare", DType: weights.F32, Shape: []int{1}, Data: one},
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	load := func(channels int) (err error) {
		defer tensor.Catch(&err)
		f, err := weights.OpenBytes("model.safetensors", file.Bytes())
		if err != nil {
			return err
		}
		defer f.Close()
		s := f.Scope().At("out", 2)
		s.Floats("weight", 1, channels, 1, 1)
		s.Floats("bias", 1)
		return f.CheckAllRead()
	}
	fmt.Println(load(1))
	fmt.Println(load(64))
	// Output:
	// weights: model.safetensors: 1 of 3 tensors have no place in the network: "spare"
	// weights.Floats: model.safetensors: "out.2.weight" has shape [1 1 1 1], expected [1 64 1 1]
}
