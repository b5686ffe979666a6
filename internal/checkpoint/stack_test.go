package checkpoint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// TestStack: what belongs together, and what does not, is found without a tensor.
func TestStack(t *testing.T) {
	unet := func(change func(c *nn.LatentUNetConfig)) Component {
		c := smallUNet(nn.AttendSelf)
		if change != nil {
			change(&c)
		}
		return Component{Role: RoleUNet, Info: newInfo(FamilyLatent, "", 16, ldmLinear, c)}
	}
	stage := func(change func(c *nn.AutoencoderConfig)) *Component {
		c := smallStage(false)
		if change != nil {
			change(&c)
		}
		return &Component{Role: RoleFirstStage, Info: newInfo(FamilyVQ, "", 32, ldmLinear, c)}
	}
	s, err := NewStack(unet(nil), stage(nil))
	require.NoError(t, err)
	require.Equal(t, []int{2, 4, 0}, []int{s.Downsampling, s.Multiple, s.Classes})
	require.Empty(t, s.Notes)
	s, err = NewStack(unet(func(c *nn.LatentUNetConfig) { c.NumClasses = 5 }), stage(nil))
	require.NoError(t, err)
	require.Equal(t, 5, s.Classes)

	// Sizes that both were trained on are held against each other, unless something tells the scale itself.
	large := stage(nil)
	large.Info.ImageSize = 64
	_, err = NewStack(unet(nil), large)
	require.ErrorIs(t, err, ErrScale)
	require.ErrorContains(t, err, "latents of 16 pixels, from which the first stage makes 32, but that was trained on 64")
	known := unet(nil)
	known.Info.Downsampling = 2
	s, err = NewStack(known, large)
	require.NoError(t, err)
	require.Empty(t, s.Notes)
	large.Info.Guesses = []string{"image_size 64: the file does not tell"}
	s, err = NewStack(unet(nil), large)
	require.NoError(t, err)
	require.Len(t, s.Notes, 1)
	require.Contains(t, s.Notes[0], "no file tells whether the first stage, which shrinks pictures 2 times")
	known.Info.Downsampling = 4
	_, err = NewStack(known, large)
	require.ErrorIs(t, err, ErrScale)
	require.ErrorContains(t, err, "pictures 4 times larger, the first stage makes them 2 times larger")

	// A UNet of this family for pictures.
	pixels := func(c Component) Component {
		c.Info.Downsampling = 1
		return c
	}
	rgb := unet(func(c *nn.LatentUNetConfig) { c.InChannels, c.OutChannels = 3, 6 })
	s, err = NewStack(pixels(rgb), nil)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, []int{s.Downsampling, s.Multiple})
	require.Nil(t, s.FirstStage)

	photo, _ := FindPreset("photo")
	guided := Component{Role: RoleUNet, Info: *photo.UNet}
	s, err = NewStack(guided, nil)
	require.NoError(t, err)
	require.Equal(t, []int{1, 8}, []int{s.Downsampling, s.Multiple})

	bgr := stage(nil)
	bgr.Info.Color = "bgr"
	for name, c := range map[string]struct {
		unet  Component
		stage *Component
		kind  error
		words string
	}{
		"no first stage":                {unet(nil), nil, ErrMissing, "latents of 4 channels"},
		"pictures or latents":           {unet(func(c *nn.LatentUNetConfig) { c.InChannels, c.OutChannels = 3, 3 }), nil, ErrSpace, "first stage"},
		"pictures of 4 channels":        {pixels(unet(nil)), nil, ErrUnsupported, "takes 4 channels, expected 3"},
		"pictures and a first stage":    {pixels(rgb), stage(nil), ErrConfig, "no use for a first stage"},
		"pictures, outputs too many":    {pixels(unet(func(c *nn.LatentUNetConfig) { c.InChannels, c.OutChannels = 3, 5 })), nil, ErrUnsupported, "makes 5 channels"},
		"latents of other channels":     {unet(nil), stage(func(c *nn.AutoencoderConfig) { c.EmbedDim = 3 }), ErrConfig, "takes 4 channels, the latents of the first stage have 3"},
		"more inputs than latents":      {unet(func(c *nn.LatentUNetConfig) { c.InChannels = 9 }), stage(nil), ErrConfig, "takes 9 channels"},
		"outputs of another kind":       {unet(func(c *nn.LatentUNetConfig) { c.OutChannels = 3 }), stage(nil), ErrUnsupported, "makes 3 channels of 4"},
		"texts":                         {Component{Info: newInfo(FamilyLatent, "", 16, ldmLinear, smallUNet(nn.AttendTransformer))}, stage(nil), ErrUnsupported, "tokens of 12 channels"},
		"grey pictures":                 {unet(nil), stage(func(c *nn.AutoencoderConfig) { c.InChannels, c.OutChannels = 1, 1 }), ErrUnsupported, "takes 1 channels"},
		"other colours":                 {unet(nil), bgr, ErrUnsupported, "bgr"},
		"a first stage of a pixel UNet": {guided, stage(nil), ErrConfig, "no use for a first stage"},
		"a first stage for a UNet":      {*stage(nil), nil, ErrUnsupported, "vq-model"},
		"a UNet for a first stage":      {unet(nil), &guided, ErrConfig, "not a first stage's"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewStack(c.unet, c.stage)
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.words)
		})
	}
	_, err = (&Model{Components: []Component{*stage(nil)}}).Stack()
	require.ErrorIs(t, err, ErrMissing)
}

