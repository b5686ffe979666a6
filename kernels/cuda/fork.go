//go:build cuda && cgo && linux && amd64

package cuda

/*
#include <cuda.h>
#include "args.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"gorgonia.org/cu"

	"github.com/spin-native/spin/kernels"
)

// program is what a backend and its forks have in common: the device's context and the kernels loaded into it.
type program struct {
	name    string
	dev     cu.Device
	ctx     cu.CUContext
	modules []cu.Module
	kernels map[string]*cu.Function

	planning        bool         // no function of the driver is called
	users           atomic.Int32 // backends: this one and its forks, those that are not closed
	multiprocessors int          // of a device that is not planned
	wgmma           bool         // there are the kernels of wgmma.go
}

// claim counts who needs the memory of a backend: itself, until it is closed, and its forks.
type claim struct {
	mu    sync.Mutex
	users int
}

// more adds a fork, unless nobody is left.
func (c *claim) more() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users == 0 {
		return false
	}
	c.users++
	return true
}

// last drops a user and reports whether it was the last.
func (c *claim) last() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users--
	return c.users == 0
}

func (c *claim) shared() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.users > 1
}

var _ kernels.Forker = (*Backend)(nil)

// Fork implements kernels.Forker: a stream, a thread, memory and recordings of its own. threads means nothing here.
func (b *Backend) Fork(threads int) (kernels.Backend, error) {
	if threads < 0 {
		return nil, fmt.Errorf("%s: %d threads asked for, expected 1 or more", b.name, threads)
	}
	if b.closed {
		return nil, fmt.Errorf("%s: the backend to fork is closed", b.name)
	}
	if err := b.place(); err != nil {
		return nil, err
	}
	if err := b.Sync(); err != nil { // what it is to read is there
		return nil, err
	}
	b.claim.more()
	f := newBackend(b.program)
	f.parent = b
	if err := f.serve(f.enter); err != nil {
		b.claim.last()
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	return f, nil
}

// newBackend is a backend before its goroutine is started.
func newBackend(p *program) *Backend {
	return &Backend{
		program: p, claim: claim{users: 1}, jobs: make(chan func(), ahead),
		tables: map[int]device{}, fadings: map[fadingKey]device{}, layings: map[fadingKey]*laying{}, memory: map[device]int64{}, graphs: map[*graph]struct{}{}, bundles: map[*series]struct{}{},
		launches: map[string]int{}, next: aligned, joined: new(C.together_args), readings: map[*reading]struct{}{},
	}
}

// serve starts the goroutine that the driver is called from, with start as its first job.
func (b *Backend) serve(start func() error) error {
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := start()
		ready <- err
		if err == nil {
			for job := range b.jobs {
				job()
			}
		}
	}()
	return <-ready
}

// enter makes the context this thread's, the stream, and what blocks of one launch meet by.
func (b *Backend) enter() (err error) {
	able := 1
	if !b.planning {
		if err = cu.SetCurrentContext(b.ctx); err != nil {
			return err
		}
		if able, err = b.dev.Attribute(cu.DeviceAttribute(C.CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)); err != nil {
			return err
		}
	}
	b.cooperative = able != 0
	if b.meet, err = b.obtain(8); err == nil && !b.planning {
		if b.stream, err = cu.MakeStream(cu.NonBlocking); err == nil {
			if err = cu.MemsetD32Async(b.meet, 0, 2, b.stream); err != nil {
				err = errors.Join(err, b.stream.Destroy())
			}
		}
		if err != nil {
			err = errors.Join(err, b.release(b.meet))
		}
	}
	if err == nil {
		b.users.Add(1)
	}
	return err
}

// meets reports whether blocks of a launch may wait for each other: where the device lets them, and no fork is there, whose grid
// may want all of the device, too.
func (b *Backend) meets() bool { return b.cooperative && b.users.Load() == 1 }

// leave gives up what no fork reads, and what was nobody else's then: memory, and with the last one the kernels and the context.
func (b *Backend) leave() error {
	b.users.Add(-1)
	if b.planning {
		return nil
	}
	b.discard()
	err := b.stream.Destroy()
	for b.claim.last() {
		for p := range b.memory {
			err = errors.Join(err, cu.MemFree(p))
		}
		if b.parent == nil {
			return errors.Join(err, b.unload(), b.dev.ReleasePrimaryCtx())
		}
		b = b.parent
	}
	return err
}
