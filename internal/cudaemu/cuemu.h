// cuemu.h lets an ordinary C++ compiler build the CUDA kernel sources and run
// them on the CPU: threads of a block are fibers on one OS thread, blocks of a
// grid are spread over OS threads, of which each block of a cooperative launch has
// its own. Warp-wide operations (shuffles, ldmatrix, mma) are carried out by the
// last lane to arrive, on behalf of the warp.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local
#define __constant__ static
#define __align__(n) __attribute__((aligned(n)))
#undef __restrict__
#define __restrict__

struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

// ---- half ----
struct alignas(2) half { uint16_t bits; };
static inline float to_float(half h) { _Float16 f; memcpy(&f, &h, 2); return (float)f; }
static inline half to_half(float v) { _Float16 f = (_Float16)v; half h; memcpy(&h, &f, 2); return h; }
static inline unsigned pack(float lo, float hi) { return to_half(lo).bits | (unsigned)to_half(hi).bits << 16; }
static inline float2 unpack(unsigned v) { return {to_float(half{(uint16_t)v}), to_float(half{(uint16_t)(v >> 16)})}; }

// ---- math ----
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
static inline float normcdff(float x) { return (float)(0.5 * erfc(-x * 0.70710678118654752440)); }
#define __expf(x) expf(x)  // macros: glibc itself declares functions of these names
#define __logf(x) logf(x)
static inline float __int_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
template <class T> static inline T __ldg(const T* p) { return *p; }

