//go:build cgo

package cpu

// #cgo !sanitize CFLAGS: -O3
// #cgo CFLAGS: -Wno-psabi
// #cgo !amd64,!arm64 LDFLAGS: -lm
// #include "call.h"
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/spin-native/spin/kernels"
)

// Backend implements kernels.Backend.
type Backend struct {
	name    string
	lv      *C.level
	threads int
	half    bool
	bf16    bool // convolutions multiply bfloat16
	brief   int  // in which way they do where they do

	nowhere unsafe.Pointer // of a plan: what all its memory points to, which is never read or written; nil: no plan
	parent  *Backend       // whose fork this is, or nil

	mu      sync.Mutex // Close may come while another goroutine looks at nothing else
	users   int        // that need the memory: the backend itself, until it is closed, and its forks
	closed  bool
	memory  map[unsafe.Pointer]struct{}
	held    int64           // bytes of malloc
	tensors int64           // and those of Alloc among them
	scratch [][]float32     // one per thread, grown to the largest task met
	shared  []float32       // packed keys and values, padded images, partial sums
	plans   map[int]fftPlan // by length
	tables  int64           // bytes of the plans
	spans   []C.span        // of the convolution that runs
}

var (
	_ kernels.Backend = (*Backend)(nil)
	_ kernels.Forker  = (*Backend)(nil)
)

// Levels names the instruction sets that this build and processor can run, best first. "wide" is not among them: it is
// the AVX-512 template on the baseline's instructions, for tests.
func Levels() []string {
	var names []string
	for _, l := range levels {
		if l.has && l.name != "wide" {
			names = append(names, l.name)
		}
	}
	return names
}

// Open returns a backend.
func Open(o Options) (kernels.Backend, error) {
	b := &Backend{half: o.HalfWeights}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	if err := b.start(o.Threads); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(levels, func(l levelInfo) bool { return l.has && (o.Level == "" || l.name == o.Level) })
	if i < 0 {
		return nil, fmt.Errorf("cpu: level %q is not available here; there are: %s", o.Level, strings.Join(Levels(), ", "))
	}
	b.name, b.lv = "cpu/"+levels[i].name, levels[i].table()
	if err := b.multiply(o.Products); err != nil {
		return nil, err
	}
	if o.Plan {
		if b.nowhere = b.obtain(0); b.nowhere == nil {
			return nil, fmt.Errorf("cpu: %w", kernels.ErrOutOfMemory)
		}
	}
	return b, nil
}

// brief is a way to multiply bfloat16.
type brief struct {
	name string
	how  int
	has  func(*C.level) bool
}

// multiply chooses the number format of products.
func (b *Backend) multiply(products string) error {
	format, way, forced := strings.Cut(products, "/")
	if b.bf16 = format == "bf16"; !b.bf16 && products != "" && products != "f32" {
		return fmt.Errorf("cpu: products in %q, expected f32 or bf16", products)
	}
	if !b.bf16 {
		b.brief = C.BRIEF_ANY // for a form that a caller forces; the system is not asked for AMX for that
		return nil
	}
	i := slices.IndexFunc(briefs, func(w brief) bool { return (!forced || w.name == way) && w.has(b.lv) })
	if i < 0 {
		return fmt.Errorf("cpu: products in %q are not available on %s here", products, b.name)
	}
	b.brief, b.name = briefs[i].how, b.name+"+bf16/"+briefs[i].name
	return nil
}

// start readies what a backend has for itself.
func (b *Backend) start(threads int) error {
	if threads < 0 {
		return fmt.Errorf("cpu: %d threads asked for, expected 1 or more", threads)
	}
	b.threads, b.users, b.memory, b.scratch = threads, 1, map[unsafe.Pointer]struct{}{}, make([][]float32, threads)
	return nil
}

// Fork implements kernels.Forker. Matrices and filters are not to be shared: they cache what the last image needed.
func (b *Backend) Fork(threads int) (kernels.Backend, error) {
	if threads == 0 {
		threads = b.threads
	}
	f := &Backend{name: b.name, lv: b.lv, half: b.half, bf16: b.bf16, brief: b.brief, nowhere: b.nowhere, parent: b}
	if err := f.start(threads); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("cpu: the backend to fork is closed")
	}
	b.users++
	return f, nil
}

type levelInfo struct {
	name  string
	has   bool
	table func() *C.level
}

func (b *Backend) Name() string { return b.name }

// planning reports whether nothing is to be computed. Every access to memory outside of each asks.
func (b *Backend) planning() bool { return b.nowhere != nil }

// Usage is the memory in use.
func (b *Backend) Usage() kernels.Usage {
	u := kernels.Usage{Tensors: b.tensors, Scratch: 4*int64(len(b.shared)) + b.tables}
	for _, s := range b.scratch {
		u.Scratch += 4 * int64(len(s))
	}
	u.Weights = b.held - u.Tensors - u.Scratch
	return u
}

