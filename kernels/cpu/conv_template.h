// Convolution.
//
// A unit is some output rows of one image; a task produces a few units and a range of output channels. Its input rows are
// first brought into a dense strip in scratch memory: concatenated, normalised, activated, resampled and zero-padded. What
// follows then needs no test for borders, and every variety of input meets every algorithm. Strips slide down: the rows
// that two units share are moved, not made again. A 1x1 convolution without normalisation reads the tensors directly.
//
// direct:    dst[x][o] = sum over runs of contiguous strip values; for each kernel row, width * channels are contiguous.
//            Register tile: MR pixels x NR output channels. Weights: panels of NR channels, k running slowest.
// thin:      direct with at most four output channels, as dot products over the input channels.
// Winograd:  see winograd_template.h.
//
// Everything that a result depends on is fixed by the shape: units, blocks of tiles, order of sums. Which units and
// channels make a task is free, and may follow the number of threads.

typedef struct {
	const float *a; // first value of pixel 0
	long lda;       // from pixel to pixel
	int k;          // contiguous values per pixel
} run;

// tile multiplies mr pixels with a panel of nv vectors: s[i] = sum over the runs of a[i][k] * b[k].
INL void tile(const int mr, const int nv, const int half, const run *r, int runs, long x, const void *b, vf s[MR][2]) {
	const char *w = b;
	const int width = half ? 2 : 4;
	_Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) s[i][0] = s[i][1] = (vf){0};
	for (int n = 0; n < runs; n++) {
		const long lda = r[n].lda;
		const float *a = r[n].a + x * lda;
		for (int k = r[n].k; k > 0; k--, a++, w += nv * LANES * width) {
			vf b0 = widen(w, half), b1 = nv > 1 ? widen(w + LANES * width, half) : b0;
			_Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
				vf v = splat(a[i * lda]);
				s[i][0] += v * b0;
				if (nv > 1) s[i][1] += v * b1;
			}
		}
	}
}

// tile_any is tile for m <= MR pixels: each size has code of its own, so that the tile stays in registers.
static __attribute__((noinline)) void tile_any(int m, int nv, int half, const run *r, int runs, long x, const void *b, vf acc[MR][2]) {
	vf s[MR][2]; // of its own: sums behind a pointer would be stored on every step
#define SIZE(n) case n: { \
		enum { M = n <= MR ? n : 1 }; \
		if (nv == 2 && !half) tile(M, 2, 0, r, runs, x, b, s); \
		else if (nv == 2) tile(M, 2, 1, r, runs, x, b, s); \
		else if (!half) tile(M, 1, 0, r, runs, x, b, s); \
		else tile(M, 1, 1, r, runs, x, b, s); \
		_Pragma("GCC unroll 16") for (int i = 0; i < M; i++) acc[i][0] = s[i][0], acc[i][1] = s[i][1]; \
	} break;
	switch (m) { SIZE(1) SIZE(2) SIZE(3) SIZE(4) SIZE(5) SIZE(6) SIZE(7) SIZE(8) SIZE(9) SIZE(10) SIZE(11) SIZE(12) }
#undef SIZE
}

// even is the size of the next register tile where left pixels are left: as few tiles as possible, of almost equal size,
// because a tile of few pixels waits for its own sums.
INL int even(int left) {
	const int tiles = (left + MR - 1) / MR;
	return (left + tiles - 1) / tiles;
}

INL const char *panel(const void *w, int half, long at) { return (const char *)w + at * (half ? 2 : 4); }

// products writes the product of t pixels and a panel: m[i][j] = sum over k of a[i][k] b[k][j], or with more adds it.
static __attribute__((noinline)) void products(run a, int t, const float *b, int more, float *m, long ldm) {
	for (int i = 0; i < t;) {
		const int n = even(t - i);
		vf s[MR][2];
#define SIZE(n) case n: { \
		enum { M = n <= MR ? n : 1 }; \
		tile(M, 2, 0, &a, 1, i, b, s); \
		float *o = m + i * ldm; \
		if (more) { \
			_Pragma("GCC unroll 16") for (int j = 0; j < M; j++) s[j][0] += load(o + j * ldm), s[j][1] += load(o + j * ldm + LANES); \
		} \
		_Pragma("GCC unroll 16") for (int j = 0; j < M; j++) store(o + j * ldm, s[j][0]), store(o + j * ldm + LANES, s[j][1]); \
	} break;
		switch (n) { SIZE(1) SIZE(2) SIZE(3) SIZE(4) SIZE(5) SIZE(6) SIZE(7) SIZE(8) SIZE(9) SIZE(10) SIZE(11) SIZE(12) }
#undef SIZE
		i += n;
	}
}

