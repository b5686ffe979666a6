// Discrete Fourier transforms by Stockham's autosort: complex elements [n][lines] lie in shared memory, and a pass of radix r
// takes those of one half of it to the other,
//
//   y[q + s (r p + k)] = exp(-2 pi i p k s/(lines n)) * sum over j of exp(-2 pi i jk/r) x[q + s (p + m j)],
//
// where s is lines times the radices before and m = n lines / (r s). Exchanged real and imaginary parts give the inverse. Radices 2,
// 3, 4, 5, 7 and 8 have a butterfly in registers; other primes are plain sums. What does not fit into shared memory takes a
// launch of dft_f32 for each radix.
#include "device.cuh"

__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ float2 operator-(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ __forceinline__ float2 times(float2 a, float2 b) { return make_float2(fmaf(a.x, b.x, -(a.y * b.y)), fmaf(a.x, b.y, a.y * b.x)); }
__device__ __forceinline__ float2 swapped(float2 a) { return make_float2(a.y, a.x); }

__device__ __forceinline__ void fourth(float2& a, float2& b, float2& c, float2& d) {
  float2 s = a + c, u = a - c, t = b + d, e = b - d;
  a = s + t;
  b = make_float2(u.x + e.y, u.y - e.x);
  c = s - t;
  d = make_float2(u.x - e.y, u.y + e.x);
}

// The transform of R elements in place. For odd R, with s and d the sums and differences of elements k and R-k, elements j
// and R-j of the result are z[0] + sum s cos(2 pi jk/R) -+ i sum d sin(2 pi jk/R).
template <int R>
__device__ __forceinline__ void small(float2 (&z)[R], const float2* table, int n) {
  if constexpr (R == 2) {
    float2 d = z[0] - z[1];
    z[0] = z[0] + z[1];
    z[1] = d;
  } else if constexpr (R == 4) {
    fourth(z[0], z[1], z[2], z[3]);
  } else if constexpr (R == 8) {
    const float h = 0.70710678118654752440f;
    fourth(z[0], z[2], z[4], z[6]);
    fourth(z[1], z[3], z[5], z[7]);
    float2 even[4] = {z[0], z[2], z[4], z[6]};
    float2 odd[4] = {z[1], make_float2((z[3].x + z[3].y) * h, (z[3].y - z[3].x) * h), make_float2(z[5].y, -z[5].x),
                     make_float2((z[7].y - z[7].x) * h, (z[7].y + z[7].x) * -h)};
#pragma unroll
    for (int k = 0; k < 4; k++) {
      z[k] = even[k] + odd[k];
      z[k + 4] = even[k] - odd[k];
    }
  } else {
    constexpr int H = R / 2;
    float2 s[H], d[H], first = z[0];
#pragma unroll
    for (int k = 0; k < H; k++) {
      s[k] = z[k + 1] + z[R - 1 - k];
      d[k] = z[k + 1] - z[R - 1 - k];
      z[0] = z[0] + s[k];
    }
#pragma unroll
    for (int j = 1; j <= H; j++) {
      float2 c = first, e = make_float2(0.f, 0.f);
#pragma unroll
      for (int k = 0; k < H; k++) {
        float2 w = table[j * (k + 1) % R * (n / R)];
        c = make_float2(fmaf(s[k].x, w.x, c.x), fmaf(s[k].y, w.x, c.y));
        e = make_float2(fmaf(d[k].x, -w.y, e.x), fmaf(d[k].y, -w.y, e.y));
      }
      z[j] = make_float2(c.x + e.y, c.y - e.x);
      z[R - j] = make_float2(c.x - e.y, c.y + e.x);
    }
  }
}

template <int R>
__device__ __forceinline__ void fft_radix(const float2* x, float2* y, const float2* table, int n, int m, int s, int lines) {
  for (int b = threadIdx.x; b < m * s; b += blockDim.x) {
    int p = b / s;
    float2 z[R];
#pragma unroll
    for (int k = 0; k < R; k++) z[k] = x[b + k * m * s];
    small<R>(z, table, n);
    float2* to = y + b + p * s * (R - 1);
    int turn = p * (s / lines);
    to[0] = z[0];
#pragma unroll
    for (int k = 1; k < R; k++) to[k * s] = times(z[k], table[k * turn]);
  }
}

constexpr int kDftRun = 32;  // terms that dft_sum sums in F32

// Element k of a transform of r elements, turned by p: the plain sum, in runs in F32 that are joined in F64, as sums of
// many terms in F32 round far more than a fast transform does, above all where they are large before they cancel.
template <class Load>
__device__ __forceinline__ float2 dft_sum(Load load, const float2* table, int n, int r, int k, long long turn, float sign) {
  int at = (int)(turn * k % n), step = (int)((long long)k * (n / r) % n);
  double re = 0, im = 0;
  for (int j = 0; j < r;) {
    float2 sum = make_float2(0.f, 0.f);
    for (int end = j + kDftRun < r ? j + kDftRun : r; j < end; j++) {
      float2 w = table[at], z = load(j);
      w.y *= sign;
      sum.x = fmaf(w.x, z.x, fmaf(-w.y, z.y, sum.x));
      sum.y = fmaf(w.x, z.y, fmaf(w.y, z.x, sum.y));
      at += step;
      if (at >= n) at -= n;
    }
    re += sum.x;
    im += sum.y;
  }
  return make_float2((float)re, (float)im);
}

// All passes over [n][lines] in x, with y as the other half. It returns where the result is. The block has met before and meets
// after it.
__device__ __forceinline__ float2* fft(float2* x, float2* y, const fft_plan& f, int lines) {
  const float2* table = reinterpret_cast<const float2*>(f.table);
  int n = f.n, m = n, s = lines;
  for (int i = 0; i < f.stages; i++) {
    int r = f.radix[i];
    m /= r;
    switch (r) {
      case 2: fft_radix<2>(x, y, table, n, m, s, lines); break;
      case 3: fft_radix<3>(x, y, table, n, m, s, lines); break;
      case 4: fft_radix<4>(x, y, table, n, m, s, lines); break;
      case 5: fft_radix<5>(x, y, table, n, m, s, lines); break;
      case 7: fft_radix<7>(x, y, table, n, m, s, lines); break;
      case 8: fft_radix<8>(x, y, table, n, m, s, lines); break;
      default:
        for (int o = threadIdx.x; o < n * lines; o += blockDim.x) {
          int p = o / (s * r), q = o % s;
          const float2* first = x + q + s * p;
          y[o] = dft_sum([=](int j) { return first[j * m * s]; }, table, n, r, o / s % r, (long long)p * (s / lines), 1.f);
        }
    }
    __syncthreads();
    s *= r;
    float2* t = x;
    x = y;
    y = t;
  }
  return x;
}

// Tile is the elements of a block of fft_f32: neighbouring lines, or where those are few, all lines of some outers.
struct Tile {
  int n, lines;
  long long inner, outers, outer, first;
  bool few;
  __device__ __forceinline__ Tile(const fft_args& a, unsigned block)
      : n(a.plan.n), lines(a.lines), inner(a.inner), outers(a.outer), outer(block), first(0), few(a.inner < a.lines) {
    if (few) {
      outer *= lines / inner;
    } else {
      long long tiles = (inner + lines - 1) / lines;
      first = outer % tiles * lines;
      outer /= tiles;
    }
  }
  // place is where element i lies, in the order of memory, -1 for nowhere; to is its place in shared memory.
  __device__ __forceinline__ long long place(int i, int& to) const {
    if (few) {
      int c = (int)inner, g = i / (n * c);
      to = i / c % n * lines + g * c + i % c;
      return outer + g < outers ? outer * n * inner + i : -1;
    }
    to = i;
    long long in = first + i % lines;
    return in < inner ? (outer * n + i / lines) * inner + in : -1;
  }
};

// Shared memory: twice [n][lines] complex elements.
KERNEL(fft_f32, fft_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  float2* x = reinterpret_cast<float2*>(shared);
  const Tile tile(a, block.x);
  int size = tile.n * tile.lines;
  const float2* src = reinterpret_cast<const float2*>(a.src);
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    int to;
    long long from = tile.place(i, to);
    float2 z = from < 0 ? make_float2(0.f, 0.f) : src[from];
    x[to] = a.inverse ? swapped(z) : z;
  }
  __syncthreads();
  x = fft(x, x + size, a.plan, tile.lines);
  float2* dst = reinterpret_cast<float2*>(a.dst);
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    int from;
    long long to = tile.place(i, from);
    if (to < 0) continue;
    float2 z = a.inverse ? swapped(x[from]) : x[from];
    dst[to] = make_float2(a.scale * z.x, a.scale * z.y);
  }
}
KERNEL_EXPORT(fft_f32)

