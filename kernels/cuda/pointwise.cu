// Operations whose elements do not meet: a thread for each element of the destination.
#include "device.cuh"

// The colours of a pixel as others, a thread for each pixel.
KERNEL(mix_f32, mix_args, PIXEL_BLOCK) {
  long long i = thread_index(block.x);
  if (i >= a.pixels) return;
  int cin = a.c[0] + a.c[1];
  float x[MIX_MOST];
#pragma unroll
  for (int k = 0; k < MIX_MOST; k++) x[k] = k < a.c[0] ? a.src[0][i * a.c[0] + k] : k < cin ? a.src[1][i * a.c[1] + k - a.c[0]] : 0.f;
  for (int o = 0; o < a.cout; o++) {
    float v = 0.f;
#pragma unroll
    for (int k = 0; k < MIX_MOST; k++)
      if (k < cin) v = fmaf(x[k], a.weight[k * a.cout + o], v);
    a.dst[i * a.cout + o] = a.bias ? v + a.bias[o] : v;
  }
}
KERNEL_EXPORT(mix_f32)

template <class T>
__device__ __forceinline__ void geglu(const geglu_args& a, dim3 block) {
  long long i = thread_index(block.x);
  if (i >= a.count) return;
  const T* s = static_cast<const T*>(a.src) + i / a.c * 2 * a.c + i % a.c;
  put(static_cast<T*>(a.dst)[i], to_float(s[0]) * to_float(s[a.c]) * normcdff(to_float(s[a.c])));
}
KERNEL(geglu_f32, geglu_args, 256) { geglu<float>(a, block); }
KERNEL_EXPORT(geglu_f32)
KERNEL(geglu_f16, geglu_args, 256) { geglu<half>(a, block); }
KERNEL_EXPORT(geglu_f16)

// From S to D: at twice or half the size, or the same.
template <class D, class S>
__device__ __forceinline__ void resample(const resample_args& a, dim3 block) {
  long long i = thread_index(block.x);
  if (i >= a.count) return;
  const S* src = static_cast<const S*>(a.src);
  D& dst = static_cast<D*>(a.dst)[i];
  int c = (int)(i % a.c), x = (int)(i / a.c % a.w);
  long long y = i / a.c / a.w;  // row of all images, whose number of rows is even on either side of a halving
  if (a.sampling == SAMPLE_SAME) {
    put(dst, to_float(src[i]));
  } else if (a.sampling == SAMPLE_UP2) {
    put(dst, to_float(src[((y >> 1) * (a.w >> 1) + (x >> 1)) * a.c + c]));
  } else {
    long long row = 2ll * a.w * a.c;
    const S* s = src + 2 * y * row + 2ll * x * a.c + c;
    put(dst, 0.25f * (to_float(s[0]) + to_float(s[a.c]) + to_float(s[row]) + to_float(s[row + a.c])));
  }
}
#define RESAMPLE(name, D, S)                                     \
  KERNEL(name, resample_args, 256) { resample<D, S>(a, block); } \
  KERNEL_EXPORT(name)

RESAMPLE(resample_f32, float, float)
RESAMPLE(resample_f16, half, half)
RESAMPLE(resample_f16_f32, half, float)
RESAMPLE(resample_f32_f16, float, half)

// Shared memory of a kernel that gathers: GATHER_ROOM bytes where there are sums.
KERNEL(blend_f32, blend_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  Elements at(a.e, block.x);
  for (long long i = at.i; i < at.end; i += blockDim.x) {
    long long in = i - at.n * a.e.image;
    float sum = 0.f;
    if (a.mask && repeated(a.mask, a.mask_n, a.mask_c, at.n, in, a.e.image, a.c) == 0.f) {
      if (a.other) sum = a.other[i];
    } else {
#pragma unroll
      for (int k = 0; k < 4; k++) {
        if (k >= a.terms) break;
        const blend_term& t = a.term[k];
        float f = t.factor;
        if (t.num) f = t.den[at.n] == 0.f ? 0.f : f * (t.num[at.n] / t.den[at.n]);
        sum = fmaf(f, repeated(t.x, t.n, t.c, at.n, in, a.e.image, a.c), sum);
      }
      if (a.clip) sum = sum > 1.f ? 1.f : sum < -1.f ? -1.f : sum;  // a NaN stays one
    }
    a.dst[i] = sum;
    at.gather(i, sum, a.dst);
  }
  at.join(shared);
}
KERNEL_EXPORT(blend_f32)

// Shared memory: two floats.
KERNEL(conjugate_f32, conjugate_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  float* step = reinterpret_cast<float*>(shared);  // alpha and beta
  Elements at(a.e, block.x);
  if (threadIdx.x == 0) {
    const float* sums = a.sums + at.n * a.kinds;
    double kappa = sums[0], zr = sums[1], beta = 0;
    if (a.before) {
      const float* before = a.before + 2 * at.n;
      beta = before[0] == 0.f ? 0 : zr / before[0];
      kappa += beta * (2 * (double)sums[2] + beta * before[1]);
    }
    step[0] = (float)(kappa == 0 ? 0 : zr / kappa);
    step[1] = (float)beta;
    if (at.block == 0) {
      a.after[2 * at.n] = sums[1];
      a.after[2 * at.n + 1] = (float)kappa;
    }
  }
  __syncthreads();
  float alpha = step[0], beta = step[1];
  for (long long i = at.i; i < at.end; i += blockDim.x) {
    float p = a.z[i], s = a.w[i];
    if (a.before) {
      p = fmaf(beta, a.p[i], p);
      s = fmaf(beta, a.s[i], s);
    }
    a.p[i] = p;
    a.s[i] = s;
    a.x[i] = fmaf(alpha, p, a.x[i]);
    a.r[i] = fmaf(-alpha, s, a.r[i]);
  }
}
KERNEL_EXPORT(conjugate_f32)

