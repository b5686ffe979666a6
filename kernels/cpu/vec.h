// Vectors of LANES floats in the compiler's own vector extension, so that one template serves every instruction set. A
// level file sets the target and LANES, MR and LEVEL, and includes template.h.
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "spin.h"

#define INL static inline __attribute__((always_inline))
#define NR (2 * LANES) // output channels of one register tile

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vfu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float quad __attribute__((vector_size(16)));

INL vf load(const float *p) { return *(const vfu *)p; }
INL void store(float *p, vf v) { *(vfu *)p = v; }
INL vf splat(float x) { return x - (vf){0}; }
INL vf loadn(const float *p, int n) { // n < LANES values, the rest 0
	float t[LANES] = {0};
	for (int i = 0; i < n; i++) t[i] = p[i];
	return load(t);
}
INL void storen(float *p, vf v, int n) {
	float t[LANES];
	store(t, v);
	for (int i = 0; i < n; i++) p[i] = t[i];
}

// root is the square root, by the instruction: sqrtf would call the library for negative numbers.
#if defined(__SSE__)
#include <immintrin.h>
INL quad quadsqrt(quad v) { return (quad)_mm_sqrt_ps((__m128)v); }
#elif defined(__aarch64__)
#include <arm_neon.h>
INL quad quadsqrt(quad v) { return (quad)vsqrtq_f32((float32x4_t)v); }
#else
INL quad quadsqrt(quad v) { return (quad){sqrtf(v[0]), sqrtf(v[1]), sqrtf(v[2]), sqrtf(v[3])}; }
#endif
INL float root(float x) { return quadsqrt((quad){x})[0]; }

// vmax(a, b) and vmin(a, b) are b where either is NaN.
#if defined(__AVX512F__) && LANES == 16
INL vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INL vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INL vf vsqrt(vf v) { return (vf)_mm512_sqrt_ps((__m512)v); }
#elif defined(__AVX__) && LANES == 8
INL vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INL vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INL vf vsqrt(vf v) { return (vf)_mm256_sqrt_ps((__m256)v); }
#elif defined(__SSE__) && LANES == 4
INL vf vmax(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INL vf vmin(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
INL vf vsqrt(vf v) { return quadsqrt(v); }
#else
INL vf vmax(vf a, vf b) { return (vf)(((vi)a & (a > b)) | ((vi)b & ~(a > b))); }
INL vf vmin(vf a, vf b) { return (vf)(((vi)a & (a < b)) | ((vi)b & ~(a < b))); }
INL vf vsqrt(vf v) {
	quad part[LANES / 4];
	memcpy(part, &v, sizeof part);
	for (int i = 0; i < LANES / 4; i++) part[i] = quadsqrt(part[i]);
	memcpy(&v, part, sizeof part);
	return v;
}
#endif
INL vf choose(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); } // mask ? a : b, per lane
INL float hsum(vf v) { // the sum of all lanes
	quad part[LANES / 4], s = {0};
	memcpy(part, &v, sizeof part);
	for (int i = 0; i < LANES / 4; i++) s += part[i];
	return (s[0] + s[1]) + (s[2] + s[3]);
}
INL long roundup(long n, long m) { return (n + m - 1) / m * m; }
INL int mini(int a, int b) { return a < b ? a : b; }

// vexp is exp to about one unit in the last place: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial in r, times 2^n. The
// argument is clamped to where the result is normal; below -87 it is under 1.7e-38, which no sum here can tell from 0.
INL vf vexp(vf x) {
	x = vmax(splat(-87.0f), vmin(splat(88.3762626647950f), x));
	const vf magic = splat(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
	vf n = x * 1.44269504088896341f + magic;
	vi e = ((vi)n - (vi)magic) << 23;
	n = n - magic;
	vf r = x - n * 0.693145751953125f;
	r = r - n * 1.42860682030941723212e-6f;
	vf p = splat(1.9875691500e-4f);
	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * (r * r) + r + 1.0f;
	return (vf)((vi)p + e);
}

// vexp2 is 2^x for x <= 0 to about one unit in the last place: a polynomial on [-1/2, 1/2], fitted to the least relative
// error (2e-9), times 2^n. Below -126 it is under 1.2e-38, as in vexp.
INL vf vexp2(vf x) {
	x = vmax(splat(-126.0f), x);
	const vf magic = splat(12582912.0f);
	vf n = x + magic;
	const vi e = (vi)n << 23; // the bits of magic leave at the top
	const vf r = x - (n - magic);
	vf p = splat(1.5353361959569156e-4f);
	p = p * r + 1.3398875016719103e-3f;
	p = p * r + 9.61843691766262e-3f;
	p = p * r + 5.5503323674201965e-2f;
	p = p * r + 2.4022647738456726e-1f;
	p = p * r + 6.931471824645996e-1f;
	p = p * r + 1.0f;
	return (vf)((vi)p + e);
}

// widen reads LANES weights, stored as F32 or as F16. F16 weights are finite: infinities need no care.
INL vf widen(const void *p, int half) {
	if (!half) return load(p);
#if defined(__AVX512F__) && LANES == 16
	return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__) && LANES == 8
	return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
	typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
	vh h;
	memcpy(&h, p, sizeof h);
	const vi x = __builtin_convertvector(h, vi);
	// The exponent's bias differs by 112; the product also makes subnormal numbers normal.
	const vf v = (vf)((x & 0x7fff) << 13) * 0x1p112f;
	return (vf)((vi)v | (x & 0x8000) << 16);
#endif
}

INL vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }

