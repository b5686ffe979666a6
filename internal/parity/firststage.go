package parity

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
)

// stageFunctions compute the runs of first stages, by their fn: input and outputs go by the names that runs have for them.
var stageFunctions = map[string]struct {
	input string
	run   func(s nn.FirstStage, in *tensor.Tensor) (Saved, error)
}{
	"kl_encode":             {"img", posterior},
	"vq_encode":             {"img", one("h", nn.FirstStage.Encode)},
	"tiny_encode":           {"img", one("z", nn.FirstStage.Encode)},
	"vq_quantize":           {"z", quantise},
	"kl_decode":             {"z", one("img", nn.FirstStage.Decode)},
	"vq_decode":             {"z", one("img", nn.FirstStage.Decode)},
	"decode":                {"z", one("img", nn.FirstStage.Decode)},
	"vq_decode_no_quantize": {"z", one("img", decodeAsIs)},
	"decode_no_quantize":    {"z", one("img", decodeAsIs)},
}

// one is a function with one output.
func one(name string, f func(nn.FirstStage, *tensor.Tensor) (*tensor.Tensor, error)) func(nn.FirstStage, *tensor.Tensor) (Saved, error) {
	return func(s nn.FirstStage, in *tensor.Tensor) (Saved, error) {
		t, err := f(s, in)
		if err != nil {
			return nil, err
		}
		out, err := planar(t)
		return Saved{name: out}, err
	}
}

// autoencoder is the first stage, if it is not a tiny one.
func autoencoder(s nn.FirstStage) (*nn.Autoencoder, error) {
	a, ok := s.(*nn.Autoencoder)
	if !ok {
		return nil, fmt.Errorf("a %T has no variances and no code book", s)
	}
	return a, nil
}

func decodeAsIs(s nn.FirstStage, z *tensor.Tensor) (*tensor.Tensor, error) {
	a, err := autoencoder(s)
	if err != nil {
		return nil, err
	}
	return a.DecodeAsIs(z)
}

func posterior(s nn.FirstStage, x *tensor.Tensor) (Saved, error) {
	a, err := autoencoder(s)
	if err != nil {
		return nil, err
	}
	p, err := a.Posterior(x)
	if err != nil {
		return nil, err
	}
	mean, err := planar(p.Mean)
	if err != nil {
		return nil, err
	}
	logVar, err := planar(p.LogVar)
	if err != nil {
		return nil, err
	}
	std := Array{make([]float32, len(logVar.Data)), logVar.Shape}
	for i, v := range logVar.Data {
		std.Data[i] = float32(math.Exp(0.5 * float64(v)))
	}
	n, c, h, w := p.Mean.N(), p.Mean.C(), p.Mean.H(), p.Mean.W()
	moments := Array{nil, []int{n, 2 * c, h, w}} // image by image, means, then log variances
	for i, size := 0, c*h*w; i < n; i++ {
		moments.Data = append(append(moments.Data, mean.Data[i*size:][:size]...), logVar.Data[i*size:][:size]...)
	}
	return Saved{"moments": moments, "mean": mean, "logvar": logVar, "std": std}, nil
}

func quantise(s nn.FirstStage, z *tensor.Tensor) (Saved, error) {
	a, err := autoencoder(s)
	if err != nil {
		return nil, err
	}
	zq, indices, err := a.Quantise(z)
	if err != nil {
		return nil, err
	}
	out, err := planar(zq)
	if err != nil {
		return nil, err
	}
	numbers := make([]float32, len(indices))
	for i, k := range indices {
		numbers[i] = float32(k)
	}
	return Saved{"zq": out, "indices": {numbers, []int{z.N(), z.H(), z.W()}}}, nil
}

// LoadFirstStage loads the first stage of a file or folder, nil where it holds none.
func LoadFirstStage(d *tensor.Device, file string) (nn.FirstStage, error) {
	m, err := checkpoint.Open(file, checkpoint.Options{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	c, ok := m.Component(checkpoint.RoleFirstStage)
	if !ok {
		return nil, nil
	}
	return c.LoadFirstStage(d, nn.LoadOptions{})
}

// stageRunner runs functions of the first stage of a weights file.
func (c *Case) stageRunner(d *tensor.Device, file string) (runner, error) {
	stage, err := LoadFirstStage(d, file)
	if err == nil && stage == nil {
		err = fmt.Errorf("the first stage is %w", errAbsent)
	}
	return func(r Run) (Saved, error) {
		f := stageFunctions[r.Fn]
		return c.stageRun(d, stage, r.Inputs[f.input], f.run)
	}, err
}

func (c *Case) stageRun(d *tensor.Device, s nn.FirstStage, input string, f func(nn.FirstStage, *tensor.Tensor) (Saved, error)) (out Saved, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	x, err := c.Input(d, input)
	if err != nil {
		return nil, err
	}
	return f(s, x)
}
