package torchfile

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/weights"
)

// TestGather compares with the definition: element (i, j, ...) lies at i*strides[0] + j*strides[1] + ...
func TestGather(t *testing.T) {
	const seed = 5
	rng := rand.New(rand.NewPCG(seed, 0))
	types := []weights.DType{weights.U8, weights.F16, weights.F32, weights.F64}
	for range 3000 {
		tt := &tensor{dtype: types[rng.IntN(len(types))]}
		n, last := 1, 0
		for range rng.IntN(6) {
			d, s := 1+rng.IntN(5), rng.IntN(12)
			if rng.IntN(20) == 0 {
				d = 40 // wider than a strip
			}
			if n*d > 4000 {
				break
			}
			if rng.IntN(2) == 0 {
				s = n // often a permutation of the plain order
			}
			tt.shape, tt.strides = append(tt.shape, d), append(tt.strides, s)
			n *= d
			last += (d - 1) * s
		}
		rng.Shuffle(len(tt.shape), func(i, j int) {
			tt.shape[i], tt.shape[j] = tt.shape[j], tt.shape[i]
			tt.strides[i], tt.strides[j] = tt.strides[j], tt.strides[i]
		})
		elem := tt.dtype.Size()
		src := make([]byte, (last+1)*elem)
		for i := range src {
			src[i] = byte(rng.Uint32())
		}
		want := make([]byte, 0, n*elem)
		index := make([]int, len(tt.shape))
		for range n {
			at := 0
			for i, k := range index {
				at += k * tt.strides[i] * elem
			}
			want = append(want, src[at:at+elem]...)
			for i := len(index) - 1; i >= 0; i-- {
				if index[i]++; index[i] < tt.shape[i] {
					break
				}
				index[i] = 0
			}
		}
		tt.fit(last + 1)
		require.Equal(t, n*elem, tt.bytes)
		dst := make([]byte, tt.bytes)
		gather(dst, src, elem, tt.shape, tt.strides)
		require.Equal(t, want, dst, "shape %v strides %v", tt.shape, tt.strides)
		if tt.inOrder() {
			require.Equal(t, want, src[:tt.bytes])
		}
		require.Panics(t, func() { tt.fit(last) }) // one element too few
	}
}
