package cpu

// Options chooses how the backend runs. The zero value is right for most programs.
type Options struct {
	Threads int    // 0: GOMAXPROCS, which follows the limits of a container
	Level   string // "": the best that the processor has; otherwise one of Levels(), for tests and measurements
	// HalfWeights keeps packed weights as F16 where they are in its range: half the memory, for a relative error of up to 5e-4
	// in each, or none where they were F16 to begin with and the form is direct.
	HalfWeights bool
	// Products is the number format that convolutions multiply in: F32 ("" or "f32"), or with "bf16" bfloat16, for those of
	// 16 input channels or more. Its 8 bits of mantissa cost a relative error of some 1e-3 in a network's output; weights take half the
	// memory; sums, activations and everything else stay F32. It is fast where the processor multiplies bfloat16, with AMX
	// above all, and works everywhere. "bf16/amx", "bf16/dot" and "bf16/any" ask for certain instructions, for tests.
	Products string
	// Plan opens a backend that takes no memory and computes nothing, but goes through the same motions: what UsageOf then
	// tells is exactly what the real one would take for the same calls. Downloads are zeros.
	Plan bool
}
