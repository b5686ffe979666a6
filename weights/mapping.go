package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
)

// Mapping is a file of another format, mapped read-only, of which the reader of that format makes tensors that need no
// copy. What is said of Tensor.Data and of Close in the package comment holds here too.
type Mapping struct{ src *source }

// Map maps a regular file that is not empty.
func Map(path string) (_ *Mapping, err error) {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		// Before opening, which waits for ever on a pipe.
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &source{name: path, f: f}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s.mtime, s.onDisk = st.ModTime(), st.Size()
	switch {
	case s.onDisk == 0:
		return nil, &FormatError{File: path, Msg: "the file is empty"}
	case s.onDisk > math.MaxInt:
		return nil, fmt.Errorf("weights: %s: %d bytes are too many for this machine", path, s.onDisk)
	}
	if s.b, s.unload, err = load(f, int(s.onDisk)); err != nil {
		return nil, err
	}
	return &Mapping{src: s}, nil
}

// MapBytes is Map for bytes that are in memory and that nobody changes. The name is for messages.
func MapBytes(name string, b []byte) *Mapping {
	return &Mapping{src: &source{name: name, b: b, onDisk: int64(len(b))}}
}

// Bytes is the file. Read it inside Guard.
func (m *Mapping) Bytes() []byte { return m.src.b }

// Guard runs code that reads Bytes in the calling goroutine. If the file was truncated or rewritten meanwhile, the
// result is an error matching ErrChanged, where it would have been the end of the program.
func (m *Mapping) Guard(read func() error) error { return m.src.guard(read) }

// Tensor makes a tensor of the bytes [begin, end) of the file; its Data is read under the guard wherever this package
// does so.
func (m *Mapping) Tensor(name string, d DType, shape []int, begin, end int) (Tensor, error) {
	b := m.src.b
	if begin < 0 || end < begin || end > len(b) {
		return Tensor{}, fmt.Errorf("weights: tensor %s: bytes [%d,%d] of a file of %d", quote(name), begin, end, len(b))
	}
	t := Tensor{Name: name, DType: d, Shape: shape, Data: b[begin:end:end], src: m.src}
	return t, t.check()
}

// Close unmaps the file. Every Tensor made of it is dead then.
func (m *Mapping) Close() error { return m.src.close() }
