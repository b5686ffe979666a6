package solver

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/jpegcoef"
	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/tensor"
)

// jpegFile is a file's measurement and its format.
func jpegFile(t *testing.T, data []byte) (JPEGFormat, *Measurement) {
	f, err := jpegcoef.Read(data, 1<<20)
	require.NoError(t, err)
	var format JPEGFormat
	var ok bool
	format.Across, format.Down, ok = f.Sampling()
	require.True(t, ok)
	for _, c := range f.Components {
		format.Tables = append(format.Tables, c.Table)
	}
	m, err := format.Measurement(f.Height, f.Width, false, func(p, i, j int) int { return f.Components[p].At(i, j) })
	require.NoError(t, err)
	return format, m
}

// smoothPicture has colours that change slowly, edges, and a little noise.
func smoothPicture(w, h int, seed uint64) *image.RGBA {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			v := func(c float64) uint8 {
				s := 128 + 90*math.Sin(float64(x)/9+c)*math.Cos(float64(y)/7-c) + 6*rng.NormFloat64()
				if (x+y)/20%2 == 0 {
					s += 30
				}
				return uint8(min(max(s, 0), 255))
			}
			m.SetRGBA(x, y, color.RGBA{v(0), v(1), v(2), 255})
		}
	}
	return m
}

func upload(d *tensor.Device, m *image.RGBA) *tensor.Tensor {
	b := m.Bounds()
	var v []float32
	for i, p := range m.Pix {
		if i%4 < 3 {
			v = append(v, float32(p)/127.5-1)
		}
	}
	return d.From(v, 1, b.Dy(), b.Dx(), 3)
}

