// Convolution: implicit GEMM in F32, with a tile of pixels by output channels in the registers of a block.
//
//   dst[p][o] = sum over k of A[p][k] B[k][o],   k = (tap, channel), then the channels of the shortcut
//
// A is read from the image on the fly: concatenation, affine map, activation and resampling happen on the way to shared
// memory, so they are repeated for every tap and every tile of output channels. Weights are [tap][in][out].
#include "device.cuh"

__device__ __forceinline__ float conv_activation(int act, float v) {
  if (act == ACT_SILU) return v / (1.f + expf(-v));
  if (act == ACT_TANH) return tanhf(v);
  return v;
}

// The value at channel c of pixel (y, x) of image n before resampling.
__device__ __forceinline__ float conv_input(const conv_args& a, int n, int y, int x, int c, float scale, float offset) {
  const float* s = a.src[0];
  int width = a.c[0];
  if (c >= width) {
    c -= width;
    s = a.src[1];
    width = a.c[1];
  }
  float v = s[(((long long)n * a.h + y) * a.w + x) * width + c];
  if (a.affine) v = fmaf(scale, v, offset);
  return conv_activation(a.act, v);
}

// The value at channel c of pixel (y, x) of the resampled image, which has uh x uw pixels and zeros around them. The loop
// keeps the code of one input small.
__device__ __forceinline__ float conv_sample(const conv_args& a, int n, int y, int x, int uh, int uw, int c, float scale, float offset) {
  if (y < 0 || x < 0 || y >= uh || x >= uw) return 0.f;
  if (a.sampling == SAMPLE_UP2) y >>= 1, x >>= 1;
  if (a.sampling != SAMPLE_DOWN2) return conv_input(a, n, y, x, c, scale, offset);
  float sum = 0.f;
#pragma unroll 1
  for (int i = 0; i < 4; i++) sum += conv_input(a, n, 2 * y + (i >> 1), 2 * x + (i & 1), c, scale, offset);
  return 0.25f * sum;
}

// What Residual adds at pixel (y, x), channel o.
__device__ __forceinline__ float conv_residual(const conv_args& a, int n, int y, int x, int o) {
  if (a.rsampling == SAMPLE_SAME) return a.residual[(((long long)n * a.oh + y) * a.ow + x) * a.cout + o];
  if (a.rsampling == SAMPLE_UP2) return a.residual[(((long long)n * (a.oh >> 1) + (y >> 1)) * (a.ow >> 1) + (x >> 1)) * a.cout + o];
  long long row = 2ll * a.ow * a.cout;
  const float* r = a.residual + (2ll * n * a.oh + 2 * y) * row + 2ll * x * a.cout + o;
  return 0.25f * (r[0] + r[a.cout] + r[row] + r[row + a.cout]);
}

constexpr int kDepth = 16;  // of a step along k

