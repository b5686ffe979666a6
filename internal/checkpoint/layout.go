package checkpoint

import (
	"fmt"

	"github.com/spin-native/spin/nn"
)

// param is a tensor that a network has.
type param struct {
	name  string
	shape []int
}

// layout collects the tensors of a network.
type layout struct{ list []param }

func (l *layout) add(name string, shape ...int) { l.list = append(l.list, param{name, shape}) }

func (l *layout) biased(name string, shape ...int) {
	l.add(name+".weight", shape...)
	l.add(name+".bias", shape[0])
}

func (l *layout) norm(name string, c int)              { l.biased(name, c) }
func (l *layout) linear(name string, in, out int)      { l.biased(name, out, in) }
func (l *layout) conv(name string, in, out, size int)  { l.biased(name, out, in, size, size) }
func (l *layout) matrix(name string, in, out int)      { l.add(name+".weight", out, in) }
func (l *layout) plainConv(name string, in, out int)   { l.add(name+".weight", out, in, 3, 3) }
func (l *layout) at(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// resBlock is upstream's ResBlock of a UNet.
func (l *layout) resBlock(name string, in, out int, c nn.LatentUNetConfig) {
	scale := 1
	if c.UseScaleShiftNorm {
		scale = 2
	}
	l.norm(name+".in_layers.0", in)
	l.conv(name+".in_layers.2", in, out, 3)
	l.linear(name+".emb_layers.1", c.TimeEmbedDim, scale*out)
	l.norm(name+".out_layers.0", out)
	l.conv(name+".out_layers.3", out, out, 3)
	if in != out {
		l.conv(name+".skip_connection", in, out, 1)
	}
}

func (l *layout) attention(name, kind string, ch, depth int, norm bool, c nn.LatentUNetConfig) {
	switch kind {
	case nn.AttendSelf:
		if norm {
			l.norm(name+".norm", ch)
		}
		l.biased(name+".qkv", 3*ch, ch, 1)
		l.biased(name+".proj_out", ch, ch, 1)
	case nn.AttendTransformer:
		project := func(name string) {
			if c.LinearProjection {
				l.linear(name, ch, ch)
			} else {
				l.conv(name, ch, ch, 1)
			}
		}
		l.norm(name+".norm", ch)
		project(name + ".proj_in")
		for d := range depth {
			b := l.at("%s.transformer_blocks.%d", name, d)
			for i, context := range []int{ch, c.ContextDim} {
				a := l.at("%s.attn%d", b, i+1)
				l.matrix(a+".to_q", ch, ch)
				l.matrix(a+".to_k", context, ch)
				l.matrix(a+".to_v", context, ch)
				l.linear(a+".to_out.0", ch, ch)
			}
			l.linear(b+".ff.net.0.proj", ch, 8*ch) // GEGLU: value and gate
			l.linear(b+".ff.net.2", 4*ch, ch)
			for i := range 3 {
				l.norm(l.at("%s.norm%d", b, i+1), ch)
			}
		}
		project(name + ".proj_out")
	}
}

// unetLayout is upstream's UNetModel.
func unetLayout(c nn.LatentUNetConfig) []param {
	l := &layout{}
	l.linear("time_embed.0", c.ModelChannels, c.TimeEmbedDim)
	l.linear("time_embed.2", c.TimeEmbedDim, c.TimeEmbedDim)
	if c.NumClasses > 0 {
		l.add("label_emb.weight", c.NumClasses, c.TimeEmbedDim)
	}
	ch := c.Stem()
	l.conv("input_blocks.0.0", c.InChannels, ch, 3)
	skips := []int{ch}
	for level, out := range c.Channels {
		for range c.NumResBlocks {
			name := l.at("input_blocks.%d", len(skips))
			l.resBlock(name+".0", ch, out, c)
			ch = out
			l.attention(name+".1", c.DownAttention[level], ch, c.Depth(level), true, c)
			skips = append(skips, ch)
		}
		if level < len(c.Channels)-1 {
			name := l.at("input_blocks.%d.0", len(skips))
			switch c.DownSample[level] {
			case nn.SampleResBlock:
				l.resBlock(name, ch, ch, c)
			case nn.SampleConv:
				l.conv(name+".op", ch, ch, 3)
			}
			skips = append(skips, ch)
		}
	}
	last := len(c.Channels) - 1
	l.resBlock("middle_block.0", ch, ch, c)
	l.attention("middle_block.1", c.MiddleAttention, ch, c.Depth(last), c.MiddleNormGroups > 0, c)
	l.resBlock("middle_block.2", ch, ch, c)
	n := 0
	for level := last; level >= 0; level-- {
		for i := range c.NumResBlocks + 1 {
			name := l.at("output_blocks.%d", n)
			skip := skips[len(skips)-1]
			skips = skips[:len(skips)-1]
			l.resBlock(name+".0", ch+skip, c.Channels[level], c)
			ch = c.Channels[level]
			l.attention(name+".1", c.UpAttention[level], ch, c.Depth(level), true, c)
			if level > 0 && i == c.NumResBlocks {
				up := l.at("%s.%d", name, upIndex(c, level))
				switch c.UpSample[level-1] {
				case nn.SampleResBlock:
					l.resBlock(up, ch, ch, c)
				case nn.SampleConv:
					l.conv(up+".conv", ch, ch, 3)
				}
			}
			n++
		}
	}
	l.norm("out.0", ch)
	l.conv("out.2", ch, c.OutChannels, 3)
	return l.list
}

// upIndex is where in an output block the upsampling comes: after the attention, if there is one.
func upIndex(c nn.LatentUNetConfig, level int) int {
	if c.UpAttention[level] == nn.AttendNone {
		return 1
	}
	return 2
}

// resnet is a block of an autoencoder.
func (l *layout) resnet(name string, in, out int) {
	l.norm(name+".norm1", in)
	l.conv(name+".conv1", in, out, 3)
	l.norm(name+".norm2", out)
	l.conv(name+".conv2", out, out, 3)
	if in != out {
		l.conv(name+".nin_shortcut", in, out, 1)
	}
}

func (l *layout) convAttention(name string, ch int, has bool) {
	if !has {
		return
	}
	l.norm(name+".norm", ch)
	for _, part := range []string{"q", "k", "v", "proj_out"} {
		l.conv(name+"."+part, ch, ch, 1)
	}
}

// layout is upstream's AutoencoderKL or VQModel.
func autoencoderLayout(c nn.AutoencoderConfig) []param {
	l := &layout{}
	middle := func(name string, ch int) {
		l.resnet(name+".mid.block_1", ch, ch)
		l.convAttention(name+".mid.attn_1", ch, c.MiddleAttention)
		l.resnet(name+".mid.block_2", ch, ch)
	}
	last := len(c.Channels) - 1
	ch := c.ModelChannels
	l.conv("encoder.conv_in", c.InChannels, ch, 3)
	for level, out := range c.Channels {
		name := l.at("encoder.down.%d", level)
		for j := range c.NumResBlocks {
			l.resnet(l.at("%s.block.%d", name, j), ch, out)
			ch = out
			l.convAttention(l.at("%s.attn.%d", name, j), ch, c.DownAttention[level])
		}
		if level < last && c.ConvResample {
			l.conv(name+".downsample.conv", ch, ch, 3)
		}
	}
	middle("encoder", ch)
	l.norm("encoder.norm_out", ch)
	z := 1
	if c.DoubleZ {
		z = 2
	}
	l.conv("encoder.conv_out", ch, z*c.ZChannels, 3)
	if c.QuantConv {
		l.conv("quant_conv", z*c.ZChannels, z*c.EmbedDim, 1)
	}
	if c.NumEmbeddings > 0 {
		l.add("quantize.embedding.weight", c.NumEmbeddings, c.EmbedDim)
	}
	if c.PostQuantConv {
		l.conv("post_quant_conv", c.EmbedDim, c.ZChannels, 1)
	}
	l.conv("decoder.conv_in", c.ZChannels, ch, 3)
	middle("decoder", ch)
	for level := last; level >= 0; level-- {
		name := l.at("decoder.up.%d", level)
		for j := range c.NumResBlocks + 1 {
			l.resnet(l.at("%s.block.%d", name, j), ch, c.Channels[level])
			ch = c.Channels[level]
			l.convAttention(l.at("%s.attn.%d", name, j), ch, c.UpAttention[level])
		}
		if level > 0 && c.ConvResample {
			l.conv(name+".upsample.conv", ch, ch, 3)
		}
	}
	l.norm("decoder.norm_out", ch)
	l.conv("decoder.conv_out", ch, c.OutChannels, 3)
	return l.list
}

// layout is diffusers' AutoencoderTiny. Layers without weights (activations, upsampling) count in the numbers.
func tinyLayout(c nn.TinyConfig) []param {
	l := &layout{}
	n := 0
	blocks := func(half string, ch, count int) {
		for range count {
			for _, i := range []int{0, 2, 4} {
				l.conv(l.at("%s.layers.%d.conv.%d", half, n, i), ch, ch, 3)
			}
			n++
		}
	}
	for level, ch := range c.EncoderBlockOutChannels {
		if name := l.at("encoder.layers.%d", n); level == 0 {
			l.conv(name, c.InChannels, ch, 3)
		} else {
			l.plainConv(name, ch, ch)
		}
		n++
		blocks("encoder", ch, c.NumEncoderBlocks[level])
	}
	l.conv(l.at("encoder.layers.%d", n), c.EncoderBlockOutChannels[len(c.EncoderBlockOutChannels)-1], c.LatentChannels, 3)

	l.conv("decoder.layers.0", c.LatentChannels, c.DecoderBlockOutChannels[0], 3)
	n = 2
	last := len(c.DecoderBlockOutChannels) - 1
	for level, ch := range c.DecoderBlockOutChannels {
		blocks("decoder", ch, c.NumDecoderBlocks[level])
		if level == last {
			l.conv(l.at("decoder.layers.%d", n), ch, c.OutChannels, 3)
			break
		}
		n++ // the upsampling
		l.plainConv(l.at("decoder.layers.%d", n), ch, ch)
		n++
	}
	return l.list
}
