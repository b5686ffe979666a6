package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/jpegcoef"
	"github.com/spin-native/spin/solver"
)

// samplings are the values of --subsampling: pixels for a sample of chroma across and down.
var samplings = map[string][2]int{"444": {1, 1}, "422": {2, 1}, "420": {2, 2}, "440": {1, 2}, "411": {4, 1}, "grey": {1, 1}}

// jpegSpec is the operator of the file that is read, or of --quality.
func jpegSpec(f *taskFlags, _, _ int, _ io.Writer) (solver.Spec, error) {
	if f.jpeg != nil {
		return f.jpeg.Spec(f.box), nil
	}
	s := samplings[f.subsampling]
	format := solver.StandardJPEG(f.quality, s[0], s[1])
	if f.subsampling == "grey" {
		format.Tables = format.Tables[:1]
	}
	return format.Spec(f.box), nil
}

// readJPEG reads the coefficients of a file, unless --quality says that the picture was one once.
func readJPEG(f *taskFlags, path string) (*solver.Measurement, error) {
	if f.changed("quality") {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !jpegcoef.Is(data) {
		return nil, usagef("%s is not a JPEG file: give the file itself, or with --quality Q say what it was when it was one", path)
	}
	file, err := jpegcoef.Read(data, imagefile.DefaultMaxPixels)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	format := solver.JPEGFormat{}
	var ok bool
	if format.Across, format.Down, ok = file.Sampling(); !ok {
		return nil, fmt.Errorf("%s has a sampling of chroma that is not read: save it as PNG, and say its --quality", path)
	}
	if len(file.Components) == 3 && (file.Transform == 0 || file.Components[0].ID == 'R' && file.Components[1].ID == 'G') {
		return nil, fmt.Errorf("%s holds red, green and blue in place of luma and chroma, which is not read", path)
	}
	for _, c := range file.Components {
		format.Tables = append(format.Tables, c.Table)
	}
	f.jpeg = &format
	return format.Measurement(file.Height, file.Width, f.box, func(plane, row, column int) int { return file.Components[plane].At(row, column) })
}
