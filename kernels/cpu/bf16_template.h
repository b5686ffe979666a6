// Products in bfloat16: the direct form with inputs and weights rounded to 8 bits of mantissa and sums in F32. One
// algorithm, three ways to multiply: tiles of AMX, dot products of AVX-512, and for all others a shift and two F32 products.
//
// The strip holds rounded values, a pixel's channels padded to whole tiles. Weights: panels of NR channels; inside, for
// every kernel row and column, pairs of input channels: [pair][NR][2], which is what a dot product of pairs reads from a
// vector, and a tile from its rows. A shortcut is one more run of products in the same sums.

typedef uint16_t bf16;
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

enum { DEPTH = 32, SEGMENT = 16 }; // input channels and pixels of an AMX tile

// Tiles of AMX and dot products of AVX-512 are compiled for every AVX-512 level, and run where the processor has them.
#if defined(__x86_64__) && defined(__AVX512F__) && LANES == 16 && (defined(__clang__) || __GNUC__ >= 11)
#define HAS_BRIEF 1
#define DOT_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,avx512bf16"), noinline))
#define AMX_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,amx-tile,amx-bf16"), noinline))
#else
#define HAS_BRIEF 0
#endif

// narrow rounds to nearest, ties to even. n is a multiple of DEPTH.
static void narrow(const float *x, long n, bf16 *out) {
	for (long i = 0; i < n; i += LANES) {
		const vf v = load(x + i);
		vu u = (vu)v;
		u += 0x7fff + (u >> 16 & 1);
		u = (vu)choose(v == v, (vf)u, (vf)(0x7fc00000 - (vu){0})); // a NaN stays one
		const vh h = __builtin_convertvector(u >> 16, vh);
		memcpy(out + i, &h, sizeof h);
	}
}

// row16 is pixels of the strip and the weights that meet them.
typedef struct {
	const bf16 *a; // the first value of pixel 0
	long lda;      // from pixel to pixel
	int pairs;     // per pixel
	const bf16 *b; // panels; those of another panel are at b + panel * step
	long step;
} run16;

// place is up to SEGMENT pixels of one output row.
typedef struct {
	int y, x, count;
	long at[2]; // of the first pixel: values from the runs' a, in the strip and in the shortcut's
} place;

// brief_tile multiplies m pixels with a panel: out[i][j] = sum over the runs. main runs are of the strip, a last one of the
// shortcut.
INL void brief_tile(const int m, const run16 *r, int runs, int main, const place *p, int first, long panel, float *out) {
	vf s[MR][2];
	_Pragma("GCC unroll 16") for (int i = 0; i < m; i++) s[i][0] = s[i][1] = (vf){0};
	for (int n = 0; n < runs; n++) {
		const long lda = r[n].lda;
		const bf16 *a = r[n].a + p->at[n >= main] + first * lda, *b = r[n].b + panel * r[n].step;
		for (int k = 0; k < r[n].pairs; k++, a += 2, b += 2 * NR) {
			vu w0, w1;
			memcpy(&w0, b, sizeof w0), memcpy(&w1, b + 2 * LANES, sizeof w1);
			const vu high = (vu){0} - 0x10000;
			const vf l0 = (vf)(w0 << 16), l1 = (vf)(w1 << 16), h0 = (vf)(w0 & high), h1 = (vf)(w1 & high);
			_Pragma("GCC unroll 16") for (int i = 0; i < m; i++) {
				uint32_t two;
				memcpy(&two, a + i * lda, sizeof two);
				const uint32_t lo = two << 16, hi = two & 0xffff0000;
				float x, y;
				memcpy(&x, &lo, sizeof x), memcpy(&y, &hi, sizeof y);
				s[i][0] += splat(x) * l0, s[i][1] += splat(x) * l1;
				s[i][0] += splat(y) * h0, s[i][1] += splat(y) * h1;
			}
		}
	}
	_Pragma("GCC unroll 16") for (int i = 0; i < m; i++) store(out + i * NR, s[i][0]), store(out + i * NR + LANES, s[i][1]);
}

