package kernels

import "time"

// Buffer is memory owned by one backend, counted in float32 elements. Only the backend that made it can use it.
type Buffer interface {
	Len() int
}

// Type says how the elements of a view are stored.
type Type int

const (
	F32 Type = iota
	F16      // half precision, where the backend stores it; sums and statistics are in F32 all the same
)

func (t Type) String() string { return [...]string{F32: "f32", F16: "f16"}[t] }

// Size is the bytes of an element.
func (t Type) Size() int {
	if t == F16 {
		return 2
	}
	return 4
}

// Room is the number of float32 elements of a buffer that n elements take up.
func (t Type) Room(n int) int {
	if t == F16 {
		return (n + 1) / 2
	}
	return n
}

// View is a dense NHWC tensor at element Off of a buffer, which is counted in elements of the view's type.
type View struct {
	Buf        Buffer
	Off        int
	N, H, W, C int
	Type       Type
}

// Len is the number of elements.
func (v View) Len() int { return v.N * v.H * v.W * v.C }

// Pixels is the number of pixels of one image.
func (v View) Pixels() int { return v.H * v.W }

// Present reports whether an optional view was given.
func (v View) Present() bool { return v.Buf != nil }

// Image is the view of image n alone.
func (v View) Image(n int) View {
	v.Off += n * v.H * v.W * v.C
	v.N = 1
	return v
}

// Backend is one implementation of the whole contract.
type Backend interface {
	// Name tells the implementation and its instruction set, for example "ref" or "cpu/avx2".
	Name() string
	Memory
	Net
	Image
}

// Forker is a Backend that others can share prepared weights with.
type Forker interface {
	// Fork opens a backend of its own memory and threads (0: as many as this one has), which reads this one's buffers and
	// uses what was prepared on this one. Both run at the same time as long as neither writes what the other reads; where one
	// is to read what operations of the other make, the other's Sync comes in between.
	// What this backend owns is released when it and all of its forks are closed, in whatever order.
	Fork(threads int) (Backend, error)
}

// Reader is a Backend whose operations run while the program goes on, and that reads a tensor without waiting for those told later.
type Reader interface {
	// Read notes this place in the device's work, after the operations so far, and begins to copy src, if it is present, to the host.
	Read(src View) Reading
}

// Reading is a place in the work of a device, with what was read there.
type Reading interface {
	// Wait waits until the device has come there, and writes what was read to dst. A reading is waited for once.
	Wait(dst []float32) error
	// Since is how long the device took from an earlier reading's place to this one's: 0 unless both are of this backend, were waited
	// for, and are not freed.
	Since(earlier Reading) time.Duration
	// Free forgets the reading, waited for or not.
	Free()
}

// Recorder is a Backend that can run a series of operations again for less than it takes to be told of each.
type Recorder interface {
	// Record begins a recording: the operations up to End are kept and not run.
	Record()
	// End returns what was recorded, or nil where that cannot be replayed: memory was taken, freed, moved or read among the
	// operations, or the device had no use for them. None of them has run.
	End() Recording
}

// Recording is a series of operations. It is gone when its backend is closed.
type Recording interface {
	// Replay runs the operations on what the memory that they name holds now. It does nothing and reports false where that is
	// no longer possible, because other operations moved memory of the backend's own.
	Replay() bool
	// Free forgets the recording.
	Free()
}

// Bundler is a Backend that can run a series of operations in one go for less than it takes to run one after the other.
type Bundler interface {
	// Bundle begins a series: operations are kept back until Run. like is what an earlier series of the same operations left, or
	// nil: that their arguments differ costs little then, whatever they are.
	Bundle(like Bundle)
	// Run runs the series, and returns what the next one of its kind may begin with. A transfer, a wait, and memory taken or
	// given back among the operations end the series before: what was kept back runs first, and what follows as ever.
	Run() Bundle
}

// Bundle is what a series left. It is gone when its backend is closed.
type Bundle interface {
	// Free forgets it.
	Free()
}

// Accountant is a Backend that tells what memory it holds.
type Accountant interface {
	Usage() Usage
}

// Usage is the memory that a backend holds, in bytes.
type Usage struct {
	Tensors int64 // from Alloc
	Weights int64 // prepared convolutions
	Scratch int64 // of operations, kept for the next ones; on a device also what else was prepared
}

// UsageOf is the memory of a backend that tells it. The reference backend, which stands in for that of the processor where there is
// no cgo, does so of a plan only.
func UsageOf(b Backend) Usage {
	if a, ok := b.(Accountant); ok {
		return a.Usage()
	}
	return Usage{}
}

