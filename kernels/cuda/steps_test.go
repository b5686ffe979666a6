//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
)

// subject is a problem whose corrections are counted.
type subject struct {
	name  string
	op    func(t *testing.T, d *tensor.Device) solver.Operator
	inner solver.Inner
	sigma float64
	step  int // launches of one more step, where each operation has its own
	eight int // of a correction of eight, where they are phases of one
}

const side = 32 // of the pictures

func built(spec solver.Spec) func(t *testing.T, d *tensor.Device) solver.Operator {
	return func(t *testing.T, d *tensor.Device) solver.Operator {
		op, err := spec.Build(d, side, side, 3)
		require.NoError(t, err)
		return op
	}
}

// tap is a kernel of so many pixels a side that is no product of a column and a row.
func tap(n int) *solver.BlurKernel {
	k := &solver.BlurKernel{H: n, W: n, K: make([]float32, n*n)}
	var sum float32
	for i := range k.K {
		k.K[i] = float32(2 + math.Sin(float64(i*i)))
		sum += k.K[i]
	}
	for i := range k.K {
		k.K[i] /= sum
	}
	return k
}

// subjects are an operator of every kind with the methods that it is corrected by. The table of design note 12 has them too.
func subjects(t *testing.T) []subject {
	mask, err := solver.RandomMask(side, side, 0.5, 1)
	require.NoError(t, err)
	gaussian, err := solver.GaussianKernel(9, 1.5)
	require.NoError(t, err)
	inpaint, denoise := solver.Spec{Kind: "inpaint", Masks: []*solver.Mask{mask}}, solver.Spec{Kind: "denoise"}
	hdr := solver.Spec{Kind: "hdr", Numbers: map[string]float64{"gain": 2, "sigma": 0.05}}
	down := solver.Spec{Kind: "downsample", Factor: 4}
	blur := func(k *solver.BlurKernel) solver.Spec { return solver.Spec{Kind: "blur", Kernel: k} }
	ct := func(t *testing.T, d *tensor.Device) solver.Operator {
		op, err := solver.NewCT(d, side, side, 3, 12, 0)
		require.NoError(t, err)
		return op
	}
	both := func(t *testing.T, d *tensor.Device) solver.Operator {
		return solver.Compose(built(blur(tap(3)))(t, d), built(down)(t, d))
	}
	phase := func(t *testing.T, d *tensor.Device) solver.Operator {
		op, err := solver.NewPhase(d, side, side, 2, false)
		require.NoError(t, err)
		return op
	}
	jpeg := func(t *testing.T, d *tensor.Device) solver.Operator {
		op, err := solver.NewJPEG(d, side, side, solver.StandardJPEG(10, 2, 2))
		require.NoError(t, err)
		return op
	}
	fgd, adam, cg, pcg := solver.Inner{Method: solver.FGD}, solver.Inner{Method: solver.Adam}, solver.Inner{Method: solver.CG}, solver.Inner{Method: solver.PCG}
	stop := solver.Inner{Method: solver.Adam, Stop: 1e-6}
	return []subject{
		{"denoise, fgd", built(denoise), fgd, 0.05, 1, 1},
		{"inpaint, fgd", built(inpaint), fgd, 0.05, 1, 1},
		{"inpaint, adam", built(inpaint), adam, 0.05, 1, 1},
		{"inpaint, adam that stops", built(inpaint), stop, 0.05, 1, 1},
		{"hdr, fgd", built(hdr), fgd, 0.05, 1, 1},
		{"downsample, cg", built(down), cg, 0.05, 3, 2},
		{"downsample, fgd", built(down), fgd, 0.05, 3, 2},
		{"separable blur, cg", built(blur(gaussian)), cg, 0.05, 3, 2},
		{"separable blur, pcg", built(blur(gaussian)), pcg, 0.05, 6, 4},
		{"blur 3x3, cg", built(blur(tap(3))), cg, 0.05, 3, 2},
		{"blur 3x3, pcg", built(blur(tap(3))), pcg, 0.05, 6, 3},
		{"blur 3x3, adam", built(blur(tap(3))), adam, 0.05, 3, 2},
		{"blur 3x3, adam that stops", built(blur(tap(3))), stop, 0.05, 3, 2},
		{"blur 21x21, cg", built(blur(tap(21))), cg, 0.05, 7, 5},
		{"blur 21x21, pcg", built(blur(tap(21))), pcg, 0.05, 10, 6},
		{"blur 3x3 and downsample, cg", both, cg, 0.05, 5, 3},
		{"ct, cg", ct, cg, 0.05, 5, 3},
		{"jpeg, pcg", jpeg, pcg, 1, 17, 7},
		{"phase, fgd", phase, fgd, 0.05, 13, 5},
	}
}

