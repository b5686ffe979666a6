// The arguments of the kernels: every kernel takes one of these structs. Go fills them in through cgo, so that both sides
// have the same layout; addresses of the device are plain numbers there.
#pragma once

#ifdef __cplusplus
struct half;
typedef half *device_halves;
typedef void *device_any; // floats or halves
typedef float *device_floats;
typedef double *device_doubles;
typedef const int *device_ints;
typedef int *device_counters;
#else
typedef unsigned long long device_floats, device_doubles, device_ints, device_counters, device_halves, device_any;
#endif

enum { GATHER_ROOM = 8 * (3 * 32 + 1) }; // bytes of shared memory of a block of at most 1024 threads that gathers sums
enum { ACT_IDENTITY, ACT_SILU, ACT_TANH };
enum { SAMPLE_SAME, SAMPLE_UP2, SAMPLE_DOWN2 };
enum { POINT_MUL, POINT_CLIP, POINT_ROUND, POINT_POWER, POINT_WITHIN, POINT_SATURATE, POINT_COMPLEX, POINT_REAL, POINT_ABS, POINT_PHASE };

typedef struct {
	device_floats dst, src[2], affine, weight, bias, embed, residual, skip[2], skip_weight, skip_bias;
	int c[2], cs[2];        // channels of the sources and of the shortcut's
	int h, w, oh, ow, cout; // of the sources and of dst
	int size, stride, pad;
	int act, sampling, rsampling, relu;
	int embeds; // 1: one for all images
} conv_args;

// Fully connected layers of the same vectors. Each takes blocks from number first on.
enum { LINEAR_LAYERS = 96 }; // of one launch, whose arguments must fit in 4 KB
typedef struct {
	device_floats weight, bias, dst; // [cin][cout], [cout] or absent, [n][cout]
	int cout, first;
} linear_layer;

typedef struct {
	device_floats src; // [n][cin]
	int cin, act, layers;
	linear_layer layer[LINEAR_LAYERS];
} linear_args;

typedef struct {
	device_floats dst, m[2], gamma, beta, modulate;
	int c[2], n, groups, modulates;
	long long pixels;
	float eps;
} norm_args;

// Products of the channels of each pixel, a few: colours.
enum { MIX_MOST = 4 };
typedef struct {
	device_floats dst, src[2], weight, bias; // weight [c[0]+c[1]][cout]; bias may be absent
	long long pixels;                        // of all images
	int c[2], cout;                          // c[0]+c[1] and cout are up to MIX_MOST
} mix_args;

// Convolution of halves. Channels of the sources and of the shortcut's are multiples of 8, and their pixels lie at
// multiples of 16 bytes.
typedef struct {
	device_halves src[2], weight, skip[2], skip_weight; // weights are [cout][tap][channel]
	device_any dst, residual;
	device_floats affine, bias, skip_bias, embed;
	device_floats part;  // where splits > 1: sums over a part of the taps and channels, [n][column][tile][splits][what a block has]
	device_floats moments, tiles; // optional: of dst, and room for those of its tiles, [n][column][entries][2 * channels of a block + 1]
	device_counters done;         // of blocks, 0 before and after: [n], then [n][column][entries]
	norm_args norm; // of dst, or of dst beside another tensor; absent where norm.dst is
	int c[2], cs[2], n, h, w, oh, ow, cout;
	int size, stride, pad, up; // up: 1 where the source is enlarged
	int act, rsampling, relu, embeds;
	int dst_half, residual_half;
	int pairs; // cout is even, and halves of dst and residual lie at multiples of 4 bytes
	int splits, entries; // entries: the tiles of a column, and what their moments are joined to on the way to the image's
} conv_half_args;

// A matrix as the copying unit of a device of capability 9.0 sees it, made by the driver (cuTensorMapEncodeTiled).
typedef struct {
	unsigned long long opaque[16];
} __attribute__((aligned(64))) tensor_map;

typedef struct {
	tensor_map weight, skip_weight; // [cout][tap and channel]; the second one is read where there is a shortcut
	conv_half_args conv;
} conv_wgmma_args;

