// Tests of the emulation itself: what it computes, and that it finds what it is there to find.
#include "../../kernels/cuda/wgmma.cuh"
#include "tensormap.h"

#include <stdio.h>
#include <stdlib.h>

struct out_args {
  float* out;
  const half *a, *b;
  tensor_map map;
};

// A 16x16 tile of A times the transpose of a 16x16 tile of B, or times B itself, by asynchronous copies, ldmatrix and mma.
template <bool Transpose>
void product(const out_args& a) {
  DYNAMIC_SHARED(shared);
  half* sa = reinterpret_cast<half*>(shared);
  half* sb = sa + 256;
  int lane = threadIdx.x;
  cp_async16(sa + lane * 8, a.a + lane * 8, true);
  cp_async16(sb + lane * 8, a.b + lane * 8, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  uint32_t x[1][4], r[4];
  ldmatrix_x4(x[0], sa + (lane & 15) * 16 + (lane >> 4) * 8);
  if (Transpose) ldmatrix_x4(r, sb + ((lane & 7) + (lane >> 4) * 8) * 16 + (lane >> 3 & 1) * 8);
  else ldmatrix_x4_trans(r, sb + (lane & 15) * 16 + (lane >> 4) * 8);
  uint32_t y[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
  float d[1][2][4] = {};
  mma_tile(d, x, y);
  for (int j = 0; j < 2; j++)
    for (int e = 0; e < 4; e++) a.out[(lane / 4 + e / 2 * 8) * 16 + j * 8 + lane % 4 * 2 + e % 2] = d[0][j][e];
}
__global__ void multiply(const out_args a) { product<true>(a); }
KERNEL_EXPORT(multiply)
__global__ void multiply_plain(const out_args a) { product<false>(a); }
KERNEL_EXPORT(multiply_plain)

// What a thread sees in fresh shared memory, before and after it waits for a copy; -1 stands for NaN.
__global__ void late(const out_args a) {
  DYNAMIC_SHARED(shared);
  float* s = reinterpret_cast<float*>(shared);
  a.out[0] = isnan(s[0]) ? -1 : s[0];
  s[0] = 5;
  cp_async16(s, a.a, true);
  cp_async_commit();
  a.out[1] = isnan(s[0]) ? -1 : s[0];
  cp_async_wait<0>();
  a.out[2] = reinterpret_cast<half*>(s)[0].bits;
}
KERNEL_EXPORT(late)

__global__ void order(const out_args a) {
  static int next;
  if (threadIdx.x == 0 && blockDim.x == 1) next = 0;
  else a.out[atomicAdd(&next, 1)] = threadIdx.x;
}
KERNEL_EXPORT(order)

// 64x16 halves of A, in planes of eight columns with 16 bytes between them, times the transpose of a 128x64 matrix, of which
// columns 16 and following are multiplied, of a box that begins at row -1: four warps, and a fifth that asks for the box.
// mistake is what is left out, or wrong.
enum { NONE, FENCE_ASYNC, EXPECT, BYTES, WAIT_BOX, WGMMA_FENCE, WGMMA_WAIT, WAIT_TOO_FEW, INIT_FENCE, SWIZZLE, OTHER_MATRIX, OVERRUN };
template <int mistake>
__global__ void box_product(const out_args a) {
  DYNAMIC_SHARED_1024(shared);
  unsigned char* sa = shared + 128 * 128;
  constexpr int PLANE = 64 * 16 + 16;
  mbarrier* there = reinterpret_cast<mbarrier*>(sa + 2 * PLANE);
  int tid = threadIdx.x;
  if (tid == 0) {
    mbarrier_init(there, 129);
    if (mistake != INIT_FENCE) mbarrier_init_fence();
  }
  __syncthreads();
  if (tid >= 128) {
    if (tid > 128) return;
    if (mistake == EXPECT) mbarrier_arrive(there);
    else mbarrier_arrive_expect(there, mistake == BYTES ? 128 * 64 : 128 * 128);
    tma_load(shared, &a.map, 0, -1, there);
    return;
  }
  put_async(sa + tid / 64 * PLANE + tid % 64 * 16, *reinterpret_cast<const uint4*>(a.a + tid % 64 * 16 + tid / 64 * 8));
  if (mistake == OVERRUN) put_async(sa + 2 * PLANE + 16 * tid, make_uint4(0, 0, 0, 0));
  if (mistake != FENCE_ASYNC) fence_async();
  mbarrier_arrive(there);
  if (mistake != WAIT_BOX) mbarrier_wait(there, 0);
  float d[16][4] = {};
  if (mistake != WGMMA_FENCE) wgmma_fence();
  unsigned long long left = matrix(sa, PLANE, 128, MATRIX_PLAIN);
  if (mistake == OTHER_MATRIX && tid < 32) left += 1;
  wgmma(d, left, matrix(shared + 32, 16, 1024, mistake == SWIZZLE ? MATRIX_PLAIN : MATRIX_SWIZZLED));
  wgmma_commit();
  if (mistake == WAIT_TOO_FEW) wgmma_wait<1>();
  else if (mistake != WGMMA_WAIT) wgmma_wait<0>();
  for (int j = 0; j < 16; j++)
    for (int e = 0; e < 4; e++) a.out[(tid / 32 * 16 + tid % 32 / 4 + e / 2 * 8) * 128 + j * 8 + tid % 4 * 2 + e % 2] = d[j][e];
  if (mistake == WGMMA_WAIT || mistake == WAIT_TOO_FEW) wgmma_wait<0>();
  barrier_sync(1, 128);
}
#define BOX(name) static cuemu::Registrar box_##name("box " #name, box_product<name>);
BOX(NONE) BOX(FENCE_ASYNC) BOX(EXPECT) BOX(BYTES) BOX(WAIT_BOX) BOX(WGMMA_FENCE) BOX(WGMMA_WAIT) BOX(WAIT_TOO_FEW) BOX(INIT_FENCE) BOX(SWIZZLE)
BOX(OTHER_MATRIX) BOX(OVERRUN)

// In every round each thread tells all blocks a number that depends on what it was told in the round before. The numbers of two
// rounds lie in different places, so that one barrier in a round is enough.
struct meet_args {
  int *meet, *told, *out;
  int rounds;
};
enum { RIGHT, NO_BARRIER, LEAVES, FAULTS };
__device__ int tell(int sum, int round, int who) { return (sum * 3 + round * 7 + who) % 1009; }
template <int mistake>
__global__ void meeting(const meet_args a) {
  int me = (int)thread_index(blockIdx.x), neighbour = (threadIdx.x + 1) % blockDim.x, sum = 0;
  for (int round = 0; round < a.rounds; round++) {
    if (mistake == LEAVES && round == 1 && blockIdx.x == 1) return;
    if (mistake == FAULTS && round == 1 && blockIdx.x == 1) cuemu::check_aligned(reinterpret_cast<char*>(a.told) + 1, 4);
    int* told = a.told + round % 2 * gridDim.x * blockDim.x;
    told[me] = tell(sum, round, me);
    if (mistake != NO_BARRIER || round != 1) grid_barrier(a.meet, gridDim.x);
    sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += told[b * blockDim.x + neighbour];
  }
  a.out[me] = sum;
}
#define MEETING(name) static cuemu::Registrar meeting_##name("meeting " #name, meeting<name>);
MEETING(RIGHT) MEETING(NO_BARRIER) MEETING(LEAVES) MEETING(FAULTS)

// Threads of one block that wait for each other, or for nobody.
__global__ void hand_over(const meet_args a) {
  unsigned last = blockDim.x - 1;
  if (threadIdx.x == 0) {
    wait_while(a.meet, 0);
    a.out[0] = a.told[0];
    atomicAdd(a.meet + 1, 1);
  } else if (threadIdx.x == last) {
    a.told[0] = 5;
    atomicAdd(a.meet, 1);
    wait_while(a.meet + 1, 0);
  }
}
KERNEL_EXPORT(hand_over)
__global__ void forgotten(const meet_args a) {
  if (threadIdx.x == 0) wait_while(a.meet, 0);
  else __syncthreads();
}
KERNEL_EXPORT(forgotten)

// Mistakes.
__global__ void not_waited(const out_args a) {
  DYNAMIC_SHARED(shared);
  cp_async16(shared, a.a, true);
  cp_async_commit();
}
KERNEL_EXPORT(not_waited)
__global__ void misaligned(const out_args a) {
  DYNAMIC_SHARED(shared);
  cp_async16(shared + 4, a.a, true);
}
KERNEL_EXPORT(misaligned)
__global__ void left_alone(const out_args a) {
  if (threadIdx.x == 0) a.out[0] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
}
KERNEL_EXPORT(left_alone)
__global__ void divergent(const out_args a) {
  if (threadIdx.x & 1) a.out[0] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
  else a.out[0] = (float)__ballot_sync(0xffffffffu, true);
}
KERNEL_EXPORT(divergent)
__global__ void outside(const out_args a) {
  if (threadIdx.x < 16) a.out[0] = __shfl_sync(0xffffu, 1.f, 20);
}
KERNEL_EXPORT(outside)

static int failures;
static void expect(bool ok, const char* what) {
  if (!ok) printf("FAIL %s\n", what);
  failures += !ok;
}
static std::string run(const char* name, int threads, out_args a, size_t shared = 1024) {
  void* params[] = {&a};
  return cuemu::launch(cuemu::find_kernel(name), {1, 1, 1}, {(unsigned)threads, 1, 1}, shared, params, false);
}

// boxes runs box_product as it should be and with mistakes.
static void boxes() {
  static half x[64 * 16], y[127 * 64];  // a row less than the box has below its first one, which is outside
  static float out[64 * 128];
  for (int i = 0; i < 64 * 16; i++) x[i] = to_half((float)(i * 37 % 23 - 11));
  for (int i = 0; i < 127 * 64; i++) y[i] = to_half((float)(i * 53 % 19 - 9));
  out_args a = {out, x, y, {}};
  cuemu::TensorMap m = {(uint64_t)y, 64, 126, 128, 64, 128, 1, cuemu::kTensorMap};
  memcpy(&a.map, &m, sizeof m);
  constexpr size_t shared = 128 * 128 + 2 * (64 * 16 + 16) + 8;
  auto right = [&] {
    for (int r = 0; r < 64; r++)
      for (int c = 0; c < 128; c++) {
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += c < 1 || c > 126 ? 0 : to_float(x[r * 16 + k]) * to_float(y[(c - 1) * 64 + 16 + k]);
        if (sum != out[r * 128 + c]) return false;
      }
    return true;
  };
  std::string e = run("box NONE", 160, a, shared);
  expect(e.empty(), e.c_str());
  expect(right(), "a product of a box is right");
  struct { const char *kernel, *error; } mistakes[] = {{"box FENCE_ASYNC", "not fenced"}, {"box EXPECT", ""}, {"box BYTES", "deadlock"}, {"box WAIT_BOX", "on its way"},
    {"box WGMMA_FENCE", "without wgmma_fence"}, {"box WGMMA_WAIT", ""}, {"box WAIT_TOO_FEW", ""}, {"box INIT_FENCE", "without mbarrier_init_fence"}, {"box SWIZZLE", ""},
    {"box OTHER_MATRIX", "different wgmma"}, {"box OVERRUN", "outside of shared memory"}};
  for (auto& k : mistakes) {
    e = run(k.kernel, 160, a, shared);
    bool found = *k.error ? e.find(k.error) != e.npos : !e.empty() || !right();
    if (!found) printf("%s: \"%s\"\n", k.kernel, e.c_str());
    expect(found, k.kernel);
  }
}

// meet runs a kernel of blocks that meet, several times on the same counters, and tells what went wrong.
static std::string meet(const char* name, unsigned blocks, unsigned threads, int rounds, bool cooperative) {
  size_t all = (size_t)blocks * threads;
  std::vector<int> counters(2), told(2 * all), out(all), sum(all), next(threads);
  meet_args a = {counters.data(), told.data(), out.data(), rounds};
  for (int r = 0; r < rounds; r++) {
    for (unsigned t = 0; t < threads; t++) {
      next[t] = 0;
      for (unsigned who = (t + 1) % threads; who < all; who += threads) next[t] += tell(sum[who], r, who);
    }
    for (size_t i = 0; i < all; i++) sum[i] = next[i % threads];
  }
  void* params[] = {&a};
  for (int launch = 1; launch <= 3; launch++) {
    std::string e = cuemu::launch(cuemu::find_kernel(name), {blocks, 1, 1}, {threads, 1, 1}, 0, params, cooperative);
    if (!e.empty()) return e;
    if (out != sum) return "a block did not see what another one told";
    if (counters[0] || counters[1] != rounds * launch) return "the counters of the barrier";
    out.assign(all, -1);
  }
  return "";
}

static void meetings() {
#ifdef __SANITIZE_THREAD__  // the race detector knows 8128 threads
  unsigned many = 24;
#else
  unsigned many = 132;
#endif
  std::string e = meet("meeting RIGHT", many, 256, 6, true);
  expect(e.empty(), e.c_str());
  for (unsigned blocks : {1u, 2u, 3u, 16u}) {
    e = meet("meeting RIGHT", blocks, 64, 50, true);
    expect(e.empty(), e.c_str());
  }
  e = meet("meeting RIGHT", 1, 64, 5, false);
  expect(e.empty(), "a block alone waits for nobody");
}
static void failed_meetings() {
  std::string e;
  struct { const char* kernel; bool cooperative; const char* error; } mistakes[] = {
    {"meeting RIGHT", false, "not cooperative"}, {"meeting LEAVES", true, "deadlock"}, {"meeting FAULTS", true, "misaligned"}};
  for (auto& m : mistakes) {
    e = meet(m.kernel, 16, 64, 5, m.cooperative);
    if (e.find(m.error) == e.npos) printf("%s: \"%s\"\n", m.kernel, e.c_str());
    expect(e.find(m.error) != e.npos, m.kernel);
  }
  for (const char* name : {"hand_over", "forgotten"}) {
    int counters[2] = {}, told = 0, out = 0;
    meet_args a = {counters, &told, &out, 0};
    void* params[] = {&a};
    e = cuemu::launch(cuemu::find_kernel(name), {1, 1, 1}, {64, 1, 1}, 0, params, false);
    if (!strcmp(name, "hand_over")) expect(e.empty() && out == 5, "a thread waits for another one of its block");
    else expect(e.find("deadlock") != e.npos, name);
  }
}

// For the race detector there are the arguments meet, which is right, and race, where a barrier lacks, which only it is sure to see.
int main(int argc, char** argv) {
  if (argc > 1) {
    if (!strcmp(argv[1], "meet")) meetings();
    else meet("meeting NO_BARRIER", 8, 64, 5, true);
    return failures != 0;
  }
  alignas(16) half x[256], y[256];
  float out[256];
  for (int i = 0; i < 256; i++) {
    x[i] = to_half((float)(i * 37 % 23 - 11));
    y[i] = to_half((float)(i * 53 % 19 - 9));
  }
  out_args a = {out, x, y, {}};

  for (bool transpose : {true, false}) {
    expect(run(transpose ? "multiply" : "multiply_plain", 32, a).empty(), "multiply runs");
    bool same = true;
    for (int r = 0; r < 16; r++)
      for (int c = 0; c < 16; c++) {
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += to_float(x[r * 16 + k]) * to_float(transpose ? y[c * 16 + k] : y[k * 16 + c]);
        same = same && sum == out[r * 16 + c];
      }
    expect(same, transpose ? "multiply is right" : "multiply_plain is right");
  }

  expect(run("late", 1, a).empty(), "late runs");
  expect(out[0] == -1, "fresh shared memory is NaN");
  expect(out[1] == -1, "a copy on its way is NaN");
  expect(out[2] == x[0].bits, "a copy that was waited for is there");

  run("order", 1, a);
  expect(run("order", 64, a).empty(), "order runs");
  const char* how = cuemu::setting("CUEMU_ORDER");
  std::string wanted = how ? how : "forward";
  bool forward = true, reverse = true;
  for (int i = 0; i < 64; i++) forward = forward && out[i] == i, reverse = reverse && out[i] == 63 - i;
  expect(forward == (wanted == "forward") && reverse == (wanted == "reverse"), "the order of the threads is the one asked for");

  struct { const char *kernel, *error; } mistakes[] = {{"not_waited", "not waited for"}, {"misaligned", "misaligned"},
    {"left_alone", "deadlock"}, {"divergent", "different warp operations"}, {"outside", "outside the mask"}};
  for (auto& m : mistakes) {
    std::string e = run(m.kernel, 32, a);
    if (e.find(m.error) == e.npos) printf("%s: \"%s\"\n", m.kernel, e.c_str());
    expect(e.find(m.error) != e.npos, m.kernel);
  }
  boxes();
  meetings();
  failed_meetings();
  puts(failures ? "FAIL" : "the emulation passes");
  return failures != 0;
}
