// Convolution of halves on tensor cores, with sums in F32:
//
//   dst[p][o] = sum over k of A[p][k] B[o][k],   k = (tap, channel), then the channels of the shortcut
//
// Two kernels read A in two ways, and share the end. Both work through k in steps of 32, whose rows of 64 bytes come to
// shared memory by asynchronous copies, three steps deep, and from there to registers by ldmatrix. A row's four pieces of
// 16 bytes are permuted (slot), so that the eight rows of a matrix lie in different banks.
#include "conv_half.cuh"

constexpr int kStep = 32, kPieces = kStep / 8, kStages = 3;

// Where a piece of a row lies. x is the row's number or, in a halo, its pixel's x: of eight neighbours in a line either will do.
__device__ __forceinline__ int slot(int row, int piece, int x) { return row * (kStep * 2) + ((piece ^ ((x >> 1) & 3)) << 4); }
__device__ __forceinline__ int slot(int row, int piece) { return slot(row, piece, row); }

// Where a lane's piece of B is for conv_step: number lane/8%2 of one of the rows from wn on.
__device__ __forceinline__ int column_slot(int wn, int lane) { return slot(wn + (lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1); }

// One step of k for a warp, whose lanes bring piece number lane/16 of their rows of A, from row on and NEXT bytes apart, and
// of B from column on. The step's other 16 columns lie two pieces further, which is one bit of the place turned.
template <int NEXT, int MI, int NI>
__device__ __forceinline__ void conv_step(float (&acc)[MI][NI][4], const unsigned char* sa, int row, const unsigned char* sb, int column) {
#pragma unroll
  for (int k = 0; k < kStep / 16; k++) {
    unsigned a[MI][4], b[NI][2];
#pragma unroll
    for (int i = 0; i < MI; i++) ldmatrix_x4(a[i], sa + (row ^ k << 5) + i * NEXT);
#pragma unroll
    for (int j = 0; j < NI; j += 2) {
      unsigned r[4];
      ldmatrix_x4(r, sb + (column ^ k << 5) + j * 8 * kStep * 2);
      b[j][0] = r[0];
      b[j][1] = r[1];
      b[j + 1][0] = r[2];
      b[j + 1][1] = r[3];
    }
    mma_tile(acc, a, b);
  }
}

// Implicit GEMM over BM pixels, row by row through the image, x BN channels; block.z is image * splits + split. Every
// tap reads its pixels again, so any size, stride and padding will do, 1x1 too; the source is as it is, or enlarged.
// Shared memory: kStages of [BM][kStep] of A and [BN][kStep] of B, halves.
template <int BM, int BN, int WM, int WN>
__device__ __forceinline__ void conv_gemm(const conv_half_args& a, dim3 block, dim3 grid) {
  constexpr int WARPS_N = BN / WN, THREADS = 32 * (BM / WM) * WARPS_N, ROWS = THREADS / kPieces;
  constexpr int LOADS = BM / ROWS, COLUMNS = (BN + ROWS - 1) / ROWS, STAGE = (BM + BN) * kStep * 2;
  static_assert(ROWS % 8 == 0, "rows of one thread are permuted alike");
  DYNAMIC_SHARED(shared);
  int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, wm = warp / WARPS_N * WM, wn = warp % WARPS_N * WN;
  int n = block.z / a.splits, split = block.z % a.splits, o0 = block.y * BN;
  int pixels = a.oh * a.ow, p0 = block.x * BM;
  int cin = a.c[0] + a.c[1], skip = a.cs[0] + a.cs[1], taps = a.size * a.size, deep = taps * cin;
  int steps = (deep + skip + kStep - 1) / kStep;
  int first = (int)((long long)steps * split / a.splits), count = (int)((long long)steps * (split + 1) / a.splits) - first;

  // This thread copies piece number piece of rows row0, row0 + ROWS, ... of A and of B. Along k, A is made of stretches: the
  // channels of either source for each tap, then those of the shortcut's sources. Rows are looked up where a stretch begins,
  // and steps go on in it.
  int piece = tid % kPieces, row0 = tid / kPieces, copy = kept(slot(row0, piece));
  int k = first * kStep + piece * 8, stretch = 2 * taps - 1, left = deep - k;  // channels left of the stretch: none yet
  if (k < deep) {
    stretch = 2 * (k / cin) - 1;
    left = -(k % cin);
  }
  int at[LOADS] = {}, width = 0, depth = 0;  // pixels; bytes from one pixel to the next, and from one row of B
  unsigned there = 0;                        // a bit for each row of A that is not zero, and of B from bit 16 on
  const unsigned char *from = reinterpret_cast<const unsigned char*>(a.weight), *weight = from;
  auto seek = [&] {
    int c = -left, channels;
    bool kernel, any;
    for (;; c -= channels) {
      stretch++;
      kernel = stretch < 2 * taps;
      any = stretch < 2 * taps + 2;
      channels = kernel ? a.c[stretch & 1] : a.cs[stretch & 1];
      if (!any || c < channels) break;
    }
    left = any ? channels - c : kStep;
    there = 0;
    if (!any) return;
    width = channels * 2;
    from = reinterpret_cast<const unsigned char*>((kernel ? a.src : a.skip)[stretch & 1] + c);
    from += (long long)n * (kernel ? a.h * a.w : pixels) * width;
    int tap = stretch >> 1, ty = tap / a.size, tx = tap - ty * a.size;
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
      int p = p0 + row0 + i * ROWS, q = p;
      bool ok = p < pixels;
      if (kernel) {
        int y = p / a.ow * a.stride - a.pad + ty, x = p % a.ow * a.stride - a.pad + tx;
        ok = ok && (unsigned)y < (unsigned)(a.h << a.up) && (unsigned)x < (unsigned)(a.w << a.up);
        q = (y >> a.up) * a.w + (x >> a.up);
      }
      at[i] = ok ? q : 0;
      there |= (unsigned)ok << i;
    }
    depth = (kernel ? deep : skip) * 2;
    if (stretch & 1) c += kernel ? a.c[0] : a.cs[0];
    weight = reinterpret_cast<const unsigned char*>((kernel ? a.weight + tap * cin : a.skip_weight) + c);
    weight += (long long)(o0 + row0) * depth;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) there |= (unsigned)(row0 + i * ROWS < BN && o0 + row0 + i * ROWS < a.cout) << (16 + i);
  };
  auto fetch = [&](int stage) {
    if (left <= 0) seek();
    unsigned char* to = shared + stage * STAGE + copy;
#pragma unroll
    for (int i = 0; i < LOADS; i++) cp_async16(to + i * ROWS * kStep * 2, from + (long long)at[i] * width, there >> i & 1);
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
      if (BN % ROWS != 0 && row0 + i * ROWS >= BN) break;
      cp_async16(to + (BM + i * ROWS) * kStep * 2, weight + (long long)depth * i * ROWS, there >> (16 + i) & 1);
    }
    from += kStep * 2;
    weight += kStep * 2;
    left -= kStep;
  };

  float acc[WM / 16][WN / 8][4] = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    if (s < count) fetch(s);
    cp_async_commit();
  }
  int stage = 0, row = kept(slot(wm + (lane & 15), lane >> 4)), column = kept(column_slot(wn, lane));
  for (int step = 0; step < count; step++) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this step's copies are there, and all warps are done with the step before, whose stage is filled again
    if (step + kStages - 1 < count) fetch(stage == 0 ? kStages - 1 : stage - 1);
    cp_async_commit();
    const unsigned char* sa = shared + stage * STAGE;
    conv_step<16 * kStep * 2>(acc, sa, row, sa + BM * kStep * 2, column);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  cp_async_wait<0>();
  int rows = pixels - p0 < BM ? pixels - p0 : BM;
  conv_end<BM, BN, WM, WN>(a, acc, shared, {n, (int)block.x, (int)grid.x, o0, split}, wm, wn, rows, [&](int row, int& y, int& x) {
    y = (p0 + row) / a.ow;
    x = (p0 + row) % a.ow;
    return row < rows;
  }, [] { __syncthreads(); });
}

