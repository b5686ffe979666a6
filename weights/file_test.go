package weights

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

func open(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// temp writes a file and returns its path.
func temp(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, b, 0o644))
	return path
}

func TestAllDTypes(t *testing.T) {
	f := open(t, "testdata/formats/all_dtypes.safetensors")
	b, err := os.ReadFile("testdata/formats/all_dtypes.expected.json")
	require.NoError(t, err)
	var want struct {
		Metadata map[string]string
		Tensors  map[string]struct {
			DType string
			Shape []int
			Raw   string  `json:"raw_little_endian_hex"`
			F32   *string `json:"as_float32_hex"`
		}
	}
	require.NoError(t, json.Unmarshal(b, &want))
	require.Equal(t, want.Metadata, f.Metadata())
	require.Len(t, f.Names(), len(want.Tensors))
	names := map[string]DType{"float32": F32, "float16": F16, "bfloat16": BF16, "float64": F64, "int64": I64,
		"int32": I32, "int16": I16, "int8": I8, "uint8": U8, "bool": BOOL}
	for name, w := range want.Tensors {
		got, ok := f.Tensor(name)
		require.True(t, ok, name)
		require.Equal(t, names[w.DType], got.DType, name)
		require.Equal(t, append([]int{}, w.Shape...), append([]int{}, got.Shape...), name)
		require.Equal(t, w.Raw, hex.EncodeToString(got.Data), name)
		if w.F32 == nil {
			_, err := got.Floats()
			require.ErrorContains(t, err, "expected F32")
			continue
		}
		values, err := got.Floats()
		require.NoError(t, err)
		require.Equal(t, *w.F32, hexOf(values), name)
	}
	ints := func(name string) []int64 {
		tt, _ := f.Tensor(name)
		v, err := tt.Ints()
		require.NoError(t, err)
		return v
	}
	require.Equal(t, []int64{0, -1, 1 << 62, math.MinInt64, 1<<53 + 1, 7, 8, 9}, ints("i64"))
	require.Equal(t, []int64{math.MinInt32, math.MaxInt32, 5}, ints("i32"))
	require.Equal(t, []int64{math.MinInt16, math.MaxInt16}, ints("i16"))
	require.Equal(t, []int64{-128, 127, 0}, ints("i8"))
	require.Equal(t, []int64{0, 1, 127, 128, 255}, ints("u8"))
	require.Equal(t, []int64{1, 0, 1}, ints("bool"))
	require.Equal(t, []int64{-42}, ints("scalar_i64"))
}

