package solver

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/weights"
)

// measurements has one of every kind of operator.
func measurements(t testing.TB) map[string]*Measurement {
	const n, c, h, w = 2, 3, 8, 12
	box, err := BoxMask(h, w, 0, 1)
	require.NoError(t, err)
	dots, err := RandomMask(h, w, 0.5, 1)
	require.NoError(t, err)
	more, err := RandomMask(h, w, 0.2, 2)
	require.NoError(t, err)
	small, err := CenterMask(h/2, w/2, 2)
	require.NoError(t, err)
	gauss, err := GaussianKernel(7, 1)
	require.NoError(t, err)
	motion, err := MotionKernel(9, 0.5, 3)
	require.NoError(t, err)
	out := map[string]*Measurement{}
	for name, s := range map[string]Spec{
		"denoise":    {Kind: "denoise"},
		"gray":       {Kind: "gray"},
		"one mask":   {Kind: "inpaint", Masks: []*Mask{box}, Note: "box:4:1"},
		"two masks":  {Kind: "inpaint", Masks: []*Mask{dots, more}},
		"downsample": {Kind: "downsample", Factor: 4},
		"gaussian":   {Kind: "blur", Kernel: gauss},
		"motion":     {Kind: "blur", Kernel: motion, Note: "motion:9:0.5:3"},
		"JPEG":       StandardJPEG(10, 2, 2).Spec(false),
		"decimated":  {Kind: "decimate", Factor: 2, Kernel: motion},
		"grey JPEG":  {Kind: "jpeg_box", Numbers: map[string]float64{"across": 1, "down": 1}, Arrays: map[string]Array{"tables": {Shape: []int{1, 64}, Data: ones(64)}}},
		"quantize":   {Kind: "quantize", Numbers: map[string]float64{"levels": 8}},
		"nonlinear":  {Kind: "compose", Parts: []Spec{{Kind: "response", Numbers: map[string]float64{"gamma": 2.2}}, {Kind: "blur", Kernel: gauss}}},
		"HDR":        {Kind: "hdr", Numbers: map[string]float64{"gain": 2, "sigma": 0.05}},
		"long chain": {Kind: "compose", Parts: []Spec{{Kind: "blur", Kernel: motion}, {Kind: "downsample", Factor: 2}, StandardJPEG(30, 2, 1).Spec(false)}},
		"chain": {Kind: "compose", Parts: []Spec{
			{Kind: "inpaint", Masks: []*Mask{dots}}, {Kind: "blur", Kernel: motion}, {Kind: "downsample", Factor: 2}, {Kind: "inpaint", Masks: []*Mask{small}},
		}},
	} {
		shape, err := s.Check(h, w, c)
		require.NoError(t, err, name)
		m := &Measurement{Shape: [4]int{n, shape[2], shape[0], shape[1]}, Image: [3]int{c, h, w}, Operator: s, Sigma: 0.05, Seed: math.MaxUint64}
		m.Y = make([]float32, n*shape[0]*shape[1]*shape[2])
		NewNoise(4).Normal(m.Y, 0, 0)
		out[name] = m
	}
	return out
}

func ones(n int) []float32 {
	list := make([]float32, n)
	for i := range list {
		list[i] = 1
	}
	return list
}

func TestMeasurementRoundTrip(t *testing.T) {
	for name, m := range measurements(t) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "y.safetensors")
			require.NoError(t, m.Save(path))
			back, err := LoadMeasurement(path)
			require.NoError(t, err)
			require.Equal(t, m, back)
			first, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, back.Save(path))
			second, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(first, second), "saved twice, two files")

			// The operator is the very same.
			d := device(t)
			live := d.Stats().Live
			p, err := m.Problem(d)
			require.NoError(t, err)
			q, err := back.Problem(d)
			require.NoError(t, err)
			for i, v := range floats(t, p.Y) {
				channels, pixels := m.Shape[1], m.Shape[2]*m.Shape[3]
				n, at, c := i/channels/pixels, i/channels%pixels, i%channels
				require.Equal(t, m.Y[(n*channels+c)*pixels+at], v)
			}
			tidy := d.Tidy()
			x := d.From(make([]float32, m.Shape[0]*m.Image[1]*m.Image[2]*m.Image[0]), m.Shape[0], m.Image[1], m.Image[2], m.Image[0])
			v, w := p.Operator.VJP(x, p.Y), q.Operator.VJP(x, q.Y)
			require.Equal(t, x.Shape(), v.Shape())
			require.Equal(t, floats(t, v), floats(t, w))
			require.Equal(t, taskOf(p.Operator), taskOf(q.Operator))
			tidy()
			for _, x := range []Problem{p, q} {
				x.Y.Free()
				Release(x.Operator)
			}
			require.Equal(t, live, d.Stats().Live)
		})
	}
}

