// What devices of capability 9.0 have over earlier ones, for kernels that are compiled for them alone (sm_90a): barriers in
// shared memory that count bytes, copies of boxes of a tensor (TMA), and tensor cores that read shared memory themselves
// (wgmma). Each wrapper has a twin of the same name in the emulation.
#pragma once
#include "device.cuh"

#ifdef __CUDACC__
// mbarrier is a barrier in shared memory. Its phase ends when count arrivals and all expected bytes have come, and the next
// one begins. A thread waits for the end of a phase by its parity; a fresh barrier is in phase 0, and the one before, of
// parity 1, has ended.
typedef unsigned long long mbarrier;

#define DYNAMIC_SHARED_1024(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ void mbarrier_init(mbarrier* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
// mbarrier_init_fence is for the thread that made barriers: the copying unit knows them then, and other threads after the
// next __syncthreads.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(mbarrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive_expect(mbarrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void mbarrier_wait(mbarrier* b, int parity) {
  asm volatile(
      "{\n\t.reg .pred p;\n"
      "again:\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n\t@!p bra again;\n\t}" ::"r"(shared_address(b)), "r"(parity)
      : "memory");
}

// tma_load begins to copy the box of a matrix whose first element is (x, y), x along rows, to shared memory, zeros where it
// reaches beyond. The barrier counts its bytes when they are there.
__device__ __forceinline__ void tma_load(void* shared, const tensor_map* map, int x, int y, mbarrier* b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                   shared_address(shared)),
               "l"(map), "r"(shared_address(b)), "r"(x), "r"(y)
               : "memory");
}

// put_async writes 16 bytes to shared memory that tensor cores will read: they are there for them after the thread's
// fence_async and an arrival at a barrier that the reader waits for.
__device__ __forceinline__ void put_async(void* shared, uint4 v) { *static_cast<uint4*>(shared) = v; }
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// wgmma adds a product to d, for four warps that call it together: a has 64 rows and 16 columns, b has 16 rows and 128
// columns, halves in shared memory told by matrix(). Warp w%4 holds rows 16w to 16w+15 of d, lane l of it columns 2(l%4) and
// the next one of each 8, of rows l/4 and l/4+8: the layout of mma_tile with one row of tiles. The hardware works on its own:
//   wgmma_fence     first, and after anything else wrote d
//   wgmma_commit    closes a group of products
//   wgmma_wait<N>   waits for all groups but the last N; until then d is nobody's, and what a and b lie in must stay
//   settle(d)       keeps the compiler from moving reads and writes of d over it
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ void settle(float (&d)[16][4]) {
#pragma unroll
  for (int j = 0; j < 16; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) asm volatile("" : "+f"(d[j][e])::"memory");
}
__device__ __forceinline__ void wgmma(float (&d)[16][4], unsigned long long a, unsigned long long b) {
#define QUAD(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
  asm volatile(
      "{\n\t.reg .pred add;\n\tsetp.eq.u32 add, 0, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, add, 1, 1, 0, 0;\n\t}"
      : QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7), QUAD(8), QUAD(9), QUAD(10), QUAD(11), QUAD(12), QUAD(13),
        QUAD(14), QUAD(15)
      : "l"(a), "l"(b));
#undef QUAD
}

// registers_fewer and registers_more give registers of a group of four warps back, and take them: N for each thread from then on.
template <int N>
__device__ __forceinline__ void registers_fewer() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void registers_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// barrier_sync is __syncthreads of the first `threads` threads that come to barrier number id, which is not 0.
__device__ __forceinline__ void barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

#else
#include "cuemu_wgmma.h"
#endif

// matrix tells tensor cores where an operand lies, as eight rows of 16 bytes that follow each other at a time:
//
//   plain      row r, columns 8j to 8j+7 at p + (r/8) stride + j leading + (r%8) 16
//   swizzled   row r at p + (r/8) stride + (r%8) 128, and of an address bits 4 to 6 changed by bits 7 to 9, as TMA writes it
enum { MATRIX_PLAIN = 0, MATRIX_SWIZZLED = 1 };
__device__ __forceinline__ unsigned long long matrix(const void* p, int leading, int stride, int layout) {
  return (unsigned long long)(shared_address(p) >> 4 & 0x3fff) | (unsigned long long)(leading >> 4) << 16 |
         (unsigned long long)(stride >> 4) << 32 | (unsigned long long)layout << 62;
}
