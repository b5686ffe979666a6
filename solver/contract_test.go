package solver_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/solver/optest"
	"github.com/spin-native/spin/tensor"
)

// TestContract holds every operator to the contract, at random sizes: adjoints, derivatives, Lipschitz constants, closed
// forms, preconditioners, shapes, and that images of a batch do not know of each other.
func TestContract(t *testing.T) {
	for seed := range uint64(8) {
		b, err := cpu.Open(cpu.Options{})
		if err != nil {
			t.Fatal(err)
		}
		d := tensor.NewDevice(b)
		rng := rand.New(rand.NewPCG(seed, 2))
		solver.EachOperator(t, d, rng, func(name string, op solver.Operator, s [4]int) {
			if _, ok := op.(solver.Starter); ok && strings.HasPrefix(d.Name(), "ref") {
				return // hundreds of Fourier transforms for a first guess are too many for the reference
			}
			t.Run(fmt.Sprintf("seed=%d/%s/%dx%dx%d", seed, name, s[1], s[2], s[3]), func(t *testing.T) {
				optest.Check(t, d, op, s[1], s[2], s[3], optest.Options{Images: 2, Seed: seed})
			})
		})
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
