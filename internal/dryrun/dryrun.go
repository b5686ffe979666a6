// Package dryrun is a backend that has no memory and computes nothing. A network run on it tells, through the pool's
// statistics, exactly how much memory its tensors take on a real one, and how many operations it makes.
package dryrun

import (
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

type backend struct{ flop *float64 }

type buffer int

func (b buffer) Len() int { return int(b) }

type conv struct{ w kernels.ConvWeights }

func (c conv) Weights() kernels.ConvWeights { return c.w }

type shape struct{ a, b int }

func (s shape) Shape() (rows, cols int) { return s.a, s.b }
func (s shape) Size() (h, w int)        { return s.a, s.b }

// Open returns a device on the dry backend, and where it counts the floating-point operations of convolutions and
// attention; a multiplication and an addition are two.
func Open() (d *tensor.Device, flop *float64) {
	flop = new(float64)
	return tensor.NewDevice(backend{flop}), flop
}

func (backend) Name() string                                 { return "dry run" }
func (backend) Alloc(n int) (kernels.Buffer, error)          { return buffer(n), nil }
func (backend) Free(kernels.Buffer)                          {}
func (backend) Upload(kernels.View, []float32)               {}
func (backend) Download(dst []float32, _ kernels.View) error { clear(dst); return nil }
func (backend) Sync() error                                  { return nil }
func (backend) Close() error                                 { return nil }

func (backend) PrepareConv(w kernels.ConvWeights) (kernels.Conv, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	w.Weight, w.Bias = nil, nil
	return conv{w}, nil
}
func (backend) PrepareMatrix(m kernels.Matrix) (kernels.PreparedMatrix, error) {
	return shape{m.Rows, m.Cols}, m.Check()
}
func (backend) PrepareFilter(f kernels.FilterWeights) (kernels.PreparedFilter, error) {
	return shape{f.H, f.W}, f.Check()
}

func (backend) Moments(kernels.View, kernels.View)                                  {}
func (backend) Norm(*kernels.Norm)                                                  {}
func (backend) Resample(kernels.View, kernels.View, kernels.Sampling, kernels.View) {}
func (backend) Blend(*kernels.Blend)                                                {}
func (backend) Dot(kernels.View, kernels.View, kernels.View)                        {}
func (backend) Separable(*kernels.Separable)                                        {}
func (backend) Filter(*kernels.Filter)                                              {}
func (backend) Accelerate(*kernels.Accelerate)                                      {}
func (backend) Adam(*kernels.Adam)                                                  {}

func (b backend) Conv2D(a *kernels.Conv2D) {
	w := a.Kernel.Weights()
	*b.flop += 2 * float64(a.Dst.Len()) * float64(w.In*w.Size*w.Size)
	if a.Shortcut != nil {
		*b.flop += 2 * float64(a.Dst.Len()) * float64(a.Shortcut.Weights().In)
	}
}

func (b backend) Attention(a *kernels.Attention) {
	*b.flop += 4 * float64(a.Dst.Len()) * float64(a.K.Pixels())
}