// TestLaunchesOfAStep holds the launches of one more step of a correction, by operator and method, where each operation has its own.
func TestLaunchesOfAStep(t *testing.T) {
	b := open(t)
	count, d := b.(interface{ Launches() int }), tensor.NewDevice(plain{b})
	data := make([]float32, side*side*3)
	for i := range data {
		data[i] = float32(0.8 * math.Sin(float64(i*i)))
	}
	for _, s := range subjects(t) {
		t.Run(s.name, func(t *testing.T) {
			defer d.Tidy()()
			op := s.op(t, d)
			x := d.From(data, 1, side, side, 3)
			y, err := solver.Measure(op, x, s.sigma, 1, 0)
			require.NoError(t, err)
			of := func(steps int) int {
				in := s.inner
				in.Steps = steps
				before := count.Launches()
				_, err := solver.Correct(solver.Problem{Operator: op, Y: y, Sigma: s.sigma, Start: x}, x, 0.01, in)
				require.NoError(t, err)
				return count.Launches() - before
			}
			of(2) // tables and spectra
			three, four := of(3), of(4)
			t.Logf("%d a step, %d beside", four-three, 4*three-3*four)
			require.Equal(t, s.step, four-three)
		})
	}
}

// TestLaunchesTogether holds the launches of a correction that was made before: one for each step at most, whatever the operator and the method.
// The table of design note 15 has them too.
func TestLaunchesTogether(t *testing.T) {
	emulated(t)
	const steps = 8
	for _, s := range subjects(t) {
		t.Run(s.name, func(t *testing.T) {
			s.inner.Steps = steps
			d := tensor.NewDevice(open(t))
			corrected(t, d, s, 1, func(i int, f func()) {
				n := calls(t, f)
				if i < 2 {
					return
				}
				require.Equal(t, 1, n["cuGraphLaunch"])
				require.Equal(t, s.eight, n["launch"]-n["cuLaunchKernel"], "what is restricted to the measured pixels is beside")
				require.LessOrEqual(t, s.eight, steps)
			})
		})
	}
}

// TestLaunchesApart: devices whose blocks cannot meet, or that hold a few of them only, correct alike.
func TestLaunchesApart(t *testing.T) {
	emulated(t)
	for _, s := range subjects(t) {
		if s.name != "downsample, cg" && s.name != "blur 21x21, pcg" && s.name != "jpeg, pcg" {
			continue
		}
		told := func(i int, f func()) { f() }
		want := corrected(t, tensor.NewDevice(plain{open(t)}), s, 1, told)
		for _, setting := range []string{"CUEMU_ABSENT=cooperative", "CUEMU_REFUSE=cuLaunchCooperativeKernel", "CUEMU_REFUSE=cuGraphKernelNodeSetAttribute", "CUEMU_SMS=1"} {
			t.Run(s.name+" "+setting, func(t *testing.T) {
				name, value, _ := strings.Cut(setting, "=")
				t.Setenv(name, value)
				d := tensor.NewDevice(open(t))
				got := corrected(t, d, s, 1, func(i int, f func()) {
					n := calls(t, f)
					if i >= 2 {
						require.Equal(t, 1, n["cuGraphLaunch"])
						require.Equal(t, name == "CUEMU_SMS" || value == "cuLaunchCooperativeKernel", n["launch"]-n["cuLaunchKernel"] <= 3, "three steps")
					}
				})
				require.True(t, equal(got, want))
			})
		}
	}
}
