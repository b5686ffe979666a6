package nn

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// UNetConfig describes a guided-diffusion UNetModel (Dhariwal and Nichol 2021, openai/guided-diffusion unet.py), in the
// words of its constructor. The JSON form is what converted files carry.
type UNetConfig struct {
	InChannels           int       `json:"in_channels"`
	OutChannels          int       `json:"out_channels"` // twice InChannels where the variance is learned
	ModelChannels        int       `json:"model_channels"`
	NumResBlocks         int       `json:"num_res_blocks"`
	AttentionResolutions []int     `json:"attention_resolutions"` // downsampling factors, not pixels
	ChannelMult          []float64 `json:"channel_mult"`
	NumHeads             int       `json:"num_heads"`
	NumHeadChannels      int       `json:"num_head_channels"`  // where positive, decides instead of NumHeads
	NumHeadsUpsample     int       `json:"num_heads_upsample"` // where positive, NumHeads of the upward half
	UseScaleShiftNorm    bool      `json:"use_scale_shift_norm"`
	ResBlockUpDown       bool      `json:"resblock_updown"`
	ConvResample         bool      `json:"conv_resample"`
	UseNewAttentionOrder bool      `json:"use_new_attention_order"`
	NumClasses           int       `json:"num_classes"` // 0: not conditioned on classes
}

// ParseUNetConfig reads the JSON form. Absent fields take the constructor's defaults; unknown ones are errors.
func ParseUNetConfig(data []byte) (UNetConfig, error) {
	c := UNetConfig{NumHeads: 1, NumHeadChannels: -1, NumHeadsUpsample: -1, ConvResample: true}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, fmt.Errorf("nn: UNet configuration: %w", err)
	}
	return c, c.Check()
}

// Downsampling is the factor between the input and the smallest inner image: sizes must be divisible by it.
func (c UNetConfig) Downsampling() int { return 1 << (len(c.ChannelMult) - 1) }

func (c UNetConfig) channels(level int) int {
	return int(c.ChannelMult[level] * float64(c.ModelChannels))
}

func (c UNetConfig) heads(channels int, up bool) int {
	switch {
	case c.NumHeadChannels > 0:
		return channels / c.NumHeadChannels
	case up && c.NumHeadsUpsample > 0:
		return c.NumHeadsUpsample
	}
	return c.NumHeads
}

func (c UNetConfig) attends(ds int) bool {
	for _, r := range c.AttentionResolutions {
		if r == ds {
			return true
		}
	}
	return false
}

// general describes the same network in words that also fit those of latent-diffusion and diffusers.
func (c UNetConfig) general() LatentUNetConfig {
	g := LatentUNetConfig{
		InChannels: c.InChannels, OutChannels: c.OutChannels, ModelChannels: c.ModelChannels, StemChannels: c.channels(0),
		TimeEmbedDim: 4 * c.ModelChannels, NumResBlocks: c.NumResBlocks, MiddleAttention: AttendSelf,
		UseNewAttentionOrder: c.UseNewAttentionOrder, UseScaleShiftNorm: c.UseScaleShiftNorm, NumClasses: c.NumClasses,
		DownsamplePadding: PadBoth, NormGroups: groups, NormEps: 1e-5, MiddleNormGroups: groups, TimeCosFirst: true,
	}
	sampling := SamplePlain
	switch {
	case c.ResBlockUpDown:
		sampling = SampleResBlock
	case c.ConvResample:
		sampling = SampleConv
	}
	for level := range c.ChannelMult {
		ch, attention := c.channels(level), AttendNone
		if c.attends(1 << level) {
			attention = AttendSelf
		}
		g.Channels = append(g.Channels, ch)
		g.DownAttention, g.UpAttention = append(g.DownAttention, attention), append(g.UpAttention, attention)
		g.Heads, g.upHeads = append(g.Heads, c.heads(ch, false)), append(g.upHeads, c.heads(ch, true))
		if level > 0 {
			g.DownSample, g.UpSample = append(g.DownSample, sampling), append(g.UpSample, sampling)
		}
	}
	return g
}

// groups is the number of groups of every GroupNorm of guided-diffusion.
const groups = 32

