package kernels

import "errors"

// ErrOutOfMemory is matched by the errors of Memory.Alloc.
var ErrOutOfMemory = errors.New("out of memory")
