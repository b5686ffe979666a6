package imagefile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/jpeg"
	"testing"

	"github.com/stretchr/testify/require"
)

// exifBlock is a TIFF header with the orientation as its only field.
func exifBlock(order binary.AppendByteOrder, orientation uint16) []byte {
	b := []byte("II*\x00")
	if order.String() == "BigEndian" {
		b = []byte("MM\x00*")
	}
	b = order.AppendUint32(b, 8)
	b = order.AppendUint16(b, 1)
	b = order.AppendUint16(b, tagOrientation)
	b = order.AppendUint16(b, 3)
	b = order.AppendUint32(b, 1)
	b = order.AppendUint16(b, orientation)
	b = append(b, 0, 0)
	return order.AppendUint32(b, 0)
}

// withSegment inserts a segment after the start marker of a JPEG.
func withSegment(file []byte, marker byte, body []byte) []byte {
	out := append([]byte{0xff, 0xd8, 0xff, marker}, byte((len(body)+2)>>8), byte(len(body)+2))
	out = append(out, body...)
	return append(out, file[2:]...)
}

func TestOrientationJPEG(t *testing.T) {
	// Upright: black, dark, bright, white in the four corners of 16x32.
	const w, h = 16, 32
	corners := [4]uint8{0, 80, 160, 255}
	upright := func(x, y int) uint8 { return corners[y/(h/2)*2+x/(w/2)] }
	for o := 1; o <= 8; o++ {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			t.Run(fmt.Sprintf("%d/%v", o, order), func(t *testing.T) {
				fw, fh := w, h
				if o >= 5 {
					fw, fh = h, w
				}
				file := image.NewGray(image.Rect(0, 0, fw, fh))
				for y := range h {
					for x := range w {
						// Where the definition of the tag puts the upright pixel in the file: rows of
						// the file begin at the first named side and run along the second.
						var fx, fy int
						switch o {
						case 1: // row 0 = top, column 0 = left
							fx, fy = x, y
						case 2: // top, right
							fx, fy = w-1-x, y
						case 3: // bottom, right
							fx, fy = w-1-x, h-1-y
						case 4: // bottom, left
							fx, fy = x, h-1-y
						case 5: // left, top
							fx, fy = y, x
						case 6: // right, top
							fx, fy = y, w-1-x
						case 7: // right, bottom
							fx, fy = h-1-y, w-1-x
						case 8: // left, bottom
							fx, fy = h-1-y, x
						}
						file.Pix[fy*file.Stride+fx] = upright(x, y)
					}
				}
				var b bytes.Buffer
				require.NoError(t, jpeg.Encode(&b, file, &jpeg.Options{Quality: 100}))
				data := withSegment(b.Bytes(), 0xe1, append([]byte("Exif\x00\x00"), exifBlock(order, uint16(o))...))
				m, err := Decode("x.jpg", data, Limits{})
				require.NoError(t, err)
				require.Equal(t, [2]int{w, h}, [2]int{m.W, m.H})
				for y := range h {
					for x := range w {
						require.InDelta(t, level8[upright(x, y)], m.Pix[3*(y*w+x)], 0.02, "x=%d y=%d", x, y)
					}
				}
			})
		}
	}
}

// Turning also moves the transparency, and twice by half a turn is nothing.
func TestOrientAlpha(t *testing.T) {
	in := noise(5, 3, 8, false, true, 2)
	for o, back := range map[int]int{2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6} {
		m := noise(5, 3, 8, false, true, 2)
		m.Orient(o)
		require.NotEqual(t, in.Alpha, m.Alpha, "%d", o)
		m.Orient(back)
		require.Equal(t, in, m, "%d", o)
	}
}

func TestExifNonsense(t *testing.T) {
	good := exifBlock(binary.LittleEndian, 6)
	require.Equal(t, 6, exifOrientation(good))
	for n := range len(good) - 6 {
		require.Equal(t, 1, exifOrientation(good[:n]), "%d bytes", n)
	}
	for _, v := range []uint16{0, 9, 65535} {
		require.Equal(t, 1, exifOrientation(exifBlock(binary.BigEndian, v)))
	}
	loop := exifBlock(binary.LittleEndian, 6)
	binary.LittleEndian.PutUint32(loop[4:], 0xffffffff)
	require.Equal(t, 1, exifOrientation(loop))
}

func FuzzOrientation(f *testing.F) {
	f.Add(exifBlock(binary.LittleEndian, 6))
	f.Add(exifBlock(binary.BigEndian, 3))
	f.Add([]byte("II*\x00\x08\x00\x00\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o := exifOrientation(b); o < 1 || o > 8 {
			t.Fatalf("orientation %d", o)
		}
	})
}
