// Discrete Fourier transforms by Stockham's autosort, LANES transforms at once, one per lane: nothing crosses lanes but
// the loading and storing. A complex number is a pair of vectors, and (re, im) point to the pair of element 0; a caller
// that swaps the two gets the inverse transform, since i conj(z) is z with its parts swapped. Nothing is scaled.

// Pairs of floats to two vectors and back. Which lane a pair gets does not matter, so the shuffles stay inside groups of
// four, where they are one instruction each.
#define PART(l, s) (((l) & ~3) + 2 * ((l) & 1) + (s) + ((l) & 2) / 2 * LANES)
#define PAIR(l, s) (((l) & ~3) + ((l) & 2) / 2 + (s) + ((l) & 1) * LANES)

INL void fourth(vf *r, vf *i, int a, int b, int c, int d) { // radix 4 on four of the elements, in place
	const vf sr = r[a] + r[c], si = i[a] + i[c], dr = r[a] - r[c], di = i[a] - i[c];
	const vf tr = r[b] + r[d], ti = i[b] + i[d], er = r[b] - r[d], ei = i[b] - i[d];
	r[a] = sr + tr, i[a] = si + ti, r[b] = dr + ei, i[b] = di - er;
	r[c] = sr - tr, i[c] = si - ti, r[d] = dr - ei, i[d] = di + er;
}

INL void eighth(vf *r, vf *i) {
	const float h = 0.70710678118654752440f;
	fourth(r, i, 0, 2, 4, 6);
	fourth(r, i, 1, 3, 5, 7);
	vf er[4], ei[4], or[4], oi[4];
	_Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) er[k] = r[2 * k], ei[k] = i[2 * k];
	or[0] = r[1], oi[0] = i[1];
	or[1] = (r[3] + i[3]) * h, oi[1] = (i[3] - r[3]) * h;
	or[2] = i[5], oi[2] = -r[5];
	or[3] = (i[7] - r[7]) * h, oi[3] = (i[7] + r[7]) * -h;
	_Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
		r[k] = er[k] + or[k], i[k] = ei[k] + oi[k];
		r[k + 4] = er[k] - or[k], i[k + 4] = ei[k] - oi[k];
	}
}

// odd is any odd radix n: with s and d the sums and differences of elements k and n-k, elements j and n-j of the result
// are x[0] + sum s cos(2 pi jk/n) -+ i sum d sin(2 pi jk/n). roots: n cosines, then n sines.
INL void odd(int n, const float *roots, vf *r, vf *i) {
	const int h = (n - 1) / 2;
	vf sr[FFT_RADIX / 2], si[FFT_RADIX / 2], dr[FFT_RADIX / 2], di[FFT_RADIX / 2];
	const vf r0 = r[0], i0 = i[0];
	_Pragma("GCC unroll 4") for (int k = 0; k < h; k++) {
		sr[k] = r[k + 1] + r[n - 1 - k], si[k] = i[k + 1] + i[n - 1 - k];
		dr[k] = r[k + 1] - r[n - 1 - k], di[k] = i[k + 1] - i[n - 1 - k];
		r[0] += sr[k], i[0] += si[k];
	}
	_Pragma("GCC unroll 4") for (int j = 1; j <= h; j++) {
		vf cr = r0, ci = i0, er = {0}, ei = {0};
		_Pragma("GCC unroll 4") for (int k = 0, at = j; k < h; k++, at = at + j < n ? at + j : at + j - n) {
			cr += sr[k] * roots[at], ci += si[k] * roots[at];
			er += dr[k] * roots[n + at], ei += di[k] * roots[n + at];
		}
		r[j] = cr + ei, i[j] = ci - er;
		r[n - j] = cr - ei, i[n - j] = ci + er;
	}
}

// fft_step is where one pass of a chain reads and writes, in floats from element to element.
typedef struct {
	const float *re, *im;
	float *yre, *yim;
	long in, out;
	long m, s; // the pass makes m groups of s butterflies; all butterflies of a group have the same factors
} fft_step;

