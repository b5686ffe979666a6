package torchfile

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var le = binary.LittleEndian

// file is an entry of an archive that a test builds.
type file struct {
	name string
	data []byte
}

// zipped is a plain archive, as Python's zipfile writes it.
func zipped(files ...file) []byte {
	var b, dir []byte
	for _, f := range files {
		at, crc, size := uint32(len(b)), crc32.ChecksumIEEE(f.data), uint32(len(f.data))
		tail := le.AppendUint32(nil, crc)
		tail = le.AppendUint32(le.AppendUint32(tail, size), size)
		tail = le.AppendUint16(le.AppendUint16(tail, uint16(len(f.name))), 0)
		head := []byte{20, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		b = append(append(append(b, localMagic...), head...), tail...)
		b = append(append(b, f.name...), f.data...)
		dir = append(append(append(dir, centralMagic...), 20, 3), head...)
		dir = append(append(dir, tail...), make([]byte, 10)...)
		dir = append(le.AppendUint32(dir, at), f.name...)
	}
	n, at := uint16(len(files)), uint32(len(b))
	b = append(append(b, dir...), endMagic+"\x00\x00\x00\x00"...)
	b = le.AppendUint16(le.AppendUint16(b, n), n)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(dir))), at)
	return le.AppendUint16(b, 0)
}

// checkpoint is an archive of a tree and storages of 16 bytes named 0 to 3.
func checkpoint(pickle []byte) []byte {
	files := []file{{"a/data.pkl", pickle}, {"a/byteorder", []byte("little")}}
	for _, key := range []string{"0", "1", "2", "3"} {
		files = append(files, file{"a/data/" + key, []byte("0123456789abcdef")})
	}
	return zipped(files...)
}

// The parts of pickles.
const (
	proto2  = "\x80\x02"
	ordered = "ccollections\nOrderedDict\n)R"
	rebuild = "ctorch._utils\n_rebuild_tensor_v2\n"
)

func text(s string) string { return "X" + string(le.AppendUint32(nil, uint32(len(s)))) + s }
func num(v int64) string   { return "\x8a\x08" + string(le.AppendUint64(nil, uint64(v))) }

func tuple(parts ...string) string { return "(" + strings.Join(parts, "") + "t" }

func nums(v ...int64) string {
	var parts []string
	for _, n := range v {
		parts = append(parts, num(n))
	}
	return tuple(parts...)
}

func storageID(class, key string, count int64) string {
	return tuple(text("storage"), "ctorch\n"+class+"\n", text(key), text("cpu"), num(count)) + "Q"
}

func view(storage string, offset int64, shape, strides string) string {
	return rebuild + tuple(storage, num(offset), shape, strides, "\x89", ordered) + "R"
}

// float4 is a tensor of storage 0, as it should be.
func float4() string { return view(storageID("FloatStorage", "0", 4), 0, nums(4), nums(1)) }

// table is a whole pickle: a dictionary of keys and values.
func pickled(parts ...string) []byte {
	return []byte(proto2 + "}(" + strings.Join(parts, "") + "u.")
}

// accepted proves that the building blocks of the malformed files are right.
func accepted(t testing.TB, b []byte) *File {
	t.Helper()
	f, err := OpenBytes("good", b)
	require.NoError(t, err)
	return f
}

// dataPickle finds the tree in an archive.
func dataPickle(t testing.TB, b []byte) (begin, end int) {
	a := readZip(b, newBudget(len(b)))
	e := a.entries[a.root+"data.pkl"]
	require.NotNil(t, e)
	return e.begin, e.end
}

// repacked replaces the tree of an archive, everything else right.
func repacked(t testing.TB, b, pickle []byte) []byte {
	a := readZip(b, newBudget(len(b)))
	var files []file
	for name, e := range a.entries {
		data := b[e.begin:e.end]
		if name == a.root+"data.pkl" {
			data = pickle
		}
		files = append(files, file{name, data})
	}
	return zipped(files...)
}

// opcodes lists where the opcodes of a pickle are, STOP included, and where it ends.
func opcodes(t testing.TB, b []byte, at int) (list []int, end int) {
	fixed := map[byte]int{opProto: 1, opFrame: 8, opBinInt: 4, opBinInt1: 1, opBinInt2: 2, opBinFloat: 8, opBinGet: 1,
		opLongBinGet: 4, opBinPut: 1, opLongBinPut: 4}
	for {
		op := b[at]
		list = append(list, at)
		at++
		switch op {
		case opStop:
			return list, at
		case opGlobal:
			for range 2 {
				for b[at] != '\n' {
					at++
				}
				at++
			}
		case opLong1, opShortUnicode, opShortBinString, opShortBinBytes:
			at += 1 + int(b[at])
		case opBinUnicode, opBinString, opBinBytes, opLong4:
			at += 4 + int(le.Uint32(b[at:]))
		case opBinUnicode8, opBinBytes8, opByteArray8:
			at += 8 + int(le.Uint64(b[at:]))
		default:
			at += fixed[op]
		}
		require.Less(t, at, len(b))
	}
}

// isAllowed says what opcodes.go says, found out by trying.
func isAllowed(op byte) bool {
	_, err := OpenBytes("op", append([]byte(proto2+"}}}}"), op))
	return !errorIs(err, ErrForbidden)
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	return b
}
