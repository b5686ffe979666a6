// Package cpu is the backend for processors: leaf loops in C, one template compiled for several instruction sets and
// chosen at run time, threads in Go.
//
//	vec.h                 vectors of LANES floats, exp
//	conv_template.h       convolutions: input strip, the direct form, epilogue, moments
//	winograd_template.h   Winograd's forms
//	bf16_template.h       the direct form with products in bfloat16
//	attention_template.h  attention without the matrix of scores
//	image_template.h      the pixel-space steps
//	pointwise_template.h  formulas by element, sparse matrices
//	fft_template.h        discrete Fourier transforms, one per lane
//	peak_template.h       what the processor can do at most
//	level_*.c             the templates for one instruction set each
//	net.go, image.go,
//	pointwise.go,
//	fourier.go            how an operation is cut into tasks
//	plan.go               which algorithm a convolution takes
//	peak.go               the machine's limits, for measurements
//
// An operation is cut into tasks by its shape alone, and a task's arithmetic does not depend on who runs it, so results
// are the same bytes for any number of threads.
//
// Options.Plan opens a backend that goes through all of that but the leaves, to tell beforehand what memory it takes.
//
// Without cgo (CGO_ENABLED=0) Open returns the reference backend, which is complete and slow.
package cpu
