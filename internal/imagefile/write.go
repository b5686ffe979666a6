package imagefile

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spin-native/spin/internal/atomicfile"
)

// jpegQuality of outputs. Colour is stored at half resolution (4:2:0), the only
// form the encoder of the standard library knows.
const jpegQuality = 95

// encoders by lower-case extension.
var encoders = map[string]func(io.Writer, *Image) error{
	".png":  encodePNG,
	".jpg":  encodeJPEG,
	".jpeg": encodeJPEG,
	".tif":  encodeTIFF,
	".tiff": encodeTIFF,
}

func encoderFor(path string) (func(io.Writer, *Image) error, error) {
	ext := strings.ToLower(filepath.Ext(path))
	if e := encoders[ext]; e != nil {
		return e, nil
	}
	if ext == "" {
		return nil, fail(path, nil, "has no extension; name the output .png, .jpg or .tif")
	}
	return nil, fail(path, nil, "cannot write %s pictures; name the output .png, .jpg or .tif", ext)
}

// CheckWritable returns the error that Write would end in, as far as it can be
// known without a picture: unknown extension, existing file without force,
// missing folder, no permission. Call it before a long computation.
func CheckWritable(path string, force bool) error {
	if _, err := encoderFor(path); err != nil {
		return err
	}
	if err := checkTarget(path, force); err != nil {
		return err
	}
	// Whether a file can be created is only known by creating one: permission bits
	// say nothing about read-only mounts, quotas or the user being root.
	f, err := atomicfile.Create(path)
	if err != nil {
		return outputError(path, err)
	}
	f.Abort()
	return nil
}

// checkTarget looks at the folder and at what is there already.
func checkTarget(path string, force bool) error {
	dir := filepath.Dir(path)
	switch st, err := os.Stat(dir); {
	case err != nil:
		return fail(path, err, "cannot be written: no folder %s (%v); create it first", showPath(dir), reason(err))
	case !st.IsDir():
		return fail(path, fs.ErrInvalid, "cannot be written: %s is not a folder", showPath(dir))
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return fail(path, fs.ErrExist, "is a folder; name a file")
	}
	if atomicfile.RefuseExisting(path, force) != nil {
		return fail(path, fs.ErrExist, "exists already; use --force to replace it, or another name")
	}
	return nil
}

func outputError(path string, err error) error {
	return fail(path, err, "cannot be written (%v); choose another place", reason(err))
}

// Write writes the picture in the format of the extension: .png, .jpg, .jpeg,
// .tif or .tiff. An existing file is replaced only with force. The file appears
// whole or not at all.
//
// PNG and TIFF keep depth and transparency, all three keep the colour profile if
// it fits how the pixels are stored, PNG alone keeps Text. JPEG is always 8 bits and
// opaque: colours are written as they are under the transparency. A TIFF with
// transparency is always RGBA, since few programs read grey with alpha in it.
func Write(path string, m *Image, force bool) error {
	encode, err := encoderFor(path)
	if err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return fail(path, err, "not written: %v", err)
	}
	if err := checkTarget(path, force); err != nil {
		return err
	}
	err = atomicfile.WriteFile(path, func(w io.Writer) error {
		b := bufio.NewWriterSize(w, 1<<16)
		if err := encode(b, m); err != nil {
			return err
		}
		return b.Flush()
	})
	var system *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &system), errors.As(err, new(*os.LinkError)):
		return outputError(path, err)
	}
	return fail(path, err, "not written: %v", err) // the encoder refused the picture
}

// Encode writes the picture to w in the format of the extension, given as in
// Write (".png").
func Encode(w io.Writer, ext string, m *Image) error {
	encode, err := encoderFor("output" + ext)
	if err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	return encode(w, m)
}

// packRow writes the samples of a row: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
func (m *Image) packRow(dst []byte, y, channels int, order binary.ByteOrder) {
	deep, half := m.Depth == 16, 127.5
	if deep {
		half = 32767.5
	}
	k := 0
	put := func(v uint16) {
		if deep {
			order.PutUint16(dst[k:], v)
			k += 2
		} else {
			dst[k] = byte(v)
			k++
		}
	}
	for i := y * m.W; i < (y+1)*m.W; i++ {
		s, a := m.samples(i, half)
		if !deep {
			a = uint16(alpha8(a))
		}
		put(s[0])
		if channels >= 3 {
			put(s[1])
			put(s[2])
		}
		if channels%2 == 0 {
			put(a)
		}
	}
}

// insertWriter passes the first skip bytes on, then extra, then the rest. It puts
// records into the streams of encoders that have no option for them.
type insertWriter struct {
	w     io.Writer
	skip  int
	extra []byte
}

// Write implements io.Writer.
func (i *insertWriter) Write(p []byte) (int, error) {
	n := 0
	if i.extra != nil {
		head := p[:min(len(p), i.skip)]
		k, err := i.w.Write(head)
		n += k
		if i.skip -= k; err != nil {
			return n, err
		}
		if i.skip > 0 {
			return n, nil
		}
		if _, err := i.w.Write(i.extra); err != nil {
			return n, err
		}
		i.extra = nil
	}
	k, err := i.w.Write(p[n:])
	return n + k, err
}

