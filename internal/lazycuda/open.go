//go:build cuda && cgo && linux && amd64

package lazycuda

// #cgo LDFLAGS: -L${SRCDIR}/stub -ldl
// #include <stdlib.h>
// #include "lazycuda.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"
)

// Open opens and initialises the driver, at the first call.
var Open = sync.OnceValue(func() error {
	path := "libcuda.so.1"
	if p := os.Getenv(Library); p != "" {
		path = p
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	switch r := C.lazycuda_open(name); r {
	case 0:
		return nil
	case C.LAZYCUDA_NO_LIBRARY:
		return fmt.Errorf("no NVIDIA driver here: %s cannot be opened", path)
	case 100: // CUDA_ERROR_NO_DEVICE
		return errors.New("the NVIDIA driver sees no device")
	default:
		return fmt.Errorf("the NVIDIA driver does not start: CUDA error %d", r)
	}
})
