//go:build cuda && cgo && linux && amd64

package cuda

import (
	"time"

	"gorgonia.org/cu"
)

// Mark notes when the device comes to this place in its work, without waiting for that.
func (b *Backend) Mark() {
	if b.planning {
		return
	}
	b.later(func() error {
		b.giveUp()
		e, err := b.event()
		if err != nil {
			return err
		}
		b.marks = append(b.marks, e)
		return e.Record(b.stream)
	})
}

// Marks waits for the device and returns the times between the marks so far, which it forgets. Where the program is slower
// than the device, that is what the device waited, too.
func (b *Backend) Marks() (between []time.Duration, err error) {
	err = b.now(func() error {
		if err := b.wait(); err != nil {
			return err
		}
		for i := 1; i < len(b.marks); i++ {
			ms, err := b.marks[i-1].Elapsed(b.marks[i])
			if err != nil {
				b.fail(err)
				return b.fault
			}
			between = append(between, time.Duration(ms*1e6))
		}
		b.spare, b.marks = append(b.spare, b.marks...), nil
		return nil
	})
	return between, err
}

// discard gives back what belongs to the stream.
func (b *Backend) discard() {
	for g := range b.graphs {
		g.destroy()
	}
	for s := range b.bundles {
		s.destroy()
	}
	for r := range b.readings {
		b.spare = append(b.spare, r.e)
	}
	for _, e := range append(b.marks, b.spare...) {
		_ = cu.DestroyEvent(&e)
	}
	b.unpin()
}
