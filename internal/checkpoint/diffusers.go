package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// The classes of diffusers that are read.
const (
	classUNet        = "UNet2DModel"
	classConditional = "UNet2DConditionModel"
	classKL          = "AutoencoderKL"
	classVQ          = "VQModel"
	classTiny        = "AutoencoderTiny"
)

// neutral lists fields of config.json that change the network, and the values under which they do not; nil means that
// any will do. They are refused with other values, since nothing here computes them.
var neutral = map[string][]string{
	"dropout":      nil, // only for training
	"force_upcast": nil, // precision is the device's
	"sample_size":  nil, // read apart
	"act_fn":       {`"silu"`, `"swish"`},

	"center_input_sample":    {"false"},
	"mid_block_scale_factor": {"1", "1.0"},
	"time_embedding_type":    {`"positional"`},
	"num_train_timesteps":    nil, // only for learned embeddings
	"class_embed_type":       {"null"},

	"addition_embed_type":                   {"null"},
	"addition_embed_type_num_heads":         nil,
	"addition_time_embed_dim":               {"null"},
	"attention_type":                        {`"default"`},
	"class_embeddings_concat":               {"false"},
	"conv_in_kernel":                        {"3"},
	"conv_out_kernel":                       {"3"},
	"cross_attention_norm":                  {"null"},
	"dual_cross_attention":                  {"false"},
	"encoder_hid_dim":                       {"null"},
	"encoder_hid_dim_type":                  {"null"},
	"mid_block_only_cross_attention":        {"null", "false"},
	"only_cross_attention":                  {"false"},
	"projection_class_embeddings_input_dim": {"null"},
	"resnet_out_scale_factor":               {"1", "1.0"},
	"resnet_skip_time_act":                  {"false"},
	"reverse_transformer_layers_per_block":  {"null"},
	"time_cond_proj_dim":                    {"null"},
	"time_embedding_act_fn":                 {"null"},
	"timestep_post_act":                     {"null"},
	"upcast_attention":                      nil, // precision

	"norm_type": {`"group"`},

	"upsample_fn": {`"nearest"`},
}

// neutralOf are fields whose neutral values differ between the classes.
var neutralOf = map[string]map[string][]string{
	classTiny: {"act_fn": {`"relu"`}, "block_out_channels": nil},
}

// clean takes the fields that say nothing about the network out of a config.json.
func clean(class string, fields map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for k, v := range fields {
		if strings.HasPrefix(k, "_") {
			continue
		}
		allowed, ok := neutralOf[class][k]
		if !ok {
			allowed, ok = neutral[k]
		}
		if !ok {
			out[k] = v
			continue
		}
		if allowed != nil && !slices.Contains(allowed, string(bytes.TrimSpace(v))) {
			return nil, fail(ErrUnsupported, "field %s is %s: only %s can be run", quote(k), quote(string(v)), strings.Join(allowed, " or "))
		}
	}
	return out, nil
}

// decode reads the rest of config.json over the defaults that v holds.
func decodeFields(class string, fields map[string]json.RawMessage, v any) error {
	rest, err := clean(class, fields)
	if err != nil {
		return err
	}
	for k, raw := range rest {
		// encoding/json would leave the default, but in Python null is a value of its own.
		if string(bytes.TrimSpace(raw)) == "null" && !slices.Contains(nullable, k) {
			return fail(ErrConfig, "%s: field %s cannot be null", class, quote(k))
		}
	}
	if err := weights.StrictJSON(marshal(rest), v); err != nil {
		return fail(ErrConfig, "%s: %v", class, err)
	}
	return nil
}

// nullable are the fields that may be null, which then means something.
var nullable = []string{
	"attention_head_dim", "num_attention_heads", "time_embedding_dim", "num_class_embeds", "attn_norm_num_groups",
	"cross_attention_dim", "mid_block_type", "shift_factor", "latents_mean", "latents_std", "vq_embed_dim",
}

// listOrOne is a number, or one for each level.
type listOrOne []int

func (l *listOrOne) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*l = nil
		return nil
	}
	var one int
	if err := json.Unmarshal(b, &one); err == nil {
		*l = listOrOne{one}
		return nil
	}
	var list []int
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("expected a number or a list of numbers, got %.40s", b)
	}
	*l = list
	return nil
}

// at gives the number of a level.
func (l listOrOne) at(i int) int {
	if len(l) == 1 {
		return l[0]
	}
	return l[i]
}

func (l listOrOne) check(name string, levels int) error {
	if len(l) == 1 {
		return nil
	}
	return perLevel(name, len(l), levels)
}

