// What the processor can do at most, to hold the kernels against.

// fma_chains: a = a * 0.999 + 0.001 in registers, which tends to 1 from wherever it starts. Twelve chains hide the latency
// of two units of four to six cycles, and with both constants they fit sixteen registers.
static float fma_chains(long steps) {
	vf a[FMA_CHAINS], sum = {0};
	const vf m = splat(0.999f), c = splat(0.001f);
	_Pragma("GCC unroll 12") for (int i = 0; i < FMA_CHAINS; i++) a[i] = splat(i);
	for (; steps > 0; steps--)
		_Pragma("GCC unroll 12") for (int i = 0; i < FMA_CHAINS; i++) a[i] = a[i] * m + c;
	_Pragma("GCC unroll 12") for (int i = 0; i < FMA_CHAINS; i++) sum += a[i];
	return sum[0];
}
