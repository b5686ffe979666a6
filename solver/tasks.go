package solver

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spin-native/spin/tensor"
)

// Task names a row of the table of defaults.
type Task string

const (
	TaskPhase         Task = "phase"
	TaskMRI           Task = "mri"
	TaskCT            Task = "ct"
	TaskCS            Task = "cs"           // compressed sensing, block by block
	TaskSinglePixel   Task = "single-pixel" // some coefficients of the Walsh-Hadamard transform
	TaskDenoise       Task = "denoise"
	TaskDenoiseUneven Task = "denoise-uneven" // the noise is not the same everywhere, or rounding
	TaskInpaintRandom Task = "inpaint-random" // scattered pixels are missing
	TaskInpaintBox    Task = "inpaint-box"    // a box or a half is missing, and something must be invented
	TaskInpaintMask   Task = "inpaint-mask"   // a drawn mask: scratches, text, dust
	TaskGaussianBlur  Task = "deblur-gaussian"
	TaskMotionBlur    Task = "deblur-motion"
	TaskBlur          Task = "deblur" // the user's own kernel
	TaskColor         Task = "colorize"
	TaskHDR           Task = "hdr"
	TaskOther         Task = "other" // an operator that this package does not know
)

// TaskSuperResolution is super-resolution by a factor of 2 or more, "sr4" for example.
func TaskSuperResolution(factor int) Task { return Task(fmt.Sprintf("sr%d", factor)) }

// TaskJPEG is the decoding of a JPEG file of a quality of 1 to 100, "jpeg10" for example.
func TaskJPEG(quality int) Task { return Task(fmt.Sprintf("jpeg%d", quality)) }

// Budgets of denoiser calls.
const (
	Fast     = 10
	Standard = 40
	Best     = 100
)

// defaults of one task, for the linear schedule, in a budget of 40 calls.
type defaults struct {
	tstar, k1, p int
	lam          float64
	most         int // calls in any budget; 0: no limit
}

// table was found by experiment with a small photo prior at sigma = 0.05.
var table = map[Task]defaults{
	TaskPhase:         {200, 12, 28, 1, 0},
	TaskMRI:           {100, 8, 32, 0.3, 0},
	TaskCT:            {300, 8, 32, 0.3, 0},
	TaskCS:            {300, 12, 28, 0.3, 0},
	TaskSinglePixel:   {300, 8, 32, 0.3, 0},
	TaskDenoise:       {14, 0, 2, 1, 2},  // tstar: see Defaults
	TaskDenoiseUneven: {60, 2, 38, 1, 0}, // tstar: see Defaults
	TaskInpaintRandom: {80, 4, 36, 0.3, 0},
	TaskInpaintMask:   {80, 4, 36, 0.3, 0},
	TaskInpaintBox:    {500, 12, 28, 0.3, 0},
	TaskGaussianBlur:  {300, 8, 32, 0.3, 0},
	TaskMotionBlur:    {150, 8, 32, 0.5, 0},
	TaskBlur:          {150, 8, 32, 0.5, 0}, // like motion blur: most kernels that someone brings are shakes
	TaskColor:         {400, 12, 28, 1, 0},
	TaskHDR:           {80, 1, 9, 0.3, 10},
	TaskOther:         {200, 8, 32, 0.3, 0}, // the flat middle of what works where the measurement covers the picture
}

// superResolution interpolates between x4 (300, 8 calls, 0.2) and x16 (500, 12 calls, 0.1), linearly in the logarithm of
// the factor. The line goes on below 4, to (200, 6 calls, 0.25) at 2, and ends at 16.
func superResolution(factor int) defaults {
	u := min((math.Log2(float64(factor))-2)/2, 1)
	k1 := round(8 + 4*u)
	return defaults{round(300 + 200*u), k1, Standard - k1, 0.2 - 0.1*u, 0}
}

// jpegDefaults goes through (300, lam 0.1) at quality 2 and (200, 0.1) at quality 10, linearly in the logarithm of the quality. The
// line goes on to 54 at quality 100.
func jpegDefaults(quality int) defaults {
	u := math.Log(float64(max(quality, 2))/2) / math.Log(5)
	return defaults{round(300 - 100*u), 8, 32, 0.1, 0}
}

func round(v float64) int { return int(math.RoundToEven(v)) }

