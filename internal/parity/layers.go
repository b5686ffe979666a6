package parity

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
)

// layer is one entry of a case of single layers.
type layer struct {
	Name   string `json:"name"`
	Op     string `json:"op"`
	Params struct {
		Kernel  int     `json:"kernel"`
		Stride  int     `json:"stride"`
		Padding int     `json:"padding"`
		Groups  int     `json:"groups"`
		Eps     float64 `json:"eps"`
		Heads   int     `json:"heads"`
		HeadDim int     `json:"head_dim"`
	} `json:"params"`
	Inputs    map[string]string `json:"inputs"`
	Output    string            `json:"output"`
	Tolerance Tolerance         `json:"tolerance"`
}

// layers are the operations that tensors have, by what cases call them. x is the input [N,H,W,C], a vector as one pixel. nil
// says that there is none for this shape.
var layers = map[string]func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor{
	"conv2d": func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return c.conv(d, l, kernels.ConvWeights{Size: l.Params.Kernel, Stride: l.Params.Stride, Pad: l.Params.Padding}, tensor.Input{X: x})
	},
	"pad right and bottom by 1 with zeros, conv2d 3x3 stride 2 padding 0": func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return c.conv(d, l, kernels.ConvWeights{Size: 3, Stride: 2, PadEnd: 1}, tensor.Input{X: x})
	},
	"nearest x2 then conv2d 3x3 padding 1": func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return c.conv(d, l, kernels.ConvWeights{Size: 3, Stride: 1, Pad: 1, Up: true}, tensor.Input{X: x}.Resampled(kernels.Up2))
	},
	"x @ weight^T + bias": func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return c.conv(d, l, kernels.ConvWeights{Size: 1, Stride: 1}, tensor.Input{X: x})
	},
	"2x2 mean pool stride 2 (an odd last row or column is dropped)": func(_ layer, _ *Case, _ *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		if x.H()%2 != 0 || x.W()%2 != 0 {
			return nil
		}
		return x.Resample(kernels.Down2)
	},
	"GroupNorm then SiLU": func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return materialised(d.GroupNorm(x, nil, c.vector(d, l, "weight"), c.vector(d, l, "bias"), l.Params.Groups, float32(l.Params.Eps), nil).SiLU())
	},
	"GroupNorm(32, eps 1e-5) * (1 + scale) + shift; emb = [scale | shift]": func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		emb := d.From(c.array(l.Inputs["emb"]), x.N(), 1, 1, 2*x.C())
		return materialised(d.GroupNorm(x, nil, c.vector(d, l, "weight"), c.vector(d, l, "bias"), l.Params.Groups, float32(l.Params.Eps), emb))
	},
	"multi-head attention core on a qkv tensor [B, 3*heads*d, L], old_head_qkv": func(l layer, _ *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		dim := l.Params.HeadDim
		return attend(d, l, tensor.Heads{X: x, Step: 3 * dim}, tensor.Heads{X: x, First: dim, Step: 3 * dim}, tensor.Heads{X: x, First: 2 * dim, Step: 3 * dim})
	},
	"multi-head attention core on a qkv tensor [B, 3*heads*d, L], new_qkv_head": func(l layer, _ *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		dim, c := l.Params.HeadDim, l.Params.Heads*l.Params.HeadDim
		return attend(d, l, tensor.Heads{X: x, Step: dim}, tensor.Heads{X: x, First: c, Step: dim}, tensor.Heads{X: x, First: 2 * c, Step: dim})
	},
	"x * sigmoid(x)": func(_ layer, _ *Case, _ *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return materialised(tensor.Input{X: x}.SiLU())
	},
	"exact gelu 0.5 x (1 + erf(x / sqrt 2))": func(_ layer, _ *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return gated(d, x)
	},
	"LayerNorm over the last axis, eps 1e-5": func(l layer, c *Case, d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
		return x.LayerNorm(c.vector(d, l, "weight"), c.vector(d, l, "bias"), float32(l.Params.Eps))
	},
}

