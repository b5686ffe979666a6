package weights

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spin-native/spin/tensor"
)

// Scope is a place in the tree of names. Its methods panic with *tensor.Error, so that a network is built without an
// error check per tensor; tensor.Catch turns that into an error at the loader's edge.
type Scope struct {
	f      *File
	prefix string // "" or ends with '.'
}

// Scope is the root of the names.
func (f *File) Scope() *Scope { return &Scope{f: f} }

// At goes down: s.At("input_blocks", 3, 0) is what begins with "input_blocks.3.0.".
func (s *Scope) At(parts ...any) *Scope {
	var b strings.Builder
	b.WriteString(s.prefix)
	for _, p := range parts {
		fmt.Fprint(&b, p)
		b.WriteByte('.')
	}
	return &Scope{f: s.f, prefix: b.String()}
}

// Path is the full name of a tensor in the scope.
func (s *Scope) Path(name string) string { return s.prefix + name }

// Has reports whether the scope holds the tensor.
func (s *Scope) Has(name string) bool {
	_, ok := s.f.find(s.Path(name))
	return ok
}

// Shape returns the shape of a tensor, if the scope holds it.
func (s *Scope) Shape(name string) ([]int, bool) {
	i, ok := s.f.find(s.Path(name))
	if !ok {
		return nil, false
	}
	return slices.Clone(s.f.tensors[i].Shape), true
}

// Floats returns a copy of the tensor's values and marks it as read. It panics with *tensor.Error if the tensor is
// missing (matching ErrMissing), has another shape or type, or holds a NaN or an infinity.
func (s *Scope) Floats(name string, shape ...int) []float32 { return s.FloatsInto(nil, name, shape...) }

// FloatsInto is Floats with the values in buf if they fit, for loaders that go through many large tensors. The pages of a
// mapped file that held them count as read: the system may have them back.
func (s *Scope) FloatsInto(buf []float32, name string, shape ...int) []float32 {
	const op = "weights.Floats"
	path := s.Path(name)
	i, ok := s.f.find(path)
	if !ok && s.f.synthetic != nil {
		if s.f.shapes {
			return s.f.zeros(shape)
		}
		i, ok = s.f.make(path, shape), true
	}
	if !ok {
		tensor.FailWith(op, ErrMissing, "%s: %s is missing, expected with shape %v", s.f.path, quote(path), shape)
	}
	t := s.f.tensors[i]
	if !slices.Equal(t.Shape, shape) {
		tensor.Fail(op, "%s: %s has shape %v, expected %v", s.f.path, quote(path), t.Shape, shape)
	}
	if s.f.shapes {
		s.f.mark(path)
		return s.f.zeros(shape)
	}
	if s.f.synthetic != nil {
		s.f.mark(path)
		return s.f.random(buf, t)
	}
	values, err := t.floatsInto(buf)
	if err != nil {
		tensor.FailWith(op, err, "%s: %s cannot be read", s.f.path, quote(path))
	}
	if i := notFinite(values); i >= 0 {
		tensor.Fail(op, "%s: %s holds %v at index %d: the file is damaged or its training went wrong", s.f.path, quote(path), values[i], i)
	}
	t.src.forget(t.Data)
	s.f.mark(path)
	return values
}

func (f *File) mark(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.read == nil {
		f.read = map[string]bool{}
	}
	f.read[path] = true
}