// A file that says something else than what it holds is refused, whatever the lie.
func TestMeasurementRefusals(t *testing.T) {
	valid := measurements(t)["one mask"]
	path := filepath.Join(t.TempDir(), "y.safetensors")
	require.NoError(t, valid.Save(path))
	f, err := weights.Open(path)
	require.NoError(t, err)
	defer f.Close()
	text := f.Metadata()[MeasurementKey]

	type object = map[string]any
	for name, change := range map[string]func(o, op object, arrays map[string]weights.Tensor){
		"newer version":     func(o, _ object, _ map[string]weights.Tensor) { o["version"] = 2 },
		"version 0":         func(o, _ object, _ map[string]weights.Tensor) { o["version"] = 0 },
		"version in words":  func(o, _ object, _ map[string]weights.Tensor) { o["version"] = "one" },
		"unknown field":     func(o, _ object, _ map[string]weights.Tensor) { o["extra"] = 1 },
		"other range":       func(o, _ object, _ map[string]weights.Tensor) { o["range"] = "01" },
		"negative sigma":    func(o, _ object, _ map[string]weights.Tensor) { o["sigma"] = -0.1 },
		"huge sigma":        func(o, _ object, _ map[string]weights.Tensor) { o["sigma"] = 1e30 },
		"image too small":   func(o, _ object, _ map[string]weights.Tensor) { o["image"] = []int{3, 0, 12} },
		"image too large":   func(o, _ object, _ map[string]weights.Tensor) { o["image"] = []int{3, 1 << 15, 1 << 15} },
		"image overflows":   func(o, _ object, _ map[string]weights.Tensor) { o["image"] = []int{3, 1 << 62, 1 << 62} },
		"too many channels": func(o, _ object, _ map[string]weights.Tensor) { o["image"] = []int{1 << 40, 8, 12} },
		"other image":       func(o, _ object, _ map[string]weights.Tensor) { o["image"] = []int{3, 12, 8} },
		"long convention":   func(o, _ object, _ map[string]weights.Tensor) { o["convention"] = string(make([]byte, 65)) },
		"negative seed":     func(o, _ object, _ map[string]weights.Tensor) { o["seed"] = -1 },
		"unknown operator":  func(_, op object, _ map[string]weights.Tensor) { op["kind"] = "magic" },
		"other operator":    func(_, op object, _ map[string]weights.Tensor) { op["kind"] = "denoise" },
		"unknown task":      func(_, op object, _ map[string]weights.Tensor) { op["task"] = "magic" },
		"factor of a mask":  func(_, op object, _ map[string]weights.Tensor) { op["factor"] = 2 },
		"no such mask":      func(_, op object, _ map[string]weights.Tensor) { op["mask"] = "hat" },
		"y as mask":         func(_, op object, _ map[string]weights.Tensor) { op["mask"] = "y" },
		"mask as kernel":    func(_, op object, _ map[string]weights.Tensor) { op["kernel"] = "mask" },
		"parts of a mask":   func(_, op object, _ map[string]weights.Tensor) { op["parts"] = []object{{"kind": "denoise"}} },
		"chain in a chain": func(_, op object, _ map[string]weights.Tensor) {
			clear(op)
			op["kind"], op["parts"] = "compose", []object{{"kind": "compose", "parts": []object{{"kind": "denoise"}}}}
		},
		"long chain": func(_, op object, _ map[string]weights.Tensor) {
			clear(op)
			parts := make([]object, 9)
			for i := range parts {
				parts[i] = object{"kind": "denoise"}
			}
			op["kind"], op["parts"] = "compose", parts
		},
		"numbers of a mask": func(_, op object, _ map[string]weights.Tensor) { op["numbers"] = object{"gain": 2} },
		"arrays of a mask":  func(_, op object, _ map[string]weights.Tensor) { op["arrays"] = object{"tables": "y"} },
		"gain 0": func(_, op object, _ map[string]weights.Tensor) {
			clear(op)
			op["kind"], op["numbers"] = "hdr", object{"gain": 0, "sigma": 0}
		},
		"gain alone": func(_, op object, _ map[string]weights.Tensor) {
			clear(op)
			op["kind"], op["numbers"] = "hdr", object{"gain": 2}
		},
		"tables that are none": func(_, op object, _ map[string]weights.Tensor) {
			clear(op)
			op["kind"], op["numbers"], op["arrays"] = "jpeg", object{"across": 1, "down": 1}, object{"tables": "y"}
		},
		"no such array": func(_, op object, _ map[string]weights.Tensor) {
			clear(op)
			op["kind"], op["numbers"], op["arrays"] = "jpeg", object{"across": 1, "down": 1}, object{"tables": "hat"}
		},
		"factor 0": func(_, op object, _ map[string]weights.Tensor) { clear(op); op["kind"] = "downsample" },
		"factor -2": func(_, op object, _ map[string]weights.Tensor) {
			clear(op)
			op["kind"], op["factor"] = "downsample", -2
		},
		"no y": func(_, _ object, a map[string]weights.Tensor) { delete(a, "y") },
		"y of whole numbers": func(_, _ object, a map[string]weights.Tensor) {
			a["y"] = weights.Tensor{Name: "y", DType: weights.I32, Shape: a["y"].Shape, Data: a["y"].Data}
		},
		"y of other shape": func(_, _ object, a map[string]weights.Tensor) {
			a["y"] = weights.Tensor{Name: "y", DType: weights.F32, Shape: []int{2, 3, 12, 8}, Data: a["y"].Data}
		},
		"y of three dimensions": func(_, _ object, a map[string]weights.Tensor) {
			a["y"] = weights.Tensor{Name: "y", DType: weights.F32, Shape: []int{6, 8, 12}, Data: a["y"].Data}
		},
		"y with NaN": func(_, _ object, a map[string]weights.Tensor) {
			data := bytes.Clone(a["y"].Data)
			copy(data[40:], []byte{0, 0, 0xc0, 0x7f})
			a["y"] = weights.Tensor{Name: "y", DType: weights.F32, Shape: a["y"].Shape, Data: data}
		},
		"mask of other size": func(_, _ object, a map[string]weights.Tensor) {
			a["mask"] = weights.Tensor{Name: "mask", DType: weights.U8, Shape: []int{1, 12, 8}, Data: a["mask"].Data}
		},
		"mask with twos": func(_, _ object, a map[string]weights.Tensor) {
			a["mask"] = weights.Tensor{Name: "mask", DType: weights.U8, Shape: a["mask"].Shape, Data: bytes.Repeat([]byte{2}, len(a["mask"].Data))}
		},
		"mask of fractions": func(_, _ object, a map[string]weights.Tensor) {
			a["mask"] = weights.Tensor{Name: "mask", DType: weights.F32, Shape: []int{1, 4, 6}, Data: a["mask"].Data}
		},
		"three masks for two images": func(_, _ object, a map[string]weights.Tensor) {
			a["mask"] = weights.Tensor{Name: "mask", DType: weights.U8, Shape: []int{3, 8, 12}, Data: bytes.Repeat(a["mask"].Data, 3)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var o object
			require.NoError(t, json.Unmarshal([]byte(text), &o))
			arrays := map[string]weights.Tensor{}
			for _, n := range f.Names() {
				arrays[n], _ = f.Tensor(n)
			}
			change(o, o["operator"].(object), arrays)
			changed, err := json.Marshal(o)
			require.NoError(t, err)
			var list []weights.Tensor
			for v := range maps.Values(arrays) {
				list = append(list, v)
			}
			path := filepath.Join(t.TempDir(), "y.safetensors")
			require.NoError(t, weights.Write(path, list, map[string]string{MeasurementKey: string(changed)}))
			_, err = LoadMeasurement(path)
			require.Error(t, err)
			require.ErrorContains(t, err, path)
		})
	}

	require.NoError(t, weights.Write(path, nil, nil))
	_, err = LoadMeasurement(path)
	require.ErrorContains(t, err, "not a measurement")
	_, err = LoadMeasurement(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)

	broken := *valid
	broken.Y = broken.Y[1:]
	require.Error(t, broken.Save(path))
	_, err = broken.Problem(device(t))
	require.Error(t, err)
}

// Whatever a file says: an error or a measurement that can be used, never a crash.
func FuzzMeasurement(f *testing.F) {
	for _, m := range measurements(f) {
		path := filepath.Join(f.TempDir(), "y.safetensors")
		require.NoError(f, m.Save(path))
		b, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := weights.OpenBytes("fuzz", b)
		if err != nil {
			return
		}
		defer file.Close()
		m, err := ReadMeasurement(file)
		if err != nil {
			return
		}
		if m.Image[1]*m.Image[2] > 1<<12 {
			return // valid, and too much work for here
		}
		d := device(t)
		p, err := m.Problem(d)
		require.NoError(t, err)
		require.Equal(t, m.Image[1:], []int{imageShape(p.Operator, p.Y.Shape())[1], imageShape(p.Operator, p.Y.Shape())[2]})
	})
}
