package parity

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// operatorSpec is how cases describe an operator. Mask and kernel are names of arrays.
type operatorSpec struct {
	Pad          int // of phase: the margin
	Unscaled     bool
	Oversample   float64
	Kind         string
	Sigma        float64
	Mask, Kernel string
	Factor       int
	Scale        float64
	Quality      int
	KY           string `json:"k_y"` // of JPEG: the file's integers by block, and its tables
	KCb          string `json:"k_cb"`
	KCr          string `json:"k_cr"`
	TableY       string `json:"table_y"`
	TableC       string `json:"table_c"`
}

// build makes an operator for images of h x w.
func (c *Case) build(d *tensor.Device, s operatorSpec, h, w int) (solver.Operator, error) {
	switch s.Kind {
	case "phase":
		if s.Oversample == 0 {
			s.Oversample = 8 * float64(s.Pad) / float64(h)
		}
		return solver.NewPhase(d, h, w, s.Oversample, s.Unscaled)
	case "denoise":
		return solver.Denoise{}, nil
	case "gray":
		return solver.NewGray(d)
	case "inpaint":
		known, _, err := c.Array(s.Mask)
		if err != nil {
			return nil, err
		}
		gray := make([]uint8, len(known))
		for i, k := range known {
			if k == 0 {
				gray[i] = 255
			}
		}
		m, err := solver.PictureMask(h, w, gray, false)
		if err != nil {
			return nil, err
		}
		return solver.NewInpaint(d, m)
	case "downsample":
		return solver.NewDownsample(d, h, w, s.Factor)
	case "blur":
		k, shape, err := c.Array(s.Kernel)
		if err != nil {
			return nil, err
		}
		if len(shape) != 2 {
			return nil, fmt.Errorf("%s: kernel of shape %v", c.Name, shape)
		}
		kernel, err := solver.NewKernel(shape[0], shape[1], k)
		if err != nil {
			return nil, err
		}
		return solver.NewBlur(d, h, w, kernel)
	case "hdr":
		return solver.NewHDR(s.Scale, s.Sigma)
	case "jpeg_soft":
		return solver.NewSoftJPEG(d, h, w, s.Quality)
	case "jpeg", "jpeg_box":
		f, err := c.jpegFormat(s)
		if err != nil {
			return nil, err
		}
		if s.Kind == "jpeg_box" {
			return solver.NewJPEGBox(d, h, w, f)
		}
		return solver.NewJPEG(d, h, w, f)
	}
	return nil, fmt.Errorf("operator %q is %w", s.Kind, ErrUnsupported)
}

// jpegFormat is that of cases: 4:2:0, one table for both planes of chroma.
func (c *Case) jpegFormat(s operatorSpec) (f solver.JPEGFormat, err error) {
	f = solver.JPEGFormat{Across: 2, Down: 2}
	for _, name := range []string{s.TableY, s.TableC, s.TableC} {
		values, _, err := c.Array(name)
		if err != nil {
			return f, err
		}
		if len(values) != 64 {
			return f, fmt.Errorf("%s: table %q has %d values, expected 64", c.Name, name, len(values))
		}
		var t [64]int
		for i, v := range values {
			t[i] = int(v)
		}
		f.Tables = append(f.Tables, t)
	}
	return f, nil
}

// measurement is what an operator measured: an array of the case or, of JPEG, its integers.
func (c *Case) measurement(d *tensor.Device, s operatorSpec, y string, h, w int) (*tensor.Tensor, error) {
	if s.KY == "" {
		return c.Input(d, y)
	}
	f, err := c.jpegFormat(s)
	if err != nil {
		return nil, err
	}
	at, err := c.coefficients([]string{s.KY, s.KCb, s.KCr})
	if err != nil {
		return nil, err
	}
	m, err := f.Measurement(h, w, false, func(p, i, j int) int { return int(at(p, i, j)) })
	if err != nil {
		return nil, err
	}
	return d.From(NHWC(m.Y, 1, m.Shape[1], m.Shape[2], m.Shape[3]), 1, m.Shape[2], m.Shape[3], m.Shape[1]), nil
}

