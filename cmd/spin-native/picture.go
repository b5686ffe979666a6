package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/internal/parity"
)

// planar and interleaved turn pixels between the measurement file's order (channels apart) and the pictures'.
func planar(pix []float32, h, w int) []float32 { return parity.NCHW(pix, 1, h, w, 3) }

func interleaved(pix []float32, h, w int) []float32 { return parity.NHWC(pix, 1, 3, h, w) }

// enlarged repeats pixels, so that a small measurement can stand beside the result.
func enlarged(m *imagefile.Image, factor int) *imagefile.Image {
	if factor <= 1 {
		return m
	}
	out := imagefile.New(m.W*factor, m.H*factor)
	for y := range out.H {
		for x := range out.W {
			copy(out.Pix[(y*out.W+x)*3:][:3], m.Pix[(y/factor*m.W+x/factor)*3:][:3])
		}
	}
	return out
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

// score is how close a picture is to the truth.
type score struct {
	PSNR   float64 `json:"psnr"`
	SSIM   float64 `json:"ssim"`
	Turned bool    `json:"turned,omitempty"` // the picture was turned by 180 degrees, which its measurement cannot tell
}

func (s score) String() string {
	if s.Turned {
		return fmt.Sprintf("PSNR %.2f dB  SSIM %.3f, turned by 180 degrees", s.PSNR, s.SSIM)
	}
	return fmt.Sprintf("PSNR %.2f dB  SSIM %.3f", s.PSNR, s.SSIM)
}

// averageChannels makes a picture grey.
func averageChannels(m *imagefile.Image) {
	for i := 0; i < len(m.Pix); i += 3 {
		v := (m.Pix[i] + m.Pix[i+1] + m.Pix[i+2]) / 3
		m.Pix[i], m.Pix[i+1], m.Pix[i+2] = v, v, v
	}
}

// turnedRound is the picture turned by 180 degrees.
func turnedRound(m *imagefile.Image) *imagefile.Image {
	out := imagefile.New(m.W, m.H)
	for i := 0; i < len(m.Pix); i += 3 {
		copy(out.Pix[i:i+3], m.Pix[len(m.Pix)-3-i:])
	}
	return out
}

// scoreEither is scoreOf for the better of a picture's two orientations.
func scoreEither(got, truth *imagefile.Image) (score, error) {
	best, err := scoreOf(got, truth)
	if err != nil {
		return best, err
	}
	other, err := scoreOf(turnedRound(got), truth)
	if other.Turned = true; other.PSNR > best.PSNR {
		best = other
	}
	return best, err
}

// scoreOf compares pictures of one size. Equal ones have an infinite PSNR, which JSON cannot hold: 999 stands for it.
func scoreOf(got, truth *imagefile.Image) (score, error) {
	if got.W != truth.W || got.H != truth.H {
		return score{}, fmt.Errorf("the truth is %d x %d pixels, the result %d x %d", truth.W, truth.H, got.W, got.H)
	}
	s, err := metrics.SSIM(got.Pix, truth.Pix, got.W, got.H, 3)
	return score{PSNR: min(metrics.PSNR(got.Pix, truth.Pix), 999), SSIM: s}, err
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
