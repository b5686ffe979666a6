// The arguments of the leaf kernels and the table of one instruction set's implementations. Everything is float32 NHWC;
// Go fills these structs, with pointers to memory of C only, and calls one leaf per task. A leaf works on its task alone,
// so how tasks are dealt out to threads cannot change a result.
#ifndef SPIN_H
#define SPIN_H

#include <stdint.h>

enum { ACT_IDENTITY, ACT_SILU, ACT_TANH };
enum { SAME, UP2, DOWN2 };
enum { FORM_AUTO, FORM_DIRECT, FORM_WINOGRAD2, FORM_WINOGRAD4, FORM_WINOGRAD6, FORM_WINOGRAD_UP, FORM_BF16 };

enum { BRIEF_ANY, BRIEF_DOT, BRIEF_AMX }; // how to multiply bfloat16

typedef struct {
	float *dst;
	const float *src[2];
	const float *affine, *bias, *embed, *residual;
	const void *weight;       // packed, F32 or, with half, F16
	const float *skip[2];     // sources of the shortcut; dst is the residual then
	const void *skip_weight;
	const float *skip_bias;
	float *moments;           // per image and unit: means, then squared deviations
	int c[2], cs[2];          // channels of the sources, of the shortcut's
	int half, skip_half;
	int brief;                // how bfloat16 is multiplied
	int embeds;               // images in embed: all, or one for all
	int act, sampling, rsampling, form;
	int h, w;       // size of the sources
	int uh, uw;     // after resampling
	int oh, ow, cin, cout, size, stride, pad, pad_end;
	int relu;
	int rows;       // output rows per unit
	int units;      // per image
	int tiles;      // Winograd tiles per block
	int split;      // output channels per task, a multiple of the panel width
	int group;      // and per pass over the transformed inputs of a Winograd block
} conv_args;

// span is units [from, to) of one image.
typedef struct {
	int image, from, to;
} span;

typedef struct {
	float *dst;
	const float *q, *k, *v;
	float *kp, *vp;             // packed keys and values of all images and heads
	int qc, kc, vc, dc;         // pixel strides
	int qfirst, kfirst, vfirst; // first channel of head 0
	int qstep, kstep, vstep;    // channels from head to head
	int queries, keys, heads, dim;
	float scale;
} attention_args;

typedef struct {
	float *dst;
	const float *x[4];
	float c[4];                  // with the quotients multiplied in, for this image
	int xc1[4];                  // 1: a single channel, repeated
	int terms, clip, channels;
	const float *mask, *other;
	int mask1;
} blend_args;

// local_args is the data term of a measurement that sees every element alone, for one image.
typedef struct {
	const float *y, *mask; // mask is optional
	int mask1, channels;   // mask1: a single channel, repeated
	float gain, low, high;
	int loss;              // 1: steps tell it
} local_args;

enum { POINT_MUL, POINT_CLIP, POINT_ROUND, POINT_POWER, POINT_WITHIN, POINT_SATURATE, POINT_COMPLEX, POINT_REAL, POINT_ABS, POINT_PHASE };

enum { FMA_CHAINS = 12 };
enum { FFT_RADIX = 61 }; // the largest prime that is a radix
enum { TIMES, TIMES_CONJUGATE, OVER_SQUARE }; // what circle_columns does with a spectrum

// fft_plan says how to transform one length: by a chain of radices, or as a convolution with a chirp.
typedef struct fft_plan {
	int n, stages;
	int radix[32];
	const float *tables;                // per stage: the roots if the radix is odd, then radix - 1 factors for every group
	const struct fft_plan *convolution; // the chain for the length of the convolution; null: none
	const float *chirp;                 // exp(-i pi k^2 / n)
	const float *spectrum;              // the transform of its conjugate, divided by the length of the convolution
} fft_plan;

// circle_map says for each place of a circle which pixel it is a copy of, or is added to, times a weight; -1 is none.
typedef struct {
	const int *at;
	const float *weight; // null: all are 1
} circle_map;

