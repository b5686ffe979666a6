//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cuda"
	"github.com/spin-native/spin/tensor"
)

// plain hides that a backend can record.
type plain struct{ kernels.Backend }

// emulated skips the test on a device that does not fail to order and tells nobody what it is asked for.
func emulated(t *testing.T) {
	info, err := cuda.Devices()
	if err != nil || !strings.Contains(info[0].Name, "emulation") {
		t.Skip("needs the emulated device")
	}
}

// calls is what the emulated device was asked for by f: how often each function of the driver was called, and kernels ran.
func calls(t *testing.T, f func()) map[string]int {
	path := filepath.Join(t.TempDir(), "log")
	t.Setenv("CUEMU_LOG", path)
	f()
	require.NoError(t, os.Setenv("CUEMU_LOG", ""))
	return logged(t, path)
}

// logged counts the lines of a log.
func logged(t *testing.T, path string) map[string]int {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	n := map[string]int{}
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		n[name]++
	}
	return n
}

// TestRecord: a network's call gives the same bytes told, recorded and replayed, with other inputs, other sizes in between and
// other tensors in the way.
func TestRecord(t *testing.T) {
	b := open(t)
	d, eager := tensor.NewDevice(b), tensor.NewDevice(plain{open(t)})
	net, _ := loadPhoto(t, d)
	reference, _ := loadPhoto(t, eager)
	picture := func(n, edge, seed int) []float32 {
		x := make([]float32, n*edge*edge*3)
		for i := range x {
			x[i] = float32(math.Sin(float64(i*i%977 + seed)))
		}
		return x
	}
	for i, c := range []struct {
		n, edge int
		t       []float64
		block   bool // another tensor lies in the way
	}{
		{1, 16, []float64{300}, false}, {1, 16, []float64{300}, false}, {1, 16, []float64{10}, false}, {1, 16, []float64{999}, false},
		{2, 8, []float64{5}, false}, {1, 16, []float64{20}, true}, {1, 16, []float64{20}, false}, {2, 8, []float64{7, 900}, false},
		{2, 8, []float64{7, 800}, false}, {2, 8, []float64{100}, false}, {2, 8, []float64{101}, false}, {2, 8, []float64{1, 2}, false},
	} {
		data := picture(c.n, c.edge, i)
		run := func(d *tensor.Device, in *tensor.Tensor, predict func(*tensor.Tensor, []float64, []int) (*tensor.Tensor, error)) []float32 {
			in.Set(data)
			out, err := predict(in, c.t, nil)
			require.NoError(t, err)
			defer out.Free()
			got, err := out.Floats()
			require.NoError(t, err)
			return got
		}
		func() {
			if c.block {
				other := d.New(1, 8, 8, 64)
				defer other.Free()
			}
			x, y := d.New(c.n, c.edge, c.edge, 3), eager.New(c.n, c.edge, c.edge, 3)
			defer x.Free()
			defer y.Free()
			require.Equal(t, run(eager, y, reference.Predict), run(d, x, net.Predict), "call %d", i)
		}()
	}
	require.NoError(t, d.Sync())
}

// TestSteadyState: from the third call on, a step of a solver takes and frees no memory, and the program waits for nothing but
// what it downloads.
func TestSteadyState(t *testing.T) {
	emulated(t)
	d := tensor.NewDevice(open(t))
	net, _ := loadPhoto(t, d)
	const edge = 16
	x, noise := d.New(1, edge, edge, 3), d.New(1, edge, edge, 3)
	data := make([]float32, x.Len())
	for i := range data {
		data[i] = float32(math.Cos(float64(i)))
	}
	x.Set(data)
	step := func(at float64) {
		defer d.Tidy()()
		eps := net.Forward(x, []float64{at}, nil)
		noise.Set(data)
		d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 0.9}, {X: eps, C: -0.1}, {X: noise, C: 0.1}}})
		norm, err := d.Dot(nil, x, x).Floats()
		require.NoError(t, err)
		require.False(t, math.IsNaN(float64(norm[0])))
	}
	first := calls(t, func() { step(900) })
	require.Greater(t, first["cuLaunchKernel"], 50)
	second := calls(t, func() { step(800) })
	require.Equal(t, 1, second["cuStreamEndCapture"])
	step(700)
	const steps = 5
	n := calls(t, func() {
		for i := range steps {
			step(float64(600 - i))
		}
	})
	require.Equal(t, steps, n["cuGraphLaunch"])
	require.Equal(t, steps, n["cuStreamSynchronize"], "the downloads")
	require.Equal(t, steps, n["cuMemcpyDtoHAsync"])
	require.Equal(t, 2*steps, n["cuMemcpyHtoDAsync"], "timestep and noise")
	require.LessOrEqual(t, n["cuLaunchKernel"], 3*steps, "what is outside of the network")
	require.Equal(t, first["launch"], n["launch"]/steps, "a replay runs what the first call ran")
	for name := range n {
		require.Contains(t, []string{"cuGraphLaunch", "cuStreamSynchronize", "cuMemcpyDtoHAsync", "cuMemcpyHtoDAsync", "cuLaunchKernel", "launch"}, name)
	}
}

