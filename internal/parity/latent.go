package parity

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// latentRunner runs the UNet of a weights file, as the options read it.
func (c *Case) latentRunner(d *tensor.Device, file string, o checkpoint.Options) (runner, error) {
	net, err := c.LoadLatentUNet(d, file, o)
	return func(r Run) (Saved, error) {
		out, err := c.ForwardLatent(net, r)
		saved := Saved{}
		for key := range r.Outputs { // one, by whatever name
			saved[key] = out
		}
		return saved, err
	}, err
}

// LoadLatentUNet loads the UNet from one of the case's weights files, or from another of the same network. What leaves no
// trace in a file of CompVis, the heads, comes from the case.
func (c *Case) LoadLatentUNet(d *tensor.Device, file string, o checkpoint.Options) (*nn.LatentUNet, error) {
	if raw, ok := c.Config["params"]; ok {
		var compvis struct {
			UNet struct {
				Params struct {
					Heads        int  `json:"num_heads"`
					HeadChannels int  `json:"num_head_channels"`
					NewOrder     bool `json:"use_new_attention_order"`
				} `json:"params"`
			} `json:"unet_config"`
		}
		if err := json.Unmarshal(raw, &compvis); err != nil {
			return nil, fmt.Errorf("%s: config: %w", c.Name, err)
		}
		p := compvis.UNet.Params
		if o.HeadChannels = p.HeadChannels; o.HeadChannels <= 0 { // they win
			o.HeadChannels, o.Heads = 0, p.Heads
		}
		o.NewAttentionOrder = p.NewOrder
	}
	m, err := checkpoint.Open(file, o)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	unet, ok := m.Component(checkpoint.RoleUNet)
	if !ok {
		return nil, fmt.Errorf("the UNet is %w", errAbsent)
	}
	config, err := nn.ParseLatentUNetConfig(unet.Info.Model)
	if err != nil {
		return nil, err
	}
	f, err := weights.FromTensors(file, unet.Tensors, nil)
	if err != nil {
		return nil, err
	}
	net, err := nn.LoadLatentUNet(d, f.Scope(), config, nn.LoadOptions{})
	if err != nil {
		return nil, err
	}
	return net, f.CheckAllRead()
}

// ForwardLatent computes one run of the case: the UNet's output.
func (c *Case) ForwardLatent(net *nn.LatentUNet, r Run) (out Array, err error) {
	defer tensor.Catch(&err)
	d := net.Device()
	defer d.Tidy()()
	name := r.Inputs["x"]
	if name == "" {
		name = r.Inputs["z"]
	}
	x, err := c.Input(d, name)
	if err != nil {
		return out, err
	}
	ts, _, err := c.Array(r.Inputs["t"])
	if err != nil {
		return out, err
	}
	t := make([]float64, len(ts))
	for i, v := range ts {
		t[i] = float64(v)
	}
	labels, err := c.labels(r.Inputs["class_labels"])
	if err != nil {
		return out, err
	}
	tokens, err := c.context(d, r)
	if err != nil {
		return out, err
	}
	var context *nn.Context
	if tokens != nil {
		if context, err = net.Context(tokens); err != nil {
			return out, err
		}
	}
	return planar(net.Forward(x, t, labels, context))
}

// labels reads integers, none without a name.
func (c *Case) labels(name string) (list []int, err error) {
	if name == "" {
		return nil, nil
	}
	data, _, err := c.Array(name)
	for _, v := range data {
		list = append(list, int(v))
	}
	return list, err
}

// context is what the run's UNet attends to, [N,1,L,D]: an array [N L D] of the case, or for CompVis' ClassEmbedder the
// rows of its table for the run's classes. nil: nothing.
func (c *Case) context(d *tensor.Device, r Run) (*tensor.Tensor, error) {
	if name, ok := r.Inputs["context"]; ok {
		data, s, err := c.Array(name)
		if err != nil {
			return nil, err
		}
		if len(s) != 3 {
			return nil, fmt.Errorf("%s: array %q has shape %v, expected [N L D]", c.Name, name, s)
		}
		return d.From(data, s[0], 1, s[1], s[2]), nil
	}
	classes, err := c.labels(r.Inputs["class_id"])
	if err != nil || classes == nil {
		return nil, err
	}
	f, err := weights.Open(filepath.Join(c.Dir, c.Weights[0].File))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	table, ok := f.Tensor("cond_stage_model.embedding.weight")
	if !ok || len(table.Shape) != 2 {
		return nil, fmt.Errorf("%s: %s holds no table of classes", c.Name, c.Weights[0].File)
	}
	values, err := table.Floats()
	if err != nil {
		return nil, err
	}
	var rows []float32
	for _, k := range classes {
		if k < 0 || k >= table.Shape[0] {
			return nil, fmt.Errorf("%s: class %d, expected 0 to %d", c.Name, k, table.Shape[0]-1)
		}
		rows = append(rows, values[k*table.Shape[1]:][:table.Shape[1]]...)
	}
	return d.From(rows, len(classes), 1, 1, table.Shape[1]), nil
}
