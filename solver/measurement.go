package solver

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// MeasurementKey is the metadata key that holds a measurement's description as JSON.
const MeasurementKey = "spin.measurement"

// MeasurementVersion is the newest version of the description that this package reads, and the one that it writes.
const MeasurementVersion = 1

// Measurement is everything that a reconstruction needs besides the prior: what was measured, and by what operator, so
// that simulating and reconstructing cannot disagree. It is stored as a safetensors file:
//
//	y            F32 [N,C,H,W], what was measured
//	mask         U8 [1 or N,H,W], 1 = known         (inpainting; mask.1, mask.2, ... in a chain of operators)
//	kernel       F32 [H,W], correlated, sum 1       (blur; numbered in the same way)
//	...          F32, the arrays of other operators, by the names that the operator has for them
//	metadata     spin.measurement: the rest, as JSON
type Measurement struct {
	Y     []float32 // planar: [N,C,H,W]
	Shape [4]int    // N, C, H, W of Y
	// Image is the channels, height and width of the images behind it. Values are in [-1,1].
	Image    [3]int
	Operator Spec
	Sigma    float64    // standard deviation of the noise in Y, in units of Y
	Noise    NoiseModel // besides it, or in place of it
	Seed     uint64     // that made the noise, for the record
	// Convention names where the meaning of the numbers comes from, for the record; empty is this package's.
	Convention string
}

// measurementJSON is the metadata.
type measurementJSON struct {
	Version    int        `json:"version"`
	Operator   specJSON   `json:"operator"`
	Image      [3]int     `json:"image"` // channels, height, width
	Sigma      float64    `json:"sigma"`
	Range      string     `json:"range"` // pm1: images are in [-1,1]
	Convention string     `json:"convention"`
	Seed       uint64     `json:"seed"`
	Noise      *noiseJSON `json:"noise,omitempty"`
}

type noiseJSON struct {
	Kind  string  `json:"kind"`
	Level float64 `json:"level"`
}

type specJSON struct {
	Kind    string             `json:"kind"`
	Task    Task               `json:"task,omitempty"` // kind of mask or kernel
	Factor  int                `json:"factor,omitempty"`
	Mask    string             `json:"mask,omitempty"`   // name of an array
	Kernel  string             `json:"kernel,omitempty"` // name of an array
	Numbers map[string]float64 `json:"numbers,omitempty"`
	Arrays  map[string]string  `json:"arrays,omitempty"` // names of arrays
	Parts   []specJSON         `json:"parts,omitempty"`
	Note    string             `json:"note,omitempty"`
}

const (
	rangePM1          = "pm1"
	defaultConvention = "spin"
	maxConvention     = 64
	maxSigma          = 1e6
)

// check proves the measurement consistent.
func (m *Measurement) check() error {
	n, c, h, w := m.Shape[0], m.Shape[1], m.Shape[2], m.Shape[3]
	out, err := m.Operator.Check(m.Image[1], m.Image[2], m.Image[0])
	if err != nil {
		return err
	}
	if n < 1 || n > 1<<20 || out != [3]int{h, w, c} {
		return fmt.Errorf("y has shape %v (images, channels, height, width), the operator makes [N %d %d %d]", m.Shape, out[2], out[0], out[1])
	}
	if len(m.Y) != n*c*h*w {
		return fmt.Errorf("y has %d values, its shape is %v", len(m.Y), m.Shape)
	}
	for _, s := range append([]Spec{m.Operator}, m.Operator.Parts...) {
		if len(s.Masks) > 1 && len(s.Masks) != n {
			return fmt.Errorf("%d masks for %d images", len(s.Masks), n)
		}
	}
	for i, v := range m.Y {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("y has the value %v at %d", v, i)
		}
	}
	if !(m.Sigma >= 0 && m.Sigma <= maxSigma) {
		return fmt.Errorf("sigma is %v, expected 0 to %v", m.Sigma, float64(maxSigma))
	}
	if err := m.Noise.check(); err != nil {
		return err
	}
	if len(m.Convention) > maxConvention {
		return fmt.Errorf("convention of %d bytes, at most %d", len(m.Convention), maxConvention)
	}
	return nil
}