// Check reports what is impossible about the configuration, in the words of its JSON form.
func (c UNetConfig) Check() error {
	bad := func(format string, args ...any) error { return fmt.Errorf("nn: UNet configuration: "+format, args...) }
	const most = 1 << 16
	switch {
	case c.InChannels < 1 || c.InChannels > most || c.OutChannels < 1 || c.OutChannels > most:
		return bad("in_channels %d, out_channels %d: expected 1 or more", c.InChannels, c.OutChannels)
	case c.ModelChannels < 2 || c.ModelChannels > most || c.ModelChannels%2 != 0:
		return bad("model_channels %d: expected an even number", c.ModelChannels)
	case c.NumResBlocks < 1 || c.NumResBlocks > 64:
		return bad("num_res_blocks %d: expected 1 to 64", c.NumResBlocks)
	case len(c.ChannelMult) < 1 || len(c.ChannelMult) > 10:
		return bad("channel_mult has %d levels: expected 1 to 10", len(c.ChannelMult))
	case c.NumClasses < 0:
		return bad("num_classes %d: expected 0 or more", c.NumClasses)
	case c.NumHeads < 1 && c.NumHeadChannels < 1:
		return bad("num_heads %d, num_head_channels %d: one of them must be positive", c.NumHeads, c.NumHeadChannels)
	}
	for i, m := range c.ChannelMult {
		ch := c.channels(i)
		if !(m > 0 && m <= 1024) || ch%groups != 0 || ch > most {
			return bad("channel_mult %v of %d channels gives %d: expected a multiple of %d", m, c.ModelChannels, ch, groups)
		}
		if c.attends(1<<i) || i == len(c.ChannelMult)-1 { // the middle always attends
			for _, up := range []bool{false, true} {
				if h := c.heads(ch, up); h < 1 || ch%h != 0 || c.NumHeadChannels > 0 && ch%c.NumHeadChannels != 0 {
					return bad("%d channels do not divide into %d heads (num_heads %d, num_head_channels %d)", ch, h, c.NumHeads, c.NumHeadChannels)
				}
			}
		}
	}
	return nil
}

// CreateModel is the same model in the words of guided-diffusion's scripts (script_util.create_model), where attention
// is given in pixels.
type CreateModel struct {
	ImageSize            int    `json:"image_size"`
	NumChannels          int    `json:"num_channels"`
	NumResBlocks         int    `json:"num_res_blocks"`
	ChannelMult          string `json:"channel_mult"`
	LearnSigma           bool   `json:"learn_sigma"`
	ClassCond            bool   `json:"class_cond"`
	AttentionResolutions string `json:"attention_resolutions"`
	NumHeads             int    `json:"num_heads"`
	NumHeadChannels      int    `json:"num_head_channels"`
	NumHeadsUpsample     int    `json:"num_heads_upsample"`
	UseScaleShiftNorm    bool   `json:"use_scale_shift_norm"`
	ResBlockUpDown       bool   `json:"resblock_updown"`
	UseNewAttentionOrder bool   `json:"use_new_attention_order"`
}

// imagenetClasses is the number of classes that class_cond stands for.
const imagenetClasses = 1000

// Config translates to the constructor's words.
func (m CreateModel) Config() (UNetConfig, error) {
	c := UNetConfig{
		InChannels: 3, OutChannels: 3, ModelChannels: m.NumChannels, NumResBlocks: m.NumResBlocks,
		NumHeads: m.NumHeads, NumHeadChannels: m.NumHeadChannels, NumHeadsUpsample: m.NumHeadsUpsample,
		UseScaleShiftNorm: m.UseScaleShiftNorm, ResBlockUpDown: m.ResBlockUpDown, ConvResample: true,
		UseNewAttentionOrder: m.UseNewAttentionOrder,
	}
	if m.LearnSigma {
		c.OutChannels = 6
	}
	if m.ClassCond {
		c.NumClasses = imagenetClasses
	}
	mult := m.ChannelMult
	if mult == "" {
		mult = map[int]string{512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}[m.ImageSize]
	}
	for _, s := range strings.Split(mult, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil {
			return c, fmt.Errorf("nn: channel_mult %q with image_size %d: expected numbers with commas", m.ChannelMult, m.ImageSize)
		}
		c.ChannelMult = append(c.ChannelMult, v)
	}
	for _, s := range strings.Split(m.AttentionResolutions, ",") {
		v, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || v < 1 {
			return c, fmt.Errorf("nn: attention_resolutions %q: expected pixel sizes with commas", m.AttentionResolutions)
		}
		c.AttentionResolutions = append(c.AttentionResolutions, m.ImageSize/v)
	}
	return c, c.Check()
}
