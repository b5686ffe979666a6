// Group normalisation, for the kernel of that name and for convolutions whose last block makes it.
#pragma once
#include "device.cuh"

// Mean and squared deviations of channel c of image n.
__device__ __forceinline__ void norm_moments(const norm_args& a, int n, int c, double& mean, double& m2) {
  const float* m = a.m[0];
  int width = a.c[0];
  if (c >= width) {
    c -= width;
    m = a.m[1];
    width = a.c[1];
  }
  m += 2ll * n * width + c;
  mean = m[0];
  m2 = m[width];
}

// The sum over neighbouring lanes, a power of two.
__device__ __forceinline__ double lanes_sum(double v, int lanes) {
  for (int o = lanes >> 1; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

constexpr int kNormThreads = 128;

// The affine form for image n, by the first kNormThreads threads of a block, which share the groups out: some neighbouring
// lanes have one. Whoever calls it, the order of the sums is the same.
__device__ __forceinline__ void norm_image(const norm_args& a, int n) {
  int t = threadIdx.x, lanes = 32;
  if (t >= kNormThreads) return;
  while (lanes > 1 && lanes * a.groups > kNormThreads) lanes >>= 1;
  int c = a.c[0] + a.c[1], width = c / a.groups, lane = t & (lanes - 1);
  const float* mod = a.modulate ? a.modulate + (a.modulates == 1 ? 0ll : 2ll * n * c) : nullptr;
  for (int g0 = 0; g0 < a.groups; g0 += kNormThreads / lanes) {
    int g = g0 + t / lanes, first = g * width + lane, end = g < a.groups ? (g + 1) * width : 0;  // all lanes take part in the sums
    double mu = 0, dev = 0, mean, m2;
    for (int k = first; k < end; k += lanes) {
      norm_moments(a, n, k, mean, m2);
      mu += mean;
    }
    mu = lanes_sum(mu, lanes) / width;
    for (int k = first; k < end; k += lanes) {
      norm_moments(a, n, k, mean, m2);
      dev += m2 + (double)a.pixels * (mean - mu) * (mean - mu);
    }
    double inv = 1.0 / sqrt(lanes_sum(dev, lanes) / ((double)a.pixels * width) + (double)a.eps);
    for (int k = first; k < end; k += lanes) {
      double scale = a.gamma[k] * inv, offset = a.beta[k] - mu * scale;
      if (mod) {
        double s = 1.0 + (double)mod[k];
        scale *= s;
        offset = offset * s + (double)mod[c + k];
      }
      float* out = a.dst + 2ll * n * c + k;
      out[0] = (float)scale;
      out[c] = (float)offset;
    }
  }
}
