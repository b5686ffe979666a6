// Convolution.
//
// A task produces some output rows and a range of output channels of one image. Its input rows are first brought into a
// dense strip in scratch memory: concatenated, normalised, activated, resampled and zero-padded. What follows then needs
// no test for borders, and every variety of input meets every algorithm. Strips slide down: the rows that two strips
// share are moved, not made again. A 1x1 convolution without normalisation reads the tensors directly.
//
// direct:    dst[x][o] = sum over runs of contiguous strip values; for each kernel row, width * channels are contiguous.
//            Register tile: MR pixels x NR output channels. Weights: panels of NR channels, k running slowest.
// winograd4: F(4x4,3x3), Y = A^T [ (G g G^T) . (B^T d B) ] A per 6x6 tile (Lavin and Gray, arXiv 1509.09308). The 36
//            products over channels are matrix products with the same register tile. Positions of V and M are padded
//            by 64 bytes, or all 36 streams would fall into one set of the cache.

typedef struct {
	const float *a; // first value of pixel 0
	long lda;       // from pixel to pixel
	int k;          // contiguous values per pixel
} run;

INL void tile(const int mr, const int nv, const run *r, int runs, long x, const float *b, vf acc[MR][2]) {
	vf s[MR][2]; // of its own: sums behind a pointer would be stored on every step
	_Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) s[i][0] = s[i][1] = (vf){0};
	for (int n = 0; n < runs; n++) {
		const long lda = r[n].lda;
		const float *a = r[n].a + x * lda;
		for (int k = r[n].k; k > 0; k--, a++, b += nv * LANES) {
			vf b0 = load(b), b1 = nv > 1 ? load(b + LANES) : b0;
			_Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
				vf v = splat(a[i * lda]);
				s[i][0] += v * b0;
				if (nv > 1) s[i][1] += v * b1;
			}
		}
	}
	_Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) acc[i][0] = s[i][0], acc[i][1] = s[i][1];
}

// tile_any is tile for m <= MR pixels: each size has code of its own, so that the tile stays in registers.
static __attribute__((noinline)) void tile_any(int m, int nv, const run *r, int runs, long x, const float *b, vf acc[MR][2]) {
#define SIZE(n) case n: if (nv == 2) tile(n <= MR ? n : 1, 2, r, runs, x, b, acc); else tile(n <= MR ? n : 1, 1, r, runs, x, b, acc); break;
	switch (m) { SIZE(1) SIZE(2) SIZE(3) SIZE(4) SIZE(5) SIZE(6) SIZE(7) SIZE(8) SIZE(9) SIZE(10) SIZE(11) SIZE(12) }
#undef SIZE
}

// ------------------------------------------------------------------------------------------------ input strip

// activated writes row y of image n, concatenated, normalised and activated: [w][pitch], channels from cin to pitch 0.
static void activated(const conv_args *a, int n, int y, float *out, int pitch) {
	const float *scale = a->affine ? a->affine + (long)n * 2 * a->cin : 0, *offset = scale ? scale + a->cin : 0;
	int first = 0;
	for (int s = 0; s < 2 && a->src[s]; s++) {
		const int c = a->c[s];
		const float *src = a->src[s] + ((long)n * a->h + y) * a->w * c;
		for (int x = 0; x < a->w; x++, src += c) {
			float *o = out + (long)x * pitch + first;
			int i = 0;
			for (; i + LANES <= c; i += LANES) {
				vf v = load(src + i);
				if (scale) v = v * load(scale + first + i) + load(offset + first + i);
				if (a->act == ACT_SILU) v = vsilu(v);
				store(o + i, v);
			}
			if (i < c) {
				vf v = loadn(src + i, c - i);
				if (scale) v = v * loadn(scale + first + i, c - i) + loadn(offset + first + i, c - i);
				if (a->act == ACT_SILU) v = vsilu(v);
				storen(o + i, v, c - i);
			}
		}
		first += c;
	}
	for (; first < pitch; first++)
		for (int x = 0; x < a->w; x++) out[(long)x * pitch + first] = 0;
}

INL void copyf(float *d, const float *s, long n) { memcpy(d, s, n * sizeof *d); }

