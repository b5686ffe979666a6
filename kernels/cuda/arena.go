//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"
	"unsafe"

	"gorgonia.org/cu"
)

// aligned is what addresses on the device are multiples of, as the driver has it; tensor maps and copies of 16 bytes ask for less.
const aligned = 256

// room is what so many bytes take of memory that arrays share.
func room(bytes int) int { return blocks(max(bytes, 1), aligned) * aligned }

// array is data that is to have memory of the device, whose address goes to at. Where the device is planned there is no data.
type array struct {
	bytes int
	data  []byte
	at    *device
}

func arrayOf[T float32 | int32](data []T, at *device) array {
	return array{4 * len(data), bytesOf(data), at}
}

// put takes one piece of memory that is just large enough for some arrays and copies them into it. It tells the piece, or where
// arrays are to lie apart the piece of each. It runs on the goroutine of the context.
func (b *Backend) put(arrays []array) (pieces []device, err error) {
	size := 0
	for _, a := range arrays {
		size += room(a.bytes)
	}
	var p device
	for i, a := range arrays {
		if apart := arenaSize == 0; i == 0 || apart {
			if apart {
				size = a.bytes
			}
			if p, err = b.obtain(size); err != nil {
				for _, p := range pieces {
					b.fail(b.release(p))
				}
				return nil, err
			}
			pieces = append(pieces, p)
		}
		if a.bytes > 0 && !b.planning {
			b.fail(cu.MemcpyHtoDAsync(p, unsafe.Pointer(&a.data[0]), int64(a.bytes), b.stream)) // has read data when it returns
		}
		*a.at = p
		p += device(room(a.bytes))
	}
	return pieces, b.fault
}

// keep copies arrays to memory of the device that they share and that lives until Close, or until its pieces are released.
func (b *Backend) keep(arrays ...array) (pieces []device, err error) {
	err = b.now(func() (err error) { pieces, err = b.put(arrays); return err })
	b.settle()
	return pieces, err
}

// arenaSize is the bytes of weights that are put together. 0 has every array lie apart, for tests: a detector of bad addresses, which
// knows the driver's pieces of memory and nothing of what is in them, then sees where each array ends.
var arenaSize = 32 << 20

// arena is the weights of convolutions that wait for their memory. Until there are as many as arenaSize, or one is needed, they stay with
// the host: then it is known how much memory all of them take, and nothing of it is left over.
type arena struct {
	convs  []*conv
	arrays []array
	bytes  int
}

// add has weights wait, and places them if that is enough. Those of an error do not wait any longer.
func (b *Backend) add(c *conv, arrays []array) error {
	before := b.arena
	b.arena.convs, b.arena.arrays = append(before.convs, c), append(before.arrays, arrays...)
	for _, a := range arrays {
		b.arena.bytes += room(a.bytes)
	}
	if b.arena.bytes < arenaSize && b.parent == nil && !b.claim.shared() { // forks may read each other's at once
		return nil
	}
	err := b.place()
	if err != nil {
		b.arena = before
	}
	return err
}

// place gives the weights that wait memory of the device. Where that lacks they go on waiting.
func (b *Backend) place() error {
	if len(b.arena.convs) == 0 {
		return nil
	}
	var before, after int64
	err := b.now(func() error {
		before = b.held
		if _, err := b.put(b.arena.arrays); err != nil {
			return err
		}
		after = b.held
		for _, c := range b.arena.convs {
			b.mapTensor(c)
		}
		return b.fault
	})
	if err != nil {
		return fmt.Errorf("weights of %d convolutions: %w", len(b.arena.convs), err)
	}
	b.weights += after - before
	b.arena = arena{}
	b.settle()
	return nil
}
