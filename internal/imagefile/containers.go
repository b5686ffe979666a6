package imagefile

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"image"
	"io"
	"strings"
	"unicode/utf8"
)

// The scan functions walk the structure of a file without decoding pixels. They
// return an error where the file is cut off, claims more pixels than its data
// can hold, or needs a feature whose absence in the decoder would otherwise
// give a misleading message. Faulty metadata is no error, it is left out.

// Bounds on metadata, far above what real files hold.
const (
	maxProfile = 8 << 20 // bytes of a colour profile
	maxText    = 1 << 20 // bytes of one text record
	maxTexts   = 64      // text records in a file
)

// maxDeflate is the largest factor by which deflate can expand (258 bytes from two
// bits).
const maxDeflate = 1032

func scanPNG(path string, data []byte, c image.Config) (header, error) {
	h := header{gray: data[25] == 0 || data[25] == 4} // colour type in IHDR, which the decoder has read
	// Row length from the bit depth and the samples of the colour type.
	samples := map[byte]int64{0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[data[25]]
	row := (int64(c.Width)*samples*int64(data[24]) + 7) / 8
	var pixels int64
	ended := false
	for p := data[len(pngSignature):]; len(p) >= 12 && !ended; {
		n := int64(binary.BigEndian.Uint32(p))
		if n > int64(len(p))-12 {
			return h, truncated(path)
		}
		body := p[8 : 8+n]
		switch string(p[4:8]) {
		case "IDAT":
			pixels += n
		case "IEND":
			ended = true
		case "eXIf":
			h.orientation = exifOrientation(body)
		case "iCCP":
			if _, rest, ok := bytes.Cut(body, []byte{0}); ok && len(rest) > 1 && rest[0] == 0 {
				h.icc, _ = inflate(rest[1:], maxProfile)
			}
		case "tEXt", "iTXt":
			h.addText(string(p[4:8]), body)
		}
		p = p[12+n:]
	}
	if !ended {
		return h, truncated(path)
	}
	if pixels*maxDeflate < row*int64(c.Height) {
		return h, lies(path, kindPNG, c, pixels)
	}
	return h, nil
}

// inflate returns the content of a zlib stream, if it is whole and no larger
// than limit.
func inflate(b []byte, limit int64) ([]byte, bool) {
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, false
	}
	out, err := io.ReadAll(io.LimitReader(z, limit+1))
	if err != nil || int64(len(out)) > limit {
		return nil, false
	}
	return out, true
}

// addText takes a record "keyword NUL text" in Latin-1, or an international one
// "keyword NUL compressed method language NUL translated NUL text" in UTF-8.
func (h *header) addText(chunk string, body []byte) {
	key, rest, ok := strings.Cut(string(body[:min(len(body), maxText)]), "\x00")
	if !ok || len(h.text) >= maxTexts || len(body) > maxText || checkKeyword(key) != nil {
		return
	}
	// XMP and the profiles that some programs hide in text repeat the orientation
	// and the colour space of the source; copied to an output they would be wrong.
	if strings.HasPrefix(key, "XML:") || strings.HasPrefix(key, "Raw profile") {
		return
	}
	value := latin1(rest)
	if chunk == "iTXt" {
		if len(rest) < 2 {
			return
		}
		compressed, method := rest[0], rest[1]
		_, rest, ok = strings.Cut(rest[2:], "\x00")
		if !ok {
			return
		}
		if _, value, ok = strings.Cut(rest, "\x00"); !ok {
			return
		}
		if compressed != 0 {
			b, ok := inflate([]byte(value), maxText)
			if !ok || method != 0 {
				return
			}
			value = string(b)
		}
	}
	if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
		return
	}
	if h.text == nil {
		h.text = map[string]string{}
	}
	h.text[key] = value
}

