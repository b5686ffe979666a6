package solver

import (
	"math"

	"github.com/spin-native/spin/tensor"
)

// ScratchMask has lost a number of random scratches: bent lines through three points, 2 to 5 pixels wide.
func ScratchMask(h, w, count int, seed uint64) (m *Mask, err error) {
	defer tensor.Catch(&err)
	m = newMask("solver.ScratchMask", h, w, TaskInpaintMask)
	if count < 1 || count > 10000 {
		tensor.Fail("solver.ScratchMask", "%d scratches, expected 1 to 10000", count)
	}
	rng := newStream(seed, domainMask)
	for range count {
		var x, y [3]float64
		for i := range x {
			x[i], y[i] = rng.float()*float64(w), rng.float()*float64(h)
		}
		radius := 1 + 1.5*rng.float()
		for i := range 2 {
			dx, dy := x[i+1]-x[i], y[i+1]-y[i]
			steps := int(2*max(math.Abs(dx), math.Abs(dy))) + 1
			for s := range steps + 1 {
				u := float64(s) / float64(steps)
				m.disc(x[i]+u*dx, y[i]+u*dy, radius)
			}
		}
	}
	return m, nil
}

// disc forgets the pixels within r of (cx, cy).
func (m *Mask) disc(cx, cy, r float64) {
	for y := max(int(cy-r), 0); y <= min(int(cy+r)+1, m.H-1); y++ {
		for x := max(int(cx-r), 0); x <= min(int(cx+r)+1, m.W-1); x++ {
			if math.Hypot(float64(x)-cx, float64(y)-cy) <= r {
				m.Known[y*m.W+x] = false
			}
		}
	}
}
