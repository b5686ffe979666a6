//go:build cuda && cgo && linux && amd64

package cuda

/*
#include <cuda.h>

// A kernel takes one struct. fn points to a handle; shape is the grid, the threads of a block, and its shared memory.
static CUDA_KERNEL_NODE_PARAMS node_params(const void *fn, const unsigned *shape, void **params) {
	CUDA_KERNEL_NODE_PARAMS p = {0};
	p.func = *(const CUfunction *)fn;
	p.gridDimX = shape[0], p.gridDimY = shape[1], p.gridDimZ = shape[2];
	p.blockDimX = shape[3], p.blockDimY = p.blockDimZ = 1;
	p.sharedMemBytes = shape[4];
	p.kernelParams = params;
	return p;
}

static CUresult add_node(CUgraph g, CUgraphNode *node, CUgraphNode after, const void *fn, const unsigned *shape, void *args) {
	void *params[] = {args};
	CUDA_KERNEL_NODE_PARAMS p = node_params(fn, shape, params);
	return cuGraphAddKernelNode(node, g, &after, after ? 1 : 0, &p);
}

// allow_meeting makes a node a cooperative launch.
static CUresult allow_meeting(CUgraphNode node) {
	CUkernelNodeAttrValue v = {0};
	v.cooperative = 1;
	return cuGraphKernelNodeSetAttribute(node, CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE, &v);
}

static CUresult set_node(CUgraphExec x, CUgraphNode node, const void *fn, const unsigned *shape, void *args) {
	void *params[] = {args};
	CUDA_KERNEL_NODE_PARAMS p = node_params(fn, shape, params);
	return cuGraphExecKernelNodeSetParams(x, node, &p);
}

static CUresult instantiate(CUgraphExec *x, CUgraph g) { return cuGraphInstantiateWithFlags(x, g, 0); }
*/
import "C"

import (
	"bytes"
	"fmt"
	"unsafe"

	"github.com/spin-native/spin/kernels"
)

var _ kernels.Bundler = (*Backend)(nil)

// node is a launch that was kept back.
type node struct {
	name  string
	shape shape
	args  []byte
	told  bool // the graph has these arguments
}

func newNode[A any](name string, at shape, args *A) node {
	return node{name: name, shape: at, args: bytes.Clone(bytesIn(args))}
}

func bytesIn[A any](args *A) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(args)), unsafe.Sizeof(*args))
}

// step is a launch of a graph: a node, or several as phases of one.
type step struct {
	nodes  []node
	handle C.CUgraphNode
}

// series is launches that run in one go. A graph of them belongs to the goroutine that calls the driver.
type series struct {
	b      *Backend
	nodes  []node
	steps  []step // of the graph
	next   int    // how many were kept back so far
	stale  bool   // the graph is of other launches
	breaks int    // times that there was no going in one
	graph  C.CUgraph
	exec   C.CUgraphExec
}

// mostBreaks is after how many of them a series is not kept back any more.
const mostBreaks = 4

// Bundle implements kernels.Bundler.
func (b *Backend) Bundle(like kernels.Bundle) {
	b.tell()
	s, ok := like.(*series)
	if !ok {
		s = &series{b: b}
	}
	b.bundled = s
	if s.breaks < mostBreaks && !b.planning {
		s.next, b.open = 0, s
	}
}

// keep keeps a launch back: the one of the last time, perhaps with other arguments, or another one, which makes another series.
func (s *series) keep(name string, at shape, args []byte) {
	i := s.next
	s.next++
	if i < len(s.nodes) {
		if n := &s.nodes[i]; n.name == name && n.shape == at {
			if !bytes.Equal(n.args, args) {
				copy(n.args, args)
				n.told = false
			}
			return
		}
	}
	s.nodes, s.stale = append(s.nodes[:i], node{name: name, shape: at, args: bytes.Clone(args)}), true
}

// close ends a series: what it had more of the last time is forgotten.
func (s *series) close() {
	if s.b.open = nil; s.next < len(s.nodes) {
		s.nodes, s.stale = s.nodes[:s.next], true
	}
}

// spill runs what was kept back and keeps no more, before something that is no launch.
func (b *Backend) spill() {
	b.tell()
	if s := b.open; s != nil {
		s.close()
		s.breaks++
		s.finish(s.launch)
	}
}

// Run implements kernels.Bundler.
func (b *Backend) Run() kernels.Bundle {
	b.tell()
	if s := b.open; s != nil {
		s.close()
		s.finish(s.run)
	}
	return b.bundled
}