namespace cuemu {

struct Lane;  // a CUDA thread

struct Thread {  // what kernel code sees of the running CUDA thread
  dim3 tid, bid, bdim, gdim;
};
extern thread_local Thread* self __attribute__((tls_model("initial-exec")));
void* dynamic_shared();
void syncthreads();

const char* setting(const char* name);  // the environment variable, or null where it is empty or not there

// collective parks arg and waits until all lanes of mask have come with the same
// tag; the last one runs fn(args by lane, mask), then all go on.
typedef void (*WarpFn)(void** args, unsigned mask);
void collective(WarpFn fn, void* arg, unsigned mask);
void fault(const char* what);  // ends the launch with an error

void wait_while(const int* p, int v);  // may return early
void changed();                        // tells that blocks which wait may go on

void cp_async(void* dst, const void* src, bool valid);
void cp_async_commit();
void cp_async_wait(int n);
void check_aligned(const void* p, size_t n);

// ---- kernels by name ----
struct Kernel {
  const char* name;
  void (*call)(void (*)(), void** params);
  void (*fn)();
  std::vector<size_t> params;
};
void add_kernel(Kernel k);
const Kernel* find_kernel(const char* name);
// launch runs the grid, of a cooperative launch all blocks at the same time; it returns an error text, empty when all is well.
std::string launch(const Kernel* k, dim3 grid, dim3 block, size_t shared, void** params, bool cooperative);

template <class... A> struct Caller {
  template <class T> static T value(const void* p) {  // which may lie anywhere
    T v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  template <size_t... I> static void run(void (*f)(A...), void** p, std::index_sequence<I...>) { f(value<A>(p[I])...); }
  static void call(void (*f)(), void** p) { run(reinterpret_cast<void (*)(A...)>(f), p, std::index_sequence_for<A...>{}); }
};
struct Registrar {
  template <class... A> Registrar(const char* name, void (*f)(A...)) {
    add_kernel({name, Caller<A...>::call, reinterpret_cast<void (*)()>(f), {sizeof(A)...}});
  }
};
template <int MI, int NI> struct MmaArgs { float (*d)[NI][4]; const uint32_t (*a)[4]; const uint32_t (*b)[2]; };
template <int MI, int NI> void mma_warp(void** args, unsigned mask);
}  // namespace cuemu

#define threadIdx (cuemu::self->tid)
#define blockIdx (cuemu::self->bid)
#define blockDim (cuemu::self->bdim)
#define gridDim (cuemu::self->gdim)
#define KERNEL_REGISTER(name) static cuemu::Registrar cuemu_reg_##name(#name, name);
#define KERNEL_EXPORT(name) KERNEL_REGISTER(name)
#define DYNAMIC_SHARED(name) unsigned char* name = static_cast<unsigned char*>(cuemu::dynamic_shared())
static inline void __syncthreads() { cuemu::syncthreads(); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { cuemu::collective([](void**, unsigned) {}, nullptr, mask); }

// ---- shuffles and votes ----
namespace cuemu {
template <class T> struct Shfl { T v, out; int src; };
template <class T> static inline T shfl(unsigned mask, T v, int src) {
  Shfl<T> s{v, v, src};
  collective([](void** args, unsigned mask) {
    for (int l = 0; l < 32; l++)
      if (mask >> l & 1) {
        Shfl<T>* me = static_cast<Shfl<T>*>(args[l]);
        if (!(mask >> (me->src & 31) & 1)) fault("shuffle from a lane outside the mask");
        me->out = static_cast<Shfl<T>*>(args[me->src & 31])->v;
      }
  }, &s, mask);
  return s.out;
}
static inline int lane() { return (self->tid.x + self->bdim.x * (self->tid.y + self->bdim.y * self->tid.z)) & 31; }
}  // namespace cuemu
template <class T> static inline T __shfl_sync(unsigned m, T v, int src, int width = 32) {
  int l = cuemu::lane();
  return cuemu::shfl(m, v, (l & ~(width - 1)) | (src & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int x, int = 32) { return cuemu::shfl(m, v, cuemu::lane() ^ x); }
template <class T> static inline T __shfl_down_sync(unsigned m, T v, int d, int width = 32) {
  int l = cuemu::lane();
  return cuemu::shfl(m, v, (l & (width - 1)) + d < width ? l + d : l);
}
template <class T> static inline T __shfl_up_sync(unsigned m, T v, int d, int width = 32) {
  int l = cuemu::lane();
  return cuemu::shfl(m, v, (l & (width - 1)) >= d ? l - d : l);
}
static inline unsigned __ballot_sync(unsigned m, bool p) {
  struct V { bool p; unsigned out; } v{p, 0};
  cuemu::collective([](void** a, unsigned mask) {
    unsigned r = 0;
    for (int l = 0; l < 32; l++) if (mask >> l & 1 && static_cast<V*>(a[l])->p) r |= 1u << l;
    for (int l = 0; l < 32; l++) if (mask >> l & 1) static_cast<V*>(a[l])->out = r;
  }, &v, m);
  return v.out;
}
static inline bool __any_sync(unsigned m, bool p) { return __ballot_sync(m, p) != 0; }
static inline bool __all_sync(unsigned m, bool p) { return __ballot_sync(m, p) == m; }

// ---- atomics ----
static inline float atomicAdd(float* p, float v) {
  uint32_t* u = reinterpret_cast<uint32_t*>(p);
  uint32_t old = __atomic_load_n(u, __ATOMIC_RELAXED), want;
  float f;
  do {
    memcpy(&f, &old, 4);
    float g = f + v;
    memcpy(&want, &g, 4);
  } while (!__atomic_compare_exchange_n(u, &old, want, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return f;
}
static inline int atomicAdd(int* p, int v) {
  int old = __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
  cuemu::changed();
  return old;
}
static inline unsigned atomicAdd(unsigned* p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }

// ---- the wrappers of device.cuh ----
static inline void wait_while(const int* p, int v) {
  while (__atomic_load_n(p, __ATOMIC_ACQUIRE) == v) cuemu::wait_while(p, v);
}
static inline float silu(float v) { return v * (1.f / (1.f + exp2f(v * -1.442695041f))); }
static inline int kept(int v) { return v; }
static inline void cp_async16(void* s, const void* g, bool valid) { cuemu::cp_async(s, g, valid); }
static inline void cp_async_commit() { cuemu::cp_async_commit(); }
template <int N> static inline void cp_async_wait() { cuemu::cp_async_wait(N); }
namespace cuemu {
struct Row { uint32_t* r; uint4 v; };
// Lane i*8+q brings row q of the 8x8 matrix i. Lane l gets elements 2(l%4) and 2(l%4)+1 of row l/4 of every matrix, or
// of column l/4.
template <bool Transposed>
void load_matrices(void** a, unsigned mask) {
  if (mask != 0xffffffffu) fault("ldmatrix with part of the warp");
  for (int i = 0; i < 4; i++) {
    uint16_t m[8][8];
    for (int q = 0; q < 8; q++) memcpy(m[q], &static_cast<Row*>(a[i * 8 + q])->v, 16);
    for (int l = 0; l < 32; l++) {
      int major = l / 4, minor = l % 4 * 2;
      uint16_t lo = Transposed ? m[minor][major] : m[major][minor], hi = Transposed ? m[minor + 1][major] : m[major][minor + 1];
      static_cast<Row*>(a[l])->r[i] = lo | (uint32_t)hi << 16;
    }
  }
}
template <bool Transposed>
void ldmatrix(uint32_t (&r)[4], const void* row) {
  check_aligned(row, 16);
  Row l{r, *static_cast<const uint4*>(row)};  // every lane reads its row itself, so a sanitizer sees who read
  collective(load_matrices<Transposed>, &l, 0xffffffffu);
}
}  // namespace cuemu
static inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { cuemu::ldmatrix<false>(r, row); }
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { cuemu::ldmatrix<true>(r, row); }
template <int MI, int NI>
static inline void mma_tile(float (&d)[MI][NI][4], const uint32_t (&a)[MI][4], const uint32_t (&b)[NI][2]) {
  cuemu::MmaArgs<MI, NI> m{d, a, b};
  cuemu::collective(cuemu::mma_warp<MI, NI>, &m, 0xffffffffu);
}
namespace cuemu {
static inline void spread(float* out, int stride, uint32_t v) {
  float2 f = unpack(v);
  out[0] = f.x;
  out[stride] = f.y;
}
template <int MI, int NI> void mma_warp(void** args, unsigned mask) {
  if (mask != 0xffffffffu) fault("mma with part of the warp");
  alignas(64) float A[MI * 16][16], B[16][NI * 8], C[MI * 16][NI * 8];
  for (int l = 0; l < 32; l++) {
    const MmaArgs<MI, NI>& m = *static_cast<MmaArgs<MI, NI>*>(args[l]);
    int g = l >> 2, t = (l & 3) * 2;
    for (int i = 0; i < MI; i++) {
      spread(&A[i * 16 + g][t], 1, m.a[i][0]);
      spread(&A[i * 16 + g + 8][t], 1, m.a[i][1]);
      spread(&A[i * 16 + g][t + 8], 1, m.a[i][2]);
      spread(&A[i * 16 + g + 8][t + 8], 1, m.a[i][3]);
    }
    for (int j = 0; j < NI; j++) {
      spread(&B[t][j * 8 + g], NI * 8, m.b[j][0]);
      spread(&B[t + 8][j * 8 + g], NI * 8, m.b[j][1]);
      for (int i = 0; i < MI; i++) {
        memcpy(&C[i * 16 + g][j * 8 + t], m.d[i][j], 8);
        memcpy(&C[i * 16 + g + 8][j * 8 + t], m.d[i][j] + 2, 8);
      }
    }
  }
  for (int r = 0; r < MI * 16; r++)
    for (int k = 0; k < 16; k++) {
      float a = A[r][k];
      for (int c = 0; c < NI * 8; c++) C[r][c] += a * B[k][c];
    }
  for (int l = 0; l < 32; l++) {
    const MmaArgs<MI, NI>& m = *static_cast<MmaArgs<MI, NI>*>(args[l]);
    int g = l >> 2, t = (l & 3) * 2;
    for (int j = 0; j < NI; j++)
      for (int i = 0; i < MI; i++) {
        memcpy(m.d[i][j], &C[i * 16 + g][j * 8 + t], 8);
        memcpy(m.d[i][j] + 2, &C[i * 16 + g + 8][j * 8 + t], 8);
      }
  }
}
}  // namespace cuemu
