package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
)

// watchedFolder names, in the watched process, the folder of hostile files.
const watchedFolder = "CONVERT_WATCHED"

// TestWatched is the watched process: it runs the converter on every hostile file, and on one that is good.
func TestWatched(t *testing.T) {
	dir := os.Getenv(watchedFolder)
	if dir == "" {
		t.Skip("runs below TestSystemCalls")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	os.Stat("/begin-of-the-watch")
	for _, path := range files {
		var out, errs bytes.Buffer
		code := run(context.Background(), []string{"-i", path, "-o", filepath.Join("out", filepath.Base(path)+".safetensors")}, &out, &errs)
		if good := strings.HasPrefix(filepath.Base(path), "good"); (code == 0) != good {
			t.Errorf("%s: exit code %d: %s", path, code, errs.String())
		}
		if n := strings.Count(errs.String(), "\n"); code != 0 && n != 1 {
			t.Errorf("%s: %d lines of error", path, n)
		}
	}
	os.Stat("/end-of-the-watch")
}

// TestSystemCalls watches the converter at work on hostile files: it runs nothing, connects to nothing, and writes
// nothing outside of its output folder.
func TestSystemCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: system calls are not watched")
	}
	if out, err := exec.Command(strace, "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace does not work here: %s", out)
	}
	dir, work := t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(work, "out"), 0o755))
	n := 0
	for _, pattern := range []string{"internal/torchfile/testdata/malformed/*", "weights/testdata/malformed/*"} {
		files, err := filepath.Glob(filepath.Join(testkit.Root(), pattern))
		require.NoError(t, err)
		for _, path := range files {
			target := filepath.Join(dir, filepath.Base(path))
			if st, err := os.Stat(path); err == nil && st.IsDir() {
				require.NoError(t, os.CopyFS(target, os.DirFS(path)))
			} else {
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(target, b, 0o644))
			}
			n++
		}
	}
	require.Greater(t, n, 100)
	good, err := os.ReadFile(testkit.Testdata("gd_conv_resample", "model.pt"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "good.pt"), good, 0o644))

	self, err := os.Executable()
	require.NoError(t, err)
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(strace, "-f", "-qq", "-o", log, "-e", "trace=%file,%network,execve,execveat,fork,vfork,creat", self, "-test.run=^TestWatched$")
	cmd.Dir, cmd.Env = work, append(os.Environ(), watchedFolder+"="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	text, err := os.ReadFile(log)
	require.NoError(t, err)
	_, during, ok := strings.Cut(string(text), "/begin-of-the-watch")
	require.True(t, ok)
	during, _, ok = strings.Cut(during, "/end-of-the-watch")
	require.True(t, ok)
	call := regexp.MustCompile(`^\d+ +(\w+)\((.*)`)
	inside := func(args string) bool {
		return strings.Contains(args, `"out/`) || strings.Contains(args, `"out"`) || strings.Contains(args, filepath.Join(work, "out"))
	}
	writes, calls := 0, 0
	for line := range strings.Lines(during) {
		m := call.FindStringSubmatch(line)
		if m == nil {
			continue // the rest of an interrupted call, a signal
		}
		calls++
		switch name, args := m[1], m[2]; name {
		case "stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getcwd":
		case "open", "openat":
			if !strings.Contains(args, "O_RDONLY") {
				writes++
				require.True(t, inside(args), "writes outside of the output folder: %s", line)
			}
		case "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "fchmodat", "chmod":
			require.True(t, inside(args), "changes something outside of the output folder: %s", line)
		default:
			t.Errorf("not a call of a converter: %s", line)
		}
	}
	require.Greater(t, calls, n)
	require.Positive(t, writes, "the watch has seen the good file being written")
	left, err := os.ReadDir(filepath.Join(work, "out"))
	require.NoError(t, err)
	require.Len(t, left, 1, "only the good file")
	left, err = os.ReadDir(work)
	require.NoError(t, err)
	require.Len(t, left, 1, "only the output folder")
}