// coefficients are those of arrays [1,rows,columns,8,8] of blocks.
func (c *Case) coefficients(names []string) (at func(plane, row, column int) float32, err error) {
	var values [3][]float32
	var across [3]int
	for p, name := range names {
		v, shape, err := c.Array(name)
		if err != nil {
			return nil, err
		}
		if len(shape) != 5 {
			return nil, fmt.Errorf("%s: coefficients %q have shape %v", c.Name, name, shape)
		}
		values[p], across[p] = v, shape[2]
	}
	return func(p, i, j int) float32 { return values[p][((i/8*across[p]+j/8)*8+i%8)*8+j%8] }, nil
}

// named are the operators that cases call by a name alone; their arrays have the given prefix.
func named(name, prefix string) operatorSpec {
	switch name {
	case "phase_retrieval_o2", "phase_retrieval_unscaled_o2":
		return operatorSpec{Kind: "phase", Oversample: 2, Unscaled: name == "phase_retrieval_unscaled_o2"}
	case "inpaint_box", "inpaint_random", "inpaint_half_right":
		return operatorSpec{Kind: "inpaint", Mask: prefix + "mask"}
	case "sr4":
		return operatorSpec{Kind: "downsample", Factor: 4}
	case "sr16":
		return operatorSpec{Kind: "downsample", Factor: 16}
	case "gaussian_blur_k61_s3", "motion_blur_k61_i0.5":
		return operatorSpec{Kind: "blur", Kernel: prefix + "kernel"}
	case "jpeg_soft_q2":
		return operatorSpec{Kind: "jpeg_soft", Quality: 2}
	case "hdr_x2":
		return operatorSpec{Kind: "hdr", Scale: 2}
	}
	return operatorSpec{Kind: name}
}

// planar downloads a tensor in the layout of the cases.
func planar(x *tensor.Tensor) (Array, error) {
	data, err := x.Floats()
	return Array{NCHW(data, x.N(), x.H(), x.W(), x.C()), []int{x.N(), x.C(), x.H(), x.W()}}, err
}

// gradient is that of 1/2 |A(x)-y0|^2.
func gradient(op solver.Operator, x, ax, y0 *tensor.Tensor) *tensor.Tensor {
	r := x.Device().Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: ax, C: 1}, {X: y0, C: -1}}})
	return op.VJP(x, r)
}

// operatorCase computes y = A(x), the gradient at x for the measurement y0, and the transposed Jacobian on v.
func (c *Case) operatorCase(d *tensor.Device) (results []Result, saved []Saved, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	var head struct {
		Operator string `json:"operator"`
	}
	if err := json.Unmarshal(c.raw, &head); err != nil {
		return nil, nil, err
	}
	var in [3]*tensor.Tensor
	for i, name := range []string{"x", "y0", "v"} {
		if in[i], err = c.Input(d, name); err != nil {
			return nil, nil, err
		}
	}
	x, y0, v := in[0], in[1], in[2]
	op, err := c.build(d, named(head.Operator, ""), x.H(), x.W())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	out := Saved{}
	y := op.Apply(x)
	for name, t := range map[string]*tensor.Tensor{"y": y, "grad": gradient(op, x, y, y0), "vjp": op.VJP(x, v)} {
		if out[name], err = planar(t); err != nil {
			return nil, nil, err
		}
	}
	for _, name := range []string{"y", "grad", "vjp"} {
		want, _, err := c.Array(name)
		if err != nil {
			return nil, nil, err
		}
		r := Result{Array: name, Limit: c.Tolerance[name]}
		r.MaxAbs, r.RelL2 = Compare(out[name].Data, want)
		results = append(results, r)
	}
	return results, []Saved{out}, nil
}

