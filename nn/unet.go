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
	name        string
	conv        *tensor.Kernel // the very first layer
	res         *resBlock
	attn        *attention
	transformer *transformer
	res2        *resBlock // resampling in an upward block, second half of the middle
	sample      *resample
}

// forward runs the layers over h, the first one beside skip. h itself stays.
func (b *block) forward(h, skip *tensor.Tensor, emb embeddings, context *Context, trace tracer) (out *tensor.Tensor) {
	d := h.Device()
	defer d.Tidy(&out)()
	if b.conv != nil {
		return d.Conv2D(b.conv, tensor.Input{X: h}, tensor.Epilogue{Moments: true})
	}
	if b.res != nil {
		h = b.res.forward(h, skip, emb[b.res])
	}
	if b.name == "middle_block" {
		trace.see("middle_block.0", h)
	}
	if b.attn != nil {
		h = b.attn.forward(h)
	}
	if b.transformer != nil {
		h = b.transformer.forward(h, context)
	}
	if b.name == "middle_block" {
		trace.see("middle_block.1", h)
	}
	if b.res2 != nil {
		h = b.res2.forward(h, nil, emb[b.res2])
	}
	if b.sample != nil {
		h = b.sample.forward(h)
	}
	return h
}

// tracer sees the outputs of blocks by name; nil sees nothing.
type tracer func(name string, x *tensor.Tensor)

func (t tracer) see(name string, x *tensor.Tensor) {
	if t != nil {
		t(name, x)
	}
}

// UNet is the guided-diffusion UNetModel.
type UNet struct {
	Config UNetConfig
	// Trace, where set, sees the time embedding and every block's output under its upstream name, for comparisons.
	Trace func(name string, x *tensor.Tensor)

	unet
}

// LoadOptions says how much of a network to load.
type LoadOptions struct {
	// MeanOnly leaves out the output channels of a learned variance, so that the network computes eps alone.
	MeanOnly bool
	// ImageSize is the edge that the network will mostly see; a hint for the choice of algorithms. 0: 256, or 64 where
	// the images are latents.
	ImageSize int
	// DecoderOnly leaves a first stage's encoder out. The tensors of encoder and quant_conv are not read then.
	DecoderOnly bool
	// Tiling bounds a first stage's memory.
	Tiling Tiling
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
	return &UNet{Config: c, unet: loadUNet(d, s, c.general(), o)}, nil
}

// Forward maps x [N,H,W,InChannels] at timesteps t (one, or one for each image; they may be fractional) and class labels
// y to the network's output [N,H,W,OutChannels]. It panics with *tensor.Error on misuse; see Predict.
func (u *UNet) Forward(x *tensor.Tensor, t []float64, y []int) *tensor.Tensor {
	u.checkInput("nn.UNet", x, t, y)
	return u.forward(x, t, y, nil, u.Trace)
}

// Predict is Forward with an error in place of a panic.
func (u *UNet) Predict(x *tensor.Tensor, t []float64, y []int) (out *tensor.Tensor, err error) {
	defer tensor.Catch(&err)
	return u.Forward(x, t, y), nil
}

// unet is what the UNets of guided-diffusion, latent-diffusion and diffusers have in common: blocks on the way down, a
// middle, and blocks on the way up, each of which also reads what the way down left at its level.
type unet struct {
	d            *tensor.Device
	config       LatentUNetConfig
	time1, time2 *tensor.Kernel
	labels       []float32 // label_emb, one row of TimeEmbedDim per class
	input        []*block
	middle       *block
	output       []*block
	norm         groupNorm
	out          *tensor.Kernel
	outChannels  int
}

