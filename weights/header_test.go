package weights

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// raw builds a file from its header text and n bytes of data.
func raw(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	for i := range n {
		b = append(b, byte(i))
	}
	return b
}

// entryText is one well-formed header entry.
func entryText(name, dtype, shape string, begin, end int) string {
	return fmt.Sprintf(`%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
}

func withLength(n uint64, rest string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), rest...)
}

var (
	entryA = entryText(`"a"`, "F32", "[2]", 0, 8)
	entryB = entryText(`"b"`, "U8", "[3]", 8, 11)
)

// TestRefusals has one case per way to be wrong. Each message begins with the place.
func TestRefusals(t *testing.T) {
	many := func(n int, each string) string { return strings.Repeat(each, n) }
	shapeOf := func(shape string) []byte { return raw(`{`+entryText(`"a"`, "F32", shape, 0, 24)+`}`, 24) }
	offsets := func(o string) []byte { return raw(`{"a":{"dtype":"U8","shape":[3],"data_offsets":`+o+`}}`, 3) }
	extra := func(v string) []byte {
		return raw(`{"a":{"dtype":"U8","shape":[3],"x":`+v+`,"data_offsets":[0,3]}}`, 3)
	}
	meta := func(v string) []byte { return raw(`{"__metadata__":`+v+`}`, 0) }

	cases := []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "byte 0: 0 bytes are too few for a safetensors file; the file is empty"},
		{"seven bytes", []byte{1, 2, 3, 4, 5, 6, 7}, "byte 0: 7 bytes are too few"},
		{"header too long", withLength(maxHeader+1, "{}"), "byte 0: header of 100000001 bytes"},
		{"header length with the sign bit", withLength(1<<63, "{}"), "byte 0: header of 9223372036854775808 bytes"},
		{"header length all ones", withLength(1<<64-1, "{}"), "byte 0: header of 18446744073709551615 bytes"},
		{"header past the end by one", withLength(3, "{}"), "byte 0: header of 3 bytes in a file of 10"},
		{"header empty", raw("", 0), "byte 8: header does not begin with '{'"},
		{"header begins with a space", raw(" {}", 0), "byte 8: header does not begin with '{'"},
		{"header begins with a byte order mark", raw("\ufeff{}", 0), "byte 8: header does not begin with '{'"},
		{"header is an array", raw("[]", 0), "byte 8: header does not begin with '{'"},
		{"header ends early", raw("{", 0), "byte 9: expected a name in quotes, found the end"},
		{"header cut in a name", raw(`{"a`, 0), "byte 10: string does not end"},
		{"garbage after the object", raw(`{} x`, 0), `byte 11: expected nothing but spaces after the object, found "x"`},
		{"NUL after the object", raw("{}\x00", 0), `byte 10: expected nothing but spaces`},
		{"two objects", raw(`{}{}`, 0), "byte 10: expected nothing but spaces"},
		{"trailing comma", raw(`{`+entryB+`,}`, 3), "expected a name in quotes, found \"}\""},
		{"missing comma", raw(`{`+entryA+entryB+`}`, 11), "expected ',' or '}'"},
		{"missing colon", raw(`{"a"{}}`, 0), "byte 12: expected ':'"},
		{"name without quotes", raw(`{a:{}}`, 0), "byte 9: expected a name in quotes"},
		{"single quotes", raw(`{'a':{}}`, 0), "byte 9: expected a name in quotes"},
		{"comment", raw(`{/**/}`, 0), "byte 9: expected a name in quotes"},

		{"name is not UTF-8", raw("{\"\xff\":{}}", 0), "byte 10: string is not valid UTF-8"},
		{"name has a surrogate in UTF-8", raw("{\"\xed\xa0\x80\":{}}", 0), "byte 10: string is not valid UTF-8"},
		{"name has a control character", raw("{\"a\nb\":{}}", 0), "byte 11: control character"},
		{"escape unknown", raw(`{"\x":{}}`, 0), "byte 10: bad escape"},
		{"escape cut", raw(`{"\u12`, 0), "byte 10: bad escape"},
		{"escape at the end", raw(`{"\`, 0), "byte 10: bad escape"},
		{"escape beyond f", raw(`{"\u000g":{}}`, 0), "byte 10: bad escape"},
		{"escape beyond F", raw(`{"\u000G":{}}`, 0), "byte 10: bad escape"},
		{"escape before a", raw("{\"\\u000`\":{}}", 0), "byte 10: bad escape"},
		{"escape before A", raw(`{"\u000@":{}}`, 0), "byte 10: bad escape"},
		{"escape before 0", raw(`{"\u000/":{}}`, 0), "byte 10: bad escape"},
		{"escape beyond 9", raw(`{"\u000:":{}}`, 0), "byte 10: bad escape"},
		{"escape not hexadecimal", raw(`{"\u12g4":{}}`, 0), "byte 10: bad escape"},
		{"surrogate alone", raw(`{"\ud800":{}}`, 0), "byte 10: bad escape"},
		{"surrogate low first", raw(`{"\udc00\ud800":{}}`, 0), "byte 10: bad escape"},
		{"surrogate with another letter", raw(`{"\ud800\u0041":{}}`, 0), "byte 10: bad escape"},

		{"name twice", raw(`{`+entryText(`"a"`, "U8", "[1]", 0, 1)+`,`+entryText(`"a"`, "U8", "[1]", 1, 2)+`}`, 2), `byte 61: tensor "a": name occurs twice`},
		{"name twice, once escaped", raw(`{`+entryText(`"a"`, "U8", "[1]", 0, 1)+`,`+entryText(`"\u0061"`, "U8", "[1]", 1, 2)+`}`, 2), `tensor "a": name occurs twice`},
		{"name twice, both empty", raw(`{`+entryText(`"a"`, "U8", "[0]", 0, 0)+`,`+entryText(`"a"`, "U8", "[0]", 0, 0)+`}`, 0), `tensor "a": name occurs twice`},
		{"metadata twice", raw(`{"__metadata__":{},"__metadata__":{}}`, 0), "byte 27: __metadata__ occurs twice"},
		{"metadata key twice", meta(`{"k":"1","k":"1"}`), `metadata key "k" occurs twice`},
		{"metadata value a number", meta(`{"k":1}`), "expected a string as metadata value"},
		{"metadata value null", meta(`{"k":null}`), "expected a string as metadata value"},
		{"metadata value NaN", meta(`{"k":NaN}`), "expected a string as metadata value"},
		{"metadata value an object", meta(`{"k":{}}`), "expected a string as metadata value"},
		{"metadata a list", meta(`[]`), "expected an object as __metadata__"},
		{"metadata null", meta(`null`), "expected an object as __metadata__"},
		{"metadata value cut", meta(`{"k":"`), "string does not end"},

		{"entry a list", raw(`{"a":[]}`, 0), `byte 13: tensor "a": expected an object`},
		{"entry null", raw(`{"a":null}`, 0), "expected an object"},
		{"dtype missing", raw(`{"a":{"shape":[3],"data_offsets":[0,3]}}`, 3), `byte 9: tensor "a": no dtype`},
		{"shape missing", raw(`{"a":{"dtype":"U8","data_offsets":[0,3]}}`, 3), `byte 9: tensor "a": no shape`},
		{"offsets missing", raw(`{"a":{"dtype":"U8","shape":[3]}}`, 3), `byte 9: tensor "a": no data_offsets`},
		{"dtype twice", raw(`{"a":{"dtype":"U8","dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 3), "dtype occurs twice"},
		{"shape twice", raw(`{"a":{"dtype":"U8","shape":[3],"shape":[3],"data_offsets":[0,3]}}`, 3), "shape occurs twice"},
		{"offsets twice", raw(`{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3],"data_offsets":[0,3]}}`, 3), "data_offsets occurs twice"},
		{"unknown field twice", raw(`{"a":{"dtype":"U8","x":1,"x":1,"shape":[3],"data_offsets":[0,3]}}`, 3), `field "x" occurs twice`},
		{"dtype unknown", raw(`{`+entryText(`"a"`, "F7", "[3]", 0, 3)+`}`, 3), `unknown dtype "F7"`},
		{"dtype in small letters", raw(`{`+entryText(`"a"`, "u8", "[3]", 0, 3)+`}`, 3), `unknown dtype "u8"`},
		{"dtype empty", raw(`{`+entryText(`"a"`, "", "[3]", 0, 3)+`}`, 3), `unknown dtype ""`},
		{"dtype a number", raw(`{"a":{"dtype":8,"shape":[3],"data_offsets":[0,3]}}`, 3), "expected a string as dtype"},

		{"shape not a list", shapeOf(`6`), "expected a list as shape"},
		{"shape nested", shapeOf(`[[6]]`), "dimension must be a non-negative integer"},
		{"shape negative", shapeOf(`[-2,-3]`), `dimension must be a non-negative integer, found "-"`},
		{"shape minus zero", shapeOf(`[-0]`), "dimension must be a non-negative integer"},
		{"shape plus", shapeOf(`[+6]`), "dimension must be a non-negative integer"},
		{"shape fraction", shapeOf(`[6.0]`), "dimension must be written as an integer"},
		{"shape exponent", shapeOf(`[6e0]`), "dimension must be written as an integer"},
		{"shape exponent in capitals", shapeOf(`[6E0]`), "dimension must be written as an integer"},
		{"shape leading zero", shapeOf(`[06]`), "dimension has a leading zero"},
		{"shape string", shapeOf(`["6"]`), "dimension must be a non-negative integer"},
		{"shape null", shapeOf(`[null]`), "dimension must be a non-negative integer"},
		{"shape hexadecimal", shapeOf(`[0x6]`), "expected ',' or ']'"},
		{"shape trailing comma", shapeOf(`[6,]`), "dimension must be a non-negative integer"},
		{"shape open", raw(`{"a":{"dtype":"F32","shape":[6`, 24), "expected ',' or ']', found the end"},
		{"shape of 2^63", shapeOf(`[9223372036854775808]`), "dimension does not fit in 63 bits"},
		{"shape of 2^64+6", shapeOf(`[18446744073709551622]`), "dimension does not fit in 63 bits"},
		{"shape overflows to zero", shapeOf(`[4294967296,4294967296]`), "overflows"},
		{"shape overflows by the element size", shapeOf(`[4611686018427387910]`), "overflows"},
		{"shape overflow hidden by a zero", raw(`{`+entryText(`"a"`, "F32", "[4611686018427387910,0]", 0, 0)+`}`, 0), "overflows"},
		{"shape of 33 dimensions", raw(`{`+entryText(`"a"`, "U8", "[1"+many(32, ",1")+"]", 0, 1)+`}`, 1), "more than 32 dimensions"},
		{"shape too small", shapeOf(`[5]`), "shape [5] of F32 needs 20 bytes, data_offsets give 24"},
		{"shape too large", shapeOf(`[7]`), "shape [7] of F32 needs 28 bytes, data_offsets give 24"},

		{"offsets not a list", offsets(`3`), "expected a list as data_offsets"},
		{"offsets one", offsets(`[3]`), "1 data_offsets, expected 2"},
		{"offsets none", offsets(`[]`), "0 data_offsets, expected 2"},
		{"offsets three", offsets(`[0,3,3]`), "3 data_offsets, expected 2"},
		{"offsets negative", offsets(`[-3,0]`), "data offset must be a non-negative integer"},
		{"offsets fraction", offsets(`[0,3.0]`), "data offset must be written as an integer"},
		{"offsets exponent", offsets(`[0,3e0]`), "data offset must be written as an integer"},
		{"offsets of 65 bits", offsets(`[18446744073709551616,18446744073709551619]`), "data offset does not fit in 63 bits"},
		{"offsets reversed", offsets(`[3,0]`), "data_offsets [3,0] are reversed"},
		{"offsets past the end", raw(`{`+entryText(`"a"`, "U8", "[4]", 0, 4)+`}`, 3), "run past the 3 bytes of data"},
		{"offsets of exabytes", raw(`{`+entryText(`"a"`, "F32", "[1152921504606846976]", 0, 1<<62)+`}`, 3), "run past the 3 bytes of data"},
		{"gap before the first", raw(`{`+entryText(`"a"`, "U8", "[3]", 1, 4)+`}`, 4), "leave a gap after 0"},
		{"gap between", raw(`{`+entryText(`"a"`, "U8", "[3]", 0, 3)+`,`+entryText(`"b"`, "U8", "[3]", 4, 7)+`}`, 7), `byte 61: tensor "b": data_offsets [4,7] leave a gap after 3`},
		{"overlap", raw(`{`+entryText(`"a"`, "U8", "[3]", 0, 3)+`,`+entryText(`"b"`, "U8", "[3]", 2, 5)+`}`, 5), "overlap another tensor, which ends at 3"},
		{"same span twice", raw(`{`+entryText(`"a"`, "U8", "[3]", 0, 3)+`,`+entryText(`"b"`, "U8", "[3]", 0, 3)+`}`, 3), "overlap another tensor"},
		{"empty tensor inside another", raw(`{`+entryText(`"a"`, "U8", "[3]", 0, 3)+`,`+entryText(`"b"`, "U8", "[0]", 1, 1)+`}`, 3), "overlap another tensor"},
		{"empty tensor past the end", raw(`{`+entryText(`"a"`, "U8", "[3]", 0, 3)+`,`+entryText(`"b"`, "U8", "[0]", 4, 4)+`}`, 3), "leave a gap after 3"},
		{"tail", raw(`{`+entryText(`"a"`, "U8", "[3]", 0, 3)+`}`, 4), "1 bytes after the last tensor belong to none"},
		{"tail without tensors", raw(`{}`, 1), "byte 10: 1 bytes after the last tensor belong to none"},
		{"data missing", raw(`{`+entryA+`,`+entryB+`}`, 10), `tensor "b": data_offsets [8,11] run past the 10 bytes`},

		{"extra field: NaN", extra(`NaN`), `expected a value, found "N"`},
		{"extra field: word cut", extra(`tru`), "expected a value"},
		{"extra field: nothing", extra(``), "expected a value"},
		{"extra field: leading zero", extra(`01`), "malformed number"},
		{"extra field: minus alone", extra(`-`), "malformed number"},
		{"extra field: point alone", extra(`1.`), "malformed number"},
		{"extra field: exponent alone", extra(`1e+`), "malformed number"},
		{"header ends in a number", raw(`{"a":{"x":1`, 0), "expected ',' or '}', found the end"},
		{"header ends in a sign", raw(`{"a":{"x":-`, 0), "malformed number"},
		{"header ends in an exponent", raw(`{"a":{"x":1e`, 0), "malformed number"},
		{"header ends in a word", raw(`{"a":{"x":true`, 0), "expected ',' or '}', found the end"},
		{"header ends in part of a word", raw(`{"a":{"x":tru`, 0), "expected a value"},
		{"header ends in a shape", raw(`{"a":{"shape":[1`, 0), "expected ',' or ']', found the end"},
		{"extra field: zeros", extra(`00`), "malformed number"},
		{"extra field: bad string", extra("\"\xff\""), "not valid UTF-8"},
		{"extra field: bad object", extra(`{"a" 1}`), "expected ':'"},
		{"extra field: bad key", extra(`{1:1}`), "expected a name in quotes"},
		{"extra field: bad list", extra(`[1 2]`), "expected ',' or ']'"},
		{"extra field: deep", extra(many(maxDepth+2, "[") + many(maxDepth+2, "]")), "nested deeper than 64"},
		{"extra field: 25,000 deep", extra(many(25000, `{"a":`) + "1" + many(25000, "}")), "nested deeper than 64"},
		{"extra fields: too many", raw(`{"a":{`+func() (s string) {
			for i := range maxUnknown + 1 {
				s += fmt.Sprintf(`"x%d":1,`, i)
			}
			return s
		}()+`"dtype":"U8"}}`, 0), "more than 64 unknown fields"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := OpenBytes("x", c.b)
			requireFormat(t, err)
			require.Contains(t, err.Error(), c.want)
		})
	}
}

func requireFormat(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, ErrFormat)
	var f *FormatError
	require.True(t, errors.As(err, &f))
	require.NotEmpty(t, f.File)
	require.NotContains(t, err.Error(), "\n")
	require.Less(t, len(err.Error()), 700)
}

// TestAccepted lists what is unusual and allowed.
func TestAccepted(t *testing.T) {
	cases := []struct {
		name  string
		b     []byte
		names []string
	}{
		{"no tensors", raw(`{}`, 0), []string{}},
		{"padding of spaces and newlines", raw("{}  \n\r\t ", 0), []string{}},
		{"white space inside", raw("{ \"a\" : { \"dtype\" : \"U8\" , \"shape\" : [ 3 ] ,\n\"data_offsets\" : [ 0 , 3 ] } }", 3), []string{"a"}},
		{"metadata last", raw(`{`+entryText(`"a"`, "U8", "[3]", 0, 3)+`,"__metadata__":{"k":"v"}}`, 3), []string{"a"}},
		{"order of the header not that of the data", raw(`{`+entryText(`"a"`, "U8", "[3]", 3, 6)+`,`+entryText(`"b"`, "U8", "[3]", 0, 3)+`}`, 6), []string{"a", "b"}},
		{"empty tensors everywhere", raw(`{`+entryText(`"a"`, "U8", "[0]", 0, 0)+`,`+entryText(`"b"`, "U8", "[3]", 0, 3)+`,`+entryText(`"c"`, "F32", "[2,0]", 3, 3)+`}`, 3), []string{"a", "b", "c"}},
		{"scalar", raw(`{`+entryText(`"a"`, "F32", "[]", 0, 4)+`}`, 4), []string{"a"}},
		{"unknown fields", raw(`{"a":{"dtype":"U8","x":{"y":[1,0,99,9,-2.5e-3,1E+9,true,false,null,"\u00e9",{}]},"shape":[3],"z":0,"data_offsets":[0,3]}}`, 3), []string{"a"}},
		{"empty name", raw(`{`+entryText(`""`, "U8", "[3]", 0, 3)+`}`, 3), []string{""}},
		{"escaped name", raw(`{`+entryText(`"\u0061\n\"\\\/\b\f\r\t\ud83d\ude00\u00e9"`, "U8", "[3]", 0, 3)+`}`, 3), []string{"a\n\"\\/\b\f\r\t\U0001F600\u00e9"}},
		{"hexadecimal digits at their limits", raw(`{`+entryText(`"\u00af\u00AF\u00fa\u00FA\u0109\u0190"`, "U8", "[3]", 0, 3)+`}`, 3), []string{"\u00af\u00af\u00fa\u00fa\u0109\u0190"}},
		{"largest dimension, next to a zero", raw(`{`+entryText(`"a"`, "U8", "[9223372036854775807,0]", 0, 0)+`}`, 0), []string{"a"}},
		{"32 dimensions", raw(`{`+entryText(`"a"`, "U8", "[3"+strings.Repeat(",1", 31)+"]", 0, 3)+`}`, 3), []string{"a"}},
		{"depth at the limit", raw(`{"a":{"x":`+strings.Repeat("[", maxDepth+1)+strings.Repeat("]", maxDepth+1)+`,"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 3), []string{"a"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, err := OpenBytes("x", c.b)
			require.NoError(t, err)
			require.Equal(t, c.names, f.Names())
			require.NoError(t, f.Close())
		})
	}
}

// allocated measures what a call allocates in total, freed or not.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

const allowance = 64 << 20

func TestMalformedFiles(t *testing.T) {
	const dir = "testdata/malformed"
	b, err := os.ReadFile(filepath.Join(dir, "expectations.json"))
	require.NoError(t, err)
	var list []struct{ File, Category, Why string }
	require.NoError(t, json.Unmarshal(b, &list))
	require.Len(t, list, 49)
	for _, c := range list {
		t.Run(c.File, func(t *testing.T) {
			path := filepath.Join(dir, filepath.FromSlash(c.File))
			st, err := os.Stat(path)
			require.NoError(t, err)
			n := allocated(func() {
				_, err = Open(path)
			})
			requireFormat(t, err)
			require.Less(t, n, st.Size()+1<<20, c.Why)
			if c.Category == "safetensors" {
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				_, err = OpenBytes("x", b)
				requireFormat(t, err)
			}
		})
	}
	// The target of the index that leaves its folder is a good file: the refusal is about the path.
	f, err := Open(filepath.Join(dir, "outside.safetensors"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestCuts takes a good file and cuts it at every byte.
func TestCuts(t *testing.T) {
	b := raw(`{"__metadata__":{"k":"v"},`+entryA+`,`+entryB+`}`, 11)
	for n := range b {
		_, err := OpenBytes("x", b[:n])
		requireFormat(t, err)
	}
	_, err := OpenBytes("x", append(b, 0))
	requireFormat(t, err)
}

// TestRefusalsAllocateLittle builds the headers that ask for the most memory per byte.
func TestRefusalsAllocateLittle(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("slow")
	}
	list := func(n int, each func(i int) string) string {
		var b strings.Builder
		b.WriteByte('{')
		for i := range n {
			b.WriteString(each(i))
			b.WriteByte(',')
		}
		return b.String() // open: refused at the very end
	}
	cases := []struct {
		name   string
		header string
	}{
		{"tensors", list(maxTensors, func(i int) string { return entryText(fmt.Sprintf(`"%d"`, i), "U8", "[0]", 0, 0) })},
		{"dimensions", list(maxTensors, func(i int) string {
			return entryText(`"a"`, "U8", "["+strings.Repeat("0,", maxDims-1)+"0]", 0, 0)
		})},
		{"metadata", `{"__metadata__":` + list(maxMetadata, func(i int) string { return fmt.Sprintf(`"%d":""`, i) })},
		{"more tensors than allowed", list(maxTensors+1, func(i int) string { return entryText(`""`, "U8", "[0]", 0, 0) })},
		{"more metadata than allowed", `{"__metadata__":` + list(maxMetadata+1, func(i int) string { return fmt.Sprintf(`"%d":""`, i) })},
		{"lists in an unknown field", `{"a":{"x":[` + strings.Repeat("[],", 500_000)},
		{"objects in an unknown field", `{"a":{"x":[` + strings.Repeat(`{"a":1},`, 500_000)},
		{"a long name", `{"` + strings.Repeat("a", 4<<20) + `":{"dtype":1`},
		{"a long dtype", `{"a":{"dtype":"` + strings.Repeat("a", 4<<20) + `"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := raw(c.header, 0)
			var err error
			n := allocated(func() { _, err = OpenBytes("x", b) })
			requireFormat(t, err)
			t.Logf("%d KB for %d KB", n>>10, len(b)>>10)
			require.Less(t, n, int64(len(b)+allowance))
		})
	}
}
