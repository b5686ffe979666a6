package solver

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// fixture is one folder of numbers from the reference implementation: case.json and io.safetensors, arrays in NCHW.
// They are read from $SPIN_SHARED (default ../shared beside the repository). A few lie in testdata as well, for those who
// have the repository alone; the rest is skipped then.
type fixture struct {
	t      *testing.T
	folder string
	file   *weights.File
}

func openFixture(t *testing.T, name string, spec any) *fixture {
	t.Helper()
	shared := os.Getenv("SPIN_SHARED")
	if shared == "" {
		shared = "../../shared"
	}
	for _, root := range []string{filepath.Join(shared, "fixtures"), "testdata"} {
		folder := filepath.Join(root, name)
		text, err := os.ReadFile(filepath.Join(folder, "case.json"))
		if err != nil {
			continue
		}
		require.NoError(t, json.Unmarshal(text, spec))
		f, err := weights.Open(filepath.Join(folder, "io.safetensors"))
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return &fixture{t, folder, f}
	}
	t.Skipf("fixture %s is not in testdata, and not in %s (set SPIN_SHARED)", name, shared)
	return nil
}

// planar is an array as the file has it, with its shape.
func (f *fixture) planar(name string) ([]float32, []int) {
	f.t.Helper()
	a, ok := f.file.Tensor(name)
	require.True(f.t, ok, "%s has no array %s", f.folder, name)
	if a.DType == weights.U8 {
		v := make([]float32, len(a.Data))
		for i, b := range a.Data {
			v[i] = float32(b)
		}
		return v, a.Shape
	}
	v, err := a.Floats()
	require.NoError(f.t, err)
	return v, a.Shape
}

// nhwc is an array [N,C,H,W] in the order of the library.
func (f *fixture) nhwc(name string) ([]float32, [4]int) {
	f.t.Helper()
	v, s := f.planar(name)
	require.Len(f.t, s, 4, name)
	return toNHWC(v, s[0], s[1], s[2], s[3]), [4]int{s[0], s[2], s[3], s[1]}
}

func (f *fixture) tensor(d *tensor.Device, name string) *tensor.Tensor {
	f.t.Helper()
	v, s := f.nhwc(name)
	return d.From(v, s[0], s[1], s[2], s[3])
}

func (f *fixture) mask(name string) *Mask {
	f.t.Helper()
	v, s := f.planar(name)
	h, w := s[len(s)-2], s[len(s)-1]
	m := newMask("test", h, w, TaskInpaintMask)
	for i := range m.Known {
		m.Known[i] = v[i] != 0
	}
	return m
}

func (f *fixture) kernel(name string) *BlurKernel {
	f.t.Helper()
	v, s := f.planar(name)
	k, err := NewKernel(s[0], s[1], v)
	require.NoError(f.t, err)
	return k
}

func toNHWC(v []float32, n, c, h, w int) []float32 {
	out := make([]float32, len(v))
	for i := range n {
		for ch := range c {
			for p := range h * w {
				out[(i*h*w+p)*c+ch] = v[(i*c+ch)*h*w+p]
			}
		}
	}
	return out
}

func toNCHW(v []float32, n, h, w, c int) []float32 {
	out := make([]float32, len(v))
	for i := range n {
		for p := range h * w {
			for ch := range c {
				out[(i*c+ch)*h*w+p] = v[(i*h*w+p)*c+ch]
			}
		}
	}
	return out
}

func device(t testing.TB) *tensor.Device {
	d := tensor.NewDevice(ref.Open())
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func floats(t testing.TB, x *tensor.Tensor) []float32 {
	t.Helper()
	v, err := x.Floats()
	require.NoError(t, err)
	return v
}

func random(d *tensor.Device, rng *rand.Rand, shape [4]int) *tensor.Tensor {
	v := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
	for i := range v {
		v[i] = float32(rng.NormFloat64())
	}
	return d.From(v, shape[0], shape[1], shape[2], shape[3])
}

// maxAbs requires |got - want| <= bound for every element.
func maxAbs(t testing.TB, what string, got, want []float32, bound float64) {
	t.Helper()
	require.Len(t, got, len(want), what)
	worst, at := 0.0, 0
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= bound) {
		t.Errorf("%s: element %d is %v, expected %v: off by %.3g, allowed %.3g", what, at, got[at], want[at], worst, bound)
	}
}

func relL2(got, want []float32) float64 {
	var diff, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff += d * d
		norm += float64(want[i]) * float64(want[i])
	}
	return math.Sqrt(diff / max(norm, 1e-300))
}

func largest(v []float32) float64 {
	m := 0.0
	for _, x := range v {
		m = max(m, math.Abs(float64(x)))
	}
	return m
}