// TestJPEGDecodes: what a measurement looks like is what image/jpeg decodes from the file. Both round samples to levels, and
// then colours; where the decoder's integer transform rounds a sample to the other side, a colour can be two or three off.
func TestJPEGDecodes(t *testing.T) {
	files := map[string][]byte{}
	for _, q := range []int{2, 5, 10, 50, 90} {
		var b bytes.Buffer
		require.NoError(t, jpeg.Encode(&b, smoothPicture(75, 50, uint64(q)), &jpeg.Options{Quality: q}))
		files[string(rune('a'+q))] = b.Bytes()
	}
	names, err := filepath.Glob(filepath.Join(testkit.Testdata(), "..", "internal", "jpegcoef", "testdata", "4*.jpg"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		files[name], err = os.ReadFile(name)
		require.NoError(t, err)
	}
	for name, data := range files {
		d := device(t)
		_, m := jpegFile(t, data)
		p, err := m.Problem(d)
		require.NoError(t, err)
		pic, err := Picture(p.Operator, p.Y)
		require.NoError(t, err)
		decoded, err := jpeg.Decode(bytes.NewReader(data))
		require.NoError(t, err)
		far := 0
		got := floats(t, pic)
		for i, v := range got {
			r, g, b, _ := decoded.At(i/3%pic.W(), i/3/pic.W()).RGBA()
			off := math.Abs(math.Round((float64(v)+1)*127.5) - float64([]uint32{r, g, b}[i%3]>>8))
			require.LessOrEqual(t, off, 3.0, "%s, value %d", name, i)
			if off > 1 {
				far++
			}
		}
		require.Less(t, far, len(got)/20, "%s: more than one level off in %d of %d values", name, far, len(got))
	}
}

// TestJPEGEncodes: a simulated file has the integers that an encoder writes, but where a coefficient lies between two of them.
func TestJPEGEncodes(t *testing.T) {
	for _, q := range []int{5, 10, 30} {
		d := device(t)
		img := smoothPicture(64, 48, 3)
		var b bytes.Buffer
		require.NoError(t, jpeg.Encode(&b, img, &jpeg.Options{Quality: q}))
		format, m := jpegFile(t, b.Bytes())
		require.Equal(t, StandardJPEG(q, 2, 2), format)
		require.Equal(t, q, format.Quality())
		p, err := m.Problem(d)
		require.NoError(t, err)
		y, err := Measure(p.Operator, upload(d, img), 0, 0, 0)
		require.NoError(t, err)
		ours, theirs := floats(t, y), floats(t, p.Y)
		other := 0
		for i := range ours {
			k := math.Abs(float64(ours[i]-theirs[i])) / rootTwelve
			require.Less(t, k, 1.01)
			if k > 0.01 {
				require.InDelta(t, 1, k, 0.01)
				other++
			}
		}
		require.Less(t, other, len(ours)/100, "quality %d", q)

		// The rounding is within half a step, and its share of the first guess is small.
		for _, r := range floats(t, subtract(p.Operator.Apply(upload(d, img)), y)) {
			require.LessOrEqual(t, math.Abs(float64(r)), rootTwelve/2*1.0001)
		}
	}
}

// TestJPEGCorrection: four steps of conjugate gradients on the dual equations, with the diagonal as preconditioner, come
// closer to the minimiser than fifteen of accelerated gradients, for which steps of 1 to 255 side by side are a hard problem. In
// pictures that end in the middle of a block they come near.
func TestJPEGCorrection(t *testing.T) {
	d := device(t)
	for _, size := range [][2]int{{32, 48}, {28, 35}} {
		img := smoothPicture(size[1], size[0], 4)
		for _, f := range []JPEGFormat{StandardJPEG(10, 2, 2), StandardJPEG(40, 1, 1), {1, 1, StandardJPEG(10, 1, 1).Tables[:1]}} {
			op, err := NewJPEG(d, size[0], size[1], f)
			require.NoError(t, err)
			y, err := Measure(op, upload(d, img), 0, 0, 0)
			require.NoError(t, err)
			p := Problem{Operator: op, Y: y, Sigma: 1}
			x0 := upload(d, img)
			d.Blend(x0, tensor.Blend{Terms: []tensor.Term{{X: x0, C: 1}, {X: random(d, rand.New(rand.NewPCG(1, 1)), x0.Shape()), C: 0.1}}})
			for _, rho := range []float64{0.2, 1, 20} {
				want, err := Correct(p, x0, rho, Inner{Method: PCG, Steps: 150})
				require.NoError(t, err)
				gradient := func(x *tensor.Tensor) float64 {
					g := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: op.VJP(nil, subtract(op.Apply(x), y)), C: 1}, {X: x, C: rho}, {X: x0, C: -rho}}})
					return largest(floats(t, g))
				}
				require.Less(t, gradient(want), 0.01*gradient(x0), "%s, rho %v", f.Sampling(), rho)
				away := map[Method]float64{}
				for _, m := range []Method{Auto, FGD} {
					got, err := Correct(p, x0, rho, Inner{Method: m})
					require.NoError(t, err)
					away[m] = relL2(floats(t, subtract(got, x0)), floats(t, subtract(want, x0)))
				}
				require.Less(t, away[Auto], 0.4, "%s, rho %v", f.Sampling(), rho)
				if size[0] == 32 {
					require.Less(t, away[Auto], max(0.01, away[FGD]), "%s, rho %v", f.Sampling(), rho)
				}
			}
		}
	}
}

func TestJPEGRefusals(t *testing.T) {
	d := device(t)
	for name, f := range map[string]JPEGFormat{
		"three pixels a sample": StandardJPEG(10, 3, 1),
		"no pixels a sample":    StandardJPEG(10, 0, 1),
		"two tables":            {1, 1, make([][64]int, 2)},
		"steps of 0":            {1, 1, make([][64]int, 1)},
	} {
		_, err := NewJPEG(d, 8, 8, f)
		require.Error(t, err, name)
		_, err = f.Measurement(8, 8, false, func(_, _, _ int) int { return 0 })
		require.Error(t, err, name)
	}
	_, err := NewJPEG(d, 0, 8, StandardJPEG(10, 1, 1))
	require.Error(t, err)
}
