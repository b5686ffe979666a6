package solver

import (
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// mean is the average M over c channels, for measurements that see one channel only. M M^T = 1/c.
type mean struct {
	c int
	k *tensor.Kernel // nil: there is one channel
}

func newMean(d *tensor.Device, c int) mean {
	if c == 1 {
		return mean{c: 1}
	}
	w := make([]float32, c)
	for i := range w {
		w[i] = 1 / float32(c)
	}
	return mean{c, d.Kernel(kernels.ConvWeights{Weight: w, Out: 1, In: c, Size: 1, Stride: 1})}
}

func (m mean) of(x *tensor.Tensor) *tensor.Tensor {
	if m.k == nil {
		return x
	}
	return x.Device().Conv2D(m.k, tensor.Input{X: x}, tensor.Epilogue{})
}

// spread is x0 + gain M^T g; x0 may be nil, for none.
func (m mean) spread(x0, g *tensor.Tensor, gain float64) *tensor.Tensor {
	return m.adjoint(g, ending{alpha: gain, add: x0, beta: 1})
}

func (m mean) adjoint(g *tensor.Tensor, e ending) *tensor.Tensor {
	d := g.Device()
	terms := []tensor.Term{{X: g, C: e.alpha / float64(m.c)}}
	if e.add != nil {
		terms = append(terms, tensor.Term{X: e.add, C: e.beta})
	}
	return d.Blend(d.New(g.N(), g.H(), g.W(), m.c), tensor.Blend{Terms: terms, Products: e.Products})
}
