// Formulas by element, and sparse matrices.

enum { POINTS = 1024 }; // numbers at a time, whose copies stay in the first-level cache

// absolute is the absolute value of x + iy, whose squares may be out of range. A NaN in either stays one.
INL vf absolute(vf x, vf y) {
	x = (vf)((vi)x & 0x7fffffff), y = (vf)((vi)y & 0x7fffffff);
	const vf large = vmax(x, y), t = vmin(y, x) / large;
	return choose(large == 0, x + y, large * vsqrt(1.0f + t * t)); // the sum, as x may be NaN
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
			for (int k = 0; k < n; k++) x[k] = (float)(q + p * rint(((double)x[k] - q) / p));
			break;
		case POINT_POWER:
			for (int k = 0; k < n; k++) x[k] = powf(x[k] < p ? p : x[k], q);
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
typedef float quad __attribute__((vector_size(16)));
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
