// Winograd's minimal filtering for 3x3 kernels of stride 1 (Lavin and Gray, arXiv 1509.09308): per tile of A x A inputs,
//
//	Y = A^T [ (G g G^T) . (B^T d B) ] A
//
// M x M outputs from (M+R-1)^2 products instead of (M R)^2. The products over channels are matrix products, one for each
// of the A*A positions, on the register tile of the direct form. V holds a block of tiles, position by position, and M
// the products with a group of panels of output channels; both are padded by 64 bytes, or all the streams would fall into
// one set of the cache.
//
// Weights are kept as G g, A x R values in place of A x A: F(6x6) reads 24 and multiplies by 64. The other half of their
// transform is made for one panel and one row of positions at a time, which is little work beside a block of tiles.
//
//	F(2x2), F(4x4), F(6x6)   R = 3
//	up                       nearest-x2 and then 3x3 is, for each of the four parities of the output, a 2x2 kernel on the small
//	                         image: F(4x4,2x2), 25 products for 16 outputs. All four share a strip.

INL void bt(const int A, const vf *d, vf *o, const int q) { // B^T d
	if (A == 4) {
		o[0] = d[0] - d[2], o[q] = d[1] + d[2], o[2 * q] = d[2] - d[1], o[3 * q] = d[1] - d[3];
	} else if (A == 5) { // points 0, 1, -1, 2
		const vf a = d[3] - d[1], b = d[1] + d[1], c = b - d[3];
		o[0] = 2.0f * (d[0] - d[2]) + a;
		o[q] = c + d[2];
		o[2 * q] = 3.0f * d[2] - (b + d[3]);
		o[3 * q] = a;
		o[4 * q] = (d[4] - d[2]) - 2.0f * a;
	} else if (A == 6) {
		const vf a = d[4] - 4.0f * d[2], b = d[3] - 4.0f * d[1], c = d[4] - d[2], e = d[3] - d[1];
		o[0] = 4.0f * d[0] + (d[4] - 5.0f * d[2]);
		o[q] = a + b, o[2 * q] = a - b;
		o[3 * q] = c + 2.0f * e, o[4 * q] = c - 2.0f * e;
		o[5 * q] = 4.0f * d[1] + (d[5] - 5.0f * d[3]);
	} else {
		o[0] = (d[0] - d[6]) + 5.25f * (d[4] - d[2]);
		o[7 * q] = (d[7] - d[1]) + 5.25f * (d[3] - d[5]);
		vf a = (d[2] + d[6]) - 4.25f * d[4], b = (d[1] + d[5]) - 4.25f * d[3];
		o[q] = a + b, o[2 * q] = a - b;
		a = d[6] + 0.25f * d[2] - 1.25f * d[4], b = 0.5f * d[1] - 2.5f * d[3] + 2.0f * d[5];
		o[3 * q] = a + b, o[4 * q] = a - b;
		a = d[6] + 4.0f * d[2] - 5.0f * d[4], b = 2.0f * d[1] - 2.5f * d[3] + 0.5f * d[5];
		o[5 * q] = a + b, o[6 * q] = a - b;
	}
}

INL void at(const int A, const vf *m, vf *o) { // A^T m
	if (A == 4) {
		o[0] = m[0] + (m[1] + m[2]), o[1] = (m[1] - m[2]) - m[3];
	} else if (A == 5) {
		const vf p = m[1] + m[2], r = m[1] - m[2];
		o[0] = m[0] + p + m[3], o[1] = r + 2.0f * m[3], o[2] = p + 4.0f * m[3], o[3] = r + 8.0f * m[3] + m[4];
	} else if (A == 6) {
		const vf p = m[1] + m[2], r = m[1] - m[2], u = m[3] + m[4], w = m[3] - m[4];
		o[0] = m[0] + p + u, o[1] = r + 2.0f * w, o[2] = p + 4.0f * u, o[3] = r + 8.0f * w + m[5];
	} else {
		const vf p = m[1] + m[2], r = m[1] - m[2], u = m[3] + m[4], w = m[3] - m[4], x = m[5] + m[6], y = m[5] - m[6];
		o[0] = m[0] + p + u + x;
		o[1] = r + 2.0f * w + 0.5f * y;
		o[2] = p + 4.0f * u + 0.25f * x;
		o[3] = r + 8.0f * w + 0.125f * y;
		o[4] = p + 16.0f * u + 0.0625f * x;
		o[5] = r + 32.0f * w + 0.03125f * y + m[7];
	}
}

