//go:build cuda && cgo && linux && amd64

package cuda

// #include <cuda.h>
import "C"

import (
	"unsafe"

	"gorgonia.org/cu"
)

// staging is memory of the host that the device reads and writes itself. Transfers go through it, so that the program need
// not wait for those to the device, and grow it until it holds all that goes to the device between two waits.
type staging struct {
	block []byte
	used  int // of it, by transfers that may be on their way
}

const (
	leastStaging = 1 << 20
	mostStaging  = 32 << 20
	stagingLine  = 256 // bytes that pieces are aligned to
)

// stage is room for up to n bytes, at least one, until the next wait; nil where there is none at all.
func (b *Backend) stage(n int) []byte {
	s := &b.staging
	if free := len(s.block) - s.used; n > free && (len(s.block) < mostStaging || free == 0) {
		want := min(max(leastStaging, 2*len(s.block), s.used+n), mostStaging)
		if b.Sync() != nil {
			return nil
		}
		if want > len(s.block) {
			_ = b.now(func() error { b.pin(want); return nil })
		}
	}
	room := s.block[s.used:]
	room = room[:min(n, len(room))]
	s.used = min(len(s.block), (s.used+len(room)+stagingLine-1)&^(stagingLine-1))
	return room
}

// pin replaces the block by a larger one, or keeps it where the system has none. It runs on the goroutine of the context.
func (b *Backend) pin(n int) {
	b.giveUp()
	var p unsafe.Pointer
	if C.cuMemHostAlloc(&p, C.size_t(n), 0) != C.CUDA_SUCCESS {
		return
	}
	b.unpin()
	b.staging.block = unsafe.Slice((*byte)(p), n)
}

// unpin gives the block back.
func (b *Backend) unpin() {
	if len(b.staging.block) > 0 {
		C.cuMemFreeHost(unsafe.Pointer(&b.staging.block[0]))
		b.staging.block = nil
	}
}

// upload copies data to the device, after the operations so far.
func (b *Backend) upload(to device, data []byte) {
	if b.planning {
		return
	}
	for len(data) > 0 {
		room := b.stage(len(data))
		if len(room) == 0 {
			_ = b.now(func() error { // copies from pageable memory have read it when they return
				b.giveUp()
				b.fail(cu.MemcpyHtoDAsync(to, unsafe.Pointer(&data[0]), int64(len(data)), b.stream))
				return nil
			})
			return
		}
		n, at := copy(room, data), to
		b.later(func() error {
			b.giveUp()
			return cu.MemcpyHtoDAsync(at, unsafe.Pointer(&room[0]), int64(n), b.stream)
		})
		to, data = to+device(n), data[n:]
	}
}

// download copies data from the device, after the operations so far.
func (b *Backend) download(data []byte, from device) error {
	if b.planning {
		clear(data)
		return nil
	}
	if len(data) == 0 {
		return b.Sync()
	}
	for len(data) > 0 {
		room, piece := b.stage(len(data)), data
		if len(room) > 0 {
			piece = room
		}
		err := b.now(func() error {
			b.giveUp()
			b.fail(cu.MemcpyDtoHAsync(unsafe.Pointer(&piece[0]), from, int64(len(piece)), b.stream))
			return b.wait()
		})
		if err != nil {
			return err
		}
		b.staging.used = 0
		copy(data, piece)
		from, data = from+device(len(piece)), data[len(piece):]
	}
	return nil
}
