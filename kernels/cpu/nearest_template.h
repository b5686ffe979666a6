// The nearest of count code vectors, which are the columns of codes [dim][count], for every pixel of x [pixels][dim]. Lane
// l looks at codes l, l+LANES, ...; of equal distances the first counts, in a lane and between lanes.
static void nearest(const float *x, const float *codes, float *dst, float *index, long pixels, int dim, int count) {
	vi lane;
	for (int l = 0; l < LANES; l++) lane[l] = l;
	for (long p = 0; p < pixels; p++, x += dim, dst += dim) {
		vf least = splat(INFINITY);
		vi best = {0};
		for (int k = 0; k < count; k += LANES) {
			const int some = mini(LANES, count - k);
			vf sum = {0};
			for (int c = 0; c < dim; c++) {
				const float *e = codes + (long)c * count + k;
				const vf d = x[c] - (some == LANES ? load(e) : loadn(e, some));
				sum += d * d;
			}
			const vi closer = (sum < least) & (lane < some);
			least = choose(closer, sum, least);
			best = (closer & (lane + k)) | (~closer & best);
		}
		int i = best[0];
		float d = least[0];
		for (int l = 1; l < LANES; l++)
			if (least[l] < d || (least[l] == d && best[l] < i)) d = least[l], i = best[l];
		for (int c = 0; c < dim; c++) dst[c] = x[c] + (codes[(long)c * count + i] - x[c]);
		if (index) index[p] = i;
	}
}
