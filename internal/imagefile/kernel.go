package imagefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// MaxKernel is the largest side of a blur kernel.
const MaxKernel = 255

// maxKernelFile bounds the file: MaxKernel squared numbers of 32 characters fit,
// and so does any picture of that size.
const maxKernelFile = 4 << 20

// ReadKernel reads a blur kernel and normalises its sum to 1. Row (h-1)/2 and
// column (w-1)/2 of the result are its centre. The file is one of
//
//   - a picture: its luminance, black = 0, transparent = 0;
//   - a NumPy array (.npy) of two dimensions, float32 or float64, in C order;
//   - text: one row of numbers a line, separated by spaces or commas; lines that
//     begin with # are skipped.
//
// A side of even length gets a row of zeros at the bottom or a column at the
// right, because the operators need a pixel in the middle; the picture shifts by
// half a pixel then. Single negative values are allowed, a sum that is not
// positive is not.
func ReadKernel(path string) (h, w int, k []float32, err error) {
	data, err := loadKernel(path)
	if err != nil {
		return 0, 0, nil, err
	}
	return DecodeKernel(path, data)
}

func loadKernel(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, systemError(path, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, fail(path, ErrKernel, "is a folder; name a file with a blur kernel")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKernelFile+1))
	if err != nil {
		return nil, systemError(path, err)
	}
	if len(data) > maxKernelFile {
		return nil, fail(path, ErrKernel, "is larger than a blur kernel of %dx%d can be", MaxKernel, MaxKernel)
	}
	return data, nil
}

// DecodeKernel is ReadKernel on a file in memory. The name is only used in
// errors.
func DecodeKernel(name string, data []byte) (h, w int, k []float32, err error) {
	var values []float64
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // spreadsheets mark UTF-8 so
	switch {
	case len(data) == 0:
		return 0, 0, nil, fail(name, ErrTruncated, "the file is empty; expected a picture, a .npy array or numbers as text")
	case bytes.HasPrefix(data, []byte(npyMagic)):
		h, w, values, err = parseNPY(data)
	case looksLikeText(data):
		h, w, values, err = parseNumbers(string(data))
	default:
		m, err := Decode(name, data, Limits{MaxPixels: 1 << 20})
		switch {
		case errors.Is(err, ErrNotImage):
			return 0, 0, nil, fail(name, ErrKernel, "not a blur kernel, expected a picture, a .npy array or numbers as text")
		case errors.Is(err, ErrTooLarge):
			return 0, 0, nil, fail(name, ErrKernel, "a picture far larger than a kernel, expected 1x1 to %dx%d", MaxKernel, MaxKernel)
		case err != nil:
			return 0, 0, nil, err
		}
		h, w = m.H, m.W
		if err := kernelSize(h, w); err != nil {
			return 0, 0, nil, fail(name, ErrKernel, "%v", err)
		}
		for _, v := range m.mask().Pix {
			values = append(values, float64(v))
		}
	}
	if err == nil {
		h, w, k, err = normalise(h, w, values)
	}
	if err != nil {
		return 0, 0, nil, fail(name, ErrKernel, "%v", err)
	}
	return h, w, k, nil
}

func kernelSize(h, w int) error {
	if h < 1 || w < 1 || h > MaxKernel || w > MaxKernel {
		return fmt.Errorf("a kernel of %dx%d, expected 1x1 to %dx%d", h, w, MaxKernel, MaxKernel)
	}
	return nil
}

// normalise pads to odd sides and divides by the sum.
func normalise(h, w int, values []float64) (int, int, []float32, error) {
	if err := kernelSize(h, w); err != nil {
		return 0, 0, nil, err
	}
	var sum, size float64
	for i, v := range values {
		if v-v != 0 {
			return 0, 0, nil, fmt.Errorf("the kernel holds %v in row %d, column %d; expected finite numbers", v, i/w+1, i%w+1)
		}
		sum += v
		size += math.Abs(v)
	}
	// Not exactly zero: an edge filter sums to rounding errors. An overflowing sum
	// has no meaning either.
	if !(math.Abs(sum) > 1e-9*size) || math.IsInf(size, 0) {
		return 0, 0, nil, fmt.Errorf("the kernel sums to %.3g and cannot be normalised; a blur kernel has a positive sum", sum)
	}
	if sum < 0 {
		return 0, 0, nil, fmt.Errorf("the kernel has the negative sum %.3g; a blur kernel has a positive sum", sum)
	}
	oh, ow := h|1, w|1
	k := make([]float32, oh*ow)
	for i, v := range values {
		k[i/w*ow+i%w] = float32(v / sum)
	}
	return oh, ow, k, nil
}

