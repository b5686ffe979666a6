package solver

import (
	"math"
	"slices"

	"github.com/spin-native/spin/tensor"
)

// What the evidence for a blur is made of: the power spectra of squares of a picture, and the law that they have.
const (
	spectrumSide = 64 // of the squares
	// spectrumStep is the distance of neighbouring squares: half of what their window spans, which leaves their spectra
	// nearly independent.
	spectrumStep    = spectrumSide / 2
	spectrumSquares = 64 // at most; larger pictures are covered more sparsely
	spectrumImages  = 16 // of a batch are looked at
	spectrumSectors = 4  // of directions, each with a contrast of its own
	spectrumLowest  = 2  // frequency that is looked at, in periods per square: below it the window leaks
	// softness is the deviation of the blur that sharp photos have of themselves, from lens, sensor and reduction.
	softness = 0.5
)

// Slopes that the power spectra of squares of sharp photos have, and their prior.
var (
	spectrumSlopes    = []float64{1.8, 2.4, 3}
	spectrumSlopeMean = 2.4
	spectrumSlopeStd  = 0.4
)

// slopePrior is its logarithm at one of them, up to a constant.
func slopePrior(slope int) float64 {
	off := (spectrumSlopes[slope] - spectrumSlopeMean) / spectrumSlopeStd
	return -off * off / 2
}

// spectra are those of a picture, with what does not depend on the blur.
type spectra struct {
	power    [][]float64 // of every square, at the frequencies below
	at       []int       // place of every frequency in a square of spectrumSide; those of a sector are neighbours
	ends     [spectrumSectors]int
	sharp    [][]float64 // for every slope, the law of a sharp picture of contrast 1, on the whole square
	noise    float64     // power of the noise
	averaged float64     // how many channels of noise of their own the brightness is the mean of
	rank     []int       // squares by their power, the largest first
}

// contrasts are the values that the power of a sector may have; between the ends lies every picture.
func contrasts(n int) []float64 {
	list := make([]float64, n)
	for i := range list {
		list[i] = 1e-5 * math.Pow(1e7, float64(i)/float64(n-1))
	}
	return list
}

// spectraOf transforms squares of the brightness of a measurement, on its device:
//
//	P = |F w (y - mean)|^2        w: Hann window of mean square 1
func spectraOf(d *tensor.Device, m *Measurement) (s *spectra, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	n, c, h, w := min(m.Shape[0], spectrumImages), m.Shape[1], m.Shape[2], m.Shape[3]
	s = &spectra{}
	rounding := 1 / (127.5 * math.Sqrt(12)) // to 8 bits
	s.noise = m.Sigma*m.Sigma + rounding*rounding
	s.averaged = 1
	if c == 3 && !isGrey(m) {
		s.averaged = 3
	}
	s.noise /= s.averaged

	const side = spectrumSide
	window := make([]float64, side)
	for i := range window {
		window[i] = math.Sqrt(2./3) * (1 - math.Cos(2*math.Pi*float64(i)/side))
	}
	ys, xs := places(h, n), places(w, n)
	var values []float32
	square := make([]float64, side*side)
	for i := range n {
		for _, y0 := range ys {
			for _, x0 := range xs {
				var sum, weights float64
				for p := range square {
					y, x := p/side, p%side
					square[p] = 0
					for ch := range c {
						square[p] += float64(m.Y[((i*c+ch)*h+y0+y)*w+x0+x]) / float64(c)
					}
					v := window[y] * window[x]
					sum, weights = sum+v*square[p], weights+v
				}
				for p, v := range square {
					values = append(values, float32(window[p/side]*window[p%side]*(v-sum/weights)), 0)
				}
			}
		}
	}
	count := len(values) / (2 * side * side)
	z, err := d.Fourier(nil, d.From(values, count, side, side, 2), false).Floats()
	if err != nil {
		return nil, err
	}

	for sector := range spectrumSectors {
		for p := range side * side {
			fy, fx := frequency(p/side), frequency(p%side)
			r := math.Hypot(fy, fx)
			if fx < 0 || fx == 0 && fy <= 0 || r < spectrumLowest*0.999/side || r > 0.5 {
				continue // the other half repeats this one
			}
			angle := math.Atan2(fy, fx)/math.Pi + 1
			if int(math.Floor(angle*spectrumSectors+0.5))%spectrumSectors == sector {
				s.at = append(s.at, p)
			}
		}
		s.ends[sector] = len(s.at)
	}
	totals := make([]float64, count)
	for i := range count {
		p := make([]float64, len(s.at))
		for j, at := range s.at {
			re, im := float64(z[2*(i*side*side+at)]), float64(z[2*(i*side*side+at)+1])
			p[j] = re*re + im*im
			totals[i] += p[j]
		}
		if math.IsNaN(totals[i]) || totals[i] > 1e30 {
			tensor.Fail("solver.EstimateBlur", "the measurement has values far outside of pictures, which are in [-1,1]")
		}
		s.power = append(s.power, p)
		s.rank = append(s.rank, i)
	}
	slices.SortStableFunc(s.rank, func(a, b int) int {
		switch {
		case totals[a] > totals[b]:
			return -1
		case totals[a] < totals[b]:
			return 1
		}
		return 0
	})
	for _, slope := range spectrumSlopes {
		law := make([]float64, side*side)
		for p := range law {
			r := max(math.Hypot(frequency(p/side), frequency(p%side)), 1./side)
			law[p] = math.Pow(r/0.1, -slope) * math.Exp(-4*math.Pi*math.Pi*r*r*softness*softness)
		}
		s.sharp = append(s.sharp, law)
	}
	return s, nil
}

