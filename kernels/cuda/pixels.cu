// The fused steps of the solver's corrections: sums, banded matrices and small filters, as the formula says it, a thread for
// each element of the destination.
#include "device.cuh"

constexpr int kDotBand = 16384;  // elements of a block of dot_f32

// Sums of products in F64, by bands; the block that finishes last joins the bands of its image, in their order. Shared
// memory: 33 doubles.
KERNEL(dot_f32, dot_args, 256) {
  DYNAMIC_SHARED(shared);
  double* part = reinterpret_cast<double*>(shared);
  bool* last = reinterpret_cast<bool*>(part + 32);
  long long first = (long long)blockIdx.x * kDotBand, end = first + kDotBand < a.image ? first + kDotBand : a.image;
  const float *x = a.a + blockIdx.y * a.image, *y = a.b + blockIdx.y * a.image;
  double* bands = a.part + (long long)blockIdx.y * a.bands;
  double sum = 0;
  for (long long i = first + threadIdx.x; i < end; i += blockDim.x) sum += (double)x[i] * (double)y[i];
  sum = block_sum(sum, part);
  if (threadIdx.x == 0) {
    bands[blockIdx.x] = sum;
    __threadfence();
    *last = atomicAdd(a.done + blockIdx.y, 1) == a.bands - 1;
  }
  __syncthreads();
  if (!*last) return;
  __threadfence();
  sum = 0;
  for (int i = threadIdx.x; i < a.bands; i += blockDim.x) sum += static_cast<volatile double*>(bands)[i];
  sum = block_sum(sum, part);
  if (threadIdx.x == 0) {
    a.dst[blockIdx.y] = (float)sum;
    a.done[blockIdx.y] = 0;  // for the next launch
  }
}
KERNEL_EXPORT(dot_f32)

// Row i of the matrix times a column of src, whose elements lie inner apart.
__device__ __forceinline__ float band_row(const band_args& a, const float* src, int i) {
  float sum = 0.f;
  src += a.first[i] * a.inner;
  for (int k = a.start[i]; k < a.start[i + 1]; k++, src += a.inner) sum = fmaf(a.weight[k], *src, sum);
  return sum;
}

// The first pass of Separable: dst [n][rows][inner] = matrix x src [n][cols][inner].
KERNEL(band_rows, band_args, 256) {
  long long i = thread_index();
  if (i >= a.count) return;
  long long in = i % a.inner, row = i / a.inner;
  a.dst[i] = band_row(a, a.src + row / a.rows * a.cols * a.inner + in, (int)(row % a.rows));
}
KERNEL_EXPORT(band_rows)

// The second pass, along the rows of pixels, with what follows it.
KERNEL(band_cols, band_args, 256) {
  long long i = thread_index();
  if (i >= a.count) return;
  int c = (int)(i % a.c), x = (int)(i / a.c % a.w);
  long long y = i / a.c / a.w;
  float u = band_row(a, a.src + y * a.cols * a.c + c, x);
  if (a.row_spectrum) u /= a.row_spectrum[y % a.h] * a.col_spectrum[x] + a.rho;
  u *= a.alpha;
  if (a.add) u += a.beta * a.add[i];
  a.dst[i] = u;
}
KERNEL_EXPORT(band_cols)

KERNEL(filter_f32, filter_args, 256) {
  long long i = thread_index();
  if (i >= a.count) return;
  int c = (int)(i % a.c), x = (int)(i / a.c % a.w), y = (int)(i / a.c / a.w % a.h);
  const float* src = a.src + (i / a.c / a.w / a.h) * a.h * a.w * a.c + c;
  float sum = 0.f;
  for (int k = 0; k < a.taps; k++)
    sum = fmaf(a.weight[k], src[((long long)mirror(y + a.dy[k], a.h) * a.w + mirror(x + a.dx[k], a.w)) * a.c], sum);
  sum *= a.alpha;
  if (a.add) sum += a.beta * a.add[i];
  a.dst[i] = sum;
}
KERNEL_EXPORT(filter_f32)

// The pixels q of [0,n) with mirror(q + d, n) = p: at most two, as the pixel p itself and its mirror image repeat with the
// same period, which is at least n.
__device__ __forceinline__ int mirrored(int p, int d, int n, int (&q)[2]) {
  if (n == 1) {
    q[0] = 0;
    return 1;
  }
  int period = 2 * (n - 1), count = 0;
  int at = (p - d) % period;
  if (at < 0) at += period;
  if (at < n) q[count++] = at;
  if (p == 0 || p == n - 1) return count;  // its own mirror image
  at = (-p - d) % period;
  if (at < 0) at += period;
  if (at < n) q[count++] = at;
  return count;
}

// The transpose of filter_f32, gathered: every pixel looks for those that read it.
KERNEL(filter_adjoint_f32, filter_args, 256) {
  long long i = thread_index();
  if (i >= a.count) return;
  int c = (int)(i % a.c), x = (int)(i / a.c % a.w), y = (int)(i / a.c / a.w % a.h);
  const float* src = a.src + (i / a.c / a.w / a.h) * a.h * a.w * a.c + c;
  float sum = 0.f;
  for (int k = 0; k < a.taps; k++) {
    int ys[2], xs[2];
    int rows = mirrored(y, a.dy[k], a.h, ys), cols = mirrored(x, a.dx[k], a.w, xs);
    for (int r = 0; r < rows; r++)
      for (int s = 0; s < cols; s++) sum = fmaf(a.weight[k], src[((long long)ys[r] * a.w + xs[s]) * a.c], sum);
  }
  sum *= a.alpha;
  if (a.add) sum += a.beta * a.add[i];
  a.dst[i] = sum;
}
KERNEL_EXPORT(filter_adjoint_f32)
