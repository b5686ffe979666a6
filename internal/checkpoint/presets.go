package checkpoint

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// Preset is a network that people have: what its files do not tell. A part that it lacks is nil.
type Preset struct {
	Name       string
	UNet       *weights.Info
	FirstStage *weights.Info
}

// FindPreset looks a preset up; '_' and '-' are the same.
func FindPreset(name string) (Preset, bool) {
	p, ok := presets[dashes(name)]
	return p, ok
}

// PresetNames lists the presets by the names that they give to what they describe.
func PresetNames() []string {
	var list []string
	for _, p := range presets {
		list = append(list, p.Name)
	}
	slices.Sort(list)
	return slices.Compact(list) // aliases share a name
}

func dashes(s string) string { return strings.ReplaceAll(s, "_", "-") }

var presets = index(
	guidedPreset("photo", 256, linear, nn.UNetConfig{
		ModelChannels: 32, NumResBlocks: 1, ChannelMult: []float64{1, 2, 3, 4},
		AttentionResolutions: []int{8}, NumHeadChannels: 32,
	}).with("1", "Apache-2.0"),
	photoLatent().with("1", "Apache-2.0"),

	// The face prior of DPS and its successors.
	guidedPreset("ffhq_10m", 256, linear, nn.UNetConfig{
		OutChannels: 6, ModelChannels: 128, NumResBlocks: 1, ChannelMult: []float64{1, 1, 2, 2, 4, 4},
		AttentionResolutions: []int{16}, NumHeadChannels: 64,
	}),

	// guided-diffusion's 256x256_diffusion_uncond, 256x256_diffusion, 512x512_diffusion, 64x64_diffusion and lsun_*.
	imagenet256("imagenet256", 0),
	imagenet256("imagenet256-cond", 1000),
	imagenet256("lsun", 0),
	guidedPreset("imagenet512", 512, linear, nn.UNetConfig{
		OutChannels: 6, ModelChannels: 256, NumResBlocks: 2, ChannelMult: []float64{0.5, 1, 1, 2, 2, 4, 4},
		AttentionResolutions: []int{16, 32, 64}, NumHeadChannels: 64, NumClasses: 1000,
	}),
	guidedPreset("imagenet64", 64, cosine(1000), nn.UNetConfig{
		OutChannels: 6, ModelChannels: 192, NumResBlocks: 3, ChannelMult: []float64{1, 2, 3, 4},
		AttentionResolutions: []int{2, 4, 8}, NumHeadChannels: 64, UseNewAttentionOrder: true, NumClasses: 1000,
	}),

	// latent-diffusion's ffhq-ldm-vq-4, celeba-ldm-vq-4 and cin256-v2, with the first stage vq-f4.
	Preset{Name: "ldm-ffhq-vq4", UNet: ldmFaces("ldm-ffhq-vq4"), FirstStage: vqF4("ldm-ffhq-vq4")},
	Preset{Name: "ldm-celeba-vq4", UNet: ldmFaces("ldm-celeba-vq4"), FirstStage: vqF4("ldm-celeba-vq4")},
	Preset{Name: "ldm-imagenet-vq4", FirstStage: vqF4("ldm-imagenet-vq4"),
		UNet: latentUNet("ldm-imagenet-vq4", 3, 64, ldmLinear, transformerUNet(192, []int{1, 2, 3, 5}, []int{1, 2, 3}, 512, 1))},

	// Stable Diffusion 1.5 and its first stage.
	Preset{Name: "sd-1.5", FirstStage: sdVAE("sd-1.5"),
		UNet: latentUNet("sd-1.5", 4, 64, sdLinear, transformerUNet(320, []int{1, 2, 4, 4}, []int{0, 1, 2}, 768, 8))},
	Preset{Name: "sd-vae", FirstStage: sdVAE("sd-vae")},
)

