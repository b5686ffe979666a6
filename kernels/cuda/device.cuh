// device.cuh is the only include of a kernel source. Under a CUDA compiler it adds a few names to the language; under any
// other C++ compiler it brings the emulation of a device on the host (internal/cudaemu), so that one source serves both.
// Kernels are extern "C", hold no assembly, are launched through the driver only, and take one struct of args.h. What needs
// assembly is a wrapper here, with a twin of the same name in the emulation.
#pragma once
#include "args.h"

#ifdef __CUDACC__
#define KERNEL_REGISTER(name)
#define KERNEL_EXPORT(name)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

// half is a number in half precision, for storage: arithmetic is in F32.
struct __align__(2) half { unsigned short bits; };

__device__ __forceinline__ float to_float(half v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}
__device__ __forceinline__ half to_half(float v) {  // to nearest even
  half h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
  return h;
}
// pack and unpack are for two halves in one register, the first one in its lower bits.
__device__ __forceinline__ unsigned pack(float lo, float hi) {
#if __CUDA_ARCH__ >= 800
  unsigned v;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
  return v;
#else
  return to_half(lo).bits | (unsigned)to_half(hi).bits << 16;
#endif
}
__device__ __forceinline__ float2 unpack(unsigned v) {
  half lo = {(unsigned short)v}, hi = {(unsigned short)(v >> 16)};
  return make_float2(to_float(lo), to_float(hi));
}

// silu is v / (1 + e^-v) by the units for powers of two and reciprocals, good to 2^-20 or to 1e-7. Where e^-v overflows it is zero.
__device__ __forceinline__ float silu(float v) {
  float e, r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v * -1.442695041f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.f + e));
  return v * r;
}

// kept is v, in a register: left alone, the compiler makes the indices of a loop anew in each turn.
__device__ __forceinline__ int kept(int v) {
  asm volatile("" : "+r"(v));
  return v;
}

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// cp_async16 begins to copy 16 bytes from global to shared memory, or writes 16 zero bytes where valid is false, whatever the
// address. They are there when the thread has waited for their group, and for other threads after the next barrier.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("{\n\t.reg .pred ignored;\n\tsetp.eq.u32 ignored, %2, 0;\n\tcp.async.cg.shared.global [%0], [%1], 16, ignored;\n\t}"
               ::"r"(shared_address(shared)), "l"(global), "r"((unsigned)valid) : "memory");
#else
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}
// cp_async_commit closes a group of copies; cp_async_wait waits for all groups of this thread but the last N.
__device__ __forceinline__ void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ldmatrix_x4 loads four 8x8 matrices of halves; lane l brings the address of row l%8 of matrix l/8. Register i of lane l
// holds elements 2(l%4) and 2(l%4)+1 of row l/4 of matrix i. With _trans these are elements of column l/4.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// mma_tile adds a (MI x 16 rows, 16 columns) times b (16 rows, NI x 8 columns) to d, all of a warp: halves with sums in F32.
// Lane l holds, of each 16x8 of d, columns 2(l%4) and the next one of rows l/4 and l/4+8.
template <int MI, int NI>
__device__ __forceinline__ void mma_tile(float (&d)[MI][NI][4], const unsigned (&a)[MI][4], const unsigned (&b)[NI][2]) {
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int j = 0; j < NI; j++) {
      float(&c)[4] = d[i][j];
#if __CUDA_ARCH__ >= 800
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
#else
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[i][0]), "r"(a[i][1]), "r"(b[j][0]));
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][1]));
#endif
    }
}

// wait_while returns when *p is not v any more. What others wrote before they changed it is seen then.
__device__ __forceinline__ void wait_while(const int* p, int v) {
  while (*static_cast<const volatile int*>(p) == v) __nanosleep(32);
  __threadfence();
}

#else
#include "cuemu.h"
#endif

// PHASES_ONLY leaves the kernels out and keeps what they do, for together.cu.
#ifdef PHASES_ONLY
#undef KERNEL_EXPORT
#define KERNEL_EXPORT(name)
#define KERNEL_ALONE(name, args, ...)
#else
#define KERNEL_ALONE(name, args, ...) \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const args a) { name##_block(a, blockIdx, gridDim); }
#endif

// A kernel's work is name_block, a function of the arguments, of a block's number, and of the size of the grid: those of a launch
// of its own, or of a phase among several that one launch runs (together.cu). What follows args is for __launch_bounds__:
// threads and, optionally, blocks that a multiprocessor is to hold.
#define KERNEL(name, args, ...)                                                               \
  static __device__ __forceinline__ void name##_block(const args& a, dim3 block, dim3 grid);  \
  KERNEL_ALONE(name, args, __VA_ARGS__)                                                       \
  static __device__ __forceinline__ void name##_block(const args& a, dim3 block, dim3 grid)

// A kernel whose arguments are read where they are, by addresses that it computes.
#define KERNEL_IN_PLACE(name, args, ...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ args a)

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// For code that floats and halves share.
__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ void put(float& to, float v) { to = v; }
__device__ __forceinline__ void put(half& to, float v) { to = to_half(v); }

