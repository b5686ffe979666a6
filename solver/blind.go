package solver

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spin-native/spin/tensor"
)

// BlurFamily names a shape of blur with few parameters.
type BlurFamily string

const (
	GaussianBlur BlurFamily = "gaussian" // its size is the standard deviation
	DiscBlur     BlurFamily = "disc"     // out of focus; its size is the radius
	LineBlur     BlurFamily = "line"     // a steady movement; its size is the length
)

// BlurFamilies are all of them.
var BlurFamilies = []BlurFamily{GaussianBlur, DiscBlur, LineBlur}

// BlurEstimate is the blur of a measurement, found from nothing but the measurement.
type BlurEstimate struct {
	Family BlurFamily `json:"family"`
	// Size is the standard deviation, the radius or the length in pixels, between Low and High with 95 per cent, if the
	// family is right.
	Size float64 `json:"size"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Angle of a line in degrees, counter-clockwise from the rows, up to AngleError with 95 per cent.
	Angle      float64 `json:"angle,omitempty"`
	AngleError float64 `json:"angle_error,omitempty"`
	// None is where there is no blur that is worth removing: its deviation would be below leastBlur pixels.
	None bool `json:"none"`
	// Confidence, from 0 to 1, is in family and size; docs/trust.md has how often which was right. Below LowConfidence
	// nothing should be built on the estimate.
	Confidence float64 `json:"confidence"`
	Word       string  `json:"word"` // high, fair or low
	// Misfit is how far the spectra depart from their law under the estimate, as a factor e^Misfit of power: 0.1 to 0.3 where
	// the family is right.
	Misfit float64 `json:"misfit"`
	// Noise is the deviation of the noise, where the spectra are explained better by more of it than the measurement's: that
	// is taken then. 0 otherwise.
	Noise float64 `json:"noise,omitempty"`
	// Next is the family that explains the measurement second best, and Lead the difference of the evidence, in units of its
	// own standard deviation: below 2 the two kernels do much the same.
	Next BlurFamily `json:"next,omitempty"`
	Lead float64    `json:"lead,omitempty"`
	Text string     `json:"text"` // one sentence
}

// LowConfidence is where confidence in a blur begins to be fair.
const LowConfidence = 0.5

// Bounds of the estimate.
const (
	highConfidence = 0.8
	leastBlur      = 0.45 // pixels of deviation, below which deconvolution has nothing to do
	leastSide      = 96   // of a picture, for squares enough
	leastTold      = 60   // frequencies that must rise above the noise
	// A misfit of mostMisfit is as often that of the right family, in difficult pictures, as of a wrong one; misfitSpan is how
	// much around it is undecided. The same for half of the interval, over the size; and for what the squares differ by, of
	// discs and lines, whose size a few edges tell exactly.
	mostMisfit, misfitSpan   = 0.34, 0.03
	mostWidth, widthSpan     = 0.35, 0.05
	mostScatter, scatterSpan = 0.03, 0.005
)

// blurShape is a family with its bounds and what its size means.
type blurShape struct {
	name        BlurFamily
	least, most float64 // sizes
	sizes       int     // of the coarse search
	ratio       float64 // standard deviation of the blur over its size, in pixels
	angles      bool
}

var blurShapes = []blurShape{
	{GaussianBlur, 0.3, 6.5, 40, 1, false},
	{DiscBlur, 0.8, 12, 48, 0.5, false},
	{LineBlur, 2.5, 34, 24, 1 / math.Sqrt(12), true},
}

// kernel of a size and an angle; size 0 is no blur.
func (b blurShape) kernel(size, angle float64) (*BlurKernel, error) {
	switch {
	case size == 0:
		return NewKernel(1, 1, []float32{1})
	case b.name == GaussianBlur:
		return GaussianKernel(2*int(4*size+0.5)+1, size)
	case b.name == DiscBlur:
		return DiscKernel(size)
	}
	return LineKernel(size, angle)
}

// Kernel is the blur itself. Its task is that of kernels that someone brings: what is slightly wrong with it is borne better by
// those settings than by the ones for Gaussians.
func (e BlurEstimate) Kernel() (*BlurKernel, error) {
	at := slices.IndexFunc(blurShapes, func(b blurShape) bool { return b.name == e.Family })
	if at < 0 {
		return nil, fmt.Errorf("solver.BlurEstimate: the family %q is not known", e.Family)
	}
	k, err := blurShapes[at].kernel(e.Size, e.Angle)
	if err == nil {
		k.Task = TaskBlur
	}
	return k, err
}

// candidate is a blur with its evidence.
type candidate struct {
	shape       blurShape
	size, angle float64
	evidence    []float64 // of every square
	total       float64
}

func byEvidence(a, b candidate) int { return cmp.Compare(b.total, a.total) }

// EstimateBlur finds the blur of a measurement that is a blurred picture and nothing else, among the families, or all where
// none are named. The measurement's own operator is not looked at, its noise level is.
//
// It maximises the evidence of the spectra of squares of the picture: the probability of what was measured under a kernel with
// the sharp picture integrated out. Nothing is deblurred for that, so that no sharpened picture can speak for
// the kernel that sharpened it. The prior of pictures is that of their local spectra, see spectra.evidence.
//
// The interval is that of the evidence, its curvature and its spread over the squares (the sandwich of a misspecified
// likelihood), and of what is not known about the sharp picture: its own softness and slope.
func EstimateBlur(d *tensor.Device, m *Measurement, families ...BlurFamily) (e BlurEstimate, err error) {
	defer tensor.Catch(&err)
	if err := m.check(); err != nil {
		return e, fmt.Errorf("solver.EstimateBlur: %w", err)
	}
	if c := m.Shape[1]; c != 1 && c != 3 || m.Shape[2] != m.Image[1] || m.Shape[3] != m.Image[2] {
		return e, fmt.Errorf("the blur cannot be told from what is no picture of the size of the sharp one; give the kernel")
	}
	if h, w := m.Shape[2], m.Shape[3]; h < leastSide || w < leastSide {
		return e, fmt.Errorf("the blur cannot be told from a picture of %d x %d pixels, at least %d x %d are needed; give the kernel", w, h, leastSide, leastSide)
	}
	shapes, err := shapesOf(families)
	if err != nil {
		return e, err
	}
	s, err := spectraOf(d, m)
	if err != nil {
		return e, err
	}
	e, evidence, err := s.estimate(shapes)
	if floor := s.floor(); err == nil && floor > 1.3*s.noise {
		s.noise = floor
		other, more, err := s.estimate(shapes)
		if err != nil {
			return e, err
		}
		if more > evidence {
			e = other
			e.Noise = math.Sqrt(floor * s.averaged)
		}
	}
	return e, err
}

// shapesOf looks families up; all of them where none are named.
func shapesOf(families []BlurFamily) (list []blurShape, err error) {
	if len(families) == 0 {
		families = BlurFamilies
	}
	for _, name := range families {
		at := slices.IndexFunc(blurShapes, func(b blurShape) bool { return b.name == name })
		if at < 0 {
			return nil, fmt.Errorf("solver.EstimateBlur: the family %q is not known: gaussian, disc or line", name)
		}
		list = append(list, blurShapes[at])
	}
	return list, nil
}

// estimate is that under one level of noise, with its evidence.
func (s *spectra) estimate(shapes []blurShape) (e BlurEstimate, evidence float64, err error) {
	fine := search{squares: s.rank, slopes: []int{0, 1, 2}, contrasts: contrasts(28)}
	rough := search{squares: s.rank[:min(12, len(s.rank))], slopes: []int{1}, contrasts: contrasts(14)}
	var best []candidate
	for _, b := range shapes {
		c, err := s.find(b, rough, fine)
		if err != nil {
			return e, 0, err
		}
		best = append(best, c)
	}
	none, err := s.weigh(blurShapes[0], 0, 0, fine)
	if err != nil {
		return e, 0, err
	}
	slices.SortStableFunc(best, byEvidence)
	e, err = s.judge(none, best, fine)
	return e, max(none.total, best[0].total), err
}

// weigh is the evidence of one blur.
func (s *spectra) weigh(b blurShape, size, angle float64, how search) (c candidate, err error) {
	k, err := b.kernel(size, angle)
	if err != nil {
		return c, err
	}
	c = candidate{shape: b, size: size, angle: angle, evidence: s.evidence(k, how)}
	for _, v := range c.evidence {
		c.total += v
	}
	return c, nil
}

// weighAll fills in the evidence of candidates.
func (s *spectra) weighAll(list []candidate, how search) error {
	failed := make([]error, len(list))
	parallel(len(list), func(i int) { list[i], failed[i] = s.weigh(list[i].shape, list[i].size, list[i].angle, how) })
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// find is the blur of a family with the largest evidence: the best two places of a grid, each climbed from.
func (s *spectra) find(b blurShape, rough, fine search) (best candidate, err error) {
	ratio := math.Pow(b.most/b.least, 1/float64(b.sizes-1))
	var grid []candidate
	for i := range b.sizes {
		c := candidate{shape: b, size: b.least * math.Pow(ratio, float64(i))}
		angles := 1
		if b.angles {
			angles = min(max(int(1.5*c.size), 8), 36) // near enough for the zeros of the transfer function
		}
		for j := range angles {
			c.angle = 180 * float64(j) / float64(angles)
			grid = append(grid, c)
		}
	}
	if err := s.weighAll(grid, rough); err != nil {
		return best, err
	}
	slices.SortStableFunc(grid, byEvidence)
	starts := []candidate{grid[0]}
	for _, c := range grid[1:] {
		turned := math.Abs(math.Mod(c.angle-grid[0].angle+270, 180) - 90)
		if math.Abs(math.Log(c.size/grid[0].size)) > 2.5*math.Log(ratio) || turned > 15 {
			starts = append(starts, c)
			break
		}
	}
	climbed := make([]candidate, len(starts))
	for i, c := range starts {
		if climbed[i], err = s.climb(c, math.Log(ratio), fine); err != nil {
			return best, err
		}
	}
	best = climbed[0]
	for _, c := range climbed[1:] {
		if c.total > best.total {
			best = c
		}
	}
	return best, nil
}

// climb goes uphill from a blur in steps of the logarithm of its size, and of its angle, halving them.
func (s *spectra) climb(c candidate, step float64, how search) (candidate, error) {
	c, err := s.weigh(c.shape, c.size, c.angle, how)
	if err != nil {
		return c, err
	}
	turn := 0.0
	if c.shape.angles {
		turn = 60 * step // in degrees; a length seen by a tenth is an angle seen to six degrees, or better
	}
	for step > 0.004 {
		var tries []candidate
		for _, by := range [][2]float64{{step, 0}, {-step, 0}, {0, turn}, {0, -turn}} {
			size := c.size * math.Exp(by[0])
			if size < c.shape.least || size > c.shape.most || by == [2]float64{} {
				continue
			}
			tries = append(tries, candidate{shape: c.shape, size: size, angle: math.Mod(c.angle+by[1]+180, 180)})
		}
		if err := s.weighAll(tries, how); err != nil {
			return c, err
		}
		moved := false
		for _, t := range tries {
			if t.total > c.total {
				c, moved = t, true
			}
		}
		if !moved {
			step, turn = step/2, turn/2
		}
	}
	return c, nil
}

// spread is the standard deviation of the logarithm of the size, or of the angle, from the evidence of two blurs at the
// distance step on both sides of the best one.
func spread(below, best, above candidate, step float64) float64 {
	var curvature, scores float64
	for i, v := range best.evidence {
		slope := (above.evidence[i] - below.evidence[i]) / (2 * step)
		curvature -= (above.evidence[i] - 2*v + below.evidence[i]) / (step * step)
		scores += slope * slope
	}
	if !(curvature > 0) {
		return math.Inf(1)
	}
	return math.Sqrt(scores) / curvature
}

// judge makes the estimate from the best blur of every family, the best first.
func (s *spectra) judge(none candidate, best []candidate, how search) (e BlurEstimate, err error) {
	c := best[0]
	if none.total >= c.total {
		c = none
	}
	e.Family, e.Size, e.Angle = c.shape.name, c.size, c.angle
	e.None = c.size*c.shape.ratio < leastBlur

	// The interval, of the variance of the blur: what is not known about the sharp picture adds to that.
	variance := c.size * c.size * c.shape.ratio * c.shape.ratio
	off := 1.96 * softnessVariance * c.shape.smooth()
	scatter := 0.0 // of the squares
	if c.size > 0 {
		step := 0.03
		var at [4]candidate
		for i, v := range [][2]float64{{-step, 0}, {step, 0}, {0, -1}, {0, 1}} {
			if i >= 2 && !c.shape.angles {
				break
			}
			if at[i], err = s.weigh(c.shape, c.size*math.Exp(v[0]), c.angle+v[1], how); err != nil {
				return e, err
			}
		}
		scatter = spread(at[0], c, at[1], step)
		relative := min(math.Hypot(scatter, slopeError*c.shape.smooth()), 10)
		off = math.Hypot(off, 2*1.96*relative*variance)
		if c.shape.angles {
			e.AngleError = min(1.96*math.Hypot(spread(at[2], c, at[3], 1), 30/c.size/math.Pi), 90)
		}
	}
	e.Low, e.High = math.Sqrt(max(variance-off, 0))/c.shape.ratio, math.Sqrt(variance+off)/c.shape.ratio

	// Confidence.
	k, err := c.shape.kernel(c.size, c.angle)
	if err != nil {
		return e, err
	}
	told := 0
	e.Misfit, told = s.misfit(k, how, c.size == 0)
	e.Confidence = logistic((mostMisfit - e.Misfit) / misfitSpan)
	if c.size > 0 {
		e.Confidence *= logistic((mostWidth - (e.High-e.Low)/2/max(c.size, 1)) / widthSpan)
		if c.shape.smooth() < 1 {
			e.Confidence *= logistic((mostScatter - scatter) / scatterSpan)
		}
		if !e.None && (c.size < 1.02*c.shape.least || c.size > 0.98*c.shape.most) { // the end of what was searched
			e.Confidence *= 0.3
		}
	}
	e.Confidence *= min(float64(told)/leastTold, 1)
	if len(best) > 1 && c.size > 0 {
		e.Next = best[1].shape.name
		var mean, squares float64
		for i, v := range c.evidence {
			lead := v - best[1].evidence[i]
			mean, squares = mean+lead, squares+lead*lead
		}
		e.Lead = mean / math.Sqrt(max(squares, 1e-12))
	}
	switch {
	case e.Confidence >= highConfidence:
		e.Word = "high"
	case e.Confidence >= LowConfidence:
		e.Word = "fair"
	default:
		e.Word = "low"
	}
	e.Text = e.sentence(told)
	return e, nil
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// softnessVariance and slopeError are what is not known about sharp photos: the standard deviation of the variance of their own
// blur, in square pixels, and the relative error that slopes other than the prior's make.
const (
	softnessVariance = 0.15
	slopeError       = 0.06
)

// smooth is how far what is not known about the sharp picture can be taken for a part of the blur: altogether for a Gaussian,
// hardly for shapes whose transfer function has zeros.
func (b blurShape) smooth() float64 {
	if b.name == GaussianBlur {
		return 1
	}
	return 0.3
}

func (e BlurEstimate) sentence(told int) string {
	var b strings.Builder
	switch {
	case e.None:
		b.WriteString("no blur that is worth removing")
	case e.Family == GaussianBlur:
		fmt.Fprintf(&b, "a Gaussian of deviation %.2f (%.2f to %.2f) pixels", e.Size, e.Low, e.High)
	case e.Family == DiscBlur:
		fmt.Fprintf(&b, "a disc of radius %.2f (%.2f to %.2f) pixels", e.Size, e.Low, e.High)
	default:
		fmt.Fprintf(&b, "a line of length %.1f (%.1f to %.1f) pixels at %.0f +- %.0f degrees", e.Size, e.Low, e.High, e.Angle, math.Ceil(e.AngleError))
	}
	fmt.Fprintf(&b, "; confidence %s (%.2f)", e.Word, e.Confidence)
	if e.Word == "low" {
		switch {
		case told < leastTold:
			b.WriteString(": hardly anything rises above the noise")
		case e.Misfit > 0.3:
			b.WriteString(": its spectrum is that of no picture under such a blur")
		default:
			b.WriteString(": many sizes fit about as well")
		}
	}
	return b.String()
}
