package study

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is the path of a spin-native to run.
type Program string

// Build builds it into a folder, from that of the module.
func Build(dir string) (Program, error) {
	path := filepath.Join(dir, "spin-native")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/spin-native/spin/cmd/spin-native").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building spin-native: %w: %s", err, out)
	}
	return Program(path), nil
}

// Run runs it and returns what it printed, also where it failed.
func (p Program) Run(args ...string) (stdout []byte, err error) {
	cmd := exec.Command(string(p), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if stdout, err = cmd.Output(); err != nil {
		err = fmt.Errorf("spin-native %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout, err
}