// What a convolution of halves reads where it cannot read the sources themselves.
typedef struct {
	device_any src[2];
	device_halves dst; // [n][uh][uw][cp]
	device_floats affine;
	int c[2], halves[2], cp;
	int h, w, uh, uw, act, sampling;
	long long count; // groups of 8 channels of dst
} conv_input_args;

typedef struct {
	device_floats dst;
	device_any x;
	device_doubles part; // [n][bands][2][c]
	long long pixels;
	int c, bands;
} moments_args;

typedef struct {
	device_any dst, q, k, v;
	int qc, kc, vc, dc; // channels of a pixel
	int qfirst, kfirst, vfirst, qstep, kstep, vstep;
	int queries, keys, dim;
	float scale;
} attention_args;

typedef struct {
	device_any dst, src;
	device_floats gamma, beta;
	long long pixels;
	int c;
	float eps;
} layernorm_args;

typedef struct {
	device_any dst, src;
	long long count; // elements of dst
	int c;
} geglu_args;

typedef struct {
	device_any dst, src;
	long long count; // elements of dst
	int h, w, c;     // of dst
	int sampling;
} resample_args;

typedef struct {
	device_floats dst, index, x, codes;
	long long pixels;
	int dim, count;
} nearest_args;

// How the elements of an image are dealt out to blocks, and the sums over them, in F64, that the kernel gathers on its way.
typedef struct {
	long long image;                // elements of an image
	int blocks, per;                // blocks of an image, elements of a block
	int sums;                       // how many; 0: none
	device_floats to, of, with[2];  // [n][sums]; see kernels.Products
	device_doubles part;            // [n][blocks][sums]
	device_counters done;           // [n]: the blocks that have finished; 0 before and after
} elements_args;

typedef struct {
	device_floats x, num, den;
	float factor;
	int n, c; // 1: repeated
} blend_term;

typedef struct {
	elements_args e;
	device_floats dst, mask, other;
	blend_term term[4];
	int c, terms, clip, mask_n, mask_c;
} blend_args;

typedef struct {
	elements_args e;
	device_floats b;
} dot_args;

typedef struct {
	elements_args e;
	device_floats x, r, p, s, z, w, sums, before, after; // before is absent at the first step
	int kinds; // of sums
} conjugate_args;

// A data term that sees every element alone; see kernels.Local. y is absent where a gradient is given.
typedef struct {
	device_floats y, mask;
	int c, mask_n, mask_c;
	float gain, low, high;
} local_args;

// Row i has weights start[i] to start[i+1], on columns first[i] and following.
typedef struct {
	device_ints first, start;
	device_floats weight;
	int rows, cols;
} band;

typedef struct {
	elements_args e;
	device_floats dst, src;
	band m, rows;       // rows: of the matrix that separable_f32 takes first
	long long count;    // elements of dst
	long long inner;    // elements behind each row of src and of dst
	int h, w, c;        // of dst, but for the first of two passes
	device_floats row_spectrum, col_spectrum, add;
	float rho, alpha, beta;
} band_args;

typedef struct {
	elements_args e;
	device_floats dst, src, add, weight;
	device_ints dy, dx; // of the taps whose weight is not zero
	int h, w, c, taps;
	float alpha, beta;
} filter_args;

typedef struct {
	elements_args e;
	local_args local;
	device_floats x, z, grad, x0, loss, counts;
	float limit, step, rho, momentum;
} accelerate_args;

typedef struct {
	elements_args e;
	local_args local;
	device_floats x, m, v, grad, x0, loss, counts;
	float limit, rate, rho, bias1, bias2;
} adam_args;

// A transform of n elements that fits into shared memory.
enum { FFT_STAGES = 12, FFT_ROOM = 3072 }; // the most stages; the most elements of all transforms of a block
typedef struct {
	int n, stages, radix[FFT_STAGES];
	device_floats table; // exp(-2 pi i j/n) for j < n, [n][2]
} fft_plan;