// loadUNet reads a UNet whose configuration has been checked.
func loadUNet(d *tensor.Device, s *weights.Scope, c LatentUNetConfig, o LoadOptions) unet {
	l := loader{d, s, o.ImageSize, new([]float32), conventions{
		groups: c.NormGroups, eps: c.NormEps, embed: c.TimeEmbedDim, modulate: c.UseScaleShiftNorm,
		newOrder: c.UseNewAttentionOrder, rightBottom: c.DownsamplePadding == PadRightBottom,
	}}
	u := unet{d: d, config: c}
	u.time1 = l.at("time_embed", 0).linear(c.ModelChannels, c.TimeEmbedDim)
	u.time2 = l.at("time_embed", 2).linear(c.TimeEmbedDim, c.TimeEmbedDim)
	if c.NumClasses > 0 {
		u.labels = slices.Clone(s.At("label_emb").Floats("weight", c.NumClasses, c.TimeEmbedDim)) // the file may be closed
	}
	ch, ds := c.Stem(), 1
	skips := []int{ch}
	u.input = []*block{{name: "input_blocks.0", conv: l.at("input_blocks", 0, 0).conv(c.InChannels, ch, 3, 1, 1, false)}}
	add := func(b *block) {
		b.name = fmt.Sprint("input_blocks.", len(u.input))
		u.input = append(u.input, b)
		skips = append(skips, ch)
	}
	for level, width := range c.Channels {
		for range c.NumResBlocks {
			in := l.at("input_blocks", len(u.input))
			b := &block{res: in.at(0).resBlock(ch, width, ds, kernels.Same)}
			b.attend(in.at(1), c, c.DownAttention[level], level, c.Heads, ds)
			ch = width
			add(b)
		}
		if level < len(c.Channels)-1 {
			ds *= 2
			in := l.at("input_blocks", len(u.input), 0)
			if kind := c.DownSample[level]; kind == SampleResBlock {
				add(&block{res: in.resBlock(ch, ch, ds, kernels.Down2)})
			} else {
				add(&block{sample: in.resample(kind, ch, ds, false)})
			}
		}
	}
	mid, last := l.at("middle_block"), len(c.Channels)-1
	u.middle = &block{name: "middle_block", res: mid.at(0).resBlock(ch, ch, ds, kernels.Same), res2: mid.at(2).resBlock(ch, ch, ds, kernels.Same)}
	if c.MiddleAttention == AttendSelf {
		mid.groups = c.MiddleNormGroups
	}
	u.middle.attend(mid.at(1), c, c.MiddleAttention, last, c.Heads, ds)
	upHeads := c.Heads
	if c.upHeads != nil {
		upHeads = c.upHeads
	}
	for level := last; level >= 0; level-- {
		for i := range c.NumResBlocks + 1 {
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			in, at := l.at("output_blocks", len(u.output)), 1
			b := &block{name: fmt.Sprint("output_blocks.", len(u.output)), res: in.at(0).resBlock(ch+skip, c.Channels[level], ds, kernels.Same)}
			ch = c.Channels[level]
			if b.attend(in.at(at), c, c.UpAttention[level], level, upHeads, ds) {
				at++
			}
			if level > 0 && i == c.NumResBlocks {
				ds /= 2
				if kind := c.UpSample[level-1]; kind == SampleResBlock {
					b.res2 = in.at(at).resBlock(ch, ch, ds, kernels.Up2)
				} else {
					b.sample = in.at(at).resample(kind, ch, ds, true)
				}
			}
			u.output = append(u.output, b)
		}
	}
	u.norm = l.at("out", 0).groupNorm(ch)
	u.loadOut(l.at("out", 2), ch, o.MeanOnly)
	return u
}

// attend reads the attention of a level into the block and reports whether there is one. heads has the number of heads of
// each level.
func (b *block) attend(l loader, c LatentUNetConfig, kind string, level int, heads []int, ds int) bool {
	switch ch := c.Channels[level]; kind {
	case AttendSelf:
		b.attn = l.attention(ch, heads[level], ds)
	case AttendTransformer:
		l.eps = c.TransformerNormEps
		b.transformer = l.transformer(ch, c.ContextDim, heads[level], c.Depth(level), ds, c.LinearProjection)
	}
	return kind != AttendNone
}

func (u *unet) loadOut(l loader, ch int, meanOnly bool) {
	c := u.config
	u.outChannels = c.OutChannels
	w, b := l.s.Floats("weight", c.OutChannels, ch, 3, 3), l.s.Floats("bias", c.OutChannels)
	if meanOnly && c.OutChannels == 2*c.InChannels {
		u.outChannels = c.InChannels
		w, b = w[:u.outChannels*ch*9], b[:u.outChannels]
	}
	u.out = l.kernel(kernels.ConvWeights{Weight: w, Bias: b, In: ch, Out: u.outChannels, Size: 3, Stride: 1, Pad: 1})
}

// embedding is the sinusoidal embedding of timesteps: cosines and sines, or the other way round, of t times frequencies
// exp(-ln 10000 * i / (half - shift)). The frequencies and their products with t are rounded to float32, as upstream: near
// t = 1000 one unit in the last place moves the embedding by 6e-5.
func embedding(t []float64, dim int, cosFirst bool, shift float64) []float32 {
	half := dim / 2
	out := make([]float32, len(t)*dim)
	for n, t := range t {
		first, second := out[n*dim:][:half], out[n*dim+half:][:half]
		if cosFirst {
			first, second = second, first
		}
		for i := range half {
			exponent := float32(-math.Log(10000)) * float32(i) / float32(float64(half)-shift)
			freq := float32(math.Exp(float64(exponent)))
			sin, cos := math.Sincos(float64(float32(t) * freq))
			first[i], second[i] = float32(sin), float32(cos)
		}
	}
	return out
}

