package checkpoint

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// The families of weights.Info that components are of.
const (
	FamilyGuided = "guided-diffusion-unet"
	FamilyLatent = "latent-diffusion-unet"
	FamilyKL     = "autoencoder-kl"
	FamilyVQ     = "vq-model"
	FamilyTiny   = "autoencoder-tiny"
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
	PadBoth        = "both" // one pixel on every side
	PadRightBottom = nn.PadRightBottom
)

// UNetConfig describes the UNets of latent-diffusion and of diffusers (family latent-diffusion-unet): everything in
// which they differ is a field. Lists run over the levels, full resolution first. The first convolution has
// ModelChannels outputs, and the sinusoidal embedding of the timestep as many values.
type UNetConfig struct {
	InChannels    int   `json:"in_channels"`
	OutChannels   int   `json:"out_channels"`
	ModelChannels int   `json:"model_channels"`
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

	stem int // outputs of the first convolution where they are not ModelChannels, as in guided-diffusion
}

// limits of what a configuration may ask for, far above every published network.
const (
	maxLevels   = 10
	maxBlocks   = 64
	maxChannels = 1 << 16
	maxDepth    = 64
	maxEntries  = 1 << 24 // classes, code vectors
)

// ParseUNetConfig reads the JSON form, strictly, and checks it.
func ParseUNetConfig(b []byte) (UNetConfig, error) {
	var c UNetConfig
	return c, parseConfig(b, &c, &c)
}

// ParseAutoencoderConfig is nn's, with this package's errors.
func ParseAutoencoderConfig(b []byte) (nn.AutoencoderConfig, error) {
	c, err := nn.ParseAutoencoderConfig(b)
	return c, wrong(err)
}

// ParseTinyConfig is nn's, with this package's errors.
func ParseTinyConfig(b []byte) (nn.TinyConfig, error) {
	c, err := nn.ParseTinyConfig(b)
	return c, wrong(err)
}

// wrong makes an error of this package of what package nn says about a configuration.
func wrong(err error) error {
	if err == nil {
		return nil
	}
	return fail(ErrConfig, "%s", strings.TrimPrefix(err.Error(), "nn: "))
}

type checker interface{ Check() error }

func parseConfig(b []byte, v any, c checker) error {
	if err := weights.StrictJSON(b, v); err != nil {
		return fail(ErrConfig, "configuration: %v", err)
	}
	return c.Check()
}

