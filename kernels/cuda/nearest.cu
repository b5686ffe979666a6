// The nearest code vector: a warp for each pixel, a lane for every 32nd vector. Equal vectors have equal sums, and of
// those the least number wins, whichever lane has it.
#include "device.cuh"

KERNEL(nearest_f32, nearest_args, 256) {
  long long p = thread_index(block.x) >> 5;
  int lane = threadIdx.x & 31;
  if (p >= a.pixels) return;  // whole warps
  const float* x = a.x + p * a.dim;
  float least = infinity();
  int best = a.count;
  for (int k = lane; k < a.count; k += 32) {
    float sum = 0.f;
    for (int c = 0; c < a.dim; c++) {
      float d = x[c] - a.codes[(long long)c * a.count + k];
      sum = fmaf(d, d, sum);
    }
    if (sum < least) {
      least = sum;
      best = k;
    }
  }
  for (int o = 16; o > 0; o >>= 1) {
    float sum = __shfl_xor_sync(0xffffffffu, least, o);
    int k = __shfl_xor_sync(0xffffffffu, best, o);
    if (sum < least || (sum == least && k < best)) {
      least = sum;
      best = k;
    }
  }
  if (best == a.count) best = 0;  // all distances are NaN
  for (int c = lane; c < a.dim; c += 32) {
    float v = x[c];
    a.dst[p * a.dim + c] = v + (a.codes[(long long)c * a.count + best] - v);
  }
  if (a.index && lane == 0) a.index[p] = (float)best;
}
KERNEL_EXPORT(nearest_f32)
