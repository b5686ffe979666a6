package solver

import (
	"math"
	"math/bits"
	"runtime"
	"sync"
)

// Noise gives the random numbers of a run. Everything that Spin draws is numbered per image, so that neither the batch
// nor the device changes what an image gets.
type Noise interface {
	// Normal fills dst, one image in NHWC order, with the standard normal numbers of a draw of an image, both counted
	// from 0. Images are counted over all batches of a run.
	Normal(dst []float32, image, draw int)
}

// NewNoise is the generator that a run with this seed uses: Philox 4x32-10 (Salmon et al., Parallel random numbers: as
// easy as 1, 2, 3) and Box-Muller. Element i of a draw is a function of (seed, image, draw, i) alone.
func NewNoise(seed uint64) Noise { return philoxNoise{seed, domainSolver} }

// Domains separate the streams of one seed. A number never changes, since what a seed draws depends on it.
const (
	domainSolver  = 0 // what the solver draws
	domainMeasure = 1 // the noise of a simulated measurement
	domainMask    = 2 // random masks
	domainMotion  = 3 // random kernels
	domainPhotons = 4 // noise that depends on the measurement
	domainGrain   = 5 // the grain of Invented
	domainPhase   = 6 // first guesses of phase retrieval
	domainLines   = 7 // which lines and coefficients are sampled
	domainBlock   = 8 // random matrices of compressed sensing
)

type philoxNoise struct {
	seed   uint64
	domain uint32
}

// noiseBlock is a multiple of the four numbers that one counter gives.
const noiseBlock = 1 << 14

func (p philoxNoise) Normal(dst []float32, image, draw int) {
	blocks := (len(dst) + noiseBlock - 1) / noiseBlock
	workers := min(blocks, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for b := w; b < blocks; b += workers {
				p.fill(dst[b*noiseBlock:min((b+1)*noiseBlock, len(dst))], uint32(b*noiseBlock/4), image, draw)
			}
		}()
	}
	wg.Wait()
}

func (p philoxNoise) fill(dst []float32, counter uint32, image, draw int) {
	for i := 0; i < len(dst); i += 4 {
		r := p.block(counter, image, draw)
		counter++
		var z [4]float32
		z[0], z[1] = boxMuller(r[0], r[1])
		z[2], z[3] = boxMuller(r[2], r[3])
		copy(dst[i:], z[:])
	}
}

func (p philoxNoise) block(counter uint32, image, draw int) [4]uint32 {
	return philox([4]uint32{counter, uint32(draw), uint32(image), p.domain}, [2]uint32{uint32(p.seed), uint32(p.seed >> 32)})
}

// philox is Philox 4x32 with 10 rounds.
func philox(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xD2511F53, c[0])
		hi1, lo1 := bits.Mul32(0xCD9E8D57, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += 0x9E3779B9
		k[1] += 0xBB67AE85
	}
	return c
}

// stream hands out one number after another, for set-up on the host.
type stream struct {
	source  philoxNoise
	counter uint32
	left    []uint32
}

func newStream(seed uint64, domain uint32) *stream { return &stream{source: philoxNoise{seed, domain}} }

func (s *stream) uint32() uint32 {
	if len(s.left) == 0 {
		block := s.source.block(s.counter, 0, 0)
		s.counter++
		s.left = block[:]
	}
	v := s.left[0]
	s.left = s.left[1:]
	return v
}

// float is uniform in [0,1).
func (s *stream) float() float64 { return float64(s.uint32()) * 0x1p-32 }

// below is uniform in [0,n), without bias: numbers of the incomplete last interval are drawn again.
func (s *stream) below(n int) int {
	limit := uint64(1) << 32 / uint64(n) * uint64(n)
	for {
		if v := uint64(s.uint32()); v < limit {
			return int(v % uint64(n))
		}
	}
}

// normal is standard normal.
func (s *stream) normal() float64 {
	return math.Sqrt(-2*math.Log((float64(s.uint32())+1)*0x1p-32)) * math.Cos(2*math.Pi*s.float())
}
