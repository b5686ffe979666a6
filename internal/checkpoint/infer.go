package checkpoint

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// shapes are those of a network's tensors, by upstream name.
type shapes map[string][]int

func shapesOf(list []weights.Tensor) shapes {
	s := shapes{}
	for _, t := range list {
		s[t.Name] = t.Shape
	}
	return s
}

// dim is one dimension of a tensor.
func (s shapes) dim(name string, rank, i int) (int, error) {
	shape, ok := s[name]
	switch {
	case !ok:
		return 0, failTensor(ErrMissing, name, "is missing: it is needed to find the configuration")
	case len(shape) != rank:
		return 0, failTensor(ErrShape, name, "has shape %v, expected %d dimensions", shape, rank)
	case shape[i] < 1 || shape[i] > maxEntries:
		return 0, failTensor(ErrShape, name, "has shape %v", shape)
	}
	return shape[i], nil
}

func (s shapes) has(format string, args ...any) bool {
	_, ok := s[fmt.Sprintf(format, args...)]
	return ok
}

// count is one more than the largest number behind prefix, and which numbers there are.
func (s shapes) count(prefix string) (n int, seen map[int]bool) {
	seen = map[int]bool{}
	for name := range s {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ".")
		if i, err := strconv.Atoi(digits); err == nil && i >= 0 && i < 1<<16 {
			n = max(n, i+1)
			seen[i] = true
		}
	}
	return n, seen
}

// dims reads several dimensions and keeps the first error.
type dims struct {
	s   shapes
	err error
}

func (d *dims) get(name string, rank, i int) int {
	if d.err != nil {
		return 1
	}
	v, err := d.s.dim(name, rank, i)
	if err != nil {
		d.err = err
		return 1
	}
	return v
}

// inferUNet finds the configuration of an upstream UNet, guided-diffusion's or CompVis', up to what leaves no trace:
// the heads, and where groups, eps and embedding are not upstream's.
func inferUNet(s shapes) (c nn.LatentUNetConfig, err error) {
	d := &dims{s: s}
	c = nn.LatentUNetConfig{
		InChannels:    d.get("input_blocks.0.0.weight", 4, 1),
		OutChannels:   d.get("out.2.weight", 4, 0),
		ModelChannels: d.get("time_embed.0.weight", 2, 1),
		TimeEmbedDim:  d.get("time_embed.0.weight", 2, 0),
		NormGroups:    32, NormEps: 1e-5, MiddleNormGroups: 32, DownsamplePadding: nn.PadBoth, TimeCosFirst: true,
	}
	if stem := d.get("input_blocks.0.0.weight", 4, 0); stem != c.ModelChannels { // so it may be in guided-diffusion
		c.StemChannels = stem
	}
	if s.has("label_emb.weight") {
		c.NumClasses = d.get("label_emb.weight", 2, 0)
	}
	if d.err != nil {
		return c, d.err
	}
	blocks, seen := s.count("input_blocks.")
	outputs, _ := s.count("output_blocks.")
	// The length of a level shows where sizes change: at the first upsampling, or, where that has no weights, at the
	// first input block without any.
	length := blocks
	for i := range outputs {
		if i+1 < length && (s.has("output_blocks.%d.1.conv.weight", i) || s.has("output_blocks.%d.2.conv.weight", i) ||
			s.has("output_blocks.%d.1.in_layers.0.weight", i) || s.has("output_blocks.%d.2.in_layers.0.weight", i)) {
			length = i + 1
		}
	}
	for i := 1; i < blocks; i++ {
		if !seen[i] && i < length {
			length = i
		}
	}
	levels := blocks / length
	if blocks != levels*length || outputs != blocks || length < 2 || levels > maxLevels {
		return c, fail(ErrUnrecognised, "%d input blocks and %d output blocks in levels of %d: this is no UNet of equal levels", blocks, outputs, length)
	}
	c.NumResBlocks = length - 1
	depth := 0
	for l := range levels {
		block := fmt.Sprintf("input_blocks.%d", 1+l*length)
		c.Channels = append(c.Channels, d.get(block+".0.out_layers.3.weight", 4, 0))
		c.DownAttention = append(c.DownAttention, s.attention(block+".1"))
		c.UpAttention = append(c.UpAttention, s.attention(fmt.Sprintf("output_blocks.%d.1", (levels-1-l)*length)))
		for i := range c.NumResBlocks {
			n, _ := s.count(fmt.Sprintf("input_blocks.%d.1.transformer_blocks.", 1+l*length+i))
			depth = max(depth, n)
		}
		if l == levels-1 {
			break
		}
		down := fmt.Sprintf("input_blocks.%d.0.", (l+1)*length)
		up := fmt.Sprintf("output_blocks.%d.", (levels-1-l)*length-1)
		c.DownSample = append(c.DownSample, s.sampling(down+"op.weight", down+"in_layers.0.weight"))
		if kind := s.sampling(up+"1.conv.weight", up+"1.in_layers.0.weight"); kind != nn.SamplePlain {
			c.UpSample = append(c.UpSample, kind)
		} else {
			c.UpSample = append(c.UpSample, s.sampling(up+"2.conv.weight", up+"2.in_layers.0.weight"))
		}
	}
	c.MiddleAttention = s.attention("middle_block.1")
	if c.MiddleAttention == nn.AttendSelf && !s.has("middle_block.1.norm.weight") {
		c.MiddleNormGroups = 0
	}
	c.UseScaleShiftNorm = d.get("input_blocks.1.0.emb_layers.1.weight", 2, 0) == 2*c.Channels[0]
	if a, ok := s.find(".attn2.to_k.weight"); ok {
		c.ContextDim = d.get(a, 2, 1)
		c.TransformerNormEps = 1e-6
		for l := range levels {
			n := 1
			if c.DownAttention[l] == nn.AttendTransformer {
				n, _ = s.count(fmt.Sprintf("input_blocks.%d.1.transformer_blocks.", 1+l*length))
			} else if l == levels-1 && c.MiddleAttention == nn.AttendTransformer {
				n, _ = s.count("middle_block.1.transformer_blocks.")
			}
			c.TransformerDepth = append(c.TransformerDepth, max(n, 1))
		}
		if p, ok := s.find(".proj_in.weight"); ok {
			c.LinearProjection = len(s[p]) == 2
		}
	}
	return c, d.err
}

