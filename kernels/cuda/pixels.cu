// The fused steps of the solver's corrections: sums, banded matrices, filters and Fourier transforms, all as the formula
// says it, a thread for each element of the destination.
#include "device.cuh"

constexpr int kDotBand = 16384;  // elements of a block of dot_part

// Sums of products in F64, by bands. Shared memory: 32 doubles.
KERNEL(dot_part, dot_args, 256) {
  DYNAMIC_SHARED(shared);
  long long first = (long long)blockIdx.x * kDotBand, end = first + kDotBand < a.image ? first + kDotBand : a.image;
  const float *x = a.a + blockIdx.y * a.image, *y = a.b + blockIdx.y * a.image;
  double sum = 0;
  for (long long i = first + threadIdx.x; i < end; i += blockDim.x) sum += (double)x[i] * (double)y[i];
  sum = block_sum(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) a.part[(long long)blockIdx.y * a.bands + blockIdx.x] = sum;
}
KERNEL_EXPORT(dot_part)

// Joins the bands of one image: a block for each.
KERNEL(dot_join, dot_args, 256) {
  DYNAMIC_SHARED(shared);
  const double* part = a.part + (long long)blockIdx.x * a.bands;
  double sum = 0;
  for (int i = threadIdx.x; i < a.bands; i += blockDim.x) sum += part[i];
  sum = block_sum(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) a.dst[blockIdx.x] = (float)sum;
}
KERNEL_EXPORT(dot_join)

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

// Any index folded into [0,n) by reflection at the centres of the first and the last pixel.
__device__ __forceinline__ int mirror(int i, int n) {
  if (n == 1) return 0;
  int period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < period - i ? i : period - i;
}

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

constexpr int kDftRun = 32;  // terms that dft_f32 sums in F32

// One dimension of a Fourier transform as the plain sum: runs in F32, which are joined in F64, as sums of many terms in F32
// round far more than a fast transform does, above all where they are large before they cancel. Elements of a transform lie step floats apart; element i of dst
// is number i / (step/2) % n of its transform. dst must not be src. For Deconvolve it reads and writes real numbers, and
// divides by a squared spectrum.
KERNEL(dft_f32, dft_args, 256) {
  long long i = thread_index();
  if (i >= a.count) return;
  long long half = a.step / 2, line = i / half / a.n;
  int k = (int)(i / half % a.n);
  const float* src = a.src + (a.real_src ? 1 : 2) * (line * a.n * half + i % half);
  long long step = a.real_src ? half : a.step;
  float sign = a.inverse ? -1.f : 1.f;
  double sums[2] = {0, 0};
  for (int j = 0, at = 0; j < a.n;) {  // at = j k mod n
    float re = 0.f, im = 0.f;
    for (int end = j + kDftRun < a.n ? j + kDftRun : a.n; j < end; j++) {
      float c = a.table[2 * at], s = sign * a.table[2 * at + 1], x = src[j * step], y = a.real_src ? 0.f : src[j * step + 1];
      re = fmaf(c, x, fmaf(-s, y, re));
      im = fmaf(c, y, fmaf(s, x, im));
      at += k;
      if (at >= a.n) at -= a.n;
    }
    sums[0] += re;
    sums[1] += im;
  }
  float re = a.scale * (float)sums[0], im = a.scale * (float)sums[1];
  if (a.real_dst) {
    a.dst[i] = re;
    return;
  }
  float by = a.over ? a.over[i / a.width % a.size] + a.rho : 1.f;
  a.dst[2 * i] = re / by;
  a.dst[2 * i + 1] = im / by;
}
KERNEL_EXPORT(dft_f32)

// |k|^2 for the transform k of a filter laid on an image of h x w pixels, as often around it as it is large: a sum over its
// taps for each frequency.
KERNEL(power_f32, power_args, 256) {
  long long i = thread_index();
  if (i >= (long long)a.h * a.w) return;
  long long x = i % a.w, y = i / a.w;
  double re = 0, im = 0;
  for (int k = 0; k < a.taps; k++) {
    long long p = x * a.dx[k] % a.w, q = y * a.dy[k] % a.h;
    if (p < 0) p += a.w;
    if (q < 0) q += a.h;
    double c = a.rows[2 * p], s = a.rows[2 * p + 1], d = a.cols[2 * q], t = a.cols[2 * q + 1];
    re += a.weight[k] * (c * d - s * t);
    im += a.weight[k] * (c * t + s * d);
  }
  a.dst[i] = (float)(re * re + im * im);
}
KERNEL_EXPORT(power_f32)