// halve rounds weights to F16, to nearest and ties to even. It reports whether all are in F16's range.
static int halve(const float *x, long n, uint16_t *out) {
	for (long i = 0; i < n; i++) {
		uint32_t u;
		memcpy(&u, x + i, sizeof u);
		const uint32_t sign = u >> 16 & 0x8000, abs = u & 0x7fffffff;
		if (abs >= 0x477ff000) return 0; // 65520 and more, and NaN
		if (abs < 0x38800000) { // subnormal in F16: a multiple of 2^-24, as numbers from 1/2 to 1 are
			float f;
			memcpy(&f, &abs, sizeof f);
			f += 0.5f;
			memcpy(&u, &f, sizeof u);
			out[i] = (uint16_t)(sign | (u - 0x3f000000));
			continue;
		}
		out[i] = (uint16_t)(sign | ((abs - 0x38000000 + 0xfff + (abs >> 13 & 1)) >> 13));
	}
	return 1;
}

// ------------------------------------------------------------------------------------------------ input strip

INL void copyf(float *d, const float *s, long n) { memcpy(d, s, n * sizeof *d); }

// activated writes row y of image n, concatenated, normalised and activated: [w][pitch], channels from cin to pitch 0.
static void activated(const conv_args *a, int n, int y, float *out, int pitch) {
	const float *scale = a->affine ? a->affine + (long)n * 2 * a->cin : 0, *offset = scale ? scale + a->cin : 0;
	int first = 0;
	if (!scale && a->act == ACT_IDENTITY && a->c[0] == pitch) {
		copyf(out, a->src[0] + ((long)n * a->h + y) * a->w * pitch, (long)a->w * pitch);
		return;
	}
	for (int s = 0; s < 2 && a->src[s]; s++) {
		const int c = a->c[s];
		const float *src = a->src[s] + ((long)n * a->h + y) * a->w * c;
		for (int x = 0; x < a->w; x++, src += c) {
			float *o = out + (long)x * pitch + first;
			int i = 0;
			for (; i + LANES <= c; i += LANES) {
				vf v = load(src + i);
				if (scale) v = v * load(scale + first + i) + load(offset + first + i);
				store(o + i, activate(a->act, v));
			}
			if (i < c) {
				vf v = loadn(src + i, c - i);
				if (scale) v = v * loadn(scale + first + i, c - i) + loadn(offset + first + i, c - i);
				storen(o + i, activate(a->act, v), c - i);
			}
		}
		first += c;
	}
	for (; first < pitch; first++)
		for (int x = 0; x < a->w; x++) out[(long)x * pitch + first] = 0;
}

INL int strip_width(const conv_args *a) { return a->uw + 2 * a->pad + a->pad_end; }

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

// sums gathers the moments of the results while they are in registers. Chunks (blocks of tiles, rows) are summed as
// differences from the mean of the chunk before, so that neither a large mean nor a slope across the image costs digits,
// and are merged by the rule of Chan, Golub and LeVeque (1979), which only adds what is not negative.
typedef struct {
	float *pivot, *sum, *square, *mean, *m2; // per channel of the task, from c0; null pivot: no moments wanted
	int c0;
	long all; // pixels merged
} sums;

static void sums_start(sums *s, int c0, int c1) {
	if (!s->pivot) return;
	s->c0 = c0, s->all = 0;
	memset(s->sum, 0, roundup(c1 - c0, NR) * sizeof(float));
	memset(s->square, 0, roundup(c1 - c0, NR) * sizeof(float));
}

// partial is the sums of a few pixels, for they are added up on their own: short sums round less.
typedef struct {
	vf pivot, sum, square;
} partial;

INL partial partial_start(const sums *s, int c) { return (partial){load(s->pivot + c - s->c0), {0}, {0}}; }

// partial_add adds n vectors; fresh ones are the unit's first and give the pivot.
INL void partial_add(partial *p, int fresh, const vf *v, int n) {
	if (fresh) {
		vf t = {0};
		for (int k = 0; k < n; k++) t += v[k];
		p->pivot = t / (float)n;
	}
	_Pragma("GCC unroll 6") for (int k = 0; k < n; k++) {
		const vf d = v[k] - p->pivot;
		p->sum += d, p->square += d * d;
	}
}

