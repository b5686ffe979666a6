//go:build cuda && cgo && linux && amd64

package cuda

/*
#include <string.h>
#include <cuda.h>
#include "args.h"

// tensor_map_of describes a matrix of halves that is copied in boxes of 64 columns and 128 rows, as conv_wgmma.cu takes its
// weights. The headers of CUDA 11 know no tensor maps, and neither do drivers before 12.
static CUresult tensor_map_of(tensor_map *map, unsigned long long p, unsigned long long columns, unsigned long long rows) {
#if CUDA_VERSION >= 12000
	CUtensorMap m;
	cuuint64_t dims[] = {columns, rows}, strides[] = {2 * columns};
	cuuint32_t box[] = {64, 128}, steps[] = {1, 1};
	CUresult r = cuTensorMapEncodeTiled(&m, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, (void *)p, dims, strides, box, steps,
		CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	memcpy(map, &m, sizeof m);
	return r;
#else
	return CUDA_ERROR_NOT_SUPPORTED;
#endif
}

static CUresult allow_shared(const void *fn, int bytes) {
	return cuFuncSetAttribute(*(const CUfunction *)fn, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/spin-native/spin/kernels"
)

// wgmmaTile is the kernel of conv_wgmma.cu, for devices of capability 9.0: a ring of four boxes of weights, two chunks of 64
// channels of the tile and the pixels around it in planes, sums of moments and twelve barriers. Its blocks are as many as
// multiprocessors and take one tile after the other.
var wgmmaTile = halfTile{name: "conv_wgmma_f16_16x16x128", rows: 16, cols: 16, pixels: 256, channels: 128, threads: 384,
	shared: 4*128*64*2 + 2*8*(18*18+1)*16 + 4*9*128 + 8*12}

// multiplies reports whether a device has the instructions of conv_wgmma.cu.
func multiplies(i Info) bool { return i.Major == 9 && i.Minor == 0 }

// loadWGMMA adds the kernels for capability 9.0 alone.
func (b *Backend) loadWGMMA() error {
	m, err := images()
	if err != nil {
		return err
	}
	if err := b.load(m["sm_90a"], []string{wgmmaTile.name}); err != nil {
		return err
	}
	if r := C.allow_shared(unsafe.Pointer(b.kernels[wgmmaTile.name]), C.int(wgmmaTile.shared)); r != C.CUDA_SUCCESS {
		return fmt.Errorf("kernel %s, %d bytes of shared memory: %s", wgmmaTile.name, wgmmaTile.shared, errorName(r))
	}
	return nil
}

// mapTensor describes weights for conv_wgmma, unless it cannot multiply by them: on other devices, where the driver knows
// no tensor maps or does not take these, and where the channels do not fill boxes and tiles.
func (b *Backend) mapTensor(c *conv) {
	if !b.wgmma || c.w.Type != kernels.F16 || c.w.In%64 != 0 || c.w.Out%wgmmaTile.channels != 0 {
		return
	}
	var m C.tensor_map
	if b.planning || C.tensor_map_of(&m, C.ulonglong(c.weight), C.ulonglong(c.w.Size*c.w.Size*c.w.In), C.ulonglong(c.w.Out)) == C.CUDA_SUCCESS {
		c.tensor = &m
	}
}

// wgmmaFits reports whether conv_wgmma can do a 3x3 convolution that keeps the size.
func wgmmaFits(k *kernels.Conv2D, c *conv) bool {
	ok := c.tensor != nil && at(k.Dst)%4 == 0 && at(k.Residual)%4 == 0
	if k.Shortcut != nil {
		s := k.Shortcut.(*conv)
		ok = ok && s.tensor != nil && s.w.Size == 1
	}
	return ok
}

// convWGMMA launches conv_wgmma for so many tiles.
func (b *Backend) convWGMMA(k *kernels.Conv2D, a C.conv_half_args, tiles int) {
	args := C.conv_wgmma_args{weight: *k.Kernel.(*conv).tensor, conv: a}
	if k.Shortcut != nil {
		args.skip_weight = *k.Shortcut.(*conv).tensor
	}
	launch(b, wgmmaTile.name, min(tiles, b.multiprocessors), 1, 1, wgmmaTile.threads, wgmmaTile.shared, args)
}