// TestRecordRefused: what cannot be replayed runs as it is told, and a recording that breaks off leaves nothing behind.
func TestRecordRefused(t *testing.T) {
	emulated(t)
	b := open(t)
	d := tensor.NewDevice(b)
	x := d.From([]float32{1, 2, 3}, 1, 1, 1, 3)
	double := func() *tensor.Tensor {
		return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 2}}})
	}
	twice := func(name string, f func() *tensor.Tensor, in ...*tensor.Tensor) map[string]int {
		return calls(t, func() {
			for range 4 {
				out := d.Record(name, f, in...)
				got, err := out.Floats()
				require.NoError(t, err)
				require.Equal(t, []float32{2, 4, 6}, got, name)
				out.Free()
			}
		})
	}
	require.Equal(t, 3, twice("fine", double, x)["cuGraphLaunch"])
	require.Zero(t, twice("uploads", func() *tensor.Tensor {
		y := d.From([]float32{1, 2, 3}, 1, 1, 1, 3)
		defer y.Free()
		return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 2}}})
	})["cuGraphLaunch"])
	require.Zero(t, twice("downloads", func() *tensor.Tensor {
		_, err := x.Floats()
		require.NoError(t, err)
		return double()
	}, x)["cuGraphLaunch"])
	require.Zero(t, twice("memory", func() *tensor.Tensor {
		m, err := b.Alloc(1)
		require.NoError(t, err)
		defer b.Free(m)
		return double()
	}, x)["cuGraphLaunch"])
	edge := 16
	require.Zero(t, twice("scratch", func() *tensor.Tensor {
		edge *= 2
		d.New(1, edge, edge, 2).Moments().Free() // wants more scratch memory each time
		return double()
	}, x)["cuGraphLaunch"])
	t.Setenv("CUEMU_REFUSE", "cuGraphInstantiateWithFlags")
	require.Zero(t, twice("refused", double, x)["cuGraphLaunch"])
	t.Setenv("CUEMU_REFUSE", "cuStreamBeginCapture")
	require.Zero(t, twice("refused at once", double, x)["cuGraphLaunch"])
	t.Setenv("CUEMU_REFUSE", "")
	require.PanicsWithValue(t, "f", func() {
		d.Record("fails", double, x).Free()
		d.Record("fails", func() *tensor.Tensor { double(); panic("f") }, x)
	})
	require.Equal(t, 3, twice("fine after all", double, x)["cuGraphLaunch"])

	// Memory that recorded launches name moves: told again, recorded again.
	moments := func() *tensor.Tensor { return d.From([]float32{1, 2, 3}, 1, 1, 1, 3).Moments() }
	want, err := moments().Floats()
	require.NoError(t, err)
	y, large := d.New(1, 1, 1, 3), d.New(1, 2048, 1024, 2)
	pass := func() *tensor.Tensor {
		out := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 1}}})
		defer out.Free()
		return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: out.Moments(), C: 1}}})
	}
	for i := range 6 {
		if i == 3 {
			large.Moments().Free() // the arena is as it was, but scratch memory is not
		}
		n := calls(t, func() {
			y.Set([]float32{1, 2, 3})
			out := d.Record("moments", pass, y)
			got, err := out.Floats()
			require.NoError(t, err)
			require.Equal(t, want, got)
			out.Free()
		})
		require.Equal(t, i != 0 && i != 3, n["cuGraphLaunch"] == 1, "call %d", i)
	}
}

// TestStaging: transfers of any size arrive, also those that have to wait for room.
func TestStaging(t *testing.T) {
	b := open(t)
	const pieces, n = 3, 5 << 20 // 60 MB, of which half fits
	var all []kernels.View
	src := make([]float32, n)
	for i := range pieces {
		m, err := b.Alloc(n)
		require.NoError(t, err)
		v := kernels.View{Buf: m, N: 1, H: 1, W: 1, C: n}
		for j := range src {
			src[j] = float32(i*n + j)
		}
		b.Upload(v, src)
		all = append(all, v)
	}
	for i, v := range all {
		got := make([]float32, n)
		require.NoError(t, b.Download(got, v))
		for j := 0; j < n; j += 4099 {
			require.Equal(t, float32(i*n+j), got[j])
		}
	}
	small, err := b.Alloc(1)
	require.NoError(t, err)
	v := kernels.View{Buf: small, N: 1, H: 1, W: 1, C: 1}
	for i := range 200 {
		b.Upload(v, []float32{float32(i)})
	}
	got := make([]float32, 1)
	require.NoError(t, b.Download(got, v))
	require.Equal(t, float32(199), got[0])
}
