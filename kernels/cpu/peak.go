//go:build cgo

package cpu

// #include "call.h"
import "C"

import (
	"math"
	"time"
	"unsafe"
)

// Peak measures what the machine can do at most with the backend's threads and instruction set, in about half a second:
// multiply-adds in registers, and the STREAM triad a = b + s*c over arrays larger than any cache. The triad's bytes are
// two reads and a write, as the program sees them; a processor that reads a line before it writes it moves a third more.
// gbps is 0 where there is no memory for the arrays.
func (b *Backend) Peak() (gflops, gbps float64) {
	const steps = 1 << 15
	tasks := 32 * b.threads // many and short: a thread that is late costs little, and some round goes undisturbed
	gflops = rate(2*C.FMA_CHAINS*float64(b.lv.lanes)*steps*float64(tasks), func() {
		b.each(tasks, 0, func(int, []float32) { C.call_fma_chains(b.lv, steps) })
	})

	const n, part = 16 << 20, 1 << 16 // 64 MB each
	const pitch = n + 320             // not a multiple of 4 KB apart, or stores and loads would seem to be of one address
	p := b.malloc(3 * pitch)
	if p == nil {
		return gflops, 0
	}
	defer b.release(p, 3*pitch)
	all := unsafe.Slice((*float32)(p), 3*pitch)
	// Memory that was never written is read from one page of zeros.
	b.each(len(all)/part, 0, func(t int, _ []float32) { clear(all[t*part:][:part]) })
	weights := []float32{1, 3}
	gbps = rate(3*4*n, func() {
		b.each(n/part, 0, func(t int, _ []float32) {
			from := all[t*part:]
			src := []*C.float{ptr(from[pitch:]), ptr(from[2*pitch:])}
			C.call_axpys(b.lv, ptr(from), unsafe.SliceData(src), ptr(weights), 2, part)
		})
	})
	return gflops, gbps
}

// rate is work per nanosecond in the best of the calls of f that fit into a fraction of a second, after one to warm up.
func rate(work float64, f func()) float64 {
	f()
	best := time.Duration(math.MaxInt64)
	for start := time.Now(); time.Since(start) < 150*time.Millisecond; {
		t := time.Now()
		f()
		best = min(best, time.Since(t))
	}
	return work / float64(best)
}
