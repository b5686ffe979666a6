package nn

import (
	"fmt"
	"math"
	"slices"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

func invSqrt(n int) float64 { return 1 / math.Sqrt(float64(n)) }

// block is one entry of input_blocks, middle_block or output_blocks: at most one layer of each kind, in this order.
type block struct {
	name   string
	conv   *tensor.Kernel // the very first layer
	res    *resBlock
	attn   *attention
	res2   *resBlock // resampling in an upward block, second half of the middle
	sample *resample
}

// forward runs the layers over h, the first one beside skip. h itself stays.
func (b *block) forward(h, skip, emb *tensor.Tensor, trace func(string, *tensor.Tensor)) (out *tensor.Tensor) {
	d := h.Device()
	defer d.Tidy(&out)()
	if b.conv != nil {
		return d.Conv2D(b.conv, tensor.Input{X: h}, tensor.Epilogue{Moments: true})
	}
	if b.res != nil {
		h = b.res.forward(h, skip, emb)
	}
	if trace != nil && b.name == "middle_block" {
		trace("middle_block.0", h)
	}
	if b.attn != nil {
		h = b.attn.forward(h)
	}
	if trace != nil && b.name == "middle_block" {
		trace("middle_block.1", h)
	}
	if b.res2 != nil {
		h = b.res2.forward(h, nil, emb)
	}
	if b.sample != nil {
		h = b.sample.forward(h)
	}
	return h
}

// UNet is the guided-diffusion UNetModel.
type UNet struct {
	Config UNetConfig
	// Trace, where set, sees the time embedding and every block's output under its upstream name, for comparisons.
	Trace func(name string, x *tensor.Tensor)

	d            *tensor.Device
	time1, time2 *tensor.Kernel
	labels       []float32 // label_emb, one row of 4*ModelChannels per class
	input        []*block
	middle       *block
	output       []*block
	norm         groupNorm
	out          *tensor.Kernel
	outChannels  int
}

// LoadOptions says how much of a network to load.
type LoadOptions struct {
	// MeanOnly leaves out the output channels of a learned variance, so that the network computes eps alone.
	MeanOnly bool
	// ImageSize is the edge that the network will mostly see; a hint for the choice of algorithms. 0: 256.
	ImageSize int
}

// LoadUNet reads a UNet by its upstream names. Every shape is checked; the error names the first tensor that is missing,
// misshapen or not finite. Tensors that are left over are the caller's business (weights.File.CheckAllRead).
func LoadUNet(d *tensor.Device, s *weights.Scope, c UNetConfig, o LoadOptions) (u *UNet, err error) {
	defer tensor.Catch(&err)
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.ImageSize == 0 {
		o.ImageSize = 256
	}
	l := loader{d, s, o.ImageSize, new([]float32)}
	u = &UNet{Config: c, d: d}
	width := 4 * c.ModelChannels
	u.time1 = l.at("time_embed", 0).linear(c.ModelChannels, width)
	u.time2 = l.at("time_embed", 2).linear(width, width)
	if c.NumClasses > 0 {
		u.labels = slices.Clone(s.At("label_emb").Floats("weight", c.NumClasses, width)) // the file may be closed
	}
	ch, ds := c.channels(0), 1
	skips := []int{ch}
	u.input = []*block{{name: "input_blocks.0", conv: l.at("input_blocks", 0, 0).conv(c.InChannels, ch, 3, 1, 1, false)}}
	add := func(b *block) {
		u.input = append(u.input, b)
		skips = append(skips, ch)
	}
	for level := range c.ChannelMult {
		for range c.NumResBlocks {
			in := l.at("input_blocks", len(u.input))
			b := &block{name: fmt.Sprint("input_blocks.", len(u.input)), res: in.at(0).resBlock(c, ch, c.channels(level), ds, kernels.Same)}
			ch = c.channels(level)
			if c.attends(ds) {
				b.attn = in.at(1).attention(c, ch, ds, false)
			}
			add(b)
		}
		if level < len(c.ChannelMult)-1 {
			ds *= 2
			in := l.at("input_blocks", len(u.input), 0)
			b := &block{name: fmt.Sprint("input_blocks.", len(u.input))}
			if c.ResBlockUpDown {
				b.res = in.resBlock(c, ch, ch, ds, kernels.Down2)
			} else {
				b.sample = in.resample(c, ch, ds, false)
			}
			add(b)
		}
	}
	mid := l.at("middle_block")
	u.middle = &block{name: "middle_block", res: mid.at(0).resBlock(c, ch, ch, ds, kernels.Same),
		attn: mid.at(1).attention(c, ch, ds, false), res2: mid.at(2).resBlock(c, ch, ch, ds, kernels.Same)}
	for level := len(c.ChannelMult) - 1; level >= 0; level-- {
		for i := range c.NumResBlocks + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			in, at := l.at("output_blocks", len(u.output)), 1
			b := &block{name: fmt.Sprint("output_blocks.", len(u.output)), res: in.at(0).resBlock(c, ch+skip, c.channels(level), ds, kernels.Same)}
			ch = c.channels(level)
			if c.attends(ds) {
				b.attn = in.at(at).attention(c, ch, ds, true)
				at++
			}
			if level > 0 && i == c.NumResBlocks {
				ds /= 2
				if c.ResBlockUpDown {
					b.res2 = in.at(at).resBlock(c, ch, ch, ds, kernels.Up2)
				} else {
					b.sample = in.at(at).resample(c, ch, ds, true)
				}
			}
			u.output = append(u.output, b)
		}
	}
	u.norm = l.at("out", 0).groupNorm(ch)
	u.loadOut(l.at("out", 2).s, ch, o.MeanOnly)
	return u, nil
}