func attend(d *tensor.Device, l layer, q, k, v tensor.Heads) *tensor.Tensor {
	return d.Attention(q, k, v, l.Params.Heads, l.Params.HeadDim, float32(1/math.Sqrt(float64(l.Params.HeadDim))))
}

// gated is GELU(x): one for every value, gated by x.
func gated(d *tensor.Device, x *tensor.Tensor) *tensor.Tensor {
	data, err := x.Floats()
	if err != nil {
		tensor.FailWith("parity", err, "gates")
	}
	pairs := make([]float32, 0, 2*len(data))
	for _, v := range data {
		pairs = append(pairs, 1, v)
	}
	return d.From(pairs, x.Len(), 1, 1, 2).GEGLU()
}

// materialised is what a convolution would read.
func materialised(in tensor.Input) *tensor.Tensor {
	c := in.X.C()
	w := make([]float32, c*c)
	for i := range c {
		w[i*c+i] = 1
	}
	d := in.X.Device()
	return d.Conv2D(d.Kernel(kernels.ConvWeights{Weight: w, In: c, Out: c, Size: 1, Stride: 1}), in, tensor.Epilogue{})
}

func (c *Case) conv(d *tensor.Device, l layer, w kernels.ConvWeights, in tensor.Input) *tensor.Tensor {
	w.Weight, w.In = c.array(l.Inputs["weight"]), in.X.C()
	w.Out = len(w.Weight) / (w.In * w.Size * w.Size)
	if name, ok := l.Inputs["bias"]; ok {
		w.Bias = c.array(name)
	}
	return d.Conv2D(d.Kernel(w), in, tensor.Epilogue{})
}

func (c *Case) vector(d *tensor.Device, l layer, input string) *tensor.Tensor {
	return d.Vector(c.array(l.Inputs[input]))
}

// array is Array that panics with *tensor.Error.
func (c *Case) array(name string) []float32 {
	data, _, err := c.Array(name)
	if err != nil {
		tensor.FailWith("parity", err, "%s", c.Name)
	}
	return data
}

// layersCase computes single layers. Those that no operation of a tensor is alone are skipped.
func (c *Case) layersCase(d *tensor.Device) (results []Result, saved []Saved, err error) {
	defer tensor.Catch(&err)
	var head struct {
		Layers []layer `json:"layers"`
	}
	if err := json.Unmarshal(c.raw, &head); err != nil {
		return nil, nil, err
	}
	out := Saved{}
	for _, l := range head.Layers {
		done := d.Tidy()
		var y *tensor.Tensor
		if f, ok := layers[l.Op]; ok {
			y = f(l, c, d, c.layerInput(d, l))
		}
		if y == nil {
			done()
			results = append(results, Result{Array: l.Output, Skipped: fmt.Sprintf("%q is %v", l.Op, ErrUnsupported)})
			continue
		}
		got, err := planar(y)
		done()
		if err != nil {
			return nil, nil, err
		}
		out[l.Output] = got
		r := Result{Array: l.Output, Limit: l.Tolerance}
		r.MaxAbs, r.RelL2 = Compare(got.Data, c.array(l.Output))
		results = append(results, r)
	}
	return results, []Saved{out}, nil
}

// layerInput is the input of a layer: [N C H W], qkv [N C L], or else vectors along the last axis.
func (c *Case) layerInput(d *tensor.Device, l layer) *tensor.Tensor {
	name, sequence := l.Inputs["qkv"]
	if !sequence {
		name = l.Inputs["x"]
	}
	data := c.array(name)
	_, s, _ := c.Array(name)
	n, ch, h, w := 1, s[len(s)-1], 1, 1
	switch {
	case len(s) == 4:
		n, ch, h, w = s[0], s[1], s[2], s[3]
	case sequence:
		n, ch, w = s[0], s[1], s[2]
	default:
		n = len(data) / ch
	}
	return d.From(NHWC(data, n, ch, h, w), n, h, w, ch)
}
