//go:build cuda && cgo && linux && amd64

package cuda

/*
#include <cuda.h>
#include "args.h"

static CUresult launch_meeting(const void *fn, unsigned blocks, unsigned threads, unsigned shared, CUstream stream, attention_block_args *args) {
	void *params[] = {args};
	return cuLaunchCooperativeKernel(*(const CUfunction *)fn, blocks, 1, 1, threads, 1, 1, shared, stream, params);
}
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// attentionBlock is the kernel whose phases are the launches of an attention block.
const attentionBlock = "attention_block_f16"

// attentionThreads are those of its blocks and of its phases.
const attentionThreads = 128

// row is launches that wait for others to follow, to be the phases of an attention block with them, in this order. Absent ones
// have no name.
type row [4]node

const (
	rowInput = iota
	rowFirst
	rowAttention
	rowLast
)

// products are the kernels that the first and the last product of a row may have.
var products = map[string]C.int{
	"conv_gemm_f16_128x64": C.PRODUCT_128X64, "conv_gemm_f16_64x64": C.PRODUCT_64X64, "conv_gemm_f16_64x32": C.PRODUCT_64X32,
}

// place is where a launch may stand behind those that are there, or past the end where there is no place.
func (r *row) place(name string) int {
	end := len(r)
	for end > 0 && r[end-1].name == "" {
		end--
	}
	_, product := products[name]
	switch {
	case name == "conv_input_f16" && end == 0:
		return rowInput
	case product && end <= rowFirst:
		return rowFirst
	case (name == "attention_flash_f16_32" || name == "attention_flash_f16_64") && end <= rowAttention:
		return rowAttention
	case product && end <= rowLast:
		return rowLast
	}
	return len(r)
}

// lineUp is launch for kernels of attention blocks, which wait for others to follow.
func lineUp[A any](b *Backend, name string, x, y, z, threads, shared int, args A) {
	b.tellHeld()
	r := b.row
	if r == nil || r.place(name) == len(r) {
		r = &row{}
	}
	i := r.place(name)
	if i == len(r) || b.open != nil {
		launch(b, name, x, y, z, threads, shared, args)
		return
	}
	if r != b.row {
		b.tellRow()
		b.row = r
	}
	r[i] = newNode(name, shaped(x, y, z, threads, shared), &args)
}

// tellRow launches what waits for others to follow.
func (b *Backend) tellRow() {
	if r := b.row; r != nil {
		b.row = nil
		b.enqueue(func() error { return b.issueRow(r) })
	}
}

// issueRow tells the driver of a row: of one launch, where there are several and the device holds all their blocks at once. It
// runs on the goroutine of the context.
func (b *Backend) issueRow(r *row) error {
	args := C.attention_block_args{meet: C.ulonglong(b.meet)}
	at, count := shape{0, 1, 1, attentionThreads, 0}, 0
	for i := range r {
		n := &r[i]
		if n.name == "" {
			continue
		}
		x, y, z := n.shape[0], n.shape[1], n.shape[2]
		p := unsafe.Pointer(&n.args[0])
		switch i {
		case rowInput:
			args.input, args.input_blocks = *(*C.conv_input_args)(p), x
		case rowFirst, rowLast:
			product := C.product_phase{kernel: products[n.name], x: x, y: y, z: z, conv: *(*C.conv_half_args)(p)}
			if i == rowFirst {
				args.first = product
			} else {
				args.last = product
			}
		case rowAttention:
			args.attention, args.x, args.y, args.z = *(*C.attention_args)(p), x, y, z
		}
		if i != rowInput { // whose blocks take shares of any size
			at[0] = max(at[0], x*y*z)
		}
		at[4], count = max(at[4], n.shape[4]), count+1
	}
	if count > 1 && b.meets() {
		if b.capture == dropping || b.planning {
			b.launches[attentionBlock]++
			return nil
		}
		resident, code := b.resident(attentionBlock, at)
		fits := at[0] > 0 && at[0] <= resident
		if code == C.CUDA_SUCCESS && fits {
			code = C.launch_meeting(unsafe.Pointer(b.kernels[attentionBlock]), at[0], at[3], at[4], b.handle(), &args)
		}
		switch {
		case code == C.CUDA_SUCCESS && fits:
			b.launches[attentionBlock]++
			return nil
		case code == C.CUDA_SUCCESS: // the next one may fit
		case b.capture == recording || refused(code):
			b.cooperative = false
			b.giveUp() // what is refused may have ended the recording
		default:
			return fmt.Errorf("kernel %s, %d blocks of %d threads: %s", attentionBlock, at[0], at[3], errorName(code))
		}
	}
	for i := range r {
		if n := &r[i]; n.name != "" {
			if err := b.issue(n.name, n.shape, unsafe.Pointer(&n.args[0])); err != nil {
				return err
			}
		}
	}
	return nil
}
