package torchfile

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	watchFolder = "TORCHFILE_WATCHED" // set in the watched process: where the hostile files are
	watchBegin  = "/begin-of-the-watch"
	watchEnd    = "/end-of-the-watch"
)

// TestWatched is the watched process: it opens every hostile file, between two system calls that mark the log.
func TestWatched(t *testing.T) {
	dir := os.Getenv(watchFolder)
	if dir == "" {
		t.Skip("runs below TestSystemCalls")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	os.Stat(watchBegin)
	for _, path := range files {
		if f, err := Open(path); err == nil {
			f.Close()
			t.Error(path, "was accepted")
		}
	}
	os.Stat(watchEnd)
}

// harmless are the system calls of reading: those of a fault-free run, and those that ask about a file.
var harmless = regexp.MustCompile(`^(stat|lstat|fstat|newfstatat|statx|access|faccessat2?|readlink|readlinkat|getcwd)\(`)

var readOnly = regexp.MustCompile(`^open(?:at)?\((?:AT_FDCWD, )?"([^"]*)", (O_RDONLY(?:\|O_CLOEXEC|\|O_LARGEFILE|\|O_NOFOLLOW)*)\b`)

// TestSystemCalls watches a process that reads hostile files: nothing is run, connected to or written, and nothing but the
// files themselves is opened.
func TestSystemCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: system calls are not watched")
	}
	if out, err := exec.Command(strace, "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace does not work here: %s", out)
	}
	dir, work := t.TempDir(), t.TempDir()
	files, err := filepath.Glob("testdata/malformed/*")
	require.NoError(t, err)
	n := 0
	put := func(name string, b []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
		n++
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		put(filepath.Base(path), b)
	}
	for i, g := range dangerous {
		module, name, _ := strings.Cut(g, " ")
		call := "c" + module + "\n" + name + "\n" + tuple(text("touch EXECUTED")) + "R"
		put("called"+string(rune('0'+i%10))+string(rune('a'+i/10))+".pt", checkpoint(pickled(text("w"), float4(), text("x"), call)))
		put("stream"+string(rune('0'+i%10))+string(rune('a'+i/10))+".pt", append([]byte(proto2), call+"."...))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(strace, "-f", "-qq", "-o", log, "-e", "trace=%file,%network,execve,execveat,fork,vfork,ftruncate,creat",
		self, "-test.run=^TestWatched$")
	cmd.Dir, cmd.Env = work, append(os.Environ(), watchFolder+"="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	b, err := os.ReadFile(log)
	require.NoError(t, err)
	_, during, found := strings.Cut(string(b), watchBegin)
	require.True(t, found, "the log has no beginning")
	during, _, found = strings.Cut(during, watchEnd)
	require.True(t, found, "the log has no end")
	opened := map[string]bool{}
	for line := range strings.SplitSeq(during, "\n") {
		_, call, _ := strings.Cut(line, " ") // the process first
		call = strings.TrimSpace(call)
		switch m := readOnly.FindStringSubmatch(call); {
		case m != nil && strings.HasPrefix(m[1], dir):
			opened[m[1]] = true
		case call == "", strings.HasPrefix(line, `"`), harmless.MatchString(call), strings.HasPrefix(call, "<..."),
			strings.HasPrefix(call, "---"), strings.HasPrefix(call, "+++"):
		case strings.HasPrefix(call, ","), strings.HasPrefix(call, "0x"): // the rest of the line of the mark
		default:
			t.Errorf("system call while hostile files were read: %s", call)
		}
	}
	require.Len(t, opened, n, "files that were seen to be opened")
	left, err := os.ReadDir(work)
	require.NoError(t, err)
	require.Empty(t, left, "something was written")
}
