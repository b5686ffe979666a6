// Tests of the emulation itself: what it computes, and that it finds what it is there to find.
#include "cuemu.h"

#include <stdio.h>
#include <stdlib.h>

struct out_args {
  float* out;
  const half *a, *b;
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
static std::string run(const char* name, int threads, out_args a) {
  void* params[] = {&a};
  return cuemu::launch(cuemu::find_kernel(name), {1, 1, 1}, {(unsigned)threads, 1, 1}, 1024, params);
}

int main() {
  alignas(16) half x[256], y[256];
  float out[256];
  for (int i = 0; i < 256; i++) {
    x[i] = to_half((float)(i * 37 % 23 - 11));
    y[i] = to_half((float)(i * 53 % 19 - 9));
  }
  out_args a = {out, x, y};

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
  const char* how = getenv("CUEMU_ORDER");
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
  puts(failures ? "FAIL" : "the emulation passes");
  return failures != 0;
}