// Storer is a Backend that stores other types than F32. It takes views of those types where the operations of Net read or
// write activations: Src, Skip, Residual and Dst of Conv2D, x of Moments, everything of Attention, Dst and Src of LayerNorm,
// GEGLU and Resample. All other views are F32.
type Storer interface {
	Stores(Type) bool
}

// Memory moves data between the host and the backend.
type Memory interface {
	// Alloc returns n uninitialised elements, or an error that matches ErrOutOfMemory.
	Alloc(n int) (Buffer, error)
	Free(Buffer)
	// Upload copies src, whose length is dst.Len(), into dst, in dst's type. It has read src when it returns.
	Upload(dst View, src []float32)
	// Download waits for the operations before it and copies src into dst, whose length is src.Len().
	Download(dst []float32, src View) error
	// Sync waits for all operations and returns the first fault of the device, for good.
	Sync() error
	// Close releases everything the backend owns, buffers and prepared weights included.
	Close() error
}

// Net is what the networks need.
type Net interface {
	// PrepareConv packs the weights of one convolution and chooses its algorithm, once, at load. It keeps nothing of the
	// caller's memory.
	PrepareConv(ConvWeights) (Conv, error)
	Conv2D(*Conv2D)
	// Moments writes, per image and channel of x, mean (row 0) and sum of squared deviations from it (row 1)
	// into dst [N,1,2,C].
	Moments(dst, x View)
	Norm(*Norm)
	Attention(*Attention)
	LayerNorm(*LayerNorm)
	// GEGLU gates one half of the channels by the other: for src = [a | b], dst = a * b * Phi(b), with the cumulative
	// distribution Phi of the normal distribution, (1 + erf(b / sqrt 2)) / 2.
	GEGLU(dst, src View)
	// Resample writes src at twice or half its size: dst = sampling(src). moments is optional [N,1,2,C]. Same makes a copy,
	// which may be of another type.
	Resample(dst, src View, s Sampling, moments View)
	Nearest(*Nearest)
}

// Image is the pixel-space side: the fused steps of the solver's corrections.
type Image interface {
	// PrepareMatrix readies a banded matrix for Separable.
	PrepareMatrix(Matrix) (PreparedMatrix, error)
	// PrepareFilter readies a two-dimensional filter for Filter.
	PrepareFilter(FilterWeights) (PreparedFilter, error)
	// PrepareSparse readies a sparse matrix, and its transpose, for Sparse. It keeps nothing of the caller's memory.
	PrepareSparse(SparseMatrix) (PreparedSparse, error)
	Blend(*Blend)
	// Dot writes the sum over all elements of a*b, per image, into dst [N,1,1,1]. Accumulated in float64.
	Dot(dst, a, b View)
	Separable(*Separable)
	Filter(*Filter)
	Deconvolve(*Deconvolve)
	Conjugate(*Conjugate)
	Accelerate(*Accelerate)
	Adam(*Adam)
	Fourier(*Fourier)
	Sparse(*Sparse)
	Pointwise(*Pointwise)
}

// Activation is applied to a convolution's input after the normalisation.
type Activation int

const (
	Identity Activation = iota
	SiLU                // x / (1 + exp(-x))
	Tanh
)

// Sampling changes the size of what is read, after normalisation and activation.
type Sampling int

const (
	Same  Sampling = iota
	Up2            // nearest neighbour, twice the size
	Down2          // mean of 2x2 pixels, half the size; height and width must be even
)

// Size is the size that n pixels have after resampling.
func (s Sampling) Size(n int) int {
	switch s {
	case Up2:
		return 2 * n
	case Down2:
		return n / 2
	}
	return n
}

// ConvWeights describes one convolution: Weight[o][i][y][x] as PyTorch stores it, Bias[o] or nil.
type ConvWeights struct {
	Weight      []float32
	Bias        []float32
	Out, In     int
	Size        int      // kernel height and width, odd
	Stride, Pad int      // zero padding on all four sides
	PadEnd      int      // and so much more on the right and at the bottom, less than Size
	Form        ConvForm // Auto, or a forced algorithm (an error where it does not apply)
	Pixels      int      // output pixels per image that the weights will mostly meet, a hint for Auto; 0 if unknown
	Up          bool     // every Conv2D will say Sampling Up2, which lets a backend fold the enlarging into the weights
	Type        Type     // that weights and inputs are rounded to; sums are in F32. A Conv2D with a view of F16 needs F16.
}

// OutSize is the output height (width) for an input height (width) of n; 0 or less where that is too small.
func (w ConvWeights) OutSize(n int) int {
	return (n + 2*w.Pad + w.PadEnd - w.Size + w.Stride) / w.Stride
}

