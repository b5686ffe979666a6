// Package cuda is the backend for NVIDIA devices, in builds with the tag cuda for linux/amd64; other builds have the same
// functions, which say that there is no CUDA. A program with the tag starts on every machine: the driver is opened when a
// device is asked for (package lazycuda).
//
// # Kernels
//
// The .cu files hold F32 kernels for each operation of the contract, and args.h the arguments of all of them,
// for both languages. They are compiled into image.tar.zst by tools/cuda_image.py (make -f kernels.mk image), machine code
// for compute capability 7.5 to 9.0 and PTX for later devices, which the package embeds. Sums that decide a statistic are in
// F64, and no order of additions depends on chance, so that the same input gives the same bytes on one device.
// There is one algorithm for convolutions of F32, an implicit GEMM: the forms that a caller may force, bfloat16 too, all run it.
//
// Networks may store F16 (kernels.Storer). Their convolutions and attention run on tensor cores: conv_half.cu and
// attention_half.cu, whose tiles half.go chooses. On devices of capability 9.0 conv_wgmma.cu has the large convolutions, with
// instructions that no other device has (wgmma.go).
//
// # Order of things
//
// All calls of the driver come from one goroutine of the backend that keeps its thread, as a context belongs to a
// thread. Operations are handed to it without waiting for them, and it hands them to one stream; Download and Sync wait, and a Reading
// waits for what came before it (kernels.Reader).
// A few are held back until the next one is known, which may become a part of their launch (docs/design/0013-held-operations.md,
// and 0015-phases.md for launches that run several kernels).
// Weights wait with the host until there are enough of them, or one is needed, to share a piece of memory (arena.go).
// Transfers go through pinned memory of the host, so that Upload does not wait. A series of operations can be recorded as a
// graph of the driver's and replayed by one call (kernels.Recorder, docs/design/0011-recordings.md).
// The first error of the driver is kept: nothing is launched any more, and Sync and Download return it.
//
// Tests run the kernels on the host, under an emulation of device and driver (internal/cudaemu, docs/cuda.md).
package cuda

// Options chooses the device.
type Options struct {
	Device int // its number among Devices; 0 is the driver's first
	// Plan opens a backend for the device that takes no memory and computes nothing, but goes through the same motions: what its
	// Usage then tells is what the real one would take for the same calls. Downloads are zeros.
	Plan bool
}

// Info describes a device.
type Info struct {
	Name         string
	Major, Minor int   // compute capability
	Memory       int64 // bytes
}
