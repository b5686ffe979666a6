// Package dryrun is a backend that has no memory and computes nothing: a network run on it tells, through the pool's
// statistics, exactly how much memory the same run takes on a real one.
package dryrun

import (
	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

type backend struct{}

type buffer int

func (b buffer) Len() int { return int(b) }

type conv struct{ w kernels.ConvWeights }

func (c conv) Weights() kernels.ConvWeights { return c.w }

type shape struct{ a, b int }

func (s shape) Shape() (rows, cols int) { return s.a, s.b }
func (s shape) Size() (h, w int)        { return s.a, s.b }

// Open returns a device on the dry backend.
func Open() *tensor.Device { return tensor.NewDevice(backend{}) }

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

func (backend) Conv2D(*kernels.Conv2D)                                              {}
func (backend) Moments(kernels.View, kernels.View)                                  {}
func (backend) Norm(*kernels.Norm)                                                  {}
func (backend) Attention(*kernels.Attention)                                        {}
func (backend) Resample(kernels.View, kernels.View, kernels.Sampling, kernels.View) {}
func (backend) Blend(*kernels.Blend)                                                {}
func (backend) Dot(kernels.View, kernels.View, kernels.View)                        {}
func (backend) Separable(*kernels.Separable)                                        {}
func (backend) Filter(*kernels.Filter)                                              {}
func (backend) Accelerate(*kernels.Accelerate)                                      {}
func (backend) Adam(*kernels.Adam)                                                  {}
