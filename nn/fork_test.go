package nn_test

import (
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights/photo"
)

func loadPhoto(t testing.TB, d *tensor.Device) *nn.UNet {
	f, err := photo.Open()
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Info()
	require.NoError(t, err)
	c, err := nn.ParseUNetConfig(info.Model)
	require.NoError(t, err)
	net, err := nn.LoadUNet(d, f.Scope(), c, nn.LoadOptions{})
	require.NoError(t, err)
	return net
}

// TestForks runs one set of weights on several devices at the same time: every result has the bytes that the device of
// the weights computes, no fork holds weights, and the order of closing does not matter.
func TestForks(t *testing.T) {
	b, err := cpu.Open(cpu.Options{})
	require.NoError(t, err)
	d := tensor.NewDevice(b)
	net := loadPhoto(t, d)
	const size, forks = 16, 3
	picture := make([]float32, size*size*3)
	for i := range picture {
		picture[i] = float32(math.Sin(float64(i)))
	}
	at := func(d *tensor.Device, step float64) []float32 {
		x := d.From(picture, 1, size, size, 3)
		defer x.Free()
		out, err := net.Predict(x, []float64{step}, nil)
		require.NoError(t, err)
		defer out.Free()
		data, err := out.Floats()
		require.NoError(t, err)
		return data
	}
	want, got := make([][]float32, forks), make([][]float32, forks)
	for i := range want {
		want[i] = at(d, float64(100*i))
	}
	list := make([]*tensor.Device, forks)
	for i := range list {
		from := d
		if i == forks-1 {
			from = list[0] // a fork's fork reads the same weights
		}
		list[i], err = from.Fork(1)
		require.NoError(t, err)
	}
	require.NoError(t, d.Close()) // the weights stay
	var wg sync.WaitGroup
	for i, f := range list {
		wg.Go(func() { got[i] = at(f, float64(100*i)) })
	}
	wg.Wait()
	require.Equal(t, want, got)
	for _, f := range list {
		require.Zero(t, kernels.UsageOf(f.Backend()).Weights)
		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
	}
	_, err = d.Fork(1)
	if d.Name() != "ref" { // whose memory is Go's: closing it ends nothing
		require.ErrorContains(t, err, "closed")
	}
}

// BenchmarkThroughput is four pictures by the photo prior at 256x256: one after the other on all threads, in one batch,
// and each on a thread of its own.
func BenchmarkThroughput(b *testing.B) {
	const pictures, size = 4, 256
	be, err := cpu.Open(cpu.Options{})
	require.NoError(b, err)
	d := tensor.NewDevice(be)
	defer d.Close()
	net := loadPhoto(b, d)
	run := func(d *tensor.Device, n int) {
		x := d.From(make([]float32, n*size*size*3), n, size, size, 3)
		defer x.Free()
		out, err := net.Predict(x, []float64{100}, nil)
		require.NoError(b, err)
		out.Free()
	}
	b.Run("one by one", func(b *testing.B) {
		for b.Loop() {
			for range pictures {
				run(d, 1)
			}
		}
	})
	b.Run("batch", func(b *testing.B) {
		for b.Loop() {
			run(d, pictures)
		}
	})
	b.Run("forks", func(b *testing.B) {
		forks := make([]*tensor.Device, 2)
		for i := range forks {
			forks[i], err = d.Fork(1)
			require.NoError(b, err)
			defer forks[i].Close()
		}
		for b.Loop() {
			var wg sync.WaitGroup
			for _, f := range forks {
				wg.Go(func() {
					for range pictures / len(forks) {
						run(f, 1)
					}
				})
			}
			wg.Wait()
		}
	})
}