func encodePNG(w io.Writer, m *Image) error {
	var extra []byte
	if icc := profileFor(m.ICC, m.Gray); icc != nil {
		var z bytes.Buffer
		z.WriteString("ICC profile\x00\x00")
		deflate(&z, icc)
		extra = appendChunk(extra, "iCCP", z.Bytes())
	}
	for _, key := range slices.Sorted(maps.Keys(m.Text)) {
		value := m.Text[key]
		if err := checkKeyword(key); err != nil {
			return err
		}
		if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
			return fmt.Errorf("text record %q is not UTF-8 without NUL", key)
		}
		// Not compressed, so that a search through the file finds it; no language,
		// no translated keyword.
		extra = appendChunk(extra, "iTXt", []byte(key+"\x00\x00\x00\x00\x00"+value))
	}
	const beforeSecondChunk = len(pngSignature) + 12 + 13 // IHDR comes first
	if extra != nil {
		w = &insertWriter{w: w, skip: beforeSecondChunk, extra: extra}
	}
	if m.Gray && m.Alpha != nil {
		return encodeGrayAlpha(w, m)
	}
	return png.Encode(w, m.ToGo())
}

// checkKeyword holds a keyword to what PNG allows, less what few programs can
// show: 1 to 79 printable ASCII characters, no space at the ends.
func checkKeyword(key string) error {
	printable := !strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' })
	if key == "" || len(key) > 79 || !printable || strings.TrimSpace(key) != key {
		return fmt.Errorf("text keyword %q is not 1 to 79 printable ASCII characters", key)
	}
	return nil
}

func appendChunk(b []byte, name string, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, name...)
	b = append(b, body...)
	sum := crc32.NewIEEE()
	io.WriteString(sum, name)
	sum.Write(body)
	return binary.BigEndian.AppendUint32(b, sum.Sum32())
}

// deflate appends a zlib stream; a bytes.Buffer does not fail.
func deflate(dst *bytes.Buffer, src []byte) {
	z := zlib.NewWriter(dst)
	z.Write(src)
	z.Close()
}

// encodeGrayAlpha writes colour type 4, for which the standard library has
// neither a type nor an encoder.
func encodeGrayAlpha(w io.Writer, m *Image) error {
	sample := 1
	if m.Depth == 16 {
		sample = 2
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(m.W))
	head = binary.BigEndian.AppendUint32(head, uint32(m.H))
	head = append(head, byte(8*sample), 4, 0, 0, 0)
	out := appendChunk([]byte(pngSignature), "IHDR", head)
	if _, err := w.Write(out); err != nil {
		return err
	}
	chunks := bufio.NewWriterSize(chunkWriter{w, "IDAT"}, 1<<16)
	z := zlib.NewWriter(chunks)
	n := 2 * sample * m.W
	row, above := make([]byte, n), make([]byte, n)
	line, best := make([]byte, n+1), make([]byte, n+1)
	for y := range m.H {
		m.packRow(row, y, 2, binary.BigEndian)
		least := -1
		for filter := range 3 {
			if cost := filterRow(line, filter, row, above, 2*sample); least < 0 || cost < least {
				least = cost
				line, best = best, line
			}
		}
		if _, err := z.Write(best); err != nil {
			return err
		}
		row, above = above, row
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := chunks.Flush(); err != nil {
		return err
	}
	_, err := w.Write(appendChunk(nil, "IEND", nil))
	return err
}

// filterRow applies PNG filter 0 (none), 1 (difference to the left) or 2 (to the
// row above) and returns the sum of absolute differences, the usual guess at how
// well the line will compress.
func filterRow(line []byte, filter int, row, above []byte, pixel int) (cost int) {
	line[0] = byte(filter)
	for i, v := range row {
		switch {
		case filter == 1 && i >= pixel:
			v -= row[i-pixel]
		case filter == 2:
			v -= above[i]
		}
		line[i+1] = v
		if d := int(int8(v)); d < 0 {
			cost -= d
		} else {
			cost += d
		}
	}
	return cost
}

// chunkWriter makes a PNG chunk of every Write.
type chunkWriter struct {
	w    io.Writer
	name string
}

// Write implements io.Writer.
func (c chunkWriter) Write(p []byte) (int, error) {
	if _, err := c.w.Write(appendChunk(nil, c.name, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func encodeJPEG(w io.Writer, m *Image) error {
	if m.W > math.MaxUint16 || m.H > math.MaxUint16 {
		return fmt.Errorf("a JPEG has at most 65535 pixels a side, the picture is %dx%d", m.W, m.H)
	}
	if icc := profileFor(m.ICC, m.Gray); icc != nil {
		const most = math.MaxUint16 - 2 - 14
		pieces := (len(icc) + most - 1) / most
		var extra []byte
		for i := 1; len(icc) > 0 && pieces <= 255; i++ {
			part := icc[:min(len(icc), most)]
			extra = append(extra, 0xff, 0xe2)
			extra = binary.BigEndian.AppendUint16(extra, uint16(2+14+len(part)))
			extra = append(extra, "ICC_PROFILE\x00"...)
			extra = append(extra, byte(i), byte(pieces))
			extra = append(extra, part...)
			icc = icc[len(part):]
		}
		if extra != nil {
			w = &insertWriter{w: w, skip: 2, extra: extra} // after the start marker
		}
	}
	flat := *m
	flat.Depth, flat.Alpha = 8, nil
	src := flat.ToGo()
	if n, ok := src.(*image.NRGBA); ok {
		// The same bytes, as nothing is transparent, in the type the encoder is fast for.
		src = &image.RGBA{Pix: n.Pix, Stride: n.Stride, Rect: n.Rect}
	}
	return jpeg.Encode(w, src, &jpeg.Options{Quality: jpegQuality})
}
