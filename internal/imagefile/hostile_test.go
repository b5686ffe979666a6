package imagefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// encoded returns files of every kind that can be read, by name.
func encoded(t testing.TB) map[string][]byte {
	files := map[string][]byte{}
	for _, depth := range []int{8, 16} {
		m := noise(60, 40, depth, false, true, 5)
		m.ICC = testProfile("RGB ", "test", false, 300)
		m.Text = map[string]string{"spin-native": "{}"}
		for _, ext := range []string{".png", ".tif", ".jpg"} {
			var b bytes.Buffer
			require.NoError(t, Encode(&b, ext, m))
			files[fmt.Sprint(depth, ext)] = b.Bytes()
		}
	}
	list, err := filepath.Glob("testdata/*.*")
	require.NoError(t, err)
	for _, path := range list {
		if strings.HasSuffix(path, ".py") || strings.HasSuffix(path, "_"+filepath.Ext(path)[1:]+".png") {
			continue
		}
		files[filepath.Base(path)], err = os.ReadFile(path)
		require.NoError(t, err)
	}
	return files
}

// oneLineError holds an error to the form that the command line prints.
func oneLineError(t testing.TB, err error, name string) {
	var e *Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.True(t, strings.HasPrefix(err.Error(), name+": "), "%v", err)
	require.NotContains(t, err.Error(), "\n")
	require.Less(t, len(err.Error()), 250)
}

func TestTruncated(t *testing.T) {
	for name, data := range encoded(t) {
		if name == "planar.tif" {
			continue
		}
		_, err := Decode(name, data, Limits{})
		require.NoError(t, err)
		for n := 0; n < len(data)-2; n += 97 {
			m, err := Decode(name, data[:n], Limits{})
			// A TIFF directory can come first, so that what is missing was padding or an
			// unread field at the end; whatever is refused is refused in one line.
			if err != nil {
				oneLineError(t, err, name)
				continue
			}
			require.Contains(t, name, ".tif", "%d of %d bytes", n, len(data))
			require.Len(t, m.Pix, m.W*m.H*3)
		}
	}
	_, err := Decode("a.png", encoded(t)["8.png"][:5000], Limits{})
	require.ErrorIs(t, err, ErrTruncated)
	require.ErrorContains(t, err, "a.png: the file ends early")
}

// One byte changed anywhere gives a picture or an error in one line.
func TestChangedBytes(t *testing.T) {
	for name, data := range encoded(t) {
		for n := 0; n < len(data); n += 1 + n/40 {
			bad := bytes.Clone(data)
			bad[n] ^= 0xff
			if _, err := Decode(name, bad, Limits{MaxPixels: 1 << 20}); err != nil {
				oneLineError(t, err, name)
			}
		}
	}
}

func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
		return path
	}
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "none.png"), "no such file"},
		{dir, "is a folder"},
		{put("empty.png", ""), "empty"},
		{put("text.png", "hello, this is not a picture\n"), "expected PNG, JPEG, WebP, TIFF or BMP"},
		{put("a.gif", "GIF89a\x01\x00\x01\x00"), "is a GIF, expected PNG"},
		{put("b.heic", "\x00\x00\x00\x18ftypheic\x00\x00\x00\x00"), "HEIC"},
		{put("short.png", pngSignature[:5]), "ends early"},
		{put("zero.bmp", "BM\x36\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00"+strings.Repeat("\x00", 8)+
			"\x01\x00\x18\x00"+strings.Repeat("\x00", 24)), "size 0x0"},
	} {
		_, err := Read(c.path, Limits{})
		require.ErrorContains(t, err, c.want)
		oneLineError(t, err, c.path)
	}
	_, err := Read(filepath.Join(dir, "line\nbreak.png"), Limits{})
	require.NotContains(t, err.Error(), "\n")
	// The extension does not matter.
	require.NoError(t, os.Rename(put("x.png", string(encoded(t)["c420.jpg"])), filepath.Join(dir, "y.png")))
	_, err = Read(filepath.Join(dir, "y.png"), Limits{})
	require.NoError(t, err)
	// A large file of another kind is refused by its first bytes, not by its size.
	big := put("big.bin", "hello")
	require.NoError(t, os.Truncate(big, 4<<30))
	_, err = Read(big, Limits{})
	require.ErrorIs(t, err, ErrNotImage)
	big = put("big.png", pngSignature)
	require.NoError(t, os.Truncate(big, 4<<30))
	_, err = Read(big, Limits{})
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestPixelLimit(t *testing.T) {
	data := encoded(t)["8.png"] // 60x40
	_, err := Decode("a.png", data, Limits{MaxPixels: 2400})
	require.NoError(t, err)
	_, err = Decode("a.png", data, Limits{MaxPixels: 2399})
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorContains(t, err, "a.png: 60x40 is 0.0 megapixels, limit 0.0")
}

// pngClaiming returns a small valid PNG whose header claims another size.
func pngClaiming(w, h uint32, junk int) []byte {
	head := binary.BigEndian.AppendUint32(nil, w)
	head = binary.BigEndian.AppendUint32(head, h)
	b := appendChunk([]byte(pngSignature), "IHDR", append(head, 8, 2, 0, 0, 0))
	var z bytes.Buffer
	deflate(&z, make([]byte, junk))
	return appendChunk(appendChunk(b, "IDAT", z.Bytes()), "IEND", nil)
}

// tiffOf returns a TIFF of the given fields (tag, value) with 64 bytes of data at
// offset 8.
func tiffOf(fields ...uint32) []byte {
	le := binary.LittleEndian
	b := append([]byte("II*\x00\x48\x00\x00\x00"), make([]byte, 64)...)
	b = le.AppendUint16(b, uint16(len(fields)/2))
	for i := 0; i < len(fields); i += 2 {
		b = le.AppendUint16(b, uint16(fields[i]))
		b = le.AppendUint16(b, 4)
		b = le.AppendUint32(b, 1)
		b = le.AppendUint32(b, fields[i+1])
	}
	return append(b, 0, 0, 0, 0)
}