// diffusersUNetConfig has the fields of UNet2DModel and UNet2DConditionModel that are understood.
type diffusersUNetConfig struct {
	InChannels           int       `json:"in_channels"`
	OutChannels          int       `json:"out_channels"`
	BlockOutChannels     []int     `json:"block_out_channels"`
	LayersPerBlock       listOrOne `json:"layers_per_block"`
	DownBlockTypes       []string  `json:"down_block_types"`
	MidBlockType         *string   `json:"mid_block_type"`
	UpBlockTypes         []string  `json:"up_block_types"`
	NormNumGroups        int       `json:"norm_num_groups"`
	NormEps              float64   `json:"norm_eps"`
	DownsamplePadding    int       `json:"downsample_padding"`
	FlipSinToCos         bool      `json:"flip_sin_to_cos"`
	FreqShift            float64   `json:"freq_shift"`
	ResnetTimeScaleShift string    `json:"resnet_time_scale_shift"`
	TimeEmbeddingDim     *int      `json:"time_embedding_dim"`
	NumClassEmbeds       *int      `json:"num_class_embeds"`
	AttentionHeadDim     listOrOne `json:"attention_head_dim"`

	AddAttention   *bool  `json:"add_attention,omitempty"` // UNet2DModel
	AttnNormGroups *int   `json:"attn_norm_num_groups,omitempty"`
	DownsampleType string `json:"downsample_type,omitempty"`
	UpsampleType   string `json:"upsample_type,omitempty"`

	NumAttentionHeads         listOrOne `json:"num_attention_heads,omitempty"` // UNet2DConditionModel
	CrossAttentionDim         *int      `json:"cross_attention_dim,omitempty"`
	TransformerLayersPerBlock listOrOne `json:"transformer_layers_per_block,omitempty"`
	UseLinearProjection       bool      `json:"use_linear_projection,omitempty"`
}

func ptr[T any](v T) *T { return &v }

