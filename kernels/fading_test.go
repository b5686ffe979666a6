package kernels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The columns are orthonormal, so that what is divided on the circle keeps within the bounds of the spectrum.
func TestFading(t *testing.T) {
	for n := 1; n < 80; n++ {
		for _, fade := range []int{0, 1, 8, 100} {
			at, weight := Fading(n, fade)
			require.Len(t, weight, len(at))
			gram := make([]float64, n) // every place holds one pixel, so that different columns never meet
			for i, p := range at {
				if p >= 0 {
					gram[p] += float64(weight[i]) * float64(weight[i])
				}
			}
			for p, v := range gram {
				require.InDelta(t, 1, v, 2e-7, "%d pixels, fading over %d: column %d", n, fade, p)
			}
		}
	}
}