// ConvForm names an algorithm.
type ConvForm int

const (
	Auto       ConvForm = iota // the backend decides, by shape
	Direct                     // implicit GEMM
	Winograd2                  // F(2x2,3x3); this and the following for 3x3 kernels of stride 1 and padding 1 only
	Winograd4                  // F(4x4,3x3)
	Winograd6                  // F(6x6,3x3)
	WinogradUp                 // F(4x4,2x2), for each of the four parities of an enlarged image; needs Up
	BFloat16                   // Direct, with inputs and weights rounded to bfloat16 and sums in F32; never chosen unasked
)

var convForms = [...]string{
	Auto:       "auto",
	Direct:     "direct",
	Winograd2:  "winograd2",
	Winograd4:  "winograd4",
	Winograd6:  "winograd6",
	WinogradUp: "winograd-up",
	BFloat16:   "bf16",
}

func (f ConvForm) String() string { return convForms[f] }

// Winograd reports whether the form is one of Winograd's, which are for 3x3 kernels of stride 1 and padding 1.
func (f ConvForm) Winograd() bool { return f >= Winograd2 && f <= WinogradUp }

// Conv is a convolution prepared by a backend.
type Conv interface {
	Weights() ConvWeights // without Weight, which may have been dropped after packing
}

// Conv2D computes, for x = [Src[0] | Src[1]] concatenated by channel,
//
//	u   = Sampling(Act(Affine.scale * x + Affine.offset))
//	Dst = Kernel * u + bias + Embed + ResidualSampling(Residual) + Shortcut * [Skip[0] | Skip[1]]
//	Dst = max(Dst, 0)      with ReLU
//
// with zero padding applied to u.
type Conv2D struct {
	Dst              View
	Src              [2]View // the second is optional
	Affine           View    // optional [N,1,2,Cin]: scale row, offset row, as Norm writes them
	Act              Activation
	Sampling         Sampling
	Kernel           Conv
	Embed            View // optional [N or 1,1,1,Cout]
	Residual         View // optional; Dst's shape after ResidualSampling
	ResidualSampling Sampling
	Shortcut         Conv    // optional, in place of Residual: a 1x1 convolution of stride 1
	Skip             [2]View // its input, of Dst's size; the second is optional
	ReLU             bool    // a NaN stays one
	Moments          View    // optional output [N,1,2,Cout]: the moments of Dst, as Net.Moments would write them
}

// Norm turns moments into the affine form of group normalisation: for each image and channel, with mean and variance
// over the channel's group,
//
//	scale  = Gamma / sqrt(var + Eps) * (1 + s)
//	offset = (Beta - mean * Gamma / sqrt(var + Eps)) * (1 + s) + b        (s, b) = Modulate
type Norm struct {
	Dst      View    // [N,1,2,C]
	Moments  [2]View // of the one or two tensors that are concatenated; [N,1,2,Ci]
	Pixels   int     // pixels per image behind the moments
	Groups   int
	Eps      float32
	Gamma    View // [1,1,1,C]
	Beta     View // [1,1,1,C]
	Modulate View // optional [N or 1,1,1,2C]: s, then b
}

// Heads says where the heads of a query, key or value lie: head h is channels First+h*Step and following.
type Heads struct {
	View
	First, Step int
}

// Attention computes, for every image and head,
//
//	Dst[i] = sum_j softmax_j(Scale * Q[i].K[j]) V[j]
//
// over the pixels i of Q and j of K and V. Head h of Dst is channels h*Dim and following.
type Attention struct {
	Dst        View
	Q, K, V    Heads
	Heads, Dim int
	Scale      float32
}

// LayerNorm normalises every pixel over its channels:
//
//	Dst = Gamma * (Src - mean) / sqrt(var + Eps) + Beta
type LayerNorm struct {
	Dst, Src View
	Gamma    View // [1,1,1,C]
	Beta     View // [1,1,1,C]
	Eps      float32
}

// Nearest finds, for every pixel of X, the code vector at the least Euclidean distance, the first of equal ones:
//
//	i     = argmin_k |X - Codes[k]|
//	Dst   = X + (Codes[i] - X)
//	Index = i
//
// The detour over X is how the peers round the vector, and keeps a NaN.
type Nearest struct {
	Dst   View
	Index View // optional [N,H,W,1]: the number as a float, exact up to 2^24
	X     View // [N,H,W,D]
	Codes View // [1,1,D,K]: code vector k is column k
}

// Matrix is a banded matrix: row i has weights W[i] on columns First[i], First[i]+1, ...
type Matrix struct {
	Rows, Cols int
	First      []int
	W          [][]float32
}

