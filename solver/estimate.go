package solver

import (
	"fmt"
	"math"
	"slices"
)

// NoiseEstimate is the noise level of a measurement, found from nothing but the measurement.
type NoiseEstimate struct {
	Sigma float64 `json:"sigma"`
	// Low and High enclose the level, if the noise is white and the same in all channels: the 95 per cent of statistics, and
	// below as much as the texture of the picture itself may have added. Low is 0 where that could be all that was seen.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	From string  `json:"from"` // "colour" or "brightness": where it was read
	Text string  `json:"text"` // one sentence
}

// noiseGroup is how many squares of 2 x 2 pixels make one group; 16 of them lie in 8 x 8 pixels.
const noiseGroup = 16

// noiseShare is the share of the groups that is taken to be smooth.
const noiseShare = 0.2

// noiseTexture is what the texture of smooth places of photos without noise can look like, in colour and in brightness;
// see docs/trust.md.
var noiseTexture = map[string]float64{"colour": 0.012, "brightness": 0.02}

// EstimateNoise finds the noise level of a measurement that is a picture: of denoising, inpainting, super-resolution,
// deblurring and colouring, and of chains that end in one of them. Others are refused, since in their units nothing
// tells noise from what was measured.
//
// In every square of 2 x 2 known pixels the second difference
//
//	h = (p00 - p01 - p10 + p11) / 2
//
// keeps the noise as it is and little of the picture. Of pictures in colour the differences of the channels are taken,
// (R-B)/sqrt(2) and (R-2G+B)/sqrt(6), in which noise is the same and texture, which is mostly grey, is not. The mean
// squares of h over groups of neighbouring squares are sorted; the one below which a fifth lies is that of a smooth place.
// Divided by what that quantile would be for noise of level 1 it is the estimate.
func EstimateNoise(m *Measurement) (NoiseEstimate, error) {
	if err := m.check(); err != nil {
		return NoiseEstimate{}, fmt.Errorf("solver.EstimateNoise: %w", err)
	}
	last := m.Operator
	if len(last.Parts) > 0 {
		last = last.Parts[len(last.Parts)-1]
	}
	switch last.Kind {
	case "denoise", "gray", "inpaint", "downsample", "blur":
	default:
		return NoiseEstimate{}, fmt.Errorf("the noise of a measurement of the kind %q cannot be told from it: only that of pictures can; give its level", last.Kind)
	}
	contrasts, from := contrastsOf(m)
	var groups []float64
	for i := range m.Shape[0] {
		var known []bool
		if len(last.Masks) > 0 {
			known = last.Masks[i%len(last.Masks)].Known
		}
		groups = append(groups, secondDifferences(m, i, known, contrasts)...)
	}
	if len(groups) < 8 {
		return NoiseEstimate{}, fmt.Errorf("the noise cannot be told: the measurement has %d x %d pixels, and too few of them are known together with their neighbours", m.Shape[3], m.Shape[2])
	}
	slices.Sort(groups)
	n := float64(len(groups))
	at := func(rank float64) float64 { return groups[min(max(int(rank), 0), len(groups)-1)] }
	unit := chiSquareQuantile(noiseShare, noiseGroup*len(contrasts))
	margin := 1.96 * math.Sqrt(n*noiseShare*(1-noiseShare)) // of the rank
	e := NoiseEstimate{From: from}
	e.Sigma = math.Sqrt(at(n*noiseShare) / unit)
	texture := noiseTexture[from]
	e.Low = math.Sqrt(max(at(n*noiseShare-margin)/unit-texture*texture, 0))
	e.High = math.Sqrt(at(n*noiseShare+margin) / unit)
	e.Text = fmt.Sprintf("sigma %.3g (%.3g to %.3g) from the %s of its smooth places", e.Sigma, e.Low, e.High, from)
	if e.Low == 0 {
		e.Text += "; so little could be the picture's own texture"
	}
	return e, nil
}

// contrastsOf are the combinations of the channels in which the noise is looked for.
func contrastsOf(m *Measurement) (contrasts [][]float64, from string) {
	c, size := m.Shape[1], m.Shape[2]*m.Shape[3]
	if c == 3 {
		for i := range m.Shape[0] * size {
			n, px := i/size, i%size
			r, g, b := m.Y[(3*n)*size+px], m.Y[(3*n+1)*size+px], m.Y[(3*n+2)*size+px]
			if math.Abs(float64(r-g)) > 1e-3 || math.Abs(float64(b-g)) > 1e-3 {
				a, b := 1/math.Sqrt2, 1/math.Sqrt(6)
				return [][]float64{{a, 0, -a}, {b, -2 * b, b}}, "colour"
			}
		}
		return [][]float64{{1, 0, 0}}, "brightness" // a grey picture, three times the same
	}
	for i := range c {
		one := make([]float64, c)
		one[i] = 1
		contrasts = append(contrasts, one)
	}
	return contrasts, "brightness"
}

// secondDifferences are the mean squares of h over groups of noiseGroup neighbouring squares of image n. No pixel is in
// two squares.
func secondDifferences(m *Measurement, n int, known []bool, contrasts [][]float64) (groups []float64) {
	const tile = 8 // the squares are collected tile by tile, so that those of a group are neighbours
	c, h, w := m.Shape[1], m.Shape[2], m.Shape[3]
	used := make([]bool, h*w)
	free := func(i int) bool { return !used[i] && (known == nil || known[i]) }
	var sum float64
	count := 0
	for ty := 0; ty < h; ty += tile {
		for tx := 0; tx < w; tx += tile {
			for y := ty; y < min(ty+tile, h-1); y++ {
				for x := tx; x < min(tx+tile, w-1); x++ {
					p := [4]int{y*w + x, y*w + x + 1, (y+1)*w + x, (y+1)*w + x + 1}
					if !free(p[0]) || !free(p[1]) || !free(p[2]) || !free(p[3]) {
						continue
					}
					for _, i := range p {
						used[i] = true
					}
					for _, weights := range contrasts {
						var d float64
						for ch, v := range weights {
							plane := m.Y[(n*c+ch)*h*w:]
							d += v * float64(plane[p[0]]-plane[p[1]]-plane[p[2]]+plane[p[3]]) / 2
						}
						sum += d * d
					}
					if count++; count == noiseGroup {
						groups = append(groups, sum/float64(noiseGroup*len(contrasts)))
						sum, count = 0, 0
					}
				}
			}
		}
	}
	return groups
}

// chiSquareQuantile is the value below which a share of the means of k squared standard normal numbers lies (Wilson and
// Hilferty: their cube root is nearly normal).
func chiSquareQuantile(share float64, k int) float64 {
	z := math.Sqrt2 * math.Erfinv(2*share-1)
	v := 2 / (9 * float64(k))
	return math.Pow(1-v+z*math.Sqrt(v), 3)
}
