// Convolution of halves for devices of capability 9.0, whose tensor cores read shared memory themselves (wgmma): what
// conv_halo of conv_half.cu computes, for sizes that keep the device busy with large tiles.
//
// A tile is 16x16 pixels x 128 channels, a step 64 channels of one tap. A is in shared memory for all nine taps at once: the
// tile and the pixels around it, normalised and activated once, as planes of 8 channels
//
//   [8 planes][18x18 pixels][16 bytes], planes kPlane bytes apart
//
// of which eight pixels of a line are the eight rows of 16 bytes that wgmma reads at a time: another tap is another first
// address and nothing else. B, 128 channels of the weights at one tap, comes as a box of their matrix (TMA) in a ring of
// kStages. Three kinds of warps, which meet at barriers in shared memory only:
//
//   0 to 7     two groups of four, each 8x16 pixels: multiply, and end the tile
//   8          asks for B
//   9 to 11    gather A, up to two chunks of 64 channels ahead, of the next tile too
//
// So blocks are as many as multiprocessors and take one tile after the other, and activation runs beside the products.
// Shared memory: kStages of B, two chunks of A, [9][128] floats for moments, barriers; 149.8 KB.
#include "conv_half.cuh"
#include "wgmma.cuh"

namespace {
constexpr int kEdge = 16, kChannels = 128, kChunk = 64, kPieces8 = kChunk / 8, kRing = 4;
constexpr int kLine = kEdge + 2, kHalo = kLine * kLine;
constexpr int kPlane = kHalo * 16 + 16;  // not a multiple of 128: the planes of a pixel are written without conflicts of banks
constexpr int kABytes = kPieces8 * kPlane, kBBytes = kChannels * kChunk * 2;
constexpr int kSumsAt = kRing * kBBytes + 2 * kABytes, kBarriersAt = kSumsAt + 9 * kChannels * 4;
constexpr int kMultipliers = 256, kGatherers = 96, kThreads = 384;

// at_tile is where tile number t lies.
struct at_tile {
  int n, tile, o0, y0, x0;
  __device__ __forceinline__ at_tile(int t, int tiles, int across, int channels) {
    int p = t / channels;
    o0 = t % channels * kChannels;
    n = p / tiles;
    tile = p % tiles;
    y0 = tile / across * kEdge;
    x0 = tile % across * kEdge;
  }
};

constexpr int kAhead = 4;  // pixels that a thread gathers at once

// activate is what is done to eight channels of pixels before they are multiplied, without branches, so that the functions of
// all of them are computed side by side. Outside of the image there are zeros.
template <int ACT>
__device__ __forceinline__ void activate(uint4 (&v)[kAhead], const bool (&inside)[kAhead], const float (&scale)[8], const float (&offset)[8]) {
#pragma unroll
  for (int i = 0; i < kAhead; i++) {
    halves<8> u = activated(ACT, halves<8>{v[i].x, v[i].y, v[i].z, v[i].w}, scale, offset);
    v[i] = inside[i] ? make_uint4(u.v[0], u.v[1], u.v[2], u.v[3]) : make_uint4(0, 0, 0, 0);
  }
}
}  // namespace