// Outputs per tile edge, inputs per tile edge, kernels (parities of the output).
INL int form_m(int form) { return form == FORM_WINOGRAD2 ? 2 : form == FORM_WINOGRAD6 ? 6 : 4; }
INL int form_a(int form) { return form == FORM_WINOGRAD2 ? 4 : form == FORM_WINOGRAD6 ? 8 : form == FORM_WINOGRAD_UP ? 5 : 6; }
INL int form_kernels(int form) { return form == FORM_WINOGRAD_UP ? 4 : 1; }

// Weights kept per row of positions: values along a row of the kernel.
INL int form_r(int form) { return form == FORM_WINOGRAD_UP ? 2 : 3; }

// winograd_filter: G g in double.
static void winograd_filter(int form, const double g[3][3], double t[8][3]) {
	static const double G2[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
	static const double G5[5][3] = {{.5, 0}, {.5, .5}, {1 / 6., -1 / 6.}, {1 / 6., 1 / 3.}, {0, 1}};
	static const double G4[6][3] = {{.25, 0, 0}, {-1 / 6., -1 / 6., -1 / 6.}, {-1 / 6., 1 / 6., -1 / 6.},
		{1 / 24., 1 / 12., 1 / 6.}, {1 / 24., -1 / 12., 1 / 6.}, {0, 0, 1}};
	static const double G6[8][3] = {{1, 0, 0}, {-2 / 9., -2 / 9., -2 / 9.}, {-2 / 9., 2 / 9., -2 / 9.}, {1 / 90., 1 / 45., 2 / 45.},
		{1 / 90., -1 / 45., 2 / 45.}, {32 / 45., 16 / 45., 8 / 45.}, {32 / 45., -16 / 45., 8 / 45.}, {0, 0, 1}};
	const double(*G)[3] = form == FORM_WINOGRAD2 ? G2 : form == FORM_WINOGRAD_UP ? G5 : form == FORM_WINOGRAD4 ? G4 : G6;
	for (int i = 0; i < form_a(form); i++)
		for (int j = 0; j < 3; j++) t[i][j] = G[i][0] * g[0][j] + G[i][1] * g[1][j] + G[i][2] * g[2][j];
}

enum { DEEP = 64 }; // input channels whose expanded weights stay in the first-level cache

enum { CHUNK = 16 }; // tiles whose moments are summed before they are merged

// expand multiplies a row of G g of one panel by G^T: from [deep][R][NR] to [A][deep][NR].
INL void expand(const int A, const int half, const void *w, long deep, float *u) {
	const int R = A == 5 ? 2 : 3;
	const long q = deep * NR;
	for (long c = 0; c < deep; c++, w = panel(w, half, R * NR))
		for (int l = 0; l < NR; l += LANES, u += LANES) {
			const vf a = widen(panel(w, half, l), half), b = widen(panel(w, half, NR + l), half);
			const vf d = R == 3 ? widen(panel(w, half, 2 * NR + l), half) : b;
			if (A == 4) {
				const vf e = 0.5f * (a + d), o = 0.5f * b;
				store(u, a), store(u + q, e + o), store(u + 2 * q, e - o), store(u + 3 * q, d);
			} else if (A == 5) {
				const vf e = a * (1 / 6.0f), o = b * (1 / 6.0f), h = 0.5f * a;
				store(u, h), store(u + q, h + 0.5f * b), store(u + 2 * q, e - o), store(u + 3 * q, e + 2.0f * o), store(u + 4 * q, b);
			} else if (A == 6) {
				const vf e = (a + d) * (-1 / 6.0f), o = b * (-1 / 6.0f), f = a * (1 / 24.0f) + d * (1 / 6.0f), p = b * (1 / 12.0f);
				store(u, 0.25f * a), store(u + q, e + o), store(u + 2 * q, e - o);
				store(u + 3 * q, f + p), store(u + 4 * q, f - p), store(u + 5 * q, d);
			} else {
				const vf e = (a + d) * (-2 / 9.0f), o = b * (-2 / 9.0f), f = a * (1 / 90.0f) + d * (2 / 45.0f), p = b * (1 / 45.0f);
				const vf g = a * (32 / 45.0f) + d * (8 / 45.0f), r = b * (16 / 45.0f);
				store(u, a), store(u + q, e + o), store(u + 2 * q, e - o), store(u + 3 * q, f + p);
				store(u + 4 * q, f - p), store(u + 5 * q, g + r), store(u + 6 * q, g - r), store(u + 7 * q, d);
			}
		}
}

// parity is the 2x2 kernel that g is for the outputs of row parity p and column parity q of an image enlarged by
// repetition: taps that meet the same pixel are summed.
static void parity(const double g[3][3], int p, int q, double f[3][3]) {
	memset(f, 0, 9 * sizeof(double));
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 3; j++) f[(i + 1 - p) / 2][(j + 1 - q) / 2] += g[i][j];
}

