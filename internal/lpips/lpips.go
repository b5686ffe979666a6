// Package lpips computes the learned perceptual distance of two pictures (Zhang et al., The unreasonable effectiveness of
// deep features as a perceptual metric, 2018), version 0.1, with the backbones AlexNet and VGG16:
//
//	x    = (picture - shift) / scale                             pictures in [-1,1]
//	f_l  = features of layer l, y_l = f_l / (|f_l| + 1e-10)      the length over the channels, at every pixel
//	LPIPS = sum over l of mean over pixels of sum over channels of w_l (y_l(a) - y_l(b))^2
//
// The weights are the user's: Read takes a backbone of torchvision and the linear heads of the lpips package, from which the
// converter makes the file that Load takes.
//
// Convolutions run on the device. Max pooling does not: the kernels' contract has none, the features come to the host anyway
// to be compared, and a pooling per layer and pair of pictures is no cost that a kernel would win back.
package lpips

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// conv is one convolution of a backbone, with ReLU behind it.
type conv struct {
	index             int // of features.N in torchvision
	size, stride, pad int
	pool              int  // side of the max pooling before it, of stride 2; 0: none
	tap               bool // its result is compared
}

// nets are the backbones: torchvision's alexnet and vgg16 up to the last layer that is compared.
var nets = map[string][]conv{
	"alex": {
		{0, 11, 4, 2, 0, true}, {3, 5, 1, 2, 3, true}, {6, 3, 1, 1, 3, true}, {8, 3, 1, 1, 0, true}, {10, 3, 1, 1, 0, true},
	},
	"vgg": {
		{0, 3, 1, 1, 0, false}, {2, 3, 1, 1, 0, true},
		{5, 3, 1, 1, 2, false}, {7, 3, 1, 1, 0, true},
		{10, 3, 1, 1, 2, false}, {12, 3, 1, 1, 0, false}, {14, 3, 1, 1, 0, true},
		{17, 3, 1, 1, 2, false}, {19, 3, 1, 1, 0, false}, {21, 3, 1, 1, 0, true},
		{24, 3, 1, 1, 2, false}, {26, 3, 1, 1, 0, false}, {28, 3, 1, 1, 0, true},
	},
}

// Smallest is the side of the smallest pictures: VGG16 halves them four times, AlexNet's poolings need 3 pixels each.
const Smallest = 32

// What the pictures are moved and divided by, for red, green and blue.
var (
	shift = [3]float32{-0.030, -0.088, -0.188}
	scale = [3]float32{0.458, 0.448, 0.450}
)

// Net is LPIPS on a device.
type Net struct {
	Name    string // alex or vgg
	d       *tensor.Device
	layers  []conv
	kernels []*tensor.Kernel
	heads   [][]float32 // of the layers that are compared
}

// Load builds the network from a file that the converter made.
func Load(d *tensor.Device, f *weights.File) (n *Net, err error) {
	defer tensor.Catch(&err)
	info, err := ReadInfo(f)
	if err != nil {
		return nil, err
	}
	n = &Net{Name: info.Net, d: d, layers: nets[info.Net]}
	in := 3
	floats := func(name string, shape ...int) []float32 {
		t, ok := f.Tensor(name)
		if !ok {
			tensor.Fail("lpips.Load", "%s: tensor %s is missing", f.Path(), name)
		}
		v, err := t.Floats()
		if err != nil {
			tensor.FailWith("lpips.Load", err, "%s: tensor %s", f.Path(), name)
		}
		size := 1
		for i, s := range shape {
			if i >= len(t.Shape) || t.Shape[i] != s && s != 0 {
				tensor.Fail("lpips.Load", "%s: tensor %s has shape %v, expected %v", f.Path(), name, t.Shape, shape)
			}
			size *= t.Shape[i]
		}
		if len(t.Shape) != len(shape) || size != len(v) {
			tensor.Fail("lpips.Load", "%s: tensor %s has shape %v, expected %v", f.Path(), name, t.Shape, shape)
		}
		return v
	}
	for _, l := range n.layers {
		bias := floats(biasName(l.index), 0)
		out := len(bias)
		w := floats(weightName(l.index), out, in, l.size, l.size)
		n.kernels = append(n.kernels, d.Kernel(kernels.ConvWeights{Weight: w, Bias: bias, Out: out, In: in, Size: l.size, Stride: l.stride, Pad: l.pad}))
		if l.tap {
			n.heads = append(n.heads, floats(headName(len(n.heads)), 1, out, 1, 1))
		}
		in = out
	}
	return n, nil
}

