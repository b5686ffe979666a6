package cpu_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/kerneltest"
)

// TestConformance runs the suite on every level of this machine, and on the templates of the level it may lack.
func TestConformance(t *testing.T) {
	if cpu.Levels()[0] == "ref" {
		t.Skip("built without cgo: package ref is tested by itself")
	}
	for _, level := range append(cpu.Levels(), "wide") {
		t.Run(level, func(t *testing.T) {
			b, err := cpu.Open(cpu.Options{Level: level, Threads: 3})
			require.NoError(t, err)
			defer func() { require.NoError(t, b.Close()) }()
			t.Run("Net", func(t *testing.T) { kerneltest.Net(t, b) })
			t.Run("Image", func(t *testing.T) { kerneltest.Image(t, b) })
		})
	}
}

func TestOptions(t *testing.T) {
	_, err := cpu.Open(cpu.Options{Level: "sse9"})
	require.ErrorContains(t, err, "sse9")
	require.NotEmpty(t, cpu.Levels())
}