func hexOf(values []float32) string {
	var b []byte
	for _, v := range values {
		u := math.Float32bits(v)
		b = append(b, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
	}
	return hex.EncodeToString(b)
}

func TestOddFormats(t *testing.T) {
	want := open(t, "testdata/formats/valid_odd.expected.safetensors")
	for file, names := range map[string][]string{
		"unsorted_header":   {"zeta=zeta", "alpha=alpha"},
		"misaligned_float":  {"u=u", "alpha=alpha"},
		"header_padded_4k":  {"alpha=alpha"},
		"no_tensors":        {},
		"only_metadata":     {},
		"zero_size_between": {"a=alpha", "b=zeta", "z="},
	} {
		t.Run(file, func(t *testing.T) {
			f := open(t, "testdata/formats/"+file+".safetensors")
			require.Len(t, f.Names(), len(names))
			for _, pair := range names {
				name, as, _ := strings.Cut(pair, "=")
				got, ok := f.Tensor(name)
				require.True(t, ok, name)
				if as == "" {
					require.Empty(t, got.Data)
					continue
				}
				w, ok := want.Tensor(as)
				require.True(t, ok, as)
				require.Equal(t, w.DType, got.DType)
				require.Equal(t, w.Shape, got.Shape)
				require.Equal(t, w.Data, got.Data)
				if w.DType == F32 {
					a, err := w.Floats()
					require.NoError(t, err)
					b, err := got.Floats() // misaligned_float: at an odd address
					require.NoError(t, err)
					require.Equal(t, a, b)
				}
			}
		})
	}
}

func TestNotSafetensors(t *testing.T) {
	for name, c := range map[string]struct{ b, want string }{
		"zip":    {"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00", "safetensors.torch.save_file"},
		"pickle": {"\x80\x02}q\x00(X\x05\x00\x00\x00", "old PyTorch checkpoint"},
		"png":    {"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d", "PNG picture"},
		"jpeg":   {"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "JPEG picture"},
		"gguf":   {"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", "GGUF"},
		"text":   {"these are my weights, é", "text, not weights"},
		"html":   {"<!DOCTYPE html><html>", "web page"},
		"lfs":    {"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"},
		"json":   {`{"in_channels": 3, "out_channels": 3}`, "JSON text"},
		"gzip":   {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "gzip"},
	} {
		_, err := Open(temp(t, "model.safetensors", []byte(c.b)))
		requireFormat(t, err)
		require.ErrorContains(t, err, c.want, name)
	}
	// A damaged file is not mistaken for one of these.
	for _, b := range [][]byte{withLength('{', "{}"), withLength('<', "{}")} {
		_, err := OpenBytes("x", b)
		requireFormat(t, err)
		require.NotContains(t, err.Error(), "looks like")
	}

	_, err := Open(filepath.Join(t.TempDir(), "absent.safetensors"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Open(os.DevNull)
	require.ErrorContains(t, err, "not a regular file")
}

func small() []Tensor {
	return []Tensor{
		{Name: "b.weight", DType: F16, Shape: []int{3}, Data: []byte{0, 0x3c, 0, 0x40, 0, 0xc2}},
		{Name: "a.bias", DType: U8, Shape: []int{5}, Data: []byte{1, 2, 3, 4, 5}},
		{Name: "a.weight", DType: F32, Shape: []int{1, 2}, Data: []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}},
	}
}

func encoded(t *testing.T, tensors []Tensor, meta map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Encode(&b, tensors, meta))
	return b.Bytes()
}

func TestFolders(t *testing.T) {
	shard := func(name string) []byte {
		return encoded(t, []Tensor{{Name: name, DType: U8, Shape: []int{1}, Data: []byte(name)}}, map[string]string{"shard": name})
	}
	folder := func(files map[string][]byte) string {
		dir := t.TempDir()
		for name, b := range files {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
		}
		return dir
	}
	index := func(text string) map[string][]byte {
		return map[string][]byte{"m.safetensors.index.json": []byte(text), "1.safetensors": shard("x"), "2.safetensors": shard("a")}
	}
	good := `{"metadata":{"total_size":2},"weight_map":{"x":"1.safetensors","a":"2.safetensors"}}`

	f := open(t, folder(index(good)))
	require.Equal(t, []string{"a", "x"}, f.Names())
	require.Equal(t, map[string]string{"shard": "x"}, f.Metadata())
	require.EqualValues(t, len(shard("x"))+len(shard("a")), f.Size())
	require.Equal(t, "m.safetensors.index.json", filepath.Base(f.Path()))
	for _, name := range f.Names() {
		tt, ok := f.Tensor(name)
		require.True(t, ok)
		require.Equal(t, name, string(tt.Data))
	}
	require.Equal(t, []string{"q"}, open(t, folder(map[string][]byte{"q.safetensors": shard("q"), "config.json": []byte("{}")})).Names())

	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"empty folder":    {nil, "no *.safetensors file"},
		"checkpoint only": {map[string][]byte{"model.ckpt": {1}}, "save_file"},
		"two files":       {map[string][]byte{"1.safetensors": shard("x"), "2.safetensors": shard("a")}, "several models"},
		"broken shard": {map[string][]byte{"m.safetensors.index.json": []byte(good), "1.safetensors": shard("x"),
			"2.safetensors": []byte("<html></html>")}, "web page"},

		"no weight_map":     {index(`{}`), "no weight_map"},
		"empty weight_map":  {index(`{"weight_map":{}}`), "weight_map is empty"},
		"weight_map twice":  {index(`{"weight_map":{},"weight_map":{}}`), "weight_map occurs twice"},
		"metadata twice":    {index(`{"metadata":1,"metadata":1}`), "occurs twice"},
		"more after it":     {index(good + "x"), "expected nothing but spaces"},
		"tensor twice":      {index(`{"weight_map":{"x":"1.safetensors","x":"2.safetensors"}}`), `tensor "x": name occurs twice`},
		"shard a number":    {index(`{"weight_map":{"x":1}}`), "expected the name of a shard"},
		"shard missing":     {index(`{"weight_map":{"x":"3.safetensors"}}`), "is missing"},
		"tensor missing":    {index(`{"weight_map":{"x":"1.safetensors","y":"1.safetensors"}}`), `tensor "y": not in its shard`},
		"tensor before":     {index(`{"weight_map":{"w":"1.safetensors"}}`), `tensor "w": not in its shard`},
		"tensor elsewhere":  {index(`{"weight_map":{"x":"1.safetensors","a":"1.safetensors"}}`), `tensor "a": not in its shard`},
		"tensor not listed": {index(`{"weight_map":{"y":"1.safetensors"}}`), `tensor "x": in shard "1.safetensors", but not in the index`},
		"parent":            {index(`{"weight_map":{"x":"../1.safetensors"}}`), "plain name"},
		"sub-folder":        {index(`{"weight_map":{"x":"a/1.safetensors"}}`), "plain name"},
		"absolute":          {index(`{"weight_map":{"x":"/1.safetensors"}}`), "plain name"},
		"windows":           {index(`{"weight_map":{"x":"C:\\1.safetensors"}}`), "plain name"},
		"stream":            {index(`{"weight_map":{"x":"1:2.safetensors"}}`), "plain name"},
		"NUL":               {index(`{"weight_map":{"x":"1\u0000.safetensors"}}`), "plain name"},
		"other kind":        {index(`{"weight_map":{"x":"m.bin"}}`), "plain name"},
		"not JSON":          {index(`weight_map`), "expected '{'"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(folder(c.files))
			requireFormat(t, err)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestZstd(t *testing.T) {
	plain := encoded(t, small(), nil)
	zip := func(b []byte, opts ...zstd.EOption) []byte {
		z, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true)}, opts...)...)
		require.NoError(t, err)
		return z.EncodeAll(b, nil)
	}
	f := open(t, temp(t, "m.zst", zip(plain)))
	require.Equal(t, []string{"a.bias", "a.weight", "b.weight"}, f.Names())
	_, err := OpenBytes("m", zip(plain))
	require.NoError(t, err)

	var stream bytes.Buffer
	z, err := zstd.NewWriter(&stream)
	require.NoError(t, err)
	_, err = z.Write(bytes.Repeat(plain, 100))
	require.NoError(t, err)
	require.NoError(t, z.Flush())
	require.NoError(t, z.Close())

	zeros := encoded(t, []Tensor{{Name: "z", DType: U8, Shape: []int{40 << 20}, Data: make([]byte, 40<<20)}}, nil)
	good := zip(plain)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1 // the checksum
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"magic alone":         {[]byte(zstdMagic), "zstd"},
		"cut in the header":   {good[:20], "unexpected EOF"},
		"cut at the end":      {good[:len(good)-1], "unexpected EOF"},
		"checksum":            {flipped, "CRC"},
		"two frames":          {append(bytes.Clone(good), good...), "holds more than"},
		"garbage behind":      {append(bytes.Clone(good), "garbage"...), "magic"},
		"size not declared":   {stream.Bytes(), "does not declare its decoded size"},
		"not safetensors":     {zip([]byte("PK\x03\x04 and some more bytes")), "zip archive"},
		"empty inside":        {zip(nil), "the file is empty"},
		"malformed inside":    {zip(raw(`{}`, 1)), "belong to none"},
		"too large":           {[]byte(zstdMagic + "\xc0\x58" + "\x01\x00\x00\x00\x10\x00\x00\x00" + "\x01\x00\x00"), "at most 68719476736"},
		"bomb":                {zip(zeros), "no weights compress like that"},
		"header only, a bomb": {zip(raw(strings.Repeat(" ", 4<<20), 0)), "does not begin with"},
		// Descriptor: size in four bytes, no single segment; window 2^(10+16).
		"window too large": {[]byte(zstdMagic + "\x80\x80\x00\x00\x80\x00\x02\x00\x00\x00"), "window size exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, open := range []func() (*File, error){
				func() (*File, error) { return Open(temp(t, "m.zst", c.b)) },
				func() (*File, error) { return OpenBytes("m.zst", c.b) },
			} {
				var err error
				n := allocated(func() { _, err = open() })
				requireFormat(t, err)
				require.ErrorContains(t, err, c.want)
				require.Less(t, n, int64(len(c.b)+allowance))
			}
		})
	}
	// Every cut and every flipped bit is an error or leaves the contents as they are.
	for i := range good {
		_, err := OpenBytes("m", good[:i])
		requireFormat(t, err)
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if f, err := OpenBytes("m", bad); err == nil {
			w, _ := f.Tensor("a.bias")
			require.Equal(t, []byte{1, 2, 3, 4, 5}, w.Data)
		}
	}
}

