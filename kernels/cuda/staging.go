//go:build cuda && cgo && linux && amd64

package cuda

// #include <cuda.h>
import "C"

import (
	"unsafe"

	"gorgonia.org/cu"
)

// staging is memory of the host that the device reads and writes itself, a ring. Transfers go through it, so that the program need
// not wait for those to the device, and grow it until it holds all that is on its way at a time.
type staging struct {
	block      []byte
	head, tail int64 // bytes that were given out so far, and those among them that are free again
}

const (
	leastStaging = 1 << 20
	mostStaging  = 32 << 20
	stagingLine  = 256 // bytes that pieces are aligned to
)

// stage is room for up to n bytes, at least one, until a wait for what comes after; nil where there is none at all.
func (b *Backend) stage(n int) []byte {
	s := &b.staging
	room := s.room(n)
	if used := int(s.head - s.tail); len(room) < n && (len(s.block) < mostStaging || len(room) == 0) {
		want := min(max(leastStaging, 2*len(s.block), (used+n+stagingLine-1)&^(stagingLine-1)), mostStaging)
		if b.Sync() != nil {
			return nil
		}
		if want > len(s.block) {
			_ = b.now(func() error { b.pin(want); return nil })
		}
		room = s.room(n)
	}
	s.head += int64(len(room)+stagingLine-1) &^ (stagingLine - 1)
	return room
}

// room is what of n bytes is free in one piece: behind the head, or at the block's beginning where more is there.
func (s *staging) room(n int) []byte {
	size := int64(len(s.block))
	if size == 0 {
		return nil
	}
	free, at := size-(s.head-s.tail), s.head%size
	if behind := min(free, size-at); behind < int64(n) && free-behind > behind {
		s.head += behind // nothing of it is used
		free, at = free-behind, 0
	}
	return s.block[at:][:min(int64(n), free, size-at)]
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
		b.through(b.staging.head)
		copy(data, piece)
		from, data = from+device(len(piece)), data[len(piece):]
	}
	return nil
}
