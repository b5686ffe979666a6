package imagefile

import (
	"fmt"
	"image"
	"image/color"
	"math"
)

// Image is a picture in the value range of the engine, with the properties of
// the file it came from that an output should keep.
type Image struct {
	W, H int
	// Pix holds RGB values interleaved, row by row, in [-1, 1].
	Pix []float32
	// Gray says that the source had no colour. Write then stores the luminance
	// only. Set it to false to store colours, for instance after colouring.
	Gray bool
	// Alpha holds one value per pixel, 65535 = opaque. Nil means opaque everywhere.
	Alpha []uint16
	// Depth is the number of bits per sample, 8 or 16 (0 is taken as 8 by Write).
	Depth int
	// Orientation is how the file lay, 2 to 8 as EXIF counts them, or 0: upright. Pixels have been turned accordingly.
	Orientation int
	// ICC is the colour profile as found in the file, or nil.
	ICC []byte
	// Text holds the text records of a PNG (iTXt and tEXt) by keyword. Only PNG
	// outputs carry them.
	Text map[string]string
}

// New returns a black picture of 8-bit depth.
func New(w, h int) *Image {
	m := &Image{W: w, H: h, Pix: make([]float32, w*h*3), Depth: 8}
	for i := range m.Pix {
		m.Pix[i] = -1
	}
	return m
}

// FromPixels returns a picture of values [h][w][channels] in the engine's range, clipped to it. One channel is grey.
func FromPixels(values []float32, w, h, channels int) *Image {
	m := New(w, h)
	m.Gray = channels == 1
	for i := range m.Pix {
		m.Pix[i] = min(max(values[i/3*channels+i%3%channels], -1), 1)
	}
	return m
}

// Enlarged returns the picture in a larger size, by repeating pixels. It has no transparency.
func (m *Image) Enlarged(w, h int) *Image {
	out := New(w, h)
	for y := range h {
		for x := range w {
			copy(out.Pix[(y*w+x)*3:][:3], m.Pix[(y*m.H/h*m.W+x*m.W/w)*3:][:3])
		}
	}
	return out
}

// Average makes the picture grey: of every pixel the mean of its channels is left.
func (m *Image) Average() {
	m.Gray = true
	for i := 0; i < len(m.Pix); i += 3 {
		v := (m.Pix[i] + m.Pix[i+1] + m.Pix[i+2]) / 3
		m.Pix[i], m.Pix[i+1], m.Pix[i+2] = v, v, v
	}
}

// Turned returns the picture turned by 180 degrees.
func (m *Image) Turned() *Image {
	out := *m
	out.Orient(3)
	return &out
}

// check reports why the picture cannot be written, or nil. A value that is not
// finite is refused: it would turn silently into black.
func (m *Image) check() error {
	if m == nil {
		return fmt.Errorf("no picture given")
	}
	if m.W <= 0 || m.H <= 0 || len(m.Pix) != m.W*m.H*3 {
		return fmt.Errorf("%d values given for a picture of %dx%d, expected %d", len(m.Pix), m.W, m.H, m.W*m.H*3)
	}
	if m.Alpha != nil && len(m.Alpha) != m.W*m.H {
		return fmt.Errorf("%d alpha values given for a picture of %dx%d, expected %d", len(m.Alpha), m.W, m.H, m.W*m.H)
	}
	if m.Depth != 0 && m.Depth != 8 && m.Depth != 16 {
		return fmt.Errorf("depth of %d bits given, expected 8 or 16", m.Depth)
	}
	for i, v := range m.Pix {
		if v-v != 0 { // NaN or infinite
			return fmt.Errorf("value at x=%d y=%d is %v, expected a finite number", i/3%m.W, i/3/m.W, v)
		}
	}
	return nil
}

// Weights of the luminance, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, as in the
// colouring operator).
const (
	lumaR = 0.299
	lumaB = 0.114
)

// luma is written so that grey gives itself, without rounding.
func luma(p []float32) float64 {
	r, g, b := float64(p[0]), float64(p[1]), float64(p[2])
	return g + lumaR*(r-g) + lumaB*(b-g)
}

// quantise maps [-1, 1] to 0..2*half: round((x+1)*half), halves away from zero,
// clipped.
func quantise(x, half float64) uint16 {
	return uint16(math.Round(min(max((x+1)*half, 0), 2*half)))
}

