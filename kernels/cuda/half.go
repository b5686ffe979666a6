//go:build cuda && cgo && linux && amd64

package cuda

// #include "args.h"
import "C"

import (
	"fmt"
	"math"

	"github.com/x448/float16"

	"github.com/spin-native/spin/kernels"
)

// halfNames are the kernels that read or write F16.
var halfNames = append([]string{
	"conv_input_f16", "moments_part_f16", "moments_join_f16", "layernorm_f16", "geglu_f16",
	"resample_f16", "resample_f16_f32", "resample_f32_f16", "attention_f16_8", "attention_f16_1",
	"attention_block_f16", "attention_flash_f16_32", "attention_flash_f16_64", "attention_flash_f16_128", "attention_wide_f16_256", "attention_wide_f16_512",
}, tileNames()...)

var _ kernels.Storer = (*Backend)(nil)

// Stores implements kernels.Storer.
func (*Backend) Stores(t kernels.Type) bool { return t == kernels.F32 || t == kernels.F16 }

// wide is n rounded up to a multiple of 8: sixteen bytes of halves, which are what the tensor-core kernels copy at once.
func wide(n int) int { return (n + 7) &^ 7 }

// packHalf rounds weights to F16 and orders them [out][tap][in], the channels padded with zeros; two to a number.
func packHalf(w kernels.ConvWeights) []int32 {
	area, in := w.Size*w.Size, wide(w.In)
	packed := make([]int32, packedLen(w))
	for o := range w.Out {
		for i := range w.In {
			for t := range area {
				h := float16.Fromfloat32(w.Weight[(o*w.In+i)*area+t]).Bits()
				packed[((o*area+t)*in+i)/2] |= int32(uint32(h) << (16 * (i % 2)))
			}
		}
	}
	return packed
}

// halfTile is one instance of the kernels of conv_half.cu.
type halfTile struct {
	name            string
	rows, cols      int // of pixels, for the one that keeps a tile and its surroundings in shared memory; otherwise 0
	pixels          int
	channels        int
	threads, shared int
}

func gemmTile(pixels, channels, threads int) halfTile {
	const stages, step = 3, 32 // kStages and kStep of conv_half.cu
	return halfTile{name: fmt.Sprintf("conv_gemm_f16_%dx%d", pixels, channels), pixels: pixels, channels: channels, threads: threads,
		shared: stages * (pixels + channels) * step * 2}
}

func haloTile(rows, cols, channels, threads int) halfTile {
	const stages, step = 3, 32
	halo := ((rows+2)*(cols+2)*step*2 + 127) &^ 127
	return halfTile{name: fmt.Sprintf("conv_halo_f16_%dx%dx%d", rows, cols, channels), rows: rows, cols: cols, pixels: rows * cols,
		channels: channels, threads: threads, shared: 2*halo + stages*channels*step*2}
}

// The tiles from the largest one down. The last one of each kind is for few output channels.
var (
	gemmTiles = []halfTile{gemmTile(128, 128, 256), gemmTile(128, 64, 128), gemmTile(64, 64, 128), gemmTile(64, 32, 128), gemmTile(128, 16, 128)}
	haloTiles = []halfTile{haloTile(8, 16, 128, 256), haloTile(8, 16, 64, 128), haloTile(8, 8, 64, 128), haloTile(8, 16, 16, 128)}
)

func tileNames() (names []string) {
	for _, t := range append(gemmTiles[:len(gemmTiles):len(gemmTiles)], haloTiles...) {
		names = append(names, t.name)
	}
	return names
}

// splits reports whether the sums of the tile can be cut into parts: not where a thread has more than 32 of them, kSplit of
// conv_half.cuh.
func (t halfTile) splits() bool { return t.pixels*t.channels <= 32*t.threads }

// grid is how many tiles an image takes.
func (t halfTile) grid(h, w, channels int) (pixels, across int) {
	pixels = blocks(h*w, t.pixels)
	if t.rows > 0 {
		pixels = blocks(h, t.rows) * blocks(w, t.cols)
	}
	return pixels, blocks(channels, t.channels)
}

// A device has about so many multiprocessors, each of which holds two blocks of the largest tiles: with fewer blocks than
// that, smaller tiles and parts of the sums keep more of it busy. A part of a sum is at least so many steps of 32 long.
const (
	busy     = 128
	leastSum = 8
	mostSums = 16
)

// chosen is a tile and the number of parts that the sums are cut into.
type chosen struct {
	tile   halfTile
	splits int
}

// choose depends on the shape of one image only, so that a batch gives the bytes of its images.
func choose(tiles []halfTile, h, w, channels, steps int) chosen {
	last := len(tiles) - 1
	t := tiles[last]
	if channels > t.channels {
		for i, candidate := range tiles[:last] {
			t = candidate
			p, c := t.grid(h, w, channels)
			if i == last-1 || p*c >= busy && (channels >= t.channels || channels > tiles[i+1].channels) {
				break
			}
		}
	}
	p, c := t.grid(h, w, channels)
	if !t.splits() {
		return chosen{t, 1}
	}
	return chosen{t, max(1, min(blocks(busy, p*c), steps/leastSum, mostSums))}
}

