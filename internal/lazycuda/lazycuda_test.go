package lazycuda_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/lazycuda"
)

// TestNoDriver: a library that is not there is an error and not the end of the program.
func TestNoDriver(t *testing.T) {
	t.Setenv(lazycuda.Library, "/nonexistent/libcuda.so.1")
	require.Error(t, lazycuda.Open())
	require.Error(t, lazycuda.Open(), "the second time, too")
}

// TestGenerated: the trampolines are those of the list.
func TestGenerated(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash")
	}
	dir := t.TempDir()
	for _, name := range []string{"generate.sh", "symbols.txt"} {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir+"/"+name, data, 0o755))
	}
	out, err := exec.Command("bash", dir+"/generate.sh").CombinedOutput()
	require.NoError(t, err, string(out))
	want, err := os.ReadFile(dir + "/trampolines.c")
	require.NoError(t, err)
	got, err := os.ReadFile("trampolines.c")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run go generate ./internal/lazycuda")
	for s := range strings.Lines(readFile(t, "symbols.txt")) {
		require.Contains(t, string(got), strings.TrimSpace(s))
	}
}

func readFile(t *testing.T, name string) string {
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}
