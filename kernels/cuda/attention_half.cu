// Attention of halves on tensor cores, as FlashAttention-2 has it (Dao 2023): keys come in tiles of 64, scores and
// probabilities stay on the chip, and what was summed so far is scaled to the largest score met. Heads are of a multiple of
// 8 channels, and pixels lie at multiples of 16 bytes. Probabilities are rounded to F16 for the product with the values;
// their sum is not.
#include "device.cuh"

constexpr int kKeyTile = 64;

// Where piece number piece (8 channels) of a row of D channels lies, permuted so that eight rows lie in different banks.
template <int D>
__device__ __forceinline__ int head_slot(int row, int piece) {
  return row * D * 2 + ((D == 32 ? piece ^ ((row >> 1) & 3) : piece ^ (row & 7)) << 4);
}

// Copies channels c0 to c0+D of rows from..from+ROWS of src, whose rows lie width apart and end at count and at dim channels.
template <int D, int ROWS>
__device__ __forceinline__ void fetch_rows(unsigned char* to, const half* src, long long width, int from, int count, int c0, int dim) {
#pragma unroll 4
  for (int i = threadIdx.x; i < ROWS * (D / 8); i += blockDim.x) {
    int row = i / (D / 8), piece = i % (D / 8), c = c0 + piece * 8;
    bool ok = from + row < count && c < dim;
    cp_async16(to + head_slot<D>(row, piece), ok ? src + (from + row) * width + c : src, ok);
  }
}

// The score's exponent to base 2, and nothing for keys behind the last one.
__device__ __forceinline__ float scaled(float score, float scale, int key, int keys) { return key < keys ? score * scale : -infinity(); }

struct attention_head {
  const half *q, *k, *v;
  half* dst;
};

__device__ __forceinline__ attention_head head_of(const attention_args& a, dim3 block) {
  int head = block.y, n = block.z;
  return {static_cast<const half*>(a.q) + (long long)n * a.queries * a.qc + a.qfirst + (long long)head * a.qstep,
          static_cast<const half*>(a.k) + (long long)n * a.keys * a.kc + a.kfirst + (long long)head * a.kstep,
          static_cast<const half*>(a.v) + (long long)n * a.keys * a.vc + a.vfirst + (long long)head * a.vstep,
          static_cast<half*>(a.dst) + (long long)n * a.queries * a.dc + (long long)head * a.dim};
}

// Heads of up to D channels: a block of four warps has 64 queries, 16 for each warp, whose scores and sums are all in its
// registers. Values are on their way during the scores' products, the next keys during the softmax.
// Shared memory: [64][D] of queries, keys and values, halves.
template <int D>
__device__ __forceinline__ void attention_flash(const attention_args& a, dim3 block) {
  DYNAMIC_SHARED(shared);
  unsigned char *sq = shared, *sk = sq + kKeyTile * D * 2, *sv = sk + kKeyTile * D * 2;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, q0 = block.x * 64;
  attention_head h = head_of(a, block);
  float scale = a.scale * 1.44269504088896f;  // exponents are to base 2
  float sum[D / 32][1][4][4] = {};            // 32 channels each
  float top[2] = {-infinity(), -infinity()}, total[2] = {0.f, 0.f};  // of rows lane/4 and lane/4+8; total is this thread's part
  unsigned query[D / 16][1][4];
  fetch_rows<D, 64>(sq, h.q, a.qc, q0, a.queries, 0, a.dim);
  fetch_rows<D, 64>(sk, h.k, a.kc, 0, a.keys, 0, a.dim);
  cp_async_commit();
  for (int j0 = 0; j0 < a.keys; j0 += kKeyTile) {
    fetch_rows<D, 64>(sv, h.v, a.vc, j0, a.keys, 0, a.dim);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();  // the keys are there
    if (j0 == 0) {
#pragma unroll
      for (int c = 0; c < D / 16; c++) ldmatrix_x4(query[c][0], sq + head_slot<D>(warp * 16 + (lane & 15), c * 2 + (lane >> 4)));
    }
    float score[2][1][4][4] = {};  // 32 keys each
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
      if (c * 16 >= a.dim) break;
#pragma unroll
      for (int g = 0; g < 2; g++) {
        unsigned b[4][2];
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
          unsigned r[4];
          ldmatrix_x4(r, sk + head_slot<D>(g * 32 + j * 8 + (lane & 7) + ((lane >> 4) << 3), c * 2 + ((lane >> 3) & 1)));
          b[j][0] = r[0];
          b[j][1] = r[1];
          b[j + 1][0] = r[2];
          b[j + 1][1] = r[3];
        }
        mma_tile(score[g], query[c], b);
      }
    }
    __syncthreads();  // all are done with the keys
    if (j0 + kKeyTile < a.keys) fetch_rows<D, 64>(sk, h.k, a.kc, j0 + kKeyTile, a.keys, 0, a.dim);
    cp_async_commit();
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most = top[r];
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& s = score[j / 4][0][j % 4][2 * r + e];
          s = scaled(s, scale, j0 + j * 8 + (lane & 3) * 2 + e, a.keys);
          most = fmaxf(most, s);
        }
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      float factor = exp2f(top[r] - most);
      top[r] = most;
      total[r] *= factor;
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& s = score[j / 4][0][j % 4][2 * r + e];
          s = exp2f(s - most);
          total[r] += s;
        }
