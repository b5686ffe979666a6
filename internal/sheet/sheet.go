// Package sheet draws pictures side by side with a title above and a caption
// below each, on white: the sheet that --compare and the demo write.
//
// All pictures appear in the same size. Small ones are enlarged with hard pixel
// edges, so that what a low resolution shows is not flattered by smoothing; large
// ones are reduced with a Catmull-Rom filter until the row fits the width.
package sheet

import (
	"image"
	"image/color"
	"image/draw"
	"math"
	"strings"
	"sync"

	xdraw "golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"github.com/spin-native/spin/internal/imagefile"
)

// Panel is one picture of a sheet.
type Panel struct {
	Title   string // above; may be empty
	Caption string // below, such as "PSNR 26.9 dB  SSIM 0.81"; may be empty
	Img     *imagefile.Image
}

// Options of a sheet. The zero value means the defaults.
type Options struct {
	// Columns is the number of pictures in a row. Default: all of them, or as many
	// as fit at a readable size.
	Columns int
	// MaxWidth of the sheet in pixels. Default 2000.
	MaxWidth int
}

const (
	defaultWidth = 2000
	margin       = 16
	gap          = 12 // between columns
	rowGap       = 24
	textGap      = 6   // between text and picture
	smallest     = 160 // width below which pictures go to a further row
	enlarged     = 256 // size to which sheets of only small pictures are brought
	titleLines   = 2
	captionLines = 3
)

var (
	ink   = image.NewUniform(color.Gray{0x20})
	faint = image.NewUniform(color.Gray{0x58})
	frame = image.NewUniform(color.Gray{0xd0})
)

// Render draws the sheet.
func Render(panels []Panel, opts Options) *image.RGBA {
	l := arrange(panels, opts)
	title, caption := face(bold(), l.fontSize), face(regular(), 0.92*l.fontSize)
	defer title.Close()
	defer caption.Close()

	// The text decides the heights of the rows, hence two passes.
	type cell struct{ title, caption []string }
	cells := make([]cell, len(panels))
	rows := (len(panels) + l.columns - 1) / l.columns
	above, below := make([]int, rows), make([]int, rows)
	heights := make([]int, rows) // of the tallest picture
	for i, p := range panels {
		heights[i/l.columns] = max(heights[i/l.columns], l.fit(p.Img).Y)
		cells[i] = cell{wrap(title, p.Title, l.w, titleLines), wrap(caption, p.Caption, l.w, captionLines)}
		above[i/l.columns] = max(above[i/l.columns], len(cells[i].title))
		below[i/l.columns] = max(below[i/l.columns], len(cells[i].caption))
	}
	height := 2*margin + max(rows-1, 0)*rowGap
	for r := range rows {
		height += heights[r] + textHeight(title, above[r]) + textHeight(caption, below[r])
	}

	out := image.NewRGBA(image.Rect(0, 0, 2*margin+l.columns*l.w+(l.columns-1)*gap, max(height, 1)))
	draw.Draw(out, out.Rect, image.White, image.Point{}, draw.Src)
	y := margin
	for r := range rows {
		top := y + textHeight(title, above[r])
		for i := r * l.columns; i < min((r+1)*l.columns, len(panels)); i++ {
			x := margin + i%l.columns*(l.w+gap)
			// A short title stands right above its picture.
			t := y + (above[r]-len(cells[i].title))*lineHeight(title)
			lines(out, title, ink, x, t, l.w, cells[i].title)
			place(out, image.Rect(x, top, x+l.w, top+heights[r]), l.fit(panels[i].Img), panels[i].Img)
			lines(out, caption, faint, x, top+heights[r]+textGap, l.w, cells[i].caption)
		}
		y = top + heights[r] + textHeight(caption, below[r]) + rowGap
	}
	return out
}

// Write renders the sheet into a picture file, under the rules of
// imagefile.Write.
func Write(path string, panels []Panel, opts Options, force bool) error {
	return imagefile.Write(path, imagefile.FromGo(Render(panels, opts)), force)
}

// layout is the largest size of a picture on the sheet and how many stand in a
// row.
type layout struct {
	w, h, columns int
	fontSize      float64
}

func arrange(panels []Panel, opts Options) layout {
	var l layout
	for _, p := range panels {
		if p.Img != nil {
			l.w, l.h = max(l.w, p.Img.W), max(l.h, p.Img.H)
		}
	}
	if l.w == 0 {
		l.w, l.h = enlarged, enlarged
	}
	if k := int(math.Round(enlarged / float64(max(l.w, l.h)))); k > 1 {
		l.w, l.h = k*l.w, k*l.h
	}
	width := opts.MaxWidth
	if width <= 0 {
		width = defaultWidth
	}
	room := func(columns int) int { return (width - 2*margin - (columns-1)*gap) / columns }
	l.columns = opts.Columns
	if l.columns <= 0 {
		l.columns = max(len(panels), 1)
		for l.columns > 1 && room(l.columns) < min(smallest, l.w) {
			l.columns--
		}
		// Rows of equal length where there are several: 9 as 5+4, not 8+1.
		if rows := (len(panels) + l.columns - 1) / l.columns; rows > 1 {
			l.columns = (len(panels) + rows - 1) / rows
		}
	}
	l.columns = max(min(l.columns, len(panels)), 1)
	if most := max(room(l.columns), 16); l.w > most {
		l.h = max(int(math.Round(float64(l.h)*float64(most)/float64(l.w))), 1)
		l.w = most
	}
	l.fontSize = min(max(float64(l.w)/18, 13), 22)
	return l
}

