package solver

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/spin-native/spin/tensor"
)

// Spec describes one of this package's operators apart from any device, as a measurement file holds it.
type Spec struct {
	Kind    string             // a name in the table of kinds, or "compose"
	Factor  int                // of downsample
	Kernel  *BlurKernel        // of blur
	Masks   []*Mask            // of inpaint: one for all images, or one for each
	Numbers map[string]float64 // what other kinds are told in numbers, by name
	Arrays  map[string]Array   // and in arrays
	Parts   []Spec             // of compose, in the order in which they act on the picture; none of them is a compose
	// Note says in words how the operator came about, for example the command's own argument "motion:61:0.5:7".
	Note string
}

// Array is an array of numbers, the last dimension running fastest.
type Array struct {
	Shape []int
	Data  []float32
}

// kind is what a Spec has to know about an operator. One of these per operator stands in the operator's own file.
type kind struct {
	factor, kernel, masks bool     // what it takes, and must be given
	numbers, arrays       []string // the names of what it takes, and must be given, in Numbers and Arrays
	// shape is the shape [H,W,C] of a measurement of one image of h x w x c, or what is wrong; nil means that of the image.
	shape func(s Spec, h, w, c int) ([3]int, error)
	build func(d *tensor.Device, s Spec, h, w, c int) (Operator, error)
	text  func(s Spec) string // what the operator does, as a caption

	other    bool // what it measures is no picture
	turnable bool // it cannot tell a picture from the one turned by 180 degrees
}

// kinds are the operators that a Spec can name. "compose" chains them.
var kinds = map[string]kind{
	"phase":      phaseKind,
	"mri":        mriKind,
	"ct":         ctKind,
	"blocks":     blocksKind,
	"hadamard":   singlePixelKind,
	"denoise":    denoiseKind,
	"gray":       grayKind,
	"gray_mean":  grayKind,
	"inpaint":    inpaintKind,
	"downsample": downsampleKind,
	"average":    downsampleKind,
	"decimate":   decimateKind,
	"blur":       blurKind,
	"hdr":        hdrKind,
	"quantize":   quantizeKind,
	"response":   responseKind,
	"jpeg":       jpegKind,
	"jpeg_box":   jpegKind,
	"jpeg_soft":  softJPEGKind,
}

// limits of what a Spec may ask for. They keep a hostile file from exhausting the memory before anything is known to fit.
const (
	maxParts  = 8
	maxPixels = 1 << 26
	maxNote   = 200
	maxSeed   = 1 << 53 // whole numbers that a float64 holds
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
	k, ok := kinds[s.Kind]
	if !ok && s.Kind != "compose" {
		return out, fmt.Errorf("operator %q is not known", s.Kind)
	}
	if (s.Factor != 0) != k.factor || (s.Kernel != nil) != k.kernel || (len(s.Masks) > 0) != k.masks || (len(s.Parts) > 0) == ok ||
		!names(s.Numbers, k.numbers) || !names(s.Arrays, k.arrays) {
		return out, fmt.Errorf("operator %q with parameters of another kind, or without its own", s.Kind)
	}
	for name, v := range s.Numbers {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return out, fmt.Errorf("%s is %v", name, v)
		}
	}
	for name, a := range s.Arrays {
		if err := a.check(); err != nil {
			return out, fmt.Errorf("array %q: %w", name, err)
		}
	}
	for i, m := range s.Masks {
		if m == nil || len(m.Known) != m.H*m.W {
			return out, fmt.Errorf("mask %d does not have the pixels that it says", i)
		}
	}
	if ok && k.shape != nil {
		return k.shape(s, h, w, c)
	}
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
	return [3]int{h, w, c}, nil
}

// names reports whether m has the given keys and no others.
func names[T any](m map[string]T, keys []string) bool {
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			return false
		}
	}
	return len(m) == len(keys)
}

// check proves the shape, and the values finite.
func (a Array) check() error {
	size := 1
	for _, n := range a.Shape {
		if n < 1 || n > len(a.Data) {
			return fmt.Errorf("shape %v with %d values", a.Shape, len(a.Data))
		}
		if size *= n; size > len(a.Data) {
			break
		}
	}
	if size != len(a.Data) || len(a.Shape) > 4 {
		return fmt.Errorf("shape %v with %d values", a.Shape, len(a.Data))
	}
	for i, v := range a.Data {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("value %d is %v", i, v)
		}
	}
	return nil
}

// whole is number name as a whole number from lo to hi.
func (s Spec) whole(name string, lo, hi int) (int, error) {
	v := s.Numbers[name]
	if v != math.Trunc(v) || v < float64(lo) || v > float64(hi) {
		return 0, fmt.Errorf("%s is %v, expected a whole number from %d to %d", name, v, lo, hi)
	}
	return int(v), nil
}

// choice is the array name of the given shape, whose values are 0 and 1.
func (s Spec) choice(name string, shape ...int) ([]bool, error) {
	a := s.Arrays[name]
	if !slices.Equal(a.Shape, shape) {
		return nil, fmt.Errorf("array %q has the shape %v, expected %v", name, a.Shape, shape)
	}
	out := make([]bool, len(a.Data))
	for i, v := range a.Data {
		if v != 0 && v != 1 {
			return nil, fmt.Errorf("array %q has the value %v, expected 0 and 1", name, v)
		}
		out[i] = v == 1
	}
	return out, nil
}

// Choice is an array of what was chosen, in the given shape.
func Choice(chosen []bool, shape ...int) Array {
	a := Array{shape, make([]float32, len(chosen))}
	for i, v := range chosen {
		if v {
			a.Data[i] = 1
		}
	}
	return a
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
	if k, ok := kinds[s.Kind]; ok {
		return k.build(d, s, h, w, c)
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

// String says what the operator does to a picture, without the note.
func (s Spec) String() string {
	if k, ok := kinds[s.Kind]; ok {
		return k.text(s)
	}
	var parts []string
	for _, p := range s.Parts {
		parts = append(parts, p.String())
	}
	return strings.Join(parts, ", then ")
}

// Pictures reports whether measurements are pictures themselves.
func (s Spec) Pictures() bool { return !s.last().other }

// Turnable reports whether the measurement cannot tell a picture from the one turned by 180 degrees.
func (s Spec) Turnable() bool { return s.last().turnable && s.Kind != "compose" }

// last is the operator that makes the measurement.
func (s Spec) last() kind {
	if len(s.Parts) > 0 {
		s = s.Parts[len(s.Parts)-1]
	}
	return kinds[s.Kind]
}

// Kinds are the kinds of operators that a Spec can name, in alphabetical order, besides "compose".
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

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