INL void butterfly(int n, const float *roots, const float *w, const fft_step a, long p, long q) {
	vf r[FFT_RADIX], i[FFT_RADIX];
	const long from = (p * a.s + q) * a.in, fstep = a.m * a.s * a.in;
	const long to = (p * a.s * n + q) * a.out, tstep = a.s * a.out;
	_Pragma("GCC unroll 8") for (int k = 0; k < n; k++) r[k] = load(a.re + from + k * fstep), i[k] = load(a.im + from + k * fstep);
	if (n == 2) {
		const vf br = r[1], bi = i[1];
		r[1] = r[0] - br, i[1] = i[0] - bi, r[0] += br, i[0] += bi;
	} else if (n == 4) {
		fourth(r, i, 0, 1, 2, 3);
	} else if (n == 8) {
		eighth(r, i);
	} else {
		odd(n, roots, r, i);
	}
	store(a.yre + to, r[0]), store(a.yim + to, i[0]);
	_Pragma("GCC unroll 8") for (int k = 1; k < n; k++) {
		const float c = w ? w[2 * k - 2] : 1, s = w ? w[2 * k - 1] : 0;
		store(a.yre + to + k * tstep, w ? r[k] * c - i[k] * s : r[k]);
		store(a.yim + to + k * tstep, w ? r[k] * s + i[k] * c : i[k]);
	}
}

// radix is one pass. The factors of group 0 are 1.
INL void radix(int n, const float *tables, const fft_step a) {
	const float *roots = tables, *w = tables + (n & 1 ? 2 * n : 0);
	for (long q = 0; q < a.s; q++) butterfly(n, roots, 0, a, 0, q);
	for (long p = 1; p < a.m; p++) {
		w += 2 * (n - 1);
		for (long q = 0; q < a.s; q++) butterfly(n, roots, w, a, p, q);
	}
}

static void radix2(const float *t, const fft_step *a) { radix(2, t, *a); }
static void radix3(const float *t, const fft_step *a) { radix(3, t, *a); }
static void radix4(const float *t, const fft_step *a) { radix(4, t, *a); }
static void radix5(const float *t, const fft_step *a) { radix(5, t, *a); }
static void radix7(const float *t, const fft_step *a) { radix(7, t, *a); }
static void radix8(const float *t, const fft_step *a) { radix(8, t, *a); }
static void radixn(int n, const float *t, const fft_step *a) { radix(n, t, *a); }

// chain transforms by the passes of a plan, in place too. The first reads what is given, the last writes it, those in
// between go to and fro in work: 4 n vectors.
static void chain(const fft_plan *f, const float *re, const float *im, long in, float *yre, float *yim, long out, float *work) {
	const float *tables = f->tables;
	fft_step a = {re, im, yre, yim, in, out, f->n, 1};
	if (!f->stages) store(yre, load(re)), store(yim, load(im)); // one element
	for (int i = 0; i < f->stages; i++) {
		const int n = f->radix[i];
		const int last = i + 1 == f->stages;
		a.m /= n;
		a.yre = last ? yre : work + (i & 1) * 2 * LANES * (long)f->n;
		a.yim = last ? yim : a.yre + LANES;
		a.out = last ? out : 2 * LANES;
		switch (n) {
		case 2: radix2(tables, &a); break;
		case 3: radix3(tables, &a); break;
		case 4: radix4(tables, &a); break;
		case 5: radix5(tables, &a); break;
		case 7: radix7(tables, &a); break;
		case 8: radix8(tables, &a); break;
		default: radixn(n, tables, &a);
		}
		tables += (n & 1 ? 2 * n : 0) + 2 * (n - 1) * a.m;
		a.re = a.yre, a.im = a.yim, a.in = a.out, a.s *= n;
	}
}

// scaled: (yre, yim) = (re, im) * (c + i s).
INL void scaled(float *yre, float *yim, const float *re, const float *im, float c, float s) {
	const vf a = load(re), b = load(im);
	store(yre, a * c - b * s), store(yim, a * s + b * c);
}