// strip_row writes row y of the resampled input with its zero padding: [width][pitch]; rows outside the image are zero.
// prev is the strip row above, or null where it is not row y-1. tmp holds two activated rows.
static void strip_row(const conv_args *a, int n, int y, float *out, const float *prev, int width, int pitch, float *tmp) {
	if (y < 0 || y >= a->uh) {
		memset(out, 0, (long)width * pitch * sizeof *out);
		return;
	}
	memset(out, 0, (long)a->pad * pitch * sizeof *out);
	const int right = a->pad + a->uw;
	float *o = out + (long)a->pad * pitch;
	if (a->sampling == SAME) {
		activated(a, n, y, o, pitch);
	} else if (a->sampling == UP2) {
		if (y % 2 && prev) {
			copyf(out, prev, (long)width * pitch);
			return;
		}
		activated(a, n, y / 2, tmp, pitch);
		for (int x = 0; x < a->uw; x++) copyf(o + (long)x * pitch, tmp + (long)(x / 2) * pitch, pitch);
	} else {
		float *t0 = tmp, *t1 = tmp + (long)a->w * pitch;
		activated(a, n, 2 * y, t0, pitch);
		activated(a, n, 2 * y + 1, t1, pitch);
		for (int x = 0; x < a->uw; x++)
			for (int i = 0; i < pitch; i++) {
				const float *p = t0 + (long)2 * x * pitch + i, *q = t1 + (long)2 * x * pitch + i;
				o[(long)x * pitch + i] = ((p[0] + p[pitch]) + (q[0] + q[pitch])) * 0.25f;
			}
	}
	memset(out + (long)right * pitch, 0, (long)(width - right) * pitch * sizeof *out);
}

// strip fills rows [y, y+count) of the resampled input; the first keep of them are already there.
static void strip(const conv_args *a, int n, int y, int count, int keep, float *out, int width, int pitch, float *tmp) {
	const long row = (long)width * pitch;
	for (int r = keep; r < count; r++)
		strip_row(a, n, y + r, out + r * row, r > 0 && y + r > 0 ? out + (r - 1) * row : 0, width, pitch, tmp);
}

// ------------------------------------------------------------------------------------------------ epilogue

// residual is LANES (or n < LANES) channels from c of the resampled residual at pixel (y, x) of image n.
INL vf residual(const conv_args *a, int n, int y, int x, int c, int count) {
	const long C = a->cout;
	const int full = count >= LANES;
#define AT(yy, xx, hh, ww) (a->residual + (((long)n * (hh) + (yy)) * (ww) + (xx)) * C + c)
#define GET(p) (full ? load(p) : loadn(p, count))
	if (a->rsampling == SAME) return GET(AT(y, x, a->oh, a->ow));
	if (a->rsampling == UP2) return GET(AT(y / 2, x / 2, a->oh / 2, a->ow / 2));
	const int h = a->oh * 2, w = a->ow * 2;
	return ((GET(AT(2 * y, 2 * x, h, w)) + GET(AT(2 * y, 2 * x + 1, h, w))) +
		(GET(AT(2 * y + 1, 2 * x, h, w)) + GET(AT(2 * y + 1, 2 * x + 1, h, w)))) * 0.25f;
#undef AT
#undef GET
}

// put writes one vector of results.
INL void put(const conv_args *a, int n, int y, int x, int c, vf v, const float *add) {
	const int count = a->cout - c;
	float *d = a->dst + (((long)n * a->oh + y) * a->ow + x) * a->cout + c;
	v += load(add + c);
	if (a->residual) v += residual(a, n, y, x, c, count);
	if (count >= LANES) store(d, v);
	else if (count > 0) storen(d, v, count);
}

// addend sums bias and embedding of image n into out, zero up to the last panel's end.
static void addend(const conv_args *a, int n, float *out) {
	for (int c = 0; c < a->cout; c++)
		out[c] = (a->bias ? a->bias[c] : 0) + (a->embed ? a->embed[(long)n * a->cout + c] : 0);
	for (long c = a->cout; c < roundup(a->cout, NR); c++) out[c] = 0;
}