// winograd_pack writes G g as [kernel][panel][row of positions][cin to LANES][R][NR].
static void winograd_pack(const conv_args *a, const float *w, float *u) {
	const long cp = roundup(a->cin, LANES), kp = roundup(a->cout, NR);
	const int A = form_a(a->form), R = form_r(a->form), kernels = form_kernels(a->form);
	memset(u, 0, kernels * A * R * cp * kp * sizeof *u);
	for (long k = 0; k < a->cout; k++)
		for (long c = 0; c < a->cin; c++) {
			double g[3][3], f[3][3], t[8][3];
			for (int i = 0; i < 9; i++) g[i / 3][i % 3] = w[(k * a->cin + c) * 9 + i];
			for (int kernel = 0; kernel < kernels; kernel++) {
				if (kernels == 4) parity(g, kernel / 2, kernel % 2, f);
				else memcpy(f, g, sizeof f);
				winograd_filter(a->form, f, t);
				for (int i = 0; i < A; i++)
					for (int j = 0; j < R; j++) u[((((kernel * (kp / NR) + k / NR) * A + i) * cp + c) * R + j) * NR + k % NR] = (float)t[i][j];
			}
		}
}

// The grid of tiles covers the output, or for up the small image.
INL int grid_h(const conv_args *a) { return a->form == FORM_WINOGRAD_UP ? a->uh : a->oh; }
INL int grid_w(const conv_args *a) { return a->form == FORM_WINOGRAD_UP ? a->uw : a->ow; }

// Floats of the parts of scratch.
INL long winograd_across(const conv_args *a) { return (grid_w(a) + form_m(a->form) - 1) / form_m(a->form); }
INL long winograd_width(const conv_args *a) { return winograd_across(a) * form_m(a->form) + 2; }
INL long winograd_lv(const conv_args *a) { return roundup(a->cin, LANES) + 16; } // of a tile in V
INL long winograd_pv(const conv_args *a) { return a->tiles * winograd_lv(a) + 16; }
INL long winograd_pm(const conv_args *a) { return (long)a->tiles * a->group + 16; }

// tile_in writes B^T d B of the tile at d, channel by channel, to position p of o at o + p*pv.
INL void tile_in(const int A, const float *d, long row, long cp, float *o, long pv) {
	for (long c = 0; c < cp; c += LANES) {
		vf z[8 * 8], x[8], y[8];
		const float *column = d + c;
		// Outer loops stay loops: unrolled, their addresses alone would not fit the registers.
		_Pragma("GCC unroll 1") for (int j = 0; j < A; j++, column += cp) {
			const float *p = column;
			_Pragma("GCC unroll 8") for (int i = 0; i < A; i++, p += row) x[i] = load(p);
			bt(A, x, z + j, A);
		}
		float *q = o + c;
		_Pragma("GCC unroll 1") for (int i = 0; i < A; i++) {
			bt(A, z + i * A, y, 1);
			_Pragma("GCC unroll 8") for (int j = 0; j < A; j++, q += pv) store(q, y[j]);
		}
	}
}