// partial_end adds the sums to those of channels c and following. The caller counts the pixels, once for all channels.
INL void partial_end(const sums *s, int c, const partial *p) {
	const int i = c - s->c0;
	store(s->pivot + i, p->pivot);
	store(s->sum + i, load(s->sum + i) + p->sum);
	store(s->square + i, load(s->square + i) + p->square);
}

// sums_merge merges a chunk of so many pixels, of channels c0 to c1, with all that were merged before.
static void sums_merge(const sums *s, int c0, int c1, long chunk, long all) {
	if (!s->pivot || !chunk) return;
	const float k = chunk, n = all + chunk;
	for (int i = c0 - s->c0; i < c1 - s->c0; i += LANES) {
		const vf t = load(s->sum + i);
		vf q = load(s->square + i) - t * t / k;
		q = vmax(splat(0), q); // a NaN stays one
		const vf p = load(s->pivot + i) + t / k;
		vf m = all ? load(s->mean + i) : (vf){0}, v = all ? load(s->m2 + i) : (vf){0};
		const vf d = p - m;
		store(s->m2 + i, v + q + d * d * (all * k / n));
		store(s->mean + i, m + d * (k / n));
		store(s->pivot + i, p);
		store(s->sum + i, (vf){0}), store(s->square + i, (vf){0});
	}
}

// sums_end merges a chunk of all channels up to c1.
static void sums_end(sums *s, int c1, long chunk) {
	sums_merge(s, s->c0, c1, chunk, s->all);
	s->all += chunk;
}

// sums_write writes the unit's moments where the backend joins them: means, then squared deviations.
static void sums_write(const conv_args *a, sums *s, int n, int unit, int c0, int c1) {
	if (!s->pivot) return;
	float *out = a->moments + ((long)n * a->units + unit) * 2 * a->cout;
	copyf(out + c0, s->mean, c1 - c0);
	copyf(out + a->cout + c0, s->m2, c1 - c0);
}

static long sums_scratch(const conv_args *a) { return 5 * (roundup(a->split, NR) + NR); }
static sums sums_open(const conv_args *a, float *p) {
	const long n = roundup(a->split, NR) + NR;
	return (sums){.pivot = a->moments ? p : 0, .sum = p + n, .square = p + 2 * n, .mean = p + 3 * n, .m2 = p + 4 * n};
}

// residual is LANES (or count < LANES) channels from c of the resampled residual at pixel (y, x) of image n.
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

// complete finishes count results of row y, from pixel x at every step-th one, channels c and following, stores them and
// leaves them in v. add holds bias and embedding, by channel; floor is 0 with ReLU, else where no number is below it.
INL void complete(const conv_args *a, int n, int y, int x, int step, int c, vf *v, int count, const float *add) {
	const int lanes = a->cout - c;
	if (lanes <= 0) return;
	const long pitch = (long)step * a->cout;
	float *d = a->dst + (((long)n * a->oh + y) * a->ow + x) * a->cout + c;
	const vf b = load(add + c), floor = splat(a->relu ? 0 : -INFINITY);
	if (lanes >= LANES && !a->residual) {
		_Pragma("GCC unroll 6") for (int i = 0; i < count; i++) store(d + i * pitch, v[i] = vmax(floor, v[i] + b));
	} else if (lanes >= LANES && a->rsampling == SAME) {
		const float *r = a->residual + (d - a->dst);
		_Pragma("GCC unroll 6") for (int i = 0; i < count; i++) store(d + i * pitch, v[i] = vmax(floor, v[i] + (b + load(r + i * pitch))));
	} else {
		for (int i = 0; i < count; i++) {
			v[i] += b;
			if (a->residual) v[i] += residual(a, n, y, x + i * step, c, lanes);
			v[i] = vmax(floor, v[i]);
			if (lanes >= LANES) store(d + i * pitch, v[i]);
			else storen(d + i * pitch, v[i], lanes);
		}
	}
}

