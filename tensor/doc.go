// Package tensor gives the networks and the solver device tensors with shapes that are checked and memory that is
// pooled.
//
// A Device wraps one kernels.Backend. Tensors are NHWC float32; vectors are [N,1,1,C]. Memory comes from a pool of
// exact sizes that stops growing after the first pass. Code that makes temporaries brackets them:
//
//	func block(x *tensor.Tensor) (out *tensor.Tensor) {
//		defer x.Device().Tidy(&out)()
//		h := ...          // freed on return
//		return result     // kept, and handed to the caller's own bracket, if there is one
//	}
//
// # Errors
//
// Misuse (a wrong shape, a tensor of another device) and memory that cannot be had panic with *Error. Functions that
// other programs call turn that into an error at their edge:
//
//	func Load(...) (m *Model, err error) {
//		defer tensor.Catch(&err)
//
// Faults of the device itself are sticky and come back from Floats and Sync.
//
// A Device and its tensors belong to one goroutine at a time; independent Devices run in parallel.
package tensor