// Element i of floats or halves.
__device__ __forceinline__ float load(const void* p, int halves, long long i) {
  return halves ? to_float(static_cast<const half*>(p)[i]) : static_cast<const float*>(p)[i];
}
__device__ __forceinline__ void store(void* p, int halves, long long i, float v) {
  if (halves) static_cast<half*>(p)[i] = to_half(v);
  else static_cast<float*>(p)[i] = v;
}

// A thread's number in a grid of one dimension.
__device__ __forceinline__ long long thread_index(unsigned block) { return (long long)block * blockDim.x + threadIdx.x; }

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

// last_block reports whether this block is the last one of count to come here, to all of its threads that take part in
// barrier, the first one among them; it sees what the others wrote before. done is 0 before and after, flag is shared memory.
template <class Barrier>
__device__ __forceinline__ bool last_block(int* done, int count, int* flag, Barrier barrier) {
  __threadfence();
  barrier();
  if (threadIdx.x == 0) {
    *flag = atomicAdd(done, 1) == count - 1;
    if (*flag) *done = 0;  // for the next launch
  }
  barrier();
  bool last = *flag;
  __threadfence();
  return last;
}

// grid_barrier is for all threads of all blocks of a cooperative launch, whose number is blocks: nobody goes on before all have
// come, and then everybody sees what the others wrote before. meet are two counters: arrivals, 0 before and after, and the
// round, which only grows, so that a block that wakes late cannot take the next barrier for this one.
__device__ __forceinline__ void grid_barrier(int* meet, int blocks) {
  __syncthreads();
  if (threadIdx.x == 0) {
    int round = *static_cast<volatile int*>(meet + 1);
    __threadfence();  // the round was read, and what the block wrote can be seen, before it arrives
    if (atomicAdd(meet, 1) == blocks - 1) {
      meet[0] = 0;      // for the next barrier,
      __threadfence();  // before anybody goes there; and what the others wrote is not read from this multiprocessor's L1
      atomicAdd(meet + 1, 1);
    } else {
      wait_while(meet + 1, round);
    }
  }
  __syncthreads();
}

// For __launch_bounds__ of the kernels of corrections: the threads of a block, and blocks that share a multiprocessor. Up to 64
// registers, where a heuristic of the compiler's would spill to make do with 32 or 48.
#define PIXEL_BLOCK 256, 4

// Elements are those of one image that a block works on, number and following, and what it gathers of them:
//
//   for (Elements at(a.e, block.x); i < end; i += blockDim.x) { dst[i] = v; gather(i, v); }
//   join(shared);
//
// Elements are counted over all images. join is for all threads of a block of at most 1024, with GATHER_ROOM bytes of shared
// memory where there are sums. The block of an image that finishes last adds the sums of all blocks, in their order.
struct Elements {
  const elements_args& e;
  int block;  // of the image
  long long n, end, i;
  double sum[3];
  __device__ __forceinline__ Elements(const elements_args& args, unsigned number) : e(args), block(number % e.blocks), n(number / e.blocks), sum{0, 0, 0} {
    long long at = block * (long long)e.per;
    end = n * e.image + (at + e.per < e.image ? at + e.per : e.image);
    i = n * e.image + at + threadIdx.x;
  }
  // gather takes products with v, element i of dst. own: dst, whose products with itself may be wanted.
  __device__ __forceinline__ void gather(long long i, float v, const float* own) {
    if (!e.sums) return;
    double of = e.of == own ? v : e.of[i];
    sum[0] = fma(of, (double)v, sum[0]);
    if (e.sums > 1) sum[1] = fma(of, (double)e.with[0][i], sum[1]);
    if (e.sums > 2) sum[2] = fma(of, (double)e.with[1][i], sum[2]);
  }
  __device__ __forceinline__ void join(unsigned char* shared) {
    if (!e.sums) return;
    double* part = reinterpret_cast<double*>(shared);
    double* blocks = e.part + n * e.blocks * e.sums;
#pragma unroll
    for (int k = 0; k < 3; k++) {
      if (k >= e.sums) break;
      double s = block_sum(sum[k], part + 32 * k);
      if (threadIdx.x == 0) blocks[block * e.sums + k] = s;
    }
    if (!last_block(e.done + n, e.blocks, reinterpret_cast<int*>(part + 96), [] { __syncthreads(); })) return;
    for (int k = 0; k < e.sums; k++) {
      double s = 0;
      for (int b = threadIdx.x; b < e.blocks; b += blockDim.x) s += static_cast<volatile double*>(blocks)[b * e.sums + k];
      s = block_sum(s, part + 32 * k);
      if (threadIdx.x == 0) e.to[n * e.sums + k] = (float)s;
    }
  }
};

// Element at of image n, in a tensor that may have one image, or one channel of c.
__device__ __forceinline__ float repeated(const float* p, int images, int channels, long long n, long long at, long long image, int c) {
  return p[((images == 1 ? 0 : n) * (image / c) + at / c) * channels + (channels == 1 ? 0 : at % c)];
}

// Any index folded into [0,n) by reflection at the centres of the first and the last pixel.
__device__ __forceinline__ int mirror(int i, int n) {
  if (n == 1) return 0;
  int period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < period - i ? i : period - i;
}