func latin1(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

func scanJPEG(path string, data []byte, c image.Config) (header, error) {
	var h header
	// An ICC profile longer than a segment comes in numbered pieces.
	var pieces [256][]byte
	total := 0
	for p := data[2:]; len(p) >= 4; {
		if p[0] != 0xff {
			break // the decoder judges
		}
		marker := p[1]
		if marker == 0xff { // fill byte
			p = p[1:]
			continue
		}
		if marker == 0xda || marker == 0xd9 { // pixels begin, or the end
			break
		}
		n := int(binary.BigEndian.Uint16(p[2:]))
		if n < 2 || n+2 > len(p) {
			break
		}
		body := p[4 : 2+n]
		switch {
		case marker == 0xe1 && bytes.HasPrefix(body, []byte("Exif\x00\x00")) && h.orientation == 0:
			h.orientation = exifOrientation(body[6:])
		case marker == 0xe2 && len(body) > 14 && bytes.HasPrefix(body, []byte("ICC_PROFILE\x00")):
			pieces[body[12]] = body[14:]
			total = int(body[13])
		}
		p = p[2+n:]
	}
	for i := 1; i <= total; i++ {
		if pieces[i] == nil {
			h.icc = nil
			break
		}
		h.icc = append(h.icc, pieces[i]...)
	}
	// The shortest code is one bit, and every 8x8 block has at least one.
	blocks := int64((c.Width+7)/8) * int64((c.Height+7)/8)
	if int64(len(data))*8 < blocks {
		return h, lies(path, kindJPEG, c, int64(len(data)))
	}
	return h, nil
}

func scanWebP(path string, data []byte, c image.Config) (header, error) {
	var h header
	if size := uint64(binary.LittleEndian.Uint32(data[4:])); size+8 > uint64(len(data)) {
		return h, truncated(path)
	}
	for p := data[12:]; len(p) >= 8; {
		n := uint64(binary.LittleEndian.Uint32(p[4:]))
		if n > uint64(len(p))-8 {
			return h, truncated(path)
		}
		body := p[8 : 8+n]
		switch string(p[:4]) {
		case "VP8X":
			if n > 0 && body[0]&2 != 0 {
				return h, fail(path, ErrUnsupported, "an animated WebP, expected a single picture; save one frame as PNG")
			}
		case "ICCP":
			if n <= maxProfile {
				h.icc = bytes.Clone(body)
			}
		case "EXIF":
			// Some writers keep the prefix that JPEG needs.
			h.orientation = exifOrientation(bytes.TrimPrefix(body, []byte("Exif\x00\x00")))
		}
		p = p[min(8+n+n%2, uint64(len(p))):] // chunks are padded to even length
	}
	return h, nil
}

// scanBMP compares the length of the file with that of its rows, which are never
// compressed in the variants the decoder takes.
func scanBMP(path string, data []byte, c image.Config) (header, error) {
	bits := int64(binary.LittleEndian.Uint16(data[28:]))
	row := (int64(c.Width)*bits + 31) / 32 * 4
	if int64(binary.LittleEndian.Uint32(data[10:]))+row*int64(c.Height) > int64(len(data)) {
		return header{}, truncated(path)
	}
	return header{}, nil
}

// scanTIFF checks what the decoder allocates by: the sizes of tiles and strips,
// which are claims just as the size of the picture is.
func scanTIFF(path string, data []byte, c image.Config) (header, error) {
	var h header
	d, ok := openTIFF(data)
	if !ok {
		return h, truncated(path)
	}
	h.orientation = d.orientation()
	if raw, _, _ := d.field(tagICC); len(raw) > 0 && len(raw) <= maxProfile {
		h.icc = bytes.Clone(raw)
	}
	if d.uint(tagPlanar, 1) == 2 && d.uint(tagSamples, 1) > 1 {
		return h, fail(path, ErrUnsupported, "a TIFF with one plane per colour, which is not supported; save it with interleaved colours or as PNG")
	}

	// Fax codes speak of black and white, but it is the bits they stand for that the
	// photometric tag interprets; the decoder looks at the tag twice only where
	// white is zero.
	fax := d.uint(tagCompression, 1) == 3 || d.uint(tagCompression, 1) == 4
	h.invert = fax && d.uint(tagPhotometric, 0) == 1

	w, hgt := uint64(c.Width), uint64(c.Height)
	bw, bh := w, min(d.uint(tagRowsPerStrip, hgt), hgt)
	if bh == 0 {
		bh = hgt
	}
	offsetTag, countTag, tiled := uint16(tagStripOffsets), uint16(tagStripCounts), false
	if t := d.uint(tagTileWidth, 0); t != 0 {
		bw, bh = t, d.uint(tagTileHeight, 0)
		offsetTag, countTag, tiled = tagTileOffsets, tagTileCounts, true
	}
	const maxBlocks, maxTile = 1 << 18, 1 << 20
	if bw == 0 || bh == 0 || tiled && (bw > 1<<31 || bh > 1<<31 || bw*bh > max(maxTile, 2*w*hgt)) {
		return h, fail(path, ErrDamaged, "damaged TIFF (tiles of %dx%d for a picture of %dx%d); save it again, for instance as PNG", bw, bh, w, hgt)
	}
	blocks := ((w + bw - 1) / bw) * ((hgt + bh - 1) / bh)
	if blocks > maxBlocks {
		return h, fail(path, ErrTooLarge, "a TIFF in %d pieces, the limit is %d; save it again, for instance as PNG", blocks, maxBlocks)
	}
	offsets, counts := d.uints(offsetTag, int(blocks)), d.uints(countTag, int(blocks))
	if uint64(len(offsets)) < blocks || uint64(len(counts)) < blocks {
		return h, truncated(path)
	}
	samples := uint64(max(len(d.uints(tagBits, 16)), 1))
	row := (bw*samples*d.uint(tagBits, 1) + 7) / 8
	expand := maxExpansion(d.uint(tagCompression, 1))
	var sum uint64
	for i, n := range counts {
		if offsets[i]+n > uint64(len(data)) {
			return h, truncated(path)
		}
		sum += n
		rows := bh
		if last := hgt % bh; !tiled && last != 0 && uint64(i) == blocks-1 {
			rows = last
		}
		if n*expand < row*rows {
			return h, lies(path, kindTIFF, c, int64(n))
		}
	}
	// Pieces that share their bytes are a way to make little data expensive.
	if sum > 2*uint64(len(data)) {
		return h, lies(path, kindTIFF, c, int64(len(data)))
	}
	return h, nil
}

// maxExpansion is the largest factor by which a TIFF compression can expand.
func maxExpansion(compression uint64) uint64 {
	switch compression {
	case 0, 1:
		return 1
	case 32773: // PackBits: 128 bytes from 2
		return 64
	case 5: // LZW: at most 3838 bytes from a code of 12 bits
		return 2560
	case 8, 32946:
		return maxDeflate
	}
	// The CCITT fax codes need a bit per row at least and rows are a few thousand
	// pixels at most; anything else the decoder refuses.
	return 1 << 16
}
