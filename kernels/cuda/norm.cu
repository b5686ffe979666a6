// Statistics and normalisation. Sums are in F64 and in a fixed order, so that the same input gives the same bytes.
#include "norm.cuh"

constexpr int kBand = 1024;  // pixels of a block of moments_part

// Sums of the deviations from the image's first pixel, and of their squares, over one band of pixels. A block is 32
// channels x 8 pixels. Shared memory: [2][8][32] doubles.
template <class T>
__device__ __forceinline__ void moments_band(const moments_args& a, dim3 block) {
  DYNAMIC_SHARED(shared);
  double* part = reinterpret_cast<double*>(shared);
  int lane = threadIdx.x & 31, row = threadIdx.x >> 5, c = block.y * 32 + lane, n = block.z, band = block.x;
  const T* x = static_cast<const T*>(a.x) + (long long)n * a.pixels * a.c + c;
  double sum = 0, squares = 0;
  if (c < a.c) {
    float first = to_float(x[0]);
    long long end = (band + 1ll) * kBand < a.pixels ? (band + 1ll) * kBand : a.pixels;
    for (long long p = (long long)band * kBand + row; p < end; p += 8) {
      double d = (double)to_float(x[p * a.c]) - (double)first;
      sum += d;
      squares = fma(d, d, squares);
    }
  }
  part[row * 32 + lane] = sum;
  part[256 + row * 32 + lane] = squares;
  __syncthreads();
  if (row == 0 && c < a.c) {
    for (int i = 1; i < 8; i++) {
      sum += part[i * 32 + lane];
      squares += part[256 + i * 32 + lane];
    }
    double* out = a.part + ((long long)n * a.bands + band) * 2 * a.c + c;
    out[0] = sum;
    out[a.c] = squares;
  }
}
KERNEL(moments_part, moments_args, 256) { moments_band<float>(a, block); }
KERNEL_EXPORT(moments_part)
KERNEL(moments_part_f16, moments_args, 256) { moments_band<half>(a, block); }
KERNEL_EXPORT(moments_part_f16)

// Joins the bands: a thread for each channel of each image.
template <class T>
__device__ __forceinline__ void moments_sum(const moments_args& a, dim3 block) {
  int c = block.x * blockDim.x + threadIdx.x, n = block.y;
  if (c >= a.c) return;
  const double* part = a.part + (long long)n * a.bands * 2 * a.c + c;
  double sum = 0, squares = 0;
  for (int b = 0; b < a.bands; b++) {
    sum += part[2ll * b * a.c];
    squares += part[(2ll * b + 1) * a.c];
  }
  double count = (double)a.pixels, m2 = squares - sum * sum / count;
  float* out = a.dst + 2ll * n * a.c + c;
  out[0] = (float)((double)to_float(static_cast<const T*>(a.x)[(long long)n * a.pixels * a.c + c]) + sum / count);
  out[a.c] = m2 < 0 ? 0.f : (float)m2;
}
KERNEL(moments_join, moments_args, 128) { moments_sum<float>(a, block); }
KERNEL_EXPORT(moments_join)
KERNEL(moments_join_f16, moments_args, 128) { moments_sum<half>(a, block); }
KERNEL_EXPORT(moments_join_f16)

// A block for each image.
KERNEL(norm_f32, norm_args, kNormThreads) { norm_image(a, block.x); }
KERNEL_EXPORT(norm_f32)

// A warp for each pixel: the mean, then the squared deviations from it.
template <class T>
__device__ __forceinline__ void layernorm(const layernorm_args& a, dim3 block) {
  long long p = thread_index(block.x) >> 5;
  int lane = threadIdx.x & 31;
  if (p >= a.pixels) return;  // whole warps
  const T* x = static_cast<const T*>(a.src) + p * a.c;
  T* dst = static_cast<T*>(a.dst) + p * a.c;
  double sum = 0, dev = 0;
  for (int k = lane; k < a.c; k += 32) sum += to_float(x[k]);
  double mean = warp_sum(sum) / a.c;
  for (int k = lane; k < a.c; k += 32) dev += (to_float(x[k]) - mean) * (to_float(x[k]) - mean);
  float inv = (float)(1.0 / sqrt(warp_sum(dev) / a.c + (double)a.eps));
  for (int k = lane; k < a.c; k += 32) put(dst[k], fmaf(a.gamma[k] * (float)(to_float(x[k]) - mean), inv, a.beta[k]));
}
KERNEL(layernorm_f32, layernorm_args, 256) { layernorm<float>(a, block); }
KERNEL_EXPORT(layernorm_f32)
KERNEL(layernorm_f16, layernorm_args, 256) { layernorm<half>(a, block); }
KERNEL_EXPORT(layernorm_f16)
