// What the convolutions of halves share: what is done to an input before it is multiplied, and the end of a tile.
#pragma once
#include "norm.cuh"

__device__ __forceinline__ float activation(int act, float v) {
  if (act == ACT_SILU) return silu(v);
  if (act == ACT_TANH) return tanhf(v);
  return v;
}

template <int N>
struct alignas(2 * N) halves { unsigned v[N / 2]; };

// N halves times scale plus offset, activated.
template <int N>
__device__ __forceinline__ halves<N> activated(int act, halves<N> v, const float (&scale)[N], const float (&offset)[N]) {
  float f[N];
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    float2 two = unpack(v.v[i / 2]);
    f[i] = fmaf(scale[i], two.x, offset[i]);
    f[i + 1] = fmaf(scale[i + 1], two.y, offset[i + 1]);
  }
  if (act == ACT_SILU) {  // asked once: a branch for each takes as long as what it goes round
#pragma unroll
    for (int i = 0; i < N; i++) f[i] = silu(f[i]);
  } else if (act == ACT_TANH) {
#pragma unroll
    for (int i = 0; i < N; i++) f[i] = tanhf(f[i]);
  }
#pragma unroll
  for (int i = 0; i < N; i += 2) v.v[i / 2] = pack(f[i], f[i + 1]);
  return v;
}

// What Residual adds at channels o and, where both is set, o+1 of pixel (y, x) of image n. pairs says that o is even and
// halves can be read in pairs.
__device__ __forceinline__ float2 residual_pair(const conv_half_args& a, int n, int y, int x, int o, bool both, bool pairs) {
  float2 v = make_float2(0.f, 0.f);
  if (a.rsampling == SAMPLE_DOWN2) {
#pragma unroll 1
    for (int i = 0; i < 4; i++) {
      long long at = ((2ll * n * a.oh + 2 * y + (i >> 1)) * 2 * a.ow + 2 * x + (i & 1)) * a.cout + o;
      v.x += 0.25f * load(a.residual, a.residual_half, at);
      if (both) v.y += 0.25f * load(a.residual, a.residual_half, at + 1);
    }
    return v;
  }
  int up = a.rsampling == SAMPLE_UP2;
  long long at = (((long long)n * (a.oh >> up) + (y >> up)) * (a.ow >> up) + (x >> up)) * a.cout + o;
  if (a.residual_half && pairs) return unpack(*reinterpret_cast<const unsigned*>(static_cast<const half*>(a.residual) + at));
  v.x = load(a.residual, a.residual_half, at);
  if (both) v.y = load(a.residual, a.residual_half, at + 1);
  return v;
}

// What is added at channel o whatever the pixel.
__device__ __forceinline__ float channel_bias(const conv_half_args& a, int n, int o) {
  float v = 0.f;
  if (o >= a.cout) return v;
  if (a.bias) v += a.bias[o];
  if (a.skip_bias) v += a.skip_bias[o];
  if (a.embed) v += a.embed[(a.embeds == 1 ? 0ll : (long long)n * a.cout) + o];
  return v;
}

// Writes two channels of a result and returns them as they are stored.
__device__ __forceinline__ float2 store_pair(const conv_half_args& a, long long at, float2 v, bool both, bool pairs) {
  if (!a.dst_half) {
    float* d = static_cast<float*>(a.dst) + at;
    d[0] = v.x;
    if (both) d[1] = v.y;
    return v;
  }
  half* d = static_cast<half*>(a.dst) + at;
  unsigned u = pack(v.x, v.y);
  if (pairs) {
    *reinterpret_cast<unsigned*>(d) = u;
  } else {
    d[0].bits = (unsigned short)u;
    if (both) d[1].bits = (unsigned short)(u >> 16);
  }
  return unpack(u);
}

// part_of is a tile's place: the image, its number among the tiles of the image, the first channel, and the part of the sum.
struct part_of {
  int n, tile, tiles, o0, split;
};

constexpr int kFan = 32;   // tiles whose moments one block joins
constexpr int kSplit = 8;  // fours of sums in a thread, at most, where sums may be split: larger tiles have no registers left for it

