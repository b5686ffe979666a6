package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/jpeg"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/solver"
)

// jpegOf writes a picture as a JPEG file, with an EXIF orientation where that is not 0.
func jpegOf(t *testing.T, pic string, quality int, orientation byte) string {
	t.Helper()
	m, err := imagefile.Read(pic, imagefile.Limits{})
	require.NoError(t, err)
	var img image.Image = m.ToGo()
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, img, &jpeg.Options{Quality: quality}))
	data := b.Bytes()
	if orientation != 0 {
		exif := []byte("\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00")
		exif[29] = orientation
		data = append(append(bytes.Clone(data[:2]), exif...), data[2:]...)
	}
	path := filepath.Join(t.TempDir(), "in.jpg")
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

// TestJPEGFile: a file says everything itself, and results lie as the picture is shown.
func TestJPEGFile(t *testing.T) {
	dir, prior := t.TempDir(), tinyPrior(t, nil)
	pic := picture(t, dir, 45, 27)
	for _, orientation := range []byte{0, 3, 6} {
		t.Run(fmt.Sprint(orientation), func(t *testing.T) {
			in, out := jpegOf(t, pic, 10, orientation), filepath.Join(t.TempDir(), "out.png")
			var r reconstructReport
			text := ok(t, "reconstruct", "--task", "jpeg", "--prior", prior, "--steps", "2", "--json", "-o", out, in)
			require.NoError(t, json.Unmarshal([]byte(text), &r))
			require.Equal(t, "jpeg10", r.Task)
			require.Equal(t, 1.0, r.Sigma)
			shown, err := imagefile.Read(in, imagefile.Limits{})
			require.NoError(t, err)
			got, err := imagefile.Read(out, imagefile.Limits{})
			require.NoError(t, err)
			require.Equal(t, [2]int{shown.W, shown.H}, [2]int{got.W, got.H})
			require.Equal(t, [2]int{shown.W, shown.H}, [2]int{r.Width, r.Height})
			ok(t, "reconstruct", "--task", "jpeg", "--prior", prior, "--steps", "2", "--truth", in, "-o", filepath.Join(dir, fmt.Sprint(orientation, ".png")), in)
		})
	}
	in := jpegOf(t, pic, 30, 0)
	out := filepath.Join(dir, "big.png")
	ok(t, "reconstruct", "--task", "deblur --kernel gaussian:5:1 | sr --scale 2 | jpeg", "--prior", prior, "--steps", "2", "-o", out, in)
	big, err := imagefile.Read(out, imagefile.Limits{})
	require.NoError(t, err)
	require.Equal(t, [2]int{90, 54}, [2]int{big.W, big.H})

	data, err := os.ReadFile(in)
	require.NoError(t, err)
	short := filepath.Join(dir, "short.jpg")
	require.NoError(t, os.WriteFile(short, data[:len(data)-40], 0o644))
	code, _, errs := spin(t, "reconstruct", "--task", "jpeg", "--prior", prior, "-o", filepath.Join(dir, "no.png"), short)
	require.Equal(t, 1, code, errs)

	// A simulated file is the same measurement as the encoder's, up to coefficients on the edge between two integers.
	saved := filepath.Join(dir, "y.safetensors")
	ok(t, "degrade", "--task", "jpeg", "--quality", "10", "--save-measurement", saved, pic)
	m, err := solver.LoadMeasurement(saved)
	require.NoError(t, err)
	file, err := readJPEG(&taskFlags{changed: func(string) bool { return false }}, jpegOf(t, pic, 10, 0))
	require.NoError(t, err)
	require.Equal(t, file.Operator, m.Operator)
	other := 0
	for i := range m.Y {
		if d := m.Y[i] - file.Y[i]; d*d > 0.01 {
			other++
		}
	}
	require.Less(t, other, len(m.Y)/100)
}

// TestPhotoPriorNonlinear: the built-in prior makes the picture better than the first guess.
func TestPhotoPriorNonlinear(t *testing.T) {
	if testing.Short() || cpu.Levels()[0] == "ref" {
		t.Skip("takes long")
	}
	dir := t.TempDir()
	truth := demoCrop(t, dir, 96)
	for name, c := range map[string]struct {
		args []string
		gain float64 // dB over the first guess
	}{
		"jpeg":       {[]string{"--task", "jpeg", "--quality", "10"}, 0.5},
		"hdr":        {[]string{"--task", "hdr", "--sigma", "0.05"}, 0.5},
		"dequantize": {[]string{"--task", "dequantize", "--levels", "6"}, 2},
	} {
		y, out := filepath.Join(dir, name+".safetensors"), filepath.Join(dir, name+".png")
		ok(t, append([]string{"degrade", "--save-measurement", y, truth}, c.args...)...)
		var r reconstructReport
		require.NoError(t, json.Unmarshal([]byte(ok(t, "reconstruct", "--preset", "fast", "--json", "--truth", truth, "-o", out, y)), &r))
		require.Greater(t, r.Result[0].PSNR, r.FirstGuess.PSNR+c.gain, "%s: %+v -> %+v", name, r.FirstGuess, r.Result)
	}
}
