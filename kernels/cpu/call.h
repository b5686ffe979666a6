// One C function per entry of the table: Go cannot call a function pointer.
#include "spin.h"

static long call_conv_packed(const level *l, const conv_args *a) { return l->conv_packed(a); }
static void call_conv_pack(const level *l, const conv_args *a, const float *w, float *p) { l->conv_pack(a, w, p); }
static long call_conv_scratch(const level *l, const conv_args *a) { return l->conv_scratch(a); }
// call_conv_tasks takes tasks until there are none left: every span for every one of the splits of the output channels; next is
// the first that nobody has taken. The loop is in C because Go's scheduler looks after a thread whenever it comes back.
static void call_conv_tasks(const level *l, const conv_args *a, const span *spans, long tasks, int splits, long *next, float *scratch) {
	for (long t; (t = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < tasks;) {
		const span s = spans[t / splits];
		const int c0 = (int)(t % splits) * a->split, c1 = c0 + a->split;
		l->conv_task(a, s.image, s.from, s.to, c0, c1 < a->cout ? c1 : a->cout, scratch);
	}
}
static void call_moments_join(const level *l, const float *part, int units, long pixels, long all, int c, float *out) { l->moments_join(part, units, pixels, all, c, out); }
static int call_halve(const level *l, const float *x, long n, uint16_t *out) { return l->halve(x, n, out); }
static void call_moments(const level *l, const float *x, long pixels, int c, float *mean, float *m2) { l->moments(x, pixels, c, mean, m2); }
static long call_attention_packed(const level *l, const attention_args *a, long *k) { return l->attention_packed(a, k); }
static void call_attention_pack(const level *l, const attention_args *a, int n, int h) { l->attention_pack(a, n, h); }
static long call_attention_scratch(const level *l, const attention_args *a) { return l->attention_scratch(a); }
static int call_attention_rows(const level *l) { return l->attention_rows(); }
static void call_attention_task(const level *l, const attention_args *a, int n, int h, int b, float *scratch) { l->attention_task(a, n, h, b, scratch); }
static void call_layer_norm(const level *l, const float *src, float *dst, long pixels, int c, const float *gamma, const float *beta, float eps) { l->layer_norm(src, dst, pixels, c, gamma, beta, eps); }
static void call_geglu(const level *l, const float *src, float *dst, long pixels, int c) { l->geglu(src, dst, pixels, c); }
static void call_resample(const level *l, const float *src, float *dst, int h, int w, int c, int s, int y0, int y1) { l->resample(src, dst, h, w, c, s, y0, y1); }
static void call_nearest(const level *l, const float *x, const float *codes, float *dst, float *index, long pixels, int dim, int count) { l->nearest(x, codes, dst, index, pixels, dim, count); }
static void call_blend(const level *l, const blend_args *a, long i0, long i1) { l->blend(a, i0, i1); }
static double call_dot(const level *l, const float *a, const float *b, long n) { return l->dot(a, b, n); }
static void call_axpys(const level *l, float *dst, const float *const *src, const float *w, int n, long len) { l->axpys(dst, src, w, n, len); }
static void call_conjugate(const level *l, float *x, float *r, float *p, float *s, const float *z, const float *w, long n, float alpha, float beta, int first) { l->conjugate(x, r, p, s, z, w, n, alpha, beta, first); }
static double call_accelerate(const level *l, float *x, float *z, const float *g, const float *x0, long i0, long i1, float step, float rho, float momentum, const local_args *t) { return l->accelerate(x, z, g, x0, i0, i1, step, rho, momentum, t); }
static double call_adam(const level *l, float *x, float *m, float *v, const float *g, const float *x0, long i0, long i1, float rate, float rho, float c1, float c2, const local_args *t) { return l->adam(x, m, v, g, x0, i0, i1, rate, rho, c1, c2, t); }
static void call_horizontal(const level *l, const float *src, float *dst, int rows, int cols, int out, int c, const int *first, const int *count, const int *offset, const float *w, float *scratch) { l->horizontal(src, dst, rows, cols, out, c, first, count, offset, w, scratch); }
static void call_finish(const level *l, float *dst, const float *u, int cols, int c, const float *row, const float *col, float rho, float alpha, const float *add, float beta) { l->finish(dst, u, cols, c, row, col, rho, alpha, add, beta); }
static void call_filter_row(const level *l, float *dst, const float *src, long pitch, long len, const int *dy, const int *dx, const float *w, int taps, int c) { l->filter_row(dst, src, pitch, len, dy, dx, w, taps, c); }
static void call_pointwise(const level *l, int op, float *dst, const float *a, const float *b, int repeat, long i0, long i1, float p, float q) { l->pointwise(op, dst, a, b, repeat, i0, i1, p, q); }
static void call_sparse_pack(const level *l, const float *src, float *dst, int images, long pixels, int c, long p0, long p1) { l->sparse_pack(src, dst, images, pixels, c, p0, p1); }
static void call_sparse(const level *l, const int *start, const int *col, const float *w, const float *src, float *dst, int images, int rows, int c, int r0, int r1, float alpha, const float *add, float beta) { l->sparse(start, col, w, src, dst, images, rows, c, r0, r1, alpha, add, beta); }
static float call_fma_chains(const level *l, long steps) { return l->fma_chains(steps); }
static void call_fft_rows(const level *l, const fft_plan *f, const float *src, float *dst, int rows, int c, int inverse, float *scratch) { l->fft_rows(f, src, dst, rows, c, inverse, scratch); }
static void call_fft_columns(const level *l, const fft_plan *f, const float *src, float *dst, long pitch, int columns, int inverse, float scale, float *scratch) { l->fft_columns(f, src, dst, pitch, columns, inverse, scale, scratch); }
static void call_circle_in(const level *l, const fft_plan *f, const float *src, float *dst, int rows, int w, int c, const int *map, const float *weight, long plane, float *scratch) { l->circle_in(f, src, dst, rows, w, c, (circle_map){map, weight}, plane, scratch); }
static void call_circle_columns(const level *l, const fft_plan *f, float *plane, int h, long pitch, int columns, const int *in, const float *in_weight, const int *out, const float *out_weight, const float *spectrum, int how, float rho, float *scratch) { l->circle_columns(f, plane, h, pitch, columns, (circle_map){in, in_weight}, (circle_map){out, out_weight}, spectrum, how, rho, scratch); }
static void call_circle_out(const level *l, const fft_plan *f, const float *src, float *dst, int rows, int w, int c, const int *map, const float *weight, long plane, float alpha, const float *add, float beta, float *scratch) { l->circle_out(f, src, dst, rows, w, c, (circle_map){map, weight}, plane, alpha, add, beta, scratch); }
