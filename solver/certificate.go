package solver

import (
	"fmt"
	"math"
	"slices"

	"github.com/spin-native/spin/tensor"
)

// Verdict says in a word how a reconstruction stands to its measurement.
type Verdict string

const (
	Explains  Verdict = "explains the measurement"
	Overfits  Verdict = "over-fit"  // the result follows the noise
	Underfits Verdict = "under-fit" // the result does not explain the measurement
	Untold    Verdict = "not told"  // no noise level to measure by
)

// Certificate tells how well an image explains its measurement. It looks at nothing but the residuals of what was
// measured, r = (A(x)-y)/sigma: if x were a sample of the posterior, they would be distributed as the noise is,
// standard normal and independent. Where sigma is 0 there is nothing to measure them by: they are in units of y then,
// and Verdict is Untold.
//
// It certifies the fit, not the picture: what the operator does not see is free, and every picture that differs from
// this one only there has the same certificate; see Invented.
type Certificate struct {
	Sigma float64 `json:"sigma"` // the noise level: that of the problem, 1 where the operator has units of its own, or 0
	Count int     `json:"count"` // measured values
	// ChiSquare is the mean of r^2, 1 for a sample of the posterior, up to Spread, its standard deviation if the noise
	// is all that there is: sqrt(2/Count). The mean of the posterior lies below 1, by the share of its variance that is
	// left: it uses the measurement, noise included, as far as it goes. What lies below that follows the noise.
	ChiSquare float64 `json:"chi_square"`
	Spread    float64 `json:"spread"`
	RMS       float64 `json:"rms"` // of A(x)-y, in units of y
	// Quantiles of |r| at 50, 90, 99 and 99.9 per cent of the values; for normal noise 0.674, 1.645, 2.576 and 3.291.
	Quantiles [4]float64 `json:"quantiles"`
	// Neighbours is the correlation of r between neighbours in a column and in a row, where both were measured: 0 for
	// noise, up to 1/sqrt(Count). Above it, something of the picture is left in the residuals; below it, the fit
	// follows the noise at the finest scale.
	Neighbours [2]float64 `json:"neighbours"`
	// Worst is the largest mean of r^2 over squares of 16 x 16 pixels of the measurement of which at least a
	// quarter was measured, and where that is.
	Worst   float64 `json:"worst"`
	WorstAt [2]int  `json:"worst_at"` // row and column of its first pixel
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"` // one sentence: what that means, and what to do about it
}

// normalQuantiles are those of |n| for a standard normal n, and the shares of values below them.
var (
	quantileShares  = [4]float64{0.5, 0.9, 0.99, 0.999}
	normalQuantiles = [4]float64{0.6745, 1.6449, 2.5758, 3.2905}
)

// Bounds of ChiSquare. They are wide because a noise level is seldom known better than to a tenth. From chiSquareGood to
// chiSquareHigh a result explains its measurement; down to chiSquareLow the words say that it follows part of the noise.
const (
	chiSquareLow  = 0.6
	chiSquareGood = 0.85
	chiSquareHigh = 1.3
)

// worstSide is the side of the squares that Worst looks at.
const worstSide = 16

// certificates makes the certificate of every image from its residuals.
func (c *corrector) certificates(r *tensor.Tensor) ([]Certificate, error) {
	values, err := r.Floats()
	if err != nil {
		return nil, err
	}
	known, err := c.measured()
	if err != nil {
		return nil, err
	}
	size := r.Len() / r.N()
	step := 0.0 // of the rounding, in units of y
	if op, ok := c.Operator.(Recorder); ok {
		step = rootTwelve * op.Deviation()
	}
	list := make([]Certificate, r.N())
	for i := range list {
		var mask []float32
		if known != nil {
			mask = known[i*size : (i+1)*size]
		}
		list[i] = certify(values[i*size:(i+1)*size], mask, r.H(), r.W(), r.C(), c.Sigma, int(c.counts[i]))
		if step > 0 && list[i].Verdict == Overfits {
			// What rounds to 0 is mostly far smaller than the step, and so are the residuals of the truth itself.
			list[i].Verdict, list[i].Text = Explains, fmt.Sprintf("explains the measurement: what was rounded is %.2g steps off (root mean square)", list[i].RMS/step)
		}
	}
	return list, nil
}

// measured is 1 for every value of Y that was measured and 0 for the others, or nil where all were.
func (c *corrector) measured() ([]float32, error) {
	op, ok := c.Operator.(Restricter)
	if !ok {
		return nil, nil
	}
	defer c.d.Tidy()()
	return op.Restrict(c.d.From(uniform(1, c.Y.Shape()), c.Y.N(), c.Y.H(), c.Y.W(), c.Y.C())).Floats()
}

