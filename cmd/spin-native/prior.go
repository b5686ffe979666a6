package main

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/solver"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// priorFlags say what pictures look like.
type priorFlags struct {
	path       string // of a built-in prior its name; a file or folder
	preset     string
	firstStage string // a file or folder, in place of the prior's own
	scale      int    // of the first stage, where its user knows; 0: what the files tell
	space      string // pixels or latents, what the UNet works on; "": what the files tell
	label      int    // noLabel without one

	threshold float64 // quantile of dynamic thresholding; 0: clipped
	unclipped bool    // neither
}

const (
	familyUNet = checkpoint.FamilyGuided
	noLabel    = -1
)

func (f *priorFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.path, "prior", builtin, "what pictures look like: photo or photo-latent (built in), or a `FILE` or folder: converted, .safetensors, .pt, .ckpt or of diffusers; a latent one with its first stage")
	c.Flags().StringVar(&f.preset, "prior-preset", "", "what a raw checkpoint does not tell, by its model's `NAME`: "+strings.Join(checkpoint.PresetNames(), ", "))
	c.Flags().StringVar(&f.firstStage, "first-stage", "", "the first stage of a latent prior, where another `FILE` or folder holds it")
	c.Flags().IntVar(&f.scale, "first-stage-scale", 0, "the first stage shrinks pictures `N` times, and so did the one that the prior was trained with: where the sizes that both were trained on speak against it")
	c.Flags().StringVar(&f.space, "prior-space", "", "what the prior works on, pixels or latents, where its file does not tell: a UNet2DModel of diffusers without its pipeline")
	c.Flags().IntVar(&f.label, "label", noLabel, "class of the picture, `N` from 0, for a prior that is conditioned on classes")
}

// priorFile is an open prior.
type priorFile struct {
	weights *weights.File // of the UNet
	info    weights.Info
	stack   checkpoint.Stack
	stage   *weights.File // of a latent prior's first stage
	label   int
	flags   priorFlags
	closers []io.Closer
}

func (p *priorFile) close() {
	for _, c := range p.closers {
		c.Close()
	}
	p.closers, p.weights, p.stage = nil, nil, nil
}

// latent is whether the UNet works on latents.
func (p *priorFile) latent() bool { return p.stack.FirstStage != nil }

// open reads what the file says and checks that it can serve as a prior for pictures. Nothing is computed.
func (f priorFlags) open() (p *priorFile, err error) {
	p = &priorFile{label: f.label, flags: f}
	defer func() {
		if err != nil {
			p.close()
			p, err = nil, fmt.Errorf("prior: %w", err)
		}
	}()
	unet, stage, err := f.components(p)
	if err != nil {
		return p, err
	}
	if err := f.tell(&unet.Info, stage != nil); err != nil {
		return p, err
	}
	if p.stack, err = checkpoint.NewStack(unet, stage); err != nil {
		if errors.Is(err, checkpoint.ErrScale) && unet.Info.Downsampling == 0 {
			return p, fmt.Errorf("%s: %w; if they do, say by how much it shrinks pictures, --first-stage-scale %d", f.path, err, p.stack.Downsampling)
		}
		if errors.Is(err, checkpoint.ErrSpace) {
			return p, fmt.Errorf("%s: %w; say --prior-space pixels, or name a first stage with --first-stage", f.path, err)
		}
		if stage == nil && errors.Is(err, checkpoint.ErrMissing) {
			return p, fmt.Errorf("%s: %w; name a file or folder that holds both, or the other one with --first-stage", f.path, err)
		}
		return p, fmt.Errorf("%s: %w", f.path, err)
	}
	p.info = unet.Info
	if p.weights, err = weights.FromTensors(f.path, unet.Tensors, nil); err != nil {
		return p, err
	}
	if stage != nil {
		if p.stage, err = weights.FromTensors("first stage", stage.Tensors, nil); err != nil {
			return p, err
		}
	}
	return p, nil
}

// tell adds to what the files say about the UNet what the flags do.
func (f priorFlags) tell(unet *weights.Info, staged bool) error {
	switch known := unet.Downsampling; f.space {
	case "":
	case "pixels", "latents":
		if unet.Family != checkpoint.FamilyLatent || known > 0 && (known == 1) != (f.space == "pixels") {
			return usagef("--prior-space %s: the prior's files tell otherwise", f.space)
		}
		if f.space == "pixels" {
			unet.Downsampling = 1
		} else if !staged {
			return usagef("--prior-space latents: the prior needs its first stage, and that is missing: --first-stage names it")
		}
	default:
		return usagef("--prior-space %s: expected pixels or latents", f.space)
	}
	if f.scale != 0 {
		if !staged || f.scale < 0 || unet.Downsampling > 0 && unet.Downsampling != f.scale {
			return usagef("--first-stage-scale %d: it is for a prior with a first stage, and files that tell otherwise are right", f.scale)
		}
		unet.Downsampling = f.scale
	}
	return nil
}

