//go:build cuda && cgo && linux && amd64

package cuda

// #include "args.h"
import "C"

import "github.com/spin-native/spin/kernels"

// A held operation is not under way yet: the next one may become a part of its launch. Every other operation, and whatever
// waits or looks, tells the device of it first, so that it is held is nobody's business.
type held interface{ tell(*Backend) }

// hold keeps an operation back in place of the one that was held before.
func (b *Backend) hold(h held) {
	b.tellHeld()
	b.waiting = h
}

// tell is at the head of whatever talks to the goroutine of the context: nothing is kept back then.
func (b *Backend) tell() {
	b.tellHeld()
	b.tellRow()
}

// tellHeld launches the held operation.
func (b *Backend) tellHeld() {
	if h := b.waiting; h != nil {
		b.waiting = nil
		h.tell(b)
	}
}

// overlap reports whether two views have memory in common.
func overlap(v, w kernels.View) bool {
	if !v.Present() || !w.Present() {
		return false
	}
	end := func(v kernels.View) C.ulonglong { return at(v) + C.ulonglong(4*v.Type.Room(v.Len())) }
	return at(v) < end(w) && at(w) < end(v)
}

// heldConv is a convolution of halves. The normalisation that follows it is made by the block that finishes last.
type heldConv struct {
	k             kernels.Conv2D
	tile          halfTile
	tiles, across int
	args          C.conv_half_args
}

func (c *heldConv) tell(b *Backend) {
	if c.tile == wgmmaTile {
		b.convWGMMA(&c.k, c.args, c.tiles*c.across*c.k.Dst.N)
		return
	}
	tell := launch[C.conv_half_args]
	if c.args.size == 1 {
		tell = lineUp[C.conv_half_args] // of an attention block, perhaps
	}
	tell(b, c.tile.name, c.tiles, c.across, int(c.args.n*c.args.splits), c.tile.threads, c.tile.shared, c.args)
}

// makes reports whether the normalisation is one of this convolution's result. It may not write what blocks of other images
// still read: whoever frees the convolution's operands expects it to have read them.
func (c *heldConv) makes(a *kernels.Norm) bool {
	k := &c.k
	for _, v := range []kernels.View{k.Src[0], k.Src[1], k.Affine, k.Embed, k.Residual, k.Skip[0], k.Skip[1]} {
		if k.Dst.N > 1 && overlap(a.Dst, v) {
			return false
		}
	}
	return k.Moments.Present() && (a.Moments[0] == k.Moments || a.Moments[1] == k.Moments) && !overlap(a.Dst, k.Dst)
}

// heldLinear is layers that read the same vectors, which one launch makes.
type heldLinear struct {
	src  kernels.View
	args C.linear_args
	dst  []kernels.View
}

const (
	linearBlock = 64   // outputs of a block of linear_f32
	linearRoom  = 8192 // the most inputs
)

// linear holds the convolution where it is a fully connected layer and nothing else, and reports whether it is.
func (b *Backend) linear(k *kernels.Conv2D, c *conv) bool {
	if !pure(k, c) || k.Src[1].Present() || k.Src[0].Pixels() != 1 || c.w.In > linearRoom {
		return false
	}
	h, ok := b.waiting.(*heldLinear)
	if ok = ok && h.src == k.Src[0] && h.args.act == C.int(k.Act) && len(h.dst) < C.LINEAR_LAYERS; ok {
		for _, v := range h.dst {
			ok = ok && !overlap(v, k.Dst)
		}
	}
	if !ok {
		h = &heldLinear{src: k.Src[0], args: C.linear_args{src: at(k.Src[0]), cin: C.int(c.w.In), act: C.int(k.Act)}}
		b.hold(h)
	}
	h.args.layer[h.args.layers] = C.linear_layer{weight: C.ulonglong(c.weight), bias: C.ulonglong(c.bias), dst: at(k.Dst), cout: C.int(c.w.Out), first: C.int(h.blocks())}
	h.args.layers++
	h.dst = append(h.dst, k.Dst)
	return true
}

// blocks is how many the layers take.
func (h *heldLinear) blocks() (n int) {
	for _, v := range h.dst {
		n += blocks(v.C, linearBlock)
	}
	return n
}

func (h *heldLinear) tell(b *Backend) {
	launch(b, "linear_f32", h.blocks(), h.src.N, 1, 256, 4*(256+h.src.C), h.args)
}
