//go:build cgo

package cpu

// #include "spin.h"
import "C"

import "golang.org/x/sys/cpu"

// briefs are the ways to multiply bfloat16, best first; the last needs no instructions of its own.
var briefs = []brief{
	{"amx", C.BRIEF_AMX, func(l *C.level) bool {
		return l.brief != 0 && cpu.X86.HasAMXTile && cpu.X86.HasAMXBF16 && C.spin_amx() != 0
	}},
	{"dot", C.BRIEF_DOT, func(l *C.level) bool { return l.brief != 0 && cpu.X86.HasAVX512BF16 }},
	{"any", C.BRIEF_ANY, func(*C.level) bool { return true }},
}

var levels = []levelInfo{
	{"avx512", cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasFMA,
		func() *C.level { return C.spin_level_avx512() }},
	{"avx2", cpu.X86.HasAVX2 && cpu.X86.HasFMA, func() *C.level { return C.spin_level_avx2() }},
	{"sse2", true, func() *C.level { return C.spin_level_base() }},
	{"wide", true, func() *C.level { return C.spin_level_wide() }},
}