// transform is one transform in place, of elements `step` floats apart. A length with a large prime factor is a
// convolution with a chirp (Bluestein 1970): 2jk = j^2 + k^2 - (k-j)^2.
static void transform(const fft_plan *f, float *re, float *im, long step, float *work) {
	const fft_plan *g = f->convolution;
	if (!g) {
		chain(f, re, im, step, re, im, step, work);
		return;
	}
	float *x = work, *y = x + LANES;
	work += 2 * LANES * (long)g->n;
	for (long k = 0; k < f->n; k++) scaled(x + 2 * k * LANES, y + 2 * k * LANES, re + k * step, im + k * step, f->chirp[2 * k], f->chirp[2 * k + 1]);
	memset(x + 2 * LANES * (long)f->n, 0, sizeof *x * 2 * LANES * (g->n - f->n));
	chain(g, x, y, 2 * LANES, x, y, 2 * LANES, work);
	for (long k = 0; k < g->n; k++) scaled(x + 2 * k * LANES, y + 2 * k * LANES, x + 2 * k * LANES, y + 2 * k * LANES, f->spectrum[2 * k], f->spectrum[2 * k + 1]);
	chain(g, y, x, 2 * LANES, y, x, 2 * LANES, work);
	for (long k = 0; k < f->n; k++) scaled(re + k * step, im + k * step, x + 2 * k * LANES, y + 2 * k * LANES, f->chirp[2 * k], f->chirp[2 * k + 1]);
}

// fft_rows transforms up to LANES rows of n pixels along the row, all channels; dst may be src.
static void fft_rows(const fft_plan *f, const float *src, float *dst, int rows, int c, int inverse, float *scratch) {
	const long len = (long)f->n * c;
	rows_in(src, scratch, rows, len);
	for (int i = 0; i < c; i += 2)
		transform(f, scratch + (i + inverse) * LANES, scratch + (i + !inverse) * LANES, (long)c * LANES, scratch + len * LANES);
	rows_out(scratch, dst, rows, len, 1, 0, 0);
}

INL void gather(float *to, const float *p, int n) { // n pairs of floats to a vector of first ones and one of second ones
	const int m = mini(2 * n, LANES);
	const vf a = n == LANES ? load(p) : loadn(p, m), b = n == LANES ? load(p + LANES) : loadn(p + m, 2 * n - m);
	store(to, PICK(a, b, PART, 0)), store(to + LANES, PICK(a, b, PART, 1));
}

INL void scatter(float *p, vf re, vf im, int n) {
	const int m = mini(2 * n, LANES);
	const vf a = PICK(re, im, PAIR, 0), b = PICK(re, im, PAIR, 2);
	if (n == LANES) store(p, a), store(p + LANES, b);
	else storen(p, a, m), storen(p + m, b, 2 * n - m);
}

// fft_columns transforms up to LANES neighbouring complex columns of n rows, `pitch` floats apart, and scales the result;
// dst may be src.
static void fft_columns(const fft_plan *f, const float *src, float *dst, long pitch, int columns, int inverse, float scale, float *scratch) {
	float *z = scratch, *work = z + 2 * LANES * (long)f->n;
	for (long y = 0; y < f->n; y++) gather(z + 2 * y * LANES, src + y * pitch, columns);
	transform(f, z + inverse * LANES, z + !inverse * LANES, 2 * LANES, work);
	for (long y = 0; y < f->n; y++) scatter(dst + y * pitch, load(z + 2 * y * LANES) * scale, load(z + (2 * y + 1) * LANES) * scale, columns);
}

// A filter by Fourier transforms multiplies spectra on a circle that the picture fits on with its margin. Two channels are
// the parts of one complex plane. Filling the circle by one map and emptying it by the other is the filter; exchanged, its
// transpose.

INL vf weighed(circle_map m, long x, const float *p) { return m.weight ? load(p) * m.weight[x] : load(p); }

// added: sum += weight * (re, im), for a place x of the circle.
INL void added(circle_map m, long x, float *sum, const float *p) {
	store(sum, load(sum) + weighed(m, x, p)), store(sum + LANES, load(sum + LANES) + weighed(m, x, p + LANES));
}