// 3x3 convolution of stride 1 and padding 1 over TH x TW pixels, block.x counts them row by row: 32 channels of the tile
// and of the pixels around it are copied once for all nine taps, and normalised and activated where they lie, so an
// activation is computed (TH+2)(TW+2)/(TH TW) times a pixel and not nine times.
// Shared memory: two times [(TH+2)(TW+2)][kStep] of A, kStages of [BN][kStep] of B, halves.
template <int TH, int TW, int BN, int WM, int WN>
__device__ __forceinline__ void conv_halo(const conv_half_args& a, dim3 block, dim3 grid) {
  constexpr int BM = TH * TW, HW = TW + 2, HALO = (TH + 2) * HW;
  constexpr int WARPS_N = BN / WN, THREADS = 32 * (BM / WM) * WARPS_N, ROWS = THREADS / kPieces, COLUMNS = (BN + ROWS - 1) / ROWS;
  constexpr int HALO_BYTES = (HALO * kStep * 2 + 127) / 128 * 128, B_BYTES = BN * kStep * 2;
  static_assert(ROWS % 8 == 0 && HW % 2 == 0, "rows of one thread are permuted alike, and every line of the halo");
  static_assert(kStages == 3, "a line of taps has a stage for each");
  DYNAMIC_SHARED(shared);
  unsigned char* sb = shared + 2 * HALO_BYTES;
  int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, wm = warp / WARPS_N * WM, wn = warp % WARPS_N * WN;
  int n = block.z / a.splits, split = block.z % a.splits, o0 = block.y * BN;
  int across = (a.ow + TW - 1) / TW, y0 = (int)block.x / across * TH, x0 = (int)block.x % across * TW;
  int cin = a.c[0] + a.c[1], skip = a.cs[0] + a.cs[1];
  int piece = tid % kPieces, row0 = tid / kPieces;

  auto inside = [&](int row, int& y, int& x) {
    y = y0 - 1 + row / HW;
    x = x0 - 1 + row % HW;
    return (unsigned)y < (unsigned)a.oh && (unsigned)x < (unsigned)a.ow;
  };
  auto fetch_a = [&](int chunk) {
    unsigned char* to = shared + (chunk & 1) * HALO_BYTES;
    int c = chunk * kStep + piece * 8, width = a.c[0];
    bool valid = c < cin;
    const half* s = a.src[0];
    if (c >= width) {
      c -= width;
      s = a.src[1];
      width = a.c[1];
    }
#pragma unroll 1
    for (int row = row0; row < HALO; row += ROWS) {
      int y, x;
      bool ok = inside(row, y, x) && valid;
      cp_async16(to + slot(row, piece, row % HW), ok ? s + (((long long)n * a.h + (y >> a.up)) * a.w + (x >> a.up)) * width + c : a.weight, ok);
    }
  };
  // A thread activates what it copied itself, so its own waiting is enough: N channels at a time, fewer where registers are few.
  constexpr int N = (WM / 16) * (WN / 8) <= kSplit ? 8 : 4;
  auto normalise = [&](int chunk) {
    int c = chunk * kStep + piece * 8;
    if (c >= cin) return;
    unsigned char* at = shared + (chunk & 1) * HALO_BYTES;
#pragma unroll 1
    for (int part = 0; part < 8 / N; part++, c += N, at += 2 * N) {
      float scale[N], offset[N];
#pragma unroll
      for (int e = 0; e < N; e++) {
        scale[e] = a.affine ? a.affine[2ll * n * cin + c + e] : 1.f;
        offset[e] = a.affine ? a.affine[(2ll * n + 1) * cin + c + e] : 0.f;
      }
#pragma unroll 1
      for (int row = row0; row < HALO; row += ROWS) {
        int y, x;
        if (!inside(row, y, x)) continue;  // padding stays zero
        halves<N>* p = reinterpret_cast<halves<N>*>(at + slot(row, piece, row % HW));
        *p = activated(a.act, *p, scale, offset);
      }
    }
  };

  // Copies of B, this thread's piece of rows row0, row0 + ROWS, ...: a stage for each tap, in their order, chunk by chunk.
  int chunks = (cin + kStep - 1) / kStep;
  int first = (int)((long long)chunks * split / a.splits), last = (int)((long long)chunks * (split + 1) / a.splits);
  int copy = kept(slot(row0, piece)), c = first * kStep + piece * 8;  // c is the next copy's
  long long deep = 9ll * cin * (int)sizeof(half);
  const unsigned char* weight = reinterpret_cast<const unsigned char*>(a.weight + c) + (o0 + row0) * deep;
  auto fetch_b = [&](int stage) {
    if (c >= last * kStep) return;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
      if (BN % ROWS != 0 && row0 + i * ROWS >= BN) break;
      cp_async16(sb + stage * B_BYTES + copy + i * ROWS * kStep * 2, weight + i * ROWS * deep, c < cin && o0 + row0 + i * ROWS < a.cout);
    }
    weight += cin * (int)sizeof(half);
  };

  float acc[WM / 16][WN / 8][4] = {};
  bool prologue = a.affine || a.act != ACT_IDENTITY;
  if (first < last) fetch_a(first);
