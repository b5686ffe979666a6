package imagefile

import (
	"image"
	"image/color"
	"math"
)

// toRGB converts one pixel of a luma-chroma picture.
type toRGB func(y, cb, cr uint8) (r, g, b uint8)

// jfifRGB is the full-range conversion of JPEG files.
func jfifRGB(y, cb, cr uint8) (r, g, b uint8) { return color.YCbCrToRGB(y, cb, cr) }

// studioRGB is the conversion of lossy WebP files: ITU-R BT.601 with luma in
// 16..235 and chroma in 16..240. (The type image.YCbCr, in which x/image hands
// such pictures out, means the full range of JPEG; taken at its word the picture
// would have grey instead of black.)
func studioRGB(y, cb, cr uint8) (r, g, b uint8) {
	l := 255.0 / 219 * (float64(y) - 16)
	u := 255.0 / 224 * (float64(cb) - 128)
	v := 255.0 / 224 * (float64(cr) - 128)
	level := func(x float64) uint8 { return uint8(math.Round(min(max(x, 0), 255))) }
	return level(l + 1.402*v), level(l - 0.344136*u - 0.714136*v), level(l + 1.772*u)
}

// fromYCbCr fills the picture. Chroma of half width (4:2:2) or half width and
// height (4:2:0) is enlarged by the triangle filter (3/4, 1/4) as the usual
// decoders do, because repeating it leaves coloured steps at edges, and a
// quality figure against another program's decoding would show them. Rarer
// ratios are repeated.
func (m *Image) fromYCbCr(s *image.YCbCr, rgb toRGB) {
	half := s.SubsampleRatio == image.YCbCrSubsampleRatio422 || s.SubsampleRatio == image.YCbCrSubsampleRatio420
	if !half || s.Rect.Min.X%2 != 0 || s.Rect.Min.Y%2 != 0 {
		m.rows(func(y, x0 int) {
			for x := range m.W {
				i := s.COffset(s.Rect.Min.X+x, s.Rect.Min.Y+y)
				l := s.Y[s.YOffset(s.Rect.Min.X+x, s.Rect.Min.Y+y)]
				m.set8(x0+x, l, s.Cb[i], s.Cr[i], rgb)
			}
		})
		return
	}
	cw := (m.W + 1) / 2
	cb, cr := make([]uint8, 2*cw), make([]uint8, 2*cw)
	sum := make([]int, cw)
	m.rows(func(y, x0 int) {
		near, far := y, y
		if s.SubsampleRatio == image.YCbCrSubsampleRatio420 {
			near = y / 2
			far = min(max(near-1+y%2*2, 0), (m.H+1)/2-1)
		}
		widen(cb, sum, s.Cb[near*s.CStride:], s.Cb[far*s.CStride:])
		widen(cr, sum, s.Cr[near*s.CStride:], s.Cr[far*s.CStride:])
		for x, l := range s.Y[y*s.YStride : y*s.YStride+m.W] {
			m.set8(x0+x, l, cb[x], cr[x], rgb)
		}
	})
}

// widen computes one full-width row of chroma from the two nearest rows,
// out[x] = (9 near[i] + 3 far[i] + 3 near[j] + far[j]) / 16, where i = x/2 and j is
// the neighbour of i on the side of x. The halves of /16 go up and down in turn,
// as in libjpeg, so that rounding does not shift the colour.
func widen(out []uint8, sum []int, near, far []uint8) {
	for i := range sum {
		sum[i] = 3*int(near[i]) + int(far[i])
	}
	last := len(sum) - 1
	for i, v := range sum {
		out[2*i] = uint8((3*v + sum[max(i-1, 0)] + 8) >> 4)
		out[2*i+1] = uint8((3*v + sum[min(i+1, last)] + 7) >> 4)
	}
}

func (m *Image) set8(i int, y, cb, cr uint8, rgb toRGB) {
	r, g, b := rgb(y, cb, cr)
	m.set(i, level8[r], level8[g], level8[b])
}