// certify looks at the residuals of one image, [H,W,C].
func certify(r, known []float32, h, w, ch int, sigma float64, count int) Certificate {
	c := Certificate{Sigma: sigma, Count: count}
	is := func(i int) bool { return known == nil || known[i] != 0 }
	unit := sigma
	if unit == 0 {
		unit = 1
	}
	sizes := make([]float64, 0, count)
	var squares float64
	for i, v := range r {
		if is(i) {
			v := math.Abs(float64(v)) / unit
			sizes = append(sizes, v)
			squares += v * v
		}
	}
	if len(sizes) == 0 {
		c.Verdict, c.Text = Untold, "nothing was measured"
		return c
	}
	slices.Sort(sizes)
	for i, share := range quantileShares {
		c.Quantiles[i] = sizes[min(int(share*float64(len(sizes))), len(sizes)-1)]
	}
	c.ChiSquare = squares / float64(count)
	c.RMS = math.Sqrt(c.ChiSquare) * unit
	c.Spread = math.Sqrt(2 / float64(count))
	for axis, step := range [2]int{w * ch, ch} {
		var cross, both float64
		for i := 0; i+step < len(r); i++ {
			if axis == 1 && i/ch%w == w-1 || !is(i) || !is(i+step) {
				continue
			}
			a, b := float64(r[i]), float64(r[i+step])
			cross += a * b
			both += (a*a + b*b) / 2
		}
		if both > 0 {
			c.Neighbours[axis] = cross / both
		}
	}
	for y := 0; y < h; y += worstSide {
		for x := 0; x < w; x += worstSide {
			bottom, right := min(y+worstSide, h), min(x+worstSide, w)
			var sum float64
			n := 0
			for i := y; i < bottom; i++ {
				for j := (i*w + x) * ch; j < (i*w+right)*ch; j++ {
					if is(j) {
						v := float64(r[j]) / unit
						sum += v * v
						n++
					}
				}
			}
			if 4*n >= (bottom-y)*(right-x)*ch && sum/float64(n) > c.Worst {
				c.Worst, c.WorstAt = sum/float64(n), [2]int{y, x}
			}
		}
	}
	c.judge()
	return c
}

// judge finds the words.
func (c *Certificate) judge() {
	const grey = 127.5    // levels per unit
	slack := 4 * c.Spread // of a measurement of few values
	switch x := c.ChiSquare; {
	case math.IsNaN(x) || math.IsInf(x, 0):
		c.Verdict, c.Text = Untold, "the residuals are not finite"
	case c.Sigma == 0:
		c.Verdict = Untold
		c.Text = fmt.Sprintf("off the measurement by %.2g grey levels (root mean square); taken to be without noise, it does not tell how much that should be", c.RMS*grey)
	case x > chiSquareHigh+slack:
		c.Verdict = Underfits
		c.Text = fmt.Sprintf("under-fit: the result is off the measurement by %.2g times its noise. Either the noise is larger than was said, or the operator (kernel, mask, scale) is not quite what happened, or the prior overrules the measurement; it is worst around row %d, column %d", math.Sqrt(x), c.WorstAt[0], c.WorstAt[1])
	case x < chiSquareLow-slack:
		c.Verdict = Overfits
		c.Text = fmt.Sprintf("over-fit: the result is closer to the measurement than its noise, by a factor of %.2g, and follows the noise. Either the noise is smaller than was said, or a larger noise level would make a smoother picture", math.Sqrt(x))
	default:
		c.Verdict = Explains
		c.Text = "explains the measurement up to its noise"
		switch n := max(c.Neighbours[0], c.Neighbours[1]); {
		case x < chiSquareGood-slack:
			c.Text += fmt.Sprintf(", of which it follows a part: the residuals have %.2f times its variance", x)
		case c.Worst > 2*chiSquareHigh:
			c.Text += fmt.Sprintf(", but not everywhere: around row %d, column %d of it the residuals have %.1f times the variance of the noise", c.WorstAt[0], c.WorstAt[1], c.Worst)
		case n > 0.2:
			c.Text += fmt.Sprintf(" on the whole; neighbouring residuals agree with each other (correlation %.2f), so that fine detail of the measurement may have been smoothed away", n)
		}
	}
}

// Certify makes the certificates of images that came from elsewhere.
func Certify(p Problem, x *tensor.Tensor) (list []Certificate, err error) {
	defer tensor.Catch(&err)
	defer x.Device().Tidy()()
	p.Start = x
	c := newCorrector(p)
	return c.certificates(c.residual(x))
}
