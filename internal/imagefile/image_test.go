package imagefile

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// noise returns a picture whose values are exact levels of its depth, with the
// smallest and the largest among them.
func noise(w, h, depth int, gray, alpha bool, seed uint64) *Image {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := New(w, h)
	m.Depth, m.Gray = depth, gray
	top := 255
	if depth == 16 {
		top = 65535
	}
	for i := range w * h {
		var v [3]float32
		for c := range v {
			k := rng.IntN(top + 1)
			if i < 2 {
				k = i * top
			}
			v[c] = float32(float64(k)/(float64(top)/2) - 1)
		}
		if gray {
			v[1], v[2] = v[0], v[0]
		}
		m.set(i, v[0], v[1], v[2])
	}
	if alpha {
		m.Alpha = make([]uint16, w*h)
		for i := range m.Alpha {
			m.Alpha[i] = uint16(rng.IntN(256) * 257)
			if depth == 16 {
				m.Alpha[i] = uint16(rng.IntN(65536))
			}
			if i < 4 { // fully transparent with a colour under it
				m.Alpha[i] = 0
			}
		}
	}
	return m
}

// testProfile is a minimal ICC profile with a name, in version 2 or 4.
func testProfile(space, name string, v4 bool, extra int) []byte {
	var tag []byte
	if v4 {
		tag = append(tag, "mluc\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x0cenUS"...)
		tag = append(tag, 0, 0, 0, byte(2*len(name)), 0, 0, 0, 28)
		for _, r := range name {
			tag = append(tag, 0, byte(r))
		}
	} else {
		tag = append(tag, "desc\x00\x00\x00\x00\x00\x00\x00"...)
		tag = append(tag, byte(len(name)+1))
		tag = append(tag, name+"\x00"...)
	}
	b := make([]byte, 128, 400)
	copy(b[16:], space)
	copy(b[36:], "acsp")
	b = append(b, 0, 0, 0, 1)
	b = append(b, "desc"...)
	b = append(b, 0, 0, 0, 144, 0, 0, 0, byte(len(tag)))
	b = append(b, tag...)
	for i := range extra {
		b = append(b, byte(i*i>>8), byte(i))
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	for _, ext := range []string{".png", ".tif"} {
		for _, depth := range []int{8, 16} {
			for _, gray := range []bool{false, true} {
				for _, alpha := range []bool{false, true} {
					name := ext[1:]
					for _, s := range []struct {
						on   bool
						text string
					}{{depth == 16, "16"}, {gray, "gray"}, {alpha, "alpha"}} {
						if s.on {
							name += "_" + s.text
						}
					}
					t.Run(name, func(t *testing.T) {
						in := noise(37, 23, depth, gray, alpha, 7)
						space := "RGB "
						if gray {
							space = "GRAY"
						}
						in.ICC = testProfile(space, "test", false, 0)
						path := filepath.Join(dir, name+ext)
						require.NoError(t, Write(path, in, false))
						out, err := Read(path, Limits{})
						require.NoError(t, err)
						if ext == ".tif" && gray && alpha {
							in.Gray, in.ICC = false, nil // such a TIFF is RGBA
						}
						require.Equal(t, in, out)
					})
				}
			}
		}
	}
}

// Strips of more than one piece, and rows longer than a strip.
func TestTIFFStrips(t *testing.T) {
	for _, size := range [][2]int{{300, 500}, {150_000, 2}} {
		in := noise(size[0], size[1], 8, false, false, 3)
		var b bytes.Buffer
		require.NoError(t, Encode(&b, ".tiff", in))
		out, err := Decode("x", b.Bytes(), Limits{})
		require.NoError(t, err)
		require.Equal(t, in.Pix, out.Pix)
	}
}

func TestJPEG(t *testing.T) {
	in := New(40, 24)
	for y := range in.H {
		for x := range in.W {
			in.set(y*in.W+x, float32(x)/20-1, float32(y)/12-1, 0)
		}
	}
	in.Depth = 16
	in.Alpha = make([]uint16, in.W*in.H)                                  // dropped, and must not blacken the colours
	in.ICC = testProfile("RGB ", "wide gamut of some kind", true, 50_000) // two segments
	path := filepath.Join(t.TempDir(), "a.JPG")
	require.NoError(t, Write(path, in, false))
	out, err := Read(path, Limits{})
	require.NoError(t, err)
	require.Equal(t, 8, out.Depth)
	require.Nil(t, out.Alpha)
	require.False(t, out.Gray)
	require.Equal(t, in.ICC, out.ICC)
	require.Equal(t, "wide gamut of some kind", out.ProfileName())
	for i := range in.Pix {
		require.InDelta(t, in.Pix[i], out.Pix[i], 0.12) // 15 levels: the ramps are chroma at half resolution
	}

	in.Gray = true
	var b bytes.Buffer
	require.NoError(t, Encode(&b, ".jpg", in))
	out, err = Decode("x", b.Bytes(), Limits{})
	require.NoError(t, err)
	require.True(t, out.Gray)
	require.Nil(t, out.ICC, "a colour profile must not go into a grey file")
}

func TestRounding(t *testing.T) {
	for _, c := range []struct {
		x    float64
		want uint16
	}{{-1, 0}, {1, 255}, {-3, 0}, {5, 255}, {0, 128}, {-1 + 0.49/127.5, 0}, {-1 + 2.5/127.5, 3}, {-1 + 3.5/127.5, 4}} {
		require.Equal(t, c.want, quantise(c.x, 127.5), "%v", c.x)
	}
}

func TestWriteRefusesNonFinite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.png")
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		m := New(4, 3)
		m.Pix[3*5+1] = float32(v)
		require.ErrorContains(t, Write(path, m, false), "x=1 y=1")
	}
	require.NoFileExists(t, path)
}

