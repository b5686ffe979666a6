// Formulas by element, and sparse matrices.

enum { POINTS = 1024 }; // numbers at a time, whose copies stay in the first-level cache

// absolute is the absolute value of x + iy, whose squares may be out of range. A NaN in either stays one.
INL vf absolute(vf x, vf y) {
	x = (vf)((vi)x & 0x7fffffff), y = (vf)((vi)y & 0x7fffffff);
	const vf large = vmax(x, y), t = vmin(y, x) / large;
	return choose(large == 0, x + y, large * vsqrt(1.0f + t * t)); // the sum, as x may be NaN
}

// rounded is the nearest whole number, halves to even: by an instruction, or as adding 2^52 rounds. From there on there are no
// other numbers.
INL double rounded(double x) {
#if defined(__SSE4_1__) || defined(__aarch64__)
	return __builtin_rint(x);
#else
	const double far = __builtin_copysign(0x1p52, x), near = x + far - far;
	return __builtin_fabs(x) < 0x1p52 ? near : x;
#endif
}

typedef double vd __attribute__((vector_size(8 * LANES)));
typedef uint64_t vl __attribute__((vector_size(8 * LANES)));

INL vd splatd(double x) { return x - (vd){0}; }

// log2s is log2 a for finite a above zero. a = 2^e m with m from sqrt 1/2 to sqrt 2, and log2 m is a polynomial, odd in
// s = (m - 1) / (m + 1), so that it keeps its digits where it is close to zero; fitted to the least relative error, 3e-14.
// For 0, infinity and NaN it is some number above 1000.
INL vd log2s(vd a) {
	const uint64_t one = (uint64_t)1 << 52;                // of the exponent
	const vl e = (vl)a + (256 * one - 0x3fe6a09e667f3bcd); // less sqrt 1/2: from bit 52 on that is e + 256
	const vd m = (vd)((vl)a - (e & -one));                 // 2^-256 m
	const vd s = (m - 0x1p-256) / (m + 0x1p-256), z = s * s, zz = z * z;
	const vd high = (z * 0.28289928347985155 + 0.3199057549773274) * zz + (z * 0.4122092510561418 + 0.5770779423767817);
	return (high * zz + (z * 0.9617966941133066 + 2.88539008177785)) * s + ((vd)(e >> 52 | 1075 * one) - (0x1p52 + 256));
}

// exp2s is 2^y for |y| < 1000, to 4e-11: vexp2 with a term more.
INL vd exp2s(vd y) {
	const vd n = y + 0x1.8p52, r = y - (n - 0x1.8p52), rr = r * r;
	const vd high = (r * 1.5201922641975562e-5 + 1.546929113080106e-4) * rr + (r * 1.3333922559077525e-3 + 9.618027253711369e-3);
	const vd low = (r * 5.5504103534532084e-2 + 2.4022651198157208e-1) * rr + (r * 6.931471807284456e-1 + 9.99999999961682e-1);
	return (high * (rr * rr) + low) * (vd)(((vl)n + 1023) << 52);
}

// powers: dst = a^q for a that are not negative, to 0.501 units in the last place. It reports whether all are right: zeros,
// infinities, NaN and what is far out of a float's range are not.
static __attribute__((noinline)) int powers(const float *a, float *dst, int n, double q) {
	vd squares = {0};
	for (int k = 0; k < n; k += LANES) {
		const vd l = log2s(__builtin_convertvector(load(a + k), vd));
		squares += l * l;
		store(dst + k, __builtin_convertvector(exp2s(l * q), vf));
	}
	double sum = 0;
	for (int i = 0; i < LANES; i++) sum += squares[i];
	return sum < 1e6 && sum * q * q < 1e6;
}

// power is x^q as C's pow has it, zeros, infinities, NaN and signs included; p is what powers made of |x|.
static float power(float x, double q, float p) {
	const double a = __builtin_fabs(x);
	const int whole = q == rounded(q), odd = whole && q != 2 * rounded(q / 2);
	if (q == 0 || x == 1) return 1; // of NaN, or with NaN, too
	if (x != x || q != q || (x < 0 && a < INFINITY && !whole)) return NAN;
	if (a == 1) p = 1;
	else if (!(a > 0 && a < INFINITY && q * q < 36)) { // otherwise |y| < 900
		const double y = q * (a == 0 ? -INFINITY : a < INFINITY ? log2s(splatd(a))[0] : a);
		p = y >= 900 ? INFINITY : y <= -900 ? 0 : p;
	}
	return odd ? __builtin_copysignf(p, x) : p;
}

