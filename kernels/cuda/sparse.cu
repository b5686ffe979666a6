// Sparse matrices: a.lanes threads share a row, as many as it has work for, and four channels at a time are summed in
// registers. The order of the additions depends on the matrix alone.
#include "device.cuh"

KERNEL(sparse_f32, sparse_args, PIXEL_BLOCK) {
  DYNAMIC_SHARED(shared);
  Elements at(a.e, block.x);
  int lane = threadIdx.x % a.lanes;
  const float* src = a.src + at.n * a.cols * a.c;
  for (long long i = at.i; i - threadIdx.x < at.end; i += blockDim.x) {
    int row = (int)((i - at.n * a.e.image) / a.lanes);
    bool there = i < at.end;  // the others join in the sums of their warp
    int first = there ? a.start[row] + lane : 0, end = there ? a.start[row + 1] : 0;
    for (int c = 0; c < a.c; c += 4) {
      float sum[4] = {0.f, 0.f, 0.f, 0.f};
      for (int k = first; k < end; k += a.lanes) {
        float w = a.weight[k];
        const float* p = src + (long long)a.col[k] * a.c + c;
#pragma unroll
        for (int j = 0; j < 4; j++)
          if (c + j < a.c) sum[j] = fmaf(w, p[j], sum[j]);
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        for (int o = a.lanes / 2; o > 0; o >>= 1) sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], o);
        if (!there || lane != 0 || c + j >= a.c) continue;
        long long to = (at.n * a.rows + row) * a.c + c + j;
        float v = a.add ? fmaf(a.alpha, sum[j], a.beta * a.add[to]) : a.alpha * sum[j];
        a.dst[to] = v;
        at.gather(to, v, a.dst);
      }
    }
  }
  at.join(shared);
}
KERNEL_EXPORT(sparse_f32)