#pragma unroll
  for (int s = 0; s < kStages - 1; s++) {
    fetch_b(s);
    cp_async_commit();
  }
  constexpr int NEXT = 16 / TW * HW * kStep * 2;  // from 16 pixels to those after them
  int x = (lane & 15) % TW, line = wm / TW + (lane & 15) / TW, column = kept(column_slot(wn, lane)), row[3];
#pragma unroll
  for (int dx = 0; dx < 3; dx++) row[dx] = kept(slot(line * HW + x + dx, lane >> 4, x + dx));
  for (int chunk = first; chunk < last; chunk++) {
#pragma unroll 1
    for (int dy = 0; dy < 3; dy++) {
      const unsigned char* sa = shared + (chunk & 1) * HALO_BYTES + dy * HW * kStep * 2;
#pragma unroll
      for (int dx = 0; dx < 3; dx++) {
        bool begins = dx == 0 && dy == 0;
        cp_async_wait<kStages - 2>();  // A came at least as early
        if (begins && prologue) normalise(chunk);
        __syncthreads();  // all warps are done with the step before: the stage that it used and the chunk before are free
        if (begins && chunk + 1 < last) fetch_a(chunk + 1);
        fetch_b((dx + kStages - 1) % kStages);
        if (dx == 0 && dy == 2) {  // that was the last tap
          weight += kStep * (int)sizeof(half) - deep;
          c += kStep;
        }
        cp_async_commit();
        conv_step<NEXT>(acc, sa, row[dx], sb + dx * B_BYTES, column);
      }
    }
  }

  // The shortcut: 32 channels of the tile itself at a time, two steps deep.
  int skips = (skip + kStep - 1) / kStep, from = (int)((long long)skips * split / a.splits), to = (int)((long long)skips * (split + 1) / a.splits);
  auto fetch_skip = [&](int s) {
    unsigned char* at = shared + (s & 1) * HALO_BYTES;
    int c = s * kStep + piece * 8, width = a.cs[0], cc = c;
    bool valid = c < skip;
    const half* src = a.skip[0];
    if (cc >= width) {
      cc -= width;
      src = a.skip[1];
      width = a.cs[1];
    }
#pragma unroll 1
    for (int row = row0; row < BM; row += ROWS) {
      int y = y0 + row / TW, x = x0 + row % TW;
      bool ok = valid && y < a.oh && x < a.ow;
      cp_async16(at + slot(row, piece), ok ? src + (((long long)n * a.oh + y) * a.ow + x) * width + cc : a.weight, ok);
    }
#pragma unroll 1
    for (int row = row0; row < BN; row += ROWS) {
      bool ok = valid && o0 + row < a.cout;
      cp_async16(sb + (s & 1) * B_BYTES + slot(row, piece), ok ? a.skip_weight + c + (long long)(o0 + row) * skip : a.weight, ok);
    }
    cp_async_commit();
  };
  cp_async_wait<0>();
  __syncthreads();
  if (from < to) fetch_skip(from);
  for (int s = from; s < to; s++) {
    if (s + 1 < to) fetch_skip(s + 1);
    else cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    conv_step<16 * kStep * 2>(acc, shared + (s & 1) * HALO_BYTES, slot(wm + (lane & 15), lane >> 4), sb + (s & 1) * B_BYTES, column);
    __syncthreads();
  }
  cp_async_wait<0>();
  int th = a.oh - y0 < TH ? a.oh - y0 : TH, tw = a.ow - x0 < TW ? a.ow - x0 : TW;
  conv_end<BM, BN, WM, WN>(a, acc, shared, {n, (int)block.x, (int)grid.x, o0, split}, wm, wn, th * tw, [&](int row, int& y, int& x) {
    y = y0 + row / TW;
    x = x0 + row % TW;
    return row / TW < th && row % TW < tw;
  }, [] { __syncthreads(); });
}

