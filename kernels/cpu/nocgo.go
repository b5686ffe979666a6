//go:build !cgo

package cpu

import (
	"fmt"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
)

// Levels names the instruction sets that this build and processor can run, best first.
func Levels() []string { return []string{"ref"} }

// Open returns the reference backend, since this build has no C code.
func Open(o Options) (kernels.Backend, error) {
	if o.Level != "" && o.Level != "ref" {
		return nil, fmt.Errorf("cpu: level %q is not available: this program was built with CGO_ENABLED=0", o.Level)
	}
	if o.Products != "" && o.Products != "f32" {
		return nil, fmt.Errorf("cpu: products in %q are not available: this program was built with CGO_ENABLED=0", o.Products)
	}
	if o.Plan {
		return &plan{Backend: ref.Open()}, nil
	}
	return ref.Open(), nil
}

// plan is the reference backend without memory.
type plan struct {
	*ref.Backend
	usage kernels.Usage
}

type planned int

func (b planned) Len() int { return int(b) }

type conv struct{ w kernels.ConvWeights }

func (c conv) Weights() kernels.ConvWeights { return c.w }

func (p *plan) Usage() kernels.Usage { return p.usage }

func (*plan) Fork(int) (kernels.Backend, error) { return &plan{Backend: ref.Open()}, nil }

func (p *plan) Alloc(n int) (kernels.Buffer, error) {
	p.usage.Tensors += 4 * int64(n)
	return planned(n), nil
}

func (p *plan) PrepareConv(w kernels.ConvWeights) (kernels.Conv, error) {
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("ref: %w", err)
	}
	p.usage.Weights += 4 * int64(len(w.Weight)+len(w.Bias))
	w.Weight, w.Bias = nil, nil
	return conv{w}, nil
}

func (p *plan) Free(b kernels.Buffer)                                        { p.usage.Tensors -= 4 * int64(b.Len()) }
func (*plan) Upload(kernels.View, []float32)                                 {}
func (*plan) Download(dst []float32, _ kernels.View) error                   { clear(dst); return nil }
func (*plan) Conv2D(*kernels.Conv2D)                                         {}
func (*plan) Moments(_, _ kernels.View)                                      {}
func (*plan) Norm(*kernels.Norm)                                             {}
func (*plan) Attention(*kernels.Attention)                                   {}
func (*plan) LayerNorm(*kernels.LayerNorm)                                   {}
func (*plan) GEGLU(_, _ kernels.View)                                        {}
func (*plan) Resample(_, _ kernels.View, _ kernels.Sampling, _ kernels.View) {}
func (*plan) Nearest(*kernels.Nearest)                                       {}
func (*plan) Blend(*kernels.Blend)                                           {}
func (*plan) Dot(_, _, _ kernels.View)                                       {}
func (*plan) Separable(*kernels.Separable)                                   {}
func (*plan) Filter(*kernels.Filter)                                         {}
func (*plan) Deconvolve(*kernels.Deconvolve)                                 {}
func (*plan) Conjugate(*kernels.Conjugate)                                   {}
func (*plan) Accelerate(*kernels.Accelerate)                                 {}
func (*plan) Adam(*kernels.Adam)                                             {}
func (*plan) Fourier(*kernels.Fourier)                                       {}
func (*plan) Sparse(*kernels.Sparse)                                         {}
func (*plan) Pointwise(*kernels.Pointwise)                                   {}