// moments of c channels over pixels that lie ld apart. Chunks of 256 pixels are summed as differences from the mean of
// the chunk before, so that neither a large mean nor a slope across the image costs digits, and are merged by the rule of
// Chan, Golub and LeVeque (1979), which only adds what is not negative.
static void moments_ld(const float *x, long pixels, int c, long ld, float *mean, float *m2) {
	for (int i = 0; i < c; i += LANES) {
		const int full = c - i >= LANES;
#define PIXEL(p) (full ? load(x + (p) * ld + i) : loadn(x + (p) * ld + i, c - i))
		vf m = {0}, v = {0}, pivot = {0};
		const long some = pixels < 16 ? pixels : 16;
		for (long p = 0; p < some; p++) pivot += PIXEL(p);
		pivot = pivot / (float)some;
		for (long p0 = 0; p0 < pixels; p0 += 256) {
			const long p1 = p0 + 256 < pixels ? p0 + 256 : pixels;
			vf s0 = {0}, q0 = {0}, s1 = {0}, q1 = {0};
			long p = p0;
			for (; p + 1 < p1; p += 2) {
				const vf d0 = PIXEL(p) - pivot, d1 = PIXEL(p + 1) - pivot;
				s0 += d0, q0 += d0 * d0;
				s1 += d1, q1 += d1 * d1;
			}
			if (p < p1) {
				const vf d0 = PIXEL(p) - pivot;
				s0 += d0, q0 += d0 * d0;
			}
			const float k = p1 - p0, n = p1;
			const vf s = s0 + s1;
			vf q = (q0 + q1) - s * s / k;
			q = select(q < 0.0f, splat(0), q);
			pivot += s / k;
			const vf d = pivot - m;
			v += q + d * d * ((float)p0 * k / n);
			m += d * (k / n);
		}
		if (full) store(mean + i, m), store(m2 + i, v);
		else storen(mean + i, m, c - i), storen(m2 + i, v, c - i);
#undef PIXEL
	}
}

static void moments(const float *x, long pixels, int c, float *mean, float *m2) { moments_ld(x, pixels, c, c, mean, m2); }

// ------------------------------------------------------------------------------------------------ direct

// plain: the tensors themselves can serve as the strip.
INL int plain(const conv_args *a) {
	return a->size == 1 && a->stride == 1 && a->pad == 0 && !a->affine && a->act == ACT_IDENTITY && a->sampling == SAME;
}

INL long direct_depth(const conv_args *a) { return (long)a->size * a->size * a->cin; }

// Panels are NR wide; a last panel of at most LANES channels is LANES wide.
INL int panel_vectors(const conv_args *a, int c) { return a->cout - c > LANES ? 2 : 1; }

static void direct_pack(const conv_args *a, const float *w, float *p) {
	const int area = a->size * a->size;
	for (int c = 0; c < a->cout; c += NR) {
		const int width = panel_vectors(a, c) * LANES;
		for (int t = 0; t < area; t++)
			for (int i = 0; i < a->cin; i++)
				for (int j = 0; j < width; j++)
					*p++ = c + j < a->cout ? w[((long)(c + j) * a->cin + i) * area + t] : 0;
	}
}

// direct_row computes pixels [x0, x1) of the row (or rows, where they follow each other) that starts at row y.
static void direct_row(const conv_args *a, int n, int y, int x1, int c, const run *r, int runs, const float *b, const float *add) {
	vf acc[MR][2];
	const int nv = panel_vectors(a, c);
	for (int x = 0; x < x1; x += MR) {
		const int m = mini(MR, x1 - x);
		tile_any(m, nv, r, runs, x, b, acc);
		for (int i = 0; i < m; i++) {
			const int yy = y + (x + i) / a->ow, xx = (x + i) % a->ow;
			put(a, n, yy, xx, c, acc[i][0], add);
			if (nv == 2) put(a, n, yy, xx, c + LANES, acc[i][1], add);
		}
	}
}

static void direct_task(const conv_args *a, int n, int y0, int y1, int c0, int c1, float *scratch) {
	float *add = scratch;
	addend(a, n, add);
	scratch += roundup(a->cout, NR) + LANES;
	const long depth = direct_depth(a);
	run r[16];
	if (plain(a)) { // the rows of an image follow each other: one long row
		int runs = 0;
		for (; runs < 2 && a->src[runs]; runs++)
			r[runs] = (run){a->src[runs] + ((long)n * a->h + y0) * a->w * a->c[runs], a->c[runs], a->c[runs]};
		for (int c = c0; c < c1; c += NR)
			direct_row(a, n, y0, (y1 - y0) * a->ow, c, r, runs, a->weight + depth * c, add);
		return;
	}
	const int width = a->uw + 2 * a->pad, pitch = a->cin, rows = (y1 - y0 - 1) * a->stride + a->size;
	const long row = (long)width * pitch;
	float *tmp = scratch, *s = tmp + 2L * a->w * pitch;
	strip(a, n, y0 * a->stride - a->pad, rows, 0, s, width, pitch, tmp);
	for (int c = c0; c < c1; c += NR)
		for (int y = y0; y < y1; y++) {
			for (int k = 0; k < a->size; k++)
				r[k] = (run){s + ((y - y0) * a->stride + k) * row, (long)a->stride * pitch, a->size * pitch};
			direct_row(a, n, y, a->ow, c, r, a->size, a->weight + depth * c, add);
		}
}

