package solver

import (
	"math"

	"github.com/spin-native/spin/tensor"
)

// Mask says which pixels of a picture are known.
type Mask struct {
	H, W  int
	Known []bool // row by row
	Task  Task   // the kind of hole: TaskInpaintBox, TaskInpaintRandom or TaskInpaintMask
}

// maxSide bounds the side of pictures that are made here or come from files.
const maxSide = 1 << 15

func newMask(op string, h, w int, task Task) *Mask {
	if h <= 0 || w <= 0 || h > maxSide || w > maxSide {
		tensor.Fail(op, "mask of %d x %d pixels", h, w)
	}
	m := &Mask{h, w, make([]bool, h*w), task}
	for i := range m.Known {
		m.Known[i] = true
	}
	return m
}

// hole forgets a rectangle.
func (m *Mask) hole(y, x, h, w int) *Mask {
	for i := y; i < y+h; i++ {
		for j := x; j < x+w; j++ {
			m.Known[i*m.W+j] = false
		}
	}
	return m
}

// BoxMask has one hole of size x size pixels (0: half the height by half the width) at a random place, H/16 and W/16
// away from the borders where there is room. Its task is TaskInpaintBox for holes of more than 32 pixels, and
// TaskInpaintMask below, as for a scratch.
func BoxMask(h, w, size int, seed uint64) (m *Mask, err error) {
	return BoxMaskWithin(h, w, size, 16, seed)
}

// BoxMaskWithin is BoxMask with another margin, of H/share and W/share.
func BoxMaskWithin(h, w, size, share int, seed uint64) (m *Mask, err error) {
	defer tensor.Catch(&err)
	m = newMask("solver.BoxMask", h, w, TaskInpaintBox)
	if share < 1 {
		tensor.Fail("solver.BoxMask", "margin of 1/%d", share)
	}
	bh, bw := boxSize("solver.BoxMask", h, w, size)
	rng := newStream(seed, domainMask)
	place := func(n, box int) int {
		margin := min(n/share, (n-box)/2)
		return margin + rng.below(n-box-2*margin+1)
	}
	y := place(h, bh)
	return m.hole(y, place(w, bw), bh, bw).classed(), nil
}

// CenterMask has one hole of size x size pixels (0: half the height by half the width) in the middle. See BoxMask for
// its task.
func CenterMask(h, w, size int) (m *Mask, err error) {
	defer tensor.Catch(&err)
	m = newMask("solver.CenterMask", h, w, TaskInpaintBox)
	bh, bw := boxSize("solver.CenterMask", h, w, size)
	return m.hole((h-bh)/2, (w-bw)/2, bh, bw).classed(), nil
}

func boxSize(op string, h, w, size int) (bh, bw int) {
	if size == 0 {
		return h / 2, w / 2
	}
	if size < 0 || size > h || size > w {
		tensor.Fail(op, "hole of %d x %d in a picture of %d x %d", size, size, h, w)
	}
	return size, size
}

// HalfMask has lost the "left", "right", "top" or "bottom" half.
func HalfMask(h, w int, side string) (m *Mask, err error) {
	defer tensor.Catch(&err)
	m = newMask("solver.HalfMask", h, w, TaskInpaintBox)
	switch side {
	case "left":
		m.hole(0, 0, h, w/2)
	case "right":
		m.hole(0, w-w/2, h, w/2)
	case "top":
		m.hole(0, 0, h/2, w)
	case "bottom":
		m.hole(h-h/2, 0, h/2, w)
	default:
		tensor.Fail("solver.HalfMask", "side %q, expected left, right, top or bottom", side)
	}
	return m, nil
}

// RandomMask has lost a fraction of its pixels: exactly floor(fraction H W), drawn without replacement.
func RandomMask(h, w int, fraction float64, seed uint64) (m *Mask, err error) {
	defer tensor.Catch(&err)
	m = newMask("solver.RandomMask", h, w, TaskInpaintRandom)
	if !(fraction >= 0 && fraction <= 1) {
		tensor.Fail("solver.RandomMask", "missing fraction %v, expected 0 to 1", fraction)
	}
	rng := newStream(seed, domainMask)
	order := make([]int, h*w)
	for i := range order {
		order[i] = i
	}
	// The first steps of a shuffle. The small addend keeps 0.29 * 100 = 28.999... from losing one.
	for i := range int(math.Floor(fraction*float64(h*w) + 1e-9)) {
		j := i + rng.below(len(order)-i)
		order[i], order[j] = order[j], order[i]
		m.Known[order[i]] = false
	}
	return m, nil
}

// PictureMask reads a picture in 8-bit grey, row by row: white (128 and above) is to be filled in, black is known;
// invert turns that round. The task follows the thickest hole, as for BoxMask.
func PictureMask(h, w int, gray []uint8, invert bool) (m *Mask, err error) {
	defer tensor.Catch(&err)
	m = newMask("solver.PictureMask", h, w, TaskInpaintMask)
	if len(gray) != h*w {
		tensor.Fail("solver.PictureMask", "%d pixels given for a mask of %d x %d", len(gray), h, w)
	}
	for i, g := range gray {
		m.Known[i] = (g < 128) != invert
	}
	return m.classed(), nil
}

// smallHole is the side of the largest square hole that is repaired as scratches are, from its surroundings, and not as
// something to be invented: with the built-in prior, holes of 32 pixels come out 1 to 3 dB better so.
const smallHole = 32

// classed sets the task of a mask by its thickest hole.
func (m *Mask) classed() *Mask {
	m.Task = TaskInpaintMask
	if m.thick(smallHole + 1) {
		m.Task = TaskInpaintBox
	}
	return m
}

// thick reports whether a square of n x n pixels is missing as a whole.
func (m *Mask) thick(n int) bool {
	side := make([]int, m.W) // of the largest missing square whose lower right corner is in this column
	for y := range m.H {
		diagonal := 0
		for x := range m.W {
			above := side[x]
			switch {
			case m.Known[y*m.W+x]:
				side[x] = 0
			case x == 0 || y == 0:
				side[x] = 1
			default:
				side[x] = 1 + min(above, diagonal, side[x-1])
			}
			if side[x] >= n {
				return true
			}
			diagonal = above
		}
	}
	return false
}

// Missing is the number of pixels that are not known.
func (m *Mask) Missing() int {
	n := 0
	for _, k := range m.Known {
		if !k {
			n++
		}
	}
	return n
}
