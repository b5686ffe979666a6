package solver_test

import (
	"context"
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// stripes is a measurement of one's own: only every second row of the picture is known, and twice as bright. Two methods
// are enough; Spin finds everything else out by calling them.
type stripes struct{}

func (stripes) each(x *tensor.Tensor, f func(row int, v float32) float32) *tensor.Tensor {
	data, err := x.Floats()
	if err != nil {
		tensor.FailWith("stripes", err, "download")
	}
	for i, v := range data {
		data[i] = f(i/(x.W()*x.C())%x.H(), v)
	}
	return x.Device().From(data, x.N(), x.H(), x.W(), x.C())
}

func (s stripes) Apply(x *tensor.Tensor) *tensor.Tensor {
	return s.each(x, func(row int, v float32) float32 { return 2 * v * float32(row%2) })
}

func (s stripes) VJP(_, r *tensor.Tensor) *tensor.Tensor { return s.Apply(r) } // A is its own transpose

// Spin with an operator of one's own. The prior knows that pictures are about 0.3, give or take 0.1: its best guess of a
// clean picture is known in closed form, and stands in for a network here.
func ExampleSpin() {
	device := tensor.NewDevice(ref.Open())
	defer device.Close()
	schedule := solver.Linear(1000, 1e-4, 0.02)
	prior := solver.FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor {
		const mean, variance = 0.3, 0.01
		a := schedule.AlphaBar(int(t))
		gain := variance * math.Sqrt(a) / (a*variance + 1 - a)
		data, _ := x.Floats()
		for i, v := range data {
			data[i] = float32(mean + gain*(float64(v)-math.Sqrt(a)*mean))
		}
		return x.Device().From(data, x.N(), x.H(), x.W(), x.C())
	}, solver.ModelOptions{Schedule: schedule, Prediction: solver.PredictClean})

	truth := make([]float32, 16*16*3)
	for i := range truth {
		truth[i] = 0.4
	}
	y, err := solver.Measure(stripes{}, device.From(truth, 1, 16, 16, 3), 0.02, 1, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := solver.Spin(context.Background(), solver.Problem{Operator: stripes{}, Y: y, Sigma: 0.02}, prior, solver.Settings{Calls: solver.Fast})
	if err != nil {
		fmt.Println(err)
		return
	}
	x, _ := r.X0.Floats()
	var mean [2]float64 // of the rows that were not measured, and of those that were
	for i, v := range x {
		mean[i/(16*3)%2] += float64(v) / float64(len(x)/2)
	}
	fmt.Printf("%d calls; unknown rows %.1f, known rows %.1f\n", r.Calls, mean[0], mean[1])
	// Output: 10 calls; unknown rows 0.3, known rows 0.4
}