type buffer struct {
	p       unsafe.Pointer
	n       int
	planned bool
}

func (b *buffer) Len() int { return b.n }

// Alloc takes memory outside Go's heap, so that its addresses may stand in the argument structs.
func (b *Backend) Alloc(n int) (kernels.Buffer, error) {
	p := b.malloc(n)
	if p == nil {
		return nil, fmt.Errorf("cpu: %d MB: %w", 4*n>>20, kernels.ErrOutOfMemory)
	}
	b.tensors += 4 * int64(n)
	return &buffer{p, n, b.planning()}, nil
}

func (b *Backend) malloc(n int) unsafe.Pointer {
	if n < 0 || n > math.MaxInt/64 {
		return nil
	}
	if !b.planning() {
		return b.obtain(n)
	}
	b.held += 4 * int64(n)
	return b.nowhere
}

// obtain is malloc that takes memory in a plan, too.
func (b *Backend) obtain(n int) unsafe.Pointer {
	p := C.spin_alloc(C.ulong(4 * n))
	if p != nil {
		b.mu.Lock()
		b.memory[p] = struct{}{}
		b.held += 4 * int64(n)
		b.mu.Unlock()
	}
	return p
}

// release gives n floats back.
func (b *Backend) release(p unsafe.Pointer, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= 4 * int64(n)
	if p != b.nowhere {
		delete(b.memory, p)
		C.spin_free(p)
	}
}

func (b *Backend) Free(buf kernels.Buffer) {
	m := buf.(*buffer)
	b.tensors -= 4 * int64(m.n)
	b.release(m.p, m.n)
}

func (b *Backend) Upload(dst kernels.View, src []float32) {
	if !b.planning() {
		copy(floats(dst), src)
	}
}

func (b *Backend) Download(dst []float32, src kernels.View) error {
	if b.planning() {
		clear(dst)
		return nil
	}
	copy(dst, floats(src))
	return nil
}

func (b *Backend) Sync() error { return nil }

func (b *Backend) Close() error {
	b.mu.Lock()
	again := b.closed
	b.closed = true
	b.mu.Unlock()
	if !again {
		b.leave()
	}
	return nil
}

// leave notes that the memory has one user less, and releases it after the last.
func (b *Backend) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users--; b.users > 0 {
		return
	}
	for p := range b.memory {
		C.spin_free(p)
	}
	clear(b.memory)
	b.scratch, b.shared, b.held, b.tensors = make([][]float32, b.threads), nil, 0, 0
	b.plans, b.tables = nil, 0
	if b.parent != nil {
		b.parent.leave()
	}
}

// floats is the memory of a view as a Go slice, nil for an absent one.
func floats(v kernels.View) []float32 {
	if v.Buf == nil {
		return nil
	}
	return unsafe.Slice((*float32)(pointer(v)), v.Len())
}

func pointer(v kernels.View) unsafe.Pointer {
	if v.Buf == nil {
		return nil
	}
	m := v.Buf.(*buffer)
	if m.planned {
		return m.p
	}
	return unsafe.Add(m.p, 4*v.Off)
}

func cfloats(v kernels.View) *C.float { return (*C.float)(pointer(v)) }

func ptr(s []float32) *C.float { return (*C.float)(unsafe.Pointer(unsafe.SliceData(s))) }

// grow makes a region of C memory at least n floats long.
func (b *Backend) grow(s *[]float32, n int) []float32 {
	if len(*s) < n {
		if *s != nil {
			b.release(unsafe.Pointer(unsafe.SliceData(*s)), len(*s))
		}
		*s = nil
		p := b.malloc(n)
		if p == nil {
			panic(&outOfMemory{n})
		}
		*s = unsafe.Slice((*float32)(p), n)
	}
	return (*s)[:n]
}

// outOfMemory is a lack of scratch memory in the middle of an operation, which has no error to return.
type outOfMemory struct{ n int }

func (e *outOfMemory) Error() string {
	return fmt.Sprintf("cpu: %d MB of scratch: %v", 4*e.n>>20, kernels.ErrOutOfMemory)
}
func (e *outOfMemory) Unwrap() error { return kernels.ErrOutOfMemory }

// each runs f(task, scratch) for all tasks on the backend's threads, which take the next task when they are done with
// one. Every thread has its own scratch of the given number of floats.
func (b *Backend) each(tasks, scratch int, f func(task int, scratch []float32)) {
	workers := min(b.threads, tasks)
	for w := range workers {
		b.grow(&b.scratch[w], scratch)
	}
	if b.planning() {
		return
	}
	if workers <= 1 {
		for t := range tasks {
			f(t, b.scratch[0])
		}
		return
	}
	var next atomic.Int64
	work := func(w int) {
		for t := int(next.Add(1)) - 1; t < tasks; t = int(next.Add(1)) - 1 {
			f(t, b.scratch[w])
		}
	}
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			work(w)
		}()
	}
	work(0)
	wg.Wait()
}