// looksLikeText accepts what tables of numbers consist of, by the first bytes; no
// picture format begins so.
func looksLikeText(data []byte) bool {
	head := strings.TrimSpace(string(data[:min(len(data), 256)]))
	return head == "" || strings.ContainsAny(head[:1], "0123456789+-.#nN")
}

func parseNumbers(text string) (h, w int, values []float64, err error) {
	line := 0
	for s := range strings.Lines(text) {
		line++
		if s = strings.TrimSpace(s); s == "" || s[0] == '#' {
			continue
		}
		fields := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
		if h == 0 {
			w = len(fields)
		}
		if len(fields) != w {
			return 0, 0, nil, fmt.Errorf("line %d has %d numbers, the rows before have %d", line, len(fields), w)
		}
		h++
		if w > MaxKernel || h > MaxKernel {
			return 0, 0, nil, kernelSize(h, w)
		}
		for _, f := range fields {
			v, err := strconv.ParseFloat(f, 64)
			if err != nil {
				return 0, 0, nil, fmt.Errorf("line %d: %.40q is not a number", line, f)
			}
			values = append(values, v)
		}
	}
	if h == 0 {
		return 0, 0, nil, fmt.Errorf("no numbers in the file")
	}
	return h, w, values, nil
}

const npyMagic = "\x93NUMPY"

// The header is a Python dictionary, written by NumPy in always the same way.
var (
	npyDescr   = regexp.MustCompile(`'descr'\s*:\s*'([^']*)'`)
	npyFortran = regexp.MustCompile(`'fortran_order'\s*:\s*(True|False)`)
	npyShape   = regexp.MustCompile(`'shape'\s*:\s*\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,?\s*\)`)
)

// parseNPY reads NumPy's array format, versions 1 to 3: magic, two bytes of
// version, length of the header (two bytes, from version 2 on four), header, data.
func parseNPY(data []byte) (h, w int, values []float64, err error) {
	none := func(format string, args ...any) (int, int, []float64, error) {
		return 0, 0, nil, fmt.Errorf(format, args...)
	}
	const ends = "the .npy file ends early; save it again"
	p := data[len(npyMagic):]
	if len(p) < 6 {
		return none(ends)
	}
	var n int
	switch p[0] {
	case 1:
		n, p = int(binary.LittleEndian.Uint16(p[2:])), p[4:]
	case 2, 3:
		n, p = int(min(binary.LittleEndian.Uint32(p[2:]), maxKernelFile)), p[6:]
	default:
		return none("a .npy file of version %d, expected 1 or 2", p[0])
	}
	if n > len(p) {
		return none(ends)
	}
	head := string(p[:n])
	p = p[n:]
	descr, shape := npyDescr.FindStringSubmatch(head), npyShape.FindStringSubmatch(head)
	fortran := npyFortran.FindStringSubmatch(head)
	if descr == nil || fortran == nil {
		return none("the header of the .npy file makes no sense; save it again")
	}
	if shape == nil {
		return none("the .npy array does not have two dimensions; save one kernel of shape (height, width)")
	}
	h, _ = strconv.Atoi(shape[1]) // nine digits at most
	w, _ = strconv.Atoi(shape[2])
	if err := kernelSize(h, w); err != nil {
		return 0, 0, nil, err
	}
	if fortran[1] == "True" && h > 1 && w > 1 {
		return none("the .npy array is in Fortran order; save numpy.ascontiguousarray(k)")
	}
	var order binary.ByteOrder = binary.LittleEndian
	if strings.HasPrefix(descr[1], ">") {
		order = binary.BigEndian
	}
	size := 0
	switch strings.TrimLeft(descr[1], "<>=") {
	case "f4":
		size = 4
	case "f8":
		size = 8
	default:
		return none("the .npy array is of type %.20q; save k.astype('float32')", descr[1])
	}
	if len(p) < h*w*size {
		return none(ends)
	}
	for i := range h * w {
		if size == 4 {
			values = append(values, float64(math.Float32frombits(order.Uint32(p[4*i:]))))
		} else {
			values = append(values, math.Float64frombits(order.Uint64(p[8*i:])))
		}
	}
	return h, w, values, nil
}
