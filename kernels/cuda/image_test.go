package cuda_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
)

// TestImageIsCurrent: the compiled kernels come from these sources, with this compiler and these flags, and are whole.
// tools/cuda_image.py, which holds compiler and flags, writes the same two sums.
func TestImageIsCurrent(t *testing.T) {
	var names []string
	for _, pattern := range []string{"*.cu", "*.cuh", "*.h"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		names = append(names, found...)
	}
	slices.Sort(names)
	sources := sha256.New()
	for _, name := range append(names, filepath.Join(testkit.Root(), "tools", "cuda_image.py")) {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		sources.Write(data)
	}
	image, err := os.ReadFile("image.tar.zst")
	require.NoError(t, err)
	want, err := os.ReadFile("image.sum")
	require.NoError(t, err)
	require.Equal(t, string(want), fmt.Sprintf("%x  sources\n%x  image.tar.zst\n", sources.Sum(nil), sha256.Sum256(image)),
		"the kernels changed: make -f kernels.mk image")
}