// The end of a tile whose moments are written: of kFan neighbours the last one joins what they wrote to one entry, of kFan
// such entries the block that made the last one, and so on up to the image's, whose moments and normalisation follow. Every
// sum has its order, whichever block is last. A pass over up to kFan entries, where a single one over all would be long.
// Shared memory: [THREADS] floats, a flag.
template <int BN, int THREADS, class Barrier>
__device__ __forceinline__ void join_moments(const conv_half_args& a, float* shared, const part_of& at, Barrier barrier) {
  constexpr int ENTRY = 2 * BN + 1, ROWS = THREADS / BN;
  static_assert(THREADS % BN == 0, "a thread has one channel");
  int* flag = reinterpret_cast<int*>(shared + THREADS);
  int columns = (a.cout + BN - 1) / BN, c = threadIdx.x % BN, row = threadIdx.x / BN;
  long long column = (long long)at.n * columns + at.o0 / BN;
  float* all = a.tiles + column * a.entries * ENTRY;
  int* done = a.done + a.n + column * a.entries;
  auto sum = [&](float v) {
    shared[threadIdx.x] = v;
    barrier();
    v = 0.f;
    for (int r = 0; r < ROWS; r++) v += shared[r * BN + c];
    barrier();
    return v;
  };
  int level = 0, count = at.tiles, i = at.tile;  // entries level to level+count are those of tiles, or joined; this block made number i of them
  while (count > 1) {
    int first = i / kFan * kFan, n = count - first < kFan ? count - first : kFan;
    const float* in = all + (long long)(level + first) * ENTRY;
    level += count;
    count = (count + kFan - 1) / kFan;
    i /= kFan;
    if (!last_block(done + level + i, n, flag, barrier)) return;
    float pixels = 0.f, shift = 0.f, dev = 0.f, origin = in[c];
#pragma unroll 4
    for (int k = row; k < n; k += ROWS) {
      const float* e = in + k * ENTRY;
      pixels += e[2 * BN];
      shift += e[2 * BN] * (e[c] - origin);
    }
    pixels = sum(pixels);
    float mean = origin + sum(shift) / pixels;
#pragma unroll 4
    for (int k = row; k < n; k += ROWS) {
      const float* e = in + k * ENTRY;
      dev += e[BN + c] + e[2 * BN] * (e[c] - mean) * (e[c] - mean);
    }
    dev = sum(dev);
    float* out = all + (long long)(level + i) * ENTRY;
    if (row == 0) {
      out[c] = mean;
      out[BN + c] = dev;
      if (c == 0) out[2 * BN] = pixels;
    }
  }
  barrier();
  int o = at.o0 + c;
  if (row == 0 && o < a.cout) {
    const float* e = all + (long long)level * ENTRY;
    a.moments[2ll * at.n * a.cout + o] = e[c];
    a.moments[(2ll * at.n + 1) * a.cout + o] = e[BN + c];
  }
  if (a.norm.dst && last_block(a.done + at.n, columns, flag, barrier)) norm_image(a.norm, at.n);
}

// The end of a tile of BM pixels x BN channels, whose warp has rows wm and columns wn and following in acc: what the
// epilogue adds, the result, and its moments. Where the sums were split, the block that comes last adds the parts in their
// order and goes on. place(row, y, x) says where a row of the tile lies and whether it is inside of the image; count rows are.
// barrier is for all threads that have a part of acc, which are the block's first ones. WHOLE says that all channels of the
// tile are there and lie as a.pairs says. Shared memory: [BM/WM+1][BN] floats, and [THREADS] floats and a flag in the same place.
template <int BM, int BN, int WM, int WN, bool WHOLE = false, class Place, class Barrier>
__device__ __forceinline__ void conv_end(const conv_half_args& a, float (&acc)[WM / 16][WN / 8][4], unsigned char* shared, const part_of& at,
                                         int wm, int wn, int count, Place place, Barrier barrier) {
  constexpr int MI = WM / 16, NI = WN / 8, THREADS = 32 * (BM / WM) * (BN / WN);
  int n = at.n, o0 = at.o0;
  int lane = threadIdx.x & 31, row0 = wm + (lane >> 2), col0 = wn + (lane & 3) * 2;
  long long image = (long long)a.oh * a.ow, column = (long long)n * ((a.cout + BN - 1) / BN) + o0 / BN;
  float* sums = reinterpret_cast<float*>(shared);
  if (MI * NI <= kSplit && a.splits > 1) {
    float4* part = reinterpret_cast<float4*>(a.part) + (column * at.tiles + at.tile) * a.splits * (BM * BN / 4) + threadIdx.x;
    float4* own = part + at.split * (BM * BN / 4);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NI; j++) own[(i * NI + j) * THREADS] = make_float4(acc[i][j][0], acc[i][j][1], acc[i][j][2], acc[i][j][3]);
    if (!last_block(a.done + a.n + column * a.entries + at.tile, a.splits, reinterpret_cast<int*>(sums + THREADS), barrier)) return;
#pragma unroll
    for (int i = 0; i < MI; i++) {
#pragma unroll
      for (int j = 0; j < NI; j++) acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0.f;
#pragma unroll 2
      for (int s = 0; s < a.splits; s++)
#pragma unroll
        for (int j = 0; j < NI; j++) {
          float4 v = part[s * (BM * BN / 4) + (i * NI + j) * THREADS];
          acc[i][j][0] += v.x;
          acc[i][j][1] += v.y;
          acc[i][j][2] += v.z;
          acc[i][j][3] += v.w;
        }
    }
  }