// Files that would take gigabytes, or minutes, if their headers were believed.
func TestBombs(t *testing.T) {
	le := binary.LittleEndian
	bombs := map[string][]byte{
		"png 50000x50000":       pngClaiming(50_000, 50_000, 60_000_000),
		"png 2^31":              pngClaiming(1<<31-1, 1<<31-1, 100),
		"png within limit, lie": pngClaiming(8000, 8000, 1000),
		"jpeg 65535 square": withSegment([]byte{0xff, 0xd8, 0xff, 0xd9}, 0xc0,
			[]byte{8, 0xff, 0xff, 0xff, 0xff, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0}),
		"jpeg within limit, lie": withSegment([]byte{0xff, 0xd8, 0xff, 0xd9}, 0xc2,
			[]byte{8, 0x1f, 0, 0x1f, 0, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0}),
		"tiff size": tiffOf(tagWidth, 50_000, tagHeight, 50_000, tagBits, 8, tagCompression, 1, tagPhotometric, 1,
			tagStripOffsets, 8, tagRowsPerStrip, 50_000, tagStripCounts, 64),
		"tiff lie": tiffOf(tagWidth, 8000, tagHeight, 8000, tagBits, 8, tagCompression, 8, tagPhotometric, 1,
			tagStripOffsets, 8, tagRowsPerStrip, 8000, tagStripCounts, 64),
		"tiff packbits": tiffOf(tagWidth, 8000, tagHeight, 8000, tagBits, 8, tagCompression, 32773, tagPhotometric, 1,
			tagStripOffsets, 8, tagRowsPerStrip, 8000, tagStripCounts, 64),
		"tiff giant tile": tiffOf(tagWidth, 16, tagHeight, 16, tagBits, 8, tagCompression, 8, tagPhotometric, 1,
			tagTileWidth, 1<<30, tagTileHeight, 1<<30, tagTileOffsets, 8, tagTileCounts, 64),
		"tiff wide tile": tiffOf(tagWidth, 1, tagHeight, 60_000_000, tagBits, 8, tagCompression, 8, tagPhotometric, 1,
			tagTileWidth, 16, tagTileHeight, 60_000_000, tagTileOffsets, 8, tagTileCounts, 64),
		"tiff many tiles": tiffOf(tagWidth, 8000, tagHeight, 8000, tagBits, 8, tagCompression, 8, tagPhotometric, 1,
			tagTileWidth, 8, tagTileHeight, 8, tagTileOffsets, 8, tagTileCounts, 64),
		"bmp":  append([]byte("BM\x36\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x18\x00"), make([]byte, 200)...),
		"webp": append([]byte("RIFF\x40\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x10\x00\x00\x00\xff\xff\x00\xff\x7f\x00"), make([]byte, 60)...),
	}
	// Small strips that all share the same bytes.
	const strips = 8000
	shared := tiffOf(tagWidth, 8000, tagHeight, strips, tagBits, 8, tagCompression, 1, tagPhotometric, 1,
		tagStripOffsets, 0, tagRowsPerStrip, 1, tagStripCounts, 0)
	for field, value := range map[int]uint32{5: 8, 7: 8000} {
		entry := shared[72+2+12*field:]
		le.PutUint32(entry[4:], strips)
		le.PutUint32(entry[8:], uint32(len(shared)))
		for range strips {
			shared = le.AppendUint32(shared, value)
		}
	}
	bombs["tiff shared strips"] = shared

	for name, data := range bombs {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Decode(name, data, Limits{})
			runtime.ReadMemStats(&after)
			took := time.Hour // the best of three, as the machine may be busy
			for range 3 {
				start := time.Now()
				Decode(name, data, Limits{})
				took = min(took, time.Since(start))
			}
			oneLineError(t, err, name)
			require.Less(t, took, time.Second)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20))
		})
	}
}

func TestCompressedTextBomb(t *testing.T) {
	var z bytes.Buffer
	deflate(&z, make([]byte, 64<<20))
	plain := encoded(t)["8.png"]
	data := append([]byte{}, plain[:33]...)
	data = appendChunk(data, "iTXt", append([]byte("bomb\x00\x01\x00\x00\x00"), z.Bytes()...))
	data = appendChunk(data, "iCCP", append([]byte("bomb\x00\x00"), z.Bytes()...))
	m, err := Decode("x", append(data, plain[33:]...), Limits{})
	require.NoError(t, err)
	require.NotContains(t, m.Text, "bomb")
}

// A panic in a decoder is an error.
func TestPanicBecomesError(t *testing.T) {
	old := codecs[kindBMP]
	defer func() { codecs[kindBMP] = old }()
	codecs[kindBMP].decode = nil
	data, err := os.ReadFile("testdata/color.bmp")
	require.NoError(t, err)
	_, err = Decode("a.bmp", data, Limits{})
	require.ErrorIs(t, err, ErrDamaged)
	oneLineError(t, err, "a.bmp")
}

func FuzzDecode(f *testing.F) {
	for _, data := range encoded(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksum of IHDR is made right, so that sizes can be varied.
		if matches(data, pngSignature) && len(data) > 33 {
			data = bytes.Clone(data)
			binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
		}
		m, err := Decode("fuzz", data, Limits{MaxPixels: 1 << 16})
		if err != nil {
			oneLineError(t, err, "fuzz")
			return
		}
		if err := m.check(); err != nil {
			t.Fatal(err)
		}
		m.ProfileName()
	})
}