// circle_in fills circles of f->n pixels with up to LANES rows of w pixels and transforms them. dst: for every two channels
// a plane whose rows are `pitch` floats, planes `plane` floats apart.
static void circle_in(const fft_plan *f, const float *src, float *dst, int rows, int w, int c, circle_map map, long plane, float *scratch) {
	float *z = scratch + (long)w * c * LANES, *work = z + 2 * LANES * (long)f->n;
	rows_in(src, scratch, rows, (long)w * c);
	for (int i = 0; i < c; i += 2, dst += plane) {
		for (long x = 0; x < f->n; x++) {
			const float *p = scratch + ((long)map.at[x] * c + i) * LANES;
			store(z + 2 * x * LANES, map.at[x] < 0 ? splat(0) : weighed(map, x, p));
			store(z + (2 * x + 1) * LANES, map.at[x] < 0 || i + 1 == c ? splat(0) : weighed(map, x, p + LANES));
		}
		transform(f, z, z + LANES, 2 * LANES, work);
		rows_out(z, dst, rows, 2 * (long)f->n, 1, 0, 0);
	}
}

// circle_columns fills circles of f->n pixels with up to LANES columns of one plane, multiplies their transforms by the
// spectrum or its conjugate, or divides them by its square plus rho, and empties them into h rows of the same columns.
static void circle_columns(const fft_plan *f, float *plane, int h, long pitch, int columns, circle_map in, circle_map out,
	const float *spectrum, int how, float rho, float *scratch) {
	float *z = scratch, *sum = z + 2 * LANES * (long)f->n, *work = sum + 2 * LANES * (long)h;
	for (long y = 0; y < f->n; y++) {
		float *p = z + 2 * y * LANES;
		if (in.at[y] < 0) {
			store(p, splat(0)), store(p + LANES, splat(0));
			continue;
		}
		gather(p, plane + in.at[y] * pitch, columns);
		if (in.weight) store(p, weighed(in, y, p)), store(p + LANES, weighed(in, y, p + LANES));
	}
	transform(f, z, z + LANES, 2 * LANES, work);
	for (long y = 0; y < f->n; y++) {
		float *p = z + 2 * y * LANES, k[2 * LANES];
		gather(k, spectrum + y * pitch, columns);
		const vf a = load(p), b = load(p + LANES), c = load(k), s = how == TIMES_CONJUGATE ? -load(k + LANES) : load(k + LANES);
		if (how == OVER_SQUARE) {
			const vf q = 1 / (c * c + s * s + rho);
			store(p, a * q), store(p + LANES, b * q);
		} else {
			store(p, a * c - b * s), store(p + LANES, a * s + b * c);
		}
	}
	transform(f, z + LANES, z, 2 * LANES, work);
	memset(sum, 0, sizeof *sum * 2 * LANES * h);
	for (long y = 0; y < f->n; y++) {
		if (out.at[y] >= 0) added(out, y, sum + 2 * LANES * (long)out.at[y], z + 2 * y * LANES);
	}
	for (long y = 0; y < h; y++) scatter(plane + y * pitch, load(sum + 2 * y * LANES), load(sum + (2 * y + 1) * LANES), columns);
}

// circle_out transforms up to LANES rows of the planes back and empties the circles: dst = alpha * rows + beta * add.
static void circle_out(const fft_plan *f, const float *src, float *dst, int rows, int w, int c, circle_map map, long plane,
	float alpha, const float *add, float beta, float *scratch) {
	float *z = scratch + (long)w * c * LANES, *work = z + 2 * LANES * (long)f->n;
	memset(scratch, 0, sizeof *scratch * w * c * LANES);
	for (int i = 0; i < c; i += 2, src += plane) {
		rows_in(src, z, rows, 2 * (long)f->n);
		transform(f, z + LANES, z, 2 * LANES, work);
		for (long x = 0; x < f->n; x++) {
			if (map.at[x] < 0) continue;
			float *p = scratch + ((long)map.at[x] * c + i) * LANES;
			if (i + 1 < c) added(map, x, p, z + 2 * x * LANES);
			else store(p, load(p) + weighed(map, x, z + 2 * x * LANES));
		}
	}
	rows_out(scratch, dst, rows, (long)w * c, alpha, add, beta);
}