// BY_SIZE has code of its own for every size of register tile.
#define BY_SIZE(tile) \
	for (int i = 0; i < p->count;) { \
		const int m = even(p->count - i); \
		switch (m) { SIZE(1, tile) SIZE(2, tile) SIZE(3, tile) SIZE(4, tile) SIZE(5, tile) SIZE(6, tile) SIZE(7, tile) SIZE(8, tile) \
			SIZE(9, tile) SIZE(10, tile) SIZE(11, tile) SIZE(12, tile) } \
		i += m; \
	}
#define SIZE(n, tile) case n: tile(n <= MR ? n : 1, r, runs, main, p, i, panel, out + i * NR); break;

static __attribute__((noinline)) void brief_any(const run16 *r, int runs, int main, const place *p, long panel, float *out) { BY_SIZE(brief_tile) }

#if HAS_BRIEF
#define ALWAYS static inline __attribute__((always_inline, target("avx512f,avx512dq,avx512bw,avx512vl,fma,avx512bf16")))
ALWAYS void dot_tile(const int m, const run16 *r, int runs, int main, const place *p, int first, long panel, float *out) {
	__m512 s[MR][2];
	_Pragma("GCC unroll 16") for (int i = 0; i < m; i++) s[i][0] = s[i][1] = _mm512_setzero_ps();
	for (int n = 0; n < runs; n++) {
		const long lda = r[n].lda;
		const bf16 *a = r[n].a + p->at[n >= main] + first * lda, *b = r[n].b + panel * r[n].step;
		for (int k = 0; k < r[n].pairs; k++, a += 2, b += 2 * NR) {
			const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 2 * LANES);
			_Pragma("GCC unroll 16") for (int i = 0; i < m; i++) {
				int two;
				memcpy(&two, a + i * lda, sizeof two);
				const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
				s[i][0] = _mm512_dpbf16_ps(s[i][0], x, b0), s[i][1] = _mm512_dpbf16_ps(s[i][1], x, b1);
			}
		}
	}
	_Pragma("GCC unroll 16") for (int i = 0; i < m; i++) _mm512_storeu_ps(out + i * NR, s[i][0]), _mm512_storeu_ps(out + i * NR + LANES, s[i][1]);
}

static DOT_TARGET void brief_dot(const run16 *r, int runs, int main, const place *p, long panel, float *out) { BY_SIZE(dot_tile) }

// FENCE tells the compiler what its tile instructions keep from it: that they read and write memory.
#define FENCE __asm__ volatile("" ::: "memory")

// amx_open sets the shapes of all tiles: 16 rows of 64 bytes.
static AMX_TARGET void amx_open(void) {
	struct {
		uint8_t palette, start, reserved[14];
		uint16_t bytes[16];
		uint8_t rows[16];
	} shapes = {.palette = 1};
	for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = SEGMENT;
	FENCE;
	_tile_loadconfig(&shapes);
}

static AMX_TARGET void amx_close(void) { _tile_release(); }

// brief_amx multiplies two segments with a panel. Rows of pixels beyond the count are computed from whatever lies there.
static AMX_TARGET void brief_amx(const run16 *r, int runs, int main, const place *p, int two, long panel, float *out) {
	FENCE;
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	for (int n = 0; n < runs; n++) {
		const long step = r[n].lda * sizeof(bf16);
		const bf16 *a0 = r[n].a + p[0].at[n >= main], *a1 = r[n].a + p[two].at[n >= main], *b = r[n].b + panel * r[n].step;
		for (int k = 0; k < r[n].pairs; k += DEPTH / 2, a0 += DEPTH, a1 += DEPTH, b += DEPTH * NR) {
			_tile_loadd(4, a0, step);
			_tile_loadd(6, b, NR * 4);
			_tile_loadd(7, b + DEPTH, NR * 4);
			_tile_dpbf16ps(0, 4, 6);
			_tile_dpbf16ps(1, 4, 7);
			if (two) {
				_tile_loadd(5, a1, step);
				_tile_dpbf16ps(2, 5, 6);
				_tile_dpbf16ps(3, 5, 7);
			}
		}
	}
	_tile_stored(0, out, NR * 4);
	_tile_stored(1, out + LANES, NR * 4);
	if (two) {
		_tile_stored(2, out + SEGMENT * NR, NR * 4);
		_tile_stored(3, out + SEGMENT * NR + LANES, NR * 4);
	}
	FENCE;
}
#undef FENCE
#else
static void amx_open(void) {}
static void amx_close(void) {}
#endif
#undef SIZE