// TestTruncatedWhileOpen would end the program without the guard.
func TestTruncatedWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a file in use cannot be truncated there")
	}
	big := []Tensor{
		{Name: "a", DType: F32, Shape: []int{1 << 16}, Data: make([]byte, 4<<16)},
		{Name: "b", DType: F16, Shape: []int{1 << 16}, Data: make([]byte, 2<<16)},
		{Name: "c", DType: I16, Shape: []int{1 << 16}, Data: make([]byte, 2<<16)},
	}
	for name, cut := range map[string]int64{"all": 0, "half": 200 << 10, "inside the last page": 8<<16 + 100} {
		path := temp(t, "m.safetensors", encoded(t, big, nil))
		f := open(t, path)
		require.NoError(t, os.Truncate(path, cut))
		a, _ := f.Tensor("a")
		b, _ := f.Tensor("b")
		c, _ := f.Tensor("c")
		_, err := a.Floats()
		require.ErrorIs(t, err, ErrChanged, name)
		_, err = b.Floats()
		require.ErrorIs(t, err, ErrChanged, name)
		_, err = c.Ints()
		require.ErrorIs(t, err, ErrChanged, name)
		_, err = b.To(F32)
		require.ErrorIs(t, err, ErrChanged, name)
		require.ErrorIs(t, EncodeZstd(&bytes.Buffer{}, []Tensor{a, b, c}, nil), ErrChanged, name)
		require.ErrorIs(t, caught(func() { f.Scope().Floats("a", 1<<16) }), ErrChanged, name)
	}
}

