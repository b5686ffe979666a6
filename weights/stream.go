package weights

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Planned is a tensor that WriteStream will write: everything but its data is known beforehand.
type Planned struct {
	Name  string
	DType DType
	Shape []int
	// Produce returns the data, little-endian, of the length that DType and Shape mean. It is called at most once, shortly
	// before its turn, from a goroutine of its own while others produce other tensors; the slice is not kept.
	Produce func() ([]byte, error)
}

// Size is the number of bytes of the data, or -1 if type and shape mean none.
func (p Planned) Size() int64 {
	n, ok := byteSize(p.DType, p.Shape)
	if !ok {
		return -1
	}
	return n
}

// WriteStream is Encode for tensors that are made while it writes: only a few are in memory at a time. The same tensors
// and metadata give the same bytes as there.
func WriteStream(w io.Writer, tensors []Planned, metadata map[string]string) error {
	s, err := newStream(tensors, metadata)
	if err != nil {
		return err
	}
	return s.write(w)
}

// WriteStreamZstd is WriteStream through zstd; the bytes are those of EncodeZstd.
func WriteStreamZstd(w io.Writer, tensors []Planned, metadata map[string]string) error {
	s, err := newStream(tensors, metadata)
	if err != nil {
		return err
	}
	size := int64(len(s.header))
	for _, p := range s.list {
		size += p.Size()
	}
	z, err := newZstd(w, size)
	if err != nil {
		return err
	}
	return errors.Join(s.write(z), z.Close())
}

type stream struct {
	list   []Planned // in the order of the file
	header []byte
}

func newStream(tensors []Planned, metadata map[string]string) (*stream, error) {
	// The planner of Encode looks at the length of the data only. All tensors borrow one buffer that is never touched, so
	// that it takes address space but no memory.
	var most int64
	for _, p := range tensors {
		if p.Size() < 0 {
			return nil, fmt.Errorf("weights: tensor %s: %v of %s has no size", quote(p.Name), p.Shape, p.DType)
		}
		most = max(most, p.Size())
	}
	if int64(int(most)) != most {
		return nil, fmt.Errorf("weights: a tensor of %d bytes is too large for this machine", most)
	}
	untouched := make([]byte, most)
	byName := make(map[string]Planned, len(tensors))
	list := make([]Tensor, len(tensors))
	for i, p := range tensors {
		byName[p.Name] = p
		list[i] = Tensor{Name: p.Name, DType: p.DType, Shape: p.Shape, Data: untouched[:p.Size()]}
	}
	list, header, err := plan(list, metadata)
	if err != nil {
		return nil, err
	}
	s := &stream{header: header}
	for _, t := range list {
		s.list = append(s.list, byName[t.Name])
	}
	return s, nil
}

// lookAhead bounds how many tensors are made at once.
const lookAhead = 4

// write makes tensors ahead of the one being written, as many as there are processors: converting takes longer than
// writing does.
func (s *stream) write(w io.Writer) error {
	if _, err := w.Write(s.header); err != nil {
		return err
	}
	type made struct {
		b   []byte
		err error
	}
	n := min(runtime.GOMAXPROCS(0), lookAhead)
	var wait sync.WaitGroup
	defer wait.Wait() // nothing reads the source after the return
	var ahead []chan made
	next := 0
	for _, p := range s.list {
		for ; next < len(s.list) && len(ahead) < n; next++ {
			c, produce := make(chan made, 1), s.list[next].Produce
			ahead = append(ahead, c)
			wait.Go(func() {
				b, err := produce()
				c <- made{b, err}
			})
		}
		m := <-ahead[0]
		ahead = ahead[1:]
		if m.err != nil {
			return m.err
		}
		if int64(len(m.b)) != p.Size() {
			return fmt.Errorf("weights: tensor %s: %d bytes were produced, expected %d", quote(p.Name), len(m.b), p.Size())
		}
		if _, err := w.Write(m.b); err != nil {
			return err
		}
	}
	return nil
}

// Bytes returns a copy of the data. Unlike reading Data, it turns the fault of a file that was truncated while mapped
// into an error.
func (t Tensor) Bytes() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	out := make([]byte, len(t.Data))
	err := t.src.guard(func() error {
		copy(out, t.Data)
		return nil
	})
	return out, err
}

// CheckFinite returns an error for a floating-point tensor that holds a NaN or an infinity.
func (t Tensor) CheckFinite() error {
	if !t.DType.Float() {
		return nil
	}
	if err := t.check(); err != nil {
		return err
	}
	// A window at a time: the tensor may be larger than what one wants to hold twice.
	const window = 1 << 16
	values := make([]float32, min(window, t.Len()))
	size := t.DType.Size()
	return t.src.guard(func() error {
		for at := 0; at < t.Len(); at += window {
			v := values[:min(window, t.Len()-at)]
			decode(v, t.Data[at*size:(at+len(v))*size], t.DType)
			if i := notFinite(v); i >= 0 {
				return notFiniteError(t, at+i, v[i])
			}
		}
		return nil
	})
}

// Plan is the tensor for WriteStream, converted to d when its turn comes; "" keeps the type, and so do tensors that are
// not of floating-point numbers. Values that are not finite, or too large for d, are errors then.
func (t Tensor) Plan(d DType) Planned {
	if d == "" || !t.DType.Float() {
		d = t.DType
	}
	return Planned{Name: t.Name, DType: d, Shape: t.Shape, Produce: func() ([]byte, error) {
		if d != t.DType {
			c, err := t.convert(d, true)
			return c.Data, err
		}
		if err := t.CheckFinite(); err != nil {
			return nil, err
		}
		return t.Bytes()
	}}
}

// As is the tensor under another name and shape of as many elements, its data shared.
func (t Tensor) As(name string, shape []int) Tensor {
	t.Name, t.Shape = name, shape
	return t
}
