// Package kerneltest is the conformance suite of the kernels: one set of cases for every implementation of the contract,
// measured against package ref. A backend's own test calls its functions, once for every instruction set that it can be
// forced to.
package kerneltest

import "testing"

// few is n, or with -short, for runs under a sanitizer, a quarter of it.
func few(n uint64) uint64 {
	if testing.Short() {
		return n / 4
	}
	return n
}
