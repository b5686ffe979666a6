package weights

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGenerated breaks one rule of a good file at a time, at every place where it can be broken. All of these files must
// be refused with a FormatError, and none may take more memory than its size and 64 MB.
func TestGenerated(t *testing.T) {
	header := `{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},` +
		`"b":{"dtype":"F16","shape":[5],"data_offsets":[24,34]},"c":{"dtype":"I64","shape":[],"data_offsets":[34,42]}}`
	const data = 42
	build := func(header string, size int) []byte {
		b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		return append(append(b, header...), make([]byte, size)...)
	}
	good := build(header, data)
	f, err := OpenBytes("good", good)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, f.Names())

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	count, size := 0, 0
	refused := func(what string, b []byte) {
		t.Helper()
		count++
		size += len(b)
		_, err := OpenBytes("broken", b)
		require.ErrorIs(t, err, ErrFormat, "%s: %q", what, b)
	}
	for i := range good {
		refused(fmt.Sprint("cut at ", i), good[:i:i])
	}
	for i := 1; i <= 100; i++ {
		refused(fmt.Sprint("longer by ", i), append(good[:len(good):len(good)], make([]byte, i)...))
	}
	for bit := range 64 {
		b := append([]byte(nil), good...)
		b[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprint("header length, bit ", bit), b)
	}
	// Every character of the header away, doubled, or another. Inside of names and texts most changes are as good as
	// the original, so the strings that are free (names, metadata) are left alone there.
	free := func(i int) bool {
		for _, s := range []string{`__metadata__":{"format":"pt"`, `"a"`, `"b"`, `"c"`} {
			if at := strings.Index(header, s); i > at && i < at+len(s)-1 {
				return true
			}
		}
		return false
	}
	for i, c := range []byte(header) {
		if free(i) {
			continue
		}
		refused(fmt.Sprintf("%q at %d away", c, i), build(header[:i]+header[i+1:], data))
		refused(fmt.Sprintf("%q at %d doubled", c, i), build(header[:i]+string(c)+header[i:], data))
		for _, other := range []byte("{}[]\",:0123456789-+.eExt\x00\x1f\x7f\xff") {
			if other == c {
				continue
			}
			changed := header[:i] + string([]byte{other}) + header[i+1:]
			refused(fmt.Sprintf("%q at %d becomes %q", c, i, other), build(changed, data))
		}
	}
	for _, dtype := range []string{"", "f32", "F33", "F32 ", "F128", "C64", "float32", "F4", "null", "I128", "U1"} {
		refused("dtype "+dtype, build(strings.Replace(header, "F32", dtype, 1), data))
	}
	for _, n := range []string{"-1", "1.0", "1e0", "01", "+1", "18446744073709551616", "9223372036854775808", "null", `"1"`, "true", "[]", "{}"} {
		for _, old := range []string{"2,3", "0,24", "24,34", "5", "34,42"} {
			refused("number "+n, build(strings.Replace(header, "["+old+"]", "["+n+old[1:]+"]", 1), data))
		}
	}
	runtime.ReadMemStats(&after)
	require.Greater(t, count, 2000)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size)*64+64<<20, "%d files", count)
	t.Logf("%d files refused", count)
}
