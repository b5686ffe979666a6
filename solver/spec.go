package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/tensor"
)

// Spec describes one of this package's operators apart from any device, as a measurement file holds it.
type Spec struct {
	Kind   string      // "denoise", "gray", "inpaint", "downsample", "blur" or "compose"
	Factor int         // of downsample
	Kernel *BlurKernel // of blur
	Masks  []*Mask     // of inpaint: one for all images, or one for each
	Parts  []Spec      // of compose, in the order in which they act on the picture; none of them is a compose
	// Note says in words how the operator came about, for example the command's own argument "motion:61:0.5:7".
	Note string
}

// limits of what a Spec may ask for. They keep a hostile file from exhausting the memory before anything is known to fit.
const (
	maxParts  = 8
	maxPixels = 1 << 26
	maxNote   = 200
)

// Check reports what is wrong with the spec for images of h x w pixels with c channels, or returns the shape [H,W,C] of
// one image's measurement.
func (s Spec) Check(h, w, c int) (out [3]int, err error) {
	if h < 1 || w < 1 || h > maxSide || w > maxSide || h*w > maxPixels || c < 1 || c > 4 {
		return out, fmt.Errorf("images of %d x %d with %d channels: sides may be 1 to %d, %d pixels in all, and channels 1 to 4", h, w, c, maxSide, maxPixels)
	}
	if len(s.Note) > maxNote {
		return out, fmt.Errorf("note of %d bytes, at most %d", len(s.Note), maxNote)
	}
	if (s.Factor != 0) != (s.Kind == "downsample") || (s.Kernel != nil) != (s.Kind == "blur") ||
		(len(s.Masks) > 0) != (s.Kind == "inpaint") || (len(s.Parts) > 0) != (s.Kind == "compose") {
		return out, fmt.Errorf("operator %q with parameters of another kind, or without its own", s.Kind)
	}
	switch s.Kind {
	case "denoise":
	case "gray":
		if c != 3 {
			return out, fmt.Errorf("gray of images with %d channels", c)
		}
		c = 1
	case "inpaint":
		for i, m := range s.Masks {
			if m == nil || m.H != h || m.W != w || len(m.Known) != h*w {
				return out, fmt.Errorf("mask %d does not have the %d x %d pixels of the image", i, h, w)
			}
		}
	case "downsample":
		if s.Factor < 2 || h%s.Factor != 0 || w%s.Factor != 0 || h/s.Factor > maxReduced || w/s.Factor > maxReduced {
			return out, fmt.Errorf("factor %d for images of %d x %d: it must be 2 or more, divide both, and leave at most %d", s.Factor, h, w, maxReduced)
		}
		h, w = h/s.Factor, w/s.Factor
	case "blur":
		k := s.Kernel
		if k.H < 1 || k.W < 1 || k.H > maxKernel || k.W > maxKernel || k.H%2 == 0 || k.W%2 == 0 || len(k.K) != k.H*k.W {
			return out, fmt.Errorf("kernel of %d x %d with %d values", k.H, k.W, len(k.K))
		}
		var sum float64
		for _, v := range k.K {
			sum += float64(v)
		}
		if !(math.Abs(sum-1) < 1e-4) {
			return out, fmt.Errorf("kernel with the sum %v, expected 1", sum)
		}
	case "compose":
		if len(s.Parts) > maxParts {
			return out, fmt.Errorf("%d operators in a row, at most %d", len(s.Parts), maxParts)
		}
		for i, p := range s.Parts {
			if p.Kind == "compose" {
				return out, fmt.Errorf("part %d is a compose inside a compose", i)
			}
			next, err := p.Check(h, w, c)
			if err != nil {
				return out, fmt.Errorf("part %d: %w", i, err)
			}
			h, w, c = next[0], next[1], next[2]
		}
	default:
		return out, fmt.Errorf("operator %q is not known", s.Kind)
	}
	return [3]int{h, w, c}, nil
}

// Build readies the operator on a device, for images of h x w pixels with c channels. Free, where the operator has it,
// gives the memory back.
func (s Spec) Build(d *tensor.Device, h, w, c int) (Operator, error) {
	if _, err := s.Check(h, w, c); err != nil {
		return nil, fmt.Errorf("solver.Spec: %w", err)
	}
	return s.build(d, h, w, c)
}

func (s Spec) build(d *tensor.Device, h, w, c int) (Operator, error) {
	switch s.Kind {
	case "denoise":
		return Denoise{}, nil
	case "gray":
		return orNil(NewGray(d))
	case "inpaint":
		return orNil(NewInpaint(d, s.Masks...))
	case "downsample":
		return orNil(NewDownsample(d, h, w, s.Factor))
	case "blur":
		return orNil(NewBlur(d, h, w, s.Kernel))
	}
	var parts []Operator
	for _, p := range s.Parts {
		op, err := p.build(d, h, w, c)
		if err != nil {
			for _, built := range parts {
				Release(built)
			}
			return nil, err
		}
		parts = append(parts, op)
		next, _ := p.Check(h, w, c)
		h, w, c = next[0], next[1], next[2]
	}
	return Compose(parts[0], parts[1:]...), nil
}

// orNil keeps a nil *T from becoming an Operator that is not nil.
func orNil[T Operator](op T, err error) (Operator, error) {
	if err != nil {
		return nil, err
	}
	return op, nil
}

// Release gives an operator's memory back, where it holds any.
func Release(op Operator) {
	if f, ok := op.(interface{ Free() }); ok {
		f.Free()
	}
}
