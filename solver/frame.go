package solver

import "github.com/spin-native/spin/tensor"

// frames enlarges images by mirrored borders to multiples of a size, and cuts them out again.
type frames struct {
	multiple int
	made     map[frameKey]*frame
}

type frameKey struct {
	d    *tensor.Device
	h, w int
}

// frame is that for one size; nil leaves images as they are.
type frame struct{ pad, crop [2]*tensor.Matrix }

func newFrames(multiple int) *frames { return &frames{max(multiple, 1), map[frameKey]*frame{}} }

// size is the next multiple.
func (fs *frames) size(n int) int { return (n + fs.multiple - 1) / fs.multiple * fs.multiple }

// of is the frame for images of h x w.
func (fs *frames) of(d *tensor.Device, h, w int) *frame {
	key := frameKey{d, h, w}
	if f, ok := fs.made[key]; ok {
		return f
	}
	var f *frame
	if fs.size(h) != h || fs.size(w) != w {
		f = &frame{}
		for axis, n := range [2]int{h, w} {
			padded := fs.size(n)
			before := (padded - n) / 2
			f.pad[axis] = d.Matrix(selection(padded, n, func(i int) int { return mirrorCentre(i-before, n) }).banded())
			f.crop[axis] = d.Matrix(selection(n, padded, func(i int) int { return i + before }).banded())
		}
	}
	fs.made[key] = f
	return f
}

func (f *frame) enlarge(x *tensor.Tensor) *tensor.Tensor {
	if f == nil {
		return x
	}
	return x.Device().Separable(nil, x, tensor.Separable{H: f.pad[0], W: f.pad[1], Alpha: 1})
}

func (f *frame) cut(x *tensor.Tensor) *tensor.Tensor {
	if f == nil {
		return x
	}
	return x.Device().Separable(nil, x, tensor.Separable{H: f.crop[0], W: f.crop[1], Alpha: 1})
}