// PreparedMatrix is a matrix readied by a backend.
type PreparedMatrix interface {
	Shape() (rows, cols int)
}

// Products are an output of the operations that embed it, made along with Dst: sums over all elements of an image, accumulated
// in float64,
//
//	Sums = [ Of.Dst, Of.With[0], Of.With[1] ]
//
// Of may be Dst, which means what it then holds; With, and Of otherwise, must not overlap it.
type Products struct {
	Sums View    // [N,1,1,1 to 3]: one more than there are in With; absent: none are wanted
	Of   View    // of Dst's shape
	With [2]View // optional, of Dst's shape
}

// Separable computes, per image and channel, with the matrices H (over rows) and W (over columns),
//
//	u   = H Src W^T
//	u   = u[i][j] / (RowSpectrum[i] * ColSpectrum[j] + Rho)      where a spectrum is given
//	Dst = Alpha * u + Beta * Add
//
// Dst may be Add itself.
type Separable struct {
	Dst, Src                 View
	H, W                     PreparedMatrix
	RowSpectrum, ColSpectrum View // optional [1,1,1,rows of H], [1,1,1,rows of W]
	Rho                      float32
	Alpha                    float32
	Add                      View // optional
	Beta                     float32
	Products
}

// FilterWeights is an odd-sized two-dimensional kernel, row by row.
type FilterWeights struct {
	H, W int
	K    []float32
}

// PreparedFilter is a filter readied by a backend.
type PreparedFilter interface {
	Size() (h, w int)
}

// Filter correlates every channel with the kernel (not flipped), the borders mirrored without repeating the edge pixel;
// Adjoint applies the exact transpose of that linear map:
//
//	Dst = Alpha * K Src + Beta * Add
//
// Dst may be Add itself. Rounding errors may be relative to the whole image instead of to the pixel's neighbours, so that
// large kernels can be applied as spectra.
type Filter struct {
	Dst, Src View
	Kernel   PreparedFilter
	Adjoint  bool
	Alpha    float32
	Add      View // optional
	Beta     float32
	Products
}

// Deconvolve divides by the squared spectrum of a kernel, on images without borders: what leaves on one side comes back on
// the other. With the two-dimensional Fourier transform F, and k the transform of the kernel laid on a circle of the same
// size, as often around it as it is large,
//
//	Dst = S^T F^-1[ F S Src / (|k|^2 + Rho) ]
//
// S lays the image on a circle in both directions, with borders that fade out as Fading says; without Fade it changes nothing.
// This is symmetric and positive definite. Rho must be above zero; the relative rounding error of the whole image grows up
// to that of the transforms times the ratio of the largest to the smallest divisor. Dst may be Src itself.
type Deconvolve struct {
	Dst, Src View
	Kernel   PreparedFilter
	Rho      float32
	Fade     int // over so many pixels
}

// Term is one summand of Blend: C * Num/Den * X, with Num and Den [N,1,1,1], read on the device, or absent. A quotient
// with a zero denominator is 0. X has the destination's shape, or C = 1 or N = 1 and is repeated over channels or images.
type Term struct {
	X        View
	C        float32
	Num, Den View
}

// Blend computes in one pass, element by element, for up to four terms,
//
//	Dst = clip(sum of the terms)       where Mask is absent or not zero
//	Dst = Else, or 0 where absent      elsewhere
//
// Dst may be any of the terms' X of the same shape, or Else.
type Blend struct {
	Dst   View
	Terms []Term
	Clip  bool // to [-1, 1]; a NaN stays one, so that a broken network is noticed
	Mask  View // optional [N or 1,H,W,1 or C]
	Else  View // optional
	Products
}

// Conjugate is a step of conjugate gradients on B x = b with a symmetric positive definite B, in place, with R = b - B X. Z is
// the preconditioned R, or R itself, W is B Z, and Sums are the Products [Z.W, Z.R, Z.S]:
//
//	beta  = Z.R / (Z.R)'                       primes are of the step before
//	kappa = Z.W + 2 beta Z.S + beta^2 kappa'   which is P.S after this step
//	alpha = Z.R / kappa
//	P = Z + beta P;  S = W + beta S;  X = X + alpha P;  R = R - alpha S
//
// A quotient with a zero denominator is 0. Where Before is absent beta is 0, and P, S and the third sum are not read.
type Conjugate struct {
	X, R, P, S, Z, W View
	Sums             View // [N,1,1,2 or 3]
	Before, After    View // [N,1,1,2]: Z.R and kappa, of the step before and of this one; not the same memory
}

