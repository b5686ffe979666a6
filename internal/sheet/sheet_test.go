package sheet

import (
	"image"
	"image/color"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
)

// fill returns a picture of one colour.
func fill(w, h int, v float32) *imagefile.Image {
	m := imagefile.New(w, h)
	for i := range m.Pix {
		m.Pix[i] = v
	}
	return m
}

// extent is the bounding box of a colour.
func extent(m *image.RGBA, c color.RGBA) (r image.Rectangle) {
	for y := m.Rect.Min.Y; y < m.Rect.Max.Y; y++ {
		for x := m.Rect.Min.X; x < m.Rect.Max.X; x++ {
			if m.RGBAAt(x, y) == c {
				r = r.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return r
}

func TestEqualSize(t *testing.T) {
	for _, small := range []int{64, 100, 256} { // a whole factor, a fraction, none
		red := fill(small, small, -1)
		for i := 0; i < len(red.Pix); i += 3 {
			red.Pix[i] = 1
		}
		m := Render([]Panel{{"a", "", red}, {"b", "c", fill(256, 256, 0)}}, Options{})
		require.Equal(t, image.Pt(256, 256), extent(m, color.RGBA{255, 0, 0, 255}).Size(), "%d", small)
		require.Equal(t, 2*256+2*margin+gap, m.Rect.Dx())
	}
}

func TestHardEdges(t *testing.T) {
	m := fill(2, 2, -1)
	for c := range 3 {
		m.Pix[c] = 1
	}
	out := Render([]Panel{{Img: m}, {Img: fill(200, 200, 0)}}, Options{})
	for y := range 200 {
		for x := range 200 {
			want := uint8(0)
			if x < 100 && y < 100 {
				want = 255
			}
			if got := out.RGBAAt(margin+x, margin+y).R; got != want {
				t.Fatalf("x=%d y=%d: %d, expected %d", x, y, got, want)
			}
		}
	}
}

func TestWidth(t *testing.T) {
	for _, n := range []int{1, 3, 9, 40} {
		panels := make([]Panel, n)
		for i := range panels {
			panels[i] = Panel{"title", "caption", fill(700, 300, 0)}
		}
		m := Render(panels, Options{})
		require.LessOrEqual(t, m.Rect.Dx(), defaultWidth, "%d", n)
		m = Render(panels, Options{Columns: 2, MaxWidth: 500})
		require.LessOrEqual(t, m.Rect.Dx(), 500, "%d", n)
	}
}

func TestEmpty(t *testing.T) {
	Render(nil, Options{})
	Render([]Panel{{}}, Options{})
	Render([]Panel{{Title: "x"}, {Img: fill(1, 5000, 0)}}, Options{Columns: 7, MaxWidth: 1})
}

func TestWrap(t *testing.T) {
	f := face(regular(), 14)
	defer f.Close()
	require.Empty(t, wrap(f, "  ", 200, 2))
	require.Equal(t, []string{"PSNR 26.9 dB  SSIM 0.81"}, wrap(f, "PSNR 26.9 dB  SSIM 0.81", 200, 2))
	require.Equal(t, []string{"PSNR 26.9 dB", "SSIM 0.81"}, wrap(f, "PSNR 26.9 dB  SSIM 0.81", 100, 2))
	require.Equal(t, []string{"one", "two"}, wrap(f, "one\ntwo", 200, 2))
	long := wrap(f, strings.Repeat("word ", 100), 100, 2)
	require.Len(t, long, 2)
	require.True(t, strings.HasSuffix(long[1], "…"))
	require.True(t, strings.HasSuffix(wrap(f, strings.Repeat("x", 300), 100, 2)[0], "…"))
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.png")
	require.NoError(t, Write(path, []Panel{{"a", "b", fill(32, 32, 0)}}, Options{}, false))
	_, err := imagefile.Read(path, imagefile.Limits{})
	require.NoError(t, err)
	require.Error(t, Write(path, nil, Options{}, false))
}

func TestGrid(t *testing.T) {
	red := fill(64, 64, -1)
	for i := 0; i < len(red.Pix); i += 3 {
		red.Pix[i] = 1
	}
	m := Grid([]string{"input", "result"}, []Row{
		{"cat", []Panel{{Img: fill(128, 128, 0)}, {Img: fill(128, 128, 0)}}},
		{"a dog with a long name", []Panel{{Caption: "none"}, {Caption: "PSNR 3 dB", Img: red}}},
	}, Options{})
	at := extent(m, color.RGBA{255, 0, 0, 255})
	require.Equal(t, image.Pt(256, 256), at.Size(), "pictures fill their column")
	require.Greater(t, at.Min.X, m.Rect.Dx()/2, "the second column is on the right")
	require.Greater(t, at.Min.Y, m.Rect.Dy()/2, "and the second row below")
	for _, n := range []int{1, 7, 12} {
		row := Row{"label", make([]Panel, n)}
		for i := range row.Cells {
			row.Cells[i] = Panel{Caption: "caption", Img: fill(700, 300, 0)}
		}
		m := Grid(make([]string, n), []Row{row, row}, Options{})
		require.LessOrEqual(t, m.Rect.Dx(), defaultWidth, "%d", n)
	}
	Grid(nil, nil, Options{})
	Grid([]string{"a"}, []Row{{"b", nil}, {"", []Panel{{}, {}}}}, Options{MaxWidth: 1})
}