// Transforms of complex elements [outer][n][inner].
typedef struct {
	fft_plan plan;
	device_floats dst, src;
	long long outer, inner;
	int lines; // of a block: neighbours, or where they are less, those of some outers
	int inverse;
	float scale;
} fft_args;

// One radix of such a transform, in F32 numbers of any length.
typedef struct {
	device_floats dst, src, table;
	long long count, inner; // elements of dst; of the inner dimension
	int n, radix, before;   // before: the product of the radices before this one
	int inverse;
	int real_src, real_dst; // numbers without an imaginary part, which src lacks and dst drops
	float scale;
	device_floats over; // where present, element i of dst is divided by |over[i/over_inner % size]|^2 + rho
	long long over_inner, size;
	float rho;
} dft_args;

// What a circle_ kernel does with the spectrum of the kernel.
enum { TIMES, TIMES_CONJUGATE, OVER_SQUARE };

// Filters on a circle that the image with its margins fits on. Two channels are the parts of one complex plane; a frame is
// [n][planes][h][circle] complex. Place i of the circle mirrors pixel i - margin for i < span, and is zero from there on. With
// fade it mirrors pixel i so far beyond either border, around the circle, times weight[i], as kernels.Fading says.
typedef struct {
	elements_args e; // circle_out_f32 alone: blocks of an image, and sums
	fft_plan plan; // for a circle along this axis
	device_floats dst, src, add, spectrum; // spectrum [rows of the circle][its columns][2]
	long long lines; // rows: of all planes, out: of one image, in: of all; columns: planes of all images
	int h, w, c, planes;
	int width;       // of the frame: the circle along the rows
	int per;         // lines of a block
	int in_margin, in_span, out_margin, out_span;
	int fade;
	device_floats weight;
	int how;
	float rho, alpha, beta;
} circle_args;

typedef struct {
	device_floats dst, a, b;
	long long count, image; // numbers, real or complex, of all images and of one
	int c;                  // and of a pixel
	int op, b_n, b_c;
	float p, q;
} pointwise_args;

typedef struct {
	elements_args e; // an element is a thread, e.image = rows * lanes
	device_floats dst, src, add, weight;
	device_ints start, col;
	int rows, cols, c;
	int lanes; // threads that share a row, a power of two up to 32
	float alpha, beta;
} sparse_args;

// The kernels that may run as a phase of together_f32, one phase after the other in one launch.
enum {
	PHASE_DOT, PHASE_SEPARABLE, PHASE_BAND_ROWS, PHASE_BAND_COLS, PHASE_FILTER, PHASE_FILTER_ADJOINT, PHASE_BLEND, PHASE_CONJUGATE, PHASE_ACCELERATE, PHASE_ADAM,
	PHASE_POINTWISE, PHASE_RESAMPLE, PHASE_SPARSE, PHASE_FFT, PHASE_DFT, PHASE_CIRCLE_IN, PHASE_CIRCLE_COLUMNS, PHASE_CIRCLE_OUT, PHASE_MIX
};

typedef struct {
	int kernel, size;   // size: bytes of this and of the arguments behind it, a multiple of 8
	unsigned x, y, z;   // the grid
	unsigned blocks;    // of it
} phase_args;

enum { TOGETHER_ROOM = 4000 }; // bytes for phases: arguments of a launch are at most 4 KB
typedef struct {
	device_counters meet; // see grid_barrier
	int size;             // bytes of room that are taken
	unsigned long long room[TOGETHER_ROOM / 8];
} together_args;

// An attention block in one launch. Its phases have blocks like launches of their own.
enum { PRODUCT_128X64, PRODUCT_64X64, PRODUCT_64X32 };
typedef struct {
	int kernel;
	unsigned x, y, z;
	conv_half_args conv;
} product_phase;

typedef struct {
	device_counters meet; // see grid_barrier
	conv_input_args input;
	unsigned input_blocks, x, y, z; // x, y, z: of attention
	product_phase first, last;
	attention_args attention;
} attention_block_args;