// Save writes the measurement to a file, whole or not at all. An existing file is replaced.
func (m *Measurement) Save(path string) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("solver.Measurement.Save: %w", err)
	}
	var arrays []weights.Tensor
	add := func(name string, dtype weights.DType, shape []int, data []byte) {
		arrays = append(arrays, weights.Tensor{Name: name, DType: dtype, Shape: shape, Data: data})
	}
	add("y", weights.F32, m.Shape[:], bytesOf(m.Y))
	var describe func(s Spec, suffix string) specJSON
	describe = func(s Spec, suffix string) specJSON {
		j := specJSON{Kind: s.Kind, Factor: s.Factor, Numbers: s.Numbers, Note: s.Note}
		if len(s.Masks) > 0 {
			j.Mask, j.Task = "mask"+suffix, s.Masks[0].Task
			var data []byte
			for _, mask := range s.Masks {
				for _, known := range mask.Known {
					b := byte(0)
					if known {
						b = 1
					}
					data = append(data, b)
				}
			}
			add(j.Mask, weights.U8, []int{len(s.Masks), s.Masks[0].H, s.Masks[0].W}, data)
		}
		if s.Kernel != nil {
			j.Kernel, j.Task = "kernel"+suffix, s.Kernel.Task
			add(j.Kernel, weights.F32, []int{s.Kernel.H, s.Kernel.W}, bytesOf(s.Kernel.K))
		}
		for _, name := range slices.Sorted(maps.Keys(s.Arrays)) {
			if j.Arrays == nil {
				j.Arrays = map[string]string{}
			}
			j.Arrays[name] = name + suffix
			add(name+suffix, weights.F32, s.Arrays[name].Shape, bytesOf(s.Arrays[name].Data))
		}
		for i, p := range s.Parts {
			j.Parts = append(j.Parts, describe(p, fmt.Sprintf(".%d", i+1)))
		}
		return j
	}
	j := measurementJSON{
		Version: MeasurementVersion, Operator: describe(m.Operator, ""), Image: m.Image, Sigma: m.Sigma,
		Range: rangePM1, Convention: m.Convention, Seed: m.Seed,
	}
	if m.Noise.Kind != "" {
		j.Noise = &noiseJSON{m.Noise.Kind, m.Noise.Level}
	}
	if j.Convention == "" {
		j.Convention = defaultConvention
	}
	text, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("solver.Measurement.Save: %w", err)
	}
	return weights.Write(path, arrays, map[string]string{MeasurementKey: string(text)})
}

func bytesOf(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return b
}

// IsMeasurement reports whether a file of weights is a measurement.
func IsMeasurement(f *weights.File) bool {
	_, ok := f.Metadata()[MeasurementKey]
	return ok
}

// LoadMeasurement reads a measurement file. Everything in it is checked, and nothing that it says is trusted.
func LoadMeasurement(path string) (*Measurement, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadMeasurement(f)
}

// ReadMeasurement is LoadMeasurement for a file that is open already.
func ReadMeasurement(f *weights.File) (*Measurement, error) {
	m, err := readMeasurement(f)
	if err != nil {
		return nil, fmt.Errorf("measurement %s: %w", f.Path(), err)
	}
	return m, nil
}

func readMeasurement(f *weights.File) (*Measurement, error) {
	text, ok := f.Metadata()[MeasurementKey]
	if !ok {
		return nil, fmt.Errorf("the file is not a measurement: its metadata has no %s", MeasurementKey)
	}
	var version struct{ Version int }
	if err := json.Unmarshal([]byte(text), &version); err != nil {
		return nil, fmt.Errorf("%s: %w", MeasurementKey, err)
	}
	if version.Version > MeasurementVersion {
		return nil, fmt.Errorf("version %d is newer than this program, which reads up to %d: use a newer version of it", version.Version, MeasurementVersion)
	}
	if version.Version < 1 {
		return nil, fmt.Errorf("version is %d, expected 1 to %d", version.Version, MeasurementVersion)
	}
	var j measurementJSON
	if err := weights.StrictJSON([]byte(text), &j); err != nil {
		return nil, fmt.Errorf("%s: %w", MeasurementKey, err)
	}
	if j.Range != rangePM1 {
		return nil, fmt.Errorf("range is %q, expected %q", j.Range, rangePM1)
	}
	m := &Measurement{Image: j.Image, Sigma: j.Sigma, Seed: j.Seed, Convention: j.Convention}
	if j.Noise != nil {
		if m.Noise = NoiseModel(*j.Noise); m.Noise.Kind == "" {
			return nil, fmt.Errorf("noise without a kind")
		}
	}
	if m.Convention == defaultConvention {
		m.Convention = ""
	}
	y, ok := f.Tensor("y")
	if !ok || len(y.Shape) != 4 {
		return nil, fmt.Errorf("there is no array y with four dimensions")
	}
	copy(m.Shape[:], y.Shape)
	var err error
	if m.Y, err = y.Floats(); err != nil {
		return nil, err
	}
	if m.Operator, err = j.Operator.spec(f, 0); err != nil {
		return nil, err
	}
	return m, m.check()
}

