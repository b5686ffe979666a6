package weights

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"unsafe"
)

// Tensor is one array of a file, or one to be written. Data is little-endian, C order, and read-only where it comes from
// a File.
type Tensor struct {
	Name  string
	DType DType
	Shape []int
	Data  []byte

	src *source // nil for data in memory
}

// Len is the number of elements.
func (t Tensor) Len() int {
	if size := t.DType.Size(); size > 0 {
		return len(t.Data) / size
	}
	return 0
}

// check proves that the data is what dtype and shape say.
func (t Tensor) check() error {
	if t.DType.Size() == 0 {
		return fmt.Errorf("weights: tensor %s: unknown dtype %q", quote(t.Name), t.DType)
	}
	if n, ok := byteSize(t.DType, t.Shape); !ok || n != int64(len(t.Data)) {
		return fmt.Errorf("weights: tensor %s: %d bytes of data do not fit shape %v of %s", quote(t.Name), len(t.Data), t.Shape, t.DType)
	}
	return nil
}

// Floats returns a copy of the values of an F32, F16, BF16 or F64 tensor, which outlives the file. F64 is rounded. NaN
// and infinities pass; Scope.Floats refuses them.
func (t Tensor) Floats() ([]float32, error) { return t.floatsInto(nil) }

// floatsInto is Floats in buf, or in memory of its own where that is too short.
func (t Tensor) floatsInto(buf []float32) ([]float32, error) {
	if !t.DType.Float() {
		return nil, fmt.Errorf("weights: tensor %s has dtype %s, expected F32, F16, BF16 or F64", quote(t.Name), t.DType)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	out := sized(buf, t.Len())
	err := t.src.guard(func() error {
		decode(out, t.Data, t.DType)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// sized is buf with n elements, or a new slice.
func sized(buf []float32, n int) []float32 {
	if cap(buf) < n {
		return make([]float32, n)
	}
	return buf[:n]
}

// decode converts by whole tensors; src may have any alignment.
func decode(dst []float32, src []byte, d DType) {
	switch d {
	case F32:
		if len(dst) > 0 && littleEndian {
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), 4*len(dst)), src)
			return
		}
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = fromHalf(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	}
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// fromHalf is float16.Frombits(h).Float32() without branches on the common path: the exponent is moved into place and
// corrected by a product with 2^112, which makes normal numbers of the subnormal ones too.
func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	rest := uint32(h&0x7fff) << 13
	if rest >= 0x0f800000 { // exponent all ones: infinity or NaN, the latter made quiet
		rest |= 0x7f800000
		if rest&0x007fffff != 0 {
			rest |= 0x00400000
		}
		return math.Float32frombits(sign | rest)
	}
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(rest)*0x1p112))
}

