package metrics

import (
	"fmt"

	"github.com/spin-native/spin/internal/imagefile"
)

// Score is how close a picture is to the truth.
type Score struct {
	PSNR   float64 `json:"psnr"`
	SSIM   float64 `json:"ssim"`
	Turned bool    `json:"turned,omitempty"` // the picture was turned by 180 degrees, which its measurement cannot tell
}

func (s Score) String() string {
	if s.Turned {
		return fmt.Sprintf("PSNR %.2f dB  SSIM %.3f, turned by 180 degrees", s.PSNR, s.SSIM)
	}
	return fmt.Sprintf("PSNR %.2f dB  SSIM %.3f", s.PSNR, s.SSIM)
}

// ScoreOf compares pictures of one size. Equal ones have an infinite PSNR, which JSON cannot hold: 999 stands for it.
func ScoreOf(got, truth *imagefile.Image) (Score, error) {
	if got.W != truth.W || got.H != truth.H {
		return Score{}, fmt.Errorf("the truth is %d x %d pixels, the result %d x %d", truth.W, truth.H, got.W, got.H)
	}
	s, err := SSIM(got.Pix, truth.Pix, got.W, got.H, 3)
	return Score{PSNR: min(PSNR(got.Pix, truth.Pix), 999), SSIM: s}, err
}

// ScoreOfEither is ScoreOf for the better of a picture's two orientations.
func ScoreOfEither(got, truth *imagefile.Image) (Score, error) {
	best, err := ScoreOf(got, truth)
	if err != nil {
		return best, err
	}
	other, err := ScoreOf(got.Turned(), truth)
	if other.Turned = true; other.PSNR > best.PSNR {
		best = other
	}
	return best, err
}
