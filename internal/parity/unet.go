package parity

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// UNetConfig is the configuration of a guided_diffusion_unet case.
func (c *Case) UNetConfig() (nn.UNetConfig, error) {
	if raw, ok := c.Config["UNetModel"]; ok {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nn.UNetConfig{}, err
		}
		delete(fields, "image_size") // the network is fully convolutional
		delete(fields, "dropout")    // of no effect in inference
		raw, err := json.Marshal(fields)
		if err != nil {
			return nn.UNetConfig{}, err
		}
		return nn.ParseUNetConfig(raw)
	}
	if raw, ok := c.Config["create_model"]; ok {
		var m nn.CreateModel
		if err := json.Unmarshal(raw, &m); err != nil {
			return nn.UNetConfig{}, err
		}
		return m.Config()
	}
	return nn.UNetConfig{}, fmt.Errorf("%s: config holds neither UNetModel nor create_model", c.Name)
}

// LoadUNet loads the model from one of the case's weights files.
func (c *Case) LoadUNet(d *tensor.Device, file string) (*nn.UNet, error) {
	config, err := c.UNetConfig()
	if err != nil {
		return nil, err
	}
	m, err := checkpoint.Open(file, checkpoint.Options{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	unet, ok := m.Component(checkpoint.RoleUNet)
	if !ok {
		return nil, fmt.Errorf("%s holds no UNet", file)
	}
	f, err := weights.FromTensors(file, unet.Tensors, nil)
	if err != nil {
		return nil, err
	}
	net, err := nn.LoadUNet(d, f.Scope(), config, nn.LoadOptions{})
	if err != nil {
		return nil, err
	}
	return net, f.CheckAllRead()
}

// Input uploads an NCHW array of the case.
func (c *Case) Input(d *tensor.Device, name string) (*tensor.Tensor, error) {
	data, s, err := c.Array(name)
	if err != nil {
		return nil, err
	}
	if len(s) != 4 {
		return nil, fmt.Errorf("%s: array %q has shape %v, expected [N C H W]", c.Name, name, s)
	}
	return d.From(NHWC(data, s[0], s[1], s[2], s[3]), s[0], s[2], s[3], s[1]), nil
}

func (c *Case) unet(d *tensor.Device, override string) (results []Result, saved []Saved, err error) {
	files := c.Weights
	if override != "" {
		files = []WeightsFile{{File: override}}
	}
	for _, w := range files {
		path := w.File
		if override == "" {
			path = filepath.Join(c.Dir, w.File)
		}
		out := Saved{}
		saved = append(saved, out)
		net, err := c.LoadUNet(d, path)
		if errors.Is(err, ErrUnsupported) {
			results = append(results, Result{Weights: w.File, Array: "*", Skipped: strings.TrimPrefix(err.Error(), path+": ")})
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		for _, r := range c.Runs {
			name := r.Outputs["out"]
			got, shape, err := c.Forward(d, net, r)
			if err != nil {
				return nil, nil, err
			}
			out[name] = Array{got, shape}
			want, _, err := c.Array(name)
			if err != nil {
				return nil, nil, err
			}
			res := Result{Weights: w.File, Array: name, Limit: c.Tolerance[name]}
			res.MaxAbs, res.RelL2 = Compare(got, want)
			results = append(results, res)
		}
	}
	return results, saved, nil
}

// Departure is how far what a layer made is from the values that the case has of it, in the relative L2 norm.
func (c *Case) Departure(p Probe, x *tensor.Tensor) (relL2 float64, err error) {
	want, _, err := c.Array(p.Tensor)
	if err != nil {
		return 0, err
	}
	data, err := x.Floats()
	if err != nil {
		return 0, err
	}
	data = NCHW(data, x.N(), x.H(), x.W(), x.C())
	var got []float32
	for i := 0; i < len(data); i += max(p.Stride, 1) {
		got = append(got, data[i])
	}
	if len(got) != len(want) {
		return 0, fmt.Errorf("%s: %v at the probe %s of %d values", c.Name, x, p.Tensor, len(want))
	}
	_, relL2 = Compare(got, want)
	return relL2, nil
}

// Forward computes one run of the case: the output, NCHW, and its shape.
func (c *Case) Forward(d *tensor.Device, net *nn.UNet, r Run) (out []float32, shape []int, err error) {
	defer tensor.Catch(&err)
	defer d.Tidy()()
	x, err := c.Input(d, r.Inputs["x"])
	if err != nil {
		return nil, nil, err
	}
	ts, _, err := c.Array(r.Inputs["t"])
	if err != nil {
		return nil, nil, err
	}
	t := make([]float64, len(ts))
	for i, v := range ts {
		t[i] = float64(v)
	}
	var labels []int
	if name, ok := r.Inputs["y"]; ok {
		ys, _, err := c.Array(name)
		if err != nil {
			return nil, nil, err
		}
		for _, y := range ys {
			labels = append(labels, int(y))
		}
	}
	y := net.Forward(x, t, labels)
	data, err := y.Floats()
	if err != nil {
		return nil, nil, err
	}
	return NCHW(data, y.N(), y.H(), y.W(), y.C()), []int{y.N(), y.C(), y.H(), y.W()}, nil
}

// Run computes everything that the case asks for and compares it. weights, where not empty, replaces the case's list.
// saved has one entry for each weights file, or one where there are none.
func (c *Case) Run(d *tensor.Device, weights string) (results []Result, saved []Saved, err error) {
	switch c.Kind {
	case "guided_diffusion_unet":
		return c.unet(d, weights)
	case "latent_diffusion", "diffusers":
		return c.models(d, weights)
	case "layers":
		return c.layersCase(d)
	case "operator":
		return c.operatorCase(d)
	case "operators_photo":
		return c.photoCase(d)
	case "solver_operators":
		return c.operatorsCase(d)
	case "solver_trajectory":
		return c.trajectoryCase(d)
	case "solver_schedule":
		return c.gridCase()
	case "schedule":
		return c.scheduleCase(d)
	case "formats":
		return nil, nil, fmt.Errorf("%s: files for the readers, with nothing to compute: that is %w", c.Name, ErrUnsupported)
	}
	return nil, nil, fmt.Errorf("%s: cases of kind %q are %w", c.Name, c.Kind, ErrUnsupported)
}