// ToGo returns the picture as a type of the standard library: Gray, Gray16,
// NRGBA or NRGBA64, after Gray, Depth and Alpha. A grey picture with
// transparency becomes NRGBA, because the library has no type for it.
func (m *Image) ToGo() image.Image {
	r := image.Rect(0, 0, m.W, m.H)
	n := m.W * m.H
	deep := m.Depth == 16
	if m.Gray && m.Alpha == nil {
		if deep {
			out := image.NewGray16(r)
			for i := range n {
				v := quantise(luma(m.Pix[3*i:3*i+3]), 32767.5)
				out.Pix[2*i], out.Pix[2*i+1] = byte(v>>8), byte(v)
			}
			return out
		}
		out := image.NewGray(r)
		for i := range n {
			out.Pix[i] = byte(quantise(luma(m.Pix[3*i:3*i+3]), 127.5))
		}
		return out
	}
	if deep {
		out := image.NewNRGBA64(r)
		for i := range n {
			s, a := m.samples(i, 32767.5)
			p := out.Pix[8*i : 8*i+8]
			for c, v := range s {
				p[2*c], p[2*c+1] = byte(v>>8), byte(v)
			}
			p[6], p[7] = byte(a>>8), byte(a)
		}
		return out
	}
	out := image.NewNRGBA(r)
	for i := range n {
		s, a := m.samples(i, 127.5)
		p := out.Pix[4*i : 4*i+4]
		p[0], p[1], p[2], p[3] = byte(s[0]), byte(s[1]), byte(s[2]), alpha8(a)
	}
	return out
}

// samples returns the quantised colour and the 16-bit alpha of pixel i.
func (m *Image) samples(i int, half float64) (s [3]uint16, a uint16) {
	p := m.Pix[3*i : 3*i+3]
	if m.Gray {
		v := quantise(luma(p), half)
		s = [3]uint16{v, v, v}
	} else {
		for c := range s {
			s[c] = quantise(float64(p[c]), half)
		}
	}
	a = math.MaxUint16
	if m.Alpha != nil {
		a = m.Alpha[i]
	}
	return s, a
}

func alpha8(a uint16) byte { return byte((uint32(a) + 128) / 257) }

// level8 is x = v/127.5 - 1 for every 8-bit sample.
var level8 = func() (t [256]float32) {
	for v := range t {
		t[v] = float32(float64(v)/127.5 - 1)
	}
	return t
}()

func level16(v uint32) float32 { return float32(float64(v)/32767.5 - 1) }

// FromGo converts a picture of the standard library. Types with premultiplied
// colours are divided by their alpha again.
func FromGo(src image.Image) *Image {
	b := src.Bounds()
	m := &Image{W: b.Dx(), H: b.Dy(), Pix: make([]float32, b.Dx()*b.Dy()*3), Depth: 8}
	switch s := src.(type) {
	case *image.Gray:
		m.Gray = true
		m.rows(func(y, x0 int) {
			for x, v := range s.Pix[y*s.Stride : y*s.Stride+m.W] {
				m.set(x0+x, level8[v], level8[v], level8[v])
			}
		})
	case *image.Gray16:
		m.Gray, m.Depth = true, 16
		m.rows(func(y, x0 int) {
			p := s.Pix[y*s.Stride:]
			for x := range m.W {
				v := level16(uint32(p[2*x])<<8 | uint32(p[2*x+1]))
				m.set(x0+x, v, v, v)
			}
		})
	case *image.NRGBA:
		m.rows(func(y, x0 int) {
			p := s.Pix[y*s.Stride:]
			for x := range m.W {
				m.set(x0+x, level8[p[4*x]], level8[p[4*x+1]], level8[p[4*x+2]])
				m.setAlpha(x0+x, uint16(p[4*x+3])*257)
			}
		})
	case *image.RGBA:
		m.rows(func(y, x0 int) {
			p := s.Pix[y*s.Stride:]
			for x := range m.W {
				q := p[4*x : 4*x+4]
				if q[3] == 255 {
					m.set(x0+x, level8[q[0]], level8[q[1]], level8[q[2]])
				} else {
					m.setPremultiplied(x0+x, uint32(q[0])*257, uint32(q[1])*257, uint32(q[2])*257, uint32(q[3])*257)
				}
			}
		})
	case *image.NRGBA64:
		m.Depth = 16
		m.rows(func(y, x0 int) {
			p := s.Pix[y*s.Stride:]
			for x := range m.W {
				q := p[8*x : 8*x+8]
				m.set(x0+x, level16(be16(q[0:])), level16(be16(q[2:])), level16(be16(q[4:])))
				m.setAlpha(x0+x, uint16(be16(q[6:])))
			}
		})
	case *image.RGBA64:
		m.Depth = 16
		m.rows(func(y, x0 int) {
			p := s.Pix[y*s.Stride:]
			for x := range m.W {
				q := p[8*x : 8*x+8]
				m.setPremultiplied(x0+x, be16(q[0:]), be16(q[2:]), be16(q[4:]), be16(q[6:]))
			}
		})
	case *image.Paletted:
		m.fromPalette(s)
	case *image.YCbCr:
		m.fromYCbCr(s, jfifRGB)
	default:
		m.rows(func(y, x0 int) {
			for x := range m.W {
				switch c := src.At(b.Min.X+x, b.Min.Y+y).(type) {
				case color.CMYK:
					// The conversion to 8 bits directly: RGBA would first scale to 16.
					r, g, b := color.CMYKToRGB(c.C, c.M, c.Y, c.K)
					m.set(x0+x, level8[r], level8[g], level8[b])
				default:
					r, g, b, a := c.RGBA()
					m.setPremultiplied(x0+x, r, g, b, a)
				}
			}
		})
	}
	return m
}

