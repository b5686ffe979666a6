package testkit

import (
	"os"
	"strings"
)

// Emulated gives every variable of the emulated device (internal/cudaemu) a value, nothing where it has none. It is for a package's
// TestMain: where a test adds a variable, the C library moves the list of them, and the device's threads may be reading it.
func Emulated() {
	for _, name := range strings.Fields("ABSENT CC EAGER FAIL FAIL_LAUNCH LAUNCHES LOG MEMORY NO_DEVICE ORDER REFUSE SMS THREADS TRACE") {
		if err := os.Setenv("CUEMU_"+name, os.Getenv("CUEMU_"+name)); err != nil {
			panic(err)
		}
	}
}