__device__ __forceinline__ bool stops(const float* loss, const float* counts, float limit, long long n) {
  return loss && loss[n] <= (counts ? limit * counts[n] : limit);
}

// The residual of a local data term at element i, where the picture is x.
__device__ __forceinline__ float residual(const local_args& l, const Elements& at, long long i, float x) {
  if (l.mask && repeated(l.mask, l.mask_n, l.mask_c, at.n, i - at.n * at.e.image, at.e.image, l.c) == 0.f) return 0.f;
  float y = l.y[i], r = fmaf(l.gain, x, -y);
  if (y >= l.high && r > 0.f) r = 0.f;
  if (y <= l.low && r < 0.f) r = 0.f;
  return r;
}

KERNEL(accelerate_f32, accelerate_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  Elements at(a.e, block.x);
  if (stops(a.loss, a.counts, a.limit, at.n)) return;
  for (long long i = at.i; i < at.end; i += blockDim.x) {
    float z = a.z[i], grad = a.local.y ? a.local.gain * residual(a.local, at, i, z) : a.grad[i];
    float x = z - a.step * (grad + a.rho * (z - a.x0[i]));
    a.z[i] = x + a.momentum * (x - a.x[i]);
    a.x[i] = x;
    if (!a.e.sums) continue;
    double r = residual(a.local, at, i, x);
    at.sum[0] = fma(r, r, at.sum[0]);
  }
  at.join(shared);
}
KERNEL_EXPORT(accelerate_f32)

KERNEL(adam_f32, adam_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  Elements at(a.e, block.x);
  if (stops(a.loss, a.counts, a.limit, at.n)) return;
  for (long long i = at.i; i < at.end; i += blockDim.x) {
    float x = a.x[i], grad = a.local.y ? a.local.gain * residual(a.local, at, i, x) : a.grad[i];
    float g = grad + a.rho * (x - a.x0[i]);
    float m = 0.9f * a.m[i] + 0.1f * g, v = 0.999f * a.v[i] + 0.001f * (g * g);
    a.m[i] = m;
    a.v[i] = v;
    x -= a.rate * (m / a.bias1) / (sqrtf(v / a.bias2) + 1e-8f);
    a.x[i] = x;
    if (!a.e.sums) continue;
    double r = residual(a.local, at, i, x);
    at.sum[0] = fma(r, r, at.sum[0]);
  }
  at.join(shared);
}
KERNEL_EXPORT(adam_f32)

// The absolute value of x + iy, whose squares may be out of range.
__device__ __forceinline__ float absolute(float x, float y) {
  x = fabsf(x);
  y = fabsf(y);
  float large = x > y ? x : y, t = (x > y ? y : x) / large;
  return large == 0.f ? x + y : large * sqrtf(fmaf(t, t, 1.f));  // the sum, as one of them may be NaN
}

KERNEL(pointwise_f32, pointwise_args, PIXEL_BLOCK) {
  long long i = thread_index(block.x);
  if (i >= a.count) return;
  float b = 0.f;
  if (a.b) {
    long long n = i / a.image, pixel = (i - n * a.image) / a.c;
    int c = (int)(i % a.c);
    b = a.b[((a.b_n == 1 ? 0 : n) * (a.image / a.c) + pixel) * a.b_c + (a.b_c == 1 ? 0 : c)];
  }
  bool wide = a.op == POINT_REAL || a.op == POINT_ABS || a.op == POINT_PHASE;
  float x = wide ? a.a[2 * i] : a.a[i], y = wide ? a.a[2 * i + 1] : 0.f;
  switch (a.op) {
    case POINT_MUL: x *= b; break;
    case POINT_CLIP: x = x < a.p ? a.p : x > a.q ? a.q : x; break;
    case POINT_ROUND: x = (float)(a.q + a.p * rint(((double)x - a.q) / a.p)); break;
    case POINT_POWER: x = powf(x < a.p ? a.p : x, a.q); break;
    case POINT_WITHIN: x = x >= a.p && x <= a.q ? 1.f : 0.f; break;
    case POINT_SATURATE:
      x -= b;
      if (b >= a.q && x > 0.f) x = 0.f;
      if (b <= a.p && x < 0.f) x = 0.f;
      break;
    case POINT_ABS: x = absolute(x, y); break;
    case POINT_PHASE: {
      float size = absolute(x, y);
      b /= size < a.p ? a.p : size;
      x *= b;
      y *= b;
      break;
    }
    case POINT_COMPLEX: y = b; break;
  }
  if (a.op == POINT_COMPLEX || a.op == POINT_PHASE) {
    a.dst[2 * i] = x;
    a.dst[2 * i + 1] = y;
  } else {
    a.dst[i] = x;
  }
}
KERNEL_EXPORT(pointwise_f32)
