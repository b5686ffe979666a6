package main

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"

	"github.com/spin-native/spin/internal/atomicfile"
	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/sheet"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Parse(reportPage))

// writeReport writes a page about a result that needs no other file: its pictures are in it.
func writeReport(path string, r reconstructReport, panels []sheet.Panel, result, truth *imagefile.Image) error {
	type picture struct {
		Title, Caption string
		Data           template.URL
		Width          int
	}
	if truth != nil {
		panels = append(panels[:len(panels):len(panels)], sheet.Panel{Title: "Difference", Caption: fmt.Sprintf("result and truth; white: %.0f grey levels", 127.5*stdWhite), Img: difference(result, truth)})
	}
	var pictures []picture
	for _, p := range panels {
		var b bytes.Buffer
		if err := imagefile.Encode(&b, ".png", p.Img); err != nil {
			return fmt.Errorf("report: %s: %w", p.Title, err)
		}
		data := template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b.Bytes()))
		pictures = append(pictures, picture{p.Title, p.Caption, data, max(p.Img.W, 256)})
	}
	all, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var page bytes.Buffer
	if err := reportTemplate.Execute(&page, map[string]any{"R": r, "Pictures": pictures, "JSON": string(all)}); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return atomicfile.WriteFile(path, func(w io.Writer) error {
		_, err := w.Write(page.Bytes())
		return err
	})
}

// difference is how far two pictures are apart in every channel, stdWhite being white.
func difference(a, b *imagefile.Image) *imagefile.Image {
	d := imagefile.New(a.W, a.H)
	for i := range d.Pix {
		d.Pix[i] = float32(min(math.Abs(float64(a.Pix[i]-b.Pix[i]))/stdWhite*2-1, 1))
	}
	return d
}
