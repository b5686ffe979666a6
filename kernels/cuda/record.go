//go:build cuda && cgo && linux && amd64

package cuda

/*
#include <cuda.h>

// The capture is this thread's business: what forks of the backend do at the same time does not disturb it.
static CUresult capture_begin(CUstream s) { return cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL); }

// capture_end ends the capture in any case. Without exec nothing is kept.
static CUresult capture_end(CUstream s, CUgraphExec *exec) {
	CUgraph g = 0;
	CUresult r = cuStreamEndCapture(s, &g);
	if (r == CUDA_SUCCESS && exec)
		r = cuGraphInstantiateWithFlags(exec, g, 0);
	if (g)
		cuGraphDestroy(g);
	return r;
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/spin-native/spin/kernels"
)

var _ kernels.Recorder = (*Backend)(nil)

// graph is a recording.
type graph struct {
	b     *Backend
	exec  C.CUgraphExec
	moves int // of memory that the launches may name
}

// capturing says what becomes of launches.
type capturing int

const (
	running   capturing = iota // they run
	recording                  // the driver keeps them
	dropping                   // they are dropped: their recording is of no use
)

func (b *Backend) handle() C.CUstream { return C.CUstream(unsafe.Pointer(b.stream.C())) }

// Record implements kernels.Recorder.
func (b *Backend) Record() {
	b.later(func() error {
		b.capture = recording
		if b.planning || C.capture_begin(b.handle()) != C.CUDA_SUCCESS {
			b.capture = dropping
		}
		return nil
	})
}

// giveUp ends a recording whose operations cannot be replayed. It runs on the goroutine of the context, at the head of
// whatever is no launch.
func (b *Backend) giveUp() {
	if b.capture == recording {
		C.capture_end(b.handle(), nil)
		b.capture = dropping
	}
}

// End implements kernels.Recorder. A capture that the driver refuses is no fault of the device.
func (b *Backend) End() kernels.Recording {
	b.tell()
	if b.closed {
		return nil
	}
	g := &graph{b: b, moves: b.moves}
	done := make(chan bool)
	b.jobs <- func() {
		ok := b.capture == recording
		if b.fault != nil {
			b.giveUp()
		} else if ok {
			ok = C.capture_end(b.handle(), &g.exec) == C.CUDA_SUCCESS
		}
		b.capture = running
		if ok = ok && b.fault == nil; ok {
			b.graphs[g] = struct{}{}
		}
		done <- ok
	}
	if !<-done {
		return nil
	}
	return g
}

// Replay implements kernels.Recording.
func (g *graph) Replay() bool {
	b := g.b
	if b.closed || g.moves != b.moves {
		return false
	}
	b.later(func() error {
		if r := C.cuGraphLaunch(g.exec, b.handle()); r != C.CUDA_SUCCESS {
			return fmt.Errorf("recorded operations: %s", errorName(r))
		}
		return nil
	})
	return true
}

// Free implements kernels.Recording.
func (g *graph) Free() {
	b := g.b
	b.later(func() error {
		if _, ok := b.graphs[g]; ok {
			delete(b.graphs, g)
			g.destroy()
		}
		return nil
	})
}

// destroy runs on the goroutine that calls the driver.
func (g *graph) destroy() { C.cuGraphExecDestroy(g.exec) }
