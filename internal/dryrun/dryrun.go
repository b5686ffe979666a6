// Package dryrun tells what a run will take, by making it on a device that has no memory and computes nothing.
package dryrun

import (
	"errors"
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/tensor"
)

// Machine is what a run is rehearsed for.
type Machine struct {
	CPU   cpu.Options   // the processor, where there is no CUDA
	CUDA  *cuda.Options // a device of this machine
	Store kernels.Type  // of networks
}

// plan is a backend that takes no memory and computes nothing.
func (m Machine) plan() (kernels.Backend, error) {
	if m.CUDA != nil {
		return cuda.Open(cuda.Options{Device: m.CUDA.Device, Plan: true})
	}
	m.CPU.Plan = true
	return cpu.Open(m.CPU)
}

// Device goes through the motions of one of a machine.
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

// Open returns a device that stands for one of the machine.
func Open(m Machine) (*Device, error) {
	inner, err := m.plan()
	if err != nil {
		return nil, err
	}
	b := &backend{Backend: inner}
	d := &Device{tensor.NewDevice(b), b}
	if err := d.Store(m.Store); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, d.Reserve(endless)
}

// Cost is what the run so far would have taken.
func (d *Device) Cost() Cost {
	u := kernels.UsageOf(d.b.Backend)
	return Cost{d.Name(), Memory{Weights: u.Weights, Activations: d.Stats().Peak, Scratch: u.Scratch}, d.b.flop}
}

// backend counts operations.
type backend struct {
	kernels.Backend
	flop float64
}

// Stores implements kernels.Storer.
func (b *backend) Stores(t kernels.Type) bool {
	s, ok := b.Backend.(kernels.Storer)
	return t == kernels.F32 || ok && s.Stores(t)
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
