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

// TestPeak: the figures are those of a processor, not of a loop that the compiler saw through.
func TestPeak(t *testing.T) {
	for _, level := range cpu.Levels() {
		b, err := cpu.Open(cpu.Options{Level: level, Threads: 1})
		require.NoError(t, err)
		p, ok := b.(interface{ Peak() (gflops, gbps float64) })
		if !ok {
			t.Skip("built without cgo")
		}
		gflops, gbps := p.Peak()
		t.Logf("%s: %.0f GFLOP/s, %.1f GB/s", level, gflops, gbps)
		require.Greater(t, gflops, 0.1)
		require.Less(t, gflops, 16.*2*4*8, "16 lanes, 2 operations, 4 units, 8 GHz")
		require.Greater(t, gbps, 0.1)
		require.Less(t, gbps, 1000.)
		require.NoError(t, b.Close())
	}
}
