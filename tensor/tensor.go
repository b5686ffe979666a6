package tensor

import (
	"fmt"
	"time"

	"github.com/spin-native/spin/kernels"
)

// Tensor is a dense NHWC array on a device, of float32 unless Type says otherwise.
type Tensor struct {
	d       *Device
	v       kernels.View
	at      *span   // in the device's arena; nil: freed
	moments *Tensor // per-channel moments, where the operation that made the tensor gathered them
	of      *Tensor // whose rows these are, nil: of its own
}

// Device returns the device that holds the tensor.
func (t *Tensor) Device() *Device { return t.d }

// N, H, W and C are the sizes: images, rows, columns, channels.
func (t *Tensor) N() int { return t.v.N }
func (t *Tensor) H() int { return t.v.H }
func (t *Tensor) W() int { return t.v.W }
func (t *Tensor) C() int { return t.v.C }

// Len is the number of elements.
func (t *Tensor) Len() int { return t.v.Len() }

// Shape is [N H W C].
func (t *Tensor) Shape() [4]int { return [4]int{t.v.N, t.v.H, t.v.W, t.v.C} }

// Type is how the elements are stored. Set and Floats convert.
func (t *Tensor) Type() kernels.Type { return t.v.Type }

func (t *Tensor) String() string { return fmt.Sprint(t.Shape()) }

// Set overwrites the contents.
func (t *Tensor) Set(src []float32) {
	if len(src) != t.Len() {
		Fail("tensor.Set", "%d values given for a tensor of shape %v", len(src), t)
	}
	t.alive("tensor.Set")
	t.d.b.Upload(t.v, src)
}

// SetImage overwrites image n alone.
func (t *Tensor) SetImage(n int, src []float32) {
	v := t.v.Image(n)
	if len(src) != v.Len() || n < 0 || n >= t.v.N {
		Fail("tensor.SetImage", "%d values given for image %d of a tensor of shape %v", len(src), n, t)
	}
	t.alive("tensor.SetImage")
	t.d.b.Upload(v, src)
}

// Floats waits for the device and returns a copy of the contents.
func (t *Tensor) Floats() ([]float32, error) {
	t.alive("tensor.Floats")
	dst := make([]float32, t.Len())
	return dst, t.d.b.Download(dst, t.v)
}

// Reading is a place in the work of a device: when it came there, and what was read there. A device that computes while the program
// goes on is not waited for before somebody asks.
type Reading struct {
	r    kernels.Reading // nil where the device was waited for
	data []float32
	at   time.Time
	err  error
}

// Read begins to copy the contents, as they are after the operations so far.
func (t *Tensor) Read() *Reading {
	t.alive("tensor.Read")
	return t.d.read(t.v)
}

// Mark notes this place in the device's work.
func (d *Device) Mark() *Reading { return d.read(kernels.View{}) }

func (d *Device) read(v kernels.View) *Reading {
	r := &Reading{}
	if v.Present() {
		r.data = make([]float32, v.Len())
	}
	switch b, ok := d.b.(kernels.Reader); {
	case ok:
		r.r = b.Read(v)
	case v.Present():
		r.err = d.b.Download(r.data, v)
	default:
		r.err = d.b.Sync()
	}
	r.at = time.Now()
	return r
}

// There reports whether nothing has to be waited for, since the device does not compute while the program goes on.
func (r *Reading) There() bool { return r.r == nil }

// Floats waits until the device has come to this place and returns what was read there. It is asked once.
func (r *Reading) Floats() ([]float32, error) {
	if r.r != nil {
		r.err = r.r.Wait(r.data)
	}
	return r.data, r.err
}

// Since is the time from an earlier place to this one. Both were asked for their Floats.
func (r *Reading) Since(earlier *Reading) time.Duration {
	if r.r == nil || earlier.r == nil {
		return r.at.Sub(earlier.at)
	}
	return r.r.Since(earlier.r)
}

// Free forgets the reading.
func (r *Reading) Free() {
	if r.r != nil {
		r.r.Free()
	}
}

// Free gives the memory back to the device at once.
func (t *Tensor) Free() {
	t.alive("tensor.Free")
	t.release()
}

func (t *Tensor) release() {
	if t.freed() || t.of != nil {
		return
	}
	if t.at.r.buf != nil { // the device is open
		t.d.arena.release(t.at)
	}
	t.at = nil
	t.d.stats.Live -= 4 * int64(t.v.Type.Room(t.Len()))
	if t.moments != nil {
		t.moments.release()
	}
}

func (t *Tensor) freed() bool {
	if t.of != nil {
		return t.of.freed()
	}
	return t.at == nil
}

// Rows is a view of the rows from <= y < to of image n. It lives as long as the tensor and is nothing to free.
func (t *Tensor) Rows(n, from, to int) *Tensor {
	const op = "tensor.Rows"
	t.alive(op)
	if n < 0 || n >= t.N() || from < 0 || from >= to || to > t.H() {
		Fail(op, "rows %d to %d of image %d of %v", from, to, n, t)
	}
	v := t.v.Image(n)
	v.Off += from * v.W * v.C
	v.H = to - from
	root := t
	if t.of != nil {
		root = t.of
	}
	return &Tensor{d: t.d, v: v, of: root}
}

// SetRows overwrites rows of image n, from the given one on, with the image src.
func (t *Tensor) SetRows(n, from int, src *Tensor) {
	const op = "tensor.SetRows"
	rows := t.Rows(n, from, from+src.H())
	sameShape(op, rows, src, "source")
	if t.Type() == kernels.F32 && src.Type() == kernels.F32 {
		t.d.Blend(rows, Blend{Terms: []Term{{X: src, C: 1}}})
	} else {
		t.d.b.Resample(t.d.ownAny(op, rows), t.d.any(op, src), kernels.Same, kernels.View{})
	}
	t.bare() // they are no longer those of the contents
}

func (t *Tensor) alive(op string) {
	if t.freed() {
		Fail(op, "tensor of shape %v was freed before", t)
	}
}

// view is any for operands that must be F32.
func (d *Device) view(op string, t *Tensor) kernels.View {
	if t != nil && t.Type() != kernels.F32 {
		Fail(op, "operand of shape %v is stored in %v, the operation takes f32", t, t.Type())
	}
	return d.any(op, t)
}

// any checks that an operand can be read by the device and is alive. A nil tensor is an absent operand.
func (d *Device) any(op string, t *Tensor) kernels.View {
	if t == nil {
		return kernels.View{}
	}
	if !d.reads(t.d) {
		Fail(op, "operand of shape %v lives on device %s, the operation runs on %s", t, t.d.Name(), d.Name())
	}
	t.alive(op)
	return t.v
}

// own is ownAny for operands that must be F32.
func (d *Device) own(op string, t *Tensor) kernels.View {
	d.view(op, t)
	return d.ownAny(op, t)
}

// ownAny checks that an operand can be written by the device and is alive.
func (d *Device) ownAny(op string, t *Tensor) kernels.View {
	if t.d != d {
		Fail(op, "operand of shape %v lives on device %s and cannot be written by another, %s", t, t.d.Name(), d.Name())
	}
	return d.any(op, t)
}

func sameShape(op string, a, b *Tensor, what string) {
	if a.Shape() != b.Shape() {
		Fail(op, "%s has shape %v, expected %v", what, b, a)
	}
}