// attention tells the kind at a name.
func (s shapes) attention(name string) string {
	switch {
	case s.has("%s.qkv.weight", name):
		return nn.AttendSelf
	case s.has("%s.proj_in.weight", name):
		return nn.AttendTransformer
	}
	return nn.AttendNone
}

func (s shapes) sampling(conv, block string) string {
	switch {
	case s.has("%s", conv):
		return nn.SampleConv
	case s.has("%s", block):
		return nn.SampleResBlock
	}
	return nn.SamplePlain
}

// find is the least name with a suffix.
func (s shapes) find(suffix string) (name string, ok bool) {
	for n := range s {
		if strings.HasSuffix(n, suffix) && (!ok || n < name) {
			name, ok = n, true
		}
	}
	return name, ok
}

// guided turns what was found into the words of guided-diffusion.
func guidedConfig(c nn.LatentUNetConfig) (nn.UNetConfig, error) {
	g := nn.UNetConfig{
		InChannels: c.InChannels, OutChannels: c.OutChannels, ModelChannels: c.ModelChannels, NumResBlocks: c.NumResBlocks,
		NumHeadsUpsample: -1, NumHeadChannels: -1, UseScaleShiftNorm: c.UseScaleShiftNorm, ConvResample: true, NumClasses: c.NumClasses,
	}
	for l, ch := range c.Channels {
		mult := float64(ch) / float64(c.ModelChannels)
		if int(mult*float64(c.ModelChannels)) != ch {
			return g, fail(ErrUnrecognised, "%d channels on level %d are no plain multiple of model_channels %d", ch, l, c.ModelChannels)
		}
		g.ChannelMult = append(g.ChannelMult, mult)
		switch a := c.Attention(l); a {
		case nn.AttendSelf:
			g.AttentionResolutions = append(g.AttentionResolutions, 1<<l)
		case nn.AttendTransformer:
			return g, fail(ErrUnsupported, "a UNet with spatial transformers is not of family %s", FamilyGuided)
		}
	}
	for i, s := range c.DownSample {
		g.ResBlockUpDown = s == nn.SampleResBlock
		g.ConvResample = s != nn.SamplePlain
		if s != c.DownSample[0] || c.UpSample[i] != s {
			return g, fail(ErrUnrecognised, "the levels change size in different ways (%v down, %v up)", c.DownSample, c.UpSample)
		}
	}
	return g, nil
}

// inferAutoencoder finds the configuration of an upstream first stage, up to the factor of its latents.
func inferAutoencoder(s shapes) (c nn.AutoencoderConfig, err error) {
	d := &dims{s: s}
	c = nn.AutoencoderConfig{
		InChannels:    d.get("encoder.conv_in.weight", 4, 1),
		OutChannels:   d.get("decoder.conv_out.weight", 4, 0),
		ModelChannels: d.get("encoder.conv_in.weight", 4, 0),
		ZChannels:     d.get("decoder.conv_in.weight", 4, 1),
		NormGroups:    32, NormEps: 1e-6, DownsamplePadding: nn.PadRightBottom,
		QuantConv: s.has("quant_conv.weight"), PostQuantConv: s.has("post_quant_conv.weight"),
		MiddleAttention: s.has("encoder.mid.attn_1.q.weight"),
		ConvResample:    s.has("encoder.down.0.downsample.conv.weight"),
	}
	c.EmbedDim = c.ZChannels
	if c.PostQuantConv {
		c.EmbedDim = d.get("post_quant_conv.weight", 4, 1)
	}
	if s.has("quantize.embedding.weight") {
		c.NumEmbeddings = d.get("quantize.embedding.weight", 2, 0)
	}
	c.DoubleZ = d.get("encoder.conv_out.weight", 4, 0) == 2*c.ZChannels
	if d.err != nil {
		return c, d.err
	}
	levels, _ := s.count("encoder.down.")
	if levels > maxLevels {
		return c, fail(ErrUnrecognised, "%d levels in the encoder, at most %d are known", levels, maxLevels)
	}
	c.NumResBlocks, _ = s.count("encoder.down.0.block.")
	for l := range levels {
		c.Channels = append(c.Channels, d.get(fmt.Sprintf("encoder.down.%d.block.0.conv1.weight", l), 4, 0))
		c.DownAttention = append(c.DownAttention, s.has("encoder.down.%d.attn.0.q.weight", l))
		c.UpAttention = append(c.UpAttention, s.has("decoder.up.%d.attn.0.q.weight", l))
	}
	if levels == 1 {
		c.ConvResample = true
	}
	return c, d.err
}

func familyOf(c nn.AutoencoderConfig) string {
	if c.NumEmbeddings > 0 {
		return FamilyVQ
	}
	return FamilyKL
}
