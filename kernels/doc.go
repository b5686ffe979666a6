// Package kernels is the contract between the networks and the machines: a small closed set of fused operations on
// NHWC tensors, which every backend implements and package kerneltest checks.
//
// A backend is opened by its constructor (ref.Open, cpu.Open, cuda.Open), so a program's import list is its wiring diagram:
//
//	ref   pure Go, textbook loops with float64 sums: it defines what every operation means
//	cpu   C leaf loops with SIMD, threads in Go
//	cuda  NVIDIA devices, in builds with the tag cuda
//
// # Layout
//
// A tensor is a View: N images of H rows of W pixels of C channels, dense, channels fastest (NHWC). Vectors are views
// with H = W = 1, so a fully connected layer is a 1x1 convolution. Storage is float32, and half precision for the
// activations of networks on a backend that is a Storer; sums that decide a statistic are kept in float64 or as
// exact-by-construction partial moments.
//
// # Rules
//
//   - Destinations are overwritten whole and must not overlap a source, unless the operation says 'in place'.
//   - A zero View means 'absent' where a field is called optional.
//   - Shapes are the caller's duty (package tensor checks them); a backend may assume that they fit.
//   - No value may depend on the other images of the batch, on the number of threads or on earlier calls: the same
//     arguments give the same bytes on the same build and instruction set.
//   - A Backend serves one goroutine at a time; several backends may run in parallel.
//   - Operations may be asynchronous. A fault of the device is sticky and comes back from Sync, which Download implies.
//
// The operations are written for their fused form: a convolution reads through an optional concatenation, group
// normalisation, activation and resampling, and its epilogue adds bias, embedding and residual and gathers the moments
// that the next normalisation needs. A backend may run any part as a separate pass; the meaning is the same.
package kernels
