package nn

import (
	"fmt"
	"slices"

	"github.com/spin-native/spin/weights"
)

// The kinds of attention after the residual blocks of a level.
const (
	AttendNone        = "none"
	AttendSelf        = "self"        // norm, qkv, proj_out
	AttendTransformer = "transformer" // spatial transformer
)

// The ways to change the size between two levels.
const (
	SampleConv     = "conv"     // down: stride 2; up: nearest, then a convolution
	SampleResBlock = "resblock" // inside a residual block, after its first norm
	SamplePlain    = "plain"    // 2x2 mean, nearest: no weights
)

// Where a stride-2 convolution pads its input.
const (
	PadBoth        = "both"         // one pixel on every side
	PadRightBottom = "right-bottom" // one pixel on the right and at the bottom only
)

// LatentUNetConfig describes the UNets of latent-diffusion (Rombach et al. 2022, CompVis/latent-diffusion openaimodel.py)
// and of diffusers (UNet2DModel, UNet2DConditionModel): everything in which they differ is a field. Lists run over the
// levels, full resolution first. The sinusoidal embedding of the timestep has ModelChannels values. The JSON form is what
// converted files carry.
type LatentUNetConfig struct {
	InChannels    int   `json:"in_channels"`
	OutChannels   int   `json:"out_channels"`
	ModelChannels int   `json:"model_channels"`
	StemChannels  int   `json:"stem_channels,omitempty"` // outputs of the first convolution; 0: ModelChannels
	TimeEmbedDim  int   `json:"time_embed_dim"`
	Channels      []int `json:"channels"`
	NumResBlocks  int   `json:"num_res_blocks"`

	DownAttention        []string `json:"down_attention"` // none, self or transformer
	MiddleAttention      string   `json:"middle_attention"`
	UpAttention          []string `json:"up_attention"`
	Heads                []int    `json:"heads"` // of a level's attentions; the middle has the last level's
	UseNewAttentionOrder bool     `json:"use_new_attention_order"`
	ContextDim           int      `json:"context_dim"` // width of what the transformers attend to, 0 without them
	TransformerDepth     []int    `json:"transformer_depth,omitempty"`
	LinearProjection     bool     `json:"linear_projection"` // proj_in and proj_out are matrices, not 1x1 convolutions

	UseScaleShiftNorm bool     `json:"use_scale_shift_norm"`
	DownSample        []string `json:"down_sample"` // below each level but the last: conv, resblock or plain
	UpSample          []string `json:"up_sample"`   // up to each level but the last
	DownsamplePadding string   `json:"downsample_padding"`
	NumClasses        int      `json:"num_classes"` // 0: no label_emb

	NormGroups         int     `json:"norm_groups"`
	NormEps            float64 `json:"norm_eps"`
	MiddleNormGroups   int     `json:"middle_norm_groups"`   // of the middle self-attention; 0: it has no norm
	TransformerNormEps float64 `json:"transformer_norm_eps"` // of the norm in front of a spatial transformer

	TimeCosFirst  bool    `json:"time_cos_first"`  // embedding is (cos, sin), else (sin, cos)
	TimeFreqShift float64 `json:"time_freq_shift"` // frequencies exp(-ln 10000 * i / (half - shift))

	upHeads []int // of the upward half where they differ, which only guided-diffusion's num_heads_upsample can say
}

// ParseLatentUNetConfig reads the JSON form, strictly, and checks it.
func ParseLatentUNetConfig(data []byte) (LatentUNetConfig, error) {
	var c LatentUNetConfig
	if err := weights.StrictJSON(data, &c); err != nil {
		return c, fmt.Errorf("nn: latent UNet configuration: %w", err)
	}
	return c, c.Check()
}

// Downsampling is the factor between the input and the smallest inner image: sizes must be divisible by it.
func (c LatentUNetConfig) Downsampling() int { return 1 << (len(c.Channels) - 1) }

// Stem is the number of outputs of the first convolution.
func (c LatentUNetConfig) Stem() int {
	if c.StemChannels > 0 {
		return c.StemChannels
	}
	return c.ModelChannels
}

// Attention is the kind that a level has on either side, none if it has it on neither.
func (c LatentUNetConfig) Attention(level int) string {
	if a := c.DownAttention[level]; a != AttendNone {
		return a
	}
	return c.UpAttention[level]
}

// Attends reports whether the level's number of heads means anything.
func (c LatentUNetConfig) Attends(level int) bool {
	return c.Attention(level) != AttendNone || level == len(c.Channels)-1 && c.MiddleAttention != AttendNone
}

// Depth is the number of blocks of a level's transformers.
func (c LatentUNetConfig) Depth(level int) int {
	if len(c.TransformerDepth) == 0 {
		return 0
	}
	return c.TransformerDepth[level]
}

