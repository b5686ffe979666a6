// Attention with an online softmax (Milakov and Gimelshein 2018): keys come in tiles of 128, and what was summed so far is
// scaled to the largest score met. A block takes Q queries of one head, so that every key and value is read once for all
// of them.
#include "device.cuh"

constexpr int kKeys = 128;  // of a tile, and threads of a block

// Shared memory, in floats: queries [Q][dim], sums [Q][dim], scores [Q][kKeys], then for each query the largest score so
// far, the sum of the exponentials and the factor that scales the sums to the newest largest score.
template <int Q, class T>
__device__ __forceinline__ void attention(const attention_args& a, dim3 block) {
  DYNAMIC_SHARED(shared);
  float* query = reinterpret_cast<float*>(shared);
  float* acc = query + Q * a.dim;
  float* score = acc + Q * a.dim;
  float* top = score + Q * kKeys;
  float* total = top + Q;
  float* factor = total + Q;
  int t = threadIdx.x, lane = t & 31, warp = t >> 5, head = block.y, n = block.z, q0 = block.x * Q;
  const T* qs = static_cast<const T*>(a.q) + (long long)n * a.queries * a.qc + a.qfirst + (long long)head * a.qstep;
  const T* ks = static_cast<const T*>(a.k) + (long long)n * a.keys * a.kc + a.kfirst + (long long)head * a.kstep;
  const T* vs = static_cast<const T*>(a.v) + (long long)n * a.keys * a.vc + a.vfirst + (long long)head * a.vstep;
  for (int i = t; i < Q * a.dim; i += kKeys) {
    int q = q0 + i / a.dim;
    query[i] = q < a.queries ? to_float(qs[(long long)q * a.qc + i % a.dim]) : 0.f;
    acc[i] = 0.f;
  }
  if (t < Q) {
    top[t] = -infinity();
    total[t] = 0.f;
  }
  __syncthreads();
  for (int j0 = 0; j0 < a.keys; j0 += kKeys) {
    int count = a.keys - j0 < kKeys ? a.keys - j0 : kKeys;
    float dot[Q];
#pragma unroll
    for (int q = 0; q < Q; q++) dot[q] = 0.f;
    if (t < count) {
      const T* key = ks + (long long)(j0 + t) * a.kc;
      for (int d = 0; d < a.dim; d++) {
        float k = to_float(key[d]);
#pragma unroll
        for (int q = 0; q < Q; q++) dot[q] = fmaf(query[q * a.dim + d], k, dot[q]);
      }
    }
#pragma unroll
    for (int q = 0; q < Q; q++) score[q * kKeys + t] = t < count ? dot[q] * a.scale : -infinity();
    __syncthreads();
    for (int q = warp; q < Q; q += kKeys / 32) {
      float m = top[q];
      for (int j = lane; j < kKeys; j += 32) m = fmaxf(m, score[q * kKeys + j]);
      m = warp_max(m);
      float sum = 0.f;
      for (int j = lane; j < kKeys; j += 32) {
        float e = j < count ? expf(score[q * kKeys + j] - m) : 0.f;
        score[q * kKeys + j] = e;
        sum += e;
      }
      sum = warp_sum(sum);
      if (lane == 0) {
        float f = expf(top[q] - m);
        total[q] = fmaf(total[q], f, sum);
        factor[q] = f;
        top[q] = m;
      }
      __syncwarp();
    }
    __syncthreads();
    for (int d = t; d < a.dim; d += kKeys) {
      float sum[Q];
#pragma unroll
      for (int q = 0; q < Q; q++) sum[q] = acc[q * a.dim + d] * factor[q];
      for (int j = 0; j < count; j++) {
        float v = to_float(vs[(long long)(j0 + j) * a.vc + d]);
#pragma unroll
        for (int q = 0; q < Q; q++) sum[q] = fmaf(score[q * kKeys + j], v, sum[q]);
      }
#pragma unroll
      for (int q = 0; q < Q; q++) acc[q * a.dim + d] = sum[q];
    }
    __syncthreads();
  }
  for (int i = t; i < Q * a.dim; i += kKeys) {
    int q = i / a.dim;
    if (q0 + q < a.queries) put(static_cast<T*>(a.dst)[((long long)n * a.queries + q0 + q) * a.dc + (long long)head * a.dim + i % a.dim], acc[i] / total[q]);
  }
}

#define ATTENTION(name, Q, T)                                       \
  KERNEL(name, attention_args, 128) { attention<Q, T>(a, block); }  \
  KERNEL_EXPORT(name)

ATTENTION(attention_f32_8, 8, float)
ATTENTION(attention_f32_1, 1, float)  // heads too wide for eight queries in shared memory
ATTENTION(attention_f16_8, 8, half)
ATTENTION(attention_f16_1, 1, half)