// Defaults are the published settings of a task in a budget of 40 calls. sigma is the noise level of the measurement in
// units of the images; a nil schedule is the linear one.
//
// At all noise levels Every = 1, Power = 2, EtaG = 1, EtaU = 0. For sigma of 0.03 and more, guidance ends at timestep 8
// and the grid at 3, SDMin = 0.02; below it they end at 3 and 1. Where sigma is 0, the last step is corrected as well
// (TEnd = 0), SDMin = 0.01, and inpainting keeps the known pixels. On another schedule each of these timesteps becomes the
// one with the nearest noise-to-signal ratio. Blur is corrected by 4 steps of PCG, what has a closed form by that.
//
// Denoising starts from the measurement as it is (Noisy), where the noise-to-signal ratio is sigma, and is never corrected: the
// first denoiser call is then the mean of all pictures that the measurement leaves plausible, and a second one at timestep 1
// takes away what it leaves of noise. More calls go on from that mean to one of those pictures, which is farther from the truth
// (2 calls 31.2 dB, 10 29.2, 33 28.6; EtaU = 1). Noise that is not the same everywhere, and rounding, start at 4 sigma and are corrected.
//
// It panics with *tensor.Error for a task that is not in the table; see ParseTask.
func Defaults(task Task, sigma float64, schedule *Schedule) Settings {
	row, ok := lookup(task)
	if !ok {
		tensor.Fail("solver.Defaults", "task %q is not known", task)
	}
	linear := defaultSchedule()
	if schedule == nil {
		schedule = linear
	}
	at := func(t int) int { return schedule.Nearest(linear.NoiseToSignal(t)) }
	p := Parameters{
		TStar: at(row.tstar), K1: row.k1, P: row.p, Most: row.most, TLow: at(3), Power: 2, Every: 1, TEnd: at(8),
		EtaG: 1, EtaU: 0, Lam1: row.lam, Lam2: row.lam, SDMin: 0.02,
	}
	own := strings.HasPrefix(string(task), "jpeg") // residuals have units of their own, and sigma says nothing
	if sigma < 0.03 && !own {
		p.TEnd, p.TLow = at(3), at(1)
	}
	if sigma == 0 && !own {
		p.TEnd, p.SDMin = 0, 0.01
		p.Keep = true
	}
	switch task {
	case TaskDenoise:
		p.Noisy, p.TStar, p.TLow, p.EtaU = true, schedule.Nearest(sigma), at(1), 1
		p.TEnd = schedule.Len()
	case TaskDenoiseUneven:
		p.TStar = schedule.Nearest(4 * sigma)
	}
	if task == TaskPhase {
		p.Inner1, p.Inner2 = Inner{Method: FGD, Steps: 40}, Inner{Method: FGD, Steps: 40}
	}
	p.TLow = min(p.TLow, p.TStar)
	return Settings{Parameters: p, Restarts: restartsOf(task)}
}

// restartsOf is the number of runs: phase retrieval is not convex, and even a good first guess can be a superposition of
// the picture and its rotated twin, which no run leaves.
func restartsOf(task Task) int {
	if task == TaskPhase {
		return 4
	}
	return 1
}

// ParseTask checks the name of a task.
func ParseTask(name string) (Task, error) {
	if _, ok := lookup(Task(name)); !ok {
		return "", fmt.Errorf("solver: task %q is not known", name)
	}
	return Task(name), nil
}

func lookup(task Task) (defaults, bool) {
	if f, ok := strings.CutPrefix(string(task), "sr"); ok {
		factor, err := strconv.Atoi(f)
		return superResolution(max(factor, 2)), err == nil && factor >= 2
	}
	if q, ok := strings.CutPrefix(string(task), "jpeg"); ok {
		quality, err := strconv.Atoi(q)
		return jpegDefaults(quality), err == nil && quality >= 1 && quality <= 100
	}
	row, ok := table[task]
	return row, ok
}

// Budget scales K1 and P to n denoiser calls in all, K1 = max(1, round(n K1/(K1+P))) and P = n - K1, at least 1. 0 and
// less leave them as they are. With fewer calls each of them has more noise of the measurement to take away, and Lam2 is
// multiplied by sqrt((K1+P)/n). A K1 of 0 stays, and n is at most Most.
func (s Parameters) Budget(n int) Parameters {
	if n <= 0 || s.K1+s.P <= 0 {
		return s
	}
	if s.Most > 0 {
		n = min(n, s.Most)
	}
	s.Lam2 *= math.Sqrt(max(1, float64(s.K1+s.P)/float64(n)))
	if s.K1 > 0 {
		s.K1 = min(max(1, round(float64(n)*float64(s.K1)/float64(s.K1+s.P))), n-1)
	}
	s.P = n - s.K1
	return s
}
