//go:build cgo && linux

package cpu_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/cpu"
)

// formShapes are channels and edge of typical layers.
var formShapes = []struct{ in, out, edge int }{
	{32, 32, 256}, {64, 64, 256}, {64, 64, 128}, {96, 96, 64}, {128, 128, 32}, {128, 128, 64}, {128, 128, 256}, {256, 128, 256},
	{256, 256, 64}, {256, 256, 32}, {512, 512, 32}, {512, 512, 16}, {1024, 512, 16}, {512, 512, 8}, {512, 512, 64},
}

// BenchmarkForms prints milliseconds of processor time on one thread for every form of a convolution with its
// normalisation, activation and moments: what the estimates behind the choice of a form are fitted to.
//
//	go test -run '^$' -bench Forms ./kernels/cpu        SPIN_LEVEL=avx2 for another level
func BenchmarkForms(b *testing.B) {
	be, err := cpu.Open(cpu.Options{Threads: 1, Level: os.Getenv("SPIN_LEVEL")})
	require.NoError(b, err)
	defer be.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\n", be.Name(), "\t")
	for f := kernels.Auto; f <= kernels.WinogradUp; f++ {
		fmt.Fprint(w, f, "\t")
	}
	fmt.Fprintln(w)
	r := rand.New(rand.NewPCG(1, 2))
	normal := func(n int, scale float64) []float32 {
		s := make([]float32, n)
		for i := range s {
			s[i] = float32(scale * r.NormFloat64())
		}
		return s
	}
	for _, s := range formShapes {
		view := func(h, w, c int) kernels.View {
			buf, err := be.Alloc(h * w * c)
			require.NoError(b, err)
			return kernels.View{Buf: buf, N: 1, H: h, W: w, C: c}
		}
		x, small, y := view(s.edge, s.edge, s.in), view(s.edge/2, s.edge/2, s.in), view(s.edge, s.edge, s.out)
		affine, moments := view(1, 2, s.in), view(1, 2, s.out)
		be.Upload(x, normal(x.Len(), 1))
		be.Upload(small, normal(small.Len(), 1))
		be.Upload(affine, normal(affine.Len(), 1))
		weights := kernels.ConvWeights{Weight: normal(9*s.in*s.out, 0.01), In: s.in, Out: s.out, Size: 3, Stride: 1, Pad: 1, Pixels: s.edge * s.edge}
		fmt.Fprintf(w, "%d->%d @%d\t", s.in, s.out, s.edge)
		for f := kernels.Auto; f <= kernels.WinogradUp; f++ {
			weights.Form, weights.Up = f, f == kernels.WinogradUp
			k, err := be.PrepareConv(weights)
			require.NoError(b, err)
			args := kernels.Conv2D{Dst: y, Src: [2]kernels.View{x}, Affine: affine, Act: kernels.SiLU, Kernel: k, Moments: moments}
			if weights.Up {
				args.Src[0], args.Sampling = small, kernels.Up2
			}
			least := math.Inf(1)
			for range 5 {
				start := processorTime()
				be.Conv2D(&args)
				least = min(least, processorTime()-start)
			}
			if f == kernels.Auto {
				fmt.Fprintf(w, "%v ", k.Weights().Form)
			}
			fmt.Fprintf(w, "%.2f\t", 1e3*least)
		}
		fmt.Fprintln(w)
		for _, v := range []kernels.View{x, small, y, affine, moments} {
			be.Free(v.Buf)
		}
	}
	w.Flush()
}

// processorTime is the thread's, in seconds: other work on the machine disturbs it less than the clock on the wall.
func processorTime() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return float64(t.Nano()) / 1e9
}
