// Package lazycuda lets one binary use the CUDA driver where there is one and start all the same where there is none. It
// defines every driver function that the program refers to as a jump into libcuda.so.1, which Open opens; until then, and
// for functions that the driver lacks, the jumps lead to one that returns CUDA_ERROR_NOT_SUPPORTED. So the program is not
// linked with libcuda; stub/libcuda.a is an empty archive for the -lcuda that gorgonia.org/cu brings along.
//
// A new driver function takes one line in symbols.txt and a run of generate.sh. The jumps are written for linux/amd64;
// elsewhere, and without the build tag cuda, the package only says that there is no CUDA.
package lazycuda

// Library is the environment variable that names the driver's library, for tests on the emulation of a device.
const Library = "SPIN_LIBCUDA"

//go:generate ./generate.sh