// One radix in the device's memory, a thread for each element. dst must not be src. For Deconvolve it reads and writes real
// numbers, and divides by a squared spectrum.
KERNEL(dft_f32, dft_args, PIXEL_BLOCK) {
  long long i = thread_index(block.x);
  if (i >= a.count) return;
  long long size = a.n * a.inner, s = a.inner * a.before, o = i % size, p = o / (s * a.radix);
  long long first = i - o + o % s + s * p, stride = size / a.radix;
  const float* src = a.src;
  bool real = a.real_src;
  float2 z = dft_sum(
      [=](int j) {
        long long from = first + j * stride;
        return real ? make_float2(src[from], 0.f) : reinterpret_cast<const float2*>(src)[from];
      },
      reinterpret_cast<const float2*>(a.table), a.n, a.radix, (int)(o / s % a.radix), p * a.before, a.inverse ? -1.f : 1.f);
  float by = a.scale;
  if (a.over) {
    float2 k = reinterpret_cast<const float2*>(a.over)[i / a.over_inner % a.size];
    by /= k.x * k.x + k.y * k.y + a.rho;
  }
  if (a.real_dst) {
    a.dst[i] = by * z.x;
  } else {
    reinterpret_cast<float2*>(a.dst)[i] = make_float2(by * z.x, by * z.y);
  }
}
KERNEL_EXPORT(dft_f32)