func TestPNGPalette(t *testing.T) {
	p := image.NewPaletted(image.Rect(0, 0, 5, 1), color.Palette{
		color.NRGBA{255, 0, 10, 255}, color.NRGBA{1, 2, 3, 0}, color.NRGBA{200, 100, 50, 128},
	})
	copy(p.Pix, []uint8{0, 1, 2, 1, 0})
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, p))
	m, err := Decode("x", b.Bytes(), Limits{})
	require.NoError(t, err)
	require.False(t, m.Gray)
	require.Equal(t, []uint16{65535, 0, 128 * 257, 0, 65535}, m.Alpha)
	require.Equal(t, []float32{level8[1], level8[2], level8[3]}, m.Pix[3:6], "colour under full transparency")

	p.Palette = color.Palette{color.Gray{0}, color.Gray{77}, color.Gray{255}}
	b.Reset()
	require.NoError(t, png.Encode(&b, p))
	m, err = Decode("x", b.Bytes(), Limits{})
	require.NoError(t, err)
	require.True(t, m.Gray)
	require.Equal(t, level8[77], m.Pix[3])
}

// A picture with colours multiplied by alpha (TIFF, associated alpha) is divided
// again.
func TestPremultiplied(t *testing.T) {
	src := image.NewRGBA(image.Rect(0, 0, 3, 1))
	src.SetRGBA(0, 0, color.RGBA{50, 100, 0, 100})
	src.SetRGBA(1, 0, color.RGBA{7, 8, 9, 255})
	m := FromGo(src)
	require.Equal(t, []uint16{100 * 257, 65535, 0}, m.Alpha)
	require.InDeltaSlice(t, []float32{0, 1, -1}, m.Pix[:3], 1e-6)
	require.Equal(t, level8[8], m.Pix[4])
}

func TestText(t *testing.T) {
	in := noise(3, 3, 8, true, true, 1)
	in.Text = map[string]string{"spin-native": `{"seed":1,"note":"Grüße\nzweite Zeile"}`, "Title": ""}
	var b bytes.Buffer
	require.NoError(t, Encode(&b, ".png", in))
	out, err := Decode("x", b.Bytes(), Limits{})
	require.NoError(t, err)
	require.Equal(t, in, out)
	_, err = png.Decode(bytes.NewReader(b.Bytes()))
	require.NoError(t, err)

	for _, key := range []string{"", " a", "ä", "a\nb", string(make([]byte, 80))} {
		in.Text = map[string]string{key: "x"}
		require.Error(t, Encode(&b, ".png", in), "%q", key)
	}
	in.Text = map[string]string{"a": "x\x00"}
	require.Error(t, Encode(&b, ".png", in))
}

func TestOutputErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "there.png")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o666))
	m := New(2, 2)
	for _, c := range []struct{ path, want string }{
		{filepath.Join(dir, "a.webp"), ".png, .jpg or .tif"},
		{filepath.Join(dir, "a"), ".png, .jpg or .tif"},
		{file, "--force"},
		{filepath.Join(dir, "none", "a.png"), "no folder"},
		{filepath.Join(file, "a.png"), "not a folder"},
	} {
		for _, err := range []error{CheckWritable(c.path, false), Write(c.path, m, false)} {
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, c.path)
		}
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d.png"), 0o777))
	require.ErrorContains(t, CheckWritable(filepath.Join(dir, "d.png"), true), "is a folder")
	require.NoError(t, CheckWritable(file, true))
	require.NoError(t, CheckWritable(filepath.Join(dir, "new.tif"), false))
	require.NoFileExists(t, filepath.Join(dir, "new.tif"))
	require.NoError(t, Write(file, m, true))
	wide := filepath.Join(dir, "wide.jpg")
	require.ErrorContains(t, Write(wide, New(65536, 1), false), wide+": not written: a JPEG has at most 65535")
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 2, "no temporary file stays behind")

	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(dir, 0o500))
		defer os.Chmod(dir, 0o700)
		require.ErrorContains(t, CheckWritable(filepath.Join(dir, "new.tif"), false), "cannot be written")
	}
}

func TestMask(t *testing.T) {
	m := New(4, 1)
	m.set(1, 1, 1, 1)
	m.set(2, 1, 1, 1)
	m.set(3, 1, -1, -1)
	m.Alpha = []uint16{65535, 65535, 0, 65535}
	path := filepath.Join(t.TempDir(), "m.png")
	require.NoError(t, Write(path, m, false))
	mask, err := ReadMask(path)
	require.NoError(t, err)
	require.Equal(t, [2]int{4, 1}, [2]int{mask.W, mask.H})
	require.InDeltaSlice(t, []float32{0, 1, 0, lumaR}, mask.Pix, 1e-6)
}

func TestProfileName(t *testing.T) {
	for _, c := range []struct {
		icc  []byte
		want string
	}{
		{nil, ""}, {testProfile("RGB ", "sRGB IEC61966-2.1", false, 0), "sRGB IEC61966-2.1"},
		{testProfile("RGB ", "Display P3", true, 0), "Display P3"},
		{testProfile("RGB ", "", true, 0), "unnamed"},
		{testProfile("RGB ", "two\nlines", false, 0), "twolines"},
	} {
		require.Equal(t, c.want, (&Image{ICC: c.icc}).ProfileName())
	}
	whole := testProfile("RGB ", "sRGB", true, 0)
	for n := range whole {
		(&Image{ICC: whole[:n]}).ProfileName() // must not panic
	}
}
