package main

import (
	"encoding/json"
	"io"
	"math"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/parity"
)

// planar turns pixels into the measurement file's order, channels apart.
func planar(pix []float32, h, w int) []float32 { return parity.NCHW(pix, 1, h, w, 3) }

// enlarged repeats the pixels of a small measurement as often as a width has room for, so that it can stand beside the result.
func enlarged(m *imagefile.Image, width int) *imagefile.Image {
	if factor := width / max(m.W, 1); factor > 1 {
		return m.Enlarged(m.W*factor, m.H*factor)
	}
	return m
}

// alphaFor is the transparency of a picture of another size: bilinear, as the picture's own edges are soft as well.
func alphaFor(m *imagefile.Image, h, w int) []uint16 {
	if m.Alpha == nil || (m.H == h && m.W == w) {
		return m.Alpha
	}
	out := make([]uint16, h*w)
	at := func(n, size, i int) (int, int, float64) {
		p := (float64(i)+0.5)*float64(n)/float64(size) - 0.5
		p = min(max(p, 0), float64(n-1))
		lo := int(p)
		return lo, min(lo+1, n-1), p - float64(lo)
	}
	for y := range h {
		y0, y1, fy := at(m.H, h, y)
		for x := range w {
			x0, x1, fx := at(m.W, w, x)
			a := func(y, x int) float64 { return float64(m.Alpha[y*m.W+x]) }
			v := (a(y0, x0)*(1-fx)+a(y0, x1)*fx)*(1-fy) + (a(y1, x0)*(1-fx)+a(y1, x1)*fx)*fy
			out[y*w+x] = uint16(math.Round(v))
		}
	}
	return out
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
