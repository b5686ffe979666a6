package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// subject is what bench times. n pictures of edge x edge are what goes in, or what comes out of a decoder.
type subject interface {
	// tilings are those to choose from for pictures of h x w, the fastest first.
	tilings(h, w int) []nn.Tiling
	cost(m dryrun.Machine, t nn.Tiling, n, h, w int) (dryrun.Cost, error)
	// load builds the network with its input and returns one call of it. trace sees the outputs of its layers.
	load(d *tensor.Device, t nn.Tiling, n, edge int, trace func(string, *tensor.Tensor)) (call func() (*tensor.Tensor, error), err error)
	close()
}

// openSubject opens a prior or, where there is none, a first stage; or makes random weights of a named network's shapes.
func openSubject(name string) (subject, error) {
	preset, named := checkpoint.FindPreset(name)
	switch {
	case isBuiltin(name):
	case named && preset.UNet != nil && preset.UNet.Family == familyUNet:
		config, err := nn.ParseUNetConfig(preset.UNet.Model)
		if err != nil {
			return nil, err
		}
		return denoiserSubject{&priorFile{weights: weights.Synthetic(name, 1), info: *preset.UNet, stack: checkpoint.Stack{Guided: &config, Classes: config.NumClasses}}}, nil
	case named && preset.FirstStage != nil:
		return &decoderSubject{weights: weights.Synthetic(name, 1), info: *preset.FirstStage}, nil
	}
	p, err := priorFlags{path: name, label: noLabel}.open()
	if err == nil && p.latent() {
		return latentSubject{p}, nil
	}
	if err == nil {
		return denoiserSubject{p}, nil
	}
	if s, stageErr := openDecoder(name); stageErr == nil {
		return s, nil
	} else if !errors.Is(stageErr, errNoStage) {
		return nil, stageErr
	}
	return nil, err
}

// denoiserSubject is one call of a prior.
type denoiserSubject struct{ *priorFile }

func (s denoiserSubject) load(d *tensor.Device, _ nn.Tiling, n, edge int, trace func(string, *tensor.Tensor)) (func() (*tensor.Tensor, error), error) {
	return s.calls(d, n, edge, 3, trace)
}

// calls builds the network and returns one call of it on n images of edge x edge.
func (p *priorFile) calls(d *tensor.Device, n, edge, channels int, trace func(string, *tensor.Tensor)) (func() (*tensor.Tensor, error), error) {
	net, err := p.load(d, edge)
	if err != nil {
		return nil, err
	}
	*net.trace = trace
	labels := make([]int, n*min(p.stack.Classes, 1))
	x := ramp(d, n, edge, edge, channels)
	return func() (out *tensor.Tensor, err error) {
		defer tensor.Catch(&err)
		out = net.predict(x, 200, labels)
		trace("out", out)
		return out, nil
	}, nil
}

// latentSubject is one call of a latent prior's UNet, on the latents of pictures.
type latentSubject struct{ *priorFile }

// latents is how many of them a picture of n pixels has in one direction.
func (s latentSubject) latents(n int) int {
	m := s.stack.Multiple
	return (n + m - 1) / m * m / s.stack.Downsampling
}

// tilings are for first stages.
func (s latentSubject) tilings(h, w int) []nn.Tiling { return []nn.Tiling{{}} }

func (s latentSubject) cost(m dryrun.Machine, _ nn.Tiling, n, h, w int) (dryrun.Cost, error) {
	return checkpoint.LatentCost(m, s.weights, *s.stack.Latent, n, s.latents(h), s.latents(w))
}

func (s latentSubject) load(d *tensor.Device, _ nn.Tiling, n, edge int, trace func(string, *tensor.Tensor)) (func() (*tensor.Tensor, error), error) {
	return s.calls(d, n, s.latents(edge), s.stack.Latent.InChannels, trace)
}

// decoderSubject is one call of a first stage's decoder.
type decoderSubject struct {
	weights *weights.File // without the encoder's tensors
	info    weights.Info
	model   *checkpoint.Model // nil: random weights
}

// errNoStage is matched where a file holds no first stage.
var errNoStage = errors.New("no first stage")

func openDecoder(path string) (*decoderSubject, error) {
	m, err := checkpoint.Open(path, checkpoint.Options{})
	if err != nil {
		return nil, err
	}
	c, ok := m.Component(checkpoint.RoleFirstStage)
	if !ok {
		m.Close()
		return nil, errNoStage
	}
	var list []weights.Tensor
	for _, t := range c.Tensors {
		if !strings.HasPrefix(t.Name, "encoder.") && !strings.HasPrefix(t.Name, "quant_conv.") {
			list = append(list, t)
		}
	}
	f, err := weights.FromTensors(path, list, nil)
	if err != nil {
		m.Close()
		return nil, err
	}
	return &decoderSubject{weights: f, info: c.Info, model: m}, nil
}

func (s *decoderSubject) close() {
	if s.model != nil {
		s.model.Close()
	}
}

func (s *decoderSubject) tilings(h, w int) []nn.Tiling { return checkpoint.Tilings(h, w) }

func (s *decoderSubject) cost(m dryrun.Machine, t nn.Tiling, n, h, w int) (dryrun.Cost, error) {
	return checkpoint.DecodeCost(m, s.weights, s.info, n, h, w, t)
}

func (s *decoderSubject) load(d *tensor.Device, t nn.Tiling, n, edge int, trace func(string, *tensor.Tensor)) (func() (*tensor.Tensor, error), error) {
	stage, err := checkpoint.LoadFirstStage(d, s.weights, s.info, nn.LoadOptions{ImageSize: edge, DecoderOnly: true, Tiling: t})
	if err != nil {
		return nil, fmt.Errorf("first stage: %w", err)
	}
	switch a := stage.(type) {
	case *nn.Autoencoder:
		a.Trace = trace
	case *nn.AutoencoderTiny:
		a.Trace = trace
	}
	f := stage.Downsampling()
	if edge%f != 0 {
		return nil, usagef("--size %d: expected a multiple of %d", edge, f)
	}
	z := ramp(d, n, edge/f, edge/f, stage.LatentChannels())
	return func() (*tensor.Tensor, error) { return checkpoint.DecodeAsIs(stage, z) }, nil
}

// ramp is an input in [-1,1]. No time depends on the values.
func ramp(d *tensor.Device, n, h, w, c int) *tensor.Tensor {
	values := make([]float32, n*h*w*c)
	for i := range values {
		values[i] = float32(i%251)/125 - 1
	}
	return d.From(values, n, h, w, c)
}