#pragma unroll
  for (int j = 0; j < NI; j++) {
    int o = o0 + col0 + j * 8;
    float add = channel_bias(a, n, o), next = channel_bias(a, n, o + 1);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        acc[i][j][2 * e] += add;
        acc[i][j][2 * e + 1] += next;
      }
  }
  // The usual kind: halves of the same size. Its reads go before its writes, which the compiler cannot know to be elsewhere.
  bool usual = WHOLE && a.dst_half && !a.relu && (!a.residual || (a.residual_half && a.rsampling == SAMPLE_SAME));
  unsigned inside = 0;  // a bit for each of this thread's rows
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      int y, x;
      bool ok = place(row0 + i * 16 + e * 8, y, x);
      if (ok) inside |= 1u << (2 * i + e);
      long long p = (long long)y * a.ow + x;
      if (usual && ok) {
        long long first = (n * image + p) * a.cout + o0 + col0;
        const unsigned* residual = reinterpret_cast<const unsigned*>(static_cast<const half*>(a.residual) + first);
        unsigned r[NI];
#pragma unroll
        for (int j = 0; j < NI; j++) r[j] = a.residual ? residual[4 * j] : 0;
#pragma unroll
        for (int j = 0; j < NI; j++) {
          float2 v = unpack(r[j]);
          unsigned u = pack(acc[i][j][2 * e] + v.x, acc[i][j][2 * e + 1] + v.y);
          reinterpret_cast<unsigned*>(static_cast<half*>(a.dst) + first)[4 * j] = u;
          v = unpack(u);
          acc[i][j][2 * e] = v.x;
          acc[i][j][2 * e + 1] = v.y;
        }
        continue;
      }
#pragma unroll
      for (int j = 0; j < NI; j++) {
        int o = o0 + col0 + j * 8;
        float2 v = make_float2(acc[i][j][2 * e], acc[i][j][2 * e + 1]);
        bool both = WHOLE || o + 1 < a.cout;
        if (!ok || (!WHOLE && o >= a.cout)) {
          v = make_float2(0.f, 0.f);
        } else {
          if (a.residual) {
            float2 r = residual_pair(a, n, y, x, o, both, WHOLE || a.pairs);
            v.x += r.x;
            v.y += r.y;
          }
          if (a.relu) {  // a NaN stays one
            if (v.x < 0.f) v.x = 0.f;
            if (v.y < 0.f) v.y = 0.f;
          }
          v = store_pair(a, (n * image + p) * a.cout + o, v, both, WHOLE || a.pairs);
        }
        acc[i][j][2 * e] = v.x;
        acc[i][j][2 * e + 1] = v.y;
      }
    }
  if (!a.moments) return;

  // Moments of the tile as it is stored: the mean, then the squared deviations from it.
  float* out = a.tiles + (column * a.entries + at.tile) * (2 * BN + 1);
  float* means = sums + BM / WM * BN;
#pragma unroll
  for (int pass = 0; pass < 2; pass++) {
    barrier();  // shared memory is free, and the means are there
#pragma unroll
    for (int j = 0; j < NI; j++) {
      float2 s = make_float2(0.f, 0.f), mean = s;
      if (pass == 1) mean = *reinterpret_cast<const float2*>(means + col0 + j * 8);
#pragma unroll
      for (int i = 0; i < MI; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float vx = acc[i][j][2 * e], vy = acc[i][j][2 * e + 1];
          if (pass == 1) {
            bool ok = inside >> (2 * i + e) & 1;
            vx = ok ? (vx - mean.x) * (vx - mean.x) : 0.f;
            vy = ok ? (vy - mean.y) * (vy - mean.y) : 0.f;
          }
          s.x += vx;
          s.y += vy;
        }
#pragma unroll
      for (int o = 4; o < 32; o <<= 1) {
        s.x += __shfl_xor_sync(0xffffffffu, s.x, o);
        s.y += __shfl_xor_sync(0xffffffffu, s.y, o);
      }
      if (lane < 4) {
        sums[wm / WM * BN + col0 + j * 8] = s.x;
        sums[wm / WM * BN + col0 + j * 8 + 1] = s.y;
      }
    }
    barrier();
    int c = threadIdx.x;
    if (c < BN) {
      float s = 0.f;
      for (int w = 0; w < BM / WM; w++) s += sums[w * BN + c];
      if (pass == 0) s = means[c] = s / count;
      out[pass * BN + c] = s;
    }
    if (c == 0) out[2 * BN] = (float)count;
  }
  join_moments<BN, THREADS>(a, sums, at, barrier);
}
