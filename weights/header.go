package weights

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

const (
	maxHeader   = 100_000_000 // as the reference implementation has it
	maxTensors  = 100_000
	maxMetadata = 100_000
	maxDims     = 32
	maxUnknown  = 64 // unknown fields of one entry
)

// metadataKey is the name in the header that is no tensor.
const metadataKey = "__metadata__"

// layout is what a header says, checked.
type layout struct {
	entries []entry // by name
	meta    map[string]string
	data    int64 // offset of the first tensor's data
}

type entry struct {
	name       string
	dtype      DType
	shape      []int
	begin, end int64 // relative to layout.data
	at         int64 // offset of the name in the file
}

// headerEnd reads the length field of a file of size bytes, of which b is the beginning (8 bytes or more, or all).
func headerEnd(b []byte, size int64) (int64, error) {
	if len(b) < 8 {
		return 0, &FormatError{Msg: fmt.Sprintf("%d bytes are too few for a safetensors file%s", size, advice(b))}
	}
	n := binary.LittleEndian.Uint64(b)
	if n > maxHeader {
		return 0, &FormatError{Msg: fmt.Sprintf("header of %d bytes, at most %d are allowed%s", n, maxHeader, advice(b))}
	}
	if int64(n) > size-8 {
		return 0, &FormatError{Msg: fmt.Sprintf("header of %d bytes in a file of %d%s", n, size, advice(b))}
	}
	return 8 + int64(n), nil
}

