package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
)

// TestList: every mistake of the list can still be made, and the test that is to find it is there.
func TestList(t *testing.T) {
	all, err := mutants()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), 12)
	names := map[string]bool{}
	for _, m := range all {
		require.False(t, names[m.Name], m.Name)
		names[m.Name] = true
		_, err := m.apply(testkit.Root())
		require.NoError(t, err)
		files, err := filepath.Glob(filepath.Join(testkit.Root(), m.Pkg, "*_test.go"))
		require.NoError(t, err)
		found := false
		name, _, _ := strings.Cut(m.Test, "/")
		name = strings.Trim(name, "^$")
		for _, f := range files {
			data, err := os.ReadFile(f)
			require.NoError(t, err)
			found = found || strings.Contains(string(data), "func "+name+"(")
		}
		require.True(t, found, "%s: no test %s in %s", m.Name, name, m.Pkg)
	}
}

func TestReason(t *testing.T) {
	require.Equal(t, "cudaemu: error 1: no", reason("--- FAIL: TestX\ncudaemu: error 1: no\n"))
	require.Equal(t, "it ended", reason(""))
}