typedef struct {
	int lanes; // floats per vector
	int panel; // output channels per packed panel
	int brief; // the instructions for bfloat16 are compiled in
	// conv_pack lays OIHW weights out for conv_task; conv_scratch is the floats of scratch that a task needs.
	long (*conv_packed)(const conv_args *);
	void (*conv_pack)(const conv_args *, const float *oihw, float *packed);
	long (*conv_scratch)(const conv_args *);
	void (*conv_task)(const conv_args *, int n, int u0, int u1, int c0, int c1, float *scratch);
	void (*moments_join)(const float *part, int units, long pixels, long all, int c, float *out);
	int (*halve)(const float *, long n, uint16_t *); // F32 to F16; 0 where a number does not fit
	void (*moments)(const float *x, long pixels, int c, float *mean, float *m2);
	long (*attention_packed)(const attention_args *, long *kfloats); // floats of one head's keys and values
	void (*attention_pack)(const attention_args *, int n, int head);
	long (*attention_scratch)(const attention_args *);
	int (*attention_rows)(void); // queries per task
	void (*attention_task)(const attention_args *, int n, int head, int block, float *scratch);
	void (*layer_norm)(const float *src, float *dst, long pixels, int c, const float *gamma, const float *beta, float eps);
	void (*geglu)(const float *src, float *dst, long pixels, int c);
	void (*resample)(const float *src, float *dst, int h, int w, int c, int sampling, int y0, int y1);
	void (*nearest)(const float *x, const float *codes, float *dst, float *index, long pixels, int dim, int count);
	void (*blend)(const blend_args *, long i0, long i1);
	double (*dot)(const float *a, const float *b, long n);
	void (*axpys)(float *dst, const float *const *src, const float *w, int n, long len);
	void (*conjugate)(float *x, float *r, float *p, float *s, const float *z, const float *w, long n, float alpha, float beta, int first);
	// The gradient is given, or else that of a local data term, whose loss is the result.
	double (*accelerate)(float *x, float *z, const float *grad, const float *x0, long i0, long i1, float step, float rho, float momentum, const local_args *);
	double (*adam)(float *x, float *m, float *v, const float *grad, const float *x0, long i0, long i1, float rate, float rho, float c1, float c2, const local_args *);
	void (*horizontal)(const float *src, float *dst, int rows, int cols, int out, int c, const int *first, const int *count,
		const int *offset, const float *w, float *scratch);
	void (*finish)(float *dst, const float *u, int cols, int c, const float *row, const float *col, float rho, float alpha,
		const float *add, float beta);
	void (*filter_row)(float *dst, const float *src, long pitch, long len, const int *dy, const int *dx, const float *w, int taps, int c);
	void (*pointwise)(int op, float *dst, const float *a, const float *b, int repeat, long i0, long i1, float p, float q);
	void (*sparse_pack)(const float *src, float *dst, int images, long pixels, int c, long p0, long p1);
	void (*sparse)(const int *start, const int *col, const float *w, const float *src, float *dst, int images, int rows, int c,
		int r0, int r1, float alpha, const float *add, float beta);
	float (*fma_chains)(long steps); // FMA_CHAINS vectors, one multiply-add each per step; the result has no meaning
	void (*fft_rows)(const fft_plan *, const float *src, float *dst, int rows, int c, int inverse, float *scratch);
	void (*fft_columns)(const fft_plan *, const float *src, float *dst, long pitch, int columns, int inverse, float scale, float *scratch);
	void (*circle_in)(const fft_plan *, const float *src, float *dst, int rows, int w, int c, circle_map map, long plane, float *scratch);
	void (*circle_columns)(const fft_plan *, float *plane, int h, long pitch, int columns, circle_map in, circle_map out,
		const float *spectrum, int how, float rho, float *scratch);
	void (*circle_out)(const fft_plan *, const float *src, float *dst, int rows, int w, int c, circle_map map, long plane,
		float alpha, const float *add, float beta, float *scratch);
} level;

const level *spin_level_base(void);
const level *spin_level_avx2(void);
const level *spin_level_avx512(void);
const level *spin_level_wide(void);

// spin_amx asks the system for AMX, for all threads, and reports whether they may use it.
int spin_amx(void);

void *spin_alloc(unsigned long bytes);
void spin_free(void *);

#endif