// parseHeader reads b, the beginning of a file of size bytes up to the end of the header or beyond.
func parseHeader(b []byte, size int64) (*layout, error) {
	end, err := headerEnd(b, size)
	if err != nil {
		return nil, err
	}
	h := b[8:end]
	if len(h) == 0 || h[0] != '{' {
		return nil, &FormatError{Offset: 8, Msg: "header does not begin with '{'" + advice(b)}
	}
	// Every entry names its offsets, so this is how many there are at most; growing the list would cost several times more.
	count := min(bytes.Count(h, []byte("data_offsets")), maxTensors)
	l := &layout{data: end, entries: make([]entry, 0, count)}
	seen := false
	s := &scanner{b: h, base: 8}
	err = s.object("'{'", func(key string, at int) error {
		if key == metadataKey {
			if seen {
				return s.fail(at, metadataKey+" occurs twice")
			}
			seen = true
			return l.metadata(s)
		}
		if len(l.entries) == maxTensors {
			return s.fail(at, fmt.Sprintf("more than %d tensors", maxTensors))
		}
		e := entry{name: key, at: 8 + int64(at)}
		if err := e.parse(s, at); err != nil {
			if f, ok := err.(*FormatError); ok {
				f.Tensor = key
			}
			return err
		}
		l.entries = append(l.entries, e)
		return nil
	})
	if err == nil {
		err = s.end()
	}
	if err == nil {
		err = l.check(size - end)
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *layout) metadata(s *scanner) error {
	l.meta = map[string]string{}
	return s.object("an object as "+metadataKey, func(key string, at int) error {
		if _, twice := l.meta[key]; twice {
			return s.fail(at, "metadata key "+quote(key)+" occurs twice")
		}
		if len(l.meta) == maxMetadata {
			return s.fail(at, fmt.Sprintf("more than %d metadata entries", maxMetadata))
		}
		v, err := s.str("a string as metadata value")
		l.meta[key] = v
		return err
	})
}

func (e *entry) parse(s *scanner, at int) error {
	var dtype, shape, offsets bool
	var unknown []string
	err := s.object("an object that describes the tensor", func(key string, at int) error {
		once := func(seen *bool) error {
			if *seen {
				return s.fail(at, key+" occurs twice")
			}
			*seen = true
			return nil
		}
		switch key {
		case "dtype":
			if err := once(&dtype); err != nil {
				return err
			}
			return e.parseDType(s)
		case "shape":
			if err := once(&shape); err != nil {
				return err
			}
			return e.parseShape(s)
		case "data_offsets":
			if err := once(&offsets); err != nil {
				return err
			}
			return e.parseOffsets(s)
		}
		if slices.Contains(unknown, key) {
			return s.fail(at, "field "+quote(key)+" occurs twice")
		}
		if len(unknown) == maxUnknown {
			return s.fail(at, fmt.Sprintf("more than %d unknown fields", maxUnknown))
		}
		unknown = append(unknown, key)
		return s.skip(0)
	})
	switch {
	case err != nil:
		return err
	case !dtype:
		return s.fail(at, "no dtype")
	case !shape:
		return s.fail(at, "no shape")
	case !offsets:
		return s.fail(at, "no data_offsets")
	}
	n, ok := byteSize(e.dtype, e.shape)
	if !ok {
		return s.fail(at, fmt.Sprintf("shape %v of %s overflows", e.shape, e.dtype))
	}
	if e.end-e.begin != n {
		return s.fail(at, fmt.Sprintf("shape %v of %s needs %d bytes, data_offsets give %d", e.shape, e.dtype, n, e.end-e.begin))
	}
	return nil
}

func (e *entry) parseDType(s *scanner) error {
	s.space()
	at := s.i
	raw, _, err := s.raw("a string as dtype")
	if err != nil {
		return err
	}
	if e.dtype = DType(raw); e.dtype.Size() == 0 {
		return s.fail(at, "unknown dtype "+quote(string(raw[:min(len(raw), 40)])))
	}
	return nil
}

func (e *entry) parseShape(s *scanner) error {
	var dims [maxDims]int // on the stack: growing a slice would cost twice the memory
	rank := 0
	err := s.array("a list as shape", func() error {
		s.space()
		at := s.i
		n, err := s.integer("dimension")
		switch {
		case err != nil:
			return err
		case n > math.MaxInt:
			return s.fail(at, "dimension is too large for this machine")
		case rank == maxDims:
			return s.fail(at, fmt.Sprintf("more than %d dimensions", maxDims))
		}
		dims[rank] = int(n)
		rank++
		return nil
	})
	e.shape = append(make([]int, 0, rank), dims[:rank]...)
	return err
}

func (e *entry) parseOffsets(s *scanner) error {
	s.space()
	at, n := s.i, 0
	err := s.array("a list as data_offsets", func() error {
		v, err := s.integer("data offset")
		switch n++; n {
		case 1:
			e.begin = v
		case 2:
			e.end = v
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case n != 2:
		return s.fail(at, fmt.Sprintf("%d data_offsets, expected 2", n))
	case e.begin > e.end:
		return s.fail(at, fmt.Sprintf("data_offsets [%d,%d] are reversed", e.begin, e.end))
	}
	return nil
}

// check sorts the entries and proves that they cover n bytes of data exactly.
func (l *layout) check(n int64) error {
	bySpan := func(a, b entry) int { return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end)) }
	slices.SortFunc(l.entries, bySpan)
	var at int64
	for _, e := range l.entries {
		var what string
		switch {
		case e.begin > at:
			what = fmt.Sprintf("leave a gap after %d", at)
		case e.begin < at:
			what = fmt.Sprintf("overlap another tensor, which ends at %d", at)
		case e.end > n:
			what = fmt.Sprintf("run past the %d bytes of data: the file is truncated or damaged", n)
		}
		if what != "" {
			return &FormatError{Offset: e.at, Tensor: e.name, Msg: fmt.Sprintf("data_offsets [%d,%d] %s", e.begin, e.end, what)}
		}
		at = e.end
	}
	if at != n {
		return &FormatError{Offset: l.data + at, Msg: fmt.Sprintf("%d bytes after the last tensor belong to none", n-at)}
	}

	slices.SortFunc(l.entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.at, b.at)) })
	for i := 1; i < len(l.entries); i++ {
		if e := l.entries[i]; e.name == l.entries[i-1].name {
			return &FormatError{Offset: e.at, Tensor: e.name, Msg: "name occurs twice"}
		}
	}
	return nil
}

// byteSize is the product of the shape and the element size; false if it overflows or a dimension is negative. A zero
// dimension does not hide an overflow of the others: readers disagree there.
func byteSize(d DType, shape []int) (int64, bool) {
	n, zero := uint64(d.Size()), false
	for _, dim := range shape {
		if dim < 0 {
			return 0, false
		}
		if dim == 0 {
			zero = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, false
		}
		n = lo
	}
	if zero {
		return 0, true
	}
	return int64(n), true
}
