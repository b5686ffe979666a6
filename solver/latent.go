package solver

import "github.com/spin-native/spin/tensor"

// FirstStage is the autoencoder around the diffusion of a latent prior: pictures [N,H,W,C] on one side, latents
// [N,H/f,W/f,c] on the other. It is only ever run forwards. It must treat every image of the batch alone. The first stages
// of package nn are ones.
type FirstStage interface {
	Encode(x *tensor.Tensor) (*tensor.Tensor, error)
	Decode(z *tensor.Tensor) (*tensor.Tensor, error)
	// Scale turns a latent into what the denoiser sees, Unscale turns that back.
	Scale(z *tensor.Tensor) (*tensor.Tensor, error)
	Unscale(z *tensor.Tensor) (*tensor.Tensor, error)
	Downsampling() int // f
	PictureChannels() int
	LatentChannels() int
}

// latents leads a run between its pictures and the space that its denoiser works in.
type latents struct {
	r      *run
	stage  FirstStage
	shape  [4]int // of the pictures
	frames *frames
}

// newLatents checks that the first stage takes pictures of a shape. Pictures are padded, mirrored outwards, to multiples of
// Downsampling times the multiple that the denoiser takes latents in, so that latents never have to be.
func newLatents(r *run, stage FirstStage, shape [4]int) *latents {
	const op = "solver.FirstStage"
	f := stage.Downsampling()
	if f < 1 {
		tensor.Fail(op, "downsampling is %d, expected 1 or more", f)
	}
	if c := stage.PictureChannels(); c != shape[3] {
		tensor.Fail(op, "it takes pictures of %d channels, the operator's have %d", c, shape[3])
	}
	if m, ok := r.den.(Multiplied); ok {
		f *= max(m.Multiple(), 1)
	}
	return &latents{r, stage, shape, newFrames(f)}
}

// encode is Scale(E(x)) of a padded picture.
func (l *latents) encode(x *tensor.Tensor) (z *tensor.Tensor, err error) {
	defer l.r.d.Tidy(&z)()
	l.r.lap(l.r.d.Mark(), nil)
	raw, err := l.stage.Encode(l.frames.of(l.r.d, l.shape[1], l.shape[2]).enlarge(x))
	if err != nil {
		return nil, err
	}
	if want := l.size(); raw.Shape() != want {
		f := l.stage.Downsampling()
		tensor.Fail("solver.FirstStage", "it made latents %v of pictures of %d x %d, expected %v", raw, want[1]*f, want[2]*f, want)
	}
	if z, err = l.stage.Scale(raw); err != nil {
		return nil, err
	}
	l.r.res.Encodes++
	l.r.lap(l.r.d.Mark(), &l.r.res.Encoding)
	return z, nil
}

// size is the shape of the latents.
func (l *latents) size() [4]int {
	f := l.stage.Downsampling()
	return [4]int{l.shape[0], l.frames.size(l.shape[1]) / f, l.frames.size(l.shape[2]) / f, l.stage.LatentChannels()}
}

// decode is Dec(Unscale(z)) without the padding, not clipped.
func (l *latents) decode(z *tensor.Tensor) (x *tensor.Tensor, err error) {
	defer l.r.d.Tidy(&x)()
	l.r.lap(l.r.d.Mark(), nil)
	raw, err := l.stage.Unscale(z)
	if err != nil {
		return nil, err
	}
	if x, err = l.stage.Decode(raw); err != nil {
		return nil, err
	}
	x = l.frames.of(l.r.d, l.shape[1], l.shape[2]).cut(x)
	if x.Shape() != l.shape {
		tensor.Fail("solver.FirstStage", "it made pictures %v of latents %v, expected %v", x, z, l.shape)
	}
	l.r.res.Decodes++
	l.r.lap(l.r.d.Mark(), &l.r.res.Decoding)
	return x, nil
}

// Where guidance and grid of a latent prior end, as noise-to-signal ratios; see LatentDefaults.
const (
	latentGuided = 0.1
	latentLow    = 0.05
	latentFloor  = 0.05 // about the error of a first stage, on pictures in [-1,1]
)

// pictureFloor is the floor of the noise level in the last correction of a latent run: that of a picture, since no first
// stage comes after it.
const pictureFloor = 0.01

// LatentDefaults are Defaults for a latent prior: the operator's task in a budget of 40 calls, for the schedule of the
// latents.
//
// A first stage loses about 0.05 of a picture, so that takes the place of small measurement noise: guidance ends at a
// noise-to-signal ratio of 0.1 and the grid at 0.05, with plain steps between them, and SDMin = 0.05. (To convert the
// timesteps of pictures as Defaults does would not do: the schedules of latent priors begin at a ratio of 0.03 or 0.04,
// where guidance of pictures ends, so that everything would become timestep 0 and every step guided.) TStar has the
// noise-to-signal ratio that it has for pictures, and half of it where scattered pixels or a drawn mask are missing: there
// the first guess is good, and what noise hides of it has to come back through the first stage. On the schedule of
// latent-diffusion's faces, TEnd is 6 and TLow 1; on Stable Diffusion's, 10 and 2.
//
// Every = 2, as each correction costs a decode and an encode; and a correction is 10 steps of FGD where the operator knows
// Lipschitz, which fits what is measured well and its noise hardly. For sigma below 0.03 the last picture is
// corrected once more (Final): only so does the result meet the measurement closer than the first stage can.
//
// TStar of the masks and the steps of FGD were found with the small built-in latent prior, on two photos that neither it
// nor the demonstration knows; the other numbers held out there. A guess that a stronger prior improves on may want more
// noise.
func LatentDefaults(op Operator, sigma float64, schedule *Schedule) Settings {
	if schedule == nil {
		schedule = defaultSchedule()
	}
	task := taskOf(op)
	if task == TaskDenoise {
		task = TaskDenoiseUneven // what noise becomes in latents
	}
	s := Defaults(task, sigma, schedule)
	s.Most = 0
	s.Parameters = s.Budget(Standard)
	s.TEnd, s.TLow = schedule.Nearest(latentGuided), schedule.Nearest(latentLow)
	if task == TaskInpaintRandom || task == TaskInpaintMask {
		s.TStar = schedule.Nearest(schedule.NoiseToSignal(s.TStar) / 2)
	}
	s.TStar = max(s.TStar, s.TEnd)
	s.Every, s.SDMin, s.Final = 2, latentFloor, sigma < 0.03
	if lipschitz(op) > 0 {
		s.Inner1 = Inner{Method: FGD, Steps: 10}
		s.Inner2 = s.Inner1
	}
	return s
}
