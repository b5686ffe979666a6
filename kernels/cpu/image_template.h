// The pixel-space steps: plain loops over contiguous memory that the compiler turns into vectors of the level.

// resample writes rows [y0, y1) of the result.
static void resample(const float *src, float *dst, int h, int w, int c, int sampling, int y0, int y1) {
	const long row = (long)w * c;
	for (int y = y0; y < y1; y++) {
		if (sampling == SAME) {
			memcpy(dst + y * row, src + y * row, row * sizeof *dst);
		} else if (sampling == UP2) {
			const float *s = src + (y / 2) * row;
			float *d = dst + y * 2 * row;
			for (int x = 0; x < 2 * w; x++) memcpy(d + (long)x * c, s + (long)(x / 2) * c, c * sizeof *d);
		} else {
			const float *s = src + 2 * y * row, *t = s + row;
			float *d = dst + (long)y * (w / 2) * c;
			for (int x = 0; x < w / 2; x++, s += 2 * c, t += 2 * c, d += c)
				for (int i = 0; i < c; i++) d[i] = ((s[i] + s[c + i]) + (t[i] + t[c + i])) * 0.25f;
		}
	}
}

INL float term(const blend_args *a, int k, long i) { return a->c[k] * a->x[k][a->xc1[k] ? i / a->channels : i]; }

// blend computes elements [i0, i1) of one image.
static void blend(const blend_args *a, long i0, long i1) {
	int simple = !a->mask;
	for (int k = 0; k < a->terms; k++) simple = simple && !a->xc1[k];
	float *restrict d = a->dst;
	if (simple) {
		// Term by term over blocks that stay in the first-level cache.
		for (long b0 = i0; b0 < i1; b0 += 1024) {
			const long len = (b0 + 1024 < i1 ? b0 + 1024 : i1) - b0;
			float sum[1024];
			for (long i = 0; i < len; i++) sum[i] = a->c[0] * a->x[0][b0 + i];
			for (int k = 1; k < a->terms; k++)
				for (long i = 0; i < len; i++) sum[i] += a->c[k] * a->x[k][b0 + i];
			if (a->clip)
				for (long i = 0; i < len; i++) sum[i] = sum[i] > 1 ? 1 : sum[i] < -1 ? -1 : sum[i];
			memcpy(d + b0, sum, len * sizeof *d);
		}
		return;
	}
	for (long i = i0; i < i1; i++) {
		float v = term(a, 0, i);
		for (int k = 1; k < a->terms; k++) v += term(a, k, i);
		if (a->clip) v = v > 1 ? 1 : v < -1 ? -1 : v;
		if (a->mask && a->mask[a->mask1 ? i / a->channels : i] == 0) v = a->other ? a->other[i] : 0;
		d[i] = v;
	}
}

static double dot(const float *a, const float *b, long n) {
	double s[8] = {0};
	long i = 0;
	for (; i + 8 <= n; i += 8)
		for (int l = 0; l < 8; l++) s[l] += (double)a[i + l] * b[i + l];
	for (; i < n; i++) s[0] += (double)a[i] * b[i];
	return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

// axpys: dst = sum of w[k] * src[k].
static void axpys(float *dst, const float *const *src, const float *w, int n, long len) {
	long i = 0;
	for (; i + 4 * LANES <= len; i += 4 * LANES) {
		vf s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
		for (int k = 0; k < n; k++) {
			const float *p = src[k] + i;
			const vf v = splat(w[k]);
			s0 += v * load(p), s1 += v * load(p + LANES), s2 += v * load(p + 2 * LANES), s3 += v * load(p + 3 * LANES);
		}
		store(dst + i, s0), store(dst + i + LANES, s1), store(dst + i + 2 * LANES, s2), store(dst + i + 3 * LANES, s3);
	}
	for (; i < len; i++) {
		float s = 0;
		for (int k = 0; k < n; k++) s += w[k] * src[k][i];
		dst[i] = s;
	}
}

// rows_in turns up to LANES rows of len floats so that a vector is one float of each of them.
static void rows_in(const float *src, float *to, int rows, long len) {
	long k = 0;
	for (; k + LANES <= len; k += LANES) {
		vf v[LANES];
		_Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) v[r] = load(src + mini(r, rows - 1) * len + k);
		turn(v);
		_Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) store(to + (k + r) * LANES, v[r]);
	}
	for (; k < len; k++)
		for (int r = 0; r < LANES; r++) to[k * LANES + r] = src[mini(r, rows - 1) * len + k];
}