// Threads of a block, and blocks of a multiprocessor: as many as leave 128 registers to a thread, since the end of a tile
// would take more of them than the products do. Capability 7.5, whose copies go through registers, has one block.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define CONV_BOUNDS(BM, BN, WM, WN) 32 * (BM / WM) * (BN / WN), 1
#else
#define CONV_BOUNDS(BM, BN, WM, WN) 32 * (BM / WM) * (BN / WN), 16 / ((BM / WM) * (BN / WN))
#endif

#define CONV_GEMM(name, BM, BN, WM, WN)                                                            \
  KERNEL(name, conv_half_args, CONV_BOUNDS(BM, BN, WM, WN)) { conv_gemm<BM, BN, WM, WN>(a, block, grid); }      \
  KERNEL_EXPORT(name)

CONV_GEMM(conv_gemm_f16_128x128, 128, 128, 64, 32)  // 256 threads, 48 KB
CONV_GEMM(conv_gemm_f16_128x64, 128, 64, 64, 32)    // 128 threads, 36 KB
CONV_GEMM(conv_gemm_f16_64x64, 64, 64, 32, 32)      // 128 threads, 24 KB
CONV_GEMM(conv_gemm_f16_64x32, 64, 32, 32, 16)      // 128 threads, 18 KB
CONV_GEMM(conv_gemm_f16_128x16, 128, 16, 32, 16)    // 128 threads, 27 KB: few output channels

