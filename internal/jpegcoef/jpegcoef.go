package jpegcoef

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// File is what a JPEG file says about a picture.
type File struct {
	Width, Height int
	Components    []Component // luma, Cb and Cr, or luma alone
	Progressive   bool
	// Transform is the colour transform of an Adobe marker, -1 where there is none: 0 means that three components are
	// red, green and blue.
	Transform int
}

// Component is a plane.
type Component struct {
	ID     byte
	H, V   int     // sampling factors
	Table  [64]int // steps, row by row
	Across int     // blocks in a row, those beyond the picture included
	Down   int
	// Coefficients are the integers of the blocks one after the other, each row by row.
	Coefficients []int16

	table int // of quantisation
	known bool
}

// At is the coefficient at a row and a column counted like pixels, blocks side by side.
func (c *Component) At(row, column int) int {
	return int(c.Coefficients[(row/8*c.Across+column/8)*64+row%8*8+column%8])
}

// Sampling is the number of pixels for one sample of chroma, across and down; ok is false where the components do not fit
// such a description.
func (f *File) Sampling() (across, down int, ok bool) {
	if len(f.Components) == 1 {
		return 1, 1, true
	}
	y, cb, cr := f.Components[0], f.Components[1], f.Components[2]
	if cb.H != cr.H || cb.V != cr.V || y.H < cb.H || y.V < cb.V || y.H%cb.H != 0 || y.V%cb.V != 0 {
		return 0, 0, false
	}
	return y.H / cb.H, y.V / cb.V, true
}

// Limits of what is read.
const (
	maxScans = 100 // of a progressive file; encoders write about ten
)

// errShort is matched where the file ends early.
var errShort = errors.New("the file ends early")

// Is reports whether data begins like a JPEG file.
func Is(data []byte) bool {
	return len(data) > 2 && data[0] == 0xff && data[1] == 0xd8 && data[2] == 0xff
}

// Read reads a file of at most maxPixels pixels.
func Read(data []byte, maxPixels int) (*File, error) {
	if !Is(data) {
		return nil, errors.New("not a JPEG file")
	}
	r := &reader{data: data[2:], max: maxPixels, f: File{Transform: -1}}
	if err := r.read(); err != nil {
		return nil, fmt.Errorf("JPEG: %w", err)
	}
	return &r.f, nil
}

type reader struct {
	data    []byte // what is left
	max     int
	f       File
	tables  [4]*[64]int
	coding  [2][4]*huffman // DC and AC
	restart int            // units between restart markers
	scans   int
	budget  int  // blocks that may still be read
	seen    bool // a frame

	bits  uint32
	count int
	eob   int // blocks left in a run of ends of blocks
}

// zigzag is the place in a block, row by row, of the coefficients in the order of the file.
var zigzag = [64]int{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
}

// read goes from marker to marker to the end of the picture.
func (r *reader) read() error {
	for {
		marker, err := r.marker()
		if err != nil {
			return err
		}
		if marker == 0xd9 {
			return r.finish()
		}
		if marker >= 0xd0 && marker <= 0xd7 || marker == 0x01 {
			continue // stand alone
		}
		if len(r.data) < 2 {
			return errShort
		}
		n := int(binary.BigEndian.Uint16(r.data))
		if n < 2 || n > len(r.data) {
			return errShort
		}
		body := r.data[2:n]
		r.data = r.data[n:]
		switch {
		case marker == 0xc0 || marker == 0xc1 || marker == 0xc2:
			err = r.frame(body, marker == 0xc2)
		case marker == 0xc4:
			err = r.huffmanTables(body)
		case marker >= 0xc3 && marker <= 0xcf && marker != 0xc8 && marker != 0xcc:
			err = fmt.Errorf("files of kind 0x%x, lossless or arithmetically coded, are not read", marker)
		case marker == 0xcc:
			err = errors.New("arithmetic coding is not read")
		case marker == 0xdb:
			err = r.quantisation(body)
		case marker == 0xdd:
			if len(body) != 2 {
				return errors.New("restart interval of a wrong length")
			}
			r.restart = int(binary.BigEndian.Uint16(body))
		case marker == 0xda:
			err = r.scan(body)
		case marker == 0xee && len(body) >= 12 && string(body[:5]) == "Adobe":
			r.f.Transform = int(body[11])
		}
		if err != nil {
			return err
		}
	}
}

