// Package optest checks that an operator keeps the contract of package solver. One call in a test is enough:
//
//	func TestMine(t *testing.T) {
//		d := tensor.NewDevice(ref.Open())
//		defer d.Close()
//		optest.Check(t, d, mine{}, 16, 12, 3, optest.Options{})
//	}
//
// What is checked, as far as the operator has it:
//
//   - shapes: of Apply, VJP, Misfit, Guess, Prox, Precondition, Restrict and Keep, and what ImageShape and Counts say;
//   - purity: a repeated call gives the same values, arguments stay as they were;
//   - independence: what one image gives does not depend on the others of its batch;
//   - linear operators: A(au+bv) = a A(u) + b A(v), and <A u, v> = <u, A^T v>;
//   - other operators: <VJP(x, r), u> is the derivative of <A(x), r> along u;
//   - where an operator has a Misfit m, MisfitVJP(x, m(x)) is the gradient of 1/2 |m(x)|^2;
//   - Lipschitz bounds what it says it does, Prox is at a minimum, Precondition is symmetric and positive.
//
// Derivatives are compared with central differences. Elements of the measurement that have a kink or a jump within the
// difference (clipping, rounding) are left out of it, so that what remains is compared tightly.
//
// A failure says what is wrong in the terms of the operator: that VJP has the opposite sign, lacks a scale, agrees inside the
// picture but not at its borders.
package optest