// rows_out turns them back: dst = alpha * rows + beta * add; add is optional and may be dst.
static void rows_out(const float *from, float *dst, int rows, long len, float alpha, const float *add, float beta) {
	long k = 0;
	for (; k + LANES <= len; k += LANES) {
		vf v[LANES];
		_Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) v[r] = load(from + (k + r) * LANES);
		turn(v);
		_Pragma("GCC unroll 16") for (int r = 0; r < LANES; r++) if (r < rows) {
			const long at = r * len + k;
			store(dst + at, add ? v[r] * alpha + load(add + at) * beta : v[r] * alpha);
		}
	}
	for (; k < len; k++)
		for (int r = 0; r < rows; r++) {
			const long at = r * len + k;
			dst[at] = from[k * LANES + r] * alpha + (add ? add[at] * beta : 0);
		}
}

// horizontal: dst[r][o][c] = sum over j of w[o][j] * src[r][first[o]+j][c] for up to LANES rows. scratch: the rows, turned,
// before and after.
static void horizontal(const float *src, float *dst, int rows, int cols, int out, int c, const int *first, const int *count,
	const int *offset, const float *w, float *scratch) {
	float *result = scratch + (long)cols * c * LANES;
	rows_in(src, scratch, rows, (long)cols * c);
	for (int o = 0; o < out; o++) {
		const float *q = w + offset[o];
		for (int i = 0; i < c; i++) {
			const float *p = scratch + ((long)first[o] * c + i) * LANES;
			vf s = {0};
			for (int j = 0; j < count[o]; j++) s += load(p + (long)j * c * LANES) * q[j];
			store(result + ((long)o * c + i) * LANES, s);
		}
	}
	rows_out(result, dst, rows, (long)out * c, 1, 0, 0);
}

// finish is the epilogue of one row: dst = alpha * u / (row * col[x] + rho) + beta * add; row, col and add are optional.
static void finish(float *dst, const float *u, int cols, int c, const float *row, const float *col, float rho, float alpha,
	const float *add, float beta) {
	if (!row && add)
		for (long i = 0; i < (long)cols * c; i++) dst[i] = alpha * u[i] + beta * add[i];
	else if (!row)
		for (long i = 0; i < (long)cols * c; i++) dst[i] = alpha * u[i];
	else for (int x = 0; x < cols; x++) {
		const float s = alpha / (*row * col[x] + rho);
		for (int i = x * c; i < (x + 1) * c; i++) dst[i] = s * u[i] + (add ? beta * add[i] : 0);
	}
}

// filter_row: one row of a sparse two-dimensional correlation over a padded source.
static void filter_row(float *dst, const float *src, long pitch, long len, const int *dy, const int *dx, const float *w, int taps, int c) {
	long i = 0;
	for (; i + 8 * LANES <= len; i += 8 * LANES) {
		vf s[8] = {{0}};
		for (int k = 0; k < taps; k++) {
			const float *p = src + dy[k] * pitch + (long)dx[k] * c + i;
			const vf v = splat(w[k]);
			_Pragma("GCC unroll 8") for (int l = 0; l < 8; l++) s[l] += v * load(p + l * LANES);
		}
		_Pragma("GCC unroll 8") for (int l = 0; l < 8; l++) store(dst + i + l * LANES, s[l]);
	}
	for (; i < len; i++) {
		float s = 0;
		for (int k = 0; k < taps; k++) s += w[k] * src[dy[k] * pitch + (long)dx[k] * c + i];
		dst[i] = s;
	}
}