// The pixel of n that place i of the circle mirrors, and with what weight; -1 for none.
__device__ __forceinline__ int pixel(const circle_args& a, int i, int n, float& weight) {
  weight = 1.f;
  if (!a.fade) return i < a.in_span ? mirror(i - a.in_margin, n) : -1;
  weight = a.weight[i];
  int at = i < n - 1 + a.fade ? i : i - a.plan.n;
  return at > -a.fade ? mirror(at, n) : -1;
}

// The sum over all places of a circle that mirror pixel p of n. Its elements lie per apart.
__device__ __forceinline__ float2 fold(const circle_args& a, const float2* x, int per, int p, int n) {
  float2 sum = make_float2(0.f, 0.f);
  if (a.fade) {
    auto add = [&](int i) { sum = make_float2(fmaf(a.weight[i], x[i * per].x, sum.x), fmaf(a.weight[i], x[i * per].y, sum.y)); };
    add(p);
    if (p < n - 1 && n - 1 - p < a.fade) add(2 * (n - 1) - p);
    if (p > 0 && p < a.fade) add(a.plan.n - p);
    return sum;
  }
  int period = n == 1 ? 1 : 2 * (n - 1);
  for (int i = (p + a.out_margin) % period; i < a.out_span; i += period) sum = sum + x[i * per];
  if (p == 0 || p == n - 1) return sum;  // its own mirror image
  for (int i = (period - p + a.out_margin) % period; i < a.out_span; i += period) sum = sum + x[i * per];
  return sum;
}

// Lays rows of the image on circles and transforms them. A line is one plane of one row.
KERNEL(circle_in_f32, circle_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  float2* x = reinterpret_cast<float2*>(shared);
  int n = a.plan.n, per = a.per, size = n * per;
  long long first = (long long)block.x * per;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    int j = i / n, at = i % n, c = (int)((first + j) % a.planes) * 2;
    float2 z = make_float2(0.f, 0.f);
    float weight;
    int from = pixel(a, at, a.w, weight);
    if (first + j < a.lines && from >= 0) {
      const float* p = a.src + ((first + j) / a.planes * a.w + from) * a.c + c;
      z = make_float2(weight * p[0], c + 1 < a.c ? weight * p[1] : 0.f);
    }
    x[at * per + j] = z;
  }
  __syncthreads();
  x = fft(x, x + size, a.plan, per);
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    int j = i / n, at = i % n;
    if (first + j >= a.lines) break;
    long long row = (first + j) / a.planes, plane = row / a.h * a.planes + (first + j) % a.planes;
    reinterpret_cast<float2*>(a.dst)[(plane * a.h + row % a.h) * n + at] = x[at * per + j];
  }
}
KERNEL_EXPORT(circle_in_f32)

