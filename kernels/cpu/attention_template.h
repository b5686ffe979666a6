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
	return QUERIES * (long)a->dim + QUERIES * (long)KEYS + 2 * QUERIES * roundup(a->dim, NR) + LANES;
}

// softmax turns a row of n scores, in units of ln 2, into powers of two of their differences from the largest so far.
// It returns their sum and writes the largest to top. The row is padded to whole panels.
INL float softmax(float *row, int n, float *top) {
	const int padded = (int)roundup(n, NR);
	for (int j = n; j < padded; j++) row[j] = -INFINITY; // padding takes no part
	vf v0 = splat(*top), v1 = v0;
	for (int j = 0; j < padded; j += NR) v0 = vmax(v0, load(row + j)), v1 = vmax(v1, load(row + j + LANES));
	v0 = vmax(v0, v1);
	float best = v0[0];
	for (int l = 1; l < LANES; l++) best = v0[l] > best ? v0[l] : best;
	vf t0 = {0}, t1 = {0};
	for (int j = 0; j < padded; j += NR) {
		const vf e0 = vexp2(load(row + j) - best), e1 = vexp2(load(row + j + LANES) - best);
		store(row + j, e0), store(row + j + LANES, e1);
		t0 += e0, t1 += e1;
	}
	*top = best;
	return hsum(t0 + t1);
}

static void attention_task(const attention_args *a, int n, int head, int block, float *scratch) {
	long kf, all = attention_packed(a, &kf), slot = (long)n * a->heads + head;
	const float *kp = a->kp + slot * kf, *vp = a->vp + slot * (all - kf);
	const int i0 = block * QUERIES, rows = mini(QUERIES, a->queries - i0);
	const long dp = roundup(a->dim, NR);
	float *q = scratch, *s = q + QUERIES * (long)a->dim, *o = s + QUERIES * (long)KEYS, *part = o + QUERIES * dp;
	float top[QUERIES], sum[QUERIES];
	const float scale = a->scale * 1.44269504088896341f; // powers of two are cheaper than of e
	for (int i = 0; i < rows; i++) {
		const float *p = a->q + ((long)n * a->queries + i0 + i) * a->qc + a->qfirst + (long)head * a->qstep;
		for (int d = 0; d < a->dim; d++) q[(long)i * a->dim + d] = p[d] * scale;
		top[i] = -INFINITY, sum[i] = 0;
	}
	memset(o, 0, rows * dp * sizeof *o);
	for (int j0 = 0; j0 < a->keys; j0 += KEYS) {
		const int keys = mini(KEYS, a->keys - j0);
		for (int c = 0; c < keys; c += NR) products((run){q, a->dim, a->dim}, rows, kp + (long)(j0 + c) * a->dim, 0, s + c, KEYS);
		float decay[QUERIES];
		for (int i = 0; i < rows; i++) {
			const float old = top[i], t = softmax(s + (long)i * KEYS, keys, top + i);
			decay[i] = j0 ? vexp2(splat(old - top[i]))[0] : 0;
			sum[i] = sum[i] * decay[i] + t;
		}
		for (int c = 0; c < dp; c += NR) products((run){s, KEYS, keys}, rows, vp + (long)j0 * NR + (long)c * a->keys, 0, part + c, dp);
		for (int i = 0; i < rows; i++)
			for (long d = 0; d < dp; d += LANES) store(o + i * dp + d, load(o + i * dp + d) * decay[i] + load(part + i * dp + d));
	}
	for (int i = 0; i < rows; i++) {
		float *d = a->dst + ((long)n * a->queries + i0 + i) * a->dc + (long)head * a->dim;
		const float inv = 1 / sum[i];
		for (int c = 0; c < a->dim; c++) d[c] = o[i * dp + c] * inv;
	}
}
