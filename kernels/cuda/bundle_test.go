//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// corrected is a series of corrections with other weights, of so many pictures, as a run of a solver makes them.
func corrected(t *testing.T, d *tensor.Device, s subject, images int, each func(i int, correct func())) (out [][]float32) {
	defer d.Tidy()()
	op := s.op(t, d)
	data := make([]float32, images*side*side*3)
	for i := range data {
		data[i] = float32(0.8 * math.Sin(float64(i*i)))
	}
	x := d.From(data, images, side, side, 3)
	y, err := solver.Measure(op, x, s.sigma, 1, 0)
	require.NoError(t, err)
	in := s.inner
	in.Steps = max(in.Steps, 3)
	for i, rho := range []float64{0.1, 0.1, 0.05, 0.05, 0.01, 0.01} {
		each(i, func() {
			got, err := solver.Correct(solver.Problem{Operator: op, Y: y, Sigma: s.sigma, Start: x}, x, rho, in)
			require.NoError(t, err)
			defer got.Free()
			pixels, err := got.Floats()
			require.NoError(t, err)
			out = append(out, pixels)
		})
	}
	return out
}

// TestBundle: corrections in one go give the bytes of those that are told one operation after the other, and from the third on
// they are one launch of a graph, whatever the weight is, and take no memory.
func TestBundle(t *testing.T) {
	emulated(t)
	all := subjects(t)
	mask, err := solver.RandomMask(side, side, 0.5, 1)
	require.NoError(t, err)
	exact := solver.Inner{Method: solver.Exact}
	all = append(all,
		subject{"inpaint, exact", built(solver.Spec{Kind: "inpaint", Masks: []*solver.Mask{mask}}), exact, 0.05, 0, 0},
		subject{"downsample, exact", built(solver.Spec{Kind: "downsample", Factor: 4}), exact, 0.05, 0, 0})
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			told := corrected(t, tensor.NewDevice(plain{open(t)}), s, 2, func(_ int, f func()) { f() })
			d := tensor.NewDevice(open(t))
			bundled := corrected(t, d, s, 2, func(i int, f func()) {
				n := calls(t, f)
				if i < 2 {
					return
				}
				graphs := 1
				if s.name == "inpaint, exact" {
					graphs = 0 // a single kernel
				}
				require.Equal(t, graphs, n["cuGraphLaunch"], "correction %d", i)
				require.LessOrEqual(t, n["cuLaunchKernel"], 2-graphs, "what is restricted to the measured pixels is beside")
				require.LessOrEqual(t, n["cuGraphExecKernelNodeSetParams"], n["launch"])
				if i%2 == 1 {
					require.Zero(t, n["cuGraphExecKernelNodeSetParams"], "nothing has changed")
				}
				for _, name := range []string{"cuGraphInstantiateWithFlags", "cuMemAlloc", "cuMemFree", "cuMemHostAlloc"} {
					require.Zero(t, n[name], "correction %d: %s", i, name)
				}
				require.Equal(t, 1, n["cuStreamSynchronize"], "the download")
			})
			require.Equal(t, told, bundled)
		})
	}
}

// TestBundleForks: forks bundle at the same time.
func TestBundleForks(t *testing.T) {
	all, d := subjects(t), tensor.NewDevice(open(t))
	want := corrected(t, tensor.NewDevice(plain{open(t)}), all[7], 1, func(_ int, f func()) { f() })
	var wg sync.WaitGroup
	for range 3 {
		f, err := d.Fork(0)
		require.NoError(t, err)
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer f.Close()
			if got := corrected(t, f, all[7], 1, func(_ int, f func()) { f() }); !equal(got, want) {
				t.Error("a fork's corrections differ")
			}
		}()
	}
	wg.Wait()
}

func equal(a, b [][]float32) bool {
	for i := range a {
		for j := range a[i] {
			if math.Float32bits(a[i][j]) != math.Float32bits(b[i][j]) {
				return false
			}
		}
	}
	return len(a) == len(b)
}

// TestBundleBreaks: a series with a transfer, a wait or another launch in it does what it is told, and so does one that the driver refuses.
func TestBundleBreaks(t *testing.T) {
	emulated(t)
	b := open(t)
	d := tensor.NewDevice(b)
	x, out := d.From([]float32{1, 2, 3}, 1, 1, 1, 3), d.New(1, 1, 1, 3)
	scale := func(c float64) { d.Blend(out, tensor.Blend{Terms: []tensor.Term{{X: out, C: c}}}) }
	run := func(name string, between func()) map[string]int {
		return calls(t, func() {
			for i := range 8 {
				c := float64(i + 2)
				d.Bundle(name, func() {
					d.Blend(out, tensor.Blend{Terms: []tensor.Term{{X: x, C: 1}}})
					scale(c)
					between()
					scale(0.5)
				})
				got, err := out.Floats()
				require.NoError(t, err)
				require.Equal(t, []float32{float32(c) / 2, float32(c), float32(c) * 3 / 2}, got, name)
			}
		})
	}
	n := run("fine", func() {})
	require.Equal(t, 7, n["cuGraphLaunch"])
	require.Equal(t, 6, n["cuGraphExecKernelNodeSetParams"], "one number in one launch of each but the first two")
	require.Zero(t, run("uploads", func() { x.Set([]float32{1, 2, 3}) })["cuGraphLaunch"])
	require.Zero(t, run("waits", func() { require.NoError(t, d.Sync()) })["cuGraphLaunch"])
	require.Zero(t, run("memory", func() {
		m, err := b.Alloc(1)
		require.NoError(t, err)
		b.Free(m)
	})["cuGraphLaunch"])
	long := false
	n = run("other launches", func() {
		if long = !long; long {
			scale(1)
		}
	})
	require.Equal(t, 7, n["cuGraphLaunch"])
	require.Equal(t, 7, n["cuGraphInstantiateWithFlags"], "another series each time")
	require.Equal(t, 7, run("nested", func() { d.Bundle("fine", func() { scale(1) }) })["cuGraphLaunch"])
	for _, refused := range []string{"cuGraphCreate", "cuGraphAddKernelNode", "cuGraphInstantiateWithFlags"} {
		t.Setenv("CUEMU_REFUSE", refused)
		require.Zero(t, run(refused, func() {})["cuGraphLaunch"], refused)
	}
	t.Setenv("CUEMU_REFUSE", "cuGraphExecKernelNodeSetParams")
	run("arguments refused", func() {})
	t.Setenv("CUEMU_REFUSE", "")
	require.PanicsWithValue(t, "f", func() { d.Bundle("fine", func() { scale(2); panic("f") }) })
	require.Equal(t, 8, run("fine", func() {})["cuGraphLaunch"], "known from before")
	require.NoError(t, d.Sync())
}