// Ints returns a copy of the values of an integer or BOOL tensor.
func (t Tensor) Ints() ([]int64, error) {
	le := binary.LittleEndian
	var get func(b []byte) int64
	switch t.DType {
	case BOOL, U8:
		get = func(b []byte) int64 { return int64(b[0]) }
	case I8:
		get = func(b []byte) int64 { return int64(int8(b[0])) }
	case U16:
		get = func(b []byte) int64 { return int64(le.Uint16(b)) }
	case I16:
		get = func(b []byte) int64 { return int64(int16(le.Uint16(b))) }
	case U32:
		get = func(b []byte) int64 { return int64(le.Uint32(b)) }
	case I32:
		get = func(b []byte) int64 { return int64(int32(le.Uint32(b))) }
	case I64, U64:
		get = func(b []byte) int64 { return int64(le.Uint64(b)) }
	default:
		return nil, fmt.Errorf("weights: tensor %s has dtype %s, expected an integer type or BOOL", quote(t.Name), t.DType)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	out, size := make([]int64, t.Len()), t.DType.Size()
	err := t.src.guard(func() error {
		for i := range out {
			out[i] = get(t.Data[i*size:])
			if t.DType == U64 && out[i] < 0 || t.DType == BOOL && out[i] > 1 {
				return fmt.Errorf("weights: tensor %s: element %d is out of range", quote(t.Name), i)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// To returns the tensor as F32, F16 or BF16, rounded to nearest, ties to even. A finite value that would become infinite
// is an error. A tensor that has the type already is returned as it is, data shared.
func (t Tensor) To(d DType) (Tensor, error) { return t.convert(d, false) }

// convert is To; where finite is set, a NaN or an infinity is an error as well.
func (t Tensor) convert(d DType, finite bool) (Tensor, error) {
	if t.DType == d {
		return t, t.check()
	}
	if d != F32 && d != F16 && d != BF16 {
		return Tensor{}, fmt.Errorf("weights: tensor %s: cannot convert to %s, only to F32, F16 or BF16", quote(t.Name), d)
	}
	if !t.DType.Float() {
		return Tensor{}, fmt.Errorf("weights: tensor %s has dtype %s, expected F32, F16, BF16 or F64", quote(t.Name), t.DType)
	}
	if err := t.check(); err != nil {
		return Tensor{}, err
	}
	n, from := t.Len(), t.DType.Size()
	out := Tensor{Name: t.Name, DType: d, Shape: t.Shape, Data: make([]byte, d.Size()*n)}
	errs := make([]error, (n+encodeChunk-1)/encodeChunk)
	var wg sync.WaitGroup
	turn := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range errs {
		wg.Add(1)
		turn <- struct{}{}
		go func() {
			defer func() { <-turn; wg.Done() }()
			errs[i] = t.src.guard(func() error { // faults are a matter of the goroutine that meets them
				var window [1 << 12]float32
				for at := i * encodeChunk; at < min((i+1)*encodeChunk, n); at += len(window) {
					v := window[:min(len(window), n-at)]
					decode(v, t.Data[at*from:(at+len(v))*from], t.DType)
					if j := notFinite(v); finite && j >= 0 {
						return notFiniteError(t, at+j, v[j])
					}
					if j := encode32(out.Data[at*d.Size():(at+len(v))*d.Size()], v, d); j >= 0 {
						return overflow(t, d, at+j, v[j])
					}
				}
				return nil
			})
		}()
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return Tensor{}, err
		}
	}
	return out, nil
}

func notFiniteError(t Tensor, i int, v float32) error {
	return fmt.Errorf("weights: %s holds %v at index %d: the file is damaged or its training went wrong", quote(t.Name), v, i)
}

// encodeChunk is the number of values that one goroutine converts at a time.
const encodeChunk = 1 << 18 // a multiple of the window in convert

// encode32 writes values as d. It returns the index of the first finite one that becomes infinite, or -1.
func encode32(dst []byte, values []float32, d DType) int {
	le := binary.LittleEndian
	bad := -1
	switch d {
	case F32:
		for i, v := range values {
			le.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	case F16:
		for i, v := range values {
			h := toHalf(v)
			if h&0x7c00 == 0x7c00 && bad < 0 && math.Float32bits(v)&exponent32 != exponent32 {
				bad = i
			}
			le.PutUint16(dst[2*i:], h)
		}
	case BF16:
		for i, v := range values {
			h := toBrain(v)
			if h&0x7f80 == 0x7f80 && bad < 0 && math.Float32bits(v)&exponent32 != exponent32 {
				bad = i
			}
			le.PutUint16(dst[2*i:], h)
		}
	}
	return bad
}

// toHalf rounds to the nearest half-precision number, ties to even. Normal results come from adding to the mantissa so
// that it carries; subnormal ones from adding 1/2, which lets the processor round at the right bit.
func toHalf(v float32) uint16 {
	b := math.Float32bits(v)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > exponent32: // NaN: the upper bits of its payload, quiet
		return sign | 0x7e00 | uint16(b>>13&0x3ff)
	case b >= 0x47800000: // 65536 and more
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14
		const half = 0x3f000000
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+math.Float32frombits(half))-half)
	}
	b += b>>13&1 + 0xfff
	return sign | uint16((b-(127-15)<<23)>>13)
}

const exponent32 = 0x7f800000

func overflow(t Tensor, d DType, i int, v float32) error {
	return fmt.Errorf("weights: tensor %s: element %d is %g, too large for %s", quote(t.Name), i, v, d)
}

// toBrain rounds to bfloat16, ties to even, and keeps a NaN a NaN.
func toBrain(v float32) uint16 {
	b := math.Float32bits(v)
	if b&0x7fffffff > exponent32 {
		return uint16(b>>16) | 0x0040
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// notFinite returns the index of the first NaN or infinity, or -1.
func notFinite(values []float32) int {
	for i, v := range values {
		if math.Float32bits(v)&exponent32 == exponent32 {
			return i
		}
	}
	return -1
}
