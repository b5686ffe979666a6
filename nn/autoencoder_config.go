package nn

import (
	"fmt"
	"slices"

	"github.com/spin-native/spin/weights"
)

// AutoencoderConfig describes the first stages of latent-diffusion and of diffusers (families autoencoder-kl and
// vq-model). Lists run over the levels, full resolution first. An attention has one head and 1x1 convolutions q, k, v,
// proj_out. A decoder has one block per level more than the encoder.
type AutoencoderConfig struct {
	InChannels    int   `json:"in_channels"`
	OutChannels   int   `json:"out_channels"`
	ModelChannels int   `json:"model_channels"` // outputs of the encoder's first convolution
	Channels      []int `json:"channels"`
	NumResBlocks  int   `json:"num_res_blocks"`
	ZChannels     int   `json:"z_channels"`
	DoubleZ       bool  `json:"double_z"`       // the encoder ends in means and log variances
	EmbedDim      int   `json:"embed_dim"`      // of the latent; ZChannels where there is no quant_conv
	NumEmbeddings int   `json:"num_embeddings"` // code vectors; 0 in autoencoder-kl

	DownAttention     []bool `json:"down_attention"`
	MiddleAttention   bool   `json:"middle_attention"`
	UpAttention       []bool `json:"up_attention"`
	ConvResample      bool   `json:"conv_resample"`
	DownsamplePadding string `json:"downsample_padding"`
	QuantConv         bool   `json:"quant_conv"`
	PostQuantConv     bool   `json:"post_quant_conv"`
	LookupFromCode    bool   `json:"lookup_from_codebook"` // decode takes code numbers

	NormGroups int     `json:"norm_groups"`
	NormEps    float64 `json:"norm_eps"`

	// A diffusion in the latent space sees (z - shift) * scale; encoding and decoding by themselves apply neither.
	ScaleFactor float64   `json:"scale_factor"`
	ShiftFactor float64   `json:"shift_factor"`
	LatentsMean []float64 `json:"latents_mean,omitempty"`
	LatentsStd  []float64 `json:"latents_std,omitempty"`
}

// ParseAutoencoderConfig reads the JSON form, strictly, and checks it.
func ParseAutoencoderConfig(b []byte) (AutoencoderConfig, error) {
	var c AutoencoderConfig
	if err := weights.StrictJSON(b, &c); err != nil {
		return c, fmt.Errorf("nn: autoencoder configuration: %w", err)
	}
	return c, c.Check()
}

// Check reports the first thing that is impossible, in the words of the JSON form.
func (c AutoencoderConfig) Check() error {
	if err := c.check(); err != nil {
		return fmt.Errorf("nn: autoencoder configuration: %w", err)
	}
	return nil
}

func (c AutoencoderConfig) check() error {
	err := first(
		between("in_channels", c.InChannels, 1, maxChannels),
		between("out_channels", c.OutChannels, 1, maxChannels),
		between("num_res_blocks", c.NumResBlocks, 1, maxBlocks),
		between("z_channels", c.ZChannels, 1, maxChannels),
		between("embed_dim", c.EmbedDim, 1, maxChannels),
		between("num_embeddings", c.NumEmbeddings, 0, maxEntries),
		checkNorm(c.NormGroups, c.NormEps),
		oneOf("downsample_padding", c.DownsamplePadding, PadRightBottom),
	)
	if err == nil {
		err = first(checkChannels([]int{c.ModelChannels}, c.NormGroups), checkChannels(c.Channels, c.NormGroups))
	}
	if err == nil {
		err = first(perLevel("down_attention", len(c.DownAttention), len(c.Channels)), perLevel("up_attention", len(c.UpAttention), len(c.Channels)))
	}
	switch {
	case err != nil:
		return err
	case !(c.QuantConv && c.PostQuantConv) && c.EmbedDim != c.ZChannels:
		return fmt.Errorf("embed_dim %d and z_channels %d differ, but quant_conv or post_quant_conv is missing", c.EmbedDim, c.ZChannels)
	case c.NumEmbeddings > 0 && c.DoubleZ:
		return fmt.Errorf("double_z with num_embeddings: a code book has no variance")
	}
	return checkLatent(c.ScaleFactor, c.ShiftFactor, c.LatentsMean, c.LatentsStd, c.EmbedDim)
}

// TinyConfig describes diffusers' AutoencoderTiny (family autoencoder-tiny), in the words of its constructor. Its
// tensors keep the names that diffusers gives them, which have no older form.
type TinyConfig struct {
	InChannels              int     `json:"in_channels"`
	OutChannels             int     `json:"out_channels"`
	EncoderBlockOutChannels []int   `json:"encoder_block_out_channels"`
	DecoderBlockOutChannels []int   `json:"decoder_block_out_channels"`
	NumEncoderBlocks        []int   `json:"num_encoder_blocks"`
	NumDecoderBlocks        []int   `json:"num_decoder_blocks"`
	LatentChannels          int     `json:"latent_channels"`
	LatentMagnitude         float64 `json:"latent_magnitude"` // of the quantised form of a latent
	LatentShift             float64 `json:"latent_shift"`
	UpsamplingScalingFactor int     `json:"upsampling_scaling_factor"`
	ScaleFactor             float64 `json:"scale_factor"`
	ShiftFactor             float64 `json:"shift_factor"`
}

// Downsampling is the factor between pictures and latents: sizes of pictures must be divisible by it.
func (c TinyConfig) Downsampling() int { return 1 << (len(c.EncoderBlockOutChannels) - 1) }

// ParseTinyConfig reads the JSON form, strictly, and checks it.
func ParseTinyConfig(b []byte) (TinyConfig, error) {
	var c TinyConfig
	if err := weights.StrictJSON(b, &c); err != nil {
		return c, fmt.Errorf("nn: tiny autoencoder configuration: %w", err)
	}
	return c, c.Check()
}

// Check reports the first thing that is impossible, in the words of the JSON form.
func (c TinyConfig) Check() error {
	if err := c.check(); err != nil {
		return fmt.Errorf("nn: tiny autoencoder configuration: %w", err)
	}
	return nil
}

func (c TinyConfig) check() error {
	err := first(
		between("in_channels", c.InChannels, 1, maxChannels),
		between("out_channels", c.OutChannels, 1, maxChannels),
		between("latent_channels", c.LatentChannels, 1, maxChannels),
		between("upsampling_scaling_factor", c.UpsamplingScalingFactor, 2, 2),
		checkChannels(c.EncoderBlockOutChannels, 1),
		checkChannels(c.DecoderBlockOutChannels, 1),
		perLevel("num_encoder_blocks", len(c.NumEncoderBlocks), len(c.EncoderBlockOutChannels)),
		perLevel("num_decoder_blocks", len(c.NumDecoderBlocks), len(c.DecoderBlockOutChannels)),
		checkLatent(c.ScaleFactor, c.ShiftFactor, nil, nil, c.LatentChannels),
	)
	for _, n := range append(slices.Clone(c.NumEncoderBlocks), c.NumDecoderBlocks...) {
		err = first(err, between("num_encoder_blocks or num_decoder_blocks", n, 0, maxBlocks))
	}
	// A level's first convolution takes as many channels as it gives: the code that runs these networks says so.
	for _, list := range [][]int{c.EncoderBlockOutChannels, c.DecoderBlockOutChannels} {
		for _, ch := range list {
			if err == nil && ch != list[0] {
				err = fmt.Errorf("block_out_channels %v: all levels must have the same", list)
			}
		}
	}
	return err
}
