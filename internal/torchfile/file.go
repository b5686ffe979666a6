package torchfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spin-native/spin/weights"
)

// File is an open checkpoint.
type File struct {
	path    string
	m       *weights.Mapping
	tensors []weights.Tensor
	values  map[string]any
}

// Sniff reports whether a file that begins with head, four bytes or more, could be a checkpoint of PyTorch. A zip archive
// or a pickle of anything else could be one too.
func Sniff(head []byte) bool {
	return bytes.HasPrefix(head, []byte(localMagic)) || len(head) > 1 && head[0] == opProto && head[1] >= 2 && head[1] <= 5
}

// Open maps a checkpoint and reads its tree. Every storage that a tensor uses is compared with its checksum, where the
// container has one.
func Open(path string) (*File, error) {
	m, err := weights.Map(path)
	var format *weights.FormatError
	if errors.As(err, &format) {
		return nil, &Error{File: path, Offset: format.Offset, Msg: format.Msg}
	}
	if err != nil {
		return nil, err
	}
	return open(path, m)
}

// OpenBytes is Open for a file in memory, which must not be changed while the File is in use. The name is for messages.
func OpenBytes(name string, b []byte) (*File, error) {
	return open(name, weights.MapBytes(name, b))
}

func open(path string, m *weights.Mapping) (*File, error) {
	f := &File{path: path, m: m}
	err := m.Guard(func() (err error) {
		defer catch(&err)
		f.read()
		return nil
	})
	if err != nil {
		if e, ok := err.(*Error); ok {
			e.File = path
		}
		m.Close()
		return nil, err
	}
	return f, nil
}

// read fills the File, or panics with *Error.
func (f *File) read() {
	b := f.m.Bytes()
	budget := newBudget(len(b))
	var l *leaves
	switch {
	case bytes.HasPrefix(b, []byte("PK")):
		l = parseZip(b, budget)
	case len(b) > 0 && b[0] == opProto:
		l = parseStream(b, budget)
	default:
		fail(0, "neither a zip archive nor a pickle: not a PyTorch checkpoint")
	}
	f.finish(l, b)
}

// finish makes tensors of the leaves.
func (f *File) finish(l *leaves, b []byte) {
	f.values = l.values
	names := slices.Sorted(maps.Keys(l.tensors))
	limitViews(l, names, len(b))
	byPlace := slices.Clone(names) // in the order of the file, which a disk likes better
	slices.SortStableFunc(byPlace, func(a, b string) int { return cmp.Compare(l.tensors[a].begin, l.tensors[b].begin) })
	for _, name := range byPlace {
		l.tensors[name].verify(b)
	}
	f.tensors = make([]weights.Tensor, 0, len(names))
	for _, name := range names {
		t := l.tensors[name]
		begin := t.begin + t.first*t.dtype.Size()
		var made weights.Tensor
		var err error
		if t.inOrder() {
			made, err = f.m.Tensor(name, t.dtype, t.shape, begin, begin+t.bytes)
		} else {
			made = weights.Tensor{Name: name, DType: t.dtype, Shape: t.shape, Data: make([]byte, t.bytes)}
			gather(made.Data, b[begin:t.end], t.dtype.Size(), t.shape, t.strides)
		}
		if err != nil { // a mistake of this package
			panic(&Error{Offset: int64(t.at), Tensor: name, Msg: err.Error()})
		}
		f.tensors = append(f.tensors, made)
	}
}

// limitViews refuses a file that describes far more than it holds: tensors may share storages and repeat elements, and
// whoever writes them down again would fill the disk, or the memory.
func limitViews(l *leaves, names []string, fileSize int) {
	views, copies := viewsFactor*uint64(fileSize)+freeBytes, copyFactor*uint64(fileSize)+freeBytes
	for _, name := range names {
		t := l.tensors[name]
		n := uint64(t.bytes)
		var what string
		switch {
		case n > views:
			what = "all tensors together are"
		case !t.inOrder() && n > copies:
			what = "the tensors whose elements do not lie in order are"
		}
		if what != "" {
			panic(&Error{Offset: int64(t.at), Tensor: name, Msg: fmt.Sprintf(
				"size %v and stride %v: %s too large for a file of %d bytes", t.shape, t.strides, what, fileSize)})
		}
		views -= n
		if !t.inOrder() {
			copies -= n
		}
	}
}

// Path is what the file was opened as.
func (f *File) Path() string { return f.path }

// Tensors lists the tensors, by name: the keys and indices on the way from the root, joined with dots. Do not change the
// list.
func (f *File) Tensors() []weights.Tensor { return f.tensors }

// Values holds the plain values of the tree, named like the tensors: bool, int64, float64 or string. Those in lists of
// more than 64, and under keys that are neither text nor integers, are left out. Do not change the map.
func (f *File) Values() map[string]any { return f.values }

// Close unmaps the file. The Data of every tensor is dead then; what its Floats and Ints returned is not.
func (f *File) Close() error {
	f.tensors = nil
	return f.m.Close()
}

// show is describe, with the value of an integer.
func show(v any) string {
	if n, ok := v.(int64); ok {
		return fmt.Sprint(n)
	}
	return describe(v)
}