// Distance compares two pictures of h x w, RGB interleaved in [-1,1]. Layers are the parts that add up to it.
func (n *Net) Distance(a, b []float32, h, w int) (distance float64, layers []float64, err error) {
	defer tensor.Catch(&err)
	if len(a) != h*w*3 || len(b) != len(a) {
		return 0, nil, fmt.Errorf("LPIPS of %d and %d values, expected %dx%dx3", len(a), len(b), w, h)
	}
	if h < Smallest || w < Smallest {
		return 0, nil, fmt.Errorf("LPIPS of a picture of %dx%d, expected at least %dx%d", w, h, Smallest, Smallest)
	}
	defer n.d.Tidy()()
	data := make([]float32, 0, 2*len(a))
	for _, p := range [][]float32{a, b} {
		for i, v := range p {
			data = append(data, (min(max(v, -1), 1)-shift[i%3])/scale[i%3])
		}
	}
	x := n.d.From(data, 2, h, w, 3)
	for i, l := range n.layers {
		tidy := n.d.Tidy(&x)
		if l.pool > 0 {
			if x, err = pool(x, l.pool); err != nil {
				return 0, nil, err
			}
		}
		x = n.d.Conv2D(n.kernels[i], tensor.Input{X: x}, tensor.Epilogue{ReLU: true})
		tidy()
		if !l.tap {
			continue
		}
		features, err := x.Floats()
		if err != nil {
			return 0, nil, err
		}
		layers = append(layers, compare(features, x.C(), n.heads[len(layers)]))
	}
	for _, v := range layers {
		distance += v
	}
	return distance, layers, nil
}

// compare is the mean over pixels of the weighted squares between two images' features, each of length 1.
func compare(features []float32, channels int, head []float32) (sum float64) {
	half := len(features) / 2
	length := func(f []float32) float64 {
		s := 0.0
		for _, v := range f {
			s += float64(v) * float64(v)
		}
		return math.Sqrt(s) + 1e-10
	}
	for i := 0; i < half; i += channels {
		a, b := features[i:i+channels], features[half+i:half+i+channels]
		la, lb := length(a), length(b)
		for c, w := range head {
			d := float64(a[c])/la - float64(b[c])/lb
			sum += float64(w) * d * d
		}
	}
	return sum / float64(half/channels)
}

// pool is max pooling with windows of size x size, two pixels apart.
func pool(x *tensor.Tensor, size int) (*tensor.Tensor, error) {
	in, err := x.Floats()
	if err != nil {
		return nil, err
	}
	h, w, c := x.H(), x.W(), x.C()
	oh, ow := (h-size)/2+1, (w-size)/2+1
	out := make([]float32, x.N()*oh*ow*c)
	for at := range x.N() * oh * ow {
		image, row, col := at/(oh*ow), at/ow%oh, at%ow
		best := out[at*c:][:c]
		for ky := range size {
			for kx := range size {
				from := in[((image*h+2*row+ky)*w+2*col+kx)*c:][:c]
				for i, v := range from {
					if ky+kx == 0 || v > best[i] || v != v {
						best[i] = v
					}
				}
			}
		}
	}
	return x.Device().From(out, x.N(), oh, ow, c), nil
}