// brief_products multiplies one or two segments with a panel: out[segment][pixel][NR].
INL void brief_products(int how, const run16 *r, int runs, int main, const place *p, int count, long panel, float *out) {
#if HAS_BRIEF
	if (how == BRIEF_AMX) {
		brief_amx(r, runs, main, p, count - 1, panel, out);
		return;
	}
#endif
	for (int i = 0; i < count; i++, out += SEGMENT * NR) {
#if HAS_BRIEF
		if (how == BRIEF_DOT) {
			brief_dot(r, runs, main, p + i, panel, out);
			continue;
		}
#endif
		brief_any(r, runs, main, p + i, panel, out);
	}
}

INL long brief_pitch(int c) { return roundup(c, DEPTH); }

// brief_packed is the number of weights, brief_pack rounds them.
static long brief_packed(const conv_args *a) { return (long)a->size * a->size * brief_pitch(a->cin) * roundup(a->cout, NR); }

static void brief_pack(const conv_args *a, const float *w, bf16 *out) {
	const int area = a->size * a->size;
	const long pitch = brief_pitch(a->cin);
	for (int c = 0; c < a->cout; c += NR)
		for (int t = 0; t < area; t++)
			for (long i = 0; i < pitch; i += DEPTH, out += DEPTH * NR) {
				float x[DEPTH];
				bf16 y[DEPTH];
				for (int j = 0; j < NR; j++) {
					for (int k = 0; k < DEPTH; k++) x[k] = i + k < a->cin && c + j < a->cout ? w[((long)(c + j) * a->cin + i + k) * area + t] : 0;
					narrow(x, DEPTH, y);
					for (int k = 0; k < DEPTH; k++) out[(k / 2 * NR + j) * 2 + k % 2] = y[k];
				}
			}
}

// brief_strip is strip in bfloat16. wide is a row in F32.
static void brief_strip(const conv_args *a, int n, int y, int count, int keep, bf16 *out, int width, int pitch, float *wide, float *tmp) {
	for (int r = keep; r < count; r++) {
		bf16 *o = out + (long)r * width * pitch;
		if (a->sampling == UP2 && (y + r) % 2 && r > 0 && y + r > 0 && y + r < a->uh) { // the row above once more
			memcpy(o, o - (long)width * pitch, (long)width * pitch * sizeof *o);
			continue;
		}
		strip_row(a, n, y + r, wide, 0, width, pitch, tmp);
		narrow(wide, (long)width * pitch, o);
	}
}

enum { SEGMENTS = 4 }; // of a block that meets all panels

