//go:build !(cuda && cgo && linux && amd64)

package lazycuda

import "errors"

// Open says that this build has no CUDA.
func Open() error { return errors.New("not part of this build") }
