// Package ref is the reference backend: textbook loops in pure Go with float64 sums. It defines what every operation of
// the contract means, and it is what the engine falls back to where there is no C compiler. Nothing clever is allowed
// here; the loops over rows are merely shared out to the processors.
package ref

import (
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/spin-native/spin/kernels"
)

// Backend implements kernels.Backend.
type Backend struct{}

var (
	_ kernels.Backend = (*Backend)(nil)
	_ kernels.Forker  = (*Backend)(nil)
)

// Open returns the reference backend.
func Open() *Backend { return &Backend{} }

func (*Backend) Name() string { return "ref" }

// Fork implements kernels.Forker: all memory is Go's, so there is nothing to share or to release.
func (*Backend) Fork(int) (kernels.Backend, error) { return Open(), nil }

type buffer []float32

func (b buffer) Len() int { return len(b) }

// maxAlloc keeps a wrong size from ending the program: Go cannot recover from an allocation that fails.
const maxAlloc = (1<<32 - 1) & math.MaxInt

func (*Backend) Alloc(n int) (kernels.Buffer, error) {
	if n < 0 || n > maxAlloc {
		return nil, fmt.Errorf("ref: %d elements: %w", n, kernels.ErrOutOfMemory)
	}
	return make(buffer, n), nil
}

func (*Backend) Free(kernels.Buffer) {}
func (*Backend) Sync() error         { return nil }
func (*Backend) Close() error        { return nil }

func (*Backend) Upload(dst kernels.View, src []float32) { copy(floats(dst), src) }

func (*Backend) Download(dst []float32, src kernels.View) error {
	copy(dst, floats(src))
	return nil
}

// floats is the memory of a view, nil for an absent one.
func floats(v kernels.View) []float32 {
	if v.Buf == nil {
		return nil
	}
	return v.Buf.(buffer)[v.Off : v.Off+v.Len()]
}

// each runs f(i) for i in [0,n) on all processors. Every i writes its own results, so the order does not matter.
func each(n int, f func(i int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				f(i)
			}
		}()
	}
	wg.Wait()
}