func (u *UNet) loadOut(s *weights.Scope, ch int, meanOnly bool) {
	c := u.Config
	u.outChannels = c.OutChannels
	w, b := s.Floats("weight", c.OutChannels, ch, 3, 3), s.Floats("bias", c.OutChannels)
	if meanOnly && c.OutChannels == 2*c.InChannels {
		u.outChannels = c.InChannels
		w, b = w[:u.outChannels*ch*9], b[:u.outChannels]
	}
	u.out = u.d.Kernel(kernels.ConvWeights{Weight: w, Bias: b, In: ch, Out: u.outChannels, Size: 3, Stride: 1, Pad: 1})
}

// embedding is guided-diffusion's timestep_embedding: cosines, then sines, of t times frequencies that fall from 1 to
// 1/10000. The frequencies and their products with t are rounded to float32, as there: near t = 1000 one unit in the last
// place moves the embedding by 6e-5.
func embedding(t []float64, dim int) []float32 {
	half := dim / 2
	out := make([]float32, len(t)*dim)
	for n, t := range t {
		for i := range half {
			exponent := float32(-math.Log(10000)) * float32(i) / float32(half)
			freq := float32(math.Exp(float64(exponent)))
			sin, cos := math.Sincos(float64(float32(t) * freq))
			out[n*dim+i], out[n*dim+half+i] = float32(cos), float32(sin)
		}
	}
	return out
}

// checkInput fails where x, t and y are not a batch for this network. One t serves the whole batch.
func (u *UNet) checkInput(x *tensor.Tensor, t []float64, y []int) {
	const op = "nn.UNet"
	c := u.Config
	if x.C() != c.InChannels {
		tensor.Fail(op, "input %v has %d channels, the network takes %d", x, x.C(), c.InChannels)
	}
	if f := c.Downsampling(); x.H()%f != 0 || x.W()%f != 0 {
		tensor.Fail(op, "input of %d x %d pixels: height and width must be multiples of %d", x.W(), x.H(), f)
	}
	if len(t) != x.N() && len(t) != 1 {
		tensor.Fail(op, "%d timesteps for %d images", len(t), x.N())
	}
	for _, t := range t {
		if math.IsNaN(t) || math.IsInf(t, 0) {
			tensor.Fail(op, "timestep %v is not finite", t)
		}
	}
	if c.NumClasses == 0 && len(y) > 0 {
		tensor.Fail(op, "class labels given, but the network has no classes")
	}
	if c.NumClasses > 0 && len(y) != x.N() {
		tensor.Fail(op, "%d class labels for %d images: the network needs one of %d classes for each", len(y), x.N(), c.NumClasses)
	}
	for _, y := range y {
		if y < 0 || y >= c.NumClasses {
			tensor.Fail(op, "class label %d, expected 0 to %d", y, c.NumClasses-1)
		}
	}
}

// Forward maps x [N,H,W,InChannels] at timesteps t (one, or one for each image; they may be fractional) and class labels
// y to the network's output [N,H,W,OutChannels]. It panics with *tensor.Error on misuse; see Predict.
func (u *UNet) Forward(x *tensor.Tensor, t []float64, y []int) (out *tensor.Tensor) {
	u.checkInput(x, t, y)
	d := u.d
	defer d.Tidy(&out)()
	emb := u.embed(x.N(), t, y)
	h := x
	skips := make([]*tensor.Tensor, 0, len(u.input))
	for _, b := range u.input {
		h = b.forward(h, nil, emb, u.Trace)
		u.trace(b.name, h)
		skips = append(skips, h)
	}
	h = u.middle.forward(h, nil, emb, u.Trace)
	u.trace(u.middle.name, h)
	for _, b := range u.output {
		skip := skips[len(skips)-1]
		skips = skips[:len(skips)-1]
		next := b.forward(h, skip, emb, u.Trace)
		h.Free() // at once: the later, larger images need the memory
		skip.Free()
		h = next
		u.trace(b.name, h)
	}
	return d.Conv2D(u.out, u.norm.of(h, nil, nil).SiLU(), tensor.Epilogue{})
}

// embed is time_embed(t) + label_emb(y), [N,1,1,4*ModelChannels]; a single row where it is the same for all images.
func (u *UNet) embed(n int, t []float64, y []int) (emb *tensor.Tensor) {
	d := u.d
	defer d.Tidy(&emb)()
	if !slices.ContainsFunc(t, func(v float64) bool { return v != t[0] }) {
		t = t[:1]
	}
	if len(y) > 0 {
		for len(t) < n {
			t = append(t[:len(t):len(t)], t[0])
		}
	}
	c := u.Config.ModelChannels
	h := d.Conv2D(u.time1, tensor.Input{X: d.From(embedding(t, c), len(t), 1, 1, c)}, tensor.Epilogue{})
	emb = d.Conv2D(u.time2, tensor.Input{X: h}.SiLU(), tensor.Epilogue{})
	u.trace("time_embed", emb)
	if len(y) > 0 {
		width := 4 * c
		rows := make([]float32, 0, n*width)
		for _, y := range y {
			rows = append(rows, u.labels[y*width:][:width]...)
		}
		emb = d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: emb, C: 1}, {X: d.From(rows, n, 1, 1, width), C: 1}}})
	}
	return emb
}

func (u *UNet) trace(name string, x *tensor.Tensor) {
	if u.Trace != nil {
		u.Trace(name, x)
	}
}

// Predict is Forward with an error in place of a panic.
func (u *UNet) Predict(x *tensor.Tensor, t []float64, y []int) (out *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	return u.Forward(x, t, y), nil
}

// Device is where the network lives.
func (u *UNet) Device() *tensor.Device { return u.d }

// OutChannels is the number of channels that Forward returns: those of eps alone where the variance was left out.
func (u *UNet) OutChannels() int { return u.outChannels }
