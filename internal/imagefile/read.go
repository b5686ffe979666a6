package imagefile

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"os"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// Limits bounds what Read accepts. The zero value means the defaults.
type Limits struct {
	// MaxPixels is the largest width times height. Default 8192 x 8192 (67.1
	// megapixels). Reading takes 12 bytes per pixel for the result and, until it is
	// done, up to 30 more.
	MaxPixels int64
}

// DefaultMaxPixels is the limit where Limits.MaxPixels is 0.
const DefaultMaxPixels = 8192 * 8192

func (l Limits) pixels() int64 {
	if l.MaxPixels <= 0 {
		return DefaultMaxPixels
	}
	return l.MaxPixels
}

// bytes is the largest file worth reading: 16-bit RGBA stored without
// compression, and room for metadata and further pages.
func (l Limits) bytes() int64 { return 8*l.pixels() + 64<<20 }

// Read reads a picture file.
func Read(path string, limit Limits) (*Image, error) {
	data, err := load(path, limit.bytes())
	if err != nil {
		return nil, err
	}
	return Decode(path, data, limit)
}

// load returns the content of a file that may hold up to limit bytes and begins
// like a picture, so that a huge file of another kind is not read to its end.
func load(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, systemError(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, systemError(path, err)
	}
	if info.IsDir() {
		return nil, fail(path, ErrNotImage, "is a folder; name a picture file")
	}
	head := make([]byte, 64)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, systemError(path, err)
	}
	head = head[:n]
	if _, err := sniff(path, head); err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fail(path, ErrTooLarge, "holds %d MB, the limit is %d MB; make it smaller", info.Size()>>20, limit>>20)
	}
	var buf bytes.Buffer
	if info.Mode().IsRegular() {
		buf.Grow(int(info.Size()) + bytes.MinRead)
	}
	buf.Write(head)
	// A pipe has no size, hence a second check while reading.
	if _, err := buf.ReadFrom(io.LimitReader(f, limit+1-int64(n))); err != nil {
		return nil, systemError(path, err)
	}
	if int64(buf.Len()) > limit {
		return nil, fail(path, ErrTooLarge, "holds more than the limit of %d MB; make it smaller", limit>>20)
	}
	return buf.Bytes(), nil
}

// Decode reads a picture from memory. The name is only used in errors.
func Decode(name string, data []byte, limit Limits) (m *Image, err error) {
	k, err := sniff(name, data)
	if err != nil {
		return nil, err
	}
	// A decoder fault on a crafted file must not end the program.
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fail(name, ErrDamaged, "damaged %v (%v); copy or download it again", k, oneLine(r))
		}
	}()
	h, err := readHeader(name, k, data, limit)
	if err != nil {
		return nil, err
	}
	src, err := codecs[k].decode(bytes.NewReader(data))
	if err != nil {
		return nil, decodeError(name, k, err)
	}
	if b := src.Bounds(); b.Dx() != h.w || b.Dy() != h.h {
		return nil, fail(name, ErrDamaged, "damaged %v (its header says %dx%d, the data %dx%d); copy or download it again", k, h.w, h.h, b.Dx(), b.Dy())
	}
	m = fromDecoded(k, src)
	if h.invert {
		for i := range m.Pix {
			m.Pix[i] = -m.Pix[i]
		}
	}
	m.Gray = m.Gray || h.gray
	m.ICC = matchingProfile(h.icc, m.Gray)
	m.Text = h.text
	m.Orient(h.orientation)
	if h.orientation > 1 { // what is written is upright
		m.Orientation = h.orientation
	}
	return m, nil
}

// fromDecoded is FromGo, but for WebP, whose luma and chroma mean something else
// than those of the type the decoder returns them in.
func fromDecoded(k kind, src image.Image) *Image {
	if k != kindWebP {
		return FromGo(src)
	}
	b := src.Bounds()
	m := &Image{W: b.Dx(), H: b.Dy(), Depth: 8}
	switch s := src.(type) {
	case *image.YCbCr:
		m.Pix = make([]float32, m.W*m.H*3)
		m.fromYCbCr(s, studioRGB)
	case *image.NYCbCrA:
		m.Pix = make([]float32, m.W*m.H*3)
		m.fromYCbCr(&s.YCbCr, studioRGB)
		m.rows(func(y, x0 int) {
			for x, a := range s.A[y*s.AStride : y*s.AStride+m.W] {
				m.setAlpha(x0+x, uint16(a)*257)
			}
		})
	default:
		return FromGo(src)
	}
	return m
}

func oneLine(v any) string {
	s := fmt.Sprint(v)
	if i := bytes.IndexByte([]byte(s), '\n'); i >= 0 {
		s = s[:i]
	}
	return s
}

// kind is a file format that can be read.
type kind int

const (
	kindPNG kind = iota
	kindJPEG
	kindWebP
	kindTIFF
	kindBMP
)

