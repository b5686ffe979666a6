package optest_test

import (
	"fmt"

	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/solver/optest"
	"github.com/spin-native/spin/tensor"
)

// interlaced is a measurement of one's own: a camera that reads only every second row, and reads it half as bright. Its
// transpose puts the rows back where they came from, and zeros between them.
type interlaced struct{}

func (interlaced) Apply(x *tensor.Tensor) *tensor.Tensor {
	return rows(x, x.H()/2, func(out, in []float32, row int) {
		for i := range out {
			out[i] = 0.5 * in[i/row*2*row+i%row]
		}
	})
}

func (interlaced) VJP(_, r *tensor.Tensor) *tensor.Tensor {
	return rows(r, 2*r.H(), func(out, in []float32, row int) {
		for i, v := range in {
			out[i/row*2*row+i%row] = 0.5 * v
		}
	})
}

func (interlaced) IsLinear() bool             { return true }
func (interlaced) Lipschitz() float64         { return 0.25 }
func (interlaced) ImageShape(y [4]int) [4]int { return [4]int{y[0], 2 * y[1], y[2], y[3]} }

// rows computes every image of x, giving it h rows of row values each.
func rows(x *tensor.Tensor, h int, f func(out, in []float32, row int)) *tensor.Tensor {
	data, err := x.Floats()
	if err != nil {
		tensor.FailWith("interlaced", err, "download")
	}
	row := x.W() * x.C()
	out := make([]float32, x.N()*h*row)
	for n := range x.N() {
		f(out[n*h*row:][:h*row], data[n*x.H()*row:][:x.H()*row], row)
	}
	return x.Device().From(out, x.N(), h, x.W(), x.C())
}

// forgetful is interlaced with the mistake that is made most often: VJP without the factor that Apply has.
type forgetful struct{ interlaced }

func (forgetful) VJP(_, r *tensor.Tensor) *tensor.Tensor {
	return r.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: interlaced{}.VJP(nil, r), C: 2}}})
}

// In a test this is optest.Check(t, device, interlaced{}, 8, 12, 3, optest.Options{}).
func Example() {
	device := tensor.NewDevice(ref.Open())
	defer device.Close()
	fmt.Println(optest.Verify(device, interlaced{}, 8, 12, 3, optest.Options{}))
	fmt.Println(optest.Verify(device, forgetful{}, 8, 12, 3, optest.Options{}))
	// Output:
	// <nil>
	// optest_test.forgetful: VJP is not the adjoint of Apply: <A u, v> is 10.1226, <u, A^T v> is 20.2451, allowed difference 0.0018; VJP is 2 times what it should be: a scale is missing
}