// finish waits until the driver has been told, but not for the device: arguments may change then.
func (s *series) finish(run func() error) {
	_ = s.b.now(func() error { s.b.fail(run()); return nil })
}

// run launches the graph, made or brought up to date, or each kernel where there is none.
func (s *series) run() error {
	b := s.b
	if b.capture != running || len(s.nodes) < 2 {
		return s.launch()
	}
	if s.stale {
		s.destroy()
	}
	r := C.CUresult(C.CUDA_SUCCESS)
	if s.exec == nil {
		r = s.build()
	}
	if r == C.CUDA_SUCCESS {
		r = s.update()
	}
	if r == C.CUDA_SUCCESS {
		if r = C.cuGraphLaunch(s.exec, b.handle()); r != C.CUDA_SUCCESS && !refused(r) {
			return fmt.Errorf("operations in one go: %s", errorName(r))
		}
	}
	switch {
	case r == C.CUDA_SUCCESS:
		return nil
	case refused(r) && b.cooperative:
		b.cooperative, s.stale = false, true
		return s.run()
	}
	s.destroy()
	s.breaks++
	return s.launch()
}

func (s *series) launch() error {
	for i := range s.nodes {
		n := &s.nodes[i]
		if err := s.b.issue(n.name, n.shape, unsafe.Pointer(&n.args[0])); err != nil {
			return err
		}
	}
	return nil
}

// name is the kernel of a launch of the graph.
func (t *step) name() string {
	if len(t.nodes) > 1 {
		return together
	}
	return t.nodes[0].name
}

// with calls f with the kernel of a launch of the graph, its shape, and its arguments.
func (s *series) with(t *step, f func(kernel unsafe.Pointer, at *C.uint, args unsafe.Pointer) C.CUresult) C.CUresult {
	kernel := unsafe.Pointer(s.b.kernels[t.name()])
	if len(t.nodes) == 1 {
		n := &t.nodes[0]
		return f(kernel, &n.shape[0], unsafe.Pointer(&n.args[0]))
	}
	at, r := s.b.join(t.nodes)
	if r != C.CUDA_SUCCESS {
		return r
	}
	return f(kernel, &at[0], unsafe.Pointer(s.b.joined))
}

// build makes a graph of as few launches as they can be, in which each waits for the one before it.
func (s *series) build() C.CUresult {
	if r := C.cuGraphCreate(&s.graph, 0); r != C.CUDA_SUCCESS {
		s.graph = nil
		return r
	}
	s.b.bundles[s], s.stale, s.steps = struct{}{}, false, s.steps[:0]
	var before C.CUgraphNode
	for left := s.nodes; len(left) > 0; {
		n := 1
		if s.b.meets() {
			n = follow(left)
		}
		t := step{nodes: left[:n]}
		left = left[n:]
		r := s.with(&t, func(kernel unsafe.Pointer, at *C.uint, args unsafe.Pointer) C.CUresult {
			return C.add_node(s.graph, &t.handle, before, kernel, at, args)
		})
		if r == C.CUDA_SUCCESS && n > 1 {
			r = C.allow_meeting(t.handle)
		}
		if r != C.CUDA_SUCCESS {
			return r
		}
		for i := range t.nodes {
			t.nodes[i].told = true
		}
		s.steps, before = append(s.steps, t), t.handle
		s.b.launches[t.name()]++
	}
	return C.instantiate(&s.exec, s.graph)
}

// update tells the graph the arguments that are not those of the last time.
func (s *series) update() C.CUresult {
	for i := range s.steps {
		t := &s.steps[i]
		told := true
		for j := range t.nodes {
			told = told && t.nodes[j].told
			t.nodes[j].told = true
		}
		if told {
			continue
		}
		r := s.with(t, func(kernel unsafe.Pointer, at *C.uint, args unsafe.Pointer) C.CUresult {
			return C.set_node(s.exec, t.handle, kernel, at, args)
		})
		if r != C.CUDA_SUCCESS {
			return r
		}
	}
	return C.CUDA_SUCCESS
}

// Free implements kernels.Bundle.
func (s *series) Free() { s.b.later(func() error { s.destroy(); return nil }) }

// destroy gives the graph back.
func (s *series) destroy() {
	if s.exec != nil {
		C.cuGraphExecDestroy(s.exec)
	}
	if s.graph != nil {
		C.cuGraphDestroy(s.graph)
	}
	s.exec, s.graph = nil, nil
	delete(s.b.bundles, s)
}
