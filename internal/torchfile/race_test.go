//go:build race

package torchfile

// The detector makes everything slower, and its own allocations count.
const raceDetector = true
