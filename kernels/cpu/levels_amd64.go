//go:build cgo

package cpu

// #include "spin.h"
import "C"

import "golang.org/x/sys/cpu"

var levels = []levelInfo{
	{"avx512", cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasFMA,
		func() *C.level { return C.spin_level_avx512() }},
	{"avx2", cpu.X86.HasAVX2 && cpu.X86.HasFMA, func() *C.level { return C.spin_level_avx2() }},
	{"sse2", true, func() *C.level { return C.spin_level_base() }},
	{"wide", true, func() *C.level { return C.spin_level_wide() }},
}
