//go:build race

package weights

// The detector makes the largest headers ten times slower and its own allocations count.
const raceDetector = true
