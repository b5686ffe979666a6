//go:build cgo

package cpu

// #include "call.h"
import "C"

import (
	"math"

	"github.com/spin-native/spin/kernels"
)

// shape is what the choice of an algorithm knows of a convolution.
type shape struct {
	form           kernels.ConvForm
	in, out        int // channels as packed
	tile, edge     int // outputs and inputs along a Winograd tile
	taps           int // weights kept per row of its inputs
	kernels, depth int // kernels of a form; products per output of the direct form
}

func (b *Backend) shape(w kernels.ConvWeights, f kernels.ConvForm) shape {
	up := func(n, m int) int { return (n + m - 1) / m * m }
	s := shape{form: f, in: up(w.In, int(b.lv.lanes)), out: up(w.Out, int(b.lv.panel)), kernels: 1, depth: w.Size * w.Size * w.In}
	switch f {
	case kernels.Winograd2:
		s.tile, s.edge, s.taps = 2, 4, 3
	case kernels.Winograd4:
		s.tile, s.edge, s.taps = 4, 6, 3
	case kernels.Winograd6:
		s.tile, s.edge, s.taps = 6, 8, 3
	case kernels.WinogradUp:
		s.tile, s.edge, s.taps, s.kernels = 4, 5, 2, 4
	}
	return s
}

// weights is the number of floats that packed weights take, about.
func (s shape) weights() int {
	if s.form == kernels.BFloat16 {
		return s.depth * s.out / 2
	}
	if s.tile == 0 {
		return s.depth * s.out
	}
	return s.kernels * s.edge * s.taps * s.in * s.out
}

// cost estimates the cycles of a convolution with pixels outputs on one of two threads. The register tile makes two
// vectors of products a cycle; a transform takes about as many operations per vector and tile as it has loads, sums and
// stores, at three a cycle; a block's weights are expanded at two thirds of a value a cycle.
func (s shape) cost(lanes, pixels float64) float64 {
	perVector := float64(s.in*s.out) / lanes / 2
	if s.tile == 0 {
		products := pixels * float64(s.depth*s.out) / lanes / 2
		return products*1.1 + s.keep(lanes)
	}
	side := math.Sqrt(pixels / float64(s.kernels))
	tiles := math.Pow(math.Ceil(side/float64(s.tile)), 2) * float64(s.kernels)
	edge, tile := float64(s.edge), float64(s.tile)
	in := edge*edge*2 + 2*edge*edge*2 // loads and stores, two passes of about two operations per value
	out := edge*edge + tile*tile*3 + edge*(edge+tile)*2
	transforms := tiles * (float64(s.in)*in + float64(s.out)*out) / lanes / 3
	expand := math.Ceil(tiles/float64(s.kernels*s.block())) * float64(s.kernels) * 2 * perVector * edge * edge * 1.5
	return tiles*edge*edge*perVector*1.1 + transforms + expand + s.keep(lanes)
}

// keep is what the packed weights cost: they stream through the caches at every call, and they fill memory. A form must save
// this much time for each of their bytes.
func (s shape) keep(lanes float64) float64 { return 2.1 * 4 * float64(s.weights()) * 16 / lanes }

// briefLeast is the number of input channels from which bfloat16 is used where it was asked for: fewer would mostly multiply
// the zeros that fill a tile, and there are few such layers.
const briefLeast = 16

// form chooses the algorithm of one convolution: the one of least cost at the number of pixels that the weights will
// mostly meet.
func (b *Backend) form(w kernels.ConvWeights) kernels.ConvForm {
	best := kernels.Direct
	if b.bf16 && w.In >= briefLeast && w.Out > 4 {
		return kernels.BFloat16
	}
	if w.Size != 3 || w.Stride != 1 || w.Pad != 1 || w.PadEnd != 0 || w.In < int(b.lv.lanes) || w.Out <= 4 {
		return best
	}
	pixels := float64(w.Pixels)
	if pixels == 0 {
		pixels = 64 * 64
	}
	lanes := float64(b.lv.lanes)
	least := b.shape(w, best).cost(lanes, pixels)
	for _, f := range []kernels.ConvForm{kernels.Winograd2, kernels.Winograd4, kernels.Winograd6, kernels.WinogradUp} {
		if f == kernels.WinogradUp && !w.Up {
			continue
		}
		if c := b.shape(w, f).cost(lanes, pixels); c < least {
			best, least = f, c
		}
	}
	return best
}

