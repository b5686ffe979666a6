//go:build !(cuda && cgo && linux && amd64)

package cuda

import (
	"fmt"

	"github.com/spin-native/spin/internal/lazycuda"
	"github.com/spin-native/spin/kernels"
)

// Devices lists the devices of this machine, or says why there are none.
func Devices() ([]Info, error) { return nil, lazycuda.Open() }

// Free says that this build has no CUDA.
func Free(int) (int64, error) { return 0, fmt.Errorf("cuda: %w", lazycuda.Open()) }

// Open says that this build has no CUDA.
func Open(Options) (kernels.Backend, error) { return nil, fmt.Errorf("cuda: %w", lazycuda.Open()) }
