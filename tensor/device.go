package tensor

import (
	"math"

	"github.com/spin-native/spin/kernels"
)

// Device owns a backend and a pool of its memory.
type Device struct {
	b     kernels.Backend
	free  map[int][]kernels.Buffer
	live  []*Tensor // tensors of the open brackets, innermost last
	depth int       // open brackets
	stats Stats
}

// Stats counts a device's memory in bytes.
type Stats struct {
	Live      int64 // in tensors that have not been freed
	Peak      int64 // the largest Live so far
	Allocated int64 // taken from the backend, pool included
	Allocs    int64 // times that the backend was asked for memory
}

// NewDevice takes the backend over: Close closes it.
func NewDevice(b kernels.Backend) *Device {
	return &Device{b: b, free: map[int][]kernels.Buffer{}}
}

// Name is the backend's name.
func (d *Device) Name() string { return d.b.Name() }

// Backend gives the contract itself, for code that has an operation of its own.
func (d *Device) Backend() kernels.Backend { return d.b }

// Stats reports the memory in use.
func (d *Device) Stats() Stats { return d.stats }

// Sync waits for the device and returns its first fault, if any.
func (d *Device) Sync() error { return d.b.Sync() }

// Close releases all memory of the device. Its tensors are dead after it.
func (d *Device) Close() error {
	d.free, d.live = map[int][]kernels.Buffer{}, nil
	return d.b.Close()
}

// Trim gives pooled memory that is not in use back to the backend.
func (d *Device) Trim() {
	for n, list := range d.free {
		for _, b := range list {
			d.b.Free(b)
			d.stats.Allocated -= 4 * int64(n)
		}
		delete(d.free, n)
	}
}

func (d *Device) take(n int) kernels.Buffer {
	if list := d.free[n]; len(list) > 0 {
		b := list[len(list)-1]
		d.free[n] = list[:len(list)-1]
		d.count(n)
		return b
	}
	b, err := d.b.Alloc(n)
	if err != nil {
		d.Trim() // pooled sizes that no longer occur may be what is in the way
		if b, err = d.b.Alloc(n); err != nil {
			FailWith("tensor.New", err, "%d MB asked for, %d MB in use on %s", 4*n>>20, d.stats.Allocated>>20, d.Name())
		}
	}
	d.stats.Allocated += 4 * int64(n)
	d.stats.Allocs++
	d.count(n)
	return b
}

func (d *Device) count(n int) {
	d.stats.Live += 4 * int64(n)
	d.stats.Peak = max(d.stats.Peak, d.stats.Live)
}

// New returns a tensor with undefined contents. Inside a bracket it is freed at the bracket's end; outside of any it
// lives until Free.
func (d *Device) New(n, h, w, c int) *Tensor {
	if n <= 0 || h <= 0 || w <= 0 || c <= 0 || n > maxElements/h/w/c {
		Fail("tensor.New", "shape [%d %d %d %d] is empty or too large", n, h, w, c)
	}
	size := n * h * w * c
	t := &Tensor{d: d, v: kernels.View{Buf: d.take(size), N: n, H: h, W: w, C: c}}
	if d.depth > 0 {
		d.live = append(d.live, t)
	}
	return t
}

// maxElements bounds every tensor so that no product of sizes overflows.
const maxElements = math.MaxInt / 64

// From returns a new tensor with the given contents, NHWC.
func (d *Device) From(data []float32, n, h, w, c int) *Tensor {
	t := d.New(n, h, w, c)
	t.Set(data)
	return t
}

// Vector returns a new [1,1,1,C] tensor.
func (d *Device) Vector(data []float32) *Tensor { return d.From(data, 1, 1, 1, len(data)) }

// Tidy opens a bracket and returns the function that closes it: every tensor made in between is freed, except what the
// keep pointers then point to, which passes to the enclosing bracket. A tensor that Free was called on is skipped.
func (d *Device) Tidy(keep ...**Tensor) func() {
	start := len(d.live)
	d.depth++
	return func() {
		kept := d.live[:start]
		for _, t := range d.live[start:] {
			if t.wanted(keep) && d.depth > 1 {
				kept = append(kept, t)
			} else if !t.wanted(keep) {
				t.release()
			}
		}
		clear(d.live[len(kept):])
		d.live = kept
		d.depth--
	}
}

func (t *Tensor) wanted(keep []**Tensor) bool {
	for _, k := range keep {
		if *k == t || (*k != nil && (*k).moments == t) {
			return true
		}
	}
	return false
}