// Check reports the first thing that is impossible, in the words of the JSON form.
func (c LatentUNetConfig) Check() error {
	err := c.checkSizes()
	if err == nil {
		err = c.checkLevels()
	}
	if err == nil {
		err = c.checkTransformers()
	}
	if err != nil {
		return fmt.Errorf("nn: latent UNet configuration: %w", err)
	}
	return nil
}

func (c LatentUNetConfig) checkSizes() error {
	err := first(
		between("in_channels", c.InChannels, 1, maxChannels),
		between("out_channels", c.OutChannels, 1, maxChannels),
		between("model_channels", c.ModelChannels, 2, maxChannels),
		between("stem_channels", c.StemChannels, 0, maxChannels),
		between("time_embed_dim", c.TimeEmbedDim, 1, 4*maxChannels),
		between("num_res_blocks", c.NumResBlocks, 1, maxBlocks),
		between("num_classes", c.NumClasses, 0, maxEntries),
		between("context_dim", c.ContextDim, 0, maxChannels),
		checkNorm(c.NormGroups, c.NormEps),
	)
	switch {
	case err != nil:
		return err
	case c.ModelChannels%2 != 0 || c.Stem()%c.NormGroups != 0:
		return fmt.Errorf("model_channels %d must be even, and the first convolution's %d outputs a multiple of norm_groups %d", c.ModelChannels, c.Stem(), c.NormGroups)
	case !(c.TimeFreqShift >= 0 && c.TimeFreqShift < float64(c.ModelChannels/2)):
		return fmt.Errorf("time_freq_shift %g does not fit model_channels %d", c.TimeFreqShift, c.ModelChannels)
	}
	return checkChannels(c.Channels, c.NormGroups)
}

func (c LatentUNetConfig) checkLevels() error {
	n := len(c.Channels)
	err := first(
		perLevel("down_attention", len(c.DownAttention), n),
		perLevel("up_attention", len(c.UpAttention), n),
		perLevel("heads", len(c.Heads), n),
		perLevel("down_sample", len(c.DownSample), n-1),
		perLevel("up_sample", len(c.UpSample), n-1),
		oneOf("middle_attention", c.MiddleAttention, AttendNone, AttendSelf, AttendTransformer),
		oneOf("downsample_padding", c.DownsamplePadding, PadBoth, PadRightBottom),
		between("middle_norm_groups", c.MiddleNormGroups, 0, maxChannels),
	)
	if err != nil {
		return err
	}
	for l := range c.Channels {
		err := first(
			oneOf("down_attention", c.DownAttention[l], AttendNone, AttendSelf, AttendTransformer),
			oneOf("up_attention", c.UpAttention[l], AttendNone, AttendSelf, AttendTransformer),
		)
		if err == nil && l < n-1 {
			err = first(
				oneOf("down_sample", c.DownSample[l], SampleConv, SampleResBlock, SamplePlain),
				oneOf("up_sample", c.UpSample[l], SampleConv, SampleResBlock, SamplePlain),
			)
		}
		if err != nil {
			return err
		}
		if c.Heads[l] < 1 || c.Heads[l] > maxChannels || c.Attends(l) && c.Channels[l]%c.Heads[l] != 0 {
			return fmt.Errorf("%d channels of level %d do not divide into %d heads", c.Channels[l], l, c.Heads[l])
		}
	}
	if c.MiddleAttention == AttendSelf && c.MiddleNormGroups > 0 && c.Channels[n-1]%c.MiddleNormGroups != 0 {
		return fmt.Errorf("%d channels do not divide into middle_norm_groups %d", c.Channels[n-1], c.MiddleNormGroups)
	}
	return nil
}

func (c LatentUNetConfig) checkTransformers() error {
	if !slices.Contains(slices.Concat(c.DownAttention, c.UpAttention, []string{c.MiddleAttention}), AttendTransformer) {
		if len(c.TransformerDepth) != 0 || c.ContextDim != 0 {
			return fmt.Errorf("context_dim %d and transformer_depth %v, but no level has a transformer", c.ContextDim, c.TransformerDepth)
		}
		return nil
	}
	if err := perLevel("transformer_depth", len(c.TransformerDepth), len(c.Channels)); err != nil {
		return err
	}
	for _, d := range c.TransformerDepth {
		if err := between("transformer_depth", d, 1, maxDepth); err != nil {
			return err
		}
	}
	if c.ContextDim < 1 || !(c.TransformerNormEps > 0 && c.TransformerNormEps < 1) {
		return fmt.Errorf("context_dim %d and transformer_norm_eps %g must be positive where there are transformers", c.ContextDim, c.TransformerNormEps)
	}
	return nil
}