// block is the number of Winograd tiles that are transformed and multiplied together: many where the weights are large, because
// every block reads and expands them all, as far as the transformed inputs do not fill the last cache.
func (s shape) block() int {
	tiles := 48
	if 4*s.weights() > 2<<20 {
		tiles = 96
	}
	return max(16, min(tiles, (8<<20)/(4*s.edge*s.edge*s.in)))
}

// group is the number of output channels, of so many panels, that a block of tiles is multiplied with in one pass: all
// positions with one panel after the other where the transformed inputs stay in the second-level cache, otherwise position
// after position with as many panels as their products stay near.
func (b *Backend) group(s shape, tiles, panels int) int {
	position := 4 * s.edge * s.edge * tiles // bytes of a channel
	group := 1
	if position*s.in > 1<<20 {
		group = max(1, min(panels, (2<<20)/(position*int(b.lv.panel))))
	}
	return group * int(b.lv.panel)
}

// plan cuts a convolution into units, by its shape alone, and into tasks, by the number of threads: every span for every
// one of the splits of the output channels. The spans are valid until the next plan.
func (b *Backend) plan(a *C.conv_args, images int) (spans []C.span, splits int) {
	ceil := func(n, m int) int { return (n + m - 1) / m }
	s := b.shape(kernels.ConvWeights{In: int(a.cin), Out: int(a.cout), Size: int(a.size)}, kernels.ConvForm(a.form))
	panels := ceil(int(a.cout), int(b.lv.panel))
	oh, ow := int(a.oh), int(a.ow)
	if s.tile == 0 {
		rows := max(1, 64/ow)
		if 4*s.weights() > 1<<18 { // as few passes over the weights as it makes sense
			rows = max(rows, min(oh, 1024/ow))
		}
		a.rows = C.int(rows)
		if oh*ow <= 64 {
			a.rows = a.oh
		}
	} else {
		gh, gw := oh, ow
		if s.kernels == 4 {
			gh, gw = oh/2, ow/2
		}
		down, across := ceil(gh, s.tile), ceil(gw, s.tile)
		tiles := s.block()
		per := min(down, max(1, tiles/across))
		per = ceil(down, ceil(down, per))
		a.tiles = C.int(min(tiles, per*across))
		a.rows = C.int(per * s.tile)
		if s.kernels == 4 {
			a.rows *= 2
		}
	}
	units := ceil(oh, int(a.rows))
	a.units = C.int(units)
	// Waking a thread takes as long as this many products, or reading this many weights.
	const products, weights = 1 << 21, 1 << 16
	work := images * oh * ow * int(a.cin*a.cout*a.size*a.size)
	threads := b.threads
	if work <= products && s.weights() <= weights {
		threads = 1
	}
	total := images * units
	splits = 1
	if total < threads || total < 3*threads && total%threads != 0 {
		splits = min(panels, ceil(2*threads, total))
	}
	split := ceil(panels, splits)
	a.split = C.int(split * int(b.lv.panel))
	if s.tile > 0 {
		a.group = C.int(b.group(s, int(a.tiles), split))
	}
	// Spans begin long, because neighbours share rows of the input, and end short, so that the threads end together.
	b.spans = b.spans[:0]
	for image := range images {
		for u := 0; u < units; {
			size := units
			if threads > 1 {
				size = ceil(total-image*units-u, 2*threads)
			}
			next := min(units, u+size)
			b.spans = append(b.spans, C.span{C.int(image), C.int(u), C.int(next)})
			u = next
		}
	}
	return b.spans, ceil(panels, split)
}