INL void winograd_units(const conv_args *a, int n, int u0, int u1, int c0, int c1, float *scratch, const int A, const int M, const int kernels) {
	const long cp = roundup(a->cin, LANES), kp = roundup(a->cout, NR), width = winograd_width(a), row = width * cp;
	const long lv = winograd_lv(a), pv = winograd_pv(a), pm = winograd_pm(a), R = A == 5 ? 2 : 3;
	const int across = winograd_across(a), gh = grid_h(a), gw = grid_w(a), step = kernels == 4 ? 2 : 1, up = a->rows / step;
	float *add = scratch, *sp = add + addend_scratch(a), *v = sp + sums_scratch(a), *m = v + A * A * pv, *u = m + A * A * pm, *tmp = u + A * DEEP * NR;
	float *s = tmp + 2L * a->w * cp;
	sums sum = sums_open(a, sp);
	addend(a, n, add);
	for (int unit = u0; unit < u1; unit++) {
		const int y0 = unit * up, y1 = mini(gh, y0 + up), down = (y1 - y0 + M - 1) / M, keep = unit > u0 ? 2 : 0;
		if (keep) memmove(s, s + up * row, 2 * row * sizeof *s);
		strip(a, n, y0 - 1, down * M + 2, keep, s, width, cp, tmp);
		sums_start(&sum, c0, c1);
		const int total = down * across, blocks = (total + a->tiles - 1) / a->tiles, size = (total + blocks - 1) / blocks;
		for (int t0 = 0; t0 < total; t0 += size) {
			const int count = mini(size, total - t0);
			if (a->skip[0])
				for (int t = t0; t < t0 + count;) { // the pixels of the block's tiles, row by row
					const int ty = t / across, tx = t % across, k = mini(across - tx, t0 + count - t);
					const int left = tx * M, right = mini(gw, (tx + k) * M), top = y0 + ty * M, bottom = mini(gh, top + M);
					for (int y = top * step; y < bottom * step; y++) project(a, n, y, left * step, (right - left) * step, c0, c1);
					t += k;
				}
			for (int kernel = 0; kernel < kernels; kernel++) {
				const int py = kernel / 2, px = kernel % 2;
				for (int t = t0; t < t0 + count; t++)
					tile_in(A, s + (t / across * M + py) * row + (t % across * M + px) * cp, row, cp, v + (t - t0) * lv, pv);
				for (int g0 = c0; g0 < c1; g0 += a->group) {
					const int g1 = mini(g0 + a->group, c1);
					for (int i = 0; i < A; i++)
						for (int c = g0; c < g1; c += NR) {
							const void *w = panel(a->weight, a->half, ((kernel * (kp / NR) + c / NR) * A + i) * cp * R * NR);
							for (long k = 0; k < cp; k += DEEP) {
								const long deep = cp - k < DEEP ? cp - k : DEEP;
								if (a->half) expand(A, 1, panel(w, 1, k * R * NR), deep, u);
								else expand(A, 0, panel(w, 0, k * R * NR), deep, u);
								for (int j = 0; j < A; j++)
									products((run){v + (i * A + j) * pv + k, lv, deep}, count, u + j * deep * NR, k > 0, m + (i * A + j) * pm + c - g0, a->group);
							}
						}
					long all = sum.all, chunk = 0;
					for (int t = 0; t < count; t++) {
						const int ty = y0 + (t0 + t) / across * M, tx = (t0 + t) % across * M, hr = mini(M, gh - ty), wr = mini(M, gw - tx);
						for (int l = g0; l < mini(g1, a->cout); l += LANES) {
							const float *q = m + (long)t * a->group + (l - g0);
							vf x[8], y[8], z[8 * 8], o[8];
							_Pragma("GCC unroll 1") for (int j = 0; j < A; j++, q += pm) {
								const float *p = q;
								_Pragma("GCC unroll 8") for (int i = 0; i < A; i++, p += A * pm) x[i] = load(p);
								at(A, x, y);
								_Pragma("GCC unroll 8") for (int i = 0; i < M; i++) z[i * A + j] = y[i];
							}
							partial part;
							if (sum.pivot) part = partial_start(&sum, l);
							_Pragma("GCC unroll 1") for (int i = 0; i < hr; i++) {
								at(A, z + i * A, o);
								const int fresh = t0 + t + i + kernel == 0;
								if (wr == M) { // a constant, so that the row stays in registers
									complete(a, n, (ty + i) * step + py, tx * step + px, step, l, o, M, add);
									if (sum.pivot) partial_add(&part, fresh, o, M);
								} else {
									complete(a, n, (ty + i) * step + py, tx * step + px, step, l, o, wr, add);
									if (sum.pivot) partial_add(&part, fresh, o, wr);
								}
							}
							if (sum.pivot) partial_end(&sum, l, &part);
						}
						chunk += (long)hr * wr;
						if (t % CHUNK == CHUNK - 1 || t == count - 1) sums_merge(&sum, g0, g1, chunk, all), all += chunk, chunk = 0;
					}
					if (g1 == c1) sum.all = all;
				}
			}
		}
		sums_write(a, &sum, n, unit, c0, c1);
	}
}

