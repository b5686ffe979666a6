package checkpoint

import (
	"fmt"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/kernels"
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
	return LoadFirstStage(d, f, c.Info, o)
}

// LoadFirstStageFrom is LoadFirstStage with the component's tensors as a file, which may be one of shapes only.
func (c Component) LoadFirstStageFrom(d *tensor.Device, f *weights.File, o nn.LoadOptions) (nn.FirstStage, error) {
	return LoadFirstStage(d, f, c.Info, o)
}

// LoadFirstStage builds the first stage that info describes. f holds its tensors and no others.
func LoadFirstStage(d *tensor.Device, f *weights.File, info weights.Info, o nn.LoadOptions) (nn.FirstStage, error) {
	switch info.Family {
	case FamilyKL, FamilyVQ:
		config, err := ParseAutoencoderConfig(info.Model)
		if err != nil {
			return nil, err
		}
		a, err := nn.LoadAutoencoder(d, f.Scope(), config, o)
		if err != nil {
			return nil, err
		}
		return a, f.CheckAllRead()
	case FamilyTiny:
		config, err := ParseTinyConfig(info.Model)
		if err != nil {
			return nil, err
		}
		a, err := nn.LoadAutoencoderTiny(d, f.Scope(), config, o)
		if err != nil {
			return nil, err
		}
		return a, f.CheckAllRead()
	}
	return nil, fail(ErrUnsupported, "family %s is not a first stage's", info.Family)
}

// firstStageCost rehearses encoding a picture of h x w and decoding what comes of it.
func firstStageCost(m dryrun.Machine, f *weights.File, info weights.Info, h, w int, t nn.Tiling) (dryrun.Cost, error) {
	return rehearse(m, f, func(d *tensor.Device, f *weights.File) (nn.FirstStage, error) {
		return LoadFirstStage(d, f, info, nn.LoadOptions{ImageSize: max(h, w), Tiling: t})
	}, func(s nn.FirstStage) error {
		m := s.Downsampling()
		x := s.Device().New(1, roundUp(h, m), roundUp(w, m), s.PictureChannels())
		z, err := s.Encode(x)
		if err != nil {
			return err
		}
		x.Free()
		_, err = s.Decode(z)
		return err
	})
}

// DecodeCost rehearses decoding n latents of pictures of h x w with nothing but a decoder, and without looking them up in
// a code book.
func DecodeCost(m dryrun.Machine, f *weights.File, info weights.Info, n, h, w int, t nn.Tiling) (dryrun.Cost, error) {
	return rehearse(m, f, func(d *tensor.Device, f *weights.File) (nn.FirstStage, error) {
		return LoadFirstStage(d, f, info, nn.LoadOptions{ImageSize: max(h, w), DecoderOnly: true, Tiling: t})
	}, func(s nn.FirstStage) error {
		m := s.Downsampling()
		_, err := DecodeAsIs(s, s.Device().New(n, (h+m-1)/m, (w+m-1)/m, s.LatentChannels()))
		return err
	})
}

// leastBand is the height of the lowest bands of Tilings. With smaller ones most of the work is what bands have in common.
const leastBand = 8

// Tilings are those worth trying for pictures of h x w, the fastest first: whole, then in bands of 1/2, 1/4, ... of the
// picture, then lean.
func Tilings(h, w int) []nn.Tiling {
	list := []nn.Tiling{{}}
	for _, lean := range []bool{false, true} {
		for pixels := h * w / 2; pixels >= leastBand*w; pixels /= 2 {
			list = append(list, nn.Tiling{Pixels: pixels, Lean: lean})
		}
	}
	return list
}

// Fit finds the first tiling with which the memory of a run, weights and scratch included, is within limit bytes; 0 is no
// limit. Each rehearsal is one of more of the run than the one before, and not tried where that does not fit already. If
// no tiling fits, the error matches kernels.ErrOutOfMemory, and t and c are those of the least memory that was seen.
func Fit(limit int64, tilings []nn.Tiling, rehearsals ...func(nn.Tiling) (dryrun.Cost, error)) (t nn.Tiling, c dryrun.Cost, err error) {
	for i, try := range tilings {
		var cost dryrun.Cost
		for _, rehearse := range rehearsals {
			if cost, err = rehearse(try); err != nil {
				return try, cost, err
			}
			if limit > 0 && cost.Memory.Total() > limit {
				break
			}
		}
		if limit == 0 || cost.Memory.Total() <= limit {
			return try, cost, nil
		}
		if i == 0 || cost.Memory.Total() < c.Memory.Total() {
			t, c = try, cost
		}
	}
	return t, c, fmt.Errorf("checkpoint: %w: %v at least, the limit is %d MB", kernels.ErrOutOfMemory, c.Memory, limit>>20)
}

// DecodeAsIs decodes latents without looking them up in the code book that the first stage may have.
func DecodeAsIs(s nn.FirstStage, z *tensor.Tensor) (*tensor.Tensor, error) {
	if a, ok := s.(*nn.Autoencoder); ok {
		return a.DecodeAsIs(z)
	}
	return s.Decode(z)
}
