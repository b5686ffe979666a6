//go:build cuda && cgo && linux && amd64

package cuda

/*
#include <cuda.h>
#include "args.h"

// launch is for kernels that take one struct. fn and stream point to handles. gorgonia.org/cu's own launch copies eight
// bytes of every parameter.
static CUresult launch(const void *fn, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned shared,
	CUstream stream, void *args) {
	void *params[] = {args};
	return cuLaunchKernel(*(const CUfunction *)fn, x, y, z, threads, 1, 1, shared, stream, params, 0);
}

static const char *error_name(CUresult r) {
	const char *name = 0;
	return cuGetErrorName(r, &name) == CUDA_SUCCESS && name ? name : "unknown error";
}
*/
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/kernels"
)

// Devices lists the devices of this machine, or says why there are none.
func Devices() ([]Info, error) {
	if err := lazycuda.Open(); err != nil {
		return nil, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, err
	}
	all := make([]Info, n)
	for i := range all {
		if all[i], _, err = describe(i); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func describe(i int) (info Info, d cu.Device, err error) {
	if d, err = cu.GetDevice(i); err != nil {
		return info, d, err
	}
	if info.Name, err = d.Name(); err != nil {
		return info, d, err
	}
	if info.Major, info.Minor, err = d.ComputeCapability(); err != nil {
		return info, d, err
	}
	info.Memory, err = d.TotalMem()
	return info, d, err
}

// Backend implements kernels.Backend.
type Backend struct {
	*program
	parent *Backend // whose fork this is, or nil
	claim  claim
	jobs   chan func() // for the goroutine that calls the driver
	closed bool

	tables   map[int]device // of Fourier transforms, by length
	fadings  map[fadingKey]device
	layings  map[fadingKey]*laying
	scratch  block
	parts    block  // of sums
	counters device // which are 0 between operations
	counts   int    // of them
	waiting  held   // or nil
	row      *row   // of launches that others may follow, or nil
	tensors  int64  // bytes of Alloc, among them
	weights  int64  // and of prepared convolutions
	arena    arena  // of those that have no memory yet
	moves    int    // times that memory which launches may name was given back
	staging  staging
	unread   []*reading // whose room is not given back
	open     *series    // that launches are kept back for, or nil
	bundled  *series    // the last one

	force chosen // a tile for all convolutions of halves, for tests; splits is 0 where none is forced

	// The rest belongs to the goroutine that calls the driver.
	fault       error // the first one
	capture     capturing
	meet        device           // two counters; see grid_barrier
	joined      *C.together_args // of the launch that is told: memory of its own, which C may see
	cooperative bool             // blocks of a launch can meet
	graphs      map[*graph]struct{}
	bundles     map[*series]struct{} // with a graph
	stream      cu.Stream
	memory      map[device]int64 // bytes
	held        int64            // of all of it
	next        device           // of a plan: where the next piece of memory goes
	launches    map[string]int   // by kernel
	marks       []cu.Event
	spare       []cu.Event
	readings    map[*reading]struct{} // with an event
}

var _ kernels.Backend = (*Backend)(nil)

// device is an address on the device.
type device = cu.DevicePtr

// ahead is the number of operations that may wait for the goroutine of the context.
const ahead = 256

// Open returns a backend on one device.
func Open(o Options) (kernels.Backend, error) {
	all, err := Devices()
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	if o.Device < 0 || o.Device >= len(all) {
		return nil, fmt.Errorf("cuda: there is no device %d, there are %d", o.Device, len(all))
	}
	b := newBackend(&program{name: fmt.Sprintf("cuda/sm_%d%d", all[o.Device].Major, all[o.Device].Minor), kernels: map[string]*cu.Function{}, planning: o.Plan})
	if err := b.serve(func() error { return b.start(o.Device) }); err != nil {
		return nil, fmt.Errorf("cuda: device %d, %s: %w", o.Device, all[o.Device].Name, err)
	}
	return b, nil
}

// Free is the memory of a device that nobody has taken, in bytes.
func Free(number int) (free int64, err error) {
	all, err := Devices()
	if err == nil && (number < 0 || number >= len(all)) {
		err = fmt.Errorf("there is no device %d, there are %d", number, len(all))
	}
	if err != nil {
		return 0, fmt.Errorf("cuda: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var d cu.Device
		if _, d, err = describe(number); err != nil {
			return
		}
		var ctx cu.CUContext
		if ctx, err = d.RetainPrimaryCtx(); err != nil {
			return
		}
		if err = cu.SetCurrentContext(ctx); err == nil {
			free, _, err = cu.MemInfo()
		}
		err = errors.Join(err, d.ReleasePrimaryCtx())
	}()
	<-done
	if err != nil {
		return 0, fmt.Errorf("cuda: device %d, %s: %w", number, all[number].Name, err)
	}
	return free, nil
}

// start makes the context, the stream and the kernels.
func (b *Backend) start(number int) error {
	info, d, err := describe(number)
	if err != nil {
		return err
	}
	b.wgmma = multiplies(info)
	if b.planning {
		return b.enter()
	}
	image, err := imageFor(info.Major, info.Minor)
	if err != nil {
		return err
	}
	b.dev = d
	if b.multiprocessors, err = d.Attribute(cu.MultiprocessorCount); err != nil {
		return err
	}
	if b.ctx, err = d.RetainPrimaryCtx(); err != nil {
		return err
	}
	if err := b.loadAll(image); err != nil {
		return errors.Join(err, b.unload(), d.ReleasePrimaryCtx())
	}
	return nil
}

func (b *Backend) loadAll(image string) error {
	if err := cu.SetCurrentContext(b.ctx); err != nil {
		return err
	}
	if err := b.load(image, kernelNames); err != nil {
		return err
	}
	if b.wgmma {
		if err := b.loadWGMMA(); err != nil {
			return err
		}
	}
	return b.enter()
}

// load adds the kernels of an image.
func (b *Backend) load(image string, names []string) error {
	module, err := cu.LoadData(image)
	if err != nil {
		return fmt.Errorf("the kernels do not load: %w", err)
	}
	b.modules = append(b.modules, module)
	for _, name := range names {
		f, err := module.Function(name)
		if err != nil {
			return fmt.Errorf("kernel %s: %w", name, err)
		}
		b.kernels[name] = &f
	}
	return nil
}

func (p *program) unload() (err error) {
	for _, m := range p.modules {
		err = errors.Join(err, m.Unload())
	}
	return err
}

func (b *Backend) Name() string { return b.name }

var errClosed = errors.New("cuda: the backend is closed")

// later runs f on the goroutine of the context after what it has to do, without waiting. The first error stays.
func (b *Backend) later(f func() error) {
	b.spill()
	b.enqueue(f)
}

func (b *Backend) enqueue(f func() error) {
	if b.closed {
		return
	}
	b.jobs <- func() {
		if b.fault == nil {
			b.fail(f())
		}
	}
}

func (b *Backend) fail(err error) {
	if b.fault == nil && err != nil {
		b.fault = fmt.Errorf("%s: the device failed, in this operation or an earlier one: %w", b.name, err)
	}
}

// now runs f on the goroutine of the context and returns its error, or an earlier fault. An error of f is not a fault.
func (b *Backend) now(f func() error) error {
	b.spill()
	if b.closed {
		return errClosed
	}
	done := make(chan error)
	b.jobs <- func() {
		if b.fault != nil {
			done <- b.fault
		} else {
			done <- f()
		}
	}
	return <-done
}

// shape is that of a launch: the grid, the threads of a block, and its shared memory in bytes.
type shape [5]C.uint

func shaped(x, y, z, threads, shared int) shape {
	return shape{C.uint(x), C.uint(y), C.uint(z), C.uint(threads), C.uint(shared)}
}

// launch enqueues one kernel, whose argument is args, a struct of args.h, or keeps it back for a series.
func launch[A any](b *Backend, name string, x, y, z, threads, shared int, args A) {
	b.tell()
	at := shaped(x, y, z, threads, shared)
	if s := b.open; s != nil {
		s.keep(name, at, bytesIn(&args))
		return
	}
	b.enqueue(func() error { return b.issue(name, at, unsafe.Pointer(&args)) })
}

// issue tells the driver of a launch. It runs on the goroutine of the context.
func (b *Backend) issue(name string, at shape, args unsafe.Pointer) error {
	b.launches[name]++
	if b.capture == dropping || b.planning {
		return nil
	}
	r := C.launch(unsafe.Pointer(b.kernels[name]), at[0], at[1], at[2], at[3], at[4], C.CUstream(unsafe.Pointer(b.stream.C())), args)
	if r != C.CUDA_SUCCESS {
		return fmt.Errorf("kernel %s, %d x %d x %d blocks of %d threads: %s", name, at[0], at[1], at[2], at[3], errorName(r))
	}
	return nil
}

func errorName(r C.CUresult) string { return C.GoString(C.error_name(r)) }

// Launches is the number of launches that operations asked for so far, recorded and dropped ones included.
func (b *Backend) Launches() (n int) {
	for _, k := range b.launchesByKernel() {
		n += k
	}
	return n
}

func (b *Backend) launchesByKernel() (n map[string]int) {
	_ = b.now(func() error { n = maps.Clone(b.launches); return nil })
	return n
}

// each launches a kernel with a thread for each of n elements.
func each[A any](b *Backend, name string, n int, args A) {
	const threads = 256
	launch(b, name, blocks(n, threads), 1, 1, threads, 0, args)
}

// blocks is n/size, rounded up.
func blocks(n, size int) int { return (n + size - 1) / size }

type buffer struct {
	p device
	n int
}

func (m *buffer) Len() int { return m.n }

func (m *buffer) bytes() int64 { return int64(max(4*m.n, 1)) }

// at is the address of a view, 0 for an absent one.
func at(v kernels.View) C.ulonglong {
	if v.Buf == nil {
		return 0
	}
	return C.ulonglong(v.Buf.(*buffer).p) + C.ulonglong(v.Type.Size()*v.Off)
}

// Alloc implements kernels.Memory.
func (b *Backend) Alloc(n int) (kernels.Buffer, error) {
	if n < 0 || n > math.MaxInt/64 {
		return nil, fmt.Errorf("%s: %d elements: %w", b.name, n, kernels.ErrOutOfMemory)
	}
	if err := b.place(); err != nil {
		return nil, err
	}
	m := &buffer{n: n}
	err := b.now(func() (err error) {
		m.p, err = b.obtain(4 * n)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.tensors += m.bytes()
	return m, nil
}

// obtain takes memory of the device. It runs on the goroutine of the context.
func (b *Backend) obtain(bytes int) (device, error) {
	b.giveUp()
	size := int64(max(bytes, 1))
	if b.planning {
		p := b.next
		b.next += device(room(bytes))
		b.memory[p], b.held = size, b.held+size
		return p, nil
	}
	p, err := cu.MemAlloc(size)
	if errors.Is(err, cu.OutOfMemory) {
		free, total, _ := cu.MemInfo()
		mb := func(n int64) float64 { return float64(n) / (1 << 20) }
		return 0, fmt.Errorf("%s: %.1f MB needed, %.1f of the device's %.1f MB are free: %w", b.name, mb(int64(bytes)), mb(free), mb(total), kernels.ErrOutOfMemory)
	}
	if err != nil {
		b.fail(err)
		return 0, b.fault
	}
	b.memory[p], b.held = size, b.held+size
	return p, nil
}

// Usage tells what memory of the device the backend has taken. What the driver takes for the context, the kernels and graphs is beside.
func (b *Backend) Usage() (u kernels.Usage) {
	_ = b.place() // where memory lacks, none is taken
	_ = b.now(func() error { u.Scratch = b.held; return nil })
	u.Tensors, u.Weights = b.tensors, b.weights
	u.Scratch -= u.Tensors + u.Weights
	return u
}

// release gives memory back, after all operations so far: the driver waits for them. It runs on the goroutine of the
// context.
func (b *Backend) release(p device) error {
	b.giveUp()
	b.held -= b.memory[p]
	delete(b.memory, p)
	if b.planning {
		return nil
	}
	return cu.MemFree(p)
}

func (b *Backend) Free(m kernels.Buffer) {
	b.tensors -= m.(*buffer).bytes()
	b.later(func() error { return b.release(m.(*buffer).p) })
}

func (b *Backend) Upload(dst kernels.View, src []float32) {
	if dst.Type == kernels.F16 {
		b.uploadHalf(dst, src)
	} else {
		b.upload(device(at(dst)), bytesOf(src))
	}
	b.settle()
}

// bytesOf is the memory of a slice.
func bytesOf[T float32 | int32](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), 4*len(s))
}

func (b *Backend) Download(dst []float32, src kernels.View) error {
	if src.Type == kernels.F16 {
		src = b.widened(src)
	}
	return b.download(bytesOf(dst), device(at(src)))
}

func (b *Backend) Sync() error {
	err := b.now(b.wait)
	if err == nil {
		b.through(b.staging.head)
	}
	return err
}

// wait waits for the device, whose faults come to light then.
func (b *Backend) wait() error {
	b.giveUp()
	if b.fault == nil && !b.planning {
		b.fail(b.stream.Synchronize())
	}
	return b.fault
}

// Close releases everything. After a fault the driver refuses to free single pieces; they go with the context.
func (b *Backend) Close() error {
	b.tell()
	if b.closed {
		return nil
	}
	done := make(chan error)
	b.jobs <- func() {
		faulty := b.wait() != nil
		err := b.leave()
		if faulty {
			err = nil
		}
		done <- err
	}
	b.closed, b.arena = true, arena{}
	close(b.jobs)
	return <-done
}

// keep copies data to memory of the device that lives until Close or release.
func keep[T float32 | int32](b *Backend, data []T) (p device, err error) {
	_, err = b.keep(arrayOf(data, &p))
	return p, err
}

// settle waits for transfers that a fork may be waiting for: streams run in no order of each other.
func (b *Backend) settle() {
	if b.claim.shared() {
		_ = b.Sync() // a fault stays
	}
}

// outOfMemory is a lack of memory in the middle of an operation, which has no error to return.
type outOfMemory struct{ error }

func (e *outOfMemory) Unwrap() error { return e.error }

// must panics where memory lacks, and reports whether err is nil otherwise: a fault is kept already.
func must(err error) bool {
	if errors.Is(err, kernels.ErrOutOfMemory) {
		panic(&outOfMemory{err})
	}
	return err == nil
}

// block is memory of the device that grows to what was asked for.
type block struct {
	p    device
	size int // bytes
}

// shared is scratch memory of the device, which every operation may use that asks for it: they run one after the other.
func (b *Backend) shared(bytes int) device { return b.grow(&b.scratch, bytes) }

// grow makes a block of at least so many bytes. What it held is lost.
func (b *Backend) grow(m *block, bytes int) device {
	if bytes > m.size {
		b.moves++
		must(b.now(func() (err error) {
			if m.p != 0 {
				b.fail(b.release(m.p))
			}
			*m = block{}
			if m.p, err = b.obtain(bytes); err == nil {
				m.size = bytes
			}
			return err
		}))
	}
	return m.p // of no use after a fault, when nothing is launched
}

// zeros is at least n counters of the device, which whoever counts leaves at 0, as it found them.
func (b *Backend) zeros(n int) device {
	if n > b.counts {
		b.moves++
		n = max(n, 2*b.counts, 4096)
		must(b.now(func() error {
			if b.counters != 0 {
				b.fail(b.release(b.counters))
			}
			b.counters, b.counts = 0, 0
			return b.fault
		}))
		if p, err := keep(b, make([]int32, n)); must(err) {
			b.counters, b.counts = p, n
		}
	}
	return b.counters
}
