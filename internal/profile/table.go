package profile

import (
	"fmt"
	"io"
	"strings"
)

// Print writes the layers, then the kinds of layers, as tables. Shares of peaks that are not known are left out.
func (r *Report) Print(w io.Writer) error {
	total := r.total()
	layers := [][]string{r.header("block")}
	for _, l := range r.Layers {
		layers = append(layers, r.cells(l.Block, l))
	}
	kinds := [][]string{r.header("layers")}
	for _, k := range append(r.Kinds[:len(r.Kinds):len(r.Kinds)], total) {
		kinds = append(kinds, r.cells(fmt.Sprint(k.Layers), k))
	}
	var b strings.Builder
	align(&b, layers)
	b.WriteByte('\n')
	align(&b, kinds)
	if r.PeakGFLOPS > 0 {
		fmt.Fprintf(&b, "\nmeasured peaks: %.0f GFLOP/s of multiply-adds", r.PeakGFLOPS)
		if r.PeakGBps > 0 {
			fmt.Fprintf(&b, ", %.1f GB/s of memory", r.PeakGBps)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// names is the number of columns before the figures.
const names = 4

func (r *Report) header(first string) []string {
	c := []string{first, "operation", "shape", "form", "ms", "share", "GFLOP", "GFLOP/s"}
	if r.PeakGFLOPS > 0 {
		c = append(c, "of peak")
	}
	c = append(c, "MB", "GB/s")
	if r.PeakGBps > 0 {
		c = append(c, "of peak")
	}
	return c
}

func (r *Report) cells(first string, l Row) []string {
	flop := func(format string, v float64) string {
		if l.GFLOP == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	c := []string{first, l.Op, l.Shape, l.Form, fmt.Sprintf("%.3f", l.Ms), fmt.Sprintf("%.1f%%", 100*l.Share), flop("%.3f", l.GFLOP), flop("%.0f", l.GFLOPS)}
	if r.PeakGFLOPS > 0 {
		c = append(c, flop("%.0f%%", 100*l.OfGFLOPS))
	}
	c = append(c, fmt.Sprintf("%.2f", l.Bytes/1e6), fmt.Sprintf("%.1f", l.GBps))
	if r.PeakGBps > 0 {
		c = append(c, fmt.Sprintf("%.0f%%", 100*l.OfGBps))
	}
	return c
}

// align writes columns as wide as their widest cell, names to the left and figures to the right.
func align(b *strings.Builder, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i < names {
				fmt.Fprintf(&line, "%-*s  ", width[i], cell)
			} else {
				fmt.Fprintf(&line, "%*s  ", width[i], cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
}
