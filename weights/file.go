package weights

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// File is an open safetensors file, or a set of shards that act as one.
type File struct {
	path    string
	tensors []Tensor // by name
	meta    map[string]string
	sources []*source
	// synthetic is the seed of a file whose tensors are made when they are read; see Synthetic.
	synthetic *uint64
	// shapes makes Scopes hand out parts of zero; see ShapesOnly.
	shapes bool
	zero   []float32

	mu   sync.Mutex
	read map[string]bool // names that a Scope handed out
}

// Open opens a safetensors file, plain or zstd-compressed, a *.safetensors.index.json with its shards beside it, or a
// folder that holds one of these. A plain file is mapped, not read.
func Open(path string) (*File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		if path, err = inFolder(path); err != nil {
			return nil, err
		}
	}
	if strings.HasSuffix(path, indexSuffix) {
		return openIndex(path)
	}
	return one(path)(openSource(path))
}

// OpenBytes reads a file that is in memory, plain or zstd-compressed. The name is for messages. The bytes must not be
// changed while the File is in use.
func OpenBytes(name string, b []byte) (*File, error) {
	return one(name)(memorySource(name, b))
}

func one(path string) func(*source, *layout, error) (*File, error) {
	return func(s *source, l *layout, err error) (*File, error) {
		if err != nil {
			return nil, err
		}
		return &File{path: path, tensors: l.tensors(s), meta: l.meta, sources: []*source{s}}, nil
	}
}

// tensors points the entries at their data.
func (l *layout) tensors(s *source) []Tensor {
	list := make([]Tensor, len(l.entries))
	for i, e := range l.entries {
		b, end := l.data+e.begin, l.data+e.end
		list[i] = Tensor{Name: e.name, DType: e.dtype, Shape: e.shape, Data: s.b[b:end:end], src: s}
	}
	return list
}

// Path is what the file was opened as, or the file that was found in the folder.
func (f *File) Path() string { return f.path }

// Size is the number of bytes on disk, all shards together.
func (f *File) Size() int64 {
	var n int64
	for _, s := range f.sources {
		n += s.onDisk
	}
	return n
}

// Metadata is the free text of the header; of several shards the first one's value counts. Do not change it.
func (f *File) Metadata() map[string]string { return f.meta }

// Names lists the tensors, sorted.
func (f *File) Names() []string {
	names := make([]string, len(f.tensors))
	for i, t := range f.tensors {
		names[i] = t.Name
	}
	return names
}

// Tensor finds a tensor by its full name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.find(name)
	if !ok {
		return Tensor{}, false
	}
	t := f.tensors[i]
	if f.synthetic != nil {
		t = FromFloats(t.Name, f.random(nil, t), t.Shape...)
	}
	return t, true
}

// find is the index of a tensor, or where it would stand.
func (f *File) find(name string) (int, bool) {
	return slices.BinarySearchFunc(f.tensors, name, func(t Tensor, name string) int { return cmp.Compare(t.Name, name) })
}

// Close unmaps the file. Every Tensor of it is dead then; what Floats and Ints returned is not.
func (f *File) Close() error {
	var err error
	for _, s := range f.sources {
		err = errors.Join(err, s.close())
	}
	f.tensors, f.sources = nil, nil
	return err
}

// Unread lists the tensors that no Scope has handed out.
func (f *File) Unread() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, t := range f.tensors {
		if !f.read[t.Name] {
			names = append(names, t.Name)
		}
	}
	return names
}

// CheckAllRead returns an error if a tensor was left unread: then the file holds another network than was built.
func (f *File) CheckAllRead() error {
	left := f.Unread()
	if len(left) == 0 {
		return nil
	}
	const most = 5
	names := make([]string, 0, most+1)
	for _, n := range left[:min(len(left), most)] {
		names = append(names, quote(n))
	}
	if len(left) > most {
		names = append(names, "...")
	}
	return fmt.Errorf("weights: %s: %d of %d tensors have no place in the network: %s",
		f.path, len(left), len(f.tensors), strings.Join(names, ", "))
}
