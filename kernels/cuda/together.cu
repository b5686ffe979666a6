// Launches that follow each other run as phases of one: all blocks of a grid that fits on the device at once work through the
// blocks of each phase, and meet before the next one. What a launch costs beside its work, its beginning and the time in which
// its last blocks leave multiprocessors idle, is a barrier's then.
#ifndef __CUDACC__  // the emulation compiles each source alone; the image's are one unit, which ends here
#define PHASES_ONLY
#include "attention_half.cu"
#include "conv_half.cu"
#include "fourier.cu"
#include "pixels.cu"
#include "pointwise.cu"
#include "sparse.cu"
#endif

// Every block's share of a phase.
template <class Args, class Run>
__device__ __forceinline__ void share(const phase_args& p, Run run) {
  const Args& a = *reinterpret_cast<const Args*>(&p + 1);
  for (unsigned i = blockIdx.x; i < p.blocks; i += gridDim.x) {
    run(a, dim3{i % p.x, i / p.x % p.y, i / p.x / p.y}, dim3{p.x, p.y, p.z});
    __syncthreads();  // shared memory is free again
  }
}

#define PHASE(number, name, args) \
  case number: share<args>(p, [](const args& a, dim3 block, dim3 grid) { name##_block(a, block, grid); }); break

// Phases of corrections.
KERNEL_IN_PLACE(together_f32, together_args, 256, 3) {
  const unsigned char* room = reinterpret_cast<const unsigned char*>(a.room);
  for (int at = 0; at < a.size;) {
    const phase_args& p = *reinterpret_cast<const phase_args*>(room + at);
    switch (p.kernel) {
      PHASE(PHASE_DOT, dot_f32, dot_args);
      PHASE(PHASE_SEPARABLE, separable_f32, band_args);
      PHASE(PHASE_BAND_ROWS, band_rows, band_args);
      PHASE(PHASE_BAND_COLS, band_cols, band_args);
      PHASE(PHASE_FILTER, filter_f32, filter_args);
      PHASE(PHASE_FILTER_ADJOINT, filter_adjoint_f32, filter_args);
      PHASE(PHASE_BLEND, blend_f32, blend_args);
      PHASE(PHASE_CONJUGATE, conjugate_f32, conjugate_args);
      PHASE(PHASE_ACCELERATE, accelerate_f32, accelerate_args);
      PHASE(PHASE_ADAM, adam_f32, adam_args);
      PHASE(PHASE_POINTWISE, pointwise_f32, pointwise_args);
      PHASE(PHASE_RESAMPLE, resample_f32, resample_args);
      PHASE(PHASE_SPARSE, sparse_f32, sparse_args);
      PHASE(PHASE_FFT, fft_f32, fft_args);
      PHASE(PHASE_DFT, dft_f32, dft_args);
      PHASE(PHASE_CIRCLE_IN, circle_in_f32, circle_args);
      PHASE(PHASE_CIRCLE_COLUMNS, circle_columns_f32, circle_args);
      PHASE(PHASE_CIRCLE_OUT, circle_out_f32, circle_args);
      PHASE(PHASE_MIX, mix_f32, mix_args);
    }
    at += p.size;
    if (at < a.size) grid_barrier(a.meet, gridDim.x);
  }
}
KERNEL_REGISTER(together_f32)

// A phase of an attention block, whose grid is as large as the largest of its products: a loop over a block's share would keep
// what its rounds have in common in registers, of which none are left.
template <class Run>
__device__ __forceinline__ void phase(unsigned x, unsigned y, unsigned z, Run run) {
  unsigned i = blockIdx.x;
  if (i < x * y * z) run(dim3{i % x, i / x % y, i / x / y}, dim3{x, y, z});
}

__device__ __forceinline__ void product(const product_phase& p) {
  phase(p.x, p.y, p.z, [&](dim3 block, dim3 grid) {
    if (p.kernel == PRODUCT_128X64) conv_gemm_f16_128x64_block(p.conv, block, grid);
    else if (p.kernel == PRODUCT_64X64) conv_gemm_f16_64x64_block(p.conv, block, grid);
    else conv_gemm_f16_64x32_block(p.conv, block, grid);
  });
}

// Threads of a block, and blocks of a multiprocessor: one for every 168 registers of a thread; capability 7.5 needs more of them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define ATTENTION_BLOCK 128, 2
#else
#define ATTENTION_BLOCK 128, 3
#endif

// An attention block: what its first product reads, queries, keys and values, attention, the last product. Phases without
// blocks are left out, those behind the last one too.
KERNEL_IN_PLACE(attention_block_f16, attention_block_args, ATTENTION_BLOCK)  // up to 36 KB
{
  if (a.input_blocks) {
    for (unsigned i = blockIdx.x; i < a.input_blocks; i += gridDim.x) conv_input_f16_block(a.input, dim3{i, 0, 0}, dim3{a.input_blocks, 1, 1});
    grid_barrier(a.meet, gridDim.x);
  }
  if (a.first.x) {
    product(a.first);
    if (!a.x && !a.last.x) return;
    grid_barrier(a.meet, gridDim.x);
  }
  if (a.x) {
    phase(a.x, a.y, a.z, [&](dim3 block, dim3 grid) {
      if (a.attention.dim <= 32) attention_flash_f16_32_block(a.attention, block, grid);
      else attention_flash_f16_64_block(a.attention, block, grid);
    });
    if (!a.last.x) return;
    grid_barrier(a.meet, gridDim.x);
  }
  product(a.last);
}
KERNEL_REGISTER(attention_block_f16)
