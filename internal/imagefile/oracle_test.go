package imagefile

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The files in testdata were written, and decoded to the PNG beside them, by
// Pillow (testdata/make.py).
func TestReadLikePillow(t *testing.T) {
	for _, c := range []struct {
		file string
		// Levels by which a value may differ. Lossless formats: none. Lossy ones: the
		// inverse transforms and colour conversions of two decoders each round.
		tolerance float64
	}{
		{"c420.jpg", 3}, {"c422.jpg", 3}, {"c444.jpg", 3}, {"cmyk.jpg", 3},
		{"lossy.webp", 2}, {"lossyalpha.webp", 2}, {"lossless.webp", 0},
		{"turned.webp", 2}, {"turned.png", 0}, {"turned.tif", 0},
		{"lzw.tif", 0}, {"packbits.tif", 0}, {"fax.tif", 0}, {"palette.tif", 0},
		{"palette.bmp", 0}, {"color.bmp", 0}, {"tiled.tif", 0}, {"deep.tif", 0},
	} {
		t.Run(c.file, func(t *testing.T) {
			got, err := Read(filepath.Join("testdata", c.file), Limits{})
			require.NoError(t, err)
			ext := filepath.Ext(c.file)
			want, err := Read(filepath.Join("testdata", c.file[:len(c.file)-len(ext)]+"_"+ext[1:]+".png"), Limits{})
			require.NoError(t, err)
			require.Equal(t, [2]int{want.W, want.H}, [2]int{got.W, got.H})
			require.Equal(t, want.Depth, got.Depth)
			require.Equal(t, want.Alpha, got.Alpha)
			worst, at := 0.0, 0
			for i := range want.Pix {
				if d := math.Abs(float64(got.Pix[i]-want.Pix[i])) * 127.5; d > worst {
					worst, at = d, i
				}
			}
			require.LessOrEqual(t, worst, c.tolerance+1e-4, "value %d (x=%d y=%d)", at, at/3%got.W, at/3/got.W)
		})
	}
}

func TestReadPlanarTIFF(t *testing.T) {
	_, err := Read("testdata/planar.tif", Limits{})
	require.ErrorIs(t, err, ErrUnsupported)
}

// sharedPhoto returns a photo of the folder of test material, which is not part
// of the repository.
func sharedPhoto(t *testing.T, name string) string {
	dir := os.Getenv("SPIN_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	path := filepath.Join(dir, "photos", name)
	if _, err := os.Stat(path); err != nil {
		t.Skip("no test photos; set SPIN_SHARED")
	}
	return path
}

func TestReadPhotos(t *testing.T) {
	m, err := Read(sharedPhoto(t, "astronaut_256.png"), Limits{})
	require.NoError(t, err)
	require.Equal(t, [2]int{256, 256}, [2]int{m.W, m.H})
	m, err = Read(sharedPhoto(t, "rocket_640x427.jpg"), Limits{})
	require.NoError(t, err)
	require.Equal(t, [2]int{640, 427}, [2]int{m.W, m.H})
}
