package weights

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"time"
	"unsafe"

	"github.com/klauspost/compress/zstd"
)

// source is the bytes of one safetensors file, mapped or in memory.
type source struct {
	name   string
	b      []byte
	f      *os.File // of a mapping, to notice a change; nil for memory
	mtime  time.Time
	onDisk int64
	unload func() error
	closed bool
}

// openSource opens one file and checks its header.
func openSource(path string) (_ *source, _ *layout, err error) {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		// Before opening, which waits for ever on a pipe.
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	s := &source{name: path, f: f}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	s.mtime, s.onDisk = st.ModTime(), st.Size()
	if s.onDisk == 0 {
		return nil, nil, &FormatError{File: path, Msg: "the file is empty"}
	}
	if s.onDisk > math.MaxInt {
		return nil, nil, fmt.Errorf("weights: %s: %d bytes are too many for this machine", path, s.onDisk)
	}
	var magic [4]byte
	if n, _ := f.ReadAt(magic[:], 0); isZstd(magic[:n]) {
		l, err := s.decompress(f)
		f.Close()
		s.f = nil
		return s, l, err
	}
	if s.b, s.unload, err = load(f, int(s.onDisk)); err != nil {
		return nil, nil, err
	}
	var l *layout
	err = s.guard(func() (err error) {
		l, err = parseHeader(s.b, int64(len(s.b)))
		return err
	})
	return s, l, s.named(err)
}

// memorySource is openSource for bytes.
func memorySource(name string, b []byte) (*source, *layout, error) {
	s := &source{name: name, b: b, onDisk: int64(len(b))}
	if isZstd(b) {
		l, err := s.decompress(bytes.NewReader(b))
		return s, l, err
	}
	l, err := parseHeader(b, int64(len(b)))
	return s, l, s.named(err)
}

func (s *source) close() error {
	var err error
	if s.unload != nil {
		err = s.unload()
	}
	if s.f != nil {
		err = errors.Join(err, s.f.Close())
	}
	s.b, s.unload, s.f, s.closed = nil, nil, nil, true
	return err
}

// named puts the file's name into an error of the parser.
func (s *source) named(err error) error {
	if f, ok := err.(*FormatError); ok {
		f.File = s.name
	}
	return err
}

// guard runs code that reads s.b. A mapped file that is truncated meanwhile makes such reads fault, which would end the
// program; cut within its last page it reads as zeros. Both become errors here.
func (s *source) guard(read func() error) (err error) {
	switch {
	case s == nil:
		return read()
	case s.closed: // the memory may be gone: not even a look
		return fmt.Errorf("weights: %s: %w", s.name, fs.ErrClosed)
	case s.f == nil:
		return read()
	}
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if _, fault := r.(interface{ Addr() uintptr }); !fault {
			panic(r)
		}
		err = fmt.Errorf("weights: %s: %w", s.name, ErrChanged)
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if err := read(); err != nil {
		return err
	}
	st, err := s.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != s.onDisk || !st.ModTime().Equal(s.mtime) {
		return fmt.Errorf("weights: %s: %w", s.name, ErrChanged)
	}
	return nil
}

// forget tells the system that a part of a mapped file was read. The whole pages in it stop counting as the program's
// memory; if they are read again, they come from the file.
func (s *source) forget(part []byte) {
	if s == nil || s.f == nil || len(part) == 0 {
		return
	}
	page := os.Getpagesize()
	begin := int(uintptr(unsafe.Pointer(&part[0])) - uintptr(unsafe.Pointer(&s.b[0])))
	end := (begin + len(part)) / page * page
	begin = (begin + page - 1) / page * page
	if begin >= 0 && begin < end && end <= len(s.b) { // else it is small, or a copy
		unneeded(s.b[begin:end])
	}
}

const (
	zstdMagic = "\x28\xb5\x2f\xfd"
	// maxDecoded bounds what a compressed file may hold.
	maxDecoded = 64 << 30
	// maxWindow bounds the decoder's own memory. Every level up to 19 of the zstd program stays below it, and ours.
	maxWindow = 16 << 20
	// maxRatio is far above what weights compress to (about 1.1) and keeps a small file from filling the memory.
	maxRatio  = 100
	freeRatio = 16 << 20 // decoded sizes up to this need no ratio
)

func isZstd(b []byte) bool { return bytes.HasPrefix(b, []byte(zstdMagic)) }

// decompress fills s.b from a compressed file of s.onDisk bytes. The safetensors header is checked as soon as it is
// there, so that a file must at least describe its data before memory is spent on it, and memory grows with what arrives.
func (s *source) decompress(r io.ReadSeeker) (*layout, error) {
	bad := func(format string, args ...any) (*layout, error) {
		return nil, &FormatError{File: s.name, Offset: int64(len(s.b)), Msg: fmt.Sprintf(format, args...)}
	}
	s.b = nil
	size, err := decodedSize(r, s.onDisk)
	if err != nil {
		return bad("zstd: %v", err)
	}
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	defer d.Close()

	if err := s.fill(d, min(8, size), 8); err != nil {
		return bad("zstd: %v", err)
	}
	end, err := headerEnd(s.b, size)
	if err != nil {
		return nil, s.named(err)
	}
	if err := s.fill(d, end, 1<<16); err != nil {
		return bad("zstd: %v", err)
	}
	l, err := parseHeader(s.b, size)
	if err != nil {
		return nil, s.named(err)
	}
	if err := s.fill(d, size, 2*s.onDisk); err != nil {
		return bad("zstd: %v", err)
	}
	if n, err := io.ReadFull(d, make([]byte, 1)); n != 0 {
		return bad("zstd: holds more than the %d bytes that its frame declares", size)
	} else if err != io.EOF {
		return bad("zstd: %v", err) // the checksum, for one
	}
	return l, nil
}

// decodedSize reads the frame header and rewinds.
func decodedSize(r io.ReadSeeker, compressed int64) (int64, error) {
	var head [zstd.HeaderMaxSize]byte
	n, err := io.ReadFull(r, head[:])
	if err != nil && err != io.ErrUnexpectedEOF {
		return 0, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	var h zstd.Header
	if err := h.Decode(head[:n]); err != nil {
		return 0, err
	}
	switch size := h.FrameContentSize; {
	case !h.HasFCS:
		return 0, errors.New("the frame does not declare its decoded size: compress the file itself, not a stream")
	case size > maxDecoded || size > math.MaxInt:
		return 0, fmt.Errorf("%d bytes decoded, at most %d are allowed", size, int64(maxDecoded))
	case size > freeRatio && int64(size)/maxRatio > compressed:
		return 0, fmt.Errorf("%d bytes declared in a file of %d: no weights compress like that", size, compressed)
	default:
		return int64(size), nil
	}
}

// fill reads from r until s.b holds n bytes, growing it by doubling, from about first bytes on.
func (s *source) fill(r io.Reader, n, first int64) error {
	for int64(len(s.b)) < n {
		if len(s.b) == cap(s.b) {
			grown := make([]byte, len(s.b), min(n, max(first, 2*int64(len(s.b)))))
			copy(grown, s.b)
			s.b = grown
		}
		room := s.b[len(s.b):min(int64(cap(s.b)), n)]
		k, err := io.ReadFull(r, room)
		s.b = s.b[:len(s.b)+k]
		if err != nil {
			return fmt.Errorf("%w after %d of %d bytes", err, len(s.b), n)
		}
	}
	return nil
}
