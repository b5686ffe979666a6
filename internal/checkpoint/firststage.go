package checkpoint

import (
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// LoadFirstStage builds a component of a first stage's family on a device. It fails where tensors are left over.
func (c Component) LoadFirstStage(d *tensor.Device, o nn.LoadOptions) (nn.FirstStage, error) {
	f, err := weights.FromTensors(c.Role, c.Tensors, nil)
	if err != nil {
		return nil, err
	}
	return c.loadFirstStage(d, f, o)
}

func (c Component) loadFirstStage(d *tensor.Device, f *weights.File, o nn.LoadOptions) (nn.FirstStage, error) {
	switch c.Info.Family {
	case FamilyKL, FamilyVQ:
		config, err := ParseAutoencoderConfig(c.Info.Model)
		if err != nil {
			return nil, err
		}
		a, err := nn.LoadAutoencoder(d, f.Scope(), config, o)
		if err != nil {
			return nil, err
		}
		return a, f.CheckAllRead()
	case FamilyTiny:
		config, err := ParseTinyConfig(c.Info.Model)
		if err != nil {
			return nil, err
		}
		a, err := nn.LoadAutoencoderTiny(d, f.Scope(), config, o)
		if err != nil {
			return nil, err
		}
		return a, f.CheckAllRead()
	}
	return nil, fail(ErrUnsupported, "family %s is not a first stage's", c.Info.Family)
}

// firstStageCost rehearses encoding a picture of h x w and decoding what comes of it.
func (c Component) firstStageCost(o cpu.Options, h, w int) (cost dryrun.Cost, err error) {
	defer tensor.Catch(&err)
	f, err := weights.FromTensors(c.Role, c.Tensors, nil)
	if err != nil {
		return cost, err
	}
	d, err := dryrun.Open(o)
	if err != nil {
		return cost, err
	}
	defer d.Close()
	s, err := c.loadFirstStage(d.Device, f.ShapesOnly(), nn.LoadOptions{ImageSize: max(h, w)})
	if err != nil {
		return cost, err
	}
	m := s.Downsampling()
	x := d.New(1, (h+m-1)/m*m, (w+m-1)/m*m, s.PictureChannels())
	z, err := s.Encode(x)
	if err != nil {
		return cost, err
	}
	x.Free()
	if _, err = s.Decode(z); err != nil {
		return cost, err
	}
	return d.Cost(), nil
}