// A block of 256 threads makes BM pixels x BN channels of image block.z, each thread TM x TN of them, 16 apart so that
// neighbouring threads write neighbouring channels. Shared memory: [kDepth][BM] of A, [kDepth][BN] of B, and row and column
// of the BM pixels, so that the loop over them stays rolled up: its body is long.
template <int BM, int BN>
__device__ __forceinline__ void conv_tile(const conv_args& a, dim3 block) {
  constexpr int TX = BN < 16 ? BN : 16, TY = 256 / TX, TM = BM / TY, TN = BN / TX;
  constexpr int STRIDE = 256 / kDepth;  // between the rows of A that a thread loads
  DYNAMIC_SHARED(shared);
  float* sa = reinterpret_cast<float*>(shared);
  float* sb = sa + kDepth * BM;
  int* py = reinterpret_cast<int*>(sb + kDepth * BN);  // negative behind the last pixel
  int* px = py + BM;
  int t = threadIdx.x, tx = t % TX, ty = t / TX, n = block.z;
  long long p0 = (long long)block.x * BM, pixels = (long long)a.oh * a.ow;
  int o0 = block.y * BN, cin = a.c[0] + a.c[1];
  int uh = a.h, uw = a.w;
  if (a.sampling == SAMPLE_UP2) uh *= 2, uw *= 2;
  if (a.sampling == SAMPLE_DOWN2) uh /= 2, uw /= 2;

  for (int i = t; i < BM; i += 256) {
    py[i] = p0 + i < pixels ? (int)((p0 + i) / a.ow) : -1;
    px[i] = (int)((p0 + i) % a.ow);
  }
  __syncthreads();

  int ak = t % kDepth, ar = t / kDepth;  // this thread loads column ak of A, in rows ar, ar + STRIDE, ...
  float acc[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) acc[i][j] = 0.f;

  int taps = a.size * a.size * cin, cs = a.skip_weight ? a.cs[0] + a.cs[1] : 0;
  for (int phase = 0; phase < 2; phase++) {  // the kernel, then the shortcut
    int depth = phase ? cs : taps;
    const float* weight = phase ? a.skip_weight : a.weight;
    for (int k0 = 0; k0 < depth; k0 += kDepth) {
      int k = k0 + ak;
      if (phase == 0) {
        int tap = k / cin, c = k - tap * cin, dy = tap / a.size - a.pad, dx = tap % a.size - a.pad;
        float scale = 1.f, offset = 0.f;
        if (a.affine && k < depth) {
          const float* f = a.affine + 2ll * n * cin;
          scale = f[c];
          offset = f[cin + c];
        }
#pragma unroll 1
        for (int i = ar; i < BM; i += STRIDE) {
          float v = 0.f;
          if (k < depth && py[i] >= 0) v = conv_sample(a, n, py[i] * a.stride + dy, px[i] * a.stride + dx, uh, uw, c, scale, offset);
          sa[ak * BM + i] = v;
        }
      } else {
        const float* s = a.skip[0];
        int c = k, width = a.cs[0];
        if (c >= width) {
          c -= width;
          s = a.skip[1];
          width = a.cs[1];
        }
#pragma unroll 1
        for (int i = ar; i < BM; i += STRIDE) {
          float v = 0.f;
          if (k < depth && py[i] >= 0) v = s[(((long long)n * a.oh + py[i]) * a.ow + px[i]) * width + c];
          sa[ak * BM + i] = v;
        }
      }
      for (int i = t; i < kDepth * BN; i += 256) {
        int kk = k0 + i / BN, o = o0 + i % BN;
        sb[i] = kk < depth && o < a.cout ? weight[(long long)kk * a.cout + o] : 0.f;
      }
      __syncthreads();
#pragma unroll
      for (int kk = 0; kk < kDepth; kk++) {
        float x[TM], y[TN];
#pragma unroll
        for (int i = 0; i < TM; i++) x[i] = sa[kk * BM + ty + i * TY];
#pragma unroll
        for (int j = 0; j < TN; j++) y[j] = sb[kk * BN + tx + j * TX];
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
          for (int j = 0; j < TN; j++) acc[i][j] = fmaf(x[i], y[j], acc[i][j]);
      }
      __syncthreads();
    }
  }

#pragma unroll
  for (int i = 0; i < TM; i++) {
    int y = py[ty + i * TY], x = px[ty + i * TY];
    if (y < 0) continue;
    long long p = p0 + ty + i * TY;
#pragma unroll
    for (int j = 0; j < TN; j++) {
      int o = o0 + tx + j * TX;
      if (o >= a.cout) continue;
      float v = acc[i][j];
      if (a.bias) v += a.bias[o];
      if (a.skip_bias) v += a.skip_bias[o];
      if (a.embed) v += a.embed[(a.embeds == 1 ? 0ll : (long long)n * a.cout) + o];
      if (a.residual) v += conv_residual(a, n, y, x, o);
      if (a.relu && v < 0.f) v = 0.f;  // a NaN stays one
      a.dst[((long long)n * pixels + p) * a.cout + o] = v;
    }
  }
}

#define CONV(name, BM, BN)                                      \
  KERNEL(name, conv_args, 256) { conv_tile<BM, BN>(a, block); } \
  KERNEL_EXPORT(name)

CONV(conv_f32_64x64, 64, 64)
CONV(conv_f32_256x4, 256, 4)  // few output channels: the last layer
CONV(conv_f32_16x64, 16, 64)  // few pixels: fully connected layers, the deepest levels

// Fully connected layers of a vector for each image:
//
//   dst[o] = sum over i of act(src[i]) weight[i][o] + bias[o]
//
// A block of 256 threads makes 64 outputs of one layer for image block.y, each as the sum of four parts: every fourth
// input. Reading the weights, once for each image, bounds it. Shared memory: [cin] inputs, [4][64] sums.
KERNEL(linear_f32, linear_args, 256) {
  DYNAMIC_SHARED(shared);
  float *part = reinterpret_cast<float*>(shared), *x = part + 256;
  int t = threadIdx.x, n = block.y, number = block.x, j = 0;
  for (int step = 64; step > 0; step >>= 1)
    if (j + step < a.layers && a.layer[j + step].first <= number) j += step;
  const linear_layer& l = a.layer[j];
  int o = (number - l.first) * 64 + (t & 63);
  for (int i = t; i < a.cin; i += 256) x[i] = conv_activation(a.act, a.src[(long long)n * a.cin + i]);
  __syncthreads();
  float sum = 0.f;
  if (o < l.cout) {
    const float* weight = l.weight + o;
#pragma unroll 8
    for (int i = t >> 6; i < a.cin; i += 4) sum = fmaf(x[i], weight[(long long)i * l.cout], sum);
  }
  part[t] = sum;
  __syncthreads();
  if (t >= 64 || o >= l.cout) return;
  sum = part[t] + part[64 + t] + part[128 + t] + part[192 + t];
  l.dst[(long long)n * l.cout + o] = l.bias ? sum + l.bias[o] : sum;
}
KERNEL_EXPORT(linear_f32)