// photoCase runs several operators on one photo; the expected arrays are thinned out, and sums of squares are given.
func (c *Case) photoCase(d *tensor.Device) (results []Result, saved []Saved, err error) {
	defer tensor.Catch(&err)
	var head struct {
		Stride    int `json:"stride"`
		Operators []struct {
			Name string `json:"name"`
			Y    struct {
				SumSq float64 `json:"sum_sq"`
			} `json:"y"`
			Grad struct {
				SumSq float64 `json:"sum_sq"`
			} `json:"grad"`
			Tolerance struct {
				Y     Tolerance `json:"y"`
				Grad  Tolerance `json:"grad"`
				SumSq float64   `json:"sum_sq_relative"`
			} `json:"tolerance"`
		} `json:"operators"`
	}
	if err := json.Unmarshal(c.raw, &head); err != nil {
		return nil, nil, err
	}
	photo, s, err := c.Array("x_u8")
	if err != nil {
		return nil, nil, err
	}
	if len(s) != 4 || head.Stride < 1 {
		return nil, nil, fmt.Errorf("%s: photo of shape %v, stride %d", c.Name, s, head.Stride)
	}
	h, w, ch := s[2], s[3], s[1]
	pixels := NHWC(photo, 1, ch, h, w)
	turned := make([]float32, len(pixels)) // mirrored left to right
	for i := range pixels {
		pixels[i] = pixels[i]/127.5 - 1
	}
	for p := range h * w {
		copy(turned[(p/w*w+w-1-p%w)*ch:][:ch], pixels[p*ch:][:ch])
	}
	out := Saved{}
	for _, o := range head.Operators {
		done := d.Tidy()
		x, other := d.From(pixels, 1, h, w, ch), d.From(turned, 1, h, w, ch)
		op, err := c.build(d, named(o.Name, o.Name+"."), h, w)
		if err != nil {
			results = append(results, Result{Array: o.Name, Skipped: err.Error()})
			done()
			continue
		}
		y := op.Apply(x)
		for _, part := range []struct {
			name  string
			t     *tensor.Tensor
			limit Tolerance
			sum   float64
		}{{"y", y, o.Tolerance.Y, o.Y.SumSq}, {"grad", gradient(op, x, y, op.Apply(other)), o.Tolerance.Grad, o.Grad.SumSq}} {
			full, err := planar(part.t)
			if err != nil {
				return nil, nil, err
			}
			name := o.Name + "." + part.name
			var thin []float32
			var sum float64
			for i, v := range full.Data {
				if i%head.Stride == 0 {
					thin = append(thin, v)
				}
				sum += float64(v) * float64(v)
			}
			want, _, err := c.Array(name + "_sampled")
			if err != nil {
				return nil, nil, err
			}
			out[name+"_sampled"] = Array{thin, []int{len(thin)}}
			r := Result{Array: name + "_sampled", Limit: part.limit}
			r.MaxAbs, r.RelL2 = Compare(thin, want)
			results = append(results, r, Result{Array: name + " (sum of squares)", RelL2: math.Abs(sum/part.sum - 1), Limit: Tolerance{RelL2: o.Tolerance.SumSq}})
		}
		done()
	}
	return results, []Saved{out}, nil
}

// compareCoefficients compares the coefficients C(x) of JPEG, level shift included, with ax = sqrt(12) C/q; blocks in the
// units of their steps.
func (c *Case) compareCoefficients(task string, s operatorSpec, names []string, ax *tensor.Tensor) (r Result, err error) {
	f, err := c.jpegFormat(s)
	if err != nil {
		return r, err
	}
	want, err := c.coefficients(names)
	if err != nil {
		return r, err
	}
	got, err := ax.Floats()
	if err != nil {
		return r, err
	}
	var ours, theirs []float32
	limit := 0.0
	for p := range names {
		h, w := ax.H(), ax.W()
		if p > 0 {
			h, w = h/f.Down, w/f.Across
		}
		for i := range h {
			for j := range w {
				q := float64(f.Tables[p][i%8*8+j%8]) / 127.5
				v := float64(got[(i*ax.W()+j)*ax.C()+p]) * q / math.Sqrt(12)
				if p == 0 && i%8 == 0 && j%8 == 0 {
					v -= 8 * 0.5 / 127.5
				}
				ours, theirs = append(ours, float32(v)), append(theirs, want(p, i, j))
				limit = max(limit, operatorLimit*math.Abs(float64(want(p, i, j))))
			}
		}
	}
	w := &worst{name: task + " (coefficients)", limit: Tolerance{MaxAbs: limit}}
	w.add(ours, theirs)
	return w.row(), nil
}
