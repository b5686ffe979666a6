package jpegcoef_test

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/jpegcoef"
)

const limit = 1 << 20

func files(t testing.TB) map[string][]byte {
	names, err := filepath.Glob(filepath.Join("testdata", "*.jpg"))
	require.NoError(t, err)
	require.Len(t, names, 11)
	out := map[string][]byte{}
	for _, name := range names {
		out[strings.TrimSuffix(filepath.Base(name), ".jpg")], err = os.ReadFile(name)
		require.NoError(t, err)
	}
	return out
}

// plane decodes a component by the definition: k q, inverse DCT, level shift, rounded to 8 bits.
func plane(c *jpegcoef.Component) (w int, pix []uint8) {
	w = 8 * c.Across
	pix = make([]uint8, w*8*c.Down)
	var u [8][8]float64
	for k := range u {
		for i := range u {
			u[k][i] = math.Cos(math.Pi*float64(k)*(float64(i)+0.5)/8) / 2
			if k == 0 {
				u[k][i] = math.Sqrt(1. / 8)
			}
		}
	}
	for y := range 8 * c.Down {
		for x := range w {
			sum := 128.0
			for k := range 8 {
				for l := range 8 {
					sum += u[k][y%8] * u[l][x%8] * float64(c.At(y/8*8+k, x/8*8+l)*c.Table[8*k+l])
				}
			}
			pix[y*w+x] = uint8(math.RoundToEven(min(max(sum, 0), 255)))
		}
	}
	return w, pix
}

// TestRead: the coefficients of libjpeg's files are those that image/jpeg decodes, within the level that its integer
// transform is off by; and progressive files hold the same as sequential ones.
func TestRead(t *testing.T) {
	all := files(t)
	for name, data := range all {
		if name == "cmyk" {
			continue
		}
		f, err := jpegcoef.Read(data, limit)
		require.NoError(t, err, name)
		decoded, err := jpeg.Decode(bytes.NewReader(data))
		require.NoError(t, err)
		require.Equal(t, decoded.Bounds(), image.Rect(0, 0, f.Width, f.Height))
		check := func(c *jpegcoef.Component, pix []uint8, stride, w, h int) {
			mine, values := plane(c)
			for y := range h {
				for x := range w {
					require.InDelta(t, pix[y*stride+x], values[y*mine+x], 1, "%s at %d, %d", name, x, y)
				}
			}
		}
		switch m := decoded.(type) {
		case *image.Gray:
			require.Len(t, f.Components, 1)
			check(&f.Components[0], m.Pix, m.Stride, f.Width, f.Height)
		case *image.YCbCr:
			require.Len(t, f.Components, 3)
			across, down, ok := f.Sampling()
			require.True(t, ok)
			require.Equal(t, name[:3], map[[2]int]string{{1, 1}: "444", {2, 1}: "422", {2, 2}: "420"}[[2]int{across, down}])
			cw, ch := (f.Width+across-1)/across, (f.Height+down-1)/down
			check(&f.Components[0], m.Y, m.YStride, f.Width, f.Height)
			check(&f.Components[1], m.Cb, m.CStride, cw, ch)
			check(&f.Components[2], m.Cr, m.CStride, cw, ch)
		}
		if plain, ok := strings.CutSuffix(name, "-progressive"); ok {
			require.True(t, f.Progressive)
			other, err := jpegcoef.Read(all[plain+"-baseline"], limit)
			require.NoError(t, err)
			for i := range f.Components {
				a, b := &f.Components[i], &other.Components[i]
				require.Equal(t, a.Table, b.Table)
				across, down := f.Width, f.Height
				if h, v, _ := f.Sampling(); i > 0 {
					across, down = (across+h-1)/h, (down+v-1)/v
				}
				for y := range (down + 7) / 8 * 8 {
					for x := range (across + 7) / 8 * 8 {
						require.Equal(t, b.At(y, x), a.At(y, x), "%s, component %d", name, i)
					}
				}
			}
		}
	}
}

func TestGoEncoder(t *testing.T) {
	m := image.NewRGBA(image.Rect(0, 0, 37, 29))
	for i := range m.Pix {
		m.Pix[i] = uint8(i * i / 7)
	}
	m.Set(0, 0, color.White)
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, m, &jpeg.Options{Quality: 50}))
	f, err := jpegcoef.Read(b.Bytes(), limit)
	require.NoError(t, err)
	require.Equal(t, [64]int{
		16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
		18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
	}, f.Components[0].Table, "the table of Annex K, as the standard prints it")
}

// TestRefusals: whatever is cut off or put in, there is an error or a file, and no crash.
func TestRefusals(t *testing.T) {
	all := files(t)
	for name, data := range all {
		for n := range len(data) - 2 {
			_, err := jpegcoef.Read(data[:n], limit)
			require.Error(t, err, "%s, %d bytes of %d", name, n, len(data))
		}
	}
	_, err := jpegcoef.Read(all["cmyk"], limit)
	require.ErrorContains(t, err, "4 components")
	_, err = jpegcoef.Read(all["420-restart"], 96*96-1)
	require.ErrorContains(t, err, "the limit is")
	_, err = jpegcoef.Read([]byte("\x89PNG\r\n\x1a\n"), limit)
	require.ErrorContains(t, err, "not a JPEG")
	big := bytes.Clone(all["grey-baseline"])
	at := bytes.Index(big, []byte{0xff, 0xc0})
	copy(big[at+5:], []byte{0x40, 0, 0x40, 0})
	_, err = jpegcoef.Read(big, 1<<30)
	require.ErrorContains(t, err, "ends early", "a picture of 16384 x 16384 in so few bytes")
	for i := range big {
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			broken := bytes.Clone(all["420-progressive"])
			broken[i%len(broken)] = v
			_, _ = jpegcoef.Read(broken, limit)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, data := range files(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := jpegcoef.Read(data, 1<<16)
		if err != nil {
			return
		}
		for i := range file.Components {
			c := &file.Components[i]
			require.Len(t, c.Coefficients, 64*c.Across*c.Down)
			require.GreaterOrEqual(t, 64*c.Across*c.Down, 1)
			c.At(8*c.Down-1, 8*c.Across-1)
		}
	})
}