func index(list ...Preset) map[string]Preset {
	m := map[string]Preset{}
	for _, p := range list {
		if p.UNet != nil && p.FirstStage != nil {
			s, err := stageShapeOf(*p.FirstStage)
			if err != nil {
				panic(err) // a preset of this file
			}
			p.UNet.Downsampling = s.downsampling
		}
		m[dashes(p.Name)] = p
	}
	m["imagenet512-cond"] = m["imagenet512"] // there is no other
	return m
}

// The schedules of the projects.
var (
	linear    = weights.Schedule{Kind: "linear", T: 1000, BetaFirst: 1e-4, BetaLast: 0.02}
	ldmLinear = weights.Schedule{Kind: "scaled-linear", T: 1000, BetaFirst: 0.0015, BetaLast: 0.0195}
	sdLinear  = weights.Schedule{Kind: "scaled-linear", T: 1000, BetaFirst: 0.00085, BetaLast: 0.012}
)

// cosine is the schedule of Nichol and Dhariwal (2021), equation 17.
func cosine(t int) weights.Schedule {
	alphaBar := func(i int) float64 {
		c := math.Cos((float64(i)/float64(t) + 0.008) / 1.008 * math.Pi / 2)
		return c * c
	}
	s := weights.Schedule{Kind: "explicit", T: t}
	for i := range t {
		s.Betas = append(s.Betas, min(1-alphaBar(i+1)/alphaBar(i), 0.999))
	}
	return s
}

// guidedPreset fills in what these networks share: RGB in [-1,1], eps prediction, scale-shift and resampling residual
// blocks. Six output channels mean a learned range of variance.
func guidedPreset(name string, size int, s weights.Schedule, c nn.UNetConfig) Preset {
	c.InChannels = 3
	if c.OutChannels == 0 {
		c.OutChannels = c.InChannels
	}
	c.NumHeads, c.NumHeadsUpsample = 4, -1
	c.UseScaleShiftNorm, c.ResBlockUpDown, c.ConvResample = true, true, true
	info := newInfo(FamilyGuided, name, size, s, c)
	info.LearnedRange = c.OutChannels == 2*c.InChannels
	return Preset{Name: name, UNet: &info}
}

func imagenet256(name string, classes int) Preset {
	return guidedPreset(name, 256, linear, nn.UNetConfig{
		OutChannels: 6, ModelChannels: 256, NumResBlocks: 2, ChannelMult: []float64{1, 1, 2, 2, 4, 4},
		AttentionResolutions: []int{8, 16, 32}, NumHeadChannels: 64, NumClasses: classes,
	})
}

func (p Preset) with(version, license string) Preset {
	for _, i := range []*weights.Info{p.UNet, p.FirstStage} {
		if i != nil {
			i.Version, i.License = version, license
		}
	}
	return p
}

// newInfo is an Info with the conventions that all these projects share.
func newInfo(family, name string, size int, s weights.Schedule, config any) weights.Info {
	return weights.Info{
		Format: weights.InfoFormat, Family: family, Name: name, Model: marshal(config), Schedule: s,
		Prediction: "eps", ValueRange: [2]float64{-1, 1}, Color: "rgb", ImageSize: size,
	}
}

func latentUNet(name string, channels, size int, s weights.Schedule, c nn.LatentUNetConfig) *weights.Info {
	c.InChannels, c.OutChannels = channels, channels
	info := newInfo(FamilyLatent, name, size, s, c)
	return &info
}

// upstreamUNet is what CompVis' UNets share; attention has self-attention on the levels given.
func upstreamUNet(channels int, mult, attention []int, kind string) nn.LatentUNetConfig {
	c := nn.LatentUNetConfig{
		ModelChannels: channels, TimeEmbedDim: 4 * channels, NumResBlocks: 2, MiddleAttention: kind, DownsamplePadding: nn.PadBoth,
		NormGroups: 32, NormEps: 1e-5, MiddleNormGroups: 32, TimeCosFirst: true,
	}
	for l, m := range mult {
		a := nn.AttendNone
		if slices.Contains(attention, l) {
			a = kind
		}
		c.Channels = append(c.Channels, m*channels)
		c.DownAttention = append(c.DownAttention, a)
		if l > 0 {
			c.DownSample = append(c.DownSample, nn.SampleConv)
		}
	}
	c.UpAttention, c.UpSample = slices.Clone(c.DownAttention), slices.Clone(c.DownSample)
	return c
}