// marker is the next one.
func (r *reader) marker() (byte, error) {
	for i := 0; i+1 < len(r.data); i++ { // what lies before one is skipped, as decoders do
		if r.data[i] == 0xff && r.data[i+1] != 0 && r.data[i+1] != 0xff {
			m := r.data[i+1]
			r.data = r.data[i+2:]
			return m, nil
		}
	}
	return 0, errShort
}

func (r *reader) quantisation(b []byte) error {
	for len(b) > 0 {
		wide, id := b[0]>>4, b[0]&15
		size := 64
		if wide == 1 {
			size = 128
		}
		if wide > 1 || id > 3 || len(b) < 1+size {
			return errors.New("quantisation table of a wrong length or number")
		}
		var t [64]int
		for i := range 64 {
			v := int(b[1+i%64])
			if wide == 1 {
				v = int(binary.BigEndian.Uint16(b[1+2*i:]))
			}
			if v == 0 {
				return errors.New("quantisation table with a step of 0")
			}
			t[zigzag[i]] = v
		}
		r.tables[id] = &t
		b = b[1+size:]
	}
	return nil
}

func (r *reader) frame(b []byte, progressive bool) error {
	if r.seen {
		return errors.New("a second frame")
	}
	if len(b) < 6 {
		return errShort
	}
	h, w, n := int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:])), int(b[5])
	switch {
	case b[0] != 8:
		return fmt.Errorf("%d bits, only 8 are read", b[0])
	case h < 1 || w < 1:
		return fmt.Errorf("a picture of %d x %d pixels", w, h)
	case h*w > r.max:
		return fmt.Errorf("%d x %d pixels, the limit is %d in all", w, h, r.max)
	case n != 1 && n != 3:
		return fmt.Errorf("%d components; grey pictures and those of luma and chroma are read", n)
	case len(b) != 6+3*n:
		return errors.New("frame of a wrong length")
	}
	r.seen, r.f.Progressive, r.f.Width, r.f.Height = true, progressive, w, h
	most := [2]int{}
	for i := range n {
		c := Component{ID: b[6+3*i], H: int(b[7+3*i] >> 4), V: int(b[7+3*i] & 15), table: int(b[8+3*i])}
		if c.H < 1 || c.H > 4 || c.V < 1 || c.V > 4 || c.table > 3 {
			return fmt.Errorf("sampling factors %d x %d and table %d", c.H, c.V, c.table)
		}
		for _, other := range r.f.Components {
			if other.ID == c.ID {
				return errors.New("two components of one name")
			}
		}
		if n == 1 {
			c.H, c.V = 1, 1 // they mean nothing
		}
		most[0], most[1] = max(most[0], c.H), max(most[1], c.V)
		r.f.Components = append(r.f.Components, c)
	}
	for i := range r.f.Components {
		c := &r.f.Components[i]
		c.Across = (w + 8*most[0] - 1) / (8 * most[0]) * c.H
		c.Down = (h + 8*most[1] - 1) / (8 * most[1]) * c.V
		r.budget += c.Across * c.Down
	}
	if r.budget > 8*len(r.data) { // every block has a DC, of a bit at least
		return errShort
	}
	for i := range r.f.Components {
		c := &r.f.Components[i]
		c.Coefficients = make([]int16, 64*c.Across*c.Down)
	}
	r.budget *= maxScans
	return nil
}

// finish is the end of the picture.
func (r *reader) finish() error {
	if !r.seen || r.scans == 0 {
		return errors.New("no picture in the file")
	}
	for i := range r.f.Components {
		c := &r.f.Components[i]
		if !c.known {
			return fmt.Errorf("component %d has no data", i)
		}
	}
	return nil
}