func TestRewrittenWhileOpen(t *testing.T) {
	for name, change := range map[string]func(path string, was os.FileInfo) error{
		"same size, another time": func(path string, was os.FileInfo) error {
			return os.Chtimes(path, was.ModTime().Add(time.Second), was.ModTime().Add(time.Second))
		},
		"same time, another size": func(path string, was os.FileInfo) error {
			return errors.Join(os.Truncate(path, was.Size()+1), os.Chtimes(path, was.ModTime(), was.ModTime()))
		},
	} {
		path := temp(t, "m.safetensors", encoded(t, small(), nil))
		f := open(t, path)
		a, _ := f.Tensor("a.weight")
		_, err := a.Floats()
		require.NoError(t, err)
		was, err := os.Stat(path)
		require.NoError(t, err)
		require.NoError(t, change(path, was))
		_, err = a.Floats()
		require.ErrorIs(t, err, ErrChanged, name)
	}
}

func TestIndexLimits(t *testing.T) {
	path := temp(t, "m.safetensors.index.json", nil)
	require.NoError(t, os.Truncate(path, maxIndex+1))
	_, err := Open(path)
	requireFormat(t, err)
	require.ErrorContains(t, err, "at most 67108864 are allowed")

	list := func(n, shards int) []byte {
		b := []byte(`{"weight_map":{`)
		for i := range n {
			b = fmt.Appendf(b, `"%d":"%d.safetensors",`, i, i%shards)
		}
		return append(b[:len(b)-1], "}}"...)
	}
	members, err := parseIndex(list(2*maxShards, maxShards))
	require.NoError(t, err)
	require.Len(t, members, 2*maxShards)
	_, err = parseIndex(list(maxShards+1, maxShards+1))
	require.ErrorContains(t, err, "more than 1000 shards")
	if !raceDetector {
		_, err = parseIndex(list(maxTensors+1, 1))
		require.ErrorContains(t, err, "more than 100000 tensors")
	}
}