static long direct_scratch(const conv_args *a) {
	const long add = roundup(a->cout, NR) + LANES;
	if (plain(a)) return add;
	const long width = a->uw + 2 * a->pad, rows = (a->rows - 1L) * a->stride + a->size;
	return add + 2L * a->w * a->cin + rows * width * a->cin + LANES;
}

// ------------------------------------------------------------------------------------------------ Winograd F(4x4,3x3)

enum { TILES = 24 }; // tiles per block: V and M of a block stay in the second-level cache

INL void bt6(const vf *d, int s, vf *o, int q) { // B^T d
	vf d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s], d5 = d[5 * s];
	vf a = d4 - 4.0f * d2, b = d3 - 4.0f * d1, c = d4 - d2, e = d3 - d1;
	o[0] = 4.0f * d0 + (d4 - 5.0f * d2);
	o[q] = a + b;
	o[2 * q] = a - b;
	o[3 * q] = c + 2.0f * e;
	o[4 * q] = c - 2.0f * e;
	o[5 * q] = 4.0f * d1 + (d5 - 5.0f * d3);
}

INL void at6(const vf *m, int s, vf *o, int q) { // A^T m
	vf p = m[s] + m[2 * s], r = m[s] - m[2 * s], u = m[3 * s] + m[4 * s], w = m[3 * s] - m[4 * s];
	o[0] = m[0] + p + u;
	o[q] = r + 2.0f * w;
	o[2 * q] = p + 4.0f * u;
	o[3 * q] = r + 8.0f * w + m[5 * s];
}

// winograd_pack: U = G g G^T in double, [36][panel][cin to LANES][NR].
static void winograd_pack(const conv_args *a, const float *w, float *u) {
	static const double G[6][3] = {{.25, 0, 0}, {-1 / 6., -1 / 6., -1 / 6.}, {-1 / 6., 1 / 6., -1 / 6.},
		{1 / 24., 1 / 12., 1 / 6.}, {1 / 24., -1 / 12., 1 / 6.}, {0, 0, 1}};
	const long cp = roundup(a->cin, LANES), kp = roundup(a->cout, NR);
	memset(u, 0, 36 * cp * kp * sizeof *u);
	for (long k = 0; k < a->cout; k++)
		for (long c = 0; c < a->cin; c++) {
			const float *g = w + (k * a->cin + c) * 9;
			double t[6][3];
			for (int i = 0; i < 6; i++)
				for (int j = 0; j < 3; j++) t[i][j] = G[i][0] * g[j] + G[i][1] * g[3 + j] + G[i][2] * g[6 + j];
			for (int i = 0; i < 6; i++)
				for (int j = 0; j < 6; j++)
					u[(i * 6 + j) * cp * kp + ((k / NR) * cp + c) * NR + k % NR] =
						(float)(t[i][0] * G[j][0] + t[i][1] * G[j][1] + t[i][2] * G[j][2]);
		}
}

// products: M = V U for one position: t x cp times cp x (c1-c0).
static __attribute__((noinline)) void products(const float *v, long cp, int t, const float *u, int c0, int c1, float *m, long ldm) {
	vf acc[MR][2];
	for (int c = c0; c < c1; c += NR, u += cp * NR) {
		const run r = {v, cp, cp};
		float *o = m + (c - c0);
		for (int i = 0; i < t; i += MR) {
			const int n = mini(MR, t - i);
			tile_any(n, 2, &r, 1, i, u, acc);
			for (int j = 0; j < n; j++) store(o + (i + j) * ldm, acc[j][0]), store(o + (i + j) * ldm + LANES, acc[j][1]);
		}
	}
}

INL long winograd_width(const conv_args *a) { return roundup(a->ow, 4) + 2; }
// A unit is the tile rows whose strip is in scratch at one time: enough of them for a good block of tiles.
INL int winograd_unit(const conv_args *a) {
	const int across = (a->ow + 3) / 4, rows = (a->rows + 3) / 4, want = (16 + across - 1) / across;
	return want < rows ? want : rows;
}