// parts hands out scratch memory.
type parts struct{ size int }

func (p *parts) take(bytes int) (offset int) {
	offset = p.size
	p.size += (bytes + 255) &^ 255
	return offset
}

// readable reports whether the kernels can copy the pixels of a source sixteen bytes at a time.
func readable(src [2]kernels.View) bool {
	for _, v := range src {
		if v.Present() && (v.Type != kernels.F16 || v.C%8 != 0 || at(v)%16 != 0) {
			return false
		}
	}
	return true
}

func half(v kernels.View) C.int { return flag(v.Type == kernels.F16) }

// input writes what Conv2D makes of its sources as halves, with the channels rounded up.
func (b *Backend) input(dst C.device_halves, src [2]kernels.View, affine kernels.View, act kernels.Activation, s kernels.Sampling) {
	v := src[0]
	cp := wide(v.C + src[1].C)
	count := v.N * s.Size(v.H) * s.Size(v.W) * cp / 8
	const threads = 128 // as many as a product's, whose phase it may be before
	lineUp(b, "conv_input_f16", blocks(count, threads), 1, 1, threads, 0, C.conv_input_args{
		src: [2]C.device_any{at(v), at(src[1])}, dst: dst, affine: at(affine), c: [2]C.int{C.int(v.C), C.int(src[1].C)},
		halves: [2]C.int{half(v), half(src[1])}, cp: C.int(cp), h: C.int(v.H), w: C.int(v.W), uh: C.int(s.Size(v.H)), uw: C.int(s.Size(v.W)),
		act: C.int(act), sampling: C.int(s), count: C.longlong(count),
	})
}

// around reports whether a convolution is 3x3 and keeps the size.
func around(w kernels.ConvWeights) bool {
	return w.Size == 3 && w.Stride == 1 && w.Pad == 1 && w.PadEnd == 0
}

// prologue reports whether there is something to be done to the sources first.
func prologue(k *kernels.Conv2D) bool { return k.Affine.Present() || k.Act != kernels.Identity }

// chosenFor is the kernel for a convolution, whose input is made beforehand or not.
func (b *Backend) chosenFor(k *kernels.Conv2D, c *conv, made bool) chosen {
	h, w, out := k.Dst.H, k.Dst.W, c.w.Out
	halo := around(c.w)
	norm := prologue(k) && !made // which the kernel applies as it reads
	fits := halo && wgmmaFits(k, c)
	if do := b.force; do.splits > 0 {
		if do.tile == wgmmaTile && !fits {
			do.tile = haloTiles[2]
		}
		if do.tile.rows > 0 && !halo {
			do.tile = gemmTiles[3]
		}
		if do.tile.rows == 0 && norm {
			do.tile = haloTiles[2]
		}
		return do
	}
	if p, o := wgmmaTile.grid(h, w, out); fits && p*o >= busy {
		return chosen{wgmmaTile, 1}
	}
	in := wide(c.w.In)
	if halo && (norm || h*w >= 64*64) {
		return choose(haloTiles, h, w, out, 9*blocks(in, 32))
	}
	deep := c.w.Size * c.w.Size * in
	if k.Shortcut != nil {
		deep += wide(k.Shortcut.(*conv).w.In)
	}
	return choose(gemmTiles, h, w, out, blocks(deep, 32))
}

