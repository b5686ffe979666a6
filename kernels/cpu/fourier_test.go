package cpu_test

import (
	"fmt"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/kernels/ref"
)

// random makes a view of normally distributed values.
func random(t testing.TB, b kernels.Backend, shape [4]int) (kernels.View, []float32) {
	v := kernels.View{N: shape[0], H: shape[1], W: shape[2], C: shape[3]}
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]float32, v.Len())
	for i := range data {
		data[i] = float32(rng.NormFloat64())
	}
	buf, err := b.Alloc(len(data))
	require.NoError(t, err)
	v.Buf = buf
	b.Upload(v, data)
	return v, data
}

// TestFourierAgainstGonum: someone else's transform in float64, over every length up to 300, the sizes that pictures
// have, and the awkward lengths around 4096.
func TestFourierAgainstGonum(t *testing.T) {
	lengths := []int{320, 384, 500, 512, 640, 720, 768, 1000, 1024, 1023, 2003, 3998, 4000, 4091, 4093, 4095, 4096}
	for n := range 300 {
		lengths = append(lengths, n+1)
	}
	b, err := cpu.Open(cpu.Options{Threads: 2})
	require.NoError(t, err)
	defer b.Close()
	worst := 0.0
	for _, n := range lengths {
		for _, shape := range [][4]int{{1, 1, n, 2}, {1, n, 1, 2}} {
			x, data := random(t, b, shape)
			b.Fourier(&kernels.Fourier{Dst: x, Src: x})
			got := make([]float32, len(data))
			require.NoError(t, b.Download(got, x))
			b.Free(x.Buf)
			z := make([]complex128, n)
			for i := range z {
				z[i] = complex(float64(data[2*i]), float64(data[2*i+1]))
			}
			want := fourier.NewCmplxFFT(n).Coefficients(nil, z)
			var off, size float64
			for i, w := range want {
				w /= complex(math.Sqrt(float64(n)), 0)
				off += math.Pow(cmplx.Abs(w-complex(float64(got[2*i]), float64(got[2*i+1]))), 2)
				size += math.Pow(cmplx.Abs(w), 2)
			}
			relative := math.Sqrt(off / size)
			worst = max(worst, relative)
			require.Less(t, relative, 1e-6, "length %d, shape %v", n, shape)
		}
	}
	t.Logf("largest relative error %.2g", worst)
}

// TestFourierThreads: the same bytes for any number of threads.
func TestFourierThreads(t *testing.T) {
	var first []float32
	for _, threads := range []int{1, 2, 5} {
		b, err := cpu.Open(cpu.Options{Threads: threads})
		require.NoError(t, err)
		x, data := random(t, b, [4]int{2, 134, 77, 6})
		b.Fourier(&kernels.Fourier{Dst: x, Src: x})
		require.NoError(t, b.Download(data, x))
		if first == nil {
			first = data
		}
		require.Equal(t, first, data)
		require.NoError(t, b.Close())
	}
}

func BenchmarkFourier(b *testing.B) {
	for _, n := range []int{256, 512, 768, 1000, 1024} {
		for _, level := range cpu.Levels() {
			b.Run(fmt.Sprintf("size=%d/level=%s", n, level), func(b *testing.B) {
				k, err := cpu.Open(cpu.Options{Level: level})
				require.NoError(b, err)
				defer k.Close()
				x, _ := random(b, k, [4]int{1, n, n, 6})
				f := kernels.Fourier{Dst: x, Src: x}
				for b.Loop() {
					k.Fourier(&f)
				}
			})
		}
	}
}

// TestLargeFilters: kernels that are applied through their spectra agree with the sums over their taps to float32
// accuracy, and the adjoint is one. What is large in one place may not drown what is small in another by more than that.
func TestLargeFilters(t *testing.T) {
	oracle := ref.Open()
	for _, level := range cpu.Levels() {
		b, err := cpu.Open(cpu.Options{Level: level, Threads: 2})
		require.NoError(t, err)
		defer b.Close()
		for _, c := range []struct {
			shape [4]int
			h, w  int
		}{{[4]int{1, 64, 96, 3}, 31, 31}, {[4]int{2, 50, 67, 4}, 61, 15}, {[4]int{1, 37, 90, 1}, 9, 61}} {
			w := kernels.FilterWeights{H: c.h, W: c.w, K: make([]float32, c.h*c.w)}
			rng := rand.New(rand.NewPCG(3, 4))
			for i := range w.K {
				w.K[i] = 2 * rng.Float32() / float32(len(w.K)) // a blur: the sum is about 1
			}
			results := map[kernels.Backend][2][]float32{}
			var in []float32
			for _, k := range []kernels.Backend{b, oracle} {
				f, err := k.PrepareFilter(w)
				require.NoError(t, err)
				var out [2][]float32
				for i := range out {
					x, data := random(t, k, c.shape)
					y, _ := random(t, k, c.shape)
					k.Filter(&kernels.Filter{Dst: y, Src: x, Kernel: f, Adjoint: i == 1, Alpha: 1})
					out[i], in = make([]float32, len(data)), data
					require.NoError(t, k.Download(out[i], y))
				}
				results[k] = out
			}
			for i, name := range []string{"filter", "adjoint"} {
				for j, want := range results[oracle][i] {
					require.InDelta(t, want, results[b][i][j], 1e-6, "%s, %v, %s of %d x %d, element %d", level, c.shape, name, c.h, c.w, j)
				}
			}
			var left, right, size float64
			for i, x := range in {
				left, right = left+float64(x)*float64(results[b][0][i]), right+float64(x)*float64(results[b][1][i])
				size += float64(x) * float64(x)
			}
			require.InDelta(t, left, right, 1e-6*size, "<Kx,x> and <x,K^T x>")
		}
	}
}

func BenchmarkFilter(b *testing.B) {
	for _, n := range []int{256, 512, 1024} {
		for _, side := range []int{3, 5, 7, 9, 15, 31, 61} {
			for name, adjoint := range map[string]bool{"forward": false, "adjoint": true} {
				b.Run(fmt.Sprintf("size=%d/kernel=%d/%s", n, side, name), func(b *testing.B) {
					k, err := cpu.Open(cpu.Options{})
					require.NoError(b, err)
					defer k.Close()
					w := kernels.FilterWeights{H: side, W: side, K: make([]float32, side*side)}
					for i := range w.K {
						w.K[i] = 1
					}
					f, err := k.PrepareFilter(w)
					require.NoError(b, err)
					x, _ := random(b, k, [4]int{1, n, n, 3})
					y, _ := random(b, k, [4]int{1, n, n, 3})
					for b.Loop() {
						k.Filter(&kernels.Filter{Dst: y, Src: x, Kernel: f, Adjoint: adjoint, Alpha: 1})
					}
				})
			}
		}
	}
}