func between(name string, v, least, most int) error {
	if v < least || v > most {
		return fail(ErrConfig, "configuration: %s is %d, expected %d to %d", name, v, least, most)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func oneOf(name, v string, list ...string) error {
	if !slices.Contains(list, v) {
		return fail(ErrConfig, "configuration: %s is %s, expected one of %v", name, quote(v), list)
	}
	return nil
}

func perLevel(name string, got, want int) error {
	if got != want {
		return fail(ErrConfig, "configuration: %s has %d entries, expected %d", name, got, want)
	}
	return nil
}

// checkNorm proves that a norm can be computed: eps is what keeps it from dividing by zero.
func checkNorm(groups int, eps float64) error {
	if err := between("norm_groups", groups, 1, maxChannels); err != nil {
		return err
	}
	if !(eps > 0 && eps < 1) {
		return fail(ErrConfig, "configuration: norm_eps is %g, expected a small positive number", eps)
	}
	return nil
}

func checkChannels(list []int, groups int) error {
	if err := between("the number of levels", len(list), 1, maxLevels); err != nil {
		return err
	}
	for _, c := range list {
		if c < 1 || c > maxChannels || c%groups != 0 {
			return fail(ErrConfig, "configuration: channels %v with norm_groups %d: every level must be a multiple of the groups and at most %d", list, groups, maxChannels)
		}
	}
	return nil
}

// Check reports the first thing that is impossible.
func (c UNetConfig) Check() error {
	err := first(
		between("in_channels", c.InChannels, 1, maxChannels),
		between("out_channels", c.OutChannels, 1, maxChannels),
		between("model_channels", c.ModelChannels, 2, maxChannels),
		between("time_embed_dim", c.TimeEmbedDim, 1, 4*maxChannels),
		between("num_res_blocks", c.NumResBlocks, 1, maxBlocks),
		between("num_classes", c.NumClasses, 0, maxEntries),
		between("context_dim", c.ContextDim, 0, maxChannels),
		checkNorm(c.NormGroups, c.NormEps),
	)
	if err == nil {
		err = checkChannels(c.Channels, c.NormGroups)
	}
	if err != nil {
		return err
	}
	n := len(c.Channels)
	err = first(
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
	if c.ModelChannels%2 != 0 || c.ModelChannels%c.NormGroups != 0 {
		return fail(ErrConfig, "configuration: model_channels %d must be even and a multiple of norm_groups %d", c.ModelChannels, c.NormGroups)
	}
	if !(c.TimeFreqShift >= 0 && c.TimeFreqShift < float64(c.ModelChannels/2)) {
		return fail(ErrConfig, "configuration: time_freq_shift %g does not fit model_channels %d", c.TimeFreqShift, c.ModelChannels)
	}
	transformer := c.MiddleAttention == AttendTransformer
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
		transformer = transformer || c.attention(l) == AttendTransformer
		if c.Heads[l] < 1 || c.Heads[l] > maxChannels || c.attends(l) && c.Channels[l]%c.Heads[l] != 0 {
			return fail(ErrConfig, "configuration: %d channels of level %d do not divide into %d heads", c.Channels[l], l, c.Heads[l])
		}
	}
	if c.MiddleAttention == AttendSelf && c.MiddleNormGroups > 0 && c.Channels[n-1]%c.MiddleNormGroups != 0 {
		return fail(ErrConfig, "configuration: %d channels do not divide into middle_norm_groups %d", c.Channels[n-1], c.MiddleNormGroups)
	}
	if transformer {
		if err := perLevel("transformer_depth", len(c.TransformerDepth), n); err != nil {
			return err
		}
		for _, d := range c.TransformerDepth {
			if err := between("transformer_depth", d, 1, maxDepth); err != nil {
				return err
			}
		}
		if c.ContextDim < 1 || !(c.TransformerNormEps > 0 && c.TransformerNormEps < 1) {
			return fail(ErrConfig, "configuration: context_dim %d and transformer_norm_eps %g must be positive where there are transformers", c.ContextDim, c.TransformerNormEps)
		}
	} else if len(c.TransformerDepth) != 0 || c.ContextDim != 0 {
		return fail(ErrConfig, "configuration: context_dim %d and transformer_depth %v, but no level has a transformer", c.ContextDim, c.TransformerDepth)
	}
	return nil
}

// attention is the kind that a level has on either side, none if it has it on neither.
func (c UNetConfig) attention(level int) string {
	if a := c.DownAttention[level]; a != AttendNone {
		return a
	}
	return c.UpAttention[level]
}

// attends reports whether the level's number of heads means anything.
func (c UNetConfig) attends(level int) bool {
	return c.attention(level) != AttendNone || level == len(c.Channels)-1 && c.MiddleAttention != AttendNone
}

// difference finds the first field in which two configurations of one type differ, in the words of its JSON form.
func difference[T any](a, b T) (field string, va, vb any) {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		f := x.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Type.Kind() == reflect.Slice && x.Field(i).Len() == 0 && y.Field(i).Len() == 0 {
			continue // an empty list and none are the same, but not in JSON
		}
		va, vb := x.Field(i).Interface(), y.Field(i).Interface()
		if string(marshal(va)) != string(marshal(vb)) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return name, va, vb
		}
	}
	return "", nil, nil
}

func marshal(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("checkpoint: %v", err)) // plain structures of numbers that Check has seen
	}
	return b
}
