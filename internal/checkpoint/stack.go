package checkpoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// Stack is what serves as a prior for pictures: a UNet, and around it a first stage where it works on latents.
type Stack struct {
	UNet       Component
	FirstStage *Component // nil where the UNet works on pictures

	Guided *nn.UNetConfig       // of the UNet: one of the two
	Latent *nn.LatentUNetConfig // which may work on pictures, too

	Downsampling int // between pictures and latents, 1 without a first stage
	Multiple     int // what the networks take heights and widths of pictures in multiples of
	Classes      int // 0: unconditional
	// Notes are what looks odd, and may yet be meant so.
	Notes []string
}

// Stack puts the components together.
func (m *Model) Stack() (Stack, error) {
	unet, ok := m.Component(RoleUNet)
	if !ok {
		return Stack{}, fail(ErrMissing, "there is no UNet")
	}
	var stage *Component
	if c, ok := m.Component(RoleFirstStage); ok {
		stage = &c
	}
	return NewStack(unet, stage)
}

// NewStack proves that a UNet, with the first stage or nil, is a prior for pictures. It looks at configurations only.
func NewStack(unet Component, stage *Component) (s Stack, err error) {
	s = Stack{UNet: unet, FirstStage: stage, Downsampling: 1}
	if err := pictures("UNet", unet.Info); err != nil {
		return s, err
	}
	switch unet.Info.Family {
	case FamilyGuided:
		c, err := nn.ParseUNetConfig(unet.Info.Model)
		if err != nil {
			return s, wrong(err)
		}
		if stage != nil {
			return s, fail(ErrConfig, "a %s works on pictures: it has no use for a first stage", FamilyGuided)
		}
		if c.InChannels != 3 {
			return s, fail(ErrUnsupported, "the UNet takes %d channels, expected 3 of rgb", c.InChannels)
		}
		s.Guided, s.Multiple, s.Classes = &c, c.Downsampling(), c.NumClasses
		return s, predicts(c.OutChannels, c.InChannels)
	case FamilyLatent:
		c, err := ParseUNetConfig(unet.Info.Model)
		if err != nil {
			return s, err
		}
		s.Latent, s.Classes = &c, c.NumClasses
		return s, s.fit()
	}
	return s, fail(ErrUnsupported, "family %s is not that of a denoiser", quote(unet.Info.Family))
}

// fit proves that the first stage belongs to the latent UNet.
func (s *Stack) fit() error {
	c := *s.Latent
	if c.ContextDim > 0 {
		return fail(ErrUnsupported, "the UNet is conditioned on texts or the like: it attends to tokens of %d channels, and their encoder is missing, which is not read here; use an unconditional prior, or one with class labels", c.ContextDim)
	}
	space := s.UNet.Info.Downsampling
	if space == 1 {
		switch {
		case s.FirstStage != nil:
			return fail(ErrConfig, "the UNet works on pictures: it has no use for a first stage")
		case c.InChannels != 3:
			return fail(ErrUnsupported, "the UNet takes %d channels, expected 3 of rgb", c.InChannels)
		}
		s.Multiple = c.Downsampling()
		return predicts(c.OutChannels, c.InChannels)
	}
	if s.FirstStage == nil && c.InChannels == 3 && space == 0 {
		return fail(ErrSpace, "nothing tells whether the UNet works on pictures or on latents, for which its first stage is missing")
	}
	if s.FirstStage == nil {
		return fail(ErrMissing, "the UNet works on latents of %d channels, and the first stage that decodes them to pictures is missing", c.InChannels)
	}
	info := s.FirstStage.Info
	if err := pictures("first stage", info); err != nil {
		return err
	}
	stage, err := stageShapeOf(info)
	if err != nil {
		return err
	}
	if stage.in != 3 || stage.out != 3 {
		return fail(ErrUnsupported, "the first stage takes %d channels and makes %d, expected 3 of rgb", stage.in, stage.out)
	}
	if c.InChannels != stage.latent {
		return fail(ErrConfig, "the UNet takes %d channels, the latents of the first stage have %d: they do not belong together", c.InChannels, stage.latent)
	}
	s.Downsampling = stage.downsampling
	s.Multiple = s.Downsampling * c.Downsampling()
	if err := s.scale(); err != nil {
		return err
	}
	return predicts(c.OutChannels, c.InChannels)
}

// scale proves, as far as the files tell, that the first stage shrinks pictures as the one did that the UNet was trained
// with.
func (s *Stack) scale() error {
	unet, stage := s.UNet.Info, s.FirstStage.Info
	size := unet.ImageSize * s.Downsampling
	switch {
	case unet.Downsampling == s.Downsampling:
	case unet.Downsampling > 0:
		return fail(ErrScale, "the UNet works on latents of pictures %d times larger, the first stage makes them %d times larger: they do not belong together", unet.Downsampling, s.Downsampling)
	case !told(unet) || !told(stage):
		s.Notes = append(s.Notes, fmt.Sprintf("no file tells whether the first stage, which shrinks pictures %d times, is the one of the UNet's latents", s.Downsampling))
	case size != stage.ImageSize:
		return fail(ErrScale, "the UNet was trained on latents of %d pixels, from which the first stage makes %d, but that was trained on %d: they seem not to belong together", unet.ImageSize, size, stage.ImageSize)
	}
	return nil
}

// pair puts down in a latent UNet what the first stage beside it does: that both come in one checkpoint, pipeline or folder
// says that they belong together, which the sizes that they were trained on need not say.
func (m *Model) pair() error {
	stage, ok := m.Component(RoleFirstStage)
	if !ok {
		return nil
	}
	shape, err := stageShapeOf(stage.Info)
	for i := range m.Components {
		if info := &m.Components[i].Info; info.Family == FamilyLatent && info.Downsampling == 0 {
			info.Downsampling = shape.downsampling
		}
	}
	return err
}

// stageShape is what a first stage makes of what.
type stageShape struct{ in, out, latent, downsampling int }

func stageShapeOf(info weights.Info) (stageShape, error) {
	switch info.Family {
	case FamilyKL, FamilyVQ:
		a, err := ParseAutoencoderConfig(info.Model)
		if err != nil {
			return stageShape{}, err
		}
		return stageShape{a.InChannels, a.OutChannels, a.EmbedDim, a.Downsampling()}, nil
	case FamilyTiny:
		a, err := ParseTinyConfig(info.Model)
		if err != nil {
			return stageShape{}, err
		}
		return stageShape{a.InChannels, a.OutChannels, a.LatentChannels, a.Downsampling()}, nil
	}
	return stageShape{}, fail(ErrConfig, "family %s is not a first stage's", quote(info.Family))
}

// told is whether a file tells the size that its network was trained on.
func told(i weights.Info) bool {
	return !slices.ContainsFunc(i.Guesses, func(g string) bool { return strings.HasPrefix(g, "image_size") })
}

// pictures proves that what an Info says about colours is what everything here works with.
func pictures(what string, i weights.Info) error {
	if i.ValueRange != [2]float64{-1, 1} || i.Color != "rgb" {
		return fail(ErrUnsupported, "the %s works on %s in %v, expected rgb in [-1, 1]", what, i.Color, i.ValueRange)
	}
	return nil
}

// predicts proves that an output is a prediction, or that and a learned variance.
func predicts(out, in int) error {
	if out != in && out != 2*in {
		return fail(ErrUnsupported, "the UNet makes %d channels of %d, expected as many, or twice as many with a learned variance", out, in)
	}
	return nil
}