// Lays columns of the frame on circles, transforms them, does with the kernel's spectrum what is to be done, transforms
// back, and folds the circles onto the columns. dst is src.
KERNEL(circle_columns_f32, circle_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  float2* x = reinterpret_cast<float2*>(shared);
  int n = a.plan.n, per = a.per, size = n * per, tiles = (a.width + per - 1) / per, first = (int)(block.x % tiles) * per;
  float2* frame = reinterpret_cast<float2*>(a.dst) + block.x / tiles * (long long)a.h * a.width + first;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    int j = i % per;
    float weight;
    int from = pixel(a, i / per, a.h, weight);
    float2 z = first + j < a.width && from >= 0 ? frame[(long long)from * a.width + j] : make_float2(0.f, 0.f);
    x[i] = make_float2(weight * z.x, weight * z.y);
  }
  __syncthreads();
  float2* y = x + size;
  for (int back = 0; back < 2; back++) {
    float2* z = fft(x, y, a.plan, per);
    if (z == y) {
      y = x;
      x = z;
    }
    if (back) break;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
      if (first + i % per >= a.width) continue;  // of no column
      float2 k = reinterpret_cast<const float2*>(a.spectrum)[(long long)(i / per) * a.width + first + i % per], v = x[i];
      if (a.how == OVER_SQUARE) {
        float by = 1.f / (k.x * k.x + k.y * k.y + a.rho);
        v = make_float2(v.x * by, v.y * by);
      } else {
        if (a.how == TIMES_CONJUGATE) k.y = -k.y;
        v = times(v, k);
      }
      x[i] = swapped(v);
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < a.h * per; i += blockDim.x) {
    int p = i / per, j = i % per;
    if (first + j >= a.width) continue;
    frame[(long long)p * a.width + j] = swapped(fold(a, x + j, per, p, a.h));
  }
}
KERNEL_EXPORT(circle_columns_f32)

// Transforms rows of the frame back and folds them onto rows of the image: dst = alpha * rows + beta * add. A block's rows are of
// one image. Sums take the place of what was transformed.
KERNEL(circle_out_f32, circle_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  float2* x = reinterpret_cast<float2*>(shared);
  int n = a.plan.n, per = a.per, size = n * per;
  Elements at(a.e, block.x);
  long long first = at.n * a.lines + (long long)at.block * per, end = (at.n + 1) * a.lines;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    int j = i / n, p = i % n;
    float2 z = make_float2(0.f, 0.f);
    if (first + j < end) {
      long long row = (first + j) / a.planes, plane = row / a.h * a.planes + (first + j) % a.planes;
      z = reinterpret_cast<const float2*>(a.src)[(plane * a.h + row % a.h) * n + p];
    }
    x[p * per + j] = swapped(z);
  }
  __syncthreads();
  x = fft(x, x + size, a.plan, per);
  for (int i = threadIdx.x; i < a.w * per; i += blockDim.x) {
    int j = i / a.w, p = i % a.w, c = (int)((first + j) % a.planes) * 2;
    if (first + j >= end) break;
    float2 z = swapped(fold(a, x + j, per, p, a.w));
    long long to = ((first + j) / a.planes * a.w + p) * a.c + c;
    float v = a.add ? fmaf(a.alpha, z.x, a.beta * a.add[to]) : a.alpha * z.x;
    a.dst[to] = v;
    at.gather(to, v, a.dst);
    if (c + 1 >= a.c) continue;
    v = a.add ? fmaf(a.alpha, z.y, a.beta * a.add[to + 1]) : a.alpha * z.y;
    a.dst[to + 1] = v;
    at.gather(to + 1, v, a.dst);
  }
  __syncthreads();
  at.join(shared);
}
KERNEL_EXPORT(circle_out_f32)
