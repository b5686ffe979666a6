package imagefile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// encodeTIFF writes a baseline TIFF: little endian, strips compressed by deflate
// with the horizontal predictor. The encoder of x/image is not used because it
// stores opaque pictures with an alpha channel and has no place for a profile.
func encodeTIFF(w io.Writer, m *Image) error {
	channels, photometric := 3, uint32(2) // RGB
	switch {
	case m.Alpha != nil:
		channels = 4
	case m.Gray:
		channels, photometric = 1, 1 // black is zero
	}
	depth := uint32(8)
	if m.Depth == 16 {
		depth = 16
	}
	rowBytes := m.W * channels * int(depth/8)
	perStrip := min(max((256<<10)/rowBytes, 1), m.H)

	var data bytes.Buffer
	var offsets, counts []uint32
	strip := make([]byte, 0, perStrip*rowBytes)
	for y := 0; y < m.H; y += perStrip {
		strip = strip[:min(perStrip, m.H-y)*rowBytes]
		for r := 0; r*rowBytes < len(strip); r++ {
			row := strip[r*rowBytes : (r+1)*rowBytes]
			m.packRow(row, y+r, channels, binary.LittleEndian)
			differences(row, channels, depth == 16)
		}
		at := data.Len()
		deflate(&data, strip)
		if data.Len() > math.MaxUint32/2 {
			return fmt.Errorf("the picture is too large for a TIFF file; write a PNG")
		}
		offsets = append(offsets, uint32(8+at))
		counts = append(counts, uint32(data.Len()-at))
	}

	bits := make([]uint32, channels)
	for i := range bits {
		bits[i] = depth
	}
	d := directory{at: uint32(8 + data.Len() + data.Len()%2)} // directories begin at even offsets
	const short, long, undefined = 3, 4, 7
	d.add(tagWidth, long, uint32(m.W))
	d.add(tagHeight, long, uint32(m.H))
	d.add(tagBits, short, bits...)
	d.add(tagCompression, short, 8)
	d.add(tagPhotometric, short, photometric)
	d.add(tagStripOffsets, long, offsets...)
	d.add(tagSamples, short, uint32(channels))
	d.add(tagRowsPerStrip, long, uint32(perStrip))
	d.add(tagStripCounts, long, counts...)
	d.add(tagPlanar, short, 1)
	d.add(tagPredictor, short, 2)
	if channels == 4 {
		d.add(tagExtraSamples, short, 2) // alpha, colours not multiplied with it
	}
	if icc := profileFor(m.ICC, photometric == 1); icc != nil {
		d.addBytes(tagICC, undefined, icc)
	}

	head := append([]byte("II*\x00"), binary.LittleEndian.AppendUint32(nil, d.at)...)
	data.Write(make([]byte, data.Len()%2))
	for _, b := range [][]byte{head, data.Bytes(), d.bytes()} {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// differences replaces each sample by its difference to the pixel on the left.
func differences(row []byte, channels int, deep bool) {
	if !deep {
		for i := len(row) - 1; i >= channels; i-- {
			row[i] -= row[i-channels]
		}
		return
	}
	le := binary.LittleEndian
	for i := len(row) - 2; i >= 2*channels; i -= 2 {
		le.PutUint16(row[i:], le.Uint16(row[i:])-le.Uint16(row[i-2*channels:]))
	}
}

// directory collects the fields of a TIFF file, to be added in ascending order.
type directory struct {
	at     uint32 // offset of the directory in the file
	fields []field
}

type field struct {
	tag, typ uint16
	count    uint32
	raw      []byte
}

func (d *directory) add(tag, typ uint16, values ...uint32) {
	var raw []byte
	for _, v := range values {
		if typ == 3 {
			raw = binary.LittleEndian.AppendUint16(raw, uint16(v))
		} else {
			raw = binary.LittleEndian.AppendUint32(raw, v)
		}
	}
	d.fields = append(d.fields, field{tag, typ, uint32(len(values)), raw})
}

func (d *directory) addBytes(tag, typ uint16, raw []byte) {
	d.fields = append(d.fields, field{tag, typ, uint32(len(raw)), raw})
}

// bytes lays the directory out, followed by the values longer than four bytes.
func (d *directory) bytes() []byte {
	le := binary.LittleEndian
	out := le.AppendUint16(nil, uint16(len(d.fields)))
	after := d.at + 2 + 12*uint32(len(d.fields)) + 4
	var long []byte
	for _, f := range d.fields {
		out = le.AppendUint16(out, f.tag)
		out = le.AppendUint16(out, f.typ)
		out = le.AppendUint32(out, f.count)
		if len(f.raw) <= 4 {
			out = append(out, f.raw...)
			out = append(out, make([]byte, 4-len(f.raw))...)
			continue
		}
		out = le.AppendUint32(out, after+uint32(len(long)))
		long = append(long, f.raw...)
		long = append(long, make([]byte, len(long)%2)...)
	}
	return append(append(out, 0, 0, 0, 0), long...) // no further directory
}