#pragma unroll
      for (int g = 0; g < D / 32; g++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          sum[g][0][j][2 * r] *= factor;
          sum[g][0][j][2 * r + 1] *= factor;
        }
    }
    cp_async_wait<1>();
    __syncthreads();  // the values are there
#pragma unroll
    for (int k = 0; k < kKeyTile / 16; k++) {
      float(&lo)[4] = score[k / 2][0][k % 2 * 2], (&hi)[4] = score[k / 2][0][k % 2 * 2 + 1];
      unsigned p[1][4] = {{pack(lo[0], lo[1]), pack(lo[2], lo[3]), pack(hi[0], hi[1]), pack(hi[2], hi[3])}};
#pragma unroll
      for (int g = 0; g < D / 32; g++) {
        if (g * 32 >= a.dim) break;
        unsigned b[4][2];
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
          unsigned r[4];
          ldmatrix_x4_trans(r, sv + head_slot<D>(k * 16 + (lane & 15), g * 4 + j + (lane >> 4)));
          b[j][0] = r[0];
          b[j][1] = r[1];
          b[j + 1][0] = r[2];
          b[j + 1][1] = r[3];
        }
        mma_tile(sum[g], p, b);
      }
    }
    __syncthreads();  // all are done with the values
  }
  cp_async_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; r++) {
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    int q = q0 + warp * 16 + (lane >> 2) + 8 * r;
    if (q >= a.queries) continue;
    half* out = h.dst + (long long)q * a.dc;
    float inv = 1.f / total[r];
#pragma unroll
    for (int g = 0; g < D / 32; g++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int c = g * 32 + j * 8 + (lane & 3) * 2;
        if (c < a.dim) *reinterpret_cast<unsigned*>(out + c) = pack(sum[g][0][j][2 * r] * inv, sum[g][0][j][2 * r + 1] * inv);
      }
  }
}