// components finds the UNet, and the first stage if there is one, in the files. p closes them.
func (f priorFlags) components(p *priorFile) (unet checkpoint.Component, stage *checkpoint.Component, err error) {
	m, err := openModel(f.path, checkpoint.Options{Preset: f.preset})
	if err != nil {
		return unet, nil, err
	}
	p.closers = append(p.closers, m)
	unet, ok := m.Component(checkpoint.RoleUNet)
	if !ok {
		return unet, nil, fmt.Errorf("%s holds no UNet", f.path)
	}
	if c, ok := m.Component(checkpoint.RoleFirstStage); ok {
		stage = &c
	}
	if f.firstStage == "" {
		return unet, stage, nil
	}
	if m, err = openModel(f.firstStage, checkpoint.Options{}); err != nil {
		return unet, nil, err
	}
	p.closers = append(p.closers, m)
	c, ok := m.Component(checkpoint.RoleFirstStage)
	if !ok {
		return unet, nil, fmt.Errorf("%s holds no first stage", f.firstStage)
	}
	return unet, &c, nil
}

// network is a UNet of either kind.
type network struct {
	predict  func(x *tensor.Tensor, t float64, labels []int) *tensor.Tensor
	trace    *func(name string, x *tensor.Tensor)
	multiple int // of height and width
}

// load builds the network of a prior on a device and closes the file. edge is the size of the pictures to come.
func (p *priorFile) load(d *tensor.Device, edge int) (network, error) {
	defer debug.FreeOSMemory() // what reading took: the engine's tensors would come on top of it
	defer p.close()
	return p.network(d, p.weights, edge)
}

// network builds the UNet from a file. edge is the size of what it will work on.
func (p *priorFile) network(d *tensor.Device, f *weights.File, edge int) (n network, err error) {
	o := nn.LoadOptions{MeanOnly: true, ImageSize: edge}
	if c := p.stack.Guided; c != nil {
		var net *nn.UNet
		if net, err = nn.LoadUNet(d, f.Scope(), *c, o); err == nil {
			n = network{func(x *tensor.Tensor, t float64, labels []int) *tensor.Tensor {
				return net.Forward(x, []float64{t}, labels)
			}, &net.Trace, c.Downsampling()}
		}
	} else {
		var net *nn.LatentUNet
		if net, err = nn.LoadLatentUNet(d, f.Scope(), *p.stack.Latent, o); err == nil {
			n = network{func(x *tensor.Tensor, t float64, labels []int) *tensor.Tensor {
				return net.Forward(x, []float64{t}, labels, nil)
			}, &net.Trace, net.Config.Downsampling()}
		}
	}
	if err == nil {
		err = f.CheckAllRead()
	}
	if err != nil {
		err = fmt.Errorf("prior: UNet: %w", err)
	}
	return n, err
}

// prior is a network with what the solver must know about it.
type prior struct {
	den     solver.Denoiser
	stage   solver.FirstStage // nil: the denoiser works on pictures
	guesses []string          // what its files do not tell
	notes   []string
	noise   solver.Noise // nil: that of the seed
	memory  plan

	corrections correctionFlags // of a latent one
	tuning      tuning
	trust       trustFlags
	restarts    int // 0: as many as the task wants
}

// labels are the classes of n pictures.
func (p *priorFile) labels(n int) []int {
	if p.stack.Classes == 0 {
		return nil
	}
	return slices.Repeat([]int{p.label}, n)
}

// checkLabel is whether the label fits the prior.
func (p *priorFile) checkLabel() error {
	switch n := p.stack.Classes; {
	case n == 0 && p.label != noLabel:
		return usagef("--label %d: the prior knows no classes", p.label)
	case n > 0 && p.label == noLabel:
		return usagef("the prior is conditioned on %d classes: say which one the picture is of, --label 0 to %d, or use an unconditional prior", n, n-1)
	case n > 0 && (p.label < 0 || p.label >= n):
		return usagef("--label %d: the prior knows the classes 0 to %d", p.label, n-1)
	}
	return nil
}

// build makes the prior from its networks, or with dry from their shapes alone, for a device that computes nothing. edge is
// the size of the pictures to come. A first stage is tiled as t says.
func (p *priorFile) build(d *tensor.Device, edge int, t nn.Tiling, dry bool) (*prior, error) {
	betas, err := p.info.Schedule.Values()
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	schedule, err := solver.FromBetas(betas)
	if err != nil {
		return nil, fmt.Errorf("prior: %w", err)
	}
	o := solver.ModelOptions{Schedule: schedule, Prediction: solver.Prediction(p.info.Prediction)}
	out := &prior{guesses: p.info.Guesses, notes: p.stack.Notes}
	unet := p.weights
	if dry {
		unet = unet.ShapesOnly()
	}
	f := p.stack.Downsampling
	net, err := p.network(d, unet, (edge+f-1)/f)
	if err != nil {
		return nil, err
	}
	o.NoClip, o.Threshold, o.Multiple = p.latent() || p.flags.unclipped, p.flags.threshold, net.multiple
	out.den = solver.FromModel(func(x *tensor.Tensor, t float64) *tensor.Tensor {
		return net.predict(x, t, p.labels(x.N()))
	}, o)
	if !p.latent() {
		return out, nil
	}

	stage := p.stage
	if dry {
		stage = stage.ShapesOnly()
	}
	if out.stage, err = p.stack.FirstStage.LoadFirstStageFrom(d, stage, nn.LoadOptions{ImageSize: edge, Tiling: t}); err != nil {
		return nil, fmt.Errorf("prior: first stage: %w", err)
	}
	for _, g := range p.stack.FirstStage.Info.Guesses {
		out.guesses = append(out.guesses[:len(out.guesses):len(out.guesses)], "first stage: "+g)
	}
	return out, nil
}