func be16(p []byte) uint32 { return uint32(p[0])<<8 | uint32(p[1]) }

// rows calls f with every row and the index of its first pixel.
func (m *Image) rows(f func(y, first int)) {
	for y := range m.H {
		f(y, y*m.W)
	}
}

func (m *Image) set(i int, r, g, b float32) {
	p := m.Pix[3*i : 3*i+3]
	p[0], p[1], p[2] = r, g, b
}

// setAlpha allocates the alpha plane at the first pixel that is not opaque.
func (m *Image) setAlpha(i int, a uint16) {
	if m.Alpha == nil {
		if a == math.MaxUint16 {
			return
		}
		m.Alpha = make([]uint16, m.W*m.H)
		for k := range m.Alpha {
			m.Alpha[k] = math.MaxUint16
		}
	}
	m.Alpha[i] = a
}

// setPremultiplied takes 16-bit values multiplied with alpha. The quotient is
// not rounded to a level of the file, since it holds more than one of them.
func (m *Image) setPremultiplied(i int, r, g, b, a uint32) {
	switch a {
	case math.MaxUint16:
		m.set(i, level16(r), level16(g), level16(b))
		return
	case 0:
		m.set(i, -1, -1, -1)
	default:
		k := 2 / float64(a)
		un := func(v uint32) float32 { return float32(min(float64(v)*k, 2) - 1) }
		m.set(i, un(r), un(g), un(b))
	}
	m.setAlpha(i, uint16(a))
}

func (m *Image) fromPalette(s *image.Paletted) {
	type entry struct {
		r, g, b float32
		a       uint16
	}
	// 256 entries whatever the length of the palette, so that an index outside
	// of it is black and not a panic.
	var table [256]entry
	m.Gray = true
	for i := range table {
		table[i] = entry{-1, -1, -1, math.MaxUint16}
		if i >= len(s.Palette) {
			continue
		}
		one := Image{W: 1, H: 1, Pix: make([]float32, 3)}
		if c, ok := s.Palette[i].(color.NRGBA); ok {
			one.set(0, level8[c.R], level8[c.G], level8[c.B])
			one.setAlpha(0, uint16(c.A)*257)
		} else {
			// Palettes of TIFF files have 16 bits, of which some writers leave the lower
			// eight empty.
			r, g, b, a := s.Palette[i].RGBA()
			if a == math.MaxUint16 {
				one.set(0, level8[r>>8], level8[g>>8], level8[b>>8])
			} else {
				one.setPremultiplied(0, r, g, b, a)
			}
		}
		table[i] = entry{one.Pix[0], one.Pix[1], one.Pix[2], math.MaxUint16}
		if one.Alpha != nil {
			table[i].a = one.Alpha[0]
		}
		if one.Pix[0] != one.Pix[1] || one.Pix[1] != one.Pix[2] {
			m.Gray = false
		}
	}
	m.rows(func(y, x0 int) {
		for x, v := range s.Pix[y*s.Stride : y*s.Stride+m.W] {
			e := &table[v]
			m.set(x0+x, e.r, e.g, e.b)
			m.setAlpha(x0+x, e.a)
		}
	})
}
