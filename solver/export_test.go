package solver

import (
	"math/rand/v2"
	"testing"

	"github.com/spin-native/spin/tensor"
)

// EachOperator hands every operator of the table to the tests outside of this package, at a random size.
func EachOperator(t *testing.T, d *tensor.Device, rng *rand.Rand, f func(name string, op Operator, shape [4]int)) {
	for _, k := range operators(t, d, rng) {
		f(k.name, k.op, k.shape)
	}
}
