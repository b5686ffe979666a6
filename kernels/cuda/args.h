// The arguments of the kernels: every kernel takes one of these structs. Go fills them in through cgo, so that both sides
// have the same layout; addresses of the device are plain numbers there.
#pragma once

#ifdef __cplusplus
typedef float *device_floats;
typedef double *device_doubles;
typedef const int *device_ints;
#else
typedef unsigned long long device_floats, device_doubles, device_ints;
#endif

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

typedef struct {
	device_floats dst, x;
	device_doubles part; // [n][bands][2][c]
	long long pixels;
	int c, bands;
} moments_args;

typedef struct {
	device_floats dst, m[2], gamma, beta, modulate;
	int c[2], n, groups, modulates;
	long long pixels;
	float eps;
} norm_args;

typedef struct {
	device_floats dst, q, k, v;
	int qc, kc, vc, dc; // channels of a pixel
	int qfirst, kfirst, vfirst, qstep, kstep, vstep;
	int queries, keys, dim;
	float scale;
} attention_args;

typedef struct {
	device_floats dst, src, gamma, beta;
	long long pixels;
	int c;
	float eps;
} layernorm_args;

typedef struct {
	device_floats dst, src;
	long long count; // elements of dst
	int c;
} geglu_args;

typedef struct {
	device_floats dst, src;
	long long count; // elements of dst
	int h, w, c;     // of dst
	int sampling;
} resample_args;

typedef struct {
	device_floats dst, index, x, codes;
	long long pixels;
	int dim, count;
} nearest_args;

typedef struct {
	device_floats x, num, den;
	float factor;
	int n, c; // 1: repeated
} blend_term;

typedef struct {
	device_floats dst, mask, other;
	blend_term term[4];
	long long count, image; // elements of dst and of one image of it
	int c, terms, clip, mask_n, mask_c;
} blend_args;

typedef struct {
	device_floats dst, a, b;
	device_doubles part; // [n][bands]
	long long image;     // elements
	int bands;
} dot_args;

typedef struct {
	device_floats dst, src;
	device_ints first, start; // row i has weights start[i] to start[i+1], on columns first[i] and following
	device_floats weight;
	long long count;    // elements of dst
	int rows, cols;     // of the matrix
	long long inner;    // elements behind each row of src and of dst
	int h, w, c;        // the second pass: of dst
	device_floats row_spectrum, col_spectrum, add;
	float rho, alpha, beta;
} band_args;

typedef struct {
	device_floats dst, src, add, weight;
	device_ints dy, dx; // of the taps whose weight is not zero
	long long count;    // elements of dst
	int h, w, c, taps;
	float alpha, beta;
} filter_args;

typedef struct {
	device_floats x, z, grad, x0, loss;
	long long count, image;
	float limit, step, rho, momentum;
} accelerate_args;

typedef struct {
	device_floats x, m, v, grad, x0, loss;
	long long count, image;
	float limit, rate, rho, bias1, bias2;
} adam_args;

typedef struct {
	device_floats dst, src, table; // exp(-2 pi i j/n) for j < n, [n][2]
	long long count;               // complex elements
	int n;
	long long step; // floats from one element of a transform to the next, were both sides complex
	int inverse;
	int real_src, real_dst; // numbers without an imaginary part, which src lacks and dst drops
	float scale;
	device_floats over; // where present, element i of dst is divided by over[i/width % size] + rho
	long long width, size;
	float rho;
} dft_args;

typedef struct {
	device_floats dst, weight, rows, cols; // tables for w and for h, as in dft_args
	device_ints dy, dx;
	int h, w, taps;
} power_args;

typedef struct {
	device_floats dst, a, b;
	long long count, image; // numbers, real or complex, of all images and of one
	int c;                  // and of a pixel
	int op, b_n, b_c;
	float p, q;
} pointwise_args;

typedef struct {
	device_floats dst, src, add, weight;
	device_ints start, col;
	long long count; // rows of all images
	int rows, cols, c;
	int lanes; // threads that share a row, a power of two up to 32
	float alpha, beta;
} sparse_args;
