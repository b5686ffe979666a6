package weights

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/spin-native/spin/internal/atomicfile"
)

// Write writes a file whole or not at all, zstd-compressed if the path ends in .zst. An existing file is replaced. The
// same tensors and metadata give the same bytes, in whatever order they come.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	encode := Encode
	if strings.HasSuffix(path, ".zst") {
		encode = EncodeZstd
	}
	return atomicfile.WriteFile(path, func(w io.Writer) error { return encode(w, tensors, metadata) })
}

// Encode writes safetensors to w. The tensors are checked before the first byte is written. They are laid out as the
// reference does it, larger element types first and then by name, so that every one is aligned.
func Encode(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	list, header, err := plan(tensors, metadata)
	if err != nil {
		return err
	}
	return encode(w, list, header)
}

// EncodeZstd is Encode through zstd, the decoded size declared.
func EncodeZstd(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	list, header, err := plan(tensors, metadata)
	if err != nil {
		return err
	}
	size := int64(len(header))
	for _, t := range list {
		size += int64(len(t.Data))
	}
	z, err := newZstd(w, size)
	if err != nil {
		return err
	}
	return errors.Join(encode(z, list, header), z.Close())
}

// newZstd compresses size bytes into w, the size declared.
func newZstd(w io.Writer, size int64) (*zstd.Encoder, error) {
	// Concurrency 1: more would let the bytes depend on the machine. Weights compress little, and higher levels gain
	// less than a percent on them. A frame of less than 256 bytes can state its size only as a single segment.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithSingleSegment(size < 256))
	if err != nil {
		return nil, err
	}
	z.ResetContentSize(w, size)
	return z, nil
}

func encode(w io.Writer, list []Tensor, header []byte) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range list {
		err := t.src.guard(func() error {
			_, err := w.Write(t.Data)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// plan checks the input, orders the tensors and builds the header with its length field.
func plan(tensors []Tensor, metadata map[string]string) ([]Tensor, []byte, error) {
	if len(tensors) > maxTensors || len(metadata) > maxMetadata {
		return nil, nil, fmt.Errorf("weights: %d tensors and %d metadata entries, at most %d and %d can be read back",
			len(tensors), len(metadata), maxTensors, maxMetadata)
	}
	text := 0 // in the header, which is only built if it can be read back
	for k, v := range metadata {
		text += len(k) + len(v)
	}
	for _, t := range tensors {
		text += len(t.Name)
	}
	if text > maxHeader {
		return nil, nil, headerTooLong(text)
	}
	names := map[string]bool{}
	for _, t := range tensors {
		switch {
		case !utf8.ValidString(t.Name) || t.Name == metadataKey:
			return nil, nil, fmt.Errorf("weights: %s cannot be the name of a tensor", quote(t.Name))
		case names[t.Name]:
			return nil, nil, fmt.Errorf("weights: two tensors have the name %s", quote(t.Name))
		case len(t.Shape) > maxDims:
			return nil, nil, fmt.Errorf("weights: tensor %s has more than %d dimensions", quote(t.Name), maxDims)
		}
		names[t.Name] = true
		if err := t.check(); err != nil {
			return nil, nil, err
		}
	}
	list := slices.SortedFunc(slices.Values(tensors), func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(b.DType.Size(), a.DType.Size()), cmp.Compare(a.Name, b.Name))
	})

	h := append(make([]byte, 8, 256), '{')
	comma := func() {
		if h[len(h)-1] != '{' {
			h = append(h, ',')
		}
	}
	quoted := func(s string) { // marshalling a string cannot fail
		b, _ := json.Marshal(s)
		h = append(h, b...)
	}
	if len(metadata) > 0 {
		quoted(metadataKey)
		h = append(h, ':', '{')
		for _, k := range slices.Sorted(maps.Keys(metadata)) {
			if !utf8.ValidString(k) || !utf8.ValidString(metadata[k]) {
				return nil, nil, fmt.Errorf("weights: metadata %s is not valid UTF-8", quote(k))
			}
			comma()
			quoted(k)
			h = append(h, ':')
			quoted(metadata[k])
		}
		h = append(h, '}')
	}
	at := 0
	for _, t := range list {
		comma()
		quoted(t.Name)
		shape, _ := json.Marshal(append([]int{}, t.Shape...))
		h = fmt.Appendf(h, `:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, t.DType, shape, at, at+len(t.Data))
		at += len(t.Data)
	}
	h = append(h, '}')
	for len(h)%8 != 0 {
		h = append(h, ' ')
	}
	if len(h)-8 > maxHeader {
		return nil, nil, headerTooLong(len(h) - 8)
	}
	binary.LittleEndian.PutUint64(h, uint64(len(h)-8))
	return list, h, nil
}

func headerTooLong(n int) error {
	return fmt.Errorf("weights: the header has %d bytes, at most %d are allowed", n, maxHeader)
}