// conjugate: z may be r.
static void conjugate(float *x, float *r, float *p, float *s, const float *z, const float *w, long n, float alpha, float beta, int first) {
	if (first) {
		memcpy(p, z, n * sizeof *p);
		memcpy(s, w, n * sizeof *s);
		_Pragma("GCC ivdep") for (long i = 0; i < n; i++) {
			x[i] += alpha * p[i];
			r[i] -= alpha * s[i];
		}
		return;
	}
	_Pragma("GCC ivdep") for (long i = 0; i < n; i++) {
		const float pi = z[i] + beta * p[i], si = w[i] + beta * s[i];
		p[i] = pi;
		s[i] = si;
		x[i] += alpha * pi;
		r[i] -= alpha * si;
	}
}

// local: scale times the residual of the data term at elements [i0, i1) of x.
static void local(const local_args *l, const float *x, float *r, long i0, long i1, float scale) {
	const float *y = l->y;
	for (long i = i0; i < i1; i++) {
		float v = l->gain * x[i] - y[i];
		v = y[i] >= l->high && v > 0 ? 0 : v;
		v = y[i] <= l->low && v < 0 ? 0 : v;
		r[i - i0] = scale * v;
	}
	if (!l->mask) return;
	if (!l->mask1) {
		for (long i = i0; i < i1; i++) r[i - i0] = l->mask[i] == 0 ? 0 : r[i - i0];
		return;
	}
	long pixel = i0 / l->channels;
	for (long i = i0, next = (pixel + 1) * l->channels; i < i1; i++) {
		if (i == next) pixel++, next += l->channels;
		r[i - i0] = l->mask[pixel] == 0 ? 0 : r[i - i0];
	}
}

enum { STEP = 1024 }; // elements that stay in the first-level cache

// gradient of elements [i0, i1): what is given, or that of the local data term.
INL const float *gradient(const float *g, const local_args *l, const float *x, float *room, long i0, long i1) {
	if (!l) return g + i0;
	local(l, x, room, i0, i1, l->gain);
	return room;
}

// loss of the local data term at elements [i0, i1) of x, where it is wanted.
INL double loss(const local_args *l, const float *x, float *room, long i0, long i1) {
	if (!l || !l->loss) return 0;
	local(l, x, room, i0, i1, 1);
	return dot(room, room, i1 - i0);
}

static double accelerate(float *restrict x, float *restrict z, const float *grad, const float *x0, long i0, long i1, float step, float rho, float momentum,
	const local_args *l) {
	double sum = 0;
	for (long b0 = i0; b0 < i1; b0 += STEP) {
		const long b1 = b0 + STEP < i1 ? b0 + STEP : i1;
		float room[STEP];
		const float *g = gradient(grad, l, z, room, b0, b1);
		for (long i = b0; i < b1; i++) {
			const float xn = z[i] - step * (g[i - b0] + rho * (z[i] - x0[i]));
			z[i] = xn + momentum * (xn - x[i]);
			x[i] = xn;
		}
		sum += loss(l, x, room, b0, b1);
	}
	return sum;
}

// adam: c1 and c2 are 1/(1-0.9^T) and 1/(1-0.999^T).
static double adam(float *restrict x, float *restrict m, float *restrict v, const float *grad, const float *x0, long i0, long i1, float rate, float rho, float c1, float c2,
	const local_args *l) {
	double sum = 0;
	for (long b0 = i0; b0 < i1; b0 += STEP) {
		const long b1 = b0 + STEP < i1 ? b0 + STEP : i1;
		float room[STEP];
		const float *slope = gradient(grad, l, x, room, b0, b1);
		for (long i = b0; i < b1; i++) {
			const float g = slope[i - b0] + rho * (x[i] - x0[i]);
			m[i] = 0.9f * m[i] + 0.1f * g;
			v[i] = 0.999f * v[i] + 0.001f * (g * g);
			x[i] -= rate * (m[i] * c1) / (root(v[i] * c2) + 1e-8f);
		}
		sum += loss(l, x, room, b0, b1);
	}
	return sum;
}
