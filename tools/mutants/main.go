// Command mutants puts deliberate mistakes into the CUDA backend, one at a time, and tells whether the tests on the emulated
// device find them:
//
//	make -f kernels.mk emu
//	CGO_CFLAGS="-g -O2 -I$PWD/bin/cuda/include" go run ./tools/mutants              # all of them: some ten minutes on two cores
//	CGO_CFLAGS="-g -O2 -I$PWD/bin/cuda/include" go run ./tools/mutants -run halo    # those whose names match
//
// mutants.json lists them. The tree itself is not touched: kernels are compiled from a copy, Go files are replaced by an
// overlay. A mistake is found when the test that the list names passes without it and fails with it, in one of the orders
// in which the emulation runs threads. The exit status is 1 if one survives, or if the list does not fit the sources.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
)

//go:embed mutants.json
var list []byte

// mutant is one mistake: old, which is found once in the file, becomes new.
type mutant struct {
	Name string   `json:"name"`
	File string   `json:"file"`
	Old  string   `json:"old"`
	New  string   `json:"new"`
	Pkg  string   `json:"pkg"`  // of the test; default ./kernels/cuda
	Test string   `json:"test"` // that finds it
	Env  []string `json:"env"`  // that the test is run with
}

// kernel reports whether the file is compiled for the device.
func (m mutant) kernel() bool {
	ext := filepath.Ext(m.File)
	return ext == ".cu" || ext == ".cuh" || ext == ".h"
}

// apply is the file with the mistake.
func (m mutant) apply(root string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(root, m.File))
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(data), m.Old); n != 1 || m.Old == m.New {
		return nil, fmt.Errorf("%s: the text to replace is %d times in %s, expected once", m.Name, n, m.File)
	}
	return []byte(strings.Replace(string(data), m.Old, m.New, 1)), nil
}

func mutants() (all []mutant, err error) {
	d := json.NewDecoder(strings.NewReader(string(list)))
	d.DisallowUnknownFields()
	err = d.Decode(&all)
	for i := range all {
		if all[i].Pkg == "" {
			all[i].Pkg = "./kernels/cuda"
		}
	}
	return all, err
}

func main() {
	run := flag.String("run", "", "only mutants whose names match this regular expression")
	flag.Parse()
	survivors, err := hunt(*run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
	if survivors > 0 {
		fmt.Fprintf(os.Stderr, "mutants: %d survived\n", survivors)
		os.Exit(1)
	}
}

// hunt tries all mutants that match, prints a table and counts those that survive.
func hunt(pattern string) (survivors int, err error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return 0, err
	}
	all, err := mutants()
	if err != nil {
		return 0, err
	}
	root, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	l := lab{root: root, dir: dir, tests: map[string]string{}, fine: map[string]bool{}}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "mistake\tfile\tfound by\tseconds")
	defer w.Flush()
	for _, m := range all {
		if !match.MatchString(m.Name) {
			continue
		}
		start := time.Now()
		by, err := l.try(m)
		if err != nil {
			return 0, err
		}
		if by == "" {
			by = "SURVIVED " + m.Test
			survivors++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.0f\n", m.Name, filepath.Base(m.File), by, time.Since(start).Seconds())
		w.Flush()
	}
	return survivors, nil
}

// lab builds and runs.
type lab struct {
	root, dir string
	tests     map[string]string // test binaries of the sources as they are, by package
	fine      map[string]bool   // tests that pass without mistakes
}

// orders of the emulation's threads, the likeliest to find something first.
var orders = []string{"forward", "reverse", "random"}

// try tells which test finds the mutant, in which order of the threads; "" where none does.
func (l *lab) try(m mutant) (by string, err error) {
	mutated, err := m.apply(l.root)
	if err != nil {
		return "", err
	}
	plain, err := l.test(m.Pkg)
	if err != nil {
		return "", err
	}
	library := filepath.Join(l.root, "bin", "cudaemu", "libcuda.so.1")
	for _, o := range orders {
		key := fmt.Sprint(m.Pkg, m.Test, m.Env, o)
		if !l.fine[key] {
			if out, failed, err := l.run(m, plain, library, l.root, o); err != nil {
				return "", err
			} else if failed {
				return "", fmt.Errorf("%s does not pass without a mistake:\n%s", m.Test, out)
			}
			l.fine[key] = true
		}
	}
	binary, tree := plain, l.root
	if m.kernel() {
		if tree, library, err = l.compile(m, mutated); err != nil {
			return "", err
		}
	} else if binary, err = l.overlay(m, mutated); err != nil {
		return "", err
	}
	for _, o := range orders {
		out, failed, err := l.run(m, binary, library, tree, o)
		if err != nil {
			return "", err
		}
		if failed {
			return fmt.Sprintf("%s, %s: %s", m.Test, o, reason(out)), nil
		}
	}
	return "", nil
}