// pointwise computes numbers [i0, i1) of one image. A value of b stands for `repeat` numbers that follow one another.
static void pointwise(int op, float *dst, const float *a, const float *b, int repeat, long i0, long i1, float p, float q) {
	float x[POINTS], y[POINTS], v[POINTS];
	for (long i = i0; i < i1; i += POINTS) {
		const int n = i1 - i < POINTS ? (int)(i1 - i) : POINTS;
		if (op == POINT_REAL || op == POINT_ABS || op == POINT_PHASE)
			for (int k = 0; k < n; k++) x[k] = a[2 * (i + k)], y[k] = a[2 * (i + k) + 1];
		else
			memcpy(x, a + i, n * sizeof *x);
		if (!b) memset(v, 0, sizeof v);
		else if (repeat == 1) memcpy(v, b + i, n * sizeof *v);
		else {
			const float *from = b + i / repeat;
			for (int k = 0, left = repeat - (int)(i % repeat); k < n; k++) {
				v[k] = *from;
				if (!--left) from++, left = repeat;
			}
		}
		switch (op) {
		case POINT_MUL:
			for (int k = 0; k < n; k++) x[k] *= v[k];
			break;
		case POINT_CLIP:
			for (int k = 0; k < n; k++) x[k] = x[k] < p ? p : x[k] > q ? q : x[k];
			break;
		case POINT_ROUND:
			for (int k = 0; k < n; k++) x[k] = (float)(q + p * rounded(((double)x[k] - q) / p));
			break;
		case POINT_POWER:
			for (int k = 0; k < n; k++) x[k] = x[k] < p ? p : x[k], y[k] = __builtin_fabsf(x[k]);
			for (int k = n; k % LANES; k++) y[k] = 1;
			if (!powers(y, v, n, q) | !(p >= 0))
				for (int k = 0; k < n; k++) v[k] = power(x[k], q, v[k]);
			memcpy(x, v, n * sizeof *x);
			break;
		case POINT_WITHIN:
			for (int k = 0; k < n; k++) x[k] = (x[k] >= p) & (x[k] <= q) ? 1 : 0;
			break;
		case POINT_SATURATE:
			for (int k = 0; k < n; k++) {
				float r = x[k] - v[k];
				r = (v[k] >= q) & (r > 0) ? 0 : r;
				x[k] = (v[k] <= p) & (r < 0) ? 0 : r;
			}
			break;
		case POINT_ABS:
			for (int k = 0; k < n; k += LANES) store(x + k, absolute(load(x + k), load(y + k)));
			break;
		case POINT_PHASE:
			for (int k = 0; k < n; k += LANES) {
				const vf re = load(x + k), im = load(y + k), s = load(v + k) / vmax(splat(p), absolute(re, im));
				store(x + k, s * re), store(y + k, s * im);
			}
			break;
		}
		if (op == POINT_COMPLEX || op == POINT_PHASE) {
			const float *im = op == POINT_COMPLEX ? v : y;
			for (int k = 0; k < n; k++) dst[2 * (i + k)] = x[k], dst[2 * (i + k) + 1] = im[k];
		} else {
			memcpy(dst + i, x, n * sizeof *x);
		}
	}
}

// A product with a sparse matrix reads pixels in any order. Packed, a pixel is the channels of all images, filled up with
// zeros to whole quads: whatever their number, a weight is read once and meets four channels in one instruction.
typedef float quadu __attribute__((vector_size(16), aligned(4), may_alias));

INL int quads(int images, int c) { return (images * c + 3) / 4 * 4; }

// sparse_pack packs pixels [p0, p1).
static void sparse_pack(const float *src, float *dst, int images, long pixels, int c, long p0, long p1) {
	const int pitch = quads(images, c);
	for (int n = 0; n < images; n++)
		for (long p = p0; p < p1; p++)
			for (int i = 0; i < c; i++) dst[p * pitch + n * c + i] = src[(n * pixels + p) * c + i];
	for (int i = images * c; i < pitch; i++)
		for (long p = p0; p < p1; p++) dst[p * pitch + i] = 0;
}

// sparse: rows [r0, r1) of alpha * M src + beta * add for packed pixels; add is optional and may be dst.
static void sparse(const int *start, const int *col, const float *w, const float *src, float *dst, int images, int rows, int c,
	int r0, int r1, float alpha, const float *add, float beta) {
	const long pitch = quads(images, c);
	for (int r = r0; r < r1; r++)
		for (int i = 0; i < pitch; i += 4) {
			const float *p = src + i;
			quad s[4] = {{0}};
			int k = start[r];
			for (; k + 4 <= start[r + 1]; k += 4)
				_Pragma("GCC unroll 4") for (int l = 0; l < 4; l++) s[l] += w[k + l] * *(const quadu *)(p + col[k + l] * pitch);
			for (; k < start[r + 1]; k++) s[0] += w[k] * *(const quadu *)(p + col[k] * pitch);
			const quad sum = (s[0] + s[1]) + (s[2] + s[3]);
			for (int l = 0; l < 4 && i + l < images * c; l++) {
				const long at = ((long)((i + l) / c) * rows + r) * c + (i + l) % c;
				dst[at] = alpha * sum[l] + (add ? beta * add[at] : 0);
			}
		}
}
