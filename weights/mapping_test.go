package weights

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMapping(t *testing.T) {
	path := temp(t, "data", []byte("\x00\x00\x80\x3f\x00\x00\x00\x40tail"))
	m, err := Map(path)
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, "tail", string(m.Bytes()[8:]))

	w, err := m.Tensor("w", F32, []int{2}, 0, 8)
	require.NoError(t, err)
	v, err := w.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2}, v)
	for _, span := range [][2]int{{-4, 4}, {8, 0}, {8, 16}, {0, 4}, {0, 12}} {
		_, err := m.Tensor("w", F32, []int{2}, span[0], span[1])
		require.Error(t, err)
	}
	_, err = m.Tensor("w", "F99", []int{2}, 0, 8)
	require.Error(t, err)

	if runtime.GOOS != "windows" { // where a file in use cannot be truncated
		require.NoError(t, os.Truncate(path, 0))
		_, err = w.Floats()
		require.ErrorIs(t, err, ErrChanged)
		require.ErrorIs(t, Encode(&bytes.Buffer{}, []Tensor{w}, nil), ErrChanged)
		require.ErrorIs(t, m.Guard(func() error { return nil }), ErrChanged)
	}
	require.NoError(t, m.Close())
	_, err = w.Floats()
	require.ErrorIs(t, err, fs.ErrClosed)
}

func TestMappingOfBytes(t *testing.T) {
	m := MapBytes("memory", []byte{1, 2, 3})
	w, err := m.Tensor("w", U8, []int{2}, 1, 3)
	require.NoError(t, err)
	v, err := w.Ints()
	require.NoError(t, err)
	require.Equal(t, []int64{2, 3}, v)
	require.NoError(t, m.Close())
}

func TestMapErrors(t *testing.T) {
	_, err := Map(filepath.Join(t.TempDir(), "missing"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Map(t.TempDir())
	require.ErrorContains(t, err, "not a regular file")
	_, err = Map(temp(t, "empty", nil))
	require.ErrorIs(t, err, ErrFormat)
}
