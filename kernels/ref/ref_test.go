package ref_test

import (
	"testing"

	"github.com/spin-native/spin/kernels/kerneltest"
	"github.com/spin-native/spin/kernels/ref"
)

// The reference is held to its own suite: its float32 results must lie well inside the bounds.
func TestConformance(t *testing.T) {
	b := ref.Open()
	t.Run("Net", func(t *testing.T) { kerneltest.Net(t, b) })
	t.Run("Image", func(t *testing.T) { kerneltest.Image(t, b) })
}