func TestGuardLetsOtherPanicsPass(t *testing.T) {
	f := open(t, "testdata/formats/all_dtypes.safetensors")
	require.PanicsWithValue(t, "mine", func() { f.sources[0].guard(func() error { panic("mine") }) })
	require.Panics(t, func() { f.sources[0].guard(func() error { return errors.New([]string{}[len(f.path)-len(f.path)]) }) })
}

func TestClosed(t *testing.T) {
	f, err := Open("testdata/formats/all_dtypes.safetensors")
	require.NoError(t, err)
	tt, _ := f.Tensor("f32")
	values, err := tt.Floats()
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	_, err = tt.Floats()
	require.ErrorIs(t, err, fs.ErrClosed)
	require.NotZero(t, values[0], "a copy outlives the file")
	require.Empty(t, f.Names())
}

func caught(f func()) (err error) {
	defer tensor.Catch(&err)
	f()
	return nil
}

func TestScope(t *testing.T) {
	nan := float32(math.NaN())
	list := []Tensor{
		floats("input_blocks.3.0.in_layers.2.weight", []int{2, 1, 1, 1}, 1, -2),
		floats("input_blocks.3.0.in_layers.2.bias", []int{2}, 3, nan),
		floats("inf", []int{1}, float32(math.Inf(-1))),
		{Name: "ids", DType: I32, Shape: []int{1}, Data: make([]byte, 4)},
	}
	f, err := OpenBytes("m.safetensors", encoded(t, list, nil))
	require.NoError(t, err)
	s := f.Scope().At("input_blocks", 3, 0).At("in_layers", 2)
	require.Equal(t, "input_blocks.3.0.in_layers.2.weight", s.Path("weight"))
	require.True(t, s.Has("weight"))
	require.False(t, s.Has("scale"))
	shape, ok := s.Shape("weight")
	require.True(t, ok)
	require.Equal(t, []int{2, 1, 1, 1}, shape)
	_, ok = s.Shape("scale")
	require.False(t, ok)

	require.Len(t, f.Unread(), 4)
	require.Equal(t, []float32{1, -2}, s.Floats("weight", 2, 1, 1, 1))
	require.Equal(t, []string{"ids", "inf", "input_blocks.3.0.in_layers.2.bias"}, f.Unread())
	require.EqualError(t, f.CheckAllRead(), `weights: m.safetensors: 3 of 4 tensors have no place in the network: `+
		`"ids", "inf", "input_blocks.3.0.in_layers.2.bias"`)

	err = caught(func() { s.Floats("scale", 2) })
	require.ErrorIs(t, err, ErrMissing)
	require.EqualError(t, err, `weights.Floats: m.safetensors: "input_blocks.3.0.in_layers.2.scale" is missing, expected with shape [2]: no such tensor`)
	err = caught(func() { s.Floats("weight", 2, 1, 3, 3) })
	require.EqualError(t, err, `weights.Floats: m.safetensors: "input_blocks.3.0.in_layers.2.weight" has shape [2 1 1 1], expected [2 1 3 3]`)
	err = caught(func() { s.Floats("bias", 2) })
	require.ErrorContains(t, err, `m.safetensors: "input_blocks.3.0.in_layers.2.bias" holds NaN at index 1`)
	require.ErrorContains(t, caught(func() { f.Scope().Floats("inf", 1) }), "holds -Inf at index 0")
	require.ErrorContains(t, caught(func() { f.Scope().Floats("ids", 1) }), "dtype I32")

	many := []Tensor{}
	for _, n := range strings.Split("a b c d e f g", " ") {
		many = append(many, Tensor{Name: n, DType: U8, Shape: []int{0}})
	}
	f, err = OpenBytes("m", encoded(t, many, nil))
	require.NoError(t, err)
	require.ErrorContains(t, f.CheckAllRead(), `7 of 7 tensors have no place in the network: "a", "b", "c", "d", "e", ...`)
	f, err = OpenBytes("m", encoded(t, nil, nil))
	require.NoError(t, err)
	require.NoError(t, f.CheckAllRead())
}