// vtanh is tanh to about two units in the last place: an odd polynomial (of Cephes) up to 0.625, where the form with exp
// would lose digits, then 1 - 2 / (exp(2x) + 1).
INL vf vtanh(vf x) {
	const vf z = x * x;
	vf p = splat(-5.70498872745e-3f);
	p = p * z + 2.06390887954e-2f;
	p = p * z - 5.37397155531e-2f;
	p = p * z + 1.33314422036e-1f;
	p = p * z - 3.33332819422e-1f;
	return choose(z < 0.390625f, p * z * x + x, 1.0f - 2.0f / (vexp(2.0f * x) + 1.0f));
}

INL vf activate(int act, vf x) { return act == ACT_SILU ? vsilu(x) : act == ACT_TANH ? vtanh(x) : x; }

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif
// PICK(a, b, f, s) is the vector whose lane l is element f(l, s) of a and b end to end.
#define PICK4(f, s, l) f(l, s), f(l + 1, s), f(l + 2, s), f(l + 3, s)
#if LANES == 4
#define PICK(a, b, f, s) SHUFFLE(a, b, PICK4(f, s, 0))
#elif LANES == 8
#define PICK(a, b, f, s) SHUFFLE(a, b, PICK4(f, s, 0), PICK4(f, s, 4))
#else
#define PICK(a, b, f, s) SHUFFLE(a, b, PICK4(f, s, 0), PICK4(f, s, 4), PICK4(f, s, 8), PICK4(f, s, 12))
#endif

// The blocks of s x s off the diagonal change places; for s = 1, 2, 4, ... in turn, that transposes a square.
#define UPPER(l, s) ((l) & (s) ? LANES + (l) - (s) : (l))
#define LOWER(l, s) ((l) & (s) ? LANES + (l) : (l) + (s))
#define TURN(s) \
	_Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) if (!(i & (s))) { \
		const vf a = v[i], b = v[i + (s)]; \
		v[i] = PICK(a, b, UPPER, s), v[i + (s)] = PICK(a, b, LOWER, s); \
	}

// turn transposes a square.
INL void turn(vf v[LANES]) {
	TURN(1)
	TURN(2)
#if LANES > 4
	TURN(4)
#endif
#if LANES > 8
	TURN(8)
#endif
}
