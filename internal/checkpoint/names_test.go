package checkpoint

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/nn"
)

// TestNames: the tables against names written out by hand.
func TestNames(t *testing.T) {
	self := smallUNet(nn.AttendSelf)
	self.Channels, self.Heads = []int{32, 64, 96}, []int{1, 2, 3}
	self.NumResBlocks = 2
	self.DownAttention, self.UpAttention = []string{nn.AttendNone, nn.AttendSelf, nn.AttendNone}, []string{nn.AttendNone, nn.AttendSelf, nn.AttendNone}
	self.DownSample, self.UpSample = []string{nn.SampleConv, nn.SampleResBlock}, []string{nn.SampleConv, nn.SampleConv}
	transformer := smallUNet(nn.AttendTransformer)
	stage := smallStage(true)
	stage.Channels = []int{32, 32, 64}

	for name, c := range map[string]struct {
		table *names
		pairs string
	}{
		"UNet2DModel": {unetNames(self), `
			time_embedding.linear_1.weight                   time_embed.0.weight
			time_embedding.linear_2.bias                     time_embed.2.bias
			class_embedding.weight                           label_emb.weight
			conv_in.weight                                   input_blocks.0.0.weight
			down_blocks.0.resnets.0.norm1.weight             input_blocks.1.0.in_layers.0.weight
			down_blocks.0.resnets.1.conv1.bias               input_blocks.2.0.in_layers.2.bias
			down_blocks.0.downsamplers.0.conv.weight         input_blocks.3.0.op.weight
			down_blocks.1.resnets.0.time_emb_proj.weight     input_blocks.4.0.emb_layers.1.weight
			down_blocks.1.resnets.0.conv_shortcut.weight     input_blocks.4.0.skip_connection.weight
			down_blocks.1.attentions.0.group_norm.bias       input_blocks.4.1.norm.bias
			down_blocks.1.attentions.1.to_q.weight           input_blocks.5.1.qkv.weight
			down_blocks.1.attentions.1.to_k.weight           input_blocks.5.1.qkv.weight
			down_blocks.1.attentions.1.to_v.weight           input_blocks.5.1.qkv.weight
			down_blocks.1.attentions.1.to_out.0.weight       input_blocks.5.1.proj_out.weight
			down_blocks.1.downsamplers.0.norm2.weight        input_blocks.6.0.out_layers.0.weight
			down_blocks.2.resnets.1.conv2.weight             input_blocks.8.0.out_layers.3.weight
			mid_block.resnets.0.norm1.bias                   middle_block.0.in_layers.0.bias
			mid_block.attentions.0.to_v.bias                 middle_block.1.qkv.bias
			mid_block.resnets.1.conv2.bias                   middle_block.2.out_layers.3.bias
			up_blocks.0.resnets.0.norm1.weight               output_blocks.0.0.in_layers.0.weight
			up_blocks.0.resnets.2.conv1.weight               output_blocks.2.0.in_layers.2.weight
			up_blocks.0.upsamplers.0.conv.weight             output_blocks.2.1.conv.weight
			up_blocks.1.attentions.2.to_q.bias               output_blocks.5.1.qkv.bias
			up_blocks.1.upsamplers.0.conv.bias               output_blocks.5.2.conv.bias
			up_blocks.2.resnets.2.conv_shortcut.bias         output_blocks.8.0.skip_connection.bias
			conv_norm_out.weight                             out.0.weight
			conv_out.bias                                    out.2.bias`},
		"UNet2DConditionModel": {unetNames(transformer), `
			down_blocks.1.attentions.0.norm.weight                                     input_blocks.3.1.norm.weight
			down_blocks.1.attentions.0.proj_in.weight                                  input_blocks.3.1.proj_in.weight
			down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0.bias        input_blocks.3.1.transformer_blocks.1.attn2.to_out.0.bias
			mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight           middle_block.1.transformer_blocks.0.ff.net.0.proj.weight
			up_blocks.0.attentions.1.transformer_blocks.0.norm3.weight                 output_blocks.1.1.transformer_blocks.0.norm3.weight
			up_blocks.0.upsamplers.0.conv.weight                                       output_blocks.1.2.conv.weight`},
		"AutoencoderKL, VQModel": {autoencoderNames(stage), `
			encoder.conv_in.weight                                encoder.conv_in.weight
			encoder.down_blocks.2.resnets.0.conv_shortcut.weight  encoder.down.2.block.0.nin_shortcut.weight
			encoder.down_blocks.1.attentions.0.to_q.weight        encoder.down.1.attn.0.q.weight
			encoder.down_blocks.0.downsamplers.0.conv.bias        encoder.down.0.downsample.conv.bias
			encoder.mid_block.resnets.1.norm2.weight              encoder.mid.block_2.norm2.weight
			encoder.mid_block.attentions.0.group_norm.weight      encoder.mid.attn_1.norm.weight
			encoder.conv_norm_out.bias                            encoder.norm_out.bias
			quant_conv.weight                                     quant_conv.weight
			quantize.embedding.weight                             quantize.embedding.weight
			post_quant_conv.bias                                  post_quant_conv.bias
			decoder.mid_block.attentions.0.to_out.0.weight        decoder.mid.attn_1.proj_out.weight
			decoder.mid_block.resnets.0.conv1.weight              decoder.mid.block_1.conv1.weight
			decoder.up_blocks.0.resnets.1.conv1.weight            decoder.up.2.block.1.conv1.weight
			decoder.up_blocks.0.upsamplers.0.conv.weight          decoder.up.2.upsample.conv.weight
			decoder.up_blocks.2.resnets.0.norm1.bias              decoder.up.0.block.0.norm1.bias
			decoder.conv_norm_out.weight                          decoder.norm_out.weight
			decoder.conv_out.weight                               decoder.conv_out.weight`},
	} {
		t.Run(name, func(t *testing.T) {
			for line := range strings.Lines(strings.TrimSpace(c.pairs)) {
				f := strings.Fields(line)
				p, ok := c.table.ours[f[0]]
				require.True(t, ok, f[0])
				require.Equal(t, f[1], p.ours, f[0])
				require.Equal(t, f[0], c.table.theirs[f[1]][p.piece])
			}
		})
	}
	require.Equal(t, []string{"down_blocks.1.attentions.1.to_q.weight", "down_blocks.1.attentions.1.to_k.weight", "down_blocks.1.attentions.1.to_v.weight"},
		unetNames(self).theirs["input_blocks.5.1.qkv.weight"])
	for old, now := range map[string]string{
		"decoder.mid_block.attentions.0.query.weight":   "decoder.mid_block.attentions.0.to_q.weight",
		"down_blocks.1.attentions.0.key.bias":           "down_blocks.1.attentions.0.to_k.bias",
		"down_blocks.1.attentions.0.value.bias":         "down_blocks.1.attentions.0.to_v.bias",
		"mid_block.attentions.0.proj_attn.weight":       "mid_block.attentions.0.to_out.0.weight",
		"mid_block.attentions.0.group_norm.weight":      "mid_block.attentions.0.group_norm.weight",
		"down_blocks.0.resnets.0.query.weight.of.other": "down_blocks.0.resnets.0.query.weight.of.other",
	} {
		require.Equal(t, now, modern(old))
	}
}

// TestTablesCover: every tensor of a layout has a name with diffusers, and no two have the same.
func TestTablesCover(t *testing.T) {
	check := func(list []param, table *names) {
		seen := map[string]bool{}
		for _, p := range list {
			require.NotEmpty(t, table.theirs[p.name], p.name)
			for _, name := range table.theirs[p.name] {
				require.False(t, seen[name], name)
				seen[name] = true
			}
		}
	}
	for _, kind := range []string{nn.AttendNone, nn.AttendSelf, nn.AttendTransformer} {
		for _, sample := range []string{nn.SampleConv, nn.SampleResBlock} {
			c := smallUNet(kind)
			c.DownSample, c.UpSample = []string{sample}, []string{sample}
			c.NumClasses = 3
			check(unetLayout(c), unetNames(c))
		}
	}
	for _, double := range []bool{false, true} {
		c := smallStage(double)
		check(autoencoderLayout(c), autoencoderNames(c))
	}
}
