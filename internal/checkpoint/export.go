package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// Plan is the component as it is, to be written with weights.WriteStream: converted to d, one tensor at a time, and
// refused where a weight is not finite. An empty d keeps the types.
func (c Component) Plan(d weights.DType) []weights.Planned {
	list := make([]weights.Planned, len(c.Tensors))
	for i, t := range c.Tensors {
		list[i] = t.Plan(d)
	}
	return list
}

// Diffusers is the component as a folder of diffusers holds it: its config.json and its tensors. What that project
// cannot say is an error that matches ErrUnsupported.
func (c Component) Diffusers(d weights.DType) (config []byte, list []weights.Planned, err error) {
	var fields map[string]any
	var table *names
	var self nn.LatentUNetConfig // tells how to take self-attentions apart
	switch c.Info.Family {
	case FamilyGuided, FamilyLatent:
		if self, err = c.unetConfig(); err != nil {
			return nil, nil, err
		}
		table = unetNames(self)
		fields, err = diffusersOfUNet(self)
	case FamilyKL, FamilyVQ:
		var a nn.AutoencoderConfig
		if a, err = ParseAutoencoderConfig(c.Info.Model); err != nil {
			return nil, nil, err
		}
		table = autoencoderNames(a)
		fields, err = diffusersOfAutoencoder(a)
	case FamilyTiny:
		var a nn.TinyConfig
		if a, err = ParseTinyConfig(c.Info.Model); err != nil {
			return nil, nil, err
		}
		table = sameNames(tinyLayout(a))
		fields, err = diffusersOfTiny(a)
	default:
		err = fail(ErrUnsupported, "family %s cannot be written for diffusers", c.Info.Family)
	}
	if err != nil {
		return nil, nil, err
	}
	if c.Role == RoleUNet || c.Info.Family != FamilyTiny {
		fields["sample_size"] = c.Info.ImageSize
	}
	for _, t := range c.Tensors {
		theirs := table.theirs[t.Name]
		if len(theirs) == 0 {
			return nil, nil, failTensor(ErrUnsupported, t.Name, "diffusers has no name for it")
		}
		for i, name := range theirs {
			shape := pieceShape(t.Shape, len(theirs))
			if attentionMatrix(name) {
				shape = squeeze(shape)
			}
			if len(theirs) == 1 {
				list = append(list, t.As(name, shape).Plan(d))
				continue
			}
			heads := 1 // one block of rows for each piece, as in the new order
			if !self.UseNewAttentionOrder {
				heads = self.Heads[levelOf(self, t.Name)]
			}
			piece := weights.Tensor{Name: name, DType: t.DType, Shape: shape}
			plan := piece.Plan(d)
			plan.Produce = func() ([]byte, error) {
				b, err := t.Bytes()
				if err != nil {
					return nil, err
				}
				piece := piece
				piece.Data = take(b, i, len(theirs), heads)
				return piece.Plan(d).Produce()
			}
			list = append(list, plan)
		}
	}
	b, err := json.MarshalIndent(fields, "", "  ")
	return append(b, '\n'), list, err
}

// take gathers one of n pieces from rows that are ordered [head][piece].
func take(b []byte, piece, n, heads int) []byte {
	run := len(b) / n / heads
	out := make([]byte, 0, len(b)/n)
	for h := range heads {
		at := (h*n + piece) * run
		out = append(out, b[at:at+run]...)
	}
	return out
}

// attentionMatrix reports whether diffusers keeps a tensor as a matrix where upstream has a convolution of size 1.
func attentionMatrix(theirs string) bool {
	if !strings.Contains(theirs, "attentions.") || strings.Contains(theirs, "transformer_blocks.") {
		return false
	}
	for _, s := range []string{".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight"} {
		if strings.HasSuffix(theirs, s) {
			return true
		}
	}
	return false
}

// levelOf finds the level of an attention from its upstream name.
func levelOf(c nn.LatentUNetConfig, name string) int {
	last := len(c.Channels) - 1
	for _, half := range []string{"input_blocks.", "output_blocks."} {
		if rest, ok := strings.CutPrefix(name, half); ok {
			digits, _, _ := strings.Cut(rest, ".")
			n, _ := strconv.Atoi(digits)
			if half == "input_blocks." {
				return min((n-1)/(c.NumResBlocks+1), last)
			}
			return max(last-n/(c.NumResBlocks+1), 0)
		}
	}
	return last
}

