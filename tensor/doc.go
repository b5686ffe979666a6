// Package tensor gives the networks and the solver device tensors with shapes that are checked and memory that is
// used again.
//
// A Device wraps one kernels.Backend. Tensors are NHWC float32, or half precision inside of networks on a device that
// was told to (Device.Store); vectors are [N,1,1,C]. Code that makes temporaries
// brackets them:
//
//	func block(x *tensor.Tensor) (out *tensor.Tensor) {
//		defer x.Device().Tidy(&out)()
//		h := ...          // freed on return
//		return result     // kept, and handed to the caller's own bracket, if there is one
//	}
//
// # Memory
//
// Tensors are cut out of an arena: a few large pieces of the backend's memory, in which freed neighbours merge and a new
// tensor goes where it fits best. Places depend on the tensors alive alone, so a program that repeats itself takes no
// more memory. It also means that a run can be rehearsed, on a backend that computes nothing, and its memory taken in one
// piece, exactly:
//
//	plan, err := cpu.Open(cpu.Options{Plan: true})
//	dry := tensor.NewDevice(plan)
//	err = dry.Reserve(1 << 50)             // a piece without end, which costs nothing there
//	...                                    // load the network (weights.File.ShapesOnly is enough) and call it once
//	err = d.Reserve(dry.Stats().Peak)      // on the real device, before anything else
//
// Reserve is optional. Without it a Device takes memory as it needs it, in pieces that double.
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