// checkInput fails where x, t and y are not a batch for this network. One t serves the whole batch.
func (u *unet) checkInput(op string, x *tensor.Tensor, t []float64, y []int) {
	c := u.config
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

// forward maps x [N,H,W,InChannels] to [N,H,W,OutChannels]. context is for the transformers.
func (u *unet) forward(x *tensor.Tensor, t []float64, y []int, context *Context, trace tracer) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	time, class := u.upload(d, x.N(), t, y)
	if trace != nil {
		return u.pass(x, time, class, context, trace)
	}
	type name struct { // of all that the pass reads beside its inputs
		u       *unet
		context *Context
	}
	return d.Record(name{u, context}, func() *tensor.Tensor { return u.pass(x, time, class, context, nil) }, x, time, class)
}

// pass is forward without transfers from the host: time are sinusoids, class rows of label_emb or nil.
func (u *unet) pass(x, time, class *tensor.Tensor, context *Context, trace tracer) (out *tensor.Tensor) {
	d := x.Device()
	defer d.Tidy(&out)()
	emb := u.embeddings(u.embed(time, class, trace))
	h := x
	skips := make([]*tensor.Tensor, 0, len(u.input))
	for _, b := range u.input {
		h = b.forward(h, nil, emb, context, trace)
		trace.see(b.name, h)
		skips = append(skips, h)
	}
	h = u.middle.forward(h, nil, emb, context, trace)
	trace.see(u.middle.name, h)
	for _, b := range u.output {
		skip := skips[len(skips)-1]
		skips = skips[:len(skips)-1]
		next := b.forward(h, skip, emb, context, trace)
		h.Free() // at once: the later, larger images need the memory
		skip.Free()
		h = next
		trace.see(b.name, h)
	}
	return d.Conv2D(u.out, u.norm.of(h, nil, nil).SiLU(), tensor.Epilogue{Full: true})
}

// upload makes the sinusoids of timesteps, [N,1,1,ModelChannels] or a single row where they are the same for all images,
// and the rows of label_emb for class labels, nil without labels.
func (u *unet) upload(d *tensor.Device, n int, t []float64, y []int) (time, class *tensor.Tensor) {
	if !slices.ContainsFunc(t, func(v float64) bool { return v != t[0] }) {
		t = t[:1]
	}
	c := u.config
	if len(y) > 0 {
		for len(t) < n {
			t = append(t[:len(t):len(t)], t[0])
		}
		rows := make([]float32, 0, n*c.TimeEmbedDim)
		for _, y := range y {
			rows = append(rows, u.labels[y*c.TimeEmbedDim:][:c.TimeEmbedDim]...)
		}
		class = d.From(rows, n, 1, 1, c.TimeEmbedDim)
	}
	return d.From(embedding(t, c.ModelChannels, c.TimeCosFirst, c.TimeFreqShift), len(t), 1, 1, c.ModelChannels), class
}

// embed is time_embed(time) + class, [N,1,1,TimeEmbedDim].
func (u *unet) embed(time, class *tensor.Tensor, trace tracer) (emb *tensor.Tensor) {
	d := time.Device()
	defer d.Tidy(&emb)()
	h := d.Conv2D(u.time1, tensor.Input{X: time}, tensor.Epilogue{})
	emb = d.Conv2D(u.time2, tensor.Input{X: h}.SiLU(), tensor.Epilogue{})
	trace.see("time_embed", emb)
	if class != nil {
		emb = d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: emb, C: 1}, {X: class, C: 1}}})
	}
	return emb
}

// embeddings are what each ResBlock makes of the embedding of time: [N,1,1,E] to as many channels as it takes.
type embeddings map[*resBlock]*tensor.Tensor

// embeddings runs the layers one after another, ahead of the blocks: a device may take layers of the same input in one step.
func (u *unet) embeddings(emb *tensor.Tensor) embeddings {
	all := embeddings{}
	for _, b := range u.blocks() {
		for _, r := range []*resBlock{b.res, b.res2} {
			if r != nil {
				all[r] = emb.Device().Conv2D(r.emb, tensor.Input{X: emb}.SiLU(), tensor.Epilogue{})
			}
		}
	}
	return all
}

// blocks are all blocks in the order of the pass.
func (u *unet) blocks() []*block { return append(append(slices.Clone(u.input), u.middle), u.output...) }

// Device is where the network lives. It runs where its input lives: there, or on a fork (tensor.Device.Fork).
func (u *unet) Device() *tensor.Device { return u.d }

// OutChannels is the number of channels that Forward returns: those of eps alone where the variance was left out.
func (u *unet) OutChannels() int { return u.outChannels }
