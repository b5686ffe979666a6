//go:build cuda && cgo && linux && amd64

package cuda

// #include <cuda.h>
import "C"

import (
	"slices"
	"time"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/spin-native/spin/kernels"
)

var _ kernels.Reader = (*Backend)(nil)

// reading is an event behind a copy to pinned memory.
type reading struct {
	b    *Backend
	room []byte    // of the block for transfers, until it is given back
	data []float32 // what was there then
	head int64     // of that block, behind room
	err  error
	// The rest belongs to the goroutine that calls the driver.
	set  bool // there is an event
	been bool // the device has come to it
	e    cu.Event
}

// Read implements kernels.Reader.
func (b *Backend) Read(src kernels.View) kernels.Reading {
	r := &reading{b: b}
	bytes, from := 0, device(0)
	if src.Present() {
		if src.Type == kernels.F16 {
			src = b.widened(src)
		}
		bytes, from = 4*src.Len(), device(at(src))
		r.data = make([]float32, src.Len())
		if !b.planning {
			r.room = b.stage(bytes)
		}
		if len(r.room) < bytes { // there is no such room
			r.room, r.err = nil, b.download(bytesOf(r.data), from)
		}
	}
	if r.head = b.staging.head; r.room != nil {
		b.unread = append(b.unread, r)
	}
	if b.planning {
		return r
	}
	room := r.room
	b.later(func() (err error) {
		b.giveUp()
		if len(room) > 0 {
			if err := cu.MemcpyDtoHAsync(unsafe.Pointer(&room[0]), from, int64(bytes), b.stream); err != nil {
				return err
			}
		}
		if r.e, err = b.event(); err != nil {
			return err
		}
		r.set = true
		b.readings[r] = struct{}{}
		return r.e.Record(b.stream)
	})
	return r
}

// Wait implements kernels.Reading.
func (r *reading) Wait(dst []float32) error {
	b := r.b
	if r.err != nil || b.planning {
		copy(dst, r.data)
		return r.err
	}
	err := b.now(func() error {
		b.fail(r.e.Synchronize())
		r.been = b.fault == nil
		return b.fault
	})
	if err != nil {
		return err
	}
	b.through(r.head)
	copy(dst, r.data)
	return nil
}

// through gives the room of transfers back, up to this head, which the device has come to. What was read there is kept.
func (b *Backend) through(head int64) {
	b.unread = slices.DeleteFunc(b.unread, func(r *reading) bool {
		if r.head > head {
			return false
		}
		copy(bytesOf(r.data), r.room)
		r.room = nil
		return true
	})
	b.staging.tail = max(b.staging.tail, head)
}

// Since implements kernels.Reading.
func (r *reading) Since(earlier kernels.Reading) (took time.Duration) {
	_ = r.b.now(func() error {
		if before, ok := earlier.(*reading); ok && before.b == r.b && r.set && r.been && before.set && before.been {
			ms, err := before.e.Elapsed(r.e)
			r.b.fail(err)
			took = time.Duration(ms * 1e6)
		}
		return nil
	})
	return took
}

// Free implements kernels.Reading.
func (r *reading) Free() {
	b := r.b
	b.unread = slices.DeleteFunc(b.unread, func(u *reading) bool { return u == r })
	b.later(func() error {
		if r.set {
			r.set = false
			delete(b.readings, r)
			b.spare = append(b.spare, r.e)
		}
		return nil
	})
}

// event is one that is not in use.
func (b *Backend) event() (e cu.Event, err error) {
	if n := len(b.spare); n > 0 {
		e, b.spare = b.spare[n-1], b.spare[:n-1]
		return e, nil
	}
	return cu.MakeEvent(cu.DefaultEvent)
}