// unetConfig is the configuration in the words of the latent family, whichever it is of.
func (c Component) unetConfig() (nn.LatentUNetConfig, error) {
	if c.Info.Family == FamilyLatent {
		return ParseUNetConfig(c.Info.Model)
	}
	u, err := inferUNet(shapesOf(c.Tensors))
	if err != nil {
		return u, err
	}
	g, err := nn.ParseUNetConfig(c.Info.Model)
	if err != nil {
		return u, wrong(err)
	}
	if u.StemChannels != 0 {
		return u, fail(ErrUnsupported, "the first convolution has %d outputs and the embedding of time %d values: diffusers wants equal numbers", u.StemChannels, u.ModelChannels)
	}
	u.UseNewAttentionOrder = g.UseNewAttentionOrder
	if g.NumHeadsUpsample > 0 && g.NumHeadsUpsample != g.NumHeads && g.NumHeadChannels < 1 {
		return u, fail(ErrUnsupported, "num_heads_upsample: diffusers has one number of heads")
	}
	for _, ch := range u.Channels {
		n := g.NumHeads
		if g.NumHeadChannels > 0 {
			n = max(1, ch/g.NumHeadChannels)
		}
		u.Heads = append(u.Heads, n)
	}
	return u, wrong(u.Check())
}

// diffusersOfUNet writes the config.json, and proves it by reading it back.
func diffusersOfUNet(c nn.LatentUNetConfig) (map[string]any, error) {
	n := len(c.Channels)
	f := map[string]any{
		"_class_name": classUNet, "act_fn": "silu", "in_channels": c.InChannels, "out_channels": c.OutChannels,
		"block_out_channels": c.Channels, "layers_per_block": c.NumResBlocks, "norm_num_groups": c.NormGroups, "norm_eps": c.NormEps,
		"downsample_padding": 1, "flip_sin_to_cos": c.TimeCosFirst, "freq_shift": c.TimeFreqShift,
		"resnet_time_scale_shift": "default",
	}
	if c.DownsamplePadding == nn.PadRightBottom {
		f["downsample_padding"] = 0
	}
	if c.UseScaleShiftNorm {
		f["resnet_time_scale_shift"] = "scale_shift"
	}
	if c.TimeEmbedDim != 4*c.ModelChannels {
		f["time_embedding_dim"] = c.TimeEmbedDim
	}
	if c.NumClasses > 0 {
		f["num_class_embeds"] = c.NumClasses
	}
	down, up := make([]string, n), make([]string, n)
	byType := func(types map[string]blockType, attention, sample, field string) string {
		for _, name := range slices.Sorted(maps.Keys(types)) {
			if t := types[name]; t.attention == attention && (sample == "" || t.sample == "" || t.sample == sample) {
				if t.sample == "" && sample != "" {
					for theirs, ours := range sampleTypes {
						if ours == sample {
							f[field] = theirs
						}
					}
				}
				return name
			}
		}
		return ""
	}
	for l := range n {
		var d, u string
		if l < n-1 {
			d = c.DownSample[l]
		}
		if l > 0 {
			u = c.UpSample[l-1]
		}
		down[l] = byType(downTypes, c.DownAttention[l], d, "downsample_type")
		up[n-1-l] = byType(upTypes, c.UpAttention[l], u, "upsample_type")
	}
	f["down_block_types"], f["up_block_types"] = down, up
	want := c
	want.UseNewAttentionOrder = true // the rows are put into it
	class := classUNet
	if c.ContextDim > 0 {
		class = classConditional
		want.MiddleNormGroups = 0 // means nothing there
		f["_class_name"] = classConditional
		f["cross_attention_dim"], f["use_linear_projection"] = c.ContextDim, c.LinearProjection
		f["attention_head_dim"], f["transformer_layers_per_block"] = oneOrList(c.Heads), oneOrList(c.TransformerDepth)
	} else {
		widths := map[int]bool{}
		single := true
		for l, ch := range c.Channels {
			if c.Attends(l) {
				widths[ch/c.Heads[l]] = true
				single = single && c.Heads[l] == 1
			} else {
				want.Heads = slices.Clone(want.Heads)
				want.Heads[l] = 1
			}
		}
		f["attention_head_dim"] = nil
		if len(widths) == 1 && !single {
			for w := range widths {
				f["attention_head_dim"] = w
			}
		}
		f["add_attention"] = c.MiddleAttention != nn.AttendNone
		if c.MiddleAttention == nn.AttendNone {
			want.MiddleNormGroups = 0
			if !c.UseScaleShiftNorm {
				want.MiddleNormGroups = c.NormGroups
			}
		} else if c.MiddleNormGroups > 0 && (c.UseScaleShiftNorm || c.MiddleNormGroups != c.NormGroups) {
			f["attn_norm_num_groups"] = c.MiddleNormGroups
		}
	}
	got, err := unetOf(class, fieldsOf(f))
	return f, proven(want, got, err)
}

