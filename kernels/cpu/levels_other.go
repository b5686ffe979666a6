//go:build cgo && !amd64

package cpu

// #include "spin.h"
import "C"

import "runtime"

var levels = []levelInfo{
	{map[string]string{"arm64": "neon"}[runtime.GOARCH], runtime.GOARCH == "arm64", func() *C.level { return C.spin_level_base() }},
	{"base", true, func() *C.level { return C.spin_level_base() }},
	{"wide", true, func() *C.level { return C.spin_level_wide() }},
}