// addend sums the biases and the embedding of image n into out, zero up to the last panel's end.
static void addend(const conv_args *a, int n, float *out) {
	const float *e = a->embed ? a->embed + (long)(a->embeds > 1 ? n : 0) * a->cout : 0;
	for (int c = 0; c < a->cout; c++) out[c] = (a->bias ? a->bias[c] : 0) + (a->skip_bias ? a->skip_bias[c] : 0) + (e ? e[c] : 0);
	for (long c = a->cout; c < roundup(a->cout, NR); c++) out[c] = 0;
}
static long addend_scratch(const conv_args *a) { return roundup(a->cout, NR) + LANES; }

// moments of c channels over contiguous pixels, in chunks as sums does.
static void moments(const float *x, long pixels, int c, float *mean, float *m2) {
	for (int i = 0; i < c; i += LANES) {
		const int full = c - i >= LANES;
#define PIXEL(p) (full ? load(x + (p) * c + i) : loadn(x + (p) * c + i, c - i))
		vf m = {0}, v = {0}, pivot = {0};
		const long some = pixels < 16 ? pixels : 16;
		for (long p = 0; p < some; p++) pivot += PIXEL(p);
		pivot = pivot / (float)some;
		for (long p0 = 0; p0 < pixels; p0 += 256) {
			const long p1 = p0 + 256 < pixels ? p0 + 256 : pixels;
			vf s = {0}, q = {0};
			for (long p = p0; p < p1;) {
				vf t = {0}, u = {0};
				for (const long end = p + 16 < p1 ? p + 16 : p1; p < end; p++) {
					const vf d = PIXEL(p) - pivot;
					t += d, u += d * d;
				}
				s += t, q += u;
			}
			const float k = p1 - p0, n = p1;
			q = vmax(splat(0), q - s * s / k);
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

// moments_join merges the moments of an image's units, in order. pixels is the size of all units but the last.
static void moments_join(const float *part, int units, long pixels, long all, int c, float *out) {
	for (int i = 0; i < c; i++) {
		double mean = 0, m2 = 0, count = 0;
		for (int u = 0; u < units; u++) {
			const float *p = part + (long)u * 2 * c + i;
			const double k = u < units - 1 ? pixels : all - pixels * u, d = p[0] - mean;
			mean += d * k / (count + k);
			m2 += p[c] + d * d * count * k / (count + k);
			count += k;
		}
		out[i] = mean, out[c + i] = m2;
	}
}

// ------------------------------------------------------------------------------------------------ direct

// plain: the tensors themselves can serve as the strip.
INL int plain(const conv_args *a) {
	return a->size == 1 && a->stride == 1 && a->pad == 0 && !a->affine && a->act == ACT_IDENTITY && a->sampling == SAME;
}

INL int thin(const conv_args *a) { return a->cout <= 4 && a->size > 1 && a->cin >= LANES; }

INL long direct_depth(const conv_args *a) { return (long)a->size * a->size * a->cin; }

// Panels are NR wide; a last panel of at most LANES channels is LANES wide.
INL int panel_vectors(const conv_args *a, int c) { return a->cout - c > LANES ? 2 : 1; }

// direct_pack writes the weights: panel after panel, or for thin ones [kernel row][kernel column][cout][cin to LANES].
static void direct_pack(const conv_args *a, const float *w, float *p) {
	const int area = a->size * a->size;
	if (thin(a)) {
		for (int t = 0; t < area; t++)
			for (int o = 0; o < a->cout; o++)
				for (int i = 0; i < roundup(a->cin, LANES); i++) *p++ = i < a->cin ? w[((long)o * a->cin + i) * area + t] : 0;
		return;
	}
	for (int c = 0; c < a->cout; c += NR) {
		const int width = panel_vectors(a, c) * LANES;
		for (int t = 0; t < area; t++)
			for (int i = 0; i < a->cin; i++)
				for (int j = 0; j < width; j++)
					*p++ = c + j < a->cout ? w[((long)(c + j) * a->cin + i) * area + t] : 0;
	}
}

// fetch asks for the inputs of the tile of m pixels after pixel x of the runs: a tile reads a few bytes of many pixels at a
// time, in a pattern that the processor does not foresee.
INL void fetch(const run *r, int runs, long x, int m) {
	for (int n = 0; n < runs; n++) {
		const char *p = (const char *)(r[n].a + (x + m) * r[n].lda), *end = (const char *)(r[n].a + (x + 2 * m) * r[n].lda);
		for (; p < end; p += 64) __builtin_prefetch(p);
	}
}

// direct_pixels computes count pixels from x of a long row that begins at row y, panel c: tile by tile.
INL void direct_pixels(const conv_args *a, int n, int y, int x, int count, int c, const run *r, int runs, const void *b,
	const float *add, const sums *sum, int fresh, int ahead) {
	vf acc[MR][2], v[MR];
	const int nv = panel_vectors(a, c), end = x + count;
	while (x < end) {
		const int m = even(end - x);
		if (ahead) fetch(r, runs, x, m);
		tile_any(m, nv, a->half, r, runs, x, b, acc);
		for (int l = 0; l < nv; l++) {
			for (int i = 0; i < m; i++) v[i] = acc[i][l];
			for (int i = 0; i < m;) { // a long row may be several rows of the image
				const int yy = y + (x + i) / a->ow, xx = (x + i) % a->ow, k = mini(m - i, a->ow - xx);
				complete(a, n, yy, xx, 1, c + l * LANES, v + i, k, add);
				i += k;
			}
			if (sum->pivot) {
				partial p = partial_start(sum, c + l * LANES);
				partial_add(&p, fresh, v, m);
				partial_end(sum, c + l * LANES, &p);
			}
		}
		x += m, fresh = 0;
	}
}

// thin_row computes a row as dot products: co output channels of several pixels at a time.
INL void thin_row(const conv_args *a, int n, int y, const float *s, long row, int pitch, const int co, const float *add, const sums *sum, int fresh) {
	const int at_once = 12 / co;
	const float *w = a->weight;
	for (int x = 0; x < a->ow; x += at_once) {
		vf acc[12];
		_Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] = (vf){0};
		const int m = mini(at_once, a->ow - x);
		const long step = (long)a->stride * pitch;
		for (int ky = 0; ky < a->size; ky++)
			for (int kx = 0; kx < a->size; kx++) {
				const float *b = w + (long)(ky * a->size + kx) * co * pitch;
				const float *p[12];
				for (int i = 0; i < at_once; i++) p[i] = s + ky * row + (long)mini(x + i, a->ow - 1) * step + kx * pitch;
				for (int c = 0; c < pitch; c += LANES) {
					vf u[4];
					_Pragma("GCC unroll 4") for (int o = 0; o < co; o++) u[o] = load(b + o * pitch + c);
					_Pragma("GCC unroll 12") for (int i = 0; i < at_once; i++) {
						const vf q = load(p[i] + c);
						_Pragma("GCC unroll 4") for (int o = 0; o < co; o++) acc[i * co + o] += q * u[o];
					}
				}
			}
		for (int i = 0; i < m; i++) {
			vf v = {0};
			for (int o = 0; o < co; o++) {
				v[o] = hsum(acc[i * co + o]);
			}
			complete(a, n, y, x + i, 1, 0, &v, 1, add);
			if (sum->pivot) {
				partial p = partial_start(sum, 0);
				partial_add(&p, fresh && x + i == 0, &v, 1);
				partial_end(sum, 0, &p);
			}
		}
	}
}

static __attribute__((noinline)) void thin_rows(const conv_args *a, int n, int y, const float *s, long row, int pitch, const float *add, const sums *sum, int fresh) {
	switch (a->cout) {
	case 1: thin_row(a, n, y, s, row, pitch, 1, add, sum, fresh); break;
	case 2: thin_row(a, n, y, s, row, pitch, 2, add, sum, fresh); break;
	case 3: thin_row(a, n, y, s, row, pitch, 3, add, sum, fresh); break;
	case 4: thin_row(a, n, y, s, row, pitch, 4, add, sum, fresh); break;
	}
}

enum { PIXELS = 8 * MR }; // pixels of a block that meets all panels: its inputs stay in the second-level cache

// project writes the 1x1 convolution of the shortcut to count pixels from pixel x of row y, where the epilogue finds it
// as its residual. Rows follow each other: count may run over the end of row y.
static void project(const conv_args *a, int n, int y, int x, int count, int c0, int c1) {
	run r[2];
	int runs = 0;
	for (; runs < 2 && a->skip[runs]; runs++)
		r[runs] = (run){a->skip[runs] + (((long)n * a->oh + y) * a->ow + x) * a->cs[runs], a->cs[runs], a->cs[runs]};
	const long depth = a->cs[0] + a->cs[1];
	float *d = a->dst + (((long)n * a->oh + y) * a->ow + x) * a->cout;
	vf acc[MR][2];
	for (int p = 0; p < count; p += PIXELS)
		for (int c = c0; c < c1; c += NR) {
			const int nv = panel_vectors(a, c), end = mini(count, p + PIXELS);
			for (int i = p; i < end;) {
				const int m = even(end - i);
				if (c == c0) fetch(r, runs, i, m);
				tile_any(m, nv, a->skip_half, r, runs, i, panel(a->skip_weight, a->skip_half, depth * c), acc);
				for (int j = 0; j < m; j++)
					for (int l = 0; l < nv; l++) {
						float *o = d + (long)(i + j) * a->cout + c + l * LANES;
						const int lanes = a->cout - c - l * LANES;
						if (lanes >= LANES) store(o, acc[j][l]);
						else if (lanes > 0) storen(o, acc[j][l], lanes);
					}
				i += m;
			}
		}
}

static void direct_units(const conv_args *a, int n, int u0, int u1, int c0, int c1, float *scratch) {
	float *add = scratch;
	addend(a, n, add);
	scratch += addend_scratch(a);
	sums sum = sums_open(a, scratch);
	scratch += sums_scratch(a);
	const long depth = direct_depth(a);
	run r[16];
	for (int u = u0; u < u1; u++) {
		const int y0 = u * a->rows, y1 = mini(a->oh, y0 + a->rows);
		sums_start(&sum, c0, c1);
		if (a->skip[0]) project(a, n, y0, 0, (y1 - y0) * a->ow, c0, c1);
		if (plain(a)) { // the rows of an image follow each other: one long row
			int runs = 0;
			for (; runs < 2 && a->src[runs]; runs++)
				r[runs] = (run){a->src[runs] + ((long)n * a->h + y0) * a->w * a->c[runs], a->c[runs], a->c[runs]};
			const int all = (y1 - y0) * a->ow;
			for (int x = 0; x < all; x += PIXELS) {
				for (int c = c0; c < c1; c += NR)
					direct_pixels(a, n, y0, x, mini(PIXELS, all - x), c, r, runs, panel(a->weight, a->half, depth * c), add, &sum, x == 0, c == c0);
				sums_end(&sum, c1, mini(PIXELS, all - x));
			}
			sums_write(a, &sum, n, u, c0, c1);
			continue;
		}
		const int width = strip_width(a), pitch = thin(a) ? roundup(a->cin, LANES) : a->cin;
		const int rows = (y1 - y0 - 1) * a->stride + a->size, keep = u > u0 && a->size > a->stride ? a->size - a->stride : 0;
		const long row = (long)width * pitch;
		float *tmp = scratch, *s = tmp + 2L * a->w * pitch;
		if (keep) memmove(s, s + (long)a->rows * a->stride * row, keep * row * sizeof *s);
		strip(a, n, y0 * a->stride - a->pad, rows, keep, s, width, pitch, tmp);
		if (thin(a)) {
			for (int y = y0; y < y1; y++) {
				thin_rows(a, n, y, s + (long)(y - y0) * a->stride * row, row, pitch, add, &sum, y == y0);
				sums_end(&sum, c1, a->ow);
			}
		} else {
			const int together = a->size == 1 && a->stride == 1 && a->pad == 0; // the strip's rows follow each other, too
			const int lines = together ? 1 : y1 - y0, all = together ? (y1 - y0) * a->ow : a->ow;
			for (int x = 0; x < all; x += PIXELS)
				for (int c = c0; c < c1; c += NR)
					for (int y = 0; y < lines; y++) {
						for (int k = 0; k < a->size; k++)
							r[k] = (run){s + (y * a->stride + k) * row, (long)a->stride * pitch, a->size * pitch};
						direct_pixels(a, n, y0 + y, x, mini(PIXELS, all - x), c, r, a->size, panel(a->weight, a->half, depth * c),
							add, &sum, x + y == 0, 0);
					}
			sums_end(&sum, c1, (long)(y1 - y0) * a->ow);
		}
		sums_write(a, &sum, n, u, c0, c1);
	}
}

static long direct_scratch(const conv_args *a) {
	const long base = addend_scratch(a) + sums_scratch(a) + LANES;
	if (plain(a)) return base;
	const long width = strip_width(a), rows = (a->rows - 1L) * a->stride + a->size, pitch = roundup(a->cin, LANES);
	return base + 2L * a->w * pitch + rows * width * pitch;
}