// proven holds what diffusers would read against what was to be said.
func proven[T any](want, got T, err error) error {
	if err != nil {
		return fail(ErrUnsupported, "diffusers cannot describe this network: %v", err)
	}
	if field, a, b := difference(want, got); field != "" {
		return fail(ErrUnsupported, "diffusers cannot describe %s %s, only %s", field, marshal(a), marshal(b))
	}
	return nil
}

func oneOrList(list []int) any {
	if len(slices.Compact(slices.Clone(list))) == 1 {
		return list[0]
	}
	return list
}

func diffusersOfAutoencoder(c nn.AutoencoderConfig) (map[string]any, error) {
	f := map[string]any{
		"_class_name": classKL, "act_fn": "silu", "in_channels": c.InChannels, "out_channels": c.OutChannels,
		"block_out_channels": c.Channels, "layers_per_block": c.NumResBlocks, "latent_channels": c.ZChannels,
		"norm_num_groups": c.NormGroups, "scaling_factor": c.ScaleFactor, "mid_block_add_attention": c.MiddleAttention,
	}
	class := classKL
	if c.NumEmbeddings > 0 {
		class = classVQ
		f["_class_name"], f["num_vq_embeddings"], f["lookup_from_codebook"] = class, c.NumEmbeddings, c.LookupFromCode
		if c.EmbedDim != c.ZChannels {
			f["vq_embed_dim"] = c.EmbedDim
		}
	} else {
		f["use_quant_conv"], f["use_post_quant_conv"] = c.QuantConv, c.PostQuantConv
		if len(c.LatentsMean) > 0 {
			f["latents_mean"], f["latents_std"] = c.LatentsMean, c.LatentsStd
		}
	}
	if c.ShiftFactor != 0 {
		f["shift_factor"] = c.ShiftFactor
	}
	n := len(c.Channels)
	down, up := make([]string, n), make([]string, n)
	for l := range n {
		down[l] = choose(c.DownAttention[l], "AttnDownEncoderBlock2D", "DownEncoderBlock2D")
		up[n-1-l] = choose(c.UpAttention[l], "AttnUpDecoderBlock2D", "UpDecoderBlock2D")
	}
	f["down_block_types"], f["up_block_types"] = down, up
	got, err := autoencoderOf(class, fieldsOf(f))
	return f, proven(c, got, err)
}

func diffusersOfTiny(c nn.TinyConfig) (map[string]any, error) {
	f := map[string]any{}
	for k, v := range toMap(c) {
		f[k] = v
	}
	f["_class_name"], f["act_fn"], f["upsample_fn"] = classTiny, "relu", "nearest"
	f["scaling_factor"] = c.ScaleFactor
	delete(f, "scale_factor")
	got, err := tinyOf(fieldsOf(f))
	return f, proven(c, got, err)
}

func toMap(v any) map[string]any {
	m := map[string]any{}
	if err := json.Unmarshal(marshal(v), &m); err != nil {
		panic(fmt.Sprintf("checkpoint: %v", err))
	}
	return m
}