// floor is the power that half of the squares have at the highest frequencies, where no blurred picture has any: if it is one,
// that of the noise.
func (s *spectra) floor() float64 {
	var list []float64
	for _, p := range s.power {
		var sum, count float64
		for j, at := range s.at {
			if math.Hypot(frequency(at/spectrumSide), frequency(at%spectrumSide)) > 0.4 {
				sum, count = sum+p[j], count+1
			}
		}
		list = append(list, sum/count)
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// frequency is that of row or column i of a square, in periods per pixel.
func frequency(i int) float64 {
	if i >= spectrumSide/2 {
		i -= spectrumSide
	}
	return float64(i) / spectrumSide
}

// places are where squares begin along a side of a picture, evenly from end to end, for n pictures.
func places(side, n int) (list []int) {
	room := side - spectrumSide
	most := max(int(math.Sqrt(spectrumSquares/float64(n))), 2)
	count := min(room/spectrumStep+1, most)
	for i := range count {
		list = append(list, room*i/(count-1)) // leastSide leaves room for two
	}
	return list
}

// isGrey is whether the three channels of a measurement are the same.
func isGrey(m *Measurement) bool {
	_, from := contrastsOf(m)
	return from == "brightness"
}

// transfer is the squared modulus of a kernel's transfer function, at the frequencies of a square. The kernel's sides are
// below spectrumSide.
func transfer(k *BlurKernel) []float64 {
	const side = spectrumSide
	var cos, sin [side]float64
	for i := range cos {
		sin[i], cos[i] = math.Sincos(2 * math.Pi * float64(i) / side)
	}
	re, im := make([]float64, k.H*side), make([]float64, k.H*side)
	for i := range k.H {
		for j := range k.W {
			v := float64(k.K[i*k.W+j])
			if v == 0 {
				continue
			}
			for f := range side {
				at := j * f % side
				re[i*side+f] += v * cos[at]
				im[i*side+f] -= v * sin[at]
			}
		}
	}
	power := make([]float64, side*side)
	for fy := range side {
		for fx := range side {
			var a, b float64
			for i := range k.H {
				c, s := cos[i*fy%side], sin[i*fy%side]
				x, y := re[i*side+fx], im[i*side+fx]
				a, b = a+x*c+y*s, b+y*c-x*s
			}
			power[fy*side+fx] = a*a + b*b
		}
	}
	return power
}

// leaked is what the window makes of a law: a mean over neighbouring frequencies with the weights 1/6, 2/3, 1/6, along
// rows and columns.
func leaked(law []float64) []float64 {
	const side = spectrumSide
	rows, out := make([]float64, len(law)), make([]float64, len(law))
	for p := range law {
		y, x := p/side, p%side
		rows[p] = (law[y*side+(x+1)%side] + 4*law[p] + law[y*side+(x+side-1)%side]) / 6
	}
	for p := range law {
		y, x := p/side, p%side
		out[p] = (rows[(y+1)%side*side+x] + 4*rows[p] + rows[(y+side-1)%side*side+x]) / 6
	}
	return out
}

// laws are those of a blurred picture without noise, for the slopes, at the frequencies that are looked at.
func (s *spectra) laws(k *BlurKernel, slopes []int) [][]float64 {
	t := transfer(k)
	law := make([]float64, len(t))
	out := make([][]float64, len(slopes))
	for i, g := range slopes {
		for p, v := range t {
			law[p] = s.sharp[g][p] * v
		}
		full := leaked(law)
		for _, at := range s.at {
			out[i] = append(out[i], full[at])
		}
	}
	return out
}

// search says how finely the evidence integrates: over which squares, slopes and contrasts.
type search struct {
	squares   []int
	slopes    []int
	contrasts []float64
}

// evidence is log p(P | kernel) of every square, up to a constant that is the same for all kernels. In every square and every
// sector of directions the power is that of noise and of a sharp picture, blurred,
//
//	P(f) ~ exponential of mean  v(f) = a S(f)|K(f)|^2 + noise,     S(f) = |f|^-slope exp(-(2 pi softness f)^2)
//
// leaking through the window. Contrast a and slope are not estimated with the kernel but integrated out, the contrast with equal
// weight on a logarithmic scale: so that a sharp picture under a wide kernel is not preferred to a soft one under none.
func (s *spectra) evidence(k *BlurKernel, how search) []float64 {
	laws := s.laws(k, how.slopes)
	out := make([]float64, len(how.squares))
	inverse := make([]float64, len(s.at))
	logs := make([][]float64, len(how.squares)) // of every square, for every slope and contrast
	for i := range logs {
		logs[i] = make([]float64, len(how.slopes)*len(how.contrasts))
	}
	from := 0
	for _, end := range s.ends {
		for g := range how.slopes {
			prior := slopePrior(how.slopes[g])
			for c, a := range how.contrasts {
				constant := prior
				product := 1.0 // logarithms are taken of several factors together
				for j := from; j < end; j++ {
					v := a*laws[g][j] + s.noise
					inverse[j] = 1 / v
					if product *= v; product < 1e-200 || product > 1e200 {
						constant -= math.Log(product)
						product = 1
					}
				}
				constant -= math.Log(product)
				for i, square := range how.squares {
					logs[i][g*len(how.contrasts)+c] = constant - inner(s.power[square][from:end], inverse[from:end])
				}
			}
		}
		for i := range out {
			out[i] += logSumExp(logs[i])
		}
		from = end
	}
	return out
}

// inner is the product of two vectors, in four sums that do not wait for each other.
func inner(a, b []float64) float64 {
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += a[0] * b[0]
		s1 += a[1] * b[1]
		s2 += a[2] * b[2]
		s3 += a[3] * b[3]
		a, b = a[4:], b[4:]
	}
	for i := range a {
		s0 += a[i] * b[i]
	}
	return s0 + s1 + s2 + s3
}

func logSumExp(v []float64) float64 {
	top := slices.Max(v)
	var sum float64
	for _, x := range v {
		sum += math.Exp(x - top)
	}
	return top + math.Log(sum)
}

// misfit is how far the spectra depart from their law under a kernel: the root mean square over frequencies of the logarithm of
// measured over expected power, where the picture and not the noise is seen, less what chance adds, and less a mean of each
// direction, since pictures have directions of their own; for sharp ones less a mean of each radius as well, since they differ in
// how sharp they are. told is at how many frequencies that is.
func (s *spectra) misfit(k *BlurKernel, how search, sharp bool) (rms float64, told int) {
	laws := s.laws(k, how.slopes)
	found, expected := make([]float64, len(s.at)), make([]float64, len(s.at))
	from := 0
	v, best := make([]float64, len(s.at)), make([]float64, len(s.at))
	for _, end := range s.ends {
		for _, square := range how.squares {
			p, top := s.power[square], math.Inf(-1)
			for g := range how.slopes {
				prior := slopePrior(how.slopes[g])
				for _, a := range how.contrasts {
					l, product := prior, 1.0
					for j := from; j < end; j++ {
						v[j] = a*laws[g][j] + s.noise
						l -= p[j] / v[j]
						if product *= v[j]; product < 1e-200 || product > 1e200 {
							l -= math.Log(product)
							product = 1
						}
					}
					if l -= math.Log(product); l > top {
						top = l
						copy(best[from:end], v[from:end])
					}
				}
			}
			for j := from; j < end; j++ {
				share := 1 - s.noise/best[j]
				found[j], expected[j] = found[j]+share*p[j]/best[j], expected[j]+share
			}
		}
		from = end
	}
	type place struct {
		off, weight       float64
		direction, radius int
	}
	const directions, radii = 30, 16
	var places []place
	for j, w := range expected {
		if w <= 2 {
			continue
		}
		fy, fx := frequency(s.at[j]/spectrumSide), frequency(s.at[j]%spectrumSide)
		places = append(places, place{math.Log(max(found[j], 1e-9) / w), w,
			int(math.Floor((math.Atan2(fy, fx)/math.Pi+1)*directions+0.5)) % directions, min(int(2*radii*math.Hypot(fy, fx)), radii-1)})
	}
	free := float64(len(places))
	level := func(n int, of func(place) int) {
		sums, weights := make([]float64, n), make([]float64, n)
		for _, p := range places {
			sums[of(p)] += p.weight * p.off
			weights[of(p)] += p.weight
		}
		for i, p := range places {
			places[i].off -= sums[of(p)] / weights[of(p)]
		}
		for _, w := range weights {
			if w > 0 {
				free--
			}
		}
	}
	level(directions, func(p place) int { return p.direction })
	if sharp {
		level(radii, func(p place) int { return p.radius })
	}
	var squares, weights float64
	for _, p := range places {
		squares, weights = squares+p.weight*p.off*p.off, weights+p.weight
	}
	if free <= 0 {
		return 0, len(places)
	}
	return math.Sqrt(max(squares-free, 0) / weights), len(places)
}
