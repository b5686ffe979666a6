package checkpoint

import (
	"fmt"
	"strings"

	"github.com/spin-native/spin/nn"
)

// rule says how a source calls a module of ours. {i} runs over levels and {j} over the blocks of a level, in the
// source's order; our side may use {in}, {down}, {out}, {up}, {after} and {level}, which names computes. leaves are the
// layers inside, "theirs=ours" or one word where both are the same; several of theirs for one of ours are stacked in
// that order. No leaves: the module is itself a layer.
type rule struct {
	theirs, ours string
	leaves       []string
}

// The layers of the blocks.
var (
	layer = []string{""}

	diffusersResnet = leaves("norm1=in_layers.0 conv1=in_layers.2 time_emb_proj=emb_layers.1 norm2=out_layers.0 conv2=out_layers.3 conv_shortcut=skip_connection")
	diffusersSelf   = leaves("group_norm=norm to_q=qkv to_k=qkv to_v=qkv to_out.0=proj_out")
	transformerEnds = leaves("norm proj_in proj_out")
	transformerDeep = leaves("attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0 ff.net.0.proj ff.net.2 norm1 norm2 norm3")

	diffusersAutoResnet    = leaves("norm1 conv1 norm2 conv2 conv_shortcut=nin_shortcut")
	diffusersAutoAttention = leaves("group_norm=norm to_q=q to_k=k to_v=v to_out.0=proj_out")
)

func leaves(s string) []string { return strings.Fields(s) }

// diffusersUNet maps UNet2DModel and UNet2DConditionModel. What is inside an attention depends on its kind.
var diffusersUNet = []rule{
	{"time_embedding.linear_1", "time_embed.0", layer},
	{"time_embedding.linear_2", "time_embed.2", layer},
	{"class_embedding", "label_emb", layer},
	{"conv_in", "input_blocks.0.0", layer},
	{"down_blocks.{i}.resnets.{j}", "input_blocks.{in}.0", diffusersResnet},
	{"down_blocks.{i}.attentions.{j}", "input_blocks.{in}.1", nil},
	{"down_blocks.{i}.downsamplers.0.conv", "input_blocks.{down}.0.op", layer},
	{"down_blocks.{i}.downsamplers.0", "input_blocks.{down}.0", diffusersResnet},
	{"mid_block.resnets.0", "middle_block.0", diffusersResnet},
	{"mid_block.attentions.0", "middle_block.1", nil},
	{"mid_block.resnets.1", "middle_block.2", diffusersResnet},
	{"up_blocks.{i}.resnets.{j}", "output_blocks.{out}.0", diffusersResnet},
	{"up_blocks.{i}.attentions.{j}", "output_blocks.{out}.1", nil},
	{"up_blocks.{i}.upsamplers.0.conv", "output_blocks.{up}.{after}.conv", layer},
	{"up_blocks.{i}.upsamplers.0", "output_blocks.{up}.{after}", diffusersResnet},
	{"conv_norm_out", "out.0", layer},
	{"conv_out", "out.2", layer},
}

// diffusersAutoencoder maps AutoencoderKL and VQModel. Our decoder counts its levels by resolution, theirs by order.
var diffusersAutoencoder = []rule{
	{"encoder.conv_in", "encoder.conv_in", layer},
	{"encoder.down_blocks.{i}.resnets.{j}", "encoder.down.{i}.block.{j}", diffusersAutoResnet},
	{"encoder.down_blocks.{i}.attentions.{j}", "encoder.down.{i}.attn.{j}", diffusersAutoAttention},
	{"encoder.down_blocks.{i}.downsamplers.0.conv", "encoder.down.{i}.downsample.conv", layer},
	{"encoder.mid_block.resnets.0", "encoder.mid.block_1", diffusersAutoResnet},
	{"encoder.mid_block.attentions.0", "encoder.mid.attn_1", diffusersAutoAttention},
	{"encoder.mid_block.resnets.1", "encoder.mid.block_2", diffusersAutoResnet},
	{"encoder.conv_norm_out", "encoder.norm_out", layer},
	{"encoder.conv_out", "encoder.conv_out", layer},
	{"quant_conv", "quant_conv", layer},
	{"quantize.embedding", "quantize.embedding", layer},
	{"post_quant_conv", "post_quant_conv", layer},
	{"decoder.conv_in", "decoder.conv_in", layer},
	{"decoder.mid_block.resnets.0", "decoder.mid.block_1", diffusersAutoResnet},
	{"decoder.mid_block.attentions.0", "decoder.mid.attn_1", diffusersAutoAttention},
	{"decoder.mid_block.resnets.1", "decoder.mid.block_2", diffusersAutoResnet},
	{"decoder.up_blocks.{i}.resnets.{j}", "decoder.up.{level}.block.{j}", diffusersAutoResnet},
	{"decoder.up_blocks.{i}.attentions.{j}", "decoder.up.{level}.attn.{j}", diffusersAutoAttention},
	{"decoder.up_blocks.{i}.upsamplers.0.conv", "decoder.up.{level}.upsample.conv", layer},
	{"decoder.conv_norm_out", "decoder.norm_out", layer},
	{"decoder.conv_out", "decoder.conv_out", layer},
}

