package tensor

import (
	"math"

	"github.com/spin-native/spin/kernels"
)

// Device owns a backend and an arena of its memory.
type Device struct {
	b        kernels.Backend
	parent   *Device // whose fork this is, or nil
	arena    arena
	stored   kernels.Type
	live     []*Tensor // tensors of the open brackets, innermost last
	depth    int       // open brackets
	passes   []*pass   // met before, the latest last
	series   []*series // bundled before, the latest last
	bundling bool
	stats    Stats
}

// Stats counts a device's memory in bytes.
type Stats struct {
	Live      int64 // in tensors that have not been freed
	Peak      int64 // the most that tensors reached up to so far, gaps between them included: what Reserve must be told
	Allocated int64 // taken from the backend
	Allocs    int64 // times that the backend was asked for memory
}

// NewDevice takes the backend over: Close closes it.
func NewDevice(b kernels.Backend) *Device { return &Device{b: b} }

// Name is the backend's name.
func (d *Device) Name() string { return d.b.Name() }

// Backend gives the contract itself, for code that has an operation of its own.
func (d *Device) Backend() kernels.Backend { return d.b }

// Store says how networks that are loaded from now on keep their activations; F32 unless it is called. It is an error
// where the backend does not store the type.
func (d *Device) Store(t kernels.Type) error {
	if !d.stores(t) {
		return &Error{Op: "tensor.Store", Msg: "device " + d.Name() + " stores f32 alone, not " + t.String()}
	}
	d.stored = t
	return nil
}

func (d *Device) stores(t kernels.Type) bool {
	s, ok := d.b.(kernels.Storer)
	return t == kernels.F32 || ok && s.Stores(t)
}

// Stored is how networks keep their activations.
func (d *Device) Stored() kernels.Type { return d.stored }

// Stats reports the memory in use.
func (d *Device) Stats() Stats { return d.stats }

// Sync waits for the device and returns its first fault, if any.
func (d *Device) Sync() error { return d.b.Sync() }

// Close releases all memory of the device. Its tensors are dead after it.
func (d *Device) Close() error {
	for _, r := range d.arena.regions {
		r.buf = nil
	}
	d.arena, d.live, d.passes, d.series = arena{}, nil, nil, nil
	return d.b.Close()
}

// Fork opens a device of its own memory and threads (0: as many as this one has) that reads tensors and kernels of this
// one, which must not be written or freed meanwhile. So weights that were loaded once serve many goroutines: each device
// is one goroutine's at a time. The results belong to the fork. Weights live until this device and all its forks are
// closed. Matrices and filters are each device's own.
func (d *Device) Fork(threads int) (*Device, error) {
	const op = "tensor.Fork"
	f, ok := d.b.(kernels.Forker)
	if !ok {
		return nil, &Error{Op: op, Msg: "device " + d.Name() + " cannot be forked"}
	}
	b, err := f.Fork(threads)
	if err != nil {
		return nil, &Error{Op: op, Msg: "device " + d.Name(), Err: err}
	}
	return &Device{b: b, parent: d, stored: d.stored}, nil
}

// reads reports whether operations on d may read what lives on other.
func (d *Device) reads(other *Device) bool {
	for ; d != nil; d = d.parent {
		if d == other {
			return true
		}
	}
	return false
}

// Reserve takes memory for tensors in one piece. A program that calls it first, with the Peak of an earlier run that did
// the same, or of one on a device that computes nothing, needs no other memory. Without it, and for what exceeds it, a
// device takes memory as tensors come, in pieces that double.
func (d *Device) Reserve(bytes int64) (err error) {
	const op = "tensor.Reserve"
	defer Catch(&err)
	if bytes <= 0 || bytes/4 > maxElements {
		Fail(op, "%d bytes asked for", bytes)
	}
	if err := d.add(roundUp(int((bytes + 3) / 4))); err != nil {
		FailWith(op, err, "%d MB asked for, %d MB in use on %s", bytes>>20, d.stats.Allocated>>20, d.Name())
	}
	return nil
}

// add gives the arena a region of n floats.
func (d *Device) add(n int) error {
	buf, err := d.b.Alloc(n)
	if err != nil {
		return err
	}
	d.arena.add(buf)
	d.stats.Allocated += 4 * int64(buf.Len())
	d.stats.Allocs++
	return nil
}

// Trim gives memory that holds no tensor back to the backend, as far as it was taken in pieces of its own.
func (d *Device) Trim() {
	d.arena.trim(func(b kernels.Buffer) {
		d.stats.Allocated -= 4 * int64(b.Len())
		d.b.Free(b)
	})
}

// take is a place for n floats.
func (d *Device) take(n int) *span {
	s := d.arena.take(n)
	if s == nil {
		d.grow(n)
		s = d.arena.take(n)
	}
	d.stats.Live += 4 * int64(n)
	d.stats.Peak = max(d.stats.Peak, 4*int64(d.arena.extent))
	return s
}

// least is the smallest region that is taken unasked, in floats.
const least = 1 << 18

// grow adds a region that n floats fit into, as large as all others together so that a program ends up with few. Free
// regions merge into it. Where there is not that much, it makes do with n.
func (d *Device) grow(n int) {
	all := int(d.stats.Allocated / 4)
	d.Trim()
	if d.add(max(room(n), all, least)) == nil {
		return
	}
	if err := d.add(room(n)); err != nil {
		FailWith("tensor.New", err, "%d MB asked for, %d MB in use on %s", 4*n>>20, d.stats.Allocated>>20, d.Name())
	}
}

// New returns a tensor with undefined contents. Inside a bracket it is freed at the bracket's end; outside of any it
// lives until Free.
func (d *Device) New(n, h, w, c int) *Tensor { return d.NewOf(kernels.F32, n, h, w, c) }

// NewOf is New for elements of a type that the device stores; see Store.
func (d *Device) NewOf(kind kernels.Type, n, h, w, c int) *Tensor {
	if n <= 0 || h <= 0 || w <= 0 || c <= 0 || n > maxElements/h/w/c {
		Fail("tensor.New", "shape [%d %d %d %d] is empty or too large", n, h, w, c)
	}
	if !d.stores(kind) {
		Fail("tensor.New", "device %s does not store %v", d.Name(), kind)
	}
	size := n * h * w * c
	at := d.take(kind.Room(size))
	t := &Tensor{d: d, at: at, v: kernels.View{Buf: at.r.buf, Off: at.off, N: n, H: h, W: w, C: c, Type: kind}}
	if kind == kernels.F16 {
		t.v.Off *= 2
	}
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
		if *k == t || (*k != nil && ((*k).moments == t || (*k).of == t)) {
			return true
		}
	}
	return false
}
