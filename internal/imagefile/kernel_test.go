package imagefile

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// npy writes an array as numpy.save does.
func npy(version byte, descr, fortran, shape string, data []byte) []byte {
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': %s, 'shape': %s, }\n", descr, fortran, shape)
	b := append([]byte(npyMagic), version, 0)
	if version == 1 {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(head)))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(head)))
	}
	return append(append(b, head...), data...)
}

func f32(order binary.AppendByteOrder, v ...float32) (b []byte) {
	for _, x := range v {
		b = order.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func TestKernelArray(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	var f64 []byte
	for _, x := range []float64{1, 2, 3, 2} {
		f64 = le.AppendUint64(f64, math.Float64bits(x))
	}
	// 2x2 becomes 3x3: zeros at the right and at the bottom.
	want := []float32{1. / 8, 2. / 8, 0, 3. / 8, 2. / 8, 0, 0, 0, 0}
	for name, data := range map[string][]byte{
		"f4":      npy(1, "<f4", "False", "(2, 2)", f32(le, 1, 2, 3, 2)),
		"f4 v2":   npy(2, "<f4", "False", "(2, 2)", f32(le, 1, 2, 3, 2)),
		"f4 big":  npy(1, ">f4", "False", "(2, 2)", f32(be, 1, 2, 3, 2)),
		"f8":      npy(1, "<f8", "False", "(2, 2)", f64),
		"text":    []byte("# a kernel\n1 2\n\n3,\t2.0e0\n"),
		"windows": []byte("\xef\xbb\xbf1 2\r\n3 2\r\n"),
	} {
		h, w, k, err := DecodeKernel(name, data)
		require.NoError(t, err, name)
		require.Equal(t, [2]int{3, 3}, [2]int{h, w}, name)
		require.Equal(t, want, k, name)
	}
}

func TestKernelPicture(t *testing.T) {
	m := New(3, 1)
	m.set(0, -0.5, -0.5, -0.5) // 64
	m.set(1, 1, 1, 1)          // 255
	path := filepath.Join(t.TempDir(), "k.png")
	require.NoError(t, Write(path, m, false))
	h, w, k, err := ReadKernel(path)
	require.NoError(t, err)
	require.Equal(t, [2]int{1, 3}, [2]int{h, w})
	require.InDeltaSlice(t, []float32{64. / 319, 255. / 319, 0}, k, 1e-6)
}

func TestKernelErrors(t *testing.T) {
	le := binary.LittleEndian
	dir := t.TempDir()
	wide, black := filepath.Join(dir, "w.png"), filepath.Join(dir, "b.png")
	require.NoError(t, Write(wide, New(256, 3), false))
	require.NoError(t, Write(black, New(5, 5), false))
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "empty"},
		{"junk", []byte("hello"), "not a blur kernel"},
		{"wide", read(wide), "255x255"},
		{"black", read(black), "sums to 0"},
		{"zero", []byte("1 -1\n"), "cannot be normalised"},
		{"rounding", []byte("0.1 0.2 -0.3\n"), "cannot be normalised"},
		{"negative", []byte("1 -2\n"), "negative sum"},
		{"nan", []byte("1 nan 1\n"), "column 2"},
		{"inf", []byte("1 +Inf\n"), "finite"},
		{"overflow", []byte("1e308 1e308 1e308\n"), "normalised"},
		{"ragged", []byte("1 2\n1 2 3\n"), "line 2"},
		{"word", []byte("1 2\n1 x\n"), "not a number"},
		{"only comment", []byte("# nothing\n"), "no numbers"},
		{"long", []byte(strings.Repeat("1 ", 256)), "255x255"},
		{"tall", []byte(strings.Repeat("1\n", 256)), "255x255"},
		{"fortran", npy(1, "<f4", "True", "(2, 2)", f32(le, 1, 2, 3, 4)), "Fortran"},
		{"int", npy(1, "<i8", "False", "(2, 2)", make([]byte, 32)), "astype"},
		{"3-D", npy(1, "<f4", "False", "(1, 2, 2)", f32(le, 1, 2, 3, 4)), "two dimensions"},
		{"huge", npy(1, "<f4", "False", "(999999999, 999999999)", nil), "255x255"},
		{"short", npy(1, "<f4", "False", "(2, 2)", f32(le, 1, 2, 3)), "ends early"},
		{"header", npy(1, "<f4", "Perhaps", "(2, 2)", nil), "makes no sense"},
		{"version", npy(9, "<f4", "False", "(2, 2)", nil), "version 9"},
	} {
		_, _, _, err := DecodeKernel(c.name, c.data)
		require.ErrorContains(t, err, c.want, c.name)
		oneLineError(t, err, c.name)
	}
	_, _, _, err := ReadKernel(filepath.Join(dir, "none.npy"))
	require.ErrorContains(t, err, "no such file")
	_, _, _, err = ReadKernel(dir)
	require.ErrorContains(t, err, "is a folder")
}

func FuzzKernel(f *testing.F) {
	f.Add(npy(1, "<f4", "False", "(2, 2)", f32(binary.LittleEndian, 1, 2, 3, 4)))
	f.Add(npy(2, "<f8", "False", "(1, 2)", make([]byte, 16)))
	f.Add([]byte("1 2\n3 4\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, w, k, err := DecodeKernel("fuzz", data)
		if err != nil {
			return
		}
		sum := 0.0
		for _, v := range k {
			sum += float64(v)
		}
		if h%2 == 0 || w%2 == 0 || len(k) != h*w || math.IsNaN(sum) {
			t.Fatalf("%dx%d, %d values, sum %v", h, w, len(k), sum)
		}
	})
}
