package imagefile

import (
	"encoding/binary"
)

// exifOrientation returns the orientation tag (0x0112) of the first directory of
// an EXIF block, which is a TIFF file without pixels, or 1 (upright) where
// there is none or it makes no sense. Only that directory is read, so there is
// nothing to loop over.
func exifOrientation(b []byte) int {
	d, ok := openTIFF(b)
	if !ok {
		return 1
	}
	return d.orientation()
}

// tiffDir is the first image file directory of a TIFF file.
type tiffDir struct {
	data    []byte
	order   binary.ByteOrder
	entries []byte // 12 bytes each: tag, type, count, value or offset
}

const (
	tagWidth        = 256
	tagHeight       = 257
	tagBits         = 258
	tagCompression  = 259
	tagPhotometric  = 262
	tagStripOffsets = 273
	tagOrientation  = 274
	tagSamples      = 277
	tagRowsPerStrip = 278
	tagStripCounts  = 279
	tagPlanar       = 284
	tagPredictor    = 317
	tagTileWidth    = 322
	tagTileHeight   = 323
	tagTileOffsets  = 324
	tagTileCounts   = 325
	tagExtraSamples = 338
	tagSampleFormat = 339
	tagICC          = 34675
)

// Sizes of the TIFF field types, by type number.
var fieldSize = [...]uint64{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

// openTIFF finds the first directory. A directory that is cut off is used as far
// as it goes.
func openTIFF(b []byte) (tiffDir, bool) {
	d := tiffDir{data: b}
	if len(b) < 8 {
		return d, false
	}
	switch string(b[:4]) {
	case "II*\x00":
		d.order = binary.LittleEndian
	case "MM\x00*":
		d.order = binary.BigEndian
	default:
		return d, false
	}
	at := uint64(d.order.Uint32(b[4:8]))
	if at < 8 || at+2 > uint64(len(b)) {
		return d, false
	}
	n := uint64(d.order.Uint16(b[at:]))
	end := min(at+2+12*n, uint64(len(b)))
	d.entries = b[at+2 : end]
	return d, true
}

// field returns the raw values of a tag, their type and their count.
func (d *tiffDir) field(tag uint16) (raw []byte, typ uint16, count uint64) {
	for e := d.entries; len(e) >= 12; e = e[12:] {
		if d.order.Uint16(e) != tag {
			continue
		}
		typ, count = d.order.Uint16(e[2:]), uint64(d.order.Uint32(e[4:]))
		if int(typ) >= len(fieldSize) || fieldSize[typ] == 0 {
			return nil, 0, 0
		}
		size := fieldSize[typ] * count // both below 2^33, no overflow
		if size <= 4 {
			return e[8 : 8+size], typ, count
		}
		at := uint64(d.order.Uint32(e[8:]))
		if at+size > uint64(len(d.data)) {
			return nil, 0, 0
		}
		return d.data[at : at+size], typ, count
	}
	return nil, 0, 0
}

// uints returns the values of a tag of an unsigned type, at most limit of them.
func (d *tiffDir) uints(tag uint16, limit int) []uint64 {
	raw, typ, count := d.field(tag)
	n := int(min(count, uint64(limit)))
	var out []uint64
	for i := range n {
		switch typ {
		case 1:
			out = append(out, uint64(raw[i]))
		case 3:
			out = append(out, uint64(d.order.Uint16(raw[2*i:])))
		case 4:
			out = append(out, uint64(d.order.Uint32(raw[4*i:])))
		default:
			return nil
		}
	}
	return out
}

// uint returns the first value of a tag, or def where it is absent.
func (d *tiffDir) uint(tag uint16, def uint64) uint64 {
	if v := d.uints(tag, 1); len(v) == 1 {
		return v[0]
	}
	return def
}

func (d *tiffDir) orientation() int {
	if v := d.uint(tagOrientation, 1); v >= 1 && v <= 8 {
		return int(v)
	}
	return 1
}

// Orient turns the picture so that it is upright. The orientation says where the
// first row and the first column of the file are to be shown: 1 top left, 2 top
// right, 3 bottom right, 4 bottom left, 5 left top, 6 right top, 7 right bottom,
// 8 left bottom (from 5 on rows become columns).
func (m *Image) Orient(orientation int) {
	if orientation < 2 || orientation > 8 {
		return
	}
	w, h := m.W, m.H
	if orientation >= 5 {
		w, h = h, w
	}
	pix := make([]float32, len(m.Pix))
	var alpha []uint16
	if m.Alpha != nil {
		alpha = make([]uint16, len(m.Alpha))
	}
	for y := range h {
		for x := range w {
			var sx, sy int // where (x, y) of the result is in the file
			switch orientation {
			case 2:
				sx, sy = m.W-1-x, y
			case 3:
				sx, sy = m.W-1-x, m.H-1-y
			case 4:
				sx, sy = x, m.H-1-y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, m.H-1-x
			case 7:
				sx, sy = m.W-1-y, m.H-1-x
			case 8:
				sx, sy = m.W-1-y, x
			}
			to, from := y*w+x, sy*m.W+sx
			copy(pix[3*to:3*to+3], m.Pix[3*from:3*from+3])
			if alpha != nil {
				alpha[to] = m.Alpha[from]
			}
		}
	}
	m.W, m.H, m.Pix, m.Alpha = w, h, pix, alpha
}