// load opens a prior and makes a denoiser of it, for n pictures of h x w at a time. run is what will be done with it: load
// rehearses it on a device that computes nothing, which tells how much memory to take, and refuses what would not fit.
func (f *solveFlags) load(d *tensor.Device, n, h, w int, run func(*tensor.Device, *prior) error) (*prior, error) {
	file, err := f.prior.open()
	if err != nil {
		return nil, err
	}
	defer file.close()
	if err := file.checkLabel(); err != nil {
		return nil, err
	}
	if err := f.corrections.fits(file); err != nil {
		return nil, err
	}
	plan, err := f.memory.plan(f.deviceFlags, file.tilings(h, w), n, h, w, hostPictures(n, h, w),
		func(t nn.Tiling) (dryrun.Cost, error) { return file.cost(f.machine(), t, n, h, w) },
		func(t nn.Tiling) (dryrun.Cost, error) {
			return file.rehearse(f.machine(), t, max(h, w), func(d *tensor.Device, p *prior) error {
				p.noise, p.corrections, p.trust, p.tuning, p.restarts = silence{}, f.corrections, f.trust, f.tuning, min(f.restarts, 2)
				p.tuning.deadline = time.Time{}
				return run(d, p)
			})
		})
	if err != nil {
		return nil, err
	}
	if err := d.Reserve(plan.cost.Memory.Activations); err != nil {
		return nil, err
	}
	defer debug.FreeOSMemory() // what reading took: the engine's tensors would come on top of it
	defer file.close()
	p, err := file.build(d, max(h, w), plan.tiling, false)
	if err != nil {
		return nil, err
	}
	p.corrections, p.trust, p.tuning, p.restarts = f.corrections, f.trust, f.tuning, f.restarts
	if p.memory = plan; file.latent() {
		p.memory.width = file.padded(w)
	}
	return p, nil
}

// tilings are those to choose from for pictures of h x w, the fastest first. UNets always run whole.
func (p *priorFile) tilings(h, w int) []nn.Tiling {
	if !p.latent() {
		return []nn.Tiling{{}}
	}
	return checkpoint.Tilings(p.padded(h), p.padded(w))
}

// padded is the height or width that pictures have for the networks of a latent prior.
func (p *priorFile) padded(n int) int {
	m := p.stack.Multiple
	return (n + m - 1) / m * m
}

// rehearse builds the prior on a device that computes nothing, lets run use it, and tells what all that would have taken.
func (p *priorFile) rehearse(m dryrun.Machine, t nn.Tiling, edge int, run func(*tensor.Device, *prior) error) (cost dryrun.Cost, err error) {
	defer tensor.Catch(&err)
	d, err := dryrun.Open(m)
	if err != nil {
		return cost, err
	}
	defer d.Close()
	prior, err := p.build(d.Device, edge, t, true)
	if err == nil {
		err = run(d.Device, prior)
	}
	return d.Cost(), err
}

// rehearsed is the number of denoiser calls of a rehearsal. Every step leaves the memory as it found it, so that a few
// calls tell of all.
const rehearsed = solver.Fast

// silence is the noise of a rehearsal.
type silence struct{}

func (silence) Normal(dst []float32, _, _ int) { clear(dst) }

// cost is what one call of the prior on n pictures of h x w takes; for a latent one, the way through its first stage too.
func (p *priorFile) cost(m dryrun.Machine, t nn.Tiling, n, h, w int) (cost dryrun.Cost, err error) {
	switch {
	case p.stack.Guided != nil:
		cost, err = checkpoint.GuidedCost(m, p.weights, *p.stack.Guided, n, h, w)
	case !p.latent():
		cost, err = checkpoint.LatentCost(m, p.weights, *p.stack.Latent, n, h, w)
	default:
		cost, err = p.rehearse(m, t, max(h, w), func(d *tensor.Device, r *prior) error {
			z, err := r.stage.Encode(d.New(n, p.padded(h), p.padded(w), 3))
			if err != nil {
				return err
			}
			_, err = r.stage.Decode(r.den.Denoise(z, 0))
			return err
		})
	}
	if err != nil {
		err = fmt.Errorf("prior: %w", err)
	}
	return cost, err
}
