//go:build cuda && cgo && linux && amd64

package cuda

/*
#include <cuda.h>
#include "args.h"

static CUresult resident(int *n, const void *fn, int threads, size_t shared) {
	return cuOccupancyMaxActiveBlocksPerMultiprocessor(n, *(const CUfunction *)fn, threads, shared);
}
*/
import "C"

import "unsafe"

// together is the kernel that runs launches of others as its phases, one after the other.
const together = "together_f32"

// togetherThreads are those of its blocks, whatever the phases have as launches of their own.
const togetherThreads = 256

// phases are the kernels that it has.
var phases = map[string]C.int{
	"dot_f32": C.PHASE_DOT, "separable_f32": C.PHASE_SEPARABLE, "band_rows": C.PHASE_BAND_ROWS, "band_cols": C.PHASE_BAND_COLS,
	"filter_f32": C.PHASE_FILTER, "filter_adjoint_f32": C.PHASE_FILTER_ADJOINT, "blend_f32": C.PHASE_BLEND, "conjugate_f32": C.PHASE_CONJUGATE,
	"accelerate_f32": C.PHASE_ACCELERATE, "adam_f32": C.PHASE_ADAM, "pointwise_f32": C.PHASE_POINTWISE, "resample_f32": C.PHASE_RESAMPLE, "sparse_f32": C.PHASE_SPARSE,
	"fft_f32": C.PHASE_FFT, "dft_f32": C.PHASE_DFT,
	"circle_in_f32": C.PHASE_CIRCLE_IN, "circle_columns_f32": C.PHASE_CIRCLE_COLUMNS, "circle_out_f32": C.PHASE_CIRCLE_OUT,
	"mix_f32": C.PHASE_MIX,
}

// phaseSize is what a launch takes up of the arguments of the one that it is a phase of.
func phaseSize(n *node) int { return int(unsafe.Sizeof(C.phase_args{})) + (len(n.args)+7)&^7 }

// follow is how many of the first launches can be phases of one, at least 1.
func follow(nodes []node) (n int) {
	for size := 0; n < len(nodes); n++ {
		size += phaseSize(&nodes[n])
		if _, ok := phases[nodes[n].name]; !ok || size > C.TOGETHER_ROOM {
			break
		}
	}
	return max(n, 1)
}

// join makes one launch of several, whose arguments are b.joined. Its grid is as large as the largest of theirs, or as the device
// holds at once. It runs on the goroutine of the context.
func (b *Backend) join(nodes []node) (at shape, r C.CUresult) {
	args := b.joined
	args.meet, args.size = C.ulonglong(b.meet), 0
	most, shared := C.uint(0), C.uint(0)
	for i := range nodes {
		n := &nodes[i]
		p := (*C.phase_args)(unsafe.Pointer(&unsafe.Slice((*byte)(unsafe.Pointer(&args.room)), C.TOGETHER_ROOM)[args.size]))
		*p = C.phase_args{kernel: phases[n.name], size: C.int(phaseSize(n)), x: n.shape[0], y: n.shape[1], z: n.shape[2], blocks: n.shape[0] * n.shape[1] * n.shape[2]}
		copy(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(p), unsafe.Sizeof(*p))), len(n.args)), n.args)
		args.size += p.size
		most, shared = max(most, p.blocks), max(shared, n.shape[4])
	}
	at = shape{most, 1, 1, togetherThreads, shared}
	resident, r := b.resident(together, at)
	at[0] = min(most, resident)
	return at, r
}

// resident is how many blocks of a launch the device holds at once, one at least.
func (b *Backend) resident(name string, at shape) (C.uint, C.CUresult) {
	var n C.int
	r := C.resident(&n, unsafe.Pointer(b.kernels[name]), C.int(at[3]), C.size_t(at[4]))
	if r == C.CUDA_SUCCESS && n < 1 {
		r = C.CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
	}
	return C.uint(n) * C.uint(b.multiprocessors), r
}

// refused reports whether the driver may not let blocks meet, not in a graph (an invalid value to early ones), or not as many as it
// said: processes that share a device may be given a part of its multiprocessors.
func refused(r C.CUresult) bool {
	return r == C.CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE || r == C.CUDA_ERROR_NOT_SUPPORTED || r == C.CUDA_ERROR_INVALID_VALUE
}
