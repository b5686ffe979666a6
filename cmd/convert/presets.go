package main

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// presets are the networks that people have. What is common to all lies in preset.
var presets = map[string]weights.Info{
	"photo": preset("photo", 256, nn.UNetConfig{
		ModelChannels: 32, NumResBlocks: 1, ChannelMult: []float64{1, 2, 3, 4},
		AttentionResolutions: []int{8}, NumHeadChannels: 32,
	}).with("1", "Apache-2.0"),

	// The face prior of DPS and its successors.
	"ffhq_10m": preset("ffhq_10m", 256, nn.UNetConfig{
		OutChannels: 6, ModelChannels: 128, NumResBlocks: 1, ChannelMult: []float64{1, 1, 2, 2, 4, 4},
		AttentionResolutions: []int{16}, NumHeadChannels: 64,
	}).info,

	// guided-diffusion's 256x256_diffusion_uncond, 256x256_diffusion and 512x512_diffusion.
	"imagenet256":      imagenet256("imagenet256", 0).info,
	"imagenet256_cond": imagenet256("imagenet256_cond", 1000).info,
	"imagenet512_cond": preset("imagenet512_cond", 512, nn.UNetConfig{
		OutChannels: 6, ModelChannels: 256, NumResBlocks: 2, ChannelMult: []float64{0.5, 1, 1, 2, 2, 4, 4},
		AttentionResolutions: []int{16, 32, 64}, NumHeadChannels: 64, NumClasses: 1000,
	}).info,
}

func imagenet256(name string, classes int) built {
	return preset(name, 256, nn.UNetConfig{
		OutChannels: 6, ModelChannels: 256, NumResBlocks: 2, ChannelMult: []float64{1, 1, 2, 2, 4, 4},
		AttentionResolutions: []int{8, 16, 32}, NumHeadChannels: 64, NumClasses: classes,
	})
}

type built struct{ info weights.Info }

// preset fills in what these networks share: RGB in [-1,1], 1000 linear steps, eps prediction, the scale-shift and
// up/down-sampling residual blocks. Six output channels mean a learned range of variance.
func preset(name string, size int, c nn.UNetConfig) built {
	c.InChannels = 3
	if c.OutChannels == 0 {
		c.OutChannels = c.InChannels
	}
	c.NumHeads, c.NumHeadsUpsample = 4, -1
	c.UseScaleShiftNorm, c.ResBlockUpDown, c.ConvResample = true, true, true
	model, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return built{weights.Info{
		Format: weights.InfoFormat, Family: "guided-diffusion-unet", Name: name, Model: model,
		Schedule:   weights.Schedule{Kind: "linear", T: 1000, BetaFirst: 1e-4, BetaLast: 0.02},
		Prediction: "eps", LearnedRange: c.OutChannels == 2*c.InChannels,
		ValueRange: [2]float64{-1, 1}, Color: "rgb", ImageSize: size,
	}}
}

func (b built) with(version, license string) weights.Info {
	b.info.Version, b.info.License = version, license
	return b.info
}

func presetNames() []string { return slices.Sorted(maps.Keys(presets)) }
