// What transformers do to every pixel alone.

INL float sum_lanes(vf v) {
	float s = 0;
	for (int l = 0; l < LANES; l++) s += v[l];
	return s;
}

// layer_norm: the mean first, then the deviations from it, whose own mean makes up for the rounding of the first one.
static void layer_norm(const float *src, float *dst, long pixels, int c, const float *gamma, const float *beta, float eps) {
	const int whole = c - c % LANES;
	for (long p = 0; p < pixels; p++, src += c, dst += c) {
		vf s = {0};
		for (int i = 0; i < whole; i += LANES) s += load(src + i);
		float mean = sum_lanes(s);
		for (int i = whole; i < c; i++) mean += src[i];
		mean /= c;
		vf s1 = {0}, s2 = {0};
		for (int i = 0; i < whole; i += LANES) {
			const vf d = load(src + i) - mean;
			s1 += d, s2 += d * d;
		}
		float off = sum_lanes(s1), dev = sum_lanes(s2);
		for (int i = whole; i < c; i++) {
			const float d = src[i] - mean;
			off += d, dev += d * d;
		}
		off /= c;
		const float var = dev / c - off * off, inv = 1 / root((var > 0 ? var : 0) + eps);
		for (int i = 0; i < whole; i += LANES)
			store(dst + i, ((load(src + i) - mean) - off) * inv * load(gamma + i) + load(beta + i));
		for (int i = whole; i < c; i++) dst[i] = ((src[i] - mean) - off) * inv * gamma[i] + beta[i];
	}
}

// vgelu is x Phi(x). With z = |x| / sqrt 2, Phi(-|x|) = erfc(z) / 2 = exp(-z^2) t Q(1 - 2t), t = 1 / (1 + 0.42 z): the
// polynomial is interpolated at Chebyshev's points for z from 0 to where the exponential ends, to a relative error of
// 3e-9. So the lower tail keeps its digits, up to what rounding z^2 does to the exponential.
INL vf vgelu(vf x) {
	const vf ax = vmax(x, -x);
	const vf t = 1.0f / (1.0f + 0.29698484809835f * ax);
	const vf s = 2.0f * t - 1.0f;
	vf q = splat(-4.0861766783408226e-5f);
	q = q * s + 9.043209049316848e-5f;
	q = q * s + 2.5730885470595859e-4f;
	q = q * s - 6.501727595101855e-4f;
	q = q * s - 2.3398513092164106e-3f;
	q = q * s + 2.4382288418020515e-3f;
	q = q * s + 2.8891779134829093e-2f;
	q = q * s + 8.734082253480891e-2f;
	q = q * s + 1.6398763122864227e-1f;
	q = q * s + 2.2002468182145688e-1f;
	const vf lower = vexp(-0.5f * x * x) * t * q;
	return x * choose(x > 0, 1.0f - lower, lower);
}

// geglu: dst = a * gelu(b) for pixels [a | b] of 2c channels.
static void geglu(const float *src, float *dst, long pixels, int c) {
	for (long p = 0; p < pixels; p++, src += 2 * (long)c, dst += c) {
		int i = 0;
		for (; i + LANES <= c; i += LANES) store(dst + i, load(src + i) * vgelu(load(src + c + i)));
		if (i < c) storen(dst + i, loadn(src + i, c - i) * vgelu(loadn(src + c + i, c - i)), c - i);
	}
}