#define CONV_HALO(name, TH, TW, BN, WM, WN)                                                        \
  KERNEL(name, conv_half_args, CONV_BOUNDS(TH * TW, BN, WM, WN)) { conv_halo<TH, TW, BN, WM, WN>(a, block, grid); } \
  KERNEL_EXPORT(name)

CONV_HALO(conv_halo_f16_8x16x128, 8, 16, 128, 64, 32)  // 256 threads, 46.5 KB
CONV_HALO(conv_halo_f16_8x16x64, 8, 16, 64, 64, 32)    // 128 threads, 34.5 KB
CONV_HALO(conv_halo_f16_8x8x64, 8, 8, 64, 32, 32)      // 128 threads, 24.5 KB
CONV_HALO(conv_halo_f16_8x16x16, 8, 16, 16, 32, 16)    // 128 threads, 25.5 KB

// Channel c of pixel (y, x) of image n, normalised and activated.
__device__ __forceinline__ float input_value(const conv_input_args& a, int n, int y, int x, int c) {
  int cin = a.c[0] + a.c[1];
  long long pixel = ((long long)n * a.h + y) * a.w + x;
  float v = c < a.c[0] ? load(a.src[0], a.halves[0], pixel * a.c[0] + c) : load(a.src[1], a.halves[1], pixel * a.c[1] + c - a.c[0]);
  if (a.affine) v = fmaf(a.affine[2ll * n * cin + c], v, a.affine[(2ll * n + 1) * cin + c]);
  return activation(a.act, v);
}

// What a convolution reads, made beforehand where it cannot read the sources as they are: floats, channels that are no
// multiples of 8, means of 2x2 pixels, normalised inputs of 1x1 convolutions. A thread for 8 channels of a pixel; those
// beyond the sources' are zero.
KERNEL(conv_input_f16, conv_input_args, 128, 8) {
  long long i = thread_index(block.x);
  if (i >= a.count) return;
  int groups = a.cp / 8, c = (int)(i % groups) * 8, cin = a.c[0] + a.c[1];
  long long p = i / groups;
  int x = (int)(p % a.uw), y = (int)(p / a.uw % a.uh), n = (int)(p / a.uw / a.uh);
  float v[8];
  if (a.sampling == SAMPLE_DOWN2) {
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = 0.f;
#pragma unroll 1
    for (int q = 0; q < 4; q++)
#pragma unroll
      for (int e = 0; e < 8; e++)
        if (c + e < cin) v[e] += 0.25f * input_value(a, n, 2 * y + (q >> 1), 2 * x + (q & 1), c + e);
  } else {
    int up = a.sampling == SAMPLE_UP2;
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = c + e < cin ? input_value(a, n, y >> up, x >> up, c + e) : 0.f;
  }
  *reinterpret_cast<uint4*>(a.dst + i * 8) = make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
}
KERNEL_EXPORT(conv_input_f16)
