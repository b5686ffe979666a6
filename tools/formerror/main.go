// Command formerror measures how far each form of the 3x3 convolution is from the exact result, and prints a table for
// docs/accuracy.md. Inputs have variance 1, weights 1/(9 cin), so that outputs have variance 1; the reference sums in float64.
//
//	go run ./tools/formerror
package main

import (
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/ref"
)

func main() {
	log.SetFlags(0)
	fmt.Println("| level | input channels | form | relative L2 | largest error |\n|---|---|---|---|---|")
	for _, level := range cpu.Levels() {
		for _, in := range []int{32, 128, 512} {
			for form := kernels.Direct; form <= kernels.BFloat16; form++ {
				for _, half := range []bool{false, true} {
					if half && form == kernels.BFloat16 {
						continue // its weights are what they are
					}
					if err := row(level, in, form, half); err != nil {
						log.Fatal(err)
					}
				}
			}
		}
	}
}

// row measures one convolution of in to 32 channels over 24 x 24 pixels.
func row(level string, in int, form kernels.ConvForm, half bool) error {
	const out, edge = 32, 24
	r := rand.New(rand.NewPCG(uint64(in), 1))
	normal := func(n int, scale float64) []float32 {
		s := make([]float32, n)
		for i := range s {
			s[i] = float32(scale * r.NormFloat64())
		}
		return s
	}
	w := kernels.ConvWeights{Weight: normal(9*in*out, 1/math.Sqrt(float64(9*in))), In: in, Out: out, Size: 3, Stride: 1, Pad: 1,
		Form: form, Up: form == kernels.WinogradUp}
	a := kernels.Conv2D{}
	size := edge
	if w.Up {
		a.Sampling, size = kernels.Up2, edge/2
	}
	x := normal(size*size*in, 1)
	b, err := cpu.Open(cpu.Options{Level: level, HalfWeights: half})
	if err != nil {
		return err
	}
	got, err := run(b, w, a, x, size, edge)
	if err != nil {
		return err
	}
	want, err := run(ref.Open(), w, a, x, size, edge)
	if err != nil {
		return err
	}
	var sum, norm, most float64
	for i, v := range want {
		d := math.Abs(float64(v) - float64(got[i]))
		sum, norm, most = sum+d*d, norm+float64(v)*float64(v), max(most, d)
	}
	name := form.String()
	if half {
		name += ", F16 weights"
	}
	_, err = fmt.Printf("| %s | %d | %s | %.1e | %.1e |\n", level, in, name, math.Sqrt(sum/norm), most)
	return err
}

func run(b kernels.Backend, w kernels.ConvWeights, a kernels.Conv2D, x []float32, size, edge int) ([]float32, error) {
	defer b.Close()
	w.Weight = slices.Clone(w.Weight)
	k, err := b.PrepareConv(w)
	if err != nil {
		return nil, err
	}
	src, err := b.Alloc(len(x))
	if err != nil {
		return nil, err
	}
	dst, err := b.Alloc(edge * edge * w.Out)
	if err != nil {
		return nil, err
	}
	a.Kernel = k
	a.Src[0] = kernels.View{Buf: src, N: 1, H: size, W: size, C: w.In}
	a.Dst = kernels.View{Buf: dst, N: 1, H: edge, W: edge, C: w.Out}
	b.Upload(a.Src[0], x)
	b.Conv2D(&a)
	y := make([]float32, a.Dst.Len())
	return y, b.Download(y, a.Dst)
}
