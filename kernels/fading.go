package kernels

import "math"

// Fading lays n pixels on a circle with room for both borders to fade out into their mirror images within a number of
// pixels, at most half of n, as the window of a lapped transform does: a pixel i from the first or last one goes to its place with
// weight cos a, and to its mirror image outside with sin a, a = pi/4 (1 - i/fade). Place i of the circle holds pixel at[i]
// times weight[i], or nothing where at[i] is -1. As a matrix this has orthonormal columns. The circle is one of FastSize; without
// fading it is as large as the picture.
func Fading(n, fade int) (at []int32, weight []float32) {
	fade = min(fade, n/2)
	size := n
	if fade > 0 {
		size = FastSize(n + 2*fade)
	}
	shares := func(i int) (cos, sin float64) {
		if i == 0 || i >= fade {
			return 1, 0
		}
		sin, cos = math.Sincos(math.Pi / 4 * (1 - float64(i)/float64(fade)))
		return cos, sin
	}
	at, weight = make([]int32, size), make([]float32, size)
	for i := range at {
		after, before := i-(n-1), size-i // distances from the last pixel and, around the circle, from the first
		at[i] = -1
		switch {
		case i < n:
			cos, _ := shares(min(i, n-1-i))
			at[i], weight[i] = int32(i), float32(cos)
		case after < fade:
			_, sin := shares(after)
			at[i], weight[i] = int32(n-1-after), float32(sin)
		case before < fade:
			_, sin := shares(before)
			at[i], weight[i] = int32(before), float32(sin)
		}
	}
	return at, weight
}