func transformerUNet(channels int, mult, attention []int, context, heads int) nn.LatentUNetConfig {
	c := upstreamUNet(channels, mult, attention, nn.AttendTransformer)
	c.ContextDim, c.TransformerNormEps = context, 1e-6
	for range mult {
		c.TransformerDepth = append(c.TransformerDepth, 1)
		c.Heads = append(c.Heads, heads)
	}
	return c
}

func ldmFaces(name string) *weights.Info {
	c := upstreamUNet(224, []int{1, 2, 3, 4}, []int{1, 2, 3}, nn.AttendSelf)
	for _, ch := range c.Channels {
		c.Heads = append(c.Heads, ch/32)
	}
	return latentUNet(name, 3, 64, ldmLinear, c)
}

// upstreamAutoencoder is what CompVis' first stages of two blocks a level share.
func upstreamAutoencoder(z int, mult ...int) nn.AutoencoderConfig {
	c := nn.AutoencoderConfig{
		InChannels: 3, OutChannels: 3, ModelChannels: 128, NumResBlocks: 2, ZChannels: z, EmbedDim: z,
		DownAttention: make([]bool, len(mult)), MiddleAttention: true, UpAttention: make([]bool, len(mult)),
		ConvResample: true, DownsamplePadding: nn.PadRightBottom, QuantConv: true, PostQuantConv: true,
		NormGroups: 32, NormEps: 1e-6, ScaleFactor: 1,
	}
	for _, m := range mult {
		c.Channels = append(c.Channels, 128*m)
	}
	return c
}

// photoLatent is the built-in latent prior, as tools/train_latent.py builds it. Its scale factor is beside the weights.
func photoLatent() Preset {
	const name, channels = "photo-latent", 8
	u := upstreamUNet(48, []int{1, 2, 2}, []int{2}, nn.AttendSelf)
	u.NumResBlocks, u.UseScaleShiftNorm, u.Heads = 1, true, []int{1, 1, 3}
	u.NormGroups, u.MiddleNormGroups = 8, 8
	stage := newInfo(FamilyTiny, name, 256, ldmLinear, nn.TinyConfig{
		InChannels: 3, OutChannels: 3, EncoderBlockOutChannels: []int{48, 48, 48}, DecoderBlockOutChannels: []int{48, 48, 48},
		NumEncoderBlocks: []int{0, 1, 3}, NumDecoderBlocks: []int{3, 2, 1}, LatentChannels: channels, LatentMagnitude: 3, LatentShift: 0.5,
		UpsamplingScalingFactor: 2, ScaleFactor: 1,
	})
	return Preset{Name: name, UNet: latentUNet(name, channels, 64, ldmLinear, u), FirstStage: &stage}
}

func vqF4(name string) *weights.Info {
	c := upstreamAutoencoder(3, 1, 2, 4)
	c.NumEmbeddings = 8192
	info := newInfo(FamilyVQ, name, 256, ldmLinear, c)
	return &info
}

func sdVAE(name string) *weights.Info {
	c := upstreamAutoencoder(4, 1, 2, 4, 4)
	c.DoubleZ, c.ScaleFactor = true, 0.18215
	info := newInfo(FamilyKL, name, 512, sdLinear, c)
	return &info
}

// Infos lists what the preset describes, the UNet first.
func (p Preset) Infos() []weights.Info {
	var list []weights.Info
	for _, i := range []*weights.Info{p.UNet, p.FirstStage} {
		if i != nil {
			list = append(list, *i)
		}
	}
	return list
}

// sortedPresets makes searches give the same preset every time.
func sortedPresets() []Preset {
	var list []Preset
	for _, k := range slices.Sorted(maps.Keys(presets)) {
		list = append(list, presets[k])
	}
	return list
}
