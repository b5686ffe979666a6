package sheet

import (
	"image"
	"image/draw"

	"github.com/spin-native/spin/internal/imagefile"
)

// Row is one row of a grid. Cells without a picture stay empty; their titles are not drawn.
type Row struct {
	Label string // on the left; may be empty
	Cells []Panel
}

// labelWidth is the share of a picture's width that the labels of rows may take.
const labelWidth = 0.55

// Grid draws the figure that papers have: one row of pictures for each subject, one column for each method, the columns
// named on top and the rows on the left. Every picture has the width of its column; Options.Columns is ignored.
func Grid(columns []string, rows []Row, opts Options) *image.RGBA {
	var all []Panel
	labelled := false
	for _, r := range rows {
		all = append(all, r.Cells...)
		labelled = labelled || r.Label != ""
	}
	width := opts.MaxWidth
	if width <= 0 {
		width = defaultWidth
	}
	n := max(len(columns), 1)
	left := 0
	if labelled {
		// The labels take their share of what one more, narrower, column would have.
		left = int(labelWidth*float64(width-2*margin)/(float64(n)+labelWidth)) + gap
		left = min(left, 160+gap)
	}
	l := arrange(all, Options{Columns: n, MaxWidth: width - left})
	title, caption := face(bold(), l.fontSize), face(regular(), 0.92*l.fontSize)
	defer title.Close()
	defer caption.Close()

	most := 0
	heads := make([][]string, n)
	for i, c := range columns {
		heads[i] = wrap(title, c, l.w, titleLines)
		most = max(most, len(heads[i]))
	}
	tops := make([]int, len(rows))
	heights, below := make([]int, len(rows)), make([]int, len(rows))
	y := margin + textHeight(title, most)
	for r, row := range rows {
		tops[r] = y
		for _, c := range row.Cells {
			if c.Img != nil {
				heights[r] = max(heights[r], l.fit(c.Img).Y)
			}
			below[r] = max(below[r], len(wrap(caption, c.Caption, l.w, captionLines)))
		}
		if heights[r] == 0 {
			heights[r] = l.h
		}
		y += heights[r] + textHeight(caption, below[r]) + gap
	}
	out := image.NewRGBA(image.Rect(0, 0, 2*margin+left+n*l.w+(n-1)*gap, max(y-gap+margin, 1)))
	draw.Draw(out, out.Rect, image.White, image.Point{}, draw.Src)
	at := func(i int) int { return margin + left + i*(l.w+gap) }
	for i, h := range heads {
		lines(out, title, ink, at(i), margin+(most-len(h))*lineHeight(title), l.w, h)
	}
	for r, row := range rows {
		label := wrap(title, row.Label, left-gap, captionLines)
		lines(out, title, ink, margin, tops[r]+(heights[r]-len(label)*lineHeight(title))/2, left-gap, label)
		for i, c := range row.Cells[:min(len(row.Cells), n)] {
			if c.Img != nil {
				place(out, image.Rect(at(i), tops[r], at(i)+l.w, tops[r]+heights[r]), l.fit(c.Img), c.Img)
			}
			lines(out, caption, faint, at(i), tops[r]+heights[r]+textGap, l.w, wrap(caption, c.Caption, l.w, captionLines))
		}
	}
	return out
}

// WriteGrid renders a grid into a picture file, under the rules of imagefile.Write.
func WriteGrid(path string, columns []string, rows []Row, opts Options, force bool) error {
	return imagefile.Write(path, imagefile.FromGo(Grid(columns, rows, opts)), force)
}
