package torchfile

import (
	"archive/zip"
	"bytes"
	"hash/crc32"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What today's PyTorch does not write any more, or only into files of more than 4 GB.

// streamed is a checkpoint in the stream format; each storage is its key and a count of float32 elements.
func streamed(tree string, keys ...string) []byte {
	b := []byte("\x80\x02\x8a\x0a" + streamMagic + ".\x80\x02M\xe9\x03.\x80\x02}" + text("little_endian") + "\x88s.")
	b = append(b, proto2+tree+"."+proto2+"]("...)
	for _, k := range keys {
		b = append(b, text(k)...)
	}
	b = append(b, "e."...)
	for i := range keys {
		b = le.AppendUint64(b, 4)
		for j := range 4 {
			b = le.AppendUint32(b, math.Float32bits(float32(10*i+j)))
		}
	}
	return b
}

func TestOldPickles(t *testing.T) {
	str := func(s string) string { return "U" + string(rune(len(s))) + s } // a str of Python 2
	id := func(key, view string) string {
		return tuple(str("storage"), "ctorch.cuda\nFloatStorage\n", str(key), str("cuda:0"), num(4), view) + "Q"
	}
	old := "ctorch._utils\n_rebuild_tensor\n"
	param := "ctorch.nn.parameter\nParameter\n"
	tree := "ccollections\nOrderedDict\n(](" +
		"](" + str("whole") + old + tuple(id("1", "N"), num(0), nums(2, 2), nums(2, 1)) + "Re" +
		"](" + str("part") + old + tuple(id("1", tuple(str("9"), num(1), num(3))), num(1), nums(2), nums(1)) + "Re" +
		"](" + str("turned") + param + tuple(old+tuple(id("2", "N"), num(0), nums(2, 2), nums(1, 2))+"R") + "Re" +
		"](" + str("n") + num(-3) + "eetR"
	b := streamed(tree, "1", "2")
	f := accepted(t, b)
	got := map[string][]float32{}
	for _, tt := range f.Tensors() {
		v, err := tt.Floats()
		require.NoError(t, err)
		got[tt.Name] = v
	}
	require.Equal(t, map[string][]float32{"whole": {0, 1, 2, 3}, "part": {2, 3}, "turned": {10, 12, 11, 13}}, got)
	require.Equal(t, map[string]any{"n": int64(-3)}, f.Values())

	for name, b := range map[string][]byte{
		"key missing":      streamed(tree, "1"),
		"key twice":        streamed(tree, "1", "2", "2"),
		"key unknown":      streamed(tree, "1", "2", "3"),
		"view too long":    streamed(strings.Replace(tree, num(3), num(4), 1), "1", "2"),
		"view overflows":   streamed(strings.Replace(tree, num(3), num(math.MaxInt64), 1), "1", "2"),
		"view of nothing":  streamed("}"+text("w")+old+tuple(id("1", tuple(str("9"), num(1))), num(0), nums(1), nums(1))+"Rs", "1"),
		"view is a number": streamed("}"+text("w")+old+tuple(id("1", num(1)), num(0), nums(1), nums(1))+"Rs", "1"),
		"a module":         streamed("}"+text("w")+tuple(str("module"), "ctyping\nAny\n", str("file"), str("source"))+"Qs", "1"),
		"longer pair":      streamed("ccollections\nOrderedDict\n(](](NNNeetR", "1"),
		"storage in info":  bytes.Replace(b, []byte("}"+text("little_endian")+"\x88s."), []byte(id("1", "N")+"."), 1),
	} {
		refused(t, name, b)
	}
}

// TestOpcodes reads each form of the plain values.
func TestOpcodes(t *testing.T) {
	f := accepted(t, checkpoint([]byte("\x80\x05}("+
		text("w")+float4()+
		"\x8c\x01aK\x07"+
		"\x8d\x01\x00\x00\x00\x00\x00\x00\x00bM\xff\xff"+
		"U\x01cJ\xff\xff\xff\xff"+
		"T\x01\x00\x00\x00d\x8b\x02\x00\x00\x00\x00\x80"+
		"X\x01\x00\x00\x00e\x8a\x00"+
		"U\x01fB\x02\x00\x00\x00\xff\xff"+
		"U\x01g\x8e\x01\x00\x00\x00\x00\x00\x00\x00x"+
		"U\x01h\x96\x01\x00\x00\x00\x00\x00\x00\x00x"+
		"U\x01i\x8f(NN\x90"+
		"U\x01j(N\x91"+
		"U\x01kN0\x89"+
		"U\x01l(NN1\x88"+
		"U\x01m(0G\x40\x00\x00\x00\x00\x00\x00\x00"+
		"u.")))
	require.Equal(t, map[string]any{"a": int64(7), "b": int64(65535), "c": int64(-1), "d": int64(-32768), "e": int64(0), "k": false,
		"l": true, "m": 2.0}, f.Values())
}

// zipped64 is an archive in which every size and offset is of 64 bits, with descriptors or without.
func zipped64(descriptors bool, files ...file) []byte {
	var b, dir []byte
	u64s := func(v ...int) (s []byte) {
		for _, n := range v {
			s = le.AppendUint64(s, uint64(n))
		}
		return s
	}
	const see = "\xff\xff\xff\xff"
	for _, f := range files {
		at, crc, n := len(b), string(le.AppendUint32(nil, crc32.ChecksumIEEE(f.data))), len(f.data)
		flags, local := "\x00\x08", crc+see+see
		if descriptors {
			flags, local = "\x08\x08", strings.Repeat("\x00", 12)
		}
		name := string(le.AppendUint16(nil, uint16(len(f.name))))
		b = append(b, localMagic+"\x2d\x00"+flags+"\x00\x00\x00\x00\x00\x00"+local+name+"\x14\x00"+f.name+"\x01\x00\x10\x00"...)
		b = append(append(b, u64s(n, n)...), f.data...)
		if descriptors {
			b = append(append(b, descriptorMagic+crc...), u64s(n, n)...)
		}
		dir = append(dir, centralMagic+"\x2d\x03\x2d\x00"+flags+"\x00\x00\x00\x00\x00\x00"+crc+see+see+name+"\x21\x00"+"\x00\x00\x00\x00"...)
		dir = append(dir, "\x00\x00\x00\x00\x00\x00"+see+f.name+"AB\x01\x00x\x01\x00\x18\x00"...)
		dir = append(dir, u64s(n, n, at)...)
	}
	at, end := len(b), len(b)+len(dir)
	b = append(append(b, dir...), end64Magic...)
	b = append(append(b, u64s(end64Size-12)...), "\x2d\x00\x2d\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	b = append(b, u64s(len(files), len(files), len(dir), at)...)
	b = append(append(b, locatorMagic+"\x00\x00\x00\x00"...), u64s(end)...)
	return append(b, "\x01\x00\x00\x00"+endMagic+"\x00\x00\x00\x00\xff\xff\xff\xff"+see+see+"\x00\x00"...)
}

func TestZip64(t *testing.T) {
	for _, descriptors := range []bool{false, true} {
		b := zipped64(descriptors, file{"a/data.pkl", pickled(text("w"), float4())}, file{"a/data/0", []byte("0123456789abcdef")})
		f := accepted(t, b)
		require.Equal(t, "0123456789abcdef", string(f.Tensors()[0].Data))
		_, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
		// Every number of 64 bits that is wrong.
		fields := map[string]int{}
		if !descriptors {
			at := localSize + len("a/data.pkl")
			fields["local size"], fields["local packed size"] = at+4, at+12
		} else {
			at := bytes.Index(b, []byte(descriptorMagic))
			fields["descriptor size"], fields["descriptor packed size"] = at+8, at+16
		}
		at := bytes.Index(b, []byte("AB\x01\x00x\x01\x00")) + 9
		fields["size"], fields["packed size"], fields["offset"] = at, at+8, at+16
		for name, at := range fields {
			for _, v := range (zipField{name, at, 8, nil}).wrong(b) {
				c := bytes.Clone(b)
				le.PutUint64(c[at:], v)
				refused(t, name, c)
			}
		}
		for name, at := range map[string]int{"id": at - 4, "length": at - 2, "length before": at - 7} {
			for _, v := range (zipField{name, at, 2, nil}).wrong(b) {
				c := bytes.Clone(b)
				le.PutUint16(c[at:], uint16(v))
				refused(t, name, c)
			}
		}
	}
}

// BenchmarkOpen measures the checking of a large file whose tensors lie in order, and the copying of one that is not.
func BenchmarkOpen(b *testing.B) {
	const side = 4096
	data := file{"a/data/0", make([]byte, 4*side*side)}
	st := storageID("FloatStorage", "0", side*side)
	for name, strides := range map[string]string{"layout=ordered": nums(side, 1), "layout=transposed": nums(1, side)} {
		f := zipped(file{"a/data.pkl", pickled(text("w"), view(st, 0, nums(side, side), strides))}, data)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(f)))
			for b.Loop() {
				accepted(b, f)
			}
		})
	}
}
