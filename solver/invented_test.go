package solver

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

// share is that of a pixel of whose every value P takes q.
func share(q float64) float64 { return (1 - q) * (1 - q) / ((1-q)*(1-q) + q*q) }

func TestInventedOfMasks(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, sigma := range []float64{0, 0.05} {
		noise := math.Max(sigma, roundingNoise)
		known := share(1 / (1 + noise*noise/0.25))
		p, _ := smallProblem(t, d, "inpaint", 2)
		p.Sigma = sigma
		x := random(d, rng, [4]int{2, 12, 16, 3})
		im, err := Invented(p, x, 1)
		require.NoError(t, err)
		for i, got := range im.Share {
			want := 1.0
			if p.Operator.(*Inpaint).masks[i/(12*16)].Known[i%(12*16)] {
				want = known
			}
			require.InDelta(t, want, got, 1e-6)
		}
		whole, err := Invented(Problem{Operator: Denoise{}, Y: x, Sigma: sigma}, x, 1)
		require.NoError(t, err)
		for _, got := range whole.Share {
			require.InDelta(t, known, got, 1e-6)
		}
		require.InDelta(t, known, whole.Mean[0], 1e-6)
	}
}

// On flat ground only the grain is there to ask about, and the share of the whole is the share of the dimensions that were
// not measured: 15 of 16. Colouring leaves 2 of 3 at every pixel.
func TestInventedCountsDimensions(t *testing.T) {
	d := device(t)
	flat := make([]float32, 48*64*3)
	x := d.From(flat, 1, 48, 64, 3)
	down, err := NewDownsample(d, 48, 64, 4)
	require.NoError(t, err)
	gray, err := NewGray(d)
	require.NoError(t, err)
	for _, c := range []struct {
		op   Operator
		want float64
	}{{down, 15. / 16}, {gray, 2. / 3}} {
		im, err := Invented(Problem{Operator: c.op, Y: c.op.Apply(x)}, x, 1)
		require.NoError(t, err)
		// The energy of P e for signs e has the relative deviation of at most sqrt(2/rank) per grain.
		require.InDelta(t, c.want, im.Mean[0], 5*math.Sqrt(2./(4*48*64*3/16))*(1-c.want), "%T", c.op)
	}
}

// What stands for a Jacobian and its transpose is one map, for operators with a residual of their own as well.
func TestJacobianTransposed(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(3, 4))
	hdr, err := NewHDR(2, 0.05)
	require.NoError(t, err)
	x := random(d, rng, [4]int{1, 12, 16, 3})
	y := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: hdr.Apply(x), C: 0.6}}}) // off the picture: residuals on both sides of saturation
	j := &jacobian{c: newCorrector(Problem{Operator: hdr, Y: y, Sigma: 0.05, Start: x}), at: x}
	v := random(d, rng, x.Shape())
	r := j.Apply(v) // zero wherever the residual is one-sided and at rest
	square, err := d.Dot(nil, r, r).Floats()
	require.NoError(t, err)
	back, err := d.Dot(nil, v, j.VJP(nil, r)).Floats()
	require.NoError(t, err)
	require.NotZero(t, square[0])
	// A difference of float32 numbers around 1 over 1e-2 is off by 1e-5; what lies within a step of where it bends is rare.
	require.InEpsilon(t, square[0], back[0], 0.01)
}

// An edge that the reduced picture shows is measured for the most part, and on flat ground beside it there is nothing that
// could have been invented.
func TestInventedIsLocal(t *testing.T) {
	d := device(t)
	v := make([]float32, 64*64)
	for i := range v {
		v[i] = -0.5
		if i%64 >= 30 {
			v[i] = 0.5
		}
	}
	down, err := NewDownsample(d, 64, 64, 4)
	require.NoError(t, err)
	x := d.From(v, 1, 64, 64, 1)
	im, err := Invented(Problem{Operator: down, Y: down.Apply(x)}, x, 1)
	require.NoError(t, err)
	at := func(col int) (mean float64) {
		for row := 16; row < 48; row++ {
			mean += float64(im.Share[row*64+col]) / 32
		}
		return mean
	}
	require.Less(t, at(8), 0.02)
	require.Less(t, at(55), 0.02)
	require.Greater(t, max(at(29), at(30)), 0.1)
}

// Of a nonlinear operator it is the Jacobian at the picture: of x^2, 2x, with P = 4 x^2 / (4 x^2 + rho).
func TestInventedOfJacobian(t *testing.T) {
	d := device(t)
	v := make([]float32, 8*8)
	for i := range v {
		v[i] = 0.02 * float32(i%32)
	}
	x := d.From(v, 1, 8, 8, 1)
	const sigma = 0.1
	im, err := Invented(Problem{Operator: squares{}, Y: squares{}.Apply(x), Sigma: sigma}, x, 1)
	require.NoError(t, err)
	rho := sigma * sigma / 0.25
	for i, got := range im.Share {
		a := 4 * float64(v[i]) * float64(v[i])
		require.InDelta(t, share(a/(a+rho)), got, 2e-3, "x = %v", v[i])
	}
}

func TestInventedIsRepeatable(t *testing.T) {
	d := device(t)
	p, _ := smallProblem(t, d, "blur", 2)
	x := random(d, rand.New(rand.NewPCG(1, 3)), [4]int{2, 12, 16, 3})
	live := d.Stats().Live
	a, err := Invented(p, x, 1)
	require.NoError(t, err)
	b, err := Invented(p, x, 1)
	require.NoError(t, err)
	require.Equal(t, a, b)
	require.Equal(t, live, d.Stats().Live)
	for _, s := range a.Share {
		require.True(t, s >= 0 && s <= 1)
	}
	_, err = Invented(p, d.From(make([]float32, 6), 2, 1, 1, 3), 1)
	var misuse *tensor.Error
	require.ErrorAs(t, err, &misuse)
}