// unetDefaults are what absent fields mean.
func unetDefaults(class string) diffusersUNetConfig {
	d := diffusersUNetConfig{
		InChannels: 3, OutChannels: 3, BlockOutChannels: []int{224, 448, 672, 896}, LayersPerBlock: listOrOne{2},
		DownBlockTypes: []string{"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
		MidBlockType:   ptr("UNetMidBlock2D"),
		UpBlockTypes:   []string{"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
		NormNumGroups:  32, NormEps: 1e-5, DownsamplePadding: 1, FlipSinToCos: true, ResnetTimeScaleShift: "default",
		AttentionHeadDim: listOrOne{8}, AddAttention: ptr(true), DownsampleType: "conv", UpsampleType: "conv",
	}
	if class == classConditional {
		d.InChannels, d.OutChannels, d.BlockOutChannels = 4, 4, []int{320, 640, 1280, 1280}
		d.DownBlockTypes = []string{"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"}
		d.MidBlockType = ptr("UNetMidBlock2DCrossAttn")
		d.UpBlockTypes = []string{"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}
		d.AddAttention, d.DownsampleType, d.UpsampleType = nil, "", ""
		d.CrossAttentionDim, d.TransformerLayersPerBlock = ptr(1280), listOrOne{1}
	}
	return d
}

// blockType is what the name of a block says.
type blockType struct {
	attention string
	sample    string // "" is what downsample_type and upsample_type say
}

var downTypes = map[string]blockType{
	"DownBlock2D":             {nn.AttendNone, nn.SampleConv},
	"ResnetDownsampleBlock2D": {nn.AttendNone, nn.SampleResBlock},
	"AttnDownBlock2D":         {nn.AttendSelf, ""},
	"CrossAttnDownBlock2D":    {nn.AttendTransformer, nn.SampleConv},
}

var upTypes = map[string]blockType{
	"UpBlock2D":             {nn.AttendNone, nn.SampleConv},
	"ResnetUpsampleBlock2D": {nn.AttendNone, nn.SampleResBlock},
	"AttnUpBlock2D":         {nn.AttendSelf, ""},
	"CrossAttnUpBlock2D":    {nn.AttendTransformer, nn.SampleConv},
}

var sampleTypes = map[string]string{"conv": nn.SampleConv, "resnet": nn.SampleResBlock}

// unetOf translates a config.json.
func unetOf(class string, fields map[string]json.RawMessage) (nn.LatentUNetConfig, error) {
	d := unetDefaults(class)
	var c nn.LatentUNetConfig
	if err := decodeFields(class, fields, &d); err != nil {
		return c, err
	}
	n := len(d.BlockOutChannels)
	err := first(
		between("the number of block_out_channels", n, 1, maxLevels),
		perLevel("down_block_types", len(d.DownBlockTypes), n),
		perLevel("up_block_types", len(d.UpBlockTypes), n),
		d.LayersPerBlock.check("layers_per_block", n),
	)
	if err != nil {
		return c, err
	}
	c = nn.LatentUNetConfig{
		InChannels: d.InChannels, OutChannels: d.OutChannels, ModelChannels: d.BlockOutChannels[0], TimeEmbedDim: 4 * d.BlockOutChannels[0],
		Channels: d.BlockOutChannels, NumResBlocks: d.LayersPerBlock.at(0), UseNewAttentionOrder: true, LinearProjection: d.UseLinearProjection,
		DownAttention: make([]string, n), UpAttention: make([]string, n), DownSample: make([]string, n-1), UpSample: make([]string, n-1),
		NormGroups: d.NormNumGroups, NormEps: d.NormEps, TimeCosFirst: d.FlipSinToCos, TimeFreqShift: d.FreqShift,
	}
	if d.TimeEmbeddingDim != nil {
		c.TimeEmbedDim = *d.TimeEmbeddingDim
	}
	if d.NumClassEmbeds != nil {
		c.NumClasses = *d.NumClassEmbeds
	}
	for _, l := range d.LayersPerBlock {
		if l != c.NumResBlocks {
			return c, fail(ErrUnsupported, "layers_per_block %v: only equal numbers can be run", d.LayersPerBlock)
		}
	}
	switch d.DownsamplePadding {
	case 0:
		c.DownsamplePadding = nn.PadRightBottom
	case 1:
		c.DownsamplePadding = nn.PadBoth
	default:
		return c, fail(ErrUnsupported, "downsample_padding %d: only 0 and 1 can be run", d.DownsamplePadding)
	}
	switch d.ResnetTimeScaleShift {
	case "default":
	case "scale_shift":
		c.UseScaleShiftNorm = true
	default:
		return c, fail(ErrUnsupported, "resnet_time_scale_shift %s: only default and scale_shift can be run", quote(d.ResnetTimeScaleShift))
	}
	for i := range n {
		down, ok := downTypes[d.DownBlockTypes[i]]
		up, ok2 := upTypes[d.UpBlockTypes[i]]
		if !ok || !ok2 {
			return c, fail(ErrUnsupported, "blocks of type %s and %s on level %d: not all known", quote(d.DownBlockTypes[i]), quote(d.UpBlockTypes[i]), i)
		}
		if down.sample == "" {
			down.sample = sampleTypes[d.DownsampleType]
		}
		if up.sample == "" {
			up.sample = sampleTypes[d.UpsampleType]
		}
		c.DownAttention[i], c.UpAttention[n-1-i] = down.attention, up.attention
		if i < n-1 {
			c.DownSample[i], c.UpSample[n-2-i] = down.sample, up.sample
			if down.sample == "" || up.sample == "" {
				return c, fail(ErrUnsupported, "downsample_type %s, upsample_type %s: only conv and resnet can be run", quote(d.DownsampleType), quote(d.UpsampleType))
			}
		}
	}
	if class == classConditional {
		err = conditional(&c, d)
	} else {
		err = unconditional(&c, d)
	}
	if err != nil {
		return c, err
	}
	return c, wrong(c.Check())
}

func unconditional(c *nn.LatentUNetConfig, d diffusersUNetConfig) error {
	if d.MidBlockType == nil || *d.MidBlockType != "UNetMidBlock2D" {
		return fail(ErrUnsupported, "mid_block_type: only UNetMidBlock2D can be run")
	}
	c.MiddleAttention = nn.AttendSelf
	if d.AddAttention != nil && !*d.AddAttention {
		c.MiddleAttention = nn.AttendNone
	}
	// The norm in front of the middle attention goes with additive embeddings, or with groups of its own.
	switch {
	case d.AttnNormGroups != nil:
		c.MiddleNormGroups = *d.AttnNormGroups
	case !c.UseScaleShiftNorm:
		c.MiddleNormGroups = d.NormNumGroups
	}
	if slices.Contains(c.DownAttention, nn.AttendTransformer) || slices.Contains(c.UpAttention, nn.AttendTransformer) {
		return fail(ErrUnsupported, "cross-attention blocks in %s", classUNet)
	}
	if len(d.AttentionHeadDim) > 1 {
		return fail(ErrConfig, "attention_head_dim %v: %s takes one number", d.AttentionHeadDim, classUNet)
	}
	for l, ch := range c.Channels {
		n := 1
		if len(d.AttentionHeadDim) == 1 && c.Attends(l) {
			width := d.AttentionHeadDim[0]
			if width < 1 || ch%width != 0 {
				return fail(ErrConfig, "attention_head_dim %d does not divide %d channels", width, ch)
			}
			n = ch / width
		}
		c.Heads = append(c.Heads, n)
	}
	return nil
}

func conditional(c *nn.LatentUNetConfig, d diffusersUNetConfig) error {
	n := len(c.Channels)
	if d.MidBlockType == nil || *d.MidBlockType != "UNetMidBlock2DCrossAttn" {
		return fail(ErrUnsupported, "mid_block_type: only UNetMidBlock2DCrossAttn can be run")
	}
	c.MiddleAttention = nn.AttendTransformer
	if slices.Contains(c.DownAttention, nn.AttendSelf) || slices.Contains(c.UpAttention, nn.AttendSelf) {
		return fail(ErrUnsupported, "self-attention blocks in %s", classConditional)
	}
	// attention_head_dim is the number of heads here, for historical reasons; the other field came later.
	heads := d.NumAttentionHeads
	if len(heads) == 0 {
		heads = d.AttentionHeadDim
	}
	if len(heads) == 0 {
		return fail(ErrConfig, "neither attention_head_dim nor num_attention_heads")
	}
	if d.CrossAttentionDim == nil || len(d.TransformerLayersPerBlock) == 0 {
		return fail(ErrConfig, "cross_attention_dim or transformer_layers_per_block is null")
	}
	if err := first(heads.check("attention_head_dim", n), d.TransformerLayersPerBlock.check("transformer_layers_per_block", n)); err != nil {
		return err
	}
	c.ContextDim, c.TransformerNormEps = *d.CrossAttentionDim, 1e-6
	for l := range c.Channels {
		c.Heads = append(c.Heads, heads.at(l))
		c.TransformerDepth = append(c.TransformerDepth, d.TransformerLayersPerBlock.at(l))
	}
	return nil
}

// diffusersAutoConfig has the fields of AutoencoderKL and VQModel that are understood.
type diffusersAutoConfig struct {
	InChannels       int      `json:"in_channels"`
	OutChannels      int      `json:"out_channels"`
	BlockOutChannels []int    `json:"block_out_channels"`
	LayersPerBlock   int      `json:"layers_per_block"`
	DownBlockTypes   []string `json:"down_block_types"`
	UpBlockTypes     []string `json:"up_block_types"`
	LatentChannels   int      `json:"latent_channels"`
	NormNumGroups    int      `json:"norm_num_groups"`
	ScalingFactor    float64  `json:"scaling_factor"`
	MidAttention     bool     `json:"mid_block_add_attention"`

	ShiftFactor   *float64  `json:"shift_factor,omitempty"` // AutoencoderKL
	LatentsMean   []float64 `json:"latents_mean,omitempty"`
	LatentsStd    []float64 `json:"latents_std,omitempty"`
	QuantConv     *bool     `json:"use_quant_conv,omitempty"`
	PostQuantConv *bool     `json:"use_post_quant_conv,omitempty"`

	NumEmbeddings  int  `json:"num_vq_embeddings,omitempty"` // VQModel
	EmbedDim       *int `json:"vq_embed_dim,omitempty"`
	LookupFromCode bool `json:"lookup_from_codebook,omitempty"`
}

// autoencoderOf translates a config.json.
func autoencoderOf(class string, fields map[string]json.RawMessage) (nn.AutoencoderConfig, error) {
	d := diffusersAutoConfig{
		InChannels: 3, OutChannels: 3, BlockOutChannels: []int{64}, LayersPerBlock: 1, LatentChannels: 4, NormNumGroups: 32,
		DownBlockTypes: []string{"DownEncoderBlock2D"}, UpBlockTypes: []string{"UpDecoderBlock2D"}, ScalingFactor: 0.18215, MidAttention: true,
	}
	if class == classVQ {
		d.LatentChannels, d.NumEmbeddings = 3, 256
	} else {
		d.QuantConv, d.PostQuantConv = ptr(true), ptr(true)
	}
	var c nn.AutoencoderConfig
	if err := decodeFields(class, fields, &d); err != nil {
		return c, err
	}
	n := len(d.BlockOutChannels)
	err := first(between("the number of block_out_channels", n, 1, maxLevels),
		perLevel("down_block_types", len(d.DownBlockTypes), n), perLevel("up_block_types", len(d.UpBlockTypes), n))
	if err != nil {
		return c, err
	}
	c = nn.AutoencoderConfig{
		InChannels: d.InChannels, OutChannels: d.OutChannels, ModelChannels: d.BlockOutChannels[0], Channels: d.BlockOutChannels,
		NumResBlocks: d.LayersPerBlock, ZChannels: d.LatentChannels, EmbedDim: d.LatentChannels, DoubleZ: class == classKL,
		DownAttention: make([]bool, n), MiddleAttention: d.MidAttention, UpAttention: make([]bool, n), ConvResample: true,
		DownsamplePadding: nn.PadRightBottom, QuantConv: true, PostQuantConv: true, NormGroups: d.NormNumGroups, NormEps: 1e-6,
		ScaleFactor: d.ScalingFactor, LatentsMean: d.LatentsMean, LatentsStd: d.LatentsStd,
	}
	if class == classVQ {
		c.NumEmbeddings, c.LookupFromCode = d.NumEmbeddings, d.LookupFromCode
		if d.QuantConv != nil || d.PostQuantConv != nil {
			return c, fail(ErrConfig, "use_quant_conv and use_post_quant_conv are not fields of %s", classVQ)
		}
		if err := between("num_vq_embeddings", d.NumEmbeddings, 1, maxEntries); err != nil {
			return c, err
		}
		if d.EmbedDim != nil {
			c.EmbedDim = *d.EmbedDim
		}
	} else {
		if d.EmbedDim != nil || d.NumEmbeddings != 0 {
			return c, fail(ErrConfig, "num_vq_embeddings and vq_embed_dim are not fields of %s", classKL)
		}
		c.QuantConv = d.QuantConv == nil || *d.QuantConv
		c.PostQuantConv = d.PostQuantConv == nil || *d.PostQuantConv
	}
	if d.ShiftFactor != nil {
		c.ShiftFactor = *d.ShiftFactor
	}
	for i := range n {
		switch d.DownBlockTypes[i] {
		case "DownEncoderBlock2D":
		case "AttnDownEncoderBlock2D":
			c.DownAttention[i] = true
		default:
			return c, fail(ErrUnsupported, "blocks of type %s", quote(d.DownBlockTypes[i]))
		}
		switch d.UpBlockTypes[i] {
		case "UpDecoderBlock2D":
		case "AttnUpDecoderBlock2D":
			c.UpAttention[n-1-i] = true
		default:
			return c, fail(ErrUnsupported, "blocks of type %s", quote(d.UpBlockTypes[i]))
		}
	}
	return c, wrong(c.Check())
}

// tinyOf translates a config.json, whose fields are nearly ours.
func tinyOf(fields map[string]json.RawMessage) (nn.TinyConfig, error) {
	var d struct {
		nn.TinyConfig
		ScalingFactor float64 `json:"scaling_factor"`
		Shift         float64 `json:"shift_factor"`
	}
	d.TinyConfig = nn.TinyConfig{
		InChannels: 3, OutChannels: 3, EncoderBlockOutChannels: []int{64, 64, 64, 64}, DecoderBlockOutChannels: []int{64, 64, 64, 64},
		NumEncoderBlocks: []int{1, 3, 3, 3}, NumDecoderBlocks: []int{3, 3, 3, 1}, LatentChannels: 4, LatentMagnitude: 3, LatentShift: 0.5,
		UpsamplingScalingFactor: 2,
	}
	d.ScalingFactor = 1
	if err := decodeFields(classTiny, fields, &d); err != nil {
		return d.TinyConfig, err
	}
	d.ScaleFactor, d.ShiftFactor = d.ScalingFactor, d.Shift
	return d.TinyConfig, wrong(d.Check())
}

// network is what a config.json describes.
type network struct {
	role, family string
	config       any
	layout       []param
	names        *names
	size         int // sample_size
}

// networkOf reads the fields of a config.json.
func networkOf(fields map[string]json.RawMessage) (n network, err error) {
	var class string
	if err := json.Unmarshal(fields["_class_name"], &class); err != nil {
		return n, fail(ErrConfig, "no _class_name: this is no configuration of diffusers")
	}
	n.size, err = sampleSize(fields["sample_size"])
	if err != nil {
		return n, err
	}
	switch class {
	case classUNet, classConditional:
		c, err := unetOf(class, fields)
		if err != nil {
			return n, err
		}
		n.role, n.family, n.config, n.layout, n.names = RoleUNet, FamilyLatent, c, unetLayout(c), unetNames(c)
	case classKL, classVQ:
		c, err := autoencoderOf(class, fields)
		if err != nil {
			return n, err
		}
		n.role, n.family, n.config, n.layout, n.names = RoleFirstStage, familyOf(c), c, autoencoderLayout(c), autoencoderNames(c)
	case classTiny:
		c, err := tinyOf(fields)
		if err != nil {
			return n, err
		}
		n.role, n.family, n.config, n.layout = RoleFirstStage, FamilyTiny, c, tinyLayout(c)
		n.names = sameNames(n.layout)
	default:
		return n, fail(ErrUnsupported, "class %s: only %s, %s, %s, %s and %s are read", quote(class), classUNet, classConditional, classKL, classVQ, classTiny)
	}
	return n, nil
}

// sampleSize reads a number, or height and width, or null.
func sampleSize(raw json.RawMessage) (int, error) {
	if raw == nil || string(bytes.TrimSpace(raw)) == "null" {
		return 0, nil
	}
	var l listOrOne
	if err := l.UnmarshalJSON(raw); err != nil || len(l) < 1 || len(l) > 2 {
		return 0, fail(ErrConfig, "sample_size: expected a number, or height and width")
	}
	size := slices.Max(l)
	return size, between("sample_size", size, 1, 1<<16)
}

// folder takes the folder of one component.
func (m *Model) folder(dir string, o Options, schedule *scheduler) error {
	path := filepath.Join(dir, configFile)
	fields, err := readJSON(path, maxJSON)
	if err != nil {
		return err
	}
	n, err := networkOf(fields)
	if err != nil {
		return in(path, err)
	}
	file, err := weightsOf(dir, o.Variant)
	if err != nil {
		return err
	}
	f, err := m.readAll(file)
	if err != nil {
		return err
	}
	if o.Source != "" && o.Source != SourceDiffusers {
		return in(dir, fail(ErrConfig, "the folder comes from %s, not from %s", SourceDiffusers, o.Source))
	}
	if err := m.component(n, f, o, schedule, nil); err != nil {
		return in(file, err)
	}
	return nil
}

// component puts the tensors of a network of diffusers into place.
func (m *Model) component(n network, f *input, o Options, schedule *scheduler, guesses []string) error {
	tensors, err := assemble(f.tensors, n.names, n.layout)
	if err != nil {
		return err
	}
	size := n.size
	if size == 0 {
		size = 64
		if n.role == RoleFirstStage {
			size = 256
		}
	}
	given, err := o.given(n.family)
	if err != nil {
		return err
	}
	usual := linear
	c, isUNet := n.config.(nn.LatentUNetConfig)
	if isUNet && c.ContextDim > 0 || n.role == RoleFirstStage {
		usual = sdLinear
	}
	info := newInfo(n.family, "", size, usual, n.config)
	info.LearnedRange = isUNet && c.OutChannels == 2*c.InChannels
	guess := func(asked bool, format string, args ...any) {
		if !asked && given == nil {
			info.Guesses = append(info.Guesses, fmt.Sprintf(format, args...)+": the folder does not tell")
		}
	}
	switch {
	case schedule != nil:
		info.Schedule, info.Prediction = schedule.Schedule, schedule.prediction
	case given != nil:
		info.Schedule, info.Prediction = given.Schedule, given.Prediction
	case n.role == RoleUNet:
		guess(o.Schedule != "", "schedule %s", inWords(info.Schedule))
		guess(o.Prediction != "", "prediction %s", info.Prediction)
	}
	if n.size == 0 {
		guess(o.ImageSize > 0, "image_size %d", info.ImageSize)
	}
	info.Guesses = append(info.Guesses, guesses...)
	if given != nil {
		info.Name, info.Version, info.License, info.Downsampling = given.Name, given.Version, given.License, given.Downsampling
		if err := sameNetwork(*given, n.config); err != nil {
			return err
		}
	}
	o.overrideInfo(&info)
	from := map[string]string{}
	for _, t := range tensors {
		if theirs := strings.Join(n.names.theirs[t.Name], " + "); theirs != t.Name {
			from[t.Name] = theirs
		}
	}
	m.Components = append(m.Components, Component{Role: n.role, Source: SourceDiffusers, Info: info, Tensors: tensors, From: from})
	return nil
}

// sameNetwork holds a given configuration against the one of a config.json, in what both tell of the tensors.
func sameNetwork(given weights.Info, config any) error {
	switch c := config.(type) {
	case nn.LatentUNetConfig:
		return sameLatent(given, c)
	case nn.AutoencoderConfig:
		return sameFirstStage(given, c)
	}
	return nil
}

// scheduler is what a pipeline's scheduler_config.json says.
type scheduler struct {
	weights.Schedule
	prediction string
}

// pixelPipelines diffuse pictures: they have a UNet, a scheduler and nothing else.
var pixelPipelines = []string{"DDPMPipeline", "DDIMPipeline", "PNDMPipeline"}

// pipeline takes a folder with a model_index.json.
func (m *Model) pipeline(dir string, o Options) error {
	path := filepath.Join(dir, pipelineFile)
	fields, err := readJSON(path, maxJSON)
	if err != nil {
		return err
	}
	var class string
	if raw, ok := fields["_class_name"]; ok && json.Unmarshal(raw, &class) != nil {
		return in(path, fail(ErrConfig, "_class_name is no text"))
	}
	found := map[string]string{} // class by subfolder
	for name, raw := range fields {
		var pair []*string
		if strings.HasPrefix(name, "_") || json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || pair[1] == nil {
			continue // a setting of the pipeline, or a part that this pipeline does without
		}
		found[name] = *pair[1]
	}
	var parts, rest []string
	var s *scheduler
	for name, class := range found {
		switch {
		case !filepath.IsLocal(name) || strings.ContainsAny(name, `/\:`):
			return in(path, fail(ErrConfig, "part %s is not the plain name of a folder", quote(name)))
		case slices.Contains([]string{classUNet, classConditional, classKL, classVQ, classTiny}, class):
			parts = append(parts, name)
		case name == "scheduler":
			// The first pipelines had everything in one folder.
			settings := filepath.Join(dir, name, "scheduler_config.json")
			if flat := filepath.Join(dir, "scheduler_config.json"); !exists(settings) && exists(flat) {
				settings = flat
			}
			if s, err = schedulerOf(settings); err != nil {
				return err
			}
		default:
			rest = append(rest, name)
		}
	}
	slices.Sort(parts)
	slices.Sort(rest)
	for _, name := range rest {
		m.note("left out %s (%s): not converted", printable(name), printable(found[name]))
	}
	if len(parts) == 0 {
		return in(path, fail(ErrUnrecognised, "no part is a network that is read here"))
	}
	if s == nil {
		m.note("the pipeline has no scheduler: the usual schedule is assumed")
	}
	for _, name := range parts {
		part := filepath.Join(dir, name)
		if len(parts) == 1 && !exists(part) && exists(filepath.Join(dir, configFile)) {
			part = dir
		}
		if err := m.folder(part, o, s); err != nil {
			return err
		}
	}
	if u := &m.Components[0]; len(parts) == 1 && slices.Contains(pixelPipelines, class) && u.Info.Family == FamilyLatent {
		u.Info.Downsampling = 1
	}
	roles := map[string]bool{}
	for _, c := range m.Components {
		if roles[c.Role] {
			return in(path, fail(ErrMixed, "two networks have the role %s: name the folder of one", c.Role))
		}
		roles[c.Role] = true
	}
	slices.SortStableFunc(m.Components, func(a, b Component) int { return -strings.Compare(a.Role, b.Role) })
	return o.mustFit(m)
}

// schedulerOf reads a scheduler_config.json: only the noise of the training counts here, not how to sample.
func schedulerOf(path string) (*scheduler, error) {
	fields, err := readJSON(path, maxJSON)
	if err != nil {
		return nil, err
	}
	d := struct {
		Steps      int       `json:"num_train_timesteps"`
		First      float64   `json:"beta_start"`
		Last       float64   `json:"beta_end"`
		Kind       string    `json:"beta_schedule"`
		Betas      []float64 `json:"trained_betas"`
		Prediction string    `json:"prediction_type"`
	}{1000, 1e-4, 0.02, "linear", nil, "epsilon"}
	known := map[string]json.RawMessage{}
	for _, k := range []string{"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"} {
		if raw, ok := fields[k]; ok {
			known[k] = raw
		}
	}
	bad := func(format string, args ...any) error { return in(path, fail(ErrConfig, format, args...)) }
	if err := weights.StrictJSON(marshal(known), &d); err != nil {
		return nil, bad("%v", err)
	}
	if d.Steps < 1 || d.Steps > 100_000 {
		return nil, bad("num_train_timesteps is %d, expected 1 to 100000", d.Steps)
	}
	s := &scheduler{Schedule: weights.Schedule{T: d.Steps, BetaFirst: d.First, BetaLast: d.Last}}
	switch {
	case d.Betas != nil:
		s.Schedule = weights.Schedule{Kind: "explicit", T: len(d.Betas), Betas: d.Betas}
	case d.Kind == "linear":
		s.Kind = "linear"
	case d.Kind == "scaled_linear":
		s.Kind = "scaled-linear"
	case d.Kind == "squaredcos_cap_v2":
		s.Schedule = cosine(d.Steps)
	default:
		return nil, bad("beta_schedule %s is not known", quote(d.Kind))
	}
	if _, err := s.Values(); err != nil {
		return nil, bad("%v", err)
	}
	var ok bool
	if s.prediction, ok = map[string]string{"epsilon": "eps", "v_prediction": "v", "sample": "x0"}[d.Prediction]; !ok {
		return nil, bad("prediction_type %s is not known", quote(d.Prediction))
	}
	return s, nil
}

// diffusersFile takes the weights of one component without its folder: config.json may lie beside them; else the
// configuration is found from names and shapes, and what leaves no trace there is guessed.
func (m *Model) diffusersFile(f *input, list []weights.Tensor, o Options) error {
	f.tensors = list
	beside := filepath.Join(filepath.Dir(f.path), configFile)
	if exists(beside) {
		fields, err := readJSON(beside, maxJSON)
		if err != nil {
			return err
		}
		if _, ok := fields["_class_name"]; ok {
			n, err := networkOf(fields)
			if err != nil {
				return in(beside, err)
			}
			m.note("took the configuration from %s", beside)
			return m.component(n, f, o, nil, nil)
		}
	}
	fields, guesses, err := guessConfig(shapesOf(modernised(list)))
	if err != nil {
		return err
	}
	n, err := networkOf(fields)
	if err != nil {
		return err
	}
	return m.component(n, f, o, nil, guesses)
}

func modernised(list []weights.Tensor) []weights.Tensor {
	list = slices.Clone(list)
	for i := range list {
		list[i].Name = modern(list[i].Name)
	}
	return list
}

// guessConfig writes the config.json that a network's tensors imply.
func guessConfig(s shapes) (map[string]json.RawMessage, []string, error) {
	d := &dims{s: s}
	var guesses []string
	guess := func(format string, args ...any) {
		guesses = append(guesses, fmt.Sprintf(format, args...)+": there is no config.json")
	}
	config := map[string]any{}
	norm := func(channels []int) {
		groups := 32
		for _, ch := range channels {
			for groups > 1 && ch%groups != 0 {
				groups /= 2
			}
		}
		config["norm_num_groups"] = groups
		guess("norm_num_groups %d", groups)
	}
	if s.has("encoder.layers.0.weight") {
		return nil, nil, fail(ErrMissing, "an AutoencoderTiny needs its %s beside it", configFile)
	}
	if s.has("encoder.conv_in.weight") {
		levels, _ := s.count("encoder.down_blocks.")
		if err := between("the number of levels", levels, 1, maxLevels); err != nil {
			return nil, nil, err
		}
		var channels []int
		var down, up []string
		for l := range levels {
			channels = append(channels, d.get(fmt.Sprintf("encoder.down_blocks.%d.resnets.0.conv1.weight", l), 4, 0))
			down = append(down, choose(s.has("encoder.down_blocks.%d.attentions.0.to_q.weight", l), "AttnDownEncoderBlock2D", "DownEncoderBlock2D"))
			up = append(up, choose(s.has("decoder.up_blocks.%d.attentions.0.to_q.weight", l), "AttnUpDecoderBlock2D", "UpDecoderBlock2D"))
		}
		config["block_out_channels"], config["down_block_types"], config["up_block_types"] = channels, down, up
		config["layers_per_block"], _ = s.count("encoder.down_blocks.0.resnets.")
		config["in_channels"] = d.get("encoder.conv_in.weight", 4, 1)
		config["out_channels"] = d.get("decoder.conv_out.weight", 4, 0)
		config["latent_channels"] = d.get("decoder.conv_in.weight", 4, 1)
		config["mid_block_add_attention"] = s.has("encoder.mid_block.attentions.0.to_q.weight")
		if s.has("quantize.embedding.weight") {
			config["_class_name"] = classVQ
			config["num_vq_embeddings"] = d.get("quantize.embedding.weight", 2, 0)
			config["vq_embed_dim"] = d.get("quantize.embedding.weight", 2, 1)
		} else {
			config["_class_name"] = classKL
			config["use_quant_conv"], config["use_post_quant_conv"] = s.has("quant_conv.weight"), s.has("post_quant_conv.weight")
		}
		norm(channels)
		guess("scaling_factor 0.18215")
		return fieldsOf(config), guesses, d.err
	}
	levels, _ := s.count("down_blocks.")
	if err := between("the number of levels", levels, 1, maxLevels); err != nil {
		return nil, nil, err
	}
	config["_class_name"] = classUNet
	_, conditional := s.find(".attn2.to_k.weight")
	var channels, depth []int
	var down, up []string
	for l := range levels {
		channels = append(channels, d.get(fmt.Sprintf("down_blocks.%d.resnets.0.conv1.weight", l), 4, 0))
		a := s.diffusersAttention(fmt.Sprintf("down_blocks.%d.attentions.0", l))
		down = append(down, map[string]string{nn.AttendNone: "DownBlock2D", nn.AttendSelf: "AttnDownBlock2D", nn.AttendTransformer: "CrossAttnDownBlock2D"}[a])
		if s.has("down_blocks.%d.downsamplers.0.conv1.weight", l) {
			if a == nn.AttendNone {
				down[l] = "ResnetDownsampleBlock2D"
			} else {
				config["downsample_type"] = "resnet"
			}
		}
		a = s.diffusersAttention(fmt.Sprintf("up_blocks.%d.attentions.0", l))
		up = append(up, map[string]string{nn.AttendNone: "UpBlock2D", nn.AttendSelf: "AttnUpBlock2D", nn.AttendTransformer: "CrossAttnUpBlock2D"}[a])
		if s.has("up_blocks.%d.upsamplers.0.conv1.weight", l) {
			if a == nn.AttendNone {
				up[l] = "ResnetUpsampleBlock2D"
			} else {
				config["upsample_type"] = "resnet"
			}
		}
		n, _ := s.count(fmt.Sprintf("down_blocks.%d.attentions.0.transformer_blocks.", l))
		depth = append(depth, max(1, n))
	}
	config["block_out_channels"], config["down_block_types"], config["up_block_types"] = channels, down, up
	config["layers_per_block"], _ = s.count("down_blocks.0.resnets.")
	config["in_channels"], config["out_channels"] = d.get("conv_in.weight", 4, 1), d.get("conv_out.weight", 4, 0)
	config["time_embedding_dim"] = d.get("time_embedding.linear_1.weight", 2, 0)
	if d.get("down_blocks.0.resnets.0.time_emb_proj.weight", 2, 0) == 2*channels[0] {
		config["resnet_time_scale_shift"] = "scale_shift"
	}
	if s.has("class_embedding.weight") {
		config["num_class_embeds"] = d.get("class_embedding.weight", 2, 0)
	}
	norm(channels)
	if conditional {
		config["_class_name"] = classConditional
		name, _ := s.find(".attn2.to_k.weight")
		config["cross_attention_dim"] = d.get(name, 2, 1)
		n, _ := s.count("mid_block.attentions.0.transformer_blocks.")
		depth[levels-1] = max(1, n)
		config["transformer_layers_per_block"] = depth
		heads := []int{8}
		if name, _ := s.find(".proj_in.weight"); len(s[name]) == 2 {
			config["use_linear_projection"] = true
			heads = nil
			for _, ch := range channels {
				heads = append(heads, max(1, ch/64))
			}
		}
		config["attention_head_dim"] = heads
		guess("heads %v", heads)
	} else {
		config["add_attention"] = s.has("mid_block.attentions.0.to_q.weight")
		if s.has("mid_block.attentions.0.group_norm.weight") && config["resnet_time_scale_shift"] != nil {
			config["attn_norm_num_groups"] = config["norm_num_groups"]
		}
		config["attention_head_dim"] = 8
		guess("attention_head_dim 8")
	}
	guess("norm_eps 1e-05, downsample_padding 1, flip_sin_to_cos true, freq_shift 0")
	return fieldsOf(config), guesses, d.err
}

func choose(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

// diffusersAttention tells the kind at a name of diffusers.
func (s shapes) diffusersAttention(name string) string {
	switch {
	case s.has("%s.to_q.weight", name):
		return nn.AttendSelf
	case s.has("%s.proj_in.weight", name):
		return nn.AttendTransformer
	}
	return nn.AttendNone
}

func fieldsOf(config map[string]any) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	for k, v := range config {
		m[k] = marshal(v)
	}
	return m
}