// fit is the size at which a picture fills its cell without changing its shape.
func (l layout) fit(m *imagefile.Image) image.Point {
	if m == nil {
		return image.Pt(l.w, l.h)
	}
	scale := min(float64(l.w)/float64(m.W), float64(l.h)/float64(m.H))
	side := func(n, most int) int { return min(max(int(math.Round(float64(n)*scale)), 1), most) }
	return image.Pt(side(m.W, l.w), side(m.H, l.h))
}

// place draws a picture of the given size in the middle of the cell, with a thin
// frame, so that white pictures have an edge too.
func place(out *image.RGBA, cell image.Rectangle, size image.Point, m *imagefile.Image) {
	at := cell.Min.Add(cell.Size().Sub(size).Div(2))
	to := image.Rectangle{at, at.Add(size)}
	draw.Draw(out, to.Inset(-1), frame, image.Point{}, draw.Src)
	if m == nil {
		return
	}
	src := onWhite(m)
	// By a whole factor with hard edges; if the size asks for a fraction, to the next
	// larger factor first.
	if k := max((size.X+m.W-1)/m.W, (size.Y+m.H-1)/m.H); k > 1 {
		big := image.NewRGBA(image.Rect(0, 0, k*m.W, k*m.H))
		xdraw.NearestNeighbor.Scale(big, big.Rect, src, src.Rect, xdraw.Src, nil)
		src = big
	}
	if src.Rect.Size() == to.Size() {
		draw.Draw(out, to, src, image.Point{}, draw.Src)
		return
	}
	xdraw.CatmullRom.Scale(out, to, src, src.Rect, xdraw.Src, nil)
}

// onWhite converts to 8 bits, transparent pixels laid over white.
func onWhite(m *imagefile.Image) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, m.W, m.H))
	for i := range m.W * m.H {
		a := 1.0
		if m.Alpha != nil {
			a = float64(m.Alpha[i]) / math.MaxUint16
		}
		p := out.Pix[4*i : 4*i+4]
		for c, v := range m.Pix[3*i : 3*i+3] {
			u := min(max((float64(v)+1)/2, 0), 1)
			if u != u {
				u = 0
			}
			p[c] = uint8(math.Round(255 * (a*u + 1 - a)))
		}
		p[3] = 255
	}
	return out
}

// The Go fonts are part of x/image, so the sheet looks alike on every machine.
var (
	regular = sync.OnceValue(func() *opentype.Font { return parse(goregular.TTF) })
	bold    = sync.OnceValue(func() *opentype.Font { return parse(gobold.TTF) })
)

func parse(ttf []byte) *opentype.Font {
	f, err := opentype.Parse(ttf)
	if err != nil {
		panic(err) // the font is compiled in
	}
	return f
}

func face(f *opentype.Font, pixels float64) font.Face {
	out, err := opentype.NewFace(f, &opentype.FaceOptions{Size: pixels, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		panic(err)
	}
	return out
}

func lineHeight(f font.Face) int { return f.Metrics().Height.Ceil() + 1 }

// textHeight is the space of n lines and of the gap between text and picture.
func textHeight(f font.Face, n int) int {
	if n == 0 {
		return 0
	}
	return n*lineHeight(f) + textGap
}

// lines draws centred lines from y down.
func lines(out *image.RGBA, f font.Face, c image.Image, x, y, w int, text []string) {
	d := font.Drawer{Dst: out, Src: c, Face: f}
	for _, s := range text {
		d.Dot = fixed.P(x, y+f.Metrics().Ascent.Ceil())
		d.Dot.X += (fixed.I(w) - font.MeasureString(f, s)) / 2
		d.DrawString(s)
		y += lineHeight(f)
	}
}

// wrap breaks text into at most most lines of the given width, at spaces where it
// can. What does not fit ends in an ellipsis. Line breaks in the text are kept.
func wrap(f font.Face, text string, width, most int) []string {
	fits := func(s string) bool { return font.MeasureString(f, s) <= fixed.I(width) }
	var out []string
	for part := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		line := ""
		for part = strings.TrimSpace(part); part != ""; {
			// The spaces between words are kept, since captions set figures apart by two.
			word, rest := part, ""
			if i := strings.IndexByte(part, ' '); i >= 0 {
				word, rest = part[:i], part[i:]
			}
			space := rest[:len(rest)-len(strings.TrimLeft(rest, " "))]
			if line != "" && !fits(line+word) {
				out = append(out, strings.TrimRight(line, " "))
				line = ""
			}
			line += word + space
			part = rest[len(space):]
		}
		if line != "" {
			out = append(out, strings.TrimRight(line, " "))
		}
	}
	if len(out) > most {
		out = out[:most]
		out[most-1] += " …"
	}
	for i, s := range out {
		if fits(s) {
			continue
		}
		r := []rune(strings.TrimSuffix(s, " …"))
		for len(r) > 0 && !fits(string(r)+"…") {
			r = r[:len(r)-1]
		}
		out[i] = strings.TrimRight(string(r), " ") + "…"
	}
	return out
}
