package imagefile

// Mask is a grey picture with values in [0, 1].
type Mask struct {
	W, H int
	Pix  []float32 // row by row
}

// ReadMask reads a picture as its luminance. What is transparent counts as black,
// that is, as a picture laid on black paper; so a mask painted on a transparent
// layer works. Values are not thresholded.
func ReadMask(path string) (*Mask, error) {
	m, err := Read(path, Limits{})
	if err != nil {
		return nil, err
	}
	return m.mask(), nil
}

func (m *Image) mask() *Mask {
	out := &Mask{W: m.W, H: m.H, Pix: make([]float32, m.W*m.H)}
	for i := range out.Pix {
		v := (luma(m.Pix[3*i:3*i+3]) + 1) / 2
		if m.Alpha != nil {
			v *= float64(m.Alpha[i]) / 65535
		}
		out.Pix[i] = float32(v)
	}
	return out
}
