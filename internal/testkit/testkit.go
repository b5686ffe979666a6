// Package testkit finds the material of the tests: the project's own testdata, and a folder of larger fixtures that may
// lie beside the checkout. It also runs tests in processes of their own.
package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Root is the folder of the module: the nearest one with a go.mod above the folder that a test runs in, its package's.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			panic("testkit: no go.mod above the working directory")
		}
		dir = parent
	}
}

// Testdata is a path inside the module's testdata.
func Testdata(parts ...string) string {
	return filepath.Join(append([]string{Root(), "testdata"}, parts...)...)
}

// Shared is a path inside the folder of shared material: $SPIN_SHARED, by default ../shared beside the module. The test
// is skipped where it does not exist.
func Shared(t testing.TB, parts ...string) string {
	t.Helper()
	dir := os.Getenv("SPIN_SHARED")
	if dir == "" {
		dir = filepath.Join(Root(), "..", "shared")
	}
	path := filepath.Join(append([]string{dir}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there: set SPIN_SHARED to the folder of shared fixtures", path)
	}
	return path
}

// Elsewhere runs a test of the package in a process of its own, with settings (NAME=value) beside the environment's, and returns what
// it writes. t fails where that test does.
func Elsewhere(t testing.TB, test string, settings ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), settings...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s with %q: %v\n%s", test, settings, err, out)
	}
	return string(out)
}
