package main

import (
	"fmt"
	"slices"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// checkGuided finds a configuration that belongs to another network. It looks at the ends, the embeddings and the
// encoder, which determine every number that shapes can tell; numbers of heads leave no trace.
func checkGuided(info weights.Info, list []weights.Tensor) error {
	c, err := nn.ParseUNetConfig(info.Model)
	if err != nil {
		return err
	}
	want := c.InChannels
	if info.LearnedRange {
		want *= 2
	}
	if c.OutChannels != want {
		return fmt.Errorf("the configuration has out_channels %d, but in_channels %d and learned_range %v mean %d", c.OutChannels, c.InChannels, info.LearnedRange, want)
	}

	shapes := map[string][]int{}
	blocks := 0
	for _, t := range list {
		shapes[t.Name] = t.Shape
		var i int
		if n, _ := fmt.Sscanf(t.Name, "input_blocks.%d.", &i); n == 1 {
			blocks = max(blocks, i+1)
		}
	}
	ch, emb := c.ModelChannels, 4*c.ModelChannels
	at := func(level int) int { return int(c.ChannelMult[level] * float64(ch)) }
	first := at(0)
	scale := 1
	if c.UseScaleShiftNorm {
		scale = 2
	}
	// The first wrong row is the message, so the rows go from the plainest to the most particular.
	rows := []expected{
		{"input_blocks.0.0.weight", []int{first, c.InChannels, 3, 3}, "model_channels, channel_mult or in_channels"},
		{"out.2.weight", []int{c.OutChannels, first, 3, 3}, "out_channels (learned range)"},
		{"time_embed.0.weight", []int{emb, ch}, "model_channels"},
		{"label_emb.weight", nil, "num_classes"},
	}
	if c.NumClasses > 0 {
		rows[3].shape = []int{c.NumClasses, emb}
	}
	if want := len(c.ChannelMult) * (c.NumResBlocks + 1); blocks != want {
		return mismatch(shapes, rows, fmt.Errorf("%d input blocks, but the configuration means %d: check num_res_blocks and channel_mult", blocks, want))
	}
	for level := range c.ChannelMult {
		width := at(level)
		for j := range c.NumResBlocks {
			block := fmt.Sprintf("input_blocks.%d.", 1+level*(c.NumResBlocks+1)+j)
			rows = append(rows,
				expected{block + "0.out_layers.3.weight", []int{width, width, 3, 3}, "channel_mult"},
				expected{block + "0.emb_layers.1.weight", []int{scale * width, emb}, "use_scale_shift_norm"})
			var qkv []int
			if slices.Contains(c.AttentionResolutions, 1<<level) {
				qkv = []int{3 * width, width, 1}
			}
			rows = append(rows, expected{block + "1.qkv.weight", qkv, "attention_resolutions"})
		}
		if level == len(c.ChannelMult)-1 {
			continue
		}
		down := fmt.Sprintf("input_blocks.%d.0.", (level+1)*(c.NumResBlocks+1))
		var block, op []int
		if c.ResBlockUpDown {
			block = []int{width, width, 3, 3}
		} else if c.ConvResample {
			op = []int{width, width, 3, 3}
		}
		rows = append(rows,
			expected{down + "in_layers.2.weight", block, "resblock_updown"},
			expected{down + "op.weight", op, "conv_resample or resblock_updown"})
	}
	if err := mismatch(shapes, rows, nil); err != nil {
		return err
	}
	// The rows above say which field to look at; that the rest fits as well, building the network proves.
	f, err := weights.FromTensors("model", list, nil)
	if err != nil {
		return err
	}
	d, _ := dryrun.Open()
	if _, err := nn.LoadUNet(d, f.Scope(), c, nn.LoadOptions{}); err != nil {
		return err
	}
	return f.CheckAllRead()
}

// expected is a tensor that must have a shape, or must be absent where the shape is nil.
type expected struct {
	name  string
	shape []int
	field string // of the configuration that decides it
}

// mismatch returns the first row that the tensors contradict, or else.
func mismatch(shapes map[string][]int, rows []expected, otherwise error) error {
	for _, r := range rows {
		switch got, ok := shapes[r.name]; {
		case !ok && r.shape != nil:
			return fmt.Errorf("%q is missing: the configuration is of another network, check %s", r.name, r.field)
		case ok && r.shape == nil:
			return fmt.Errorf("%q exists, but the configuration has no place for it: check %s", r.name, r.field)
		case ok && !slices.Equal(got, r.shape):
			return fmt.Errorf("%q has shape %v, but the configuration means %v: check %s", r.name, got, r.shape, r.field)
		}
	}
	return otherwise
}