// convHalf is Conv2D for weights of F16.
func (b *Backend) convHalf(k *kernels.Conv2D, c *conv) {
	n, h, w := k.Dst.N, k.Dst.H, k.Dst.W
	uh, uw, cin := k.Sampling.Size(k.Src[0].H), k.Sampling.Size(k.Src[0].W), wide(c.w.In)
	if pixels := max(h*w, uh*uw); pixels > math.MaxInt32-128 { // as the kernels count them, to the end of a tile
		b.later(func() error { return fmt.Errorf("an image of %d pixels is too large for F16", pixels) })
		return
	}

	var room parts
	made := !readable(k.Src) || k.Sampling == kernels.Down2 || prologue(k) && !around(c.w)
	source := 0
	if made {
		source = room.take(2 * n * uh * uw * cin)
	}
	skip, skipMade, skipAt := 0, false, 0
	if k.Shortcut != nil {
		skip = wide(k.Shortcut.(*conv).w.In)
		if skipMade = !readable(k.Skip); skipMade {
			skipAt = room.take(2 * k.Dst.N * h * w * skip)
		}
	}
	do := b.chosenFor(k, c, made)
	tiles, across := do.tile.grid(h, w, c.w.Out)
	sums, moments, entries := 0, 0, 0
	if do.splits > 1 {
		sums = room.take(4 * n * across * tiles * do.splits * do.tile.pixels * do.tile.channels)
	}
	if k.Moments.Present() {
		entries = joined(tiles)
		moments = room.take(4 * n * across * entries * (2*do.tile.channels + 1))
	}
	scratch := C.ulonglong(b.shared(room.size))

	a := C.conv_half_args{
		src: [2]C.device_halves{at(k.Src[0]), at(k.Src[1])}, c: [2]C.int{C.int(k.Src[0].C), C.int(k.Src[1].C)}, weight: C.ulonglong(c.weight),
		dst: at(k.Dst), residual: at(k.Residual), affine: at(k.Affine), bias: C.ulonglong(c.bias), embed: at(k.Embed),
		n: C.int(n), h: C.int(k.Src[0].H), w: C.int(k.Src[0].W), oh: C.int(h), ow: C.int(w), cout: C.int(c.w.Out),
		size: C.int(c.w.Size), stride: C.int(c.w.Stride), pad: C.int(c.w.Pad), up: flag(k.Sampling == kernels.Up2),
		act: C.int(k.Act), rsampling: C.int(k.ResidualSampling), relu: flag(k.ReLU), embeds: C.int(k.Embed.N),
		dst_half: half(k.Dst), residual_half: half(k.Residual), splits: C.int(do.splits),
		pairs: flag(c.w.Out%2 == 0 && at(k.Dst)%4 == 0 && at(k.Residual)%4 == 0), entries: C.int(max(entries, tiles)),
		moments: at(k.Moments),
	}
	if do.splits > 1 || k.Moments.Present() {
		a.done = C.ulonglong(b.zeros(n + n*across*int(a.entries)))
	}
	if made {
		b.input(scratch+C.ulonglong(source), k.Src, k.Affine, k.Act, k.Sampling)
		a.src, a.c = [2]C.device_halves{scratch + C.ulonglong(source)}, [2]C.int{C.int(cin)}
		a.h, a.w, a.up, a.affine, a.act = C.int(uh), C.int(uw), 0, 0, C.ACT_IDENTITY
	}
	if k.Shortcut != nil {
		s := k.Shortcut.(*conv)
		a.skip, a.cs = [2]C.device_halves{at(k.Skip[0]), at(k.Skip[1])}, [2]C.int{C.int(k.Skip[0].C), C.int(k.Skip[1].C)}
		a.skip_weight, a.skip_bias, a.residual = C.ulonglong(s.weight), C.ulonglong(s.bias), 0
		if skipMade {
			b.input(scratch+C.ulonglong(skipAt), k.Skip, kernels.View{}, kernels.Identity, kernels.Same)
			a.skip, a.cs = [2]C.device_halves{scratch + C.ulonglong(skipAt)}, [2]C.int{C.int(skip)}
		}
	}
	if do.splits > 1 {
		a.part = scratch + C.ulonglong(sums)
	}
	if k.Moments.Present() {
		a.tiles = scratch + C.ulonglong(moments)
	}
	b.hold(&heldConv{*k, do.tile, tiles, across, a})
}

// joined is the number of entries that the moments of so many tiles take up on their way to the image's.
func joined(tiles int) (entries int) {
	const fan = 32 // kFan of conv_half.cuh
	for entries = tiles; tiles > 1; entries += tiles {
		tiles = blocks(tiles, fan)
	}
	return entries
}

// flash is the tensor-core kernel for heads of so many channels, its queries to a block and its shared memory.
func flash(dim int) (name string, queries, shared int) {
	for _, d := range []int{32, 64, 128} {
		if dim <= d {
			return fmt.Sprintf("attention_flash_f16_%d", d), 64, 3 * 64 * d * 2
		}
	}
	d := 256
	if dim > d {
		d = 512
	}
	return fmt.Sprintf("attention_wide_f16_%d", d), 32, 32*d*2 + 2*64*32*2 + 32*64*2 + 4*2*32
}

// flashable reports whether the tensor-core kernels take the heads: others are for the plain kernel.
func flashable(k *kernels.Attention) bool {
	ok := k.Dst.Type == kernels.F16 && k.Dim%8 == 0 && k.Dim <= 512 && k.Dst.C%8 == 0 && at(k.Dst)%16 == 0
	for _, h := range []kernels.Heads{k.Q, k.K, k.V} {
		ok = ok && h.Type == kernels.F16 && h.First%8 == 0 && h.Step%8 == 0 && h.C%8 == 0 && at(h.View)%16 == 0
	}
	return ok
}

// uploadHalf rounds on the device.
func (b *Backend) uploadHalf(dst kernels.View, src []float32) {
	wide := b.floats(dst)
	b.Upload(wide, src)
	b.Resample(dst, wide, kernels.Same, kernels.View{})
}

// widened is a copy in F32, in scratch memory.
func (b *Backend) widened(src kernels.View) kernels.View {
	wide := b.floats(src)
	b.Resample(wide, src, kernels.Same, kernels.View{})
	return wide
}

// floats is scratch memory for the elements of a view in F32.
func (b *Backend) floats(v kernels.View) kernels.View {
	n := v.Len()
	v.Buf, v.Off, v.Type = &buffer{p: b.shared(4 * n), n: n}, 0, kernels.F32
	return v
}
