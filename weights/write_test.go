package weights

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestRoundTrip(t *testing.T) {
	meta := map[string]string{"format": "pt", "note": "é <&> \"quoted\" \u2028"}
	list := small()
	for _, name := range []string{"m.safetensors", "m.safetensors.zst"} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, Write(path, list, meta))
		f := open(t, path)
		require.Equal(t, meta, f.Metadata())
		require.Equal(t, []string{"a.bias", "a.weight", "b.weight"}, f.Names())
		for _, want := range list {
			got, ok := f.Tensor(want.Name)
			require.True(t, ok)
			got.src = nil
			require.Equal(t, want, got)
		}
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, st.Size(), f.Size())

		// Another order gives the same bytes.
		other := filepath.Join(t.TempDir(), name)
		reversed := slices.Clone(list)
		slices.Reverse(reversed)
		require.NoError(t, Write(other, reversed, maps.Clone(meta)))
		a, err := os.ReadFile(path)
		require.NoError(t, err)
		b, err := os.ReadFile(other)
		require.NoError(t, err)
		require.Equal(t, a, b)
	}
}

func TestLayout(t *testing.T) {
	b := encoded(t, small(), map[string]string{"k": "v"})
	want := `{"__metadata__":{"k":"v"},` +
		`"a.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},` +
		`"b.weight":{"dtype":"F16","shape":[3],"data_offsets":[8,14]},` +
		`"a.bias":{"dtype":"U8","shape":[5],"data_offsets":[14,19]}}`
	require.Equal(t, want, strings.TrimRight(string(b[8:len(b)-19]), " "))
	require.Zero(t, (len(b)-19)%8)

	f := open(t, temp(t, "m.safetensors", b))
	for _, name := range f.Names() {
		tt, _ := f.Tensor(name)
		require.Zero(t, uintptr(unsafe.Pointer(&tt.Data[0]))%uintptr(tt.DType.Size()), name)
	}
}

// TestAgainstReference re-writes a file of the reference implementation byte by byte.
func TestAgainstReference(t *testing.T) {
	path := "testdata/formats/valid_odd.expected.safetensors"
	f := open(t, path)
	var list []Tensor
	for _, name := range f.Names() {
		tt, _ := f.Tensor(name)
		list = append(list, tt)
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, encoded(t, list, f.Metadata()))
}

func TestWriteRefusals(t *testing.T) {
	one := Tensor{Name: "a", DType: U8, Shape: []int{1}, Data: []byte{1}}
	with := func(change func(*Tensor)) []Tensor {
		t := one
		change(&t)
		return []Tensor{t}
	}
	for name, c := range map[string]struct {
		list []Tensor
		meta map[string]string
		want string
	}{
		"duplicate":     {[]Tensor{one, one}, nil, `two tensors have the name "a"`},
		"reserved name": {with(func(t *Tensor) { t.Name = "__metadata__" }), nil, "cannot be the name"},
		"name not text": {with(func(t *Tensor) { t.Name = "\xff" }), nil, "cannot be the name"},
		"dtype":         {with(func(t *Tensor) { t.DType = "F7" }), nil, "unknown dtype"},
		"span":          {with(func(t *Tensor) { t.Shape = []int{2} }), nil, "do not fit shape [2]"},
		"negative":      {with(func(t *Tensor) { t.Shape = []int{-1, -1} }), nil, "do not fit"},
		"dimensions":    {with(func(t *Tensor) { t.Shape = slices.Repeat([]int{1}, 33) }), nil, "dimensions"},
		"metadata":      {nil, map[string]string{"k": "\xff"}, "not valid UTF-8"},
		"too many":      {make([]Tensor, maxTensors+1), nil, "at most 100000"},
		"header":        {nil, map[string]string{"k": strings.Repeat("a", maxHeader)}, "at most 100000000 are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.ErrorContains(t, Encode(&b, c.list, c.meta), c.want)
			require.ErrorContains(t, EncodeZstd(&b, c.list, c.meta), c.want)
			require.Zero(t, b.Len(), "nothing may be written before the check")
			dir := t.TempDir()
			require.Error(t, Write(filepath.Join(dir, "m.safetensors"), c.list, c.meta))
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

var errDisk = errors.New("disk full")

func TestWriterErrorsPass(t *testing.T) {
	for _, n := range []int{0, len(encoded(t, small(), nil)) - 1} {
		require.ErrorIs(t, Encode(&failing{n}, small(), nil), errDisk)
	}
	require.ErrorIs(t, EncodeZstd(&failing{0}, small(), nil), errDisk)
}
