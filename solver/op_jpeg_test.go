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

// TestJPEGDecodes: what a measurement looks like is what image/jpeg decodes from the file. Where the decoder's integer transform
// rounds a sample to the other side, a colour can be two or three off.
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
		require.LessOrEqual(t, far, len(got)/100, "%s: more than one level off in %d of %d values", name, far, len(got))
	}
}

// jpegBytes is a baseline file with the integers of a measurement, for decoders: its codes are all of 8 bits, symbol i has code i.
func jpegBytes(f JPEGFormat, h, w int, coefficient func(p, i, j int) int) []byte {
	var b bytes.Buffer
	segment := func(marker byte, body ...byte) {
		b.Write([]byte{0xff, marker, byte((len(body) + 2) >> 8), byte(len(body) + 2)})
		b.Write(body)
	}
	b.Write([]byte{0xff, 0xd8})
	planes := len(f.Tables)
	frame, scan := []byte{8, byte(h >> 8), byte(h), byte(w >> 8), byte(w), byte(planes)}, []byte{byte(planes)}
	for p, t := range f.Tables {
		table := []byte{byte(p)}
		for _, at := range zigzag {
			table = append(table, byte(t[at]))
		}
		segment(0xdb, table...)
		sampling := byte(0x11)
		if p == 0 {
			sampling = byte(f.Across<<4 | f.Down)
		}
		frame, scan = append(frame, byte(p+1), sampling, byte(p)), append(scan, byte(p+1), 0)
	}
	segment(0xc0, frame...)
	for class, last := range []int{11, 254} {
		codes := append([]byte{byte(class << 4)}, make([]byte, 16)...)
		codes[8] = byte(last + 1)
		for i := range last + 1 {
			codes = append(codes, byte(i))
		}
		segment(0xc4, codes...)
	}
	segment(0xda, append(scan, 0, 63, 0)...)

	var bits, count uint32
	put := func(v, n uint32) {
		for n > 0 {
			n--
			bits, count = bits<<1|v>>n&1, count+1
			if count == 8 {
				if b.WriteByte(byte(bits)); byte(bits) == 0xff {
					b.WriteByte(0)
				}
				bits, count = 0, 0
			}
		}
	}
	value := func(run uint32, v int) { // the symbol, which has the length, and the bits
		size := uint32(0)
		for a := max(v, -v); a > 0; a >>= 1 {
			size++
		}
		if v < 0 {
			v += 1<<size - 1
		}
		put(run<<4|size, 8)
		put(uint32(v), size)
	}
	before := make([]int, planes)
	across, down := 1, 1
	if planes == 3 {
		across, down = f.Across, f.Down
	}
	block := func(p, row, column int) {
		ph, pw := f.sides(p, h, w)
		at := func(k int) int { // blocks that no measurement has are grey
			i, j := row*8+k/8, column*8+k%8
			if i >= ph || j >= pw {
				return 0
			}
			return coefficient(p, i, j)
		}
		value(0, at(0)-before[p])
		before[p] = at(0)
		run := uint32(0)
		for _, k := range zigzag[1:] {
			v := at(k)
			if v == 0 {
				run++
				continue
			}
			for ; run > 15; run -= 16 {
				put(0xf0, 8)
			}
			value(run, v)
			run = 0
		}
		if run > 0 {
			put(0, 8)
		}
	}
	for i := range (h + 8*down - 1) / (8 * down) {
		for j := range (w + 8*across - 1) / (8 * across) {
			for k := range across * down {
				block(0, i*down+k/across, j*across+k%across)
			}
			for p := 1; p < planes; p++ {
				block(p, i, j)
			}
		}
	}
	put(0x7f, 7)
	b.Write([]byte{0xff, 0xd9})
	return b.Bytes()
}

// zigzag is the order of coefficients in a file.
var zigzag = func() (order []int) {
	for s := range 15 {
		for k := range s + 1 {
			i, j := s-k, k
			if s%2 == 1 {
				i, j = k, s-k
			}
			if i < 8 && j < 8 {
				order = append(order, i*8+j)
			}
		}
	}
	return order
}()

