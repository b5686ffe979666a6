//go:build !cgo

package cpu

import (
	"fmt"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
)

// Levels names the instruction sets that this build and processor can run, best first.
func Levels() []string { return []string{"ref"} }

// Open returns the reference backend, since this build has no C code.
func Open(o Options) (kernels.Backend, error) {
	if o.Level != "" && o.Level != "ref" {
		return nil, fmt.Errorf("cpu: level %q is not available: this program was built with CGO_ENABLED=0", o.Level)
	}
	return ref.Open(), nil
}
