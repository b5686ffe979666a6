package solver

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/tensor"
)

// late is a backend that a program reads without waiting, like one whose operations run meanwhile: a place in its work lasts a
// millisecond.
type late struct {
	kernels.Backend
	places, waited, freed int // of readings
}

type place struct {
	b      *late
	number int
	data   []float32
	err    error
	freed  bool
}

func (b *late) Read(src kernels.View) kernels.Reading {
	b.places++
	p := &place{b: b, number: b.places}
	if src.Present() {
		p.data = make([]float32, src.Len())
		p.err = b.Download(p.data, src)
	}
	return p
}

func (p *place) Wait(dst []float32) error {
	p.b.waited = max(p.b.waited, p.number)
	copy(dst, p.data)
	return p.err
}

func (p *place) Since(earlier kernels.Reading) time.Duration {
	if e := earlier.(*place); p.freed || e.freed || max(p.number, e.number) > p.b.waited {
		panic("a reading that was not waited for, or is freed")
	}
	return time.Duration(p.number-earlier.(*place).number) * time.Millisecond
}

func (p *place) Free() {
	if !p.freed {
		p.b.freed++
	}
	p.freed = true
}

// watching calls before at the beginning of every call of a denoiser, of which number bad gives NaN.
type watching struct {
	Denoiser
	before     func(call int)
	calls, bad int
}

func (w *watching) Denoise(x *tensor.Tensor, t int) *tensor.Tensor {
	w.calls++
	if w.before != nil {
		w.before(w.calls)
	}
	out := w.Denoiser.Denoise(x, t)
	if w.calls == w.bad {
		out.Set(append([]float32{float32(math.NaN())}, make([]float32, out.Len()-1)...))
	}
	return out
}

// TestLate: on a device that computes while the program goes on, a run gives the same and waits for a step in the middle of the next one; with a
// deadline it waits at the end of each. It tells of steps that are made, all of them, and gives every reading back.
func TestLate(t *testing.T) {
	for name, solve := range solvers {
		t.Run(name, func(t *testing.T) {
			run := func(b kernels.Backend, bad int, deadline bool, before func(call int)) (out []float32, r *Result, steps []int, err error) {
				d := tensor.NewDevice(b)
				defer d.Close()
				p, prior := smallProblem(t, d, "inpaint", 1)
				o := Options{Progress: func(p Progress) {
					steps = append(steps, p.Step)
					pixels, err := p.Preview()
					if err == nil {
						require.False(t, math.IsNaN(float64(pixels[0])), "step %d", p.Step)
					} else {
						require.ErrorIs(t, err, ErrNumeric)
					}
				}}
				if deadline {
					o.Deadline = time.Now().Add(time.Hour)
				}
				r, err = solve(context.Background(), p, &watching{Denoiser: prior, bad: bad, before: before}, 12, o)
				if err == nil {
					out = floats(t, r.X0)
				}
				return out, r, steps, err
			}
			want, _, all, err := run(ref.Open(), 0, false, nil)
			require.NoError(t, err)

			for _, deadline := range []bool{false, true} {
				b, behind := &late{Backend: ref.Open()}, 0
				got, r, steps, err := run(b, 0, deadline, func(int) {
					if b.places > b.waited+1 { // but for the beginning of this step
						behind++
					}
				})
				require.NoError(t, err)
				require.Equal(t, want, got)
				require.Equal(t, all, steps)
				require.Equal(t, deadline, behind == 0)
				require.Equal(t, b.places, b.freed)
				require.Equal(t, b.places, b.waited)
				require.Positive(t, r.Denoising)
				require.Less(t, r.Denoising+r.Correcting, time.Duration(b.places)*time.Millisecond)
			}
			for _, bad := range []int{3, all[len(all)-1]} {
				_, _, early, wrong := run(ref.Open(), bad, false, nil)
				require.ErrorIs(t, wrong, ErrNumeric)
				b := &late{Backend: ref.Open()}
				_, r, steps, err := run(b, bad, false, nil)
				require.Nil(t, r)
				require.EqualError(t, err, wrong.Error(), "the same call and timestep")
				require.Equal(t, early, steps, "of which those before are told")
				require.Equal(t, b.places, b.freed)
			}
		})
	}
}
