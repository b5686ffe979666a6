package parity

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// Case is a loaded case folder.
type Case struct {
	Dir  string
	Name string
	Kind string

	Config    map[string]json.RawMessage
	Weights   []WeightsFile
	Runs      []Run
	Tolerance map[string]Tolerance
	Probes    map[string]Probe

	// Custom makes operators that are not part of this program, by their kind.
	Custom map[string]CustomOperator

	raw []byte
	io  *weights.File // nil where the case has no arrays
}

// CustomOperator makes an operator for images of h x w, with what it measured and the noise of that.
type CustomOperator func(d *tensor.Device, h, w int) (op solver.Operator, y *tensor.Tensor, sigma float64, err error)

// WeightsFile is one file that holds the case's model.
type WeightsFile struct {
	File   string `json:"file"`
	Format string `json:"format"`
}

// Run maps the names of a network's inputs and outputs to arrays of the case.
type Run struct {
	Fn      string            `json:"fn"` // what to compute, where the case's model can do several things
	Inputs  map[string]string `json:"inputs"`
	Outputs map[string]string `json:"outputs"`
}

// Tolerance bounds the largest absolute difference and ||a-b|| / ||b||; both are to be met. A bound of 0 is none.
type Tolerance struct {
	MaxAbs float64 `json:"max_abs"`
	RelL2  float64 `json:"rel_l2"`
	Exact  bool    `json:"exact,omitempty"` // no difference at all; in a case, the word "exact" in place of bounds
}

// UnmarshalJSON reads the bounds, or the word.
func (t *Tolerance) UnmarshalJSON(b []byte) error {
	if string(b) == `"exact"` {
		*t = Tolerance{Exact: true}
		return nil
	}
	type bounds Tolerance
	return json.Unmarshal(b, (*bounds)(t))
}

// Probe is the output of an inner module during run 0, thinned out to every Stride-th element.
type Probe struct {
	Tensor string `json:"tensor"`
	Shape  []int  `json:"shape"`
	Stride int    `json:"stride"`
}

// ErrUnsupported is matched by errors about kinds of cases and weights that this version does not run.
var ErrUnsupported = errors.New("not supported by this version")

// Load reads a case folder. Close it after use.
func Load(dir string) (*Case, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		return nil, fmt.Errorf("%s is not a case folder: %w", dir, err)
	}
	c := &Case{Dir: dir, raw: raw}
	var head struct {
		Name      string                     `json:"name"`
		Kind      string                     `json:"kind"`
		Config    map[string]json.RawMessage `json:"config"`
		Weights   []WeightsFile              `json:"weights"`
		Runs      []Run                      `json:"runs"`
		IO        string                     `json:"io"`
		Tolerance json.RawMessage            `json:"tolerance"`
		Probes    map[string]Probe           `json:"probes"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "case.json"), err)
	}
	c.Name, c.Kind, c.Config, c.Weights, c.Runs, c.Probes = head.Name, head.Kind, head.Config, head.Weights, head.Runs, head.Probes
	if c.Name == "" {
		c.Name = filepath.Base(dir)
	}
	if head.Tolerance != nil {
		// Kinds that have no outputs of their own keep other things under this name.
		_ = json.Unmarshal(head.Tolerance, &c.Tolerance)
	}
	if head.IO == "" {
		head.IO = "io.safetensors"
	}
	if c.io, err = weights.Open(filepath.Join(dir, head.IO)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return c, nil
}

// Close closes the arrays.
func (c *Case) Close() error {
	if c.io == nil {
		return nil
	}
	return c.io.Close()
}

// tensor is an array of the case as the file has it.
func (c *Case) tensor(name string) (weights.Tensor, error) {
	if c.io == nil {
		return weights.Tensor{}, fmt.Errorf("%s: io.safetensors is missing", c.Name)
	}
	t, ok := c.io.Tensor(name)
	if !ok {
		return t, fmt.Errorf("%s: io.safetensors has no array %q", c.Name, name)
	}
	return t, nil
}

// Array is a float array of the case, as it lies in the file (NCHW).
func (c *Case) Array(name string) (data []float32, shape []int, err error) {
	t, err := c.tensor(name)
	if err != nil {
		return nil, nil, err
	}
	data, err = t.Floats()
	if err != nil {
		var ints []int64
		if ints, err = t.Ints(); err == nil {
			data = make([]float32, len(ints))
			for i, v := range ints {
				data[i] = float32(v)
			}
		}
	}
	return data, t.Shape, err
}

// float64s is an array in double precision.
func (c *Case) float64s(name string) ([]float64, error) {
	t, err := c.tensor(name)
	if err == nil {
		t, err = t.To(weights.F64)
	}
	if err != nil {
		return nil, err
	}
	list := make([]float64, len(t.Data)/8)
	for i := range list {
		list[i] = math.Float64frombits(binary.LittleEndian.Uint64(t.Data[8*i:]))
	}
	return list, nil
}

// Has reports whether the case has an array of that name.
func (c *Case) Has(name string) bool {
	_, err := c.tensor(name)
	return err == nil
}

// Result is one compared array.
type Result struct {
	Weights string    `json:"weights,omitempty"` // the weights file, where the case has any
	Array   string    `json:"array"`
	MaxAbs  float64   `json:"max_abs"`
	RelL2   float64   `json:"rel_l2"`
	Limit   Tolerance `json:"tolerance"`
	Skipped string    `json:"skipped,omitempty"` // why it was not computed
}

// OK reports whether the array is inside its tolerance. A NaN is not.
func (r Result) OK() bool {
	if r.Limit.Exact && r.MaxAbs != 0 {
		return false
	}
	return r.Skipped != "" || (r.Limit.MaxAbs == 0 || r.MaxAbs <= r.Limit.MaxAbs) && (r.Limit.RelL2 == 0 || r.RelL2 <= r.Limit.RelL2)
}

// Compare measures got against want.
func Compare(got, want []float32) (maxAbs, relL2 float64) {
	if len(got) != len(want) {
		return math.NaN(), math.NaN()
	}
	var d2, w2 float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		if a := math.Abs(d); a > maxAbs || math.IsNaN(a) {
			maxAbs = a
		}
		d2 += d * d
		w2 += float64(want[i]) * float64(want[i])
	}
	if w2 == 0 {
		return maxAbs, math.Sqrt(d2)
	}
	return maxAbs, math.Sqrt(d2 / w2)
}

// NHWC turns [N,C,H,W] data round; NCHW turns it back.
func NHWC(data []float32, n, c, h, w int) []float32 {
	out := make([]float32, len(data))
	for i := range n {
		for k := range c {
			for p := range h * w {
				out[(i*h*w+p)*c+k] = data[(i*c+k)*h*w+p]
			}
		}
	}
	return out
}

// NCHW is the inverse of NHWC.
func NCHW(data []float32, n, h, w, c int) []float32 {
	out := make([]float32, len(data))
	for i := range n {
		for p := range h * w {
			for k := range c {
				out[(i*c+k)*h*w+p] = data[(i*h*w+p)*c+k]
			}
		}
	}
	return out
}

// Saved is what one entry of a case's weights computed, by output name, NCHW.
type Saved map[string]Array

// Array is a computed array.
type Array struct {
	Data  []float32
	Shape []int
}

// Write stores the arrays as one safetensors file.
func (s Saved) Write(path string) error {
	names := make([]string, 0, len(s))
	for n := range s {
		names = append(names, n)
	}
	sort.Strings(names)
	var list []weights.Tensor
	for _, n := range names {
		list = append(list, weights.FromFloats(n, s[n].Data, s[n].Shape...))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return weights.Write(path, list, nil)
}
