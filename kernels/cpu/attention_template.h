// Attention without the matrix of scores: per task some queries of one head walk over the keys in blocks, with the
// running maximum and sum of the softmax (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135).
// Both products use the register tile of the convolutions; keys are packed with the key index fastest, values in panels
// of NR channels.

enum { QUERIES = 4 * MR, KEYS = 8 * NR };

static int attention_rows(void) { return QUERIES; }

static long attention_packed(const attention_args *a, long *kfloats) {
	*kfloats = roundup(a->keys, NR) * a->dim;
	return *kfloats + roundup(a->dim, NR) * a->keys;
}

static void attention_pack(const attention_args *a, int n, int head) {
	long kf, all = attention_packed(a, &kf), slot = (long)n * a->heads + head;
	float *kp = a->kp + slot * kf, *vp = a->vp + slot * (all - kf);
	const float *k = a->k + (long)n * a->keys * a->kc + a->kfirst + (long)head * a->kstep;
	const float *v = a->v + (long)n * a->keys * a->vc + a->vfirst + (long)head * a->vstep;
	for (int j = 0; j < a->keys; j += NR)
		for (int d = 0; d < a->dim; d++)
			for (int i = 0; i < NR; i++) *kp++ = j + i < a->keys ? k[(long)(j + i) * a->kc + d] : 0;
	for (int d = 0; d < a->dim; d += NR)
		for (int j = 0; j < a->keys; j++)
			for (int i = 0; i < NR; i++) *vp++ = d + i < a->dim ? v[(long)j * a->vc + d + i] : 0;
}

static long attention_scratch(const attention_args *a) {
	return QUERIES * (long)a->dim + QUERIES * (long)KEYS + QUERIES * roundup(a->dim, NR) + LANES;
}

static void attention_task(const attention_args *a, int n, int head, int block, float *scratch) {
	long kf, all = attention_packed(a, &kf), slot = (long)n * a->heads + head;
	const float *kp = a->kp + slot * kf, *vp = a->vp + slot * (all - kf);
	const int i0 = block * QUERIES, rows = mini(QUERIES, a->queries - i0);
	const long dp = roundup(a->dim, NR);
	float *q = scratch, *s = q + QUERIES * (long)a->dim, *o = s + QUERIES * (long)KEYS;
	float top[QUERIES], sum[QUERIES], decay[QUERIES];
	vf acc[MR][2];
	for (int i = 0; i < rows; i++) {
		const float *p = a->q + ((long)n * a->queries + i0 + i) * a->qc + a->qfirst + (long)head * a->qstep;
		for (int d = 0; d < a->dim; d++) q[(long)i * a->dim + d] = p[d] * a->scale;
		top[i] = -INFINITY, sum[i] = 0;
	}
	memset(o, 0, rows * dp * sizeof *o);
	for (int j0 = 0; j0 < a->keys; j0 += KEYS) {
		const int keys = mini(KEYS, a->keys - j0), padded = (int)roundup(keys, NR);
		const run qr = {q, a->dim, a->dim};
		for (int j = 0; j < padded; j += NR)
			for (int i = 0; i < rows; i += MR) {
				const int m = mini(MR, rows - i);
				tile_any(m, 2, 0, &qr, 1, i, kp + (long)(j0 + j) * a->dim, acc);
				for (int r = 0; r < m; r++) store(s + (long)(i + r) * KEYS + j, acc[r][0]), store(s + (long)(i + r) * KEYS + j + LANES, acc[r][1]);
			}
		for (int i = 0; i < rows; i++) {
			float *row = s + (long)i * KEYS, best = top[i];
			for (int j = keys; j < padded; j++) row[j] = -INFINITY; // padding takes no part
			vf vb = splat(best);
			for (int j = 0; j < padded; j += LANES) {
				vf x = load(row + j);
				vb = choose(x > vb, x, vb);
			}
			for (int l = 0; l < LANES; l++) best = vb[l] > best ? vb[l] : best;
			vf total = {0};
			for (int j = 0; j < padded; j += LANES) {
				vf x = load(row + j), e = vexp(x - best);
				e = choose(x == -INFINITY, splat(0), e);
				store(row + j, e);
				total += e;
			}
			float t = 0;
			for (int l = 0; l < LANES; l++) t += total[l];
			decay[i] = top[i] == -INFINITY ? 0 : expf(top[i] - best);
			sum[i] = sum[i] * decay[i] + t;
			top[i] = best;
		}
		const run pr = {s, KEYS, keys};
		for (long d = 0; d < dp; d += NR)
			for (int i = 0; i < rows; i += MR) {
				const int m = mini(MR, rows - i);
				tile_any(m, 2, 0, &pr, 1, i, vp + (d * a->keys) + (long)j0 * NR, acc);
				for (int r = 0; r < m; r++) {
					float *p = o + (i + r) * dp + d;
					store(p, load(p) * decay[i + r] + acc[r][0]);
					store(p + LANES, load(p + LANES) * decay[i + r] + acc[r][1]);
				}
			}
	}
	for (int i = 0; i < rows; i++) {
		float *d = a->dst + ((long)n * a->queries + i0 + i) * a->dc + (long)head * a->dim;
		const float inv = 1 / sum[i];
		for (int c = 0; c < a->dim; c++) d[c] = o[i * dp + c] * inv;
	}
}
