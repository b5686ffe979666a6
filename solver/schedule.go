package solver

import (
	"fmt"
	"math"

	"github.com/spin-native/spin/tensor"
)

// Schedule is the noise schedule of a diffusion model: abar(t) = prod_{s<=t} (1 - beta_s), in float64. Timestep t holds
//
//	x_t = sqrt(abar(t)) x_0 + sqrt(1-abar(t)) n
type Schedule struct {
	alphaBar []float64
}

// Linear is the schedule of DDPM: beta from b0 to b1 in equal steps. The usual one is Linear(1000, 1e-4, 0.02). It panics
// with *tensor.Error where the numbers are not those of a schedule; FromBetas returns an error instead.
func Linear(T int, b0, b1 float64) *Schedule {
	return must(FromBetas(linspace(T, b0, b1)))
}

// ScaledLinear is the schedule of the latent diffusion models: sqrt(beta) from sqrt(b0) to sqrt(b1) in equal steps. It
// panics as Linear does.
func ScaledLinear(T int, b0, b1 float64) *Schedule {
	betas := linspace(T, math.Sqrt(b0), math.Sqrt(b1))
	for i, b := range betas {
		betas[i] = b * b
	}
	return must(FromBetas(betas))
}

// maxTimesteps bounds schedules that come from files.
const maxTimesteps = 1 << 20

// FromBetas is the schedule with the given betas, each inside (0,1).
func FromBetas(betas []float64) (*Schedule, error) {
	if len(betas) == 0 || len(betas) > maxTimesteps {
		return nil, fmt.Errorf("solver.FromBetas: %d betas, expected 1 to %d", len(betas), maxTimesteps)
	}
	s := &Schedule{make([]float64, len(betas))}
	abar := 1.0
	for t, b := range betas {
		if !(b > 0 && b < 1) {
			return nil, fmt.Errorf("solver.FromBetas: beta %d is %v, expected a number between 0 and 1", t, b)
		}
		abar *= 1 - b
		s.alphaBar[t] = abar
	}
	return s, nil
}

func linspace(n int, first, last float64) []float64 {
	v := make([]float64, min(max(n, 0), maxTimesteps+1))
	for i := range v {
		v[i] = first
		if n > 1 {
			v[i] += float64(i) * ((last - first) / float64(n-1))
		}
	}
	return v
}

func must(s *Schedule, err error) *Schedule {
	if err != nil {
		tensor.FailWith("solver.Schedule", err, "not a schedule")
	}
	return s
}

// Len is the number of timesteps T; they are 0 to T-1.
func (s *Schedule) Len() int { return len(s.alphaBar) }

// AlphaBar is abar(t); abar(-1) = 1, no noise.
func (s *Schedule) AlphaBar(t int) float64 {
	if t == -1 {
		return 1
	}
	if t < 0 || t >= len(s.alphaBar) {
		tensor.Fail("solver.AlphaBar", "timestep %d, expected -1 to %d", t, len(s.alphaBar)-1)
	}
	return s.alphaBar[t]
}

// NoiseToSignal is s(t) = sqrt((1-abar(t)) / abar(t)), the noise level in units of the image.
func (s *Schedule) NoiseToSignal(t int) float64 {
	a := s.AlphaBar(t)
	return math.Sqrt((1 - a) / a)
}

// Nearest is the timestep whose noise-to-signal ratio is nearest to the given one.
func (s *Schedule) Nearest(ratio float64) int {
	best := 0
	for t := range s.alphaBar {
		if math.Abs(s.NoiseToSignal(t)-ratio) < math.Abs(s.NoiseToSignal(best)-ratio) {
			best = t
		}
	}
	return best
}

// Grid is n timesteps from hi down to lo, denser at the low end for power > 1:
//
//	t_i = round(lo + (hi-lo) (1 - i/(n-1))^power),   halves to even
//
// Equal neighbours are merged, so there may be fewer. n = 1 gives hi alone.
func Grid(hi, lo, n int, power float64) []int {
	var grid []int
	for i := range n {
		u := 1.0
		if n > 1 {
			u = 1 - float64(i)/float64(n-1)
		}
		t := int(math.RoundToEven(float64(lo) + float64(hi-lo)*math.Pow(u, power)))
		if len(grid) == 0 || grid[len(grid)-1] != t {
			grid = append(grid, t)
		}
	}
	return grid
}