// TestConvertedFolder: what the converter writes for an input of several networks is read as one.
func TestConvertedFolder(t *testing.T) {
	m := open(t, save(t, latentCheckpoint(t)), Options{})
	require.Len(t, m.Components, 2)
	dir := t.TempDir()
	for _, c := range m.Components {
		require.NoError(t, weights.Write(filepath.Join(dir, c.Role+".safetensors"), c.Tensors, c.Info.Metadata()))
	}
	again := open(t, dir, Options{})
	require.Len(t, again.Components, 2)
	require.Equal(t, 2, m.Components[0].Info.Downsampling, "they come in one file")
	for i, c := range m.Components {
		require.Equal(t, c.Role, again.Components[i].Role)
		require.Equal(t, c.Info.Downsampling, again.Components[i].Info.Downsampling)
		require.JSONEq(t, string(c.Info.Model), string(again.Components[i].Info.Model))
		requireSame(t, c.Tensors, again.Components[i].Tensors)
	}
	_, err := again.Stack()
	require.NoError(t, err)

	// Where another first stage has taken the place of that one, the file of the UNet knows.
	other := again.Components[0]
	other.Info.Downsampling = 8
	require.NoError(t, weights.Write(filepath.Join(dir, "unet.safetensors"), other.Tensors, other.Info.Metadata()))
	_, err = open(t, dir, Options{}).Stack()
	require.ErrorIs(t, err, ErrScale)

	refused(t, dir, Options{Preset: "ldm-ffhq-vq4"}, ErrConfig, "leave it away")

	files := func(names ...string) (list []*weights.File) {
		for _, name := range names {
			f, err := weights.Open(name)
			require.NoError(t, err)
			list = append(list, f)
		}
		return list
	}
	list := files(filepath.Join(dir, "unet.safetensors"), filepath.Join(dir, "first_stage.safetensors"))
	m, err = Converted(list...)
	require.NoError(t, err)
	for i, c := range again.Components {
		require.Equal(t, c.Role, m.Components[i].Role)
		requireSame(t, c.Tensors, m.Components[i].Tensors)
	}
	require.NoError(t, m.Close())
	list = files(filepath.Join(dir, "unet.safetensors"), save(t, latentCheckpoint(t)))
	_, err = Converted(list...)
	require.ErrorIs(t, err, ErrConfig)
	for _, f := range list {
		require.Empty(t, f.Names(), "it is closed")
	}

	unet, stage := filepath.Join(dir, "unet.safetensors"), filepath.Join(dir, "first_stage.safetensors")
	require.NoError(t, os.Rename(stage, filepath.Join(dir, "old")))
	data, err := os.ReadFile(unet)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(stage, data, 0o666))
	refused(t, dir, Options{}, ErrMixed, "expected one network with the role first_stage")
	require.NoError(t, os.Remove(stage))
	m = open(t, dir, Options{}) // a folder with one file in it is that file
	require.Len(t, m.Components, 1)
	require.Equal(t, RoleUNet, m.Components[0].Role)
}