static void winograd_task(const conv_args *a, int n, int y0, int y1, int c0, int c1, float *scratch) {
	const long cp = roundup(a->cin, LANES), kp = roundup(a->cout, NR), ks = c1 - c0 + NR; // columns of M, with slack
	const long pv = TILES * cp + 16, pm = TILES * ks + 16, width = winograd_width(a), row = width * cp;
	const int across = (a->ow + 3) / 4, unit = winograd_unit(a);
	float *add = scratch, *v = add + kp + LANES, *m = v + 36 * pv, *tmp = m + 36 * pm, *s = tmp + 2L * a->w * cp;
	const long panels = roundup(c1, NR);
	addend(a, n, add);
	for (int y = y0; y < y1; y += 4 * unit) {
		const int tiles_down = mini(unit, (y1 - y + 3) / 4), keep = y > y0 ? 2 : 0, rows = 4 * tiles_down + 2;
		if (keep) memmove(s, s + 4L * unit * row, 2 * row * sizeof *s);
		strip(a, n, y - 1, rows, keep, s, width, cp, tmp);
		const int total = tiles_down * across;
		for (int t0 = 0; t0 < total; t0 += TILES) {
			const int count = mini(TILES, total - t0);
			for (int t = 0; t < count; t++) {
				const float *d = s + (t0 + t) / across * 4 * row + (t0 + t) % across * 4 * cp;
				float *o = v + t * cp;
				for (long c = 0; c < cp; c += LANES) {
					vf x[36], z[36];
					_Pragma("GCC unroll 6") for (int i = 0; i < 6; i++) {
						_Pragma("GCC unroll 6") for (int j = 0; j < 6; j++) x[i * 6 + j] = load(d + i * row + j * cp + c);
					}
					_Pragma("GCC unroll 6") for (int j = 0; j < 6; j++) bt6(x + j, 6, z + j, 6);
					_Pragma("GCC unroll 6") for (int i = 0; i < 6; i++) bt6(z + 6 * i, 1, x + 6 * i, 1);
					_Pragma("GCC unroll 36") for (int p = 0; p < 36; p++) store(o + p * pv + c, x[p]);
				}
			}
			for (int p = 0; p < 36; p++)
				products(v + p * pv, cp, count, a->weight + p * cp * kp + (c0 / NR) * cp * NR, c0, panels, m + p * pm, ks);
			for (int t = 0; t < count; t++) {
				const int ty = y + (t0 + t) / across * 4, tx = (t0 + t) % across * 4;
				const int hr = mini(4, a->oh - ty), wr = mini(4, a->ow - tx);
				for (int c = c0; c < c1; c += LANES) {
					const float *q = m + t * ks + (c - c0);
					vf x[36], z[24], o[16];
					_Pragma("GCC unroll 36") for (int p = 0; p < 36; p++) x[p] = load(q + p * pm);
					_Pragma("GCC unroll 6") for (int j = 0; j < 6; j++) at6(x + j, 6, z + j, 6);
					_Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) at6(z + 6 * i, 1, o + 4 * i, 1);
					for (int i = 0; i < hr; i++)
						for (int j = 0; j < wr; j++) put(a, n, ty + i, tx + j, c, o[4 * i + j], add);
				}
			}
		}
	}
}

static long winograd_scratch(const conv_args *a) {
	const long cp = roundup(a->cin, LANES), kp = roundup(a->cout, NR), ks = a->split + NR;
	return kp + LANES + 36 * (TILES * cp + 16) + 36 * (TILES * ks + 16) + 2L * a->w * cp +
		(4L * winograd_unit(a) + 2) * winograd_width(a) * cp + LANES;
}

// ------------------------------------------------------------------------------------------------ entry points

static long conv_packed(const conv_args *a) {
	return a->form == FORM_WINOGRAD4 ? 36 * roundup(a->cin, LANES) * roundup(a->cout, NR)
		: direct_depth(a) * roundup(a->cout, LANES);
}

static void conv_pack(const conv_args *a, const float *w, float *p) {
	if (a->form == FORM_WINOGRAD4) winograd_pack(a, w, p);
	else direct_pack(a, w, p);
}

static long conv_scratch(const conv_args *a) {
	return a->form == FORM_WINOGRAD4 ? winograd_scratch(a) : direct_scratch(a);
}

static void conv_task(const conv_args *a, int n, int row_task, int split, float *scratch) {
	const int y0 = row_task * a->rows, y1 = mini(a->oh, y0 + a->rows);
	const int c0 = split * a->split, c1 = mini(a->cout, c0 + a->split);
	if (a->form == FORM_WINOGRAD4) winograd_task(a, n, y0, y1, c0, c1, scratch);
	else direct_task(a, n, y0, y1, c0, c1, scratch);
	if (a->moments) {
		float *mean = a->moments + ((long)n * a->row_tasks + row_task) * 2 * a->cout;
		moments_ld(a->dst + ((long)n * a->oh + y0) * a->ow * a->cout + c0, (long)(y1 - y0) * a->ow, c1 - c0, a->cout,
			mean + c0, mean + a->cout + c0);
	}
}
