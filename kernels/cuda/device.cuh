// device.cuh is the only include of a kernel source. Under a CUDA compiler it adds a few names to the language; under any
// other C++ compiler it brings the emulation of a device on the host (internal/cudaemu), so that one source serves both.
// Kernels are extern "C", hold no assembly, are launched through the driver only, and take one struct of args.h.
#pragma once
#include "args.h"

#ifdef __CUDACC__
#define KERNEL_EXPORT(name)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#else
#include "cuemu.h"
#endif

#define KERNEL(name, args, threads) extern "C" __global__ void __launch_bounds__(threads) name(const args a)

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// A thread's number in a grid of one dimension.
__device__ __forceinline__ long long thread_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// The sum, or the largest, of the values of a warp, the same in all lanes. The order of the additions is fixed.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// block_sum sums over a block of at most 1024 threads; the result is thread 0's. part is shared memory for 32 values,
// which may be used again after the next barrier.
__device__ __forceinline__ double block_sum(double v, double* part) {
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  v = warp_sum(v);
  if (lane == 0) part[warp] = v;
  __syncthreads();
  if (warp == 0) v = warp_sum(lane < warps ? part[lane] : 0.0);
  return v;
}

// Any index folded into [0,n) by reflection at the centres of the first and the last pixel.
__device__ __forceinline__ int mirror(int i, int n) {
  if (n == 1) return 0;
  int period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < period - i ? i : period - i;
}