// Heads of up to D channels that do not fit in a warp's registers: a block of four warps has 32 queries. Keys and values
// come 32 channels at a time, two steps deep. Warp w has the scores of 16 queries (w%2) and 32 keys (w/2), and the sums of
// the same queries and every other 16 channels; probabilities go through shared memory.
// Shared memory: [32][D] of queries, two times [64][32] of keys or values, [32][64] of probabilities, halves; [2][32] floats.
template <int D>
__device__ __forceinline__ void attention_wide(const attention_args& a, dim3 block) {
  constexpr int STEP = kKeyTile * 32 * 2;
  DYNAMIC_SHARED(shared);
  unsigned char *sq = shared, *steps = sq + 32 * D * 2, *sp = steps + 2 * STEP;
  float* exchange = reinterpret_cast<float*>(sp + 32 * kKeyTile * 2);
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row0 = warp % 2 * 16, part = warp / 2, q0 = block.x * 32;
  attention_head h = head_of(a, block);
  float scale = a.scale * 1.44269504088896f;
  float sum[D / 32][1][2][4] = {};
  float top[2] = {-infinity(), -infinity()}, total[2] = {0.f, 0.f};

  // Steps are numbered through all tiles: the chunks of the keys, then those of the values.
  int chunks = (a.dim + 31) / 32, next_tile = 0, next = 0;
  auto fetch = [&](int buffer) {
    if (next_tile < a.keys) {
      bool keys = next < chunks;
      fetch_rows<32, kKeyTile>(steps + buffer * STEP, keys ? h.k : h.v, keys ? a.kc : a.vc, next_tile, a.keys, (keys ? next : next - chunks) * 32, a.dim);
      if (++next == 2 * chunks) {
        next = 0;
        next_tile += kKeyTile;
      }
    }
    cp_async_commit();
  };
  int buffer = 0;
  auto advance = [&]() {  // returns the step's data, and begins to copy the next one's
    cp_async_wait<0>();
    __syncthreads();
    const unsigned char* at = steps + buffer * STEP;
    buffer ^= 1;
    fetch(buffer);
    return at;
  };
  fetch_rows<D, 32>(sq, h.q, a.qc, q0, a.queries, 0, a.dim);
  fetch(0);
  for (int j0 = 0; j0 < a.keys; j0 += kKeyTile) {
    float score[1][4][4] = {};
#pragma unroll 1
    for (int c = 0; c < chunks; c++) {
      const unsigned char* keys = advance();
#pragma unroll
      for (int k = 0; k < 2; k++) {
        unsigned query[1][4], b[4][2];
        ldmatrix_x4(query[0], sq + head_slot<D>(row0 + (lane & 15), c * 4 + k * 2 + (lane >> 4)));
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
          unsigned r[4];
          ldmatrix_x4(r, keys + head_slot<32>(part * 32 + j * 8 + (lane & 7) + ((lane >> 4) << 3), k * 2 + ((lane >> 3) & 1)));
          b[j][0] = r[0];
          b[j][1] = r[1];
          b[j + 1][0] = r[2];
          b[j + 1][1] = r[3];
        }
        mma_tile(score, query, b);
      }
    }
    float most[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      most[r] = -infinity();
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& s = score[0][j][2 * r + e];
          s = scaled(s, scale, j0 + part * 32 + j * 8 + (lane & 3) * 2 + e, a.keys);
          most[r] = fmaxf(most[r], s);
        }
      most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 1));
      most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 2));
      if ((lane & 3) == 0) exchange[part * 32 + row0 + (lane >> 2) + 8 * r] = most[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int row = row0 + (lane >> 2) + 8 * r;
      most[r] = fmaxf(top[r], fmaxf(most[r], exchange[(1 - part) * 32 + row]));
      float factor = exp2f(top[r] - most[r]);
      top[r] = most[r];
      total[r] *= factor;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float x = exp2f(score[0][j][2 * r] - most[r]), y = exp2f(score[0][j][2 * r + 1] - most[r]);
        total[r] += x + y;
        *reinterpret_cast<unsigned*>(sp + head_slot<kKeyTile>(row, part * 4 + j) + (lane & 3) * 4) = pack(x, y);
      }
#pragma unroll
      for (int c = 0; c < D / 32; c++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          sum[c][0][j][2 * r] *= factor;
          sum[c][0][j][2 * r + 1] *= factor;
        }
    }
    unsigned p[kKeyTile / 16][1][4];
#pragma unroll
    for (int c = 0; c < D / 32; c++) {
      if (c < chunks) {
        const unsigned char* values = advance();
        if (c == 0) {
#pragma unroll
          for (int k = 0; k < kKeyTile / 16; k++) ldmatrix_x4(p[k][0], sp + head_slot<kKeyTile>(row0 + (lane & 15), k * 2 + (lane >> 4)));
        }
#pragma unroll
        for (int k = 0; k < kKeyTile / 16; k++) {
          unsigned r[4];
          ldmatrix_x4_trans(r, values + head_slot<32>(k * 16 + (lane & 15), part * 2 + (lane >> 4)));
          unsigned b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
          mma_tile(sum[c], p[k], b);
        }
      }
    }
  }
  cp_async_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; r++) {
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    if ((lane & 3) == 0) exchange[part * 32 + row0 + (lane >> 2) + 8 * r] = total[r];
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int row = row0 + (lane >> 2) + 8 * r;
    if (q0 + row >= a.queries) continue;
    half* out = h.dst + (long long)(q0 + row) * a.dc;
    float inv = 1.f / (exchange[row] + exchange[32 + row]);
#pragma unroll
    for (int c = 0; c < D / 32; c++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        int at = c * 32 + part * 16 + j * 8 + (lane & 3) * 2;
        if (at < a.dim) *reinterpret_cast<unsigned*>(out + at) = pack(sum[c][0][j][2 * r] * inv, sum[c][0][j][2 * r + 1] * inv);
      }
  }
}

#define FLASH(name, shape, D)                                           \
  KERNEL(name, attention_args, 128) { attention_##shape<D>(a, block); } \
  KERNEL_EXPORT(name)

FLASH(attention_flash_f16_32, flash, 32)    // 12 KB
FLASH(attention_flash_f16_64, flash, 64)    // 24 KB
FLASH(attention_flash_f16_128, flash, 128)  // 48 KB
FLASH(attention_wide_f16_256, wide, 256)    // 28.3 KB
FLASH(attention_wide_f16_512, wide, 512)    // 44.3 KB