// reason is the line of a test's output that says most.
func reason(out string) string {
	for _, mark := range []string{"cudaemu: error", "--- FAIL", "panic:", "fatal error:", "SIG"} {
		for line := range strings.Lines(out) {
			if line = strings.TrimSpace(line); strings.Contains(line, mark) {
				return line[:min(len(line), 100)]
			}
		}
	}
	return "it ended"
}

// test builds the tests of a package from the sources as they are.
func (l *lab) test(pkg string) (string, error) {
	if l.tests[pkg] == "" {
		out := filepath.Join(l.dir, strings.ReplaceAll(pkg, "/", "_")+".test")
		if err := l.command("go", "test", "-tags", "cuda", "-c", "-o", out, pkg); err != nil {
			return "", err
		}
		l.tests[pkg] = out
	}
	return l.tests[pkg], nil
}

// overlay builds the tests of a package with the mutated file in place of the original.
func (l *lab) overlay(m mutant, data []byte) (string, error) {
	file, plan, out := filepath.Join(l.dir, "mutant.go"), filepath.Join(l.dir, "overlay.json"), filepath.Join(l.dir, "mutant.test")
	table, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(l.root, m.File): file}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(file, data, 0o644), os.WriteFile(plan, table, 0o644)); err != nil {
		return "", err
	}
	return out, l.command("go", "test", "-tags", "cuda", "-overlay", plan, "-c", "-o", out, m.Pkg)
}

// compile builds the emulated device with the mutated file; what does not depend on it is taken over. It returns the copy
// of the kernels' sources and the library.
func (l *lab) compile(m mutant, data []byte) (tree, library string, err error) {
	tree, objects := filepath.Join(l.dir, "tree"), filepath.Join(l.dir, "objects")
	sources := filepath.Join(tree, filepath.Dir(m.File))
	if err := errors.Join(os.RemoveAll(tree), os.RemoveAll(objects), os.MkdirAll(filepath.Dir(sources), 0o755)); err != nil {
		return "", "", err
	}
	for from, to := range map[string]string{filepath.Join(l.root, filepath.Dir(m.File)): sources, filepath.Join(l.root, "bin", "cudaemu"): objects} {
		if err := l.command("cp", "-rp", from, to); err != nil {
			return "", "", err
		}
	}
	if err := os.WriteFile(filepath.Join(tree, m.File), data, 0o644); err != nil {
		return "", "", err
	}
	return tree, filepath.Join(objects, "libcuda.so.1"), l.command("make", "-s", "-j2", "-f", "internal/cudaemu/Makefile",
		"OUT="+objects, "kernels="+sources, "CUDA_INC="+filepath.Join(l.root, "bin", "cuda", "include"))
}

func (l *lab) command(name string, args ...string) error {
	c := exec.Command(name, args...)
	c.Dir = l.root
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
	}
	return nil
}

// run runs the mutant's test in the package's folder of a tree and reports whether it failed. A test that hangs fails.
func (l *lab) run(m mutant, binary, library, tree, order string) (out string, failed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, binary, "-test.short", "-test.count=1", "-test.failfast", "-test.run", m.Test)
	if c.Dir = filepath.Join(tree, m.Pkg); !m.kernel() {
		c.Dir = filepath.Join(l.root, m.Pkg)
	}
	c.Env = append(append(os.Environ(), "SPIN_LIBCUDA="+library, "CUEMU_ORDER="+order), m.Env...)
	data, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", false, err
	}
	if err == nil && (strings.Contains(string(data), "no tests to run") || strings.Contains(string(data), "--- SKIP")) {
		return "", false, fmt.Errorf("%s: %s ran no test:\n%s", m.Name, m.Test, data)
	}
	return string(data), err != nil, nil
}
