// cuemu_wgmma.h has the twins of kernels/cuda/wgmma.cuh: what devices of capability 9.0 have over earlier ones. Everything
// that the hardware does on its own time is done as late as the program allows, and reads as NaN until then.
#pragma once
#include "cuemu.h"

#define DYNAMIC_SHARED_1024(name) DYNAMIC_SHARED(name)  // which is aligned so

typedef unsigned long long mbarrier;

namespace cuemu {
unsigned shared_address(const void* p);
void mbarrier_init(mbarrier* b, int count);
void mbarrier_init_fence();
void mbarrier_arrive(mbarrier* b, int bytes);
void mbarrier_wait(mbarrier* b, int parity);
void tma_load(void* shared, const void* map, int x, int y, mbarrier* b);
void put_async(void* shared, uint4 v);
void fence_async();
void wgmma(float* d, int columns, uint64_t a, uint64_t b);  // columns of d, four of whose numbers each lane has for each 8
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int groups);
void barrier_sync(int id, int threads);
}  // namespace cuemu

static inline unsigned shared_address(const void* p) { return cuemu::shared_address(p); }
static inline void mbarrier_init(mbarrier* b, int count) { cuemu::mbarrier_init(b, count); }
static inline void mbarrier_init_fence() { cuemu::mbarrier_init_fence(); }
static inline void mbarrier_arrive(mbarrier* b) { cuemu::mbarrier_arrive(b, 0); }
static inline void mbarrier_arrive_expect(mbarrier* b, int bytes) { cuemu::mbarrier_arrive(b, bytes); }
static inline void mbarrier_wait(mbarrier* b, int parity) { cuemu::mbarrier_wait(b, parity); }
static inline void tma_load(void* shared, const tensor_map* map, int x, int y, mbarrier* b) { cuemu::tma_load(shared, map, x, y, b); }
static inline void put_async(void* shared, uint4 v) { cuemu::put_async(shared, v); }
static inline void fence_async() { cuemu::fence_async(); }
static inline void wgmma(float (&d)[16][4], uint64_t a, uint64_t b) { cuemu::wgmma(d[0], 128, a, b); }
static inline void wgmma_fence() { cuemu::wgmma_fence(); }
static inline void wgmma_commit() { cuemu::wgmma_commit(); }
template <int N> static inline void wgmma_wait() { cuemu::wgmma_wait(N); }
static inline void settle(float (&)[16][4]) {}
template <int N> static inline void registers_fewer() { static_assert(N % 8 == 0 && N >= 24 && N <= 256, "registers come in eights"); }
template <int N> static inline void registers_more() { registers_fewer<N>(); }
static inline void barrier_sync(int id, int threads) { cuemu::barrier_sync(id, threads); }