// spec collects the arrays of an operator.
func (j specJSON) spec(f *weights.File, depth int) (s Spec, err error) {
	s = Spec{Kind: j.Kind, Factor: j.Factor, Numbers: j.Numbers, Note: j.Note}
	if j.Task != "" {
		if _, err := ParseTask(string(j.Task)); err != nil {
			return s, err
		}
	}
	if j.Mask != "" {
		t, ok := f.Tensor(j.Mask)
		if !ok || len(t.Shape) != 3 || t.Shape[1] < 1 || t.Shape[2] < 1 || t.Shape[1] > maxSide || t.Shape[2] > maxSide {
			return s, fmt.Errorf("there is no mask %q with the dimensions [N,H,W]", j.Mask)
		}
		values, err := t.Ints()
		if err != nil {
			return s, err
		}
		size := t.Shape[1] * t.Shape[2]
		for i := range t.Shape[0] {
			m := newMask("solver.Measurement", t.Shape[1], t.Shape[2], j.Task)
			for p, v := range values[i*size : (i+1)*size] {
				if v != 0 && v != 1 {
					return s, fmt.Errorf("mask %q has the value %d, expected 0 and 1", j.Mask, v)
				}
				m.Known[p] = v == 1
			}
			s.Masks = append(s.Masks, m)
		}
	}
	if j.Kernel != "" {
		t, ok := f.Tensor(j.Kernel)
		if !ok || len(t.Shape) != 2 {
			return s, fmt.Errorf("there is no kernel %q with the dimensions [H,W]", j.Kernel)
		}
		values, err := t.Floats()
		if err != nil {
			return s, err
		}
		if s.Kernel, err = NewKernel(t.Shape[0], t.Shape[1], values); err != nil {
			return s, err
		}
		s.Kernel.Task = j.Task
	}
	for name, array := range j.Arrays {
		t, ok := f.Tensor(array)
		if !ok {
			return s, fmt.Errorf("there is no array %q", array)
		}
		a := Array{Shape: t.Shape}
		if a.Data, err = t.Floats(); err != nil {
			return s, err
		}
		if s.Arrays == nil {
			s.Arrays = map[string]Array{}
		}
		s.Arrays[name] = a
	}
	if len(j.Parts) > maxParts || len(j.Parts) > 0 && depth > 0 {
		return s, fmt.Errorf("operators are chained %d in a row, or inside of another chain", len(j.Parts))
	}
	for _, p := range j.Parts {
		part, err := p.spec(f, depth+1)
		if err != nil {
			return s, err
		}
		s.Parts = append(s.Parts, part)
	}
	return s, nil
}

// interleaved brings values of the shape N, C, H, W into the order NHWC; planar brings them back.
func interleaved(v []float32, shape [4]int) []float32 {
	return reordered(v, shape[1], shape[2]*shape[3])
}

func planar(v []float32, shape [4]int) []float32 { return reordered(v, shape[2]*shape[3], shape[1]) }

// reordered exchanges the rows and the columns of matrices that lie one after the other.
func reordered(v []float32, rows, columns int) []float32 {
	out := make([]float32, len(v))
	size := rows * columns
	for i, x := range v {
		out[i/size*size+i%size%columns*rows+i%size/columns] = x
	}
	return out
}

// Simulate measures one picture [1,H,W,C] as NoiseModel.Measure does, by the operator op that spec describes. y is what it gave.
func (m NoiseModel) Simulate(op Operator, spec Spec, x *tensor.Tensor, sigma float64, seed uint64) (all *Measurement, y *tensor.Tensor, err error) {
	if y, err = m.Measure(op, x, sigma, seed, 0); err != nil {
		return nil, nil, err
	}
	data, err := y.Floats()
	if err != nil {
		return nil, nil, err
	}
	if r, ok := op.(Recorder); ok {
		sigma = math.Hypot(sigma, r.Deviation())
	}
	shape := [4]int{1, y.C(), y.H(), y.W()}
	return &Measurement{
		Y: planar(data, shape), Shape: shape, Image: [3]int{x.C(), x.H(), x.W()}, Operator: spec, Sigma: sigma, Noise: m, Seed: seed,
	}, y, nil
}

// Problem puts the measurement on a device. Release frees its operator, Free its Y.
func (m *Measurement) Problem(d *tensor.Device) (p Problem, err error) {
	defer tensor.Catch(&err)
	if err := m.check(); err != nil {
		return p, fmt.Errorf("solver.Measurement: %w", err)
	}
	op, err := m.Operator.Build(d, m.Image[1], m.Image[2], m.Image[0])
	if err != nil {
		return p, err
	}
	n, c, h, w := m.Shape[0], m.Shape[1], m.Shape[2], m.Shape[3]
	p = Problem{Operator: op, Y: d.From(interleaved(m.Y, m.Shape), n, h, w, c), Sigma: m.Sigma}
	if m.Noise.Kind == "" {
		return p, nil
	}
	defer p.Y.Free()
	return m.weighed(d, p)
}

// weighed makes a problem of noise that differs from value to value one of equal noise: sigma is the deviation whose precision
// is the mean of all.
func (m *Measurement) weighed(d *tensor.Device, p Problem) (q Problem, err error) {
	n, c, h, w := m.Shape[0], m.Shape[1], m.Shape[2], m.Shape[3]
	deviations := m.Noise.deviations(m.Y, h, w, m.Sigma)
	var precision float64
	for _, v := range deviations {
		precision += 1 / (float64(v) * float64(v)) / float64(len(deviations))
	}
	sigma := 1 / math.Sqrt(precision)
	weights := interleaved(deviations, m.Shape)
	for i, v := range weights {
		weights[i] = float32(sigma / float64(v))
	}
	op, err := NewWeighted(d, p.Operator, weights, [4]int{n, h, w, c})
	if err != nil {
		Release(p.Operator)
		return q, err
	}
	return Problem{Operator: op, Y: elementwise(p.Y, op.w), Sigma: sigma}, nil
}
