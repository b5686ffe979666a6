package solver

import "math"

// boxMuller makes two standard normal numbers of 64 random bits (Box and Muller 1958):
//
//	sqrt(-2 ln u) (cos, sin)(2 pi v),   u = (a+1) / 2^32 in (0,1],   v = b / 2^32
//
// in float64, to less than a hundredth of a float32's last place. It is two and a half times as fast as math.Log and math.Sincos,
// which have to reduce what are integers here; and as every product is rounded before it is added, all machines get the
// same numbers.
func boxMuller(a, b uint32) (float32, float32) {
	radius := math.Sqrt(-2 * logUnit(a))
	cos, sin := cosSinTurn(b)
	return float32(radius * cos), float32(radius * sin)
}

// logUnit is ln((a+1) / 2^32). With a+1 = 2^k m, m in [sqrt 1/2, sqrt 2), and s = (m-1)/(m+1),
//
//	ln = (k-32) ln 2 + 2 s (1 + s^2/3 + s^4/5 + ...)       |s| < 0.172: eleven terms
func logUnit(a uint32) float64 {
	const rootHalf = 0x3FE6A09E667F3BCD // the bits of sqrt(1/2)
	bits := math.Float64bits(float64(uint64(a) + 1))
	k := int64(bits-rootHalf) >> 52
	m := math.Float64frombits(bits - uint64(k)<<52)
	s := (m - 1) / (m + 1)
	z := s * s
	z2 := z * z
	// Even and odd terms are two chains, which a processor computes side by side.
	even := float64(z2*(1./21)) + 1./17
	odd := float64(z2*(1./19)) + 1./15
	even = float64(z2*even) + 1./13
	odd = float64(z2*odd) + 1./11
	even = float64(z2*even) + 1./9
	odd = float64(z2*odd) + 1./7
	even = float64(z2*even) + 1./5
	odd = float64(z2*odd) + 1./3
	even = float64(z2*even) + 1
	return float64(float64(k-32)*math.Ln2) + float64(2*s*(even+float64(z*odd)))
}

// cosSinTurn is cosine and sine of 2 pi b / 2^32: the nearest quarter of a turn, and the Taylor series of what is left, at
// most an eighth.
func cosSinTurn(b uint32) (cos, sin float64) {
	quarter := (b + 1<<29) >> 30
	x := float64(int32(b-quarter<<30)) * (2 * math.Pi / (1 << 32))
	z := x * x
	c := float64(z*(-1./87178291200)) + 1./479001600
	s := float64(z*(1./6227020800)) - 1./39916800
	c = float64(z*c) - 1./3628800
	s = float64(z*s) + 1./362880
	c = float64(z*c) + 1./40320
	s = float64(z*s) - 1./5040
	c = float64(z*c) - 1./720
	s = float64(z*s) + 1./120
	c = float64(z*c) + 1./24
	s = float64(z*s) - 1./6
	c = float64(z*c) - 1./2
	c = float64(z*c) + 1
	s = x + float64(x*float64(z*s))
	// Quarters exchange the two and their signs. Which quarter it is depends on chance, so no branch is to depend on it.
	pair := [2]float64{c, s}
	return turned(pair[quarter&1], (quarter+1)>>1), turned(pair[quarter&1^1], quarter>>1)
}

// turned is v, with its sign turned where the last bit of n is set.
func turned(v float64, n uint32) float64 {
	return math.Float64frombits(math.Float64bits(v) ^ uint64(n)<<63)
}
