// The fused steps of the solver's corrections: sums, banded matrices and small filters, as the formula says it, a thread for
// each element of the destination.
#include "device.cuh"

// Sums of products in F64.
KERNEL(dot_f32, dot_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  Elements at(a.e, block.x);
  for (long long i = at.i; i < at.end; i += blockDim.x) at.gather(i, a.b[i], nullptr);
  at.join(shared);
}
KERNEL_EXPORT(dot_f32)

// Row i of a matrix times a column of src, whose elements lie inner apart.
__device__ __forceinline__ float band_row(const band& m, const float* src, long long inner, int i) {
  float sum = 0.f;
  src += m.first[i] * inner;
  for (int k = m.start[i]; k < m.start[i + 1]; k++, src += inner) sum = fmaf(m.weight[k], *src, sum);
  return sum;
}

// What follows the maps of Separable, for element o of dst, whose row and column are y and x.
__device__ __forceinline__ float band_end(const band_args& a, float u, long long o, long long y, int x) {
  if (a.row_spectrum) u /= a.row_spectrum[y] * a.col_spectrum[x] + a.rho;
  u *= a.alpha;
  return a.add ? u + a.beta * a.add[o] : u;
}

// Separable in one pass, where a row of src fits into shared memory: a block makes a row of dst. Shared memory: GATHER_ROOM
// bytes, and a row of src.
KERNEL(separable_f32, band_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  float* line = reinterpret_cast<float*>(shared + GATHER_ROOM);
  Elements at(a.e, block.x);
  int y = at.block, width = a.m.cols * a.c;
  const float* src = a.src + at.n * a.rows.cols * width;
  for (int j = threadIdx.x; j < width; j += blockDim.x) line[j] = band_row(a.rows, src + j, width, y);
  __syncthreads();
  for (long long i = at.i, o = threadIdx.x; i < at.end; i += blockDim.x, o += blockDim.x) {
    int x = (int)(o / a.c);
    float v = band_end(a, band_row(a.m, line + o % a.c, a.c, x), i, y, x);
    a.dst[i] = v;
    at.gather(i, v, a.dst);
  }
  at.join(shared);
}
KERNEL_EXPORT(separable_f32)

// The first pass of Separable: dst [n][rows][inner] = matrix x src [n][cols][inner].
KERNEL(band_rows, band_args, PIXEL_BLOCK) {
  long long i = thread_index(block.x);
  if (i >= a.count) return;
  long long in = i % a.inner, row = i / a.inner;
  a.dst[i] = band_row(a.m, a.src + row / a.m.rows * a.m.cols * a.inner + in, a.inner, (int)(row % a.m.rows));
}
KERNEL_EXPORT(band_rows)

// The second pass, along the rows of pixels, with what follows it.
KERNEL(band_cols, band_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  Elements at(a.e, block.x);
  for (long long i = at.i; i < at.end; i += blockDim.x) {
    int x = (int)(i / a.c % a.w);
    long long y = i / a.c / a.w;
    float v = band_end(a, band_row(a.m, a.src + y * a.m.cols * a.c + i % a.c, a.c, x), i, y % a.h, x);
    a.dst[i] = v;
    at.gather(i, v, a.dst);
  }
  at.join(shared);
}
KERNEL_EXPORT(band_cols)

// Filters: sum(src, y, x) is that of the taps for pixel (y, x), where src is the channel's first number. Shared memory: GATHER_ROOM
// bytes where there are sums.
template <class Sum>
__device__ __forceinline__ void filtered(const filter_args& a, unsigned block, Sum sum) {
  DYNAMIC_SHARED(shared);
  Elements at(a.e, block);
  const float* image = a.src + at.n * a.e.image;
  for (long long i = at.i; i < at.end; i += blockDim.x) {
    float v = a.alpha * sum(image + i % a.c, (int)(i / a.c / a.w % a.h), (int)(i / a.c % a.w));
    if (a.add) v += a.beta * a.add[i];
    a.dst[i] = v;
    at.gather(i, v, a.dst);
  }
  at.join(shared);
}

KERNEL(filter_f32, filter_args, PIXEL_BLOCK) {
  filtered(a, block.x, [&](const float* src, int y, int x) {
    float sum = 0.f;
    for (int k = 0; k < a.taps; k++)
      sum = fmaf(a.weight[k], src[((long long)mirror(y + a.dy[k], a.h) * a.w + mirror(x + a.dx[k], a.w)) * a.c], sum);
    return sum;
  });
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
KERNEL(filter_adjoint_f32, filter_args, PIXEL_BLOCK) {
  filtered(a, block.x, [&](const float* src, int y, int x) {
    float sum = 0.f;
    for (int k = 0; k < a.taps; k++) {
      int ys[2], xs[2];
      int rows = mirrored(y, a.dy[k], a.h, ys), cols = mirrored(x, a.dx[k], a.w, xs);
      for (int r = 0; r < rows; r++)
        for (int s = 0; s < cols; s++) sum = fmaf(a.weight[k], src[((long long)ys[r] * a.w + xs[s]) * a.c], sum);
    }
    return sum;
  });
}
KERNEL_EXPORT(filter_adjoint_f32)