// diffusersOld gives what early versions of diffusers called the layers of an attention.
var diffusersOld = strings.NewReplacer(
	".query.", ".to_q.", ".key.", ".to_k.", ".value.", ".to_v.", ".proj_attn.", ".to_out.0.")

// modern is the name that diffusers gives a tensor today.
func modern(name string) string {
	if !strings.Contains(name, "attentions.") {
		return name
	}
	return diffusersOld.Replace(name)
}

// place is where a tensor of a source goes.
type place struct {
	ours  string
	piece int // of those stacked
}

// names is the table of one network, in both directions.
type names struct {
	ours   map[string]place    // by their name
	theirs map[string][]string // by our name, the pieces in order
}

func (n *names) pair(theirs, ours string) {
	for _, p := range []string{".weight", ".bias"} {
		n.ours[theirs+p] = place{ours + p, len(n.theirs[ours+p])}
		n.theirs[ours+p] = append(n.theirs[ours+p], theirs+p)
	}
}

// module pairs the layers inside a module.
func (n *names) module(theirs, ours string, leaves []string) {
	for _, leaf := range leaves {
		t, o, ok := strings.Cut(leaf, "=")
		if !ok {
			o = t
		}
		if leaf == "" {
			n.pair(theirs, ours)
		} else {
			n.pair(theirs+"."+t, ours+"."+o)
		}
	}
}

// expand writes the rules out for a network of so many levels and blocks. inside gives the leaves of a module that has
// none in the rule.
func expand(rules []rule, levels, blocks int, after func(level int) int, inside func(n *names, r rule, level int, theirs, ours string)) *names {
	n := &names{map[string]place{}, map[string][]string{}}
	for _, r := range rules {
		is, js := 1, 1
		if strings.Contains(r.theirs, "{i}") {
			is = levels
		}
		if strings.Contains(r.theirs, "{j}") {
			js = blocks
			if strings.Contains(r.theirs, "up_blocks") {
				js++ // a level's way up has one block more
			}
		}
		for i := range is {
			for j := range js {
				level := i
				if strings.Contains(r.theirs, "up_blocks") {
					level = levels - 1 - i
				}
				fill := strings.NewReplacer("{i}", fmt.Sprint(i), "{j}", fmt.Sprint(j), "{level}", fmt.Sprint(level),
					"{in}", fmt.Sprint(1+i*(blocks+1)+j), "{down}", fmt.Sprint((i+1)*(blocks+1)),
					"{out}", fmt.Sprint(i*(blocks+1)+j), "{up}", fmt.Sprint(i*(blocks+1)+blocks), "{after}", fmt.Sprint(after(level)))
				theirs, ours := fill.Replace(r.theirs), fill.Replace(r.ours)
				if r.leaves != nil {
					n.module(theirs, ours, r.leaves)
				} else {
					inside(n, r, level, theirs, ours)
				}
			}
		}
	}
	return n
}

// unetNames is the table of a UNet.
func unetNames(c nn.LatentUNetConfig) *names {
	last := len(c.Channels) - 1
	return expand(diffusersUNet, len(c.Channels), c.NumResBlocks, func(level int) int { return upIndex(c, level) }, func(n *names, r rule, level int, theirs, ours string) {
		kind := c.MiddleAttention
		switch {
		case strings.HasPrefix(r.theirs, "down"):
			kind = c.DownAttention[level]
		case strings.HasPrefix(r.theirs, "up"):
			kind = c.UpAttention[level]
		default:
			level = last
		}
		switch kind {
		case nn.AttendSelf:
			n.module(theirs, ours, diffusersSelf)
		case nn.AttendTransformer:
			n.module(theirs, ours, transformerEnds)
			for d := range c.Depth(level) {
				b := fmt.Sprintf(".transformer_blocks.%d", d)
				n.module(theirs+b, ours+b, transformerDeep)
			}
		}
	})
}

// diffusersNames is the table of a first stage.
func autoencoderNames(c nn.AutoencoderConfig) *names {
	return expand(diffusersAutoencoder, len(c.Channels), c.NumResBlocks, func(int) int { return 0 }, nil)
}

// sameNames is the table of a network that needs none.
func sameNames(list []param) *names {
	n := &names{map[string]place{}, map[string][]string{}}
	for _, p := range list {
		n.ours[p.name] = place{p.name, 0}
		n.theirs[p.name] = []string{p.name}
	}
	return n
}
