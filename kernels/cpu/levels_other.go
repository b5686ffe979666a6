//go:build cgo && !amd64

package cpu

// #include "spin.h"
import "C"

import "runtime"

var briefs = []brief{{"any", C.BRIEF_ANY, func(*C.level) bool { return true }}}

var levels = []levelInfo{
	{map[string]string{"arm64": "neon"}[runtime.GOARCH], runtime.GOARCH == "arm64", func() *C.level { return C.spin_level_base() }},
	{"base", true, func() *C.level { return C.spin_level_base() }},
	{"wide", true, func() *C.level { return C.spin_level_wide() }},
}