KERNEL_IN_PLACE(conv_wgmma_f16_16x16x128, conv_wgmma_args, kThreads, 1) {
  const conv_half_args& conv = a.conv;
  DYNAMIC_SHARED_1024(shared);
  unsigned char* sa = shared + kRing * kBBytes;
  mbarrier* filled_a = reinterpret_cast<mbarrier*>(shared + kBarriersAt);  // gathered, by all who gather
  mbarrier* free_a = filled_a + 2;                                        // multiplied, by all warps that multiply
  mbarrier* filled_b = free_a + 2;
  mbarrier* free_b = filled_b + kRing;
  int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  int across = (conv.ow + kEdge - 1) / kEdge, tiles = (conv.oh + kEdge - 1) / kEdge * across;
  int channels = (conv.cout + kChannels - 1) / kChannels, all = conv.n * tiles * channels;
  int cin = conv.c[0] + conv.c[1], chunks = cin / kChunk, total = chunks + (conv.cs[0] + conv.cs[1]) / kChunk;
  bool prologue = conv.affine || conv.act != ACT_IDENTITY;

  // Chunk k of tile t to a buffer of A, by threads of which this one is number rank. The chunks after the sources' are the
  // shortcut's, which are multiplied as they are, at the middle tap.
  auto gather = [&](int t, int k, unsigned char* to, int rank, int threads) {
    at_tile at(t, tiles, across, channels);
    bool skip = k >= chunks;
    int c = (skip ? k - chunks : k) * kChunk + (rank & 7) * 8, up = skip ? 0 : conv.up;
    bool second = c >= (skip ? conv.cs[0] : conv.c[0]);
    int width = skip ? conv.cs[second] : conv.c[second];
    const half* s = (skip ? conv.skip[second] : conv.src[second]) + (second ? c - (skip ? conv.cs[0] : conv.c[0]) : c);
    int h = skip ? conv.oh : conv.h, w = skip ? conv.ow : conv.w;
    float scale[8], offset[8];
    bool act = prologue && !skip;
    if (act) {
#pragma unroll
      for (int e = 0; e < 8; e++) {
        scale[e] = conv.affine ? conv.affine[2ll * at.n * cin + c + e] : 1.f;
        offset[e] = conv.affine ? conv.affine[(2ll * at.n + 1) * cin + c + e] : 0.f;
      }
    }
    to += (rank & 7) * kPlane;
#pragma unroll 1
    for (int pixel = rank >> 3; pixel < kHalo; pixel += kAhead * (threads >> 3)) {
      uint4 v[kAhead];
      bool inside[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; i++) {
        int p = pixel + i * (threads >> 3), y = at.y0 - 1 + p / kLine, x = at.x0 - 1 + p % kLine;
        inside[i] = p < kHalo && (unsigned)y < (unsigned)conv.oh && (unsigned)x < (unsigned)conv.ow;
        v[i] = make_uint4(0, 0, 0, 0);
        if (inside[i]) v[i] = __ldg(reinterpret_cast<const uint4*>(s + (((long long)at.n * h + (y >> up)) * w + (x >> up)) * width));
      }
      if (act && conv.act == ACT_SILU) activate<ACT_SILU>(v, inside, scale, offset);
      else if (act && conv.act == ACT_TANH) activate<ACT_TANH>(v, inside, scale, offset);
      else if (act) activate<ACT_IDENTITY>(v, inside, scale, offset);
#pragma unroll
      for (int i = 0; i < kAhead; i++) {
        int p = pixel + i * (threads >> 3);
        if (p < kHalo) put_async(to + p * 16, v[i]);
      }
    }
    fence_async();
  };

  if (tid == 0) {
    for (int i = 0; i < 2; i++) {
      mbarrier_init(filled_a + i, kGatherers);
      mbarrier_init(free_a + i, kMultipliers / 32);
    }
    for (int i = 0; i < kRing; i++) {
      mbarrier_init(filled_b + i, 1);
      mbarrier_init(free_b + i, kMultipliers / 32);
    }
    mbarrier_init_fence();
  }
  gather(blockIdx.x, 0, sa, tid, kThreads);  // the first chunk, which everybody waits for
  __syncthreads();

  if (warp >= kMultipliers / 32) {
    registers_fewer<88>();
    if (warp > kMultipliers / 32) {
      int i = 0;  // chunks so far
      for (int t = blockIdx.x; t < all; t += gridDim.x)
        for (int k = 0; k < total; k++, i++) {
          mbarrier_wait(free_a + (i & 1), (i >> 1 & 1) ^ 1);
          if (i > 0) gather(t, k, sa + (i & 1) * kABytes, tid - (kThreads - kGatherers), kGatherers);
          mbarrier_arrive(filled_a + (i & 1));
        }
    } else if (lane == 0) {
      int i = 0;  // boxes so far
      for (int t = blockIdx.x; t < all; t += gridDim.x) {
        at_tile at(t, tiles, across, channels);
        for (int k = 0; k < total; k++) {
          bool skip = k >= chunks;
          for (int tap = 0; tap < (skip ? 1 : 9); tap++, i++) {
            int stage = i % kRing;
            mbarrier_wait(free_b + stage, (i / kRing & 1) ^ 1);
            mbarrier_arrive_expect(filled_b + stage, kBBytes);
            tma_load(shared + stage * kBBytes, skip ? &a.skip_weight : &a.weight, skip ? (k - chunks) * kChunk : tap * cin + k * kChunk, at.o0,
                     filled_b + stage);
          }
        }
      }
    }
    return;
  }

  registers_more<208>();
  int chunk = 0, box = 0;  // so far
  for (int t = blockIdx.x; t < all; t += gridDim.x) {
    float acc[2][16][4] = {};  // 8x8 pixels each, side by side
    settle(acc[0]);
    settle(acc[1]);
#pragma unroll 1
    for (int k = 0; k < total; k++, chunk++) {
      mbarrier_wait(filled_a + (chunk & 1), chunk >> 1 & 1);
      bool skip = k >= chunks;
      unsigned char* first = sa + (chunk & 1) * kABytes + ((warp >> 2) * 8 * kLine + (skip ? kLine + 1 : 0)) * 16;
#pragma unroll 1
      for (int tap = 0; tap < (skip ? 1 : 9); tap++, box++) {
        int stage = box % kRing;
        mbarrier_wait(filled_b + stage, box / kRing & 1);
        unsigned long long left = matrix(first + (tap / 3 * kLine + tap % 3) * 16, kPlane, kLine * 16, MATRIX_PLAIN);
        unsigned long long weight = matrix(shared + stage * kBBytes, 16, 1024, MATRIX_SWIZZLED);
        wgmma_fence();
#pragma unroll
        for (int q = 0; q < kChunk / 16; q++)
#pragma unroll
          for (int i = 0; i < 2; i++) wgmma(acc[i], left + (q * 2 * kPlane + i * 128) / 16, weight + q * 32 / 16);
        wgmma_commit();
        wgmma_wait<1>();  // the step before this one is done, and what it read is free
        if (lane == 0 && k + tap > 0) {
          mbarrier_arrive(free_b + (box - 1) % kRing);
          if (tap == 0) mbarrier_arrive(free_a + ((chunk - 1) & 1));
        }
      }
    }
    wgmma_wait<0>();
    settle(acc[0]);
    settle(acc[1]);
    if (lane == 0) {
      mbarrier_arrive(free_b + (box - 1) % kRing);
      mbarrier_arrive(free_a + ((chunk - 1) & 1));
    }
    at_tile at(t, tiles, across, channels);
    int th = conv.oh - at.y0 < kEdge ? conv.oh - at.y0 : kEdge, tw = conv.ow - at.x0 < kEdge ? conv.ow - at.x0 : kEdge;
    conv_end<256, kChannels, 32, kChannels, true>(conv, acc, shared + kSumsAt, {at.n, at.tile, tiles, at.o0, 0}, warp * 32, 0, th * tw,
      [&](int row, int& y, int& x) {
        y = (row >> 5) * 2 + (row >> 3 & 1);
        x = (row >> 4 & 1) * 8 + (row & 7);
        bool ok = y < th && x < tw;
        y += at.y0;
        x += at.x0;
        return ok;
      }, [] { barrier_sync(1, kMultipliers); });
  }
}
KERNEL_EXPORT(conv_wgmma_f16_16x16x128)