// Stop freezes an image: a step does nothing to image n where Loss[n] <= Limit * Count[n]. Absent means that no image stops.
type Stop struct {
	Loss  View // [N,1,1,1]
	Limit float32
	Count View // optional [N,1,1,1]
}

// Local is the data term 1/2 |r|^2 of a measurement that sees every element alone, so that a step can compute its gradient
// itself:
//
//	r    = Gain x - Y, but at most 0 where Y >= High, and at least 0 where Y <= Low; 0 where Mask is zero
//	Grad = Gain r
type Local struct {
	Y, Mask         View // of X's shape; the mask is optional, [N or 1,H,W,1 or C]
	Gain, Low, High float32
	Loss            View // optional output [N,1,1,1]: |r|^2 at the X that the step leaves. May be Stop.Loss; an image that stops keeps it
}

// Accelerate is one step of Nesterov's accelerated gradient on f(x) + Rho/2 |x - X0|^2, in place:
//
//	xn = Z - Step*(Grad + Rho*(Z-X0));  Z = xn + Momentum*(xn - X);  X = xn
type Accelerate struct {
	X, Z, Grad, X0 View // Grad is at Z
	Step, Rho      float32
	Momentum       float32
	Stop           Stop
	Local          Local // in place of Grad, where that is absent
}

// Adam is step T (from 1) of Adam on f(x) + Rho/2 |x - X0|^2, in place, with beta 0.9 and 0.999 and eps 1e-8:
//
//	g = Grad + Rho*(X-X0);  M = 0.9 M + 0.1 g;  V = 0.999 V + 0.001 g^2
//	X = X - Rate * (M/(1-0.9^T)) / (sqrt(V/(1-0.999^T)) + eps)
type Adam struct {
	X, M, V, Grad, X0 View
	Rate, Rho         float32
	T                 int
	Stop              Stop
	Local             Local // in place of Grad, where that is absent
}

// Fourier is the unitary two-dimensional discrete Fourier transform of complex images, whose channels 2c and 2c+1 are
// real and imaginary part:
//
//	Dst[ky][kx] = 1/sqrt(H W) * sum over y, x of exp(-2 pi i (ky y/H + kx x/W)) Src[y][x]
//
// with exp(+2 pi i ...) where Inverse is set. Any height and width will do; those of small prime factors are fastest.
// Dst may be Src itself.
type Fourier struct {
	Dst, Src View
	Inverse  bool
}

// SparseMatrix acts on the pixels of an image, counted row by row: row i has the weights W[k] on the pixels Col[k], for k
// from Start[i] to Start[i+1].
type SparseMatrix struct {
	Rows, Cols int
	Start      []int32 // Rows+1, ascending from 0
	Col        []int32
	W          []float32
}

// PreparedSparse is a sparse matrix readied by a backend. Free gives its memory back, which may be large; it is not to be used
// after that.
type PreparedSparse interface {
	Shape() (rows, cols int)
	Free()
}

// Sparse applies a sparse matrix to the pixels of every image and channel, or with Adjoint its transpose:
//
//	Dst = Alpha * M Src + Beta * Add
//
// Src has as many pixels as M has columns and Dst as many as M has rows (the other way round with Adjoint), in any height and
// width. Dst may be Add itself.
type Sparse struct {
	Dst, Src View
	M        PreparedSparse
	Adjoint  bool
	Alpha    float32
	Add      View // optional
	Beta     float32
	Products
}

// PointOp names a formula of Pointwise.
type PointOp int

const (
	PointMul      PointOp = iota // A * B
	PointClip                    // A limited to [P, Q]
	PointRound                   // Q + P * round((A-Q)/P), halves to even; P is above zero
	PointPower                   // max(A, P)^Q; P is not negative
	PointWithin                  // 1 where P <= A <= Q, otherwise 0
	PointSaturate                // A-B, but at most 0 where B >= Q, and at least 0 where B <= P: what is known of a clipped B
	PointComplex                 // the complex A + iB; B is optional
	PointReal                    // the real part of a complex A
	PointAbs                     // the absolute value of a complex A
	PointPhase                   // B * A / max(|A|, P) for a complex A: the phase of A with the absolute value B; P is above zero
)

// Pointwise computes Dst from the same element of A and B, by one of the formulas above. Real operands have Dst's shape; B may
// have one image or one channel only, which is repeated. A complex operand has two channels, real and imaginary part, for
// each channel of a real one. Dst may be A or B where it has the same shape.
//
// A NaN stays one, but PointWithin is 0 there. PointRound decides in float64, so that a number halfway between two steps goes
// the same way on every backend.
type Pointwise struct {
	Op   PointOp
	Dst  View
	A, B View
	P, Q float32
}