static void brief_units(const conv_args *a, int n, int u0, int u1, int c0, int c1, float *scratch) {
	float *add = scratch, *sp = add + addend_scratch(a), *out = sp + sums_scratch(a);
	addend(a, n, add);
	sums sum = sums_open(a, sp);
	const int width = strip_width(a), pitch = brief_pitch(a->cin), rows = (a->rows - 1) * a->stride + a->size, runs = a->size + !!a->skip[0];
	const int spitch = brief_pitch(a->cs[0] + a->cs[1]);
	const long row = (long)width * pitch, depth = (long)a->size * a->size * pitch;
	float *tmp = out + 2 * SEGMENT * NR, *wide = tmp + 2L * a->w * pitch;
	bf16 *s = (bf16 *)(wide + row + (a->skip[0] ? (long)a->ow * spitch : 0)), *shortcut = s + rows * row + SEGMENT * a->stride * pitch;
	conv_args skip = {.src = {a->skip[0], a->skip[1]}, .c = {a->cs[0], a->cs[1]}, .cin = a->cs[0] + a->cs[1], .h = a->oh, .w = a->ow, .uh = a->oh, .uw = a->ow};
	const int amx = HAS_BRIEF && a->brief == BRIEF_AMX, keep = a->size > a->stride ? a->size - a->stride : 0;
	if (amx) amx_open();
	run16 r[16];
	for (int k = 0; k < a->size; k++) {
		const long one = (long)a->size * pitch;
		r[k] = (run16){s + k * row, (long)a->stride * pitch, one / 2, (const bf16 *)a->weight + k * one * NR, depth * NR};
	}
	if (a->skip[0]) r[a->size] = (run16){shortcut, spitch, spitch / 2, a->skip_weight, (long)spitch * NR};
	for (int u = u0; u < u1; u++) {
		const int y0 = u * a->rows, y1 = mini(a->oh, y0 + a->rows), kept = u > u0 ? keep : 0;
		if (kept) memmove(s, s + (long)a->rows * a->stride * row, kept * row * sizeof *s);
		brief_strip(a, n, y0 * a->stride - a->pad, (y1 - y0 - 1) * a->stride + a->size, kept, s, width, pitch, wide, tmp);
		if (a->skip[0]) brief_strip(&skip, n, y0, y1 - y0, 0, shortcut, a->ow, spitch, wide, 0);
		sums_start(&sum, c0, c1);
		const int across = (a->ow + SEGMENT - 1) / SEGMENT, all = across * (y1 - y0);
		for (int t = 0; t < all; t += SEGMENTS) {
			const int some = mini(SEGMENTS, all - t);
			place p[SEGMENTS];
			int pixels = 0;
			for (int i = 0; i < some; i++) {
				const int y = (t + i) / across, x = (t + i) % across * SEGMENT;
				p[i] = (place){y0 + y, x, mini(SEGMENT, a->ow - x), {y * a->stride * row + (long)x * a->stride * pitch, ((long)y * a->ow + x) * spitch}};
				pixels += p[i].count;
			}
			for (int c = c0; c < c1; c += NR)
				for (int i = 0; i < some; i += 2) {
					brief_products(a->brief, r, runs, a->size, p + i, mini(2, some - i), c / NR, out);
					for (int l = 0; l < NR; l += LANES) {
						if (c + l >= a->cout) break;
						partial part;
						if (sum.pivot) part = partial_start(&sum, c + l);
						for (int j = i; j < mini(i + 2, some); j++) {
							const float *q = out + (j - i) * SEGMENT * NR + l;
							vf v[SEGMENT];
							for (int k = 0; k < p[j].count; k++) v[k] = load(q + k * NR);
							complete(a, n, p[j].y, p[j].x, 1, c + l, v, p[j].count, add);
							if (sum.pivot) partial_add(&part, t + j == 0, v, p[j].count);
						}
						if (sum.pivot) partial_end(&sum, c + l, &part);
					}
				}
			sums_end(&sum, c1, pixels);
		}
		sums_write(a, &sum, n, u, c0, c1);
	}
	if (amx) amx_close();
}

static long brief_scratch(const conv_args *a) {
	const long pitch = brief_pitch(a->cin), spitch = a->skip[0] ? brief_pitch(a->cs[0] + a->cs[1]) : 0, width = strip_width(a), rows = (a->rows - 1L) * a->stride + a->size;
	const long narrowed = rows * width * pitch + SEGMENT * a->stride * pitch + ((long)a->rows * a->ow + SEGMENT) * spitch;
	return addend_scratch(a) + sums_scratch(a) + 2 * SEGMENT * NR + 2L * a->w * pitch + width * pitch + a->ow * spitch + (narrowed + 1) / 2 + LANES;
}
