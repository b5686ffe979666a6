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
