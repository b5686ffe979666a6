// Package dryrun tells what a run will take, by making it on a device that has no memory and computes nothing.
package dryrun

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/tensor"
)

// Device goes through the motions of one on the processor.
type Device struct {
	*tensor.Device
	b *backend
}

// Cost is what the run so far would have taken.
type Cost struct {
	Device string // its name
	Memory Memory
	FLOP   float64 // of convolutions and attention; a multiplication and an addition are two
}

// Memory is in bytes. It leaves out what the program holds beside the engine: pictures and files that are being read.
type Memory struct {
	Weights     int64 `json:"weights"`     // as the backend keeps them
	Activations int64 `json:"activations"` // all tensors at their fullest: what tensor.Device.Reserve must be told
	Scratch     int64 `json:"scratch"`     // of the backend's operations
}

// Total is all of it.
func (m Memory) Total() int64 { return m.Weights + m.Activations + m.Scratch }

func (m Memory) String() string {
	mb := func(n int64) int64 { return (n + 1<<19) >> 20 }
	return fmt.Sprintf("weights %d MB + activations %d MB + scratch %d MB = %d MB", mb(m.Weights), mb(m.Activations), mb(m.Scratch), mb(m.Total()))
}

// endless is the bytes of a region that no run comes to the end of.
const endless = int64(math.MaxInt/128) * 4

// Open returns a device that stands for cpu.Open(o).
func Open(o cpu.Options) (*Device, error) {
	o.Plan = true
	inner, err := cpu.Open(o)
	if err != nil {
		return nil, err
	}
	b := &backend{Backend: inner}
	d := &Device{tensor.NewDevice(b), b}
	return d, d.Reserve(endless)
}

// Cost is what the run so far would have taken.
func (d *Device) Cost() Cost {
	u := cpu.UsageOf(d.b.Backend)
	return Cost{d.Name(), Memory{Weights: u.Weights, Activations: d.Stats().Peak, Scratch: u.Scratch}, d.b.flop}
}

// backend counts operations.
type backend struct {
	kernels.Backend
	flop float64
}

func (b *backend) Conv2D(a *kernels.Conv2D) {
	w := a.Kernel.Weights()
	b.flop += 2 * float64(a.Dst.Len()) * float64(w.In*w.Size*w.Size)
	if a.Shortcut != nil {
		b.flop += 2 * float64(a.Dst.Len()) * float64(a.Shortcut.Weights().In)
	}
	b.Backend.Conv2D(a)
}

func (b *backend) Attention(a *kernels.Attention) {
	b.flop += 4 * float64(a.Dst.Len()) * float64(a.K.Pixels())
	b.Backend.Attention(a)
}