// codecs holds what to call for each kind. The formats are not taken from the
// registry of package image, which any import could add to.
var codecs = [...]struct {
	name   string
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
	scan   func(path string, data []byte, c image.Config) (header, error)
}{
	kindPNG:  {"PNG", png.DecodeConfig, png.Decode, scanPNG},
	kindJPEG: {"JPEG", jpeg.DecodeConfig, jpeg.Decode, scanJPEG},
	kindWebP: {"WebP", webp.DecodeConfig, webp.Decode, scanWebP},
	kindTIFF: {"TIFF", tiff.DecodeConfig, tiff.Decode, scanTIFF},
	kindBMP:  {"BMP", bmp.DecodeConfig, bmp.Decode, scanBMP},
}

// String returns the usual name of the format.
func (k kind) String() string { return codecs[k].name }

// Signatures. A '?' stands for any byte.
const (
	pngSignature  = "\x89PNG\r\n\x1a\n"
	jpegSignature = "\xff\xd8\xff"
)

var signatures = []struct {
	magic string
	k     kind
}{
	{pngSignature, kindPNG},
	{jpegSignature, kindJPEG},
	{"RIFF????WEBP", kindWebP},
	{"II*\x00", kindTIFF},
	{"MM\x00*", kindTIFF},
	{"BM????\x00\x00\x00\x00", kindBMP},
}

// Formats that people try, named so that the message helps.
var foreign = []struct{ magic, name string }{
	{"GIF8", "a GIF"},
	{"????ftypheic", "a HEIC picture"},
	{"????ftypheix", "a HEIC picture"},
	{"????ftypmif1", "a HEIF picture"},
	{"????ftypavif", "an AVIF picture"},
	{"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"},
	{"\xff\x0a", "a JPEG XL picture"},
	{"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"},
	{"II+\x00", "a BigTIFF"},
	{"MM\x00+", "a BigTIFF"},
	{"8BPS", "a Photoshop file"},
	{"%PDF", "a PDF"},
	{"<svg", "an SVG drawing"},
	{"\x93NUMPY", "a NumPy array"},
}

// sniff tells the kind from the first bytes.
func sniff(path string, data []byte) (kind, error) {
	if len(data) == 0 {
		return 0, fail(path, ErrTruncated, "the file is empty; copy or download it again")
	}
	for _, s := range signatures {
		if matches(data, s.magic) {
			return s.k, nil
		}
		if len(data) < len(s.magic) && matches(data, s.magic[:len(data)]) {
			return 0, truncated(path)
		}
	}
	for _, f := range foreign {
		if matches(data, f.magic) {
			return 0, fail(path, ErrNotImage, "is %s, expected PNG, JPEG, WebP, TIFF or BMP; convert it first", f.name)
		}
	}
	return 0, fail(path, ErrNotImage, "not a picture, expected PNG, JPEG, WebP, TIFF or BMP")
}

func matches(data []byte, magic string) bool {
	if len(data) < len(magic) {
		return false
	}
	for i := range len(magic) {
		if magic[i] != '?' && magic[i] != data[i] {
			return false
		}
	}
	return true
}

// header is what is known before the pixels are decoded.
type header struct {
	w, h        int
	gray        bool // the file has no colour, though its decoder may return RGB
	invert      bool // the decoder returns the negative
	orientation int  // EXIF, 1..8; 0 or 1 = upright
	icc         []byte
	text        map[string]string
}

// readHeader checks size and plausibility and collects the metadata. Nothing
// proportional to the claimed size is allocated before it has returned.
func readHeader(path string, k kind, data []byte, limit Limits) (header, error) {
	c, err := codecs[k].config(bytes.NewReader(data))
	if err != nil {
		return header{}, decodeError(path, k, err)
	}
	if c.Width <= 0 || c.Height <= 0 {
		return header{}, fail(path, ErrDamaged, "damaged %v (size %dx%d); copy or download it again", k, c.Width, c.Height)
	}
	// Divide instead of multiplying: the claimed sides are up to 2^32 each.
	if int64(c.Width) > limit.pixels()/int64(c.Height) {
		return header{}, fail(path, ErrTooLarge, "%dx%d is %.1f megapixels, limit %.1f; make it smaller or raise the limit",
			c.Width, c.Height, float64(c.Width)*float64(c.Height)/1e6, float64(limit.pixels())/1e6)
	}
	h, err := codecs[k].scan(path, data, c)
	h.w, h.h = c.Width, c.Height
	return h, err
}

// lies is the error for a header that claims more pixels than the data that
// follows could possibly hold.
func lies(path string, k kind, c image.Config, have int64) error {
	return fail(path, ErrDamaged, "damaged %v (claims %dx%d pixels, but %d bytes of data cannot hold them); copy or download it again",
		k, c.Width, c.Height, have)
}