// TestJPEGSimulates: what is simulated without a file looks like what image/jpeg makes of the file that has its coefficients, at any
// quality, sampling and size: the same in 99 of 100 values, and within a level in 99.8.
func TestJPEGSimulates(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	off := map[int]int{}
	total := 0
	for q := 2; q <= 95; q += 3 {
		for _, s := range [][2]int{{1, 1}, {2, 1}, {2, 2}, {0, 0}} {
			d := device(t)
			h, w := 1+rng.IntN(70), 1+rng.IntN(70)
			f := StandardJPEG(q, max(s[0], 1), max(s[1], 1))
			if s[0] == 0 {
				f.Tables = f.Tables[:1]
			}
			op, err := NewJPEG(d, h, w, f)
			require.NoError(t, err)
			y, err := Measure(op, upload(d, smoothPicture(w, h, uint64(q))), 0, 0, 0)
			require.NoError(t, err)
			values, planes := floats(t, y), len(f.Tables)
			data := jpegBytes(f, h, w, func(p, i, j int) int {
				zero, one := f.value(h, w, false, p, i, j, 0), f.value(h, w, false, p, i, j, 1)
				return int(math.Round((float64(values[(i*y.W()+j)*planes+p]) - zero) / (one - zero)))
			})
			decoded, err := jpeg.Decode(bytes.NewReader(data))
			require.NoError(t, err)
			require.Equal(t, image.Rect(0, 0, w, h), decoded.Bounds())
			for i, v := range floats(t, op.View(y)) {
				r, g, b, _ := decoded.At(i/3%w, i/3/w).RGBA()
				off[int(math.Abs(math.Round((float64(v)+1)*127.5)-float64([]uint32{r, g, b}[i%3]>>8)))]++
				total++
			}
			op.Free()
		}
	}
	require.Greater(t, off[0], total*98/100, "%v of %d", off, total)
	require.Greater(t, off[0]+off[1], total*997/1000, "%v of %d: a sample of chroma that the decoder's integers round to the other side is two levels of blue", off, total)
	require.Equal(t, total, off[0]+off[1]+off[2]+off[3], "%v", off)
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

// TestSoftJPEG: the transposed Jacobian is that of differences, where no coefficient is rounded to another integer in between. The fixture
// op_jpeg_soft_q2 holds the values.
func TestSoftJPEG(t *testing.T) {
	d := device(t)
	rng := rand.New(rand.NewPCG(5, 6))
	for _, q := range []int{1, 2, 4} {
		op, err := NewSoftJPEG(d, 32, 48, q)
		require.NoError(t, err)
		x, v := picture(32, 48, 3), random(d, rng, [4]int{1, 32, 48, 3})
		for i := range x {
			x[i] *= 0.05 // coefficients that are rounded to 0, away from the jumps
		}
		at := d.From(x, 1, 32, 48, 3)
		u := random(d, rng, at.Shape())
		const h = 1e-3
		step := func(c float64) *tensor.Tensor {
			return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: at, C: 1}, {X: u, C: c}}})
		}
		for p := range 2 { // no jump between the two
			for _, c := range []float64{-h, h} {
				one, rest := op.coefficients(at, p)
				two, other := op.coefficients(step(c), p)
				require.Less(t, largest(floats(t, subtract(subtract(one, rest), subtract(two, other)))), 0.5)
			}
		}
		inner := func(a, b *tensor.Tensor) (sum float64) {
			with := floats(t, b)
			for i, v := range floats(t, a) {
				sum += float64(v) * float64(with[i])
			}
			return sum
		}
		want, got := inner(subtract(op.Apply(step(h)), op.Apply(step(-h))), v)/(2*h), inner(op.VJP(at, v), u)
		require.InEpsilon(t, want, got, 1e-2, "quality %d", q)
		op.Free()
	}
	for _, bad := range [][3]int{{16, 24, 10}, {16, 16, 0}, {0, 16, 10}} {
		_, err := NewSoftJPEG(d, bad[0], bad[1], bad[2])
		require.Error(t, err)
		_, err = Spec{Kind: "jpeg_soft", Numbers: map[string]float64{"quality": float64(bad[2])}}.Check(bad[0], bad[1], 3)
		require.Error(t, err)
	}
}