#define WINOGRAD(name, A, M, kernels) \
	static __attribute__((noinline)) void name(const conv_args *a, int n, int u0, int u1, int c0, int c1, float *scratch) { \
		winograd_units(a, n, u0, u1, c0, c1, scratch, A, M, kernels); \
	}
WINOGRAD(winograd2, 4, 2, 1)
WINOGRAD(winograd4, 6, 4, 1)
WINOGRAD(winograd6, 8, 6, 1)
WINOGRAD(winograd_up, 5, 4, 4)
#undef WINOGRAD

static long winograd_scratch(const conv_args *a) {
	const long cp = roundup(a->cin, LANES), A = form_a(a->form), up = a->rows / (a->form == FORM_WINOGRAD_UP ? 2 : 1);
	return addend_scratch(a) + sums_scratch(a) + A * A * (winograd_pv(a) + winograd_pm(a)) + A * DEEP * NR + 2L * a->w * cp +
		(up + form_m(a->form) + 2) * winograd_width(a) * cp + LANES;
}

// ------------------------------------------------------------------------------------------------ entry points

// conv_packed is the number of floats that the packed weights take.
static long conv_packed(const conv_args *a) {
	if (a->form == FORM_BF16) return brief_packed(a) / 2;
	if (a->form != FORM_DIRECT)
		return form_kernels(a->form) * form_a(a->form) * form_r(a->form) * roundup(a->cin, LANES) * roundup(a->cout, NR);
	return thin(a) ? (long)a->size * a->size * a->cout * roundup(a->cin, LANES) : direct_depth(a) * roundup(a->cout, LANES);
}

static void conv_pack(const conv_args *a, const float *w, float *p) {
	if (a->form == FORM_BF16) brief_pack(a, w, (bf16 *)p);
	else if (a->form != FORM_DIRECT) winograd_pack(a, w, p);
	else direct_pack(a, w, p);
}

static long conv_scratch(const conv_args *a) {
	return a->form == FORM_BF16 ? brief_scratch(a) : a->form != FORM_DIRECT ? winograd_scratch(a) : direct_scratch(a);
}

// conv_task computes units [u0, u1) and channels [c0, c1) of image n.
static void conv_task(const conv_args *a, int n, int u0, int u1, int c0, int c1, float *scratch) {
	switch (a->form) {
	case FORM_WINOGRAD2: winograd2(a, n, u0, u1, c0, c1, scratch); break;
	case FORM_WINOGRAD4: winograd4(a, n, u0, u1, c0, c1, scratch); break;
	case FORM_WINOGRAD6: winograd6(a, n, u0, u1, c0, c1, scratch); break;
	case FORM_WINOGRAD_UP: winograd_up(a, n, u0, u1, c0, c1, scratch); break;
	case FORM_BF16: brief_units(a, n, u0, u1, c0, c1, scratch); break;
	default: direct_units(a, n, u0, u1, c0, c1, scratch);
	}
}
