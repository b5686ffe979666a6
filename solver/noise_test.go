package solver

import (
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// The known answers that come with Random123 (kat_vectors, philox4x32 10).
func TestPhiloxKnownAnswers(t *testing.T) {
	const all = 0xffffffff
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{all, all, all, all}, [2]uint32{all, all}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		require.Equal(t, c.want, philox(c.counter, c.key))
	}
}

func TestNoise(t *testing.T) {
	n := NewNoise(7)
	x := make([]float32, 100_003)
	n.Normal(x, 3, 5)

	var mean, square, fourth float64
	for _, v := range x {
		mean += float64(v) / float64(len(x))
		square += float64(v) * float64(v) / float64(len(x))
		fourth += math.Pow(float64(v), 4) / float64(len(x))
	}
	// Five standard errors: 1, sqrt(2) and sqrt(96), over sqrt(n).
	root := math.Sqrt(float64(len(x)))
	require.InDelta(t, 0, mean, 5/root)
	require.InDelta(t, 1, square, 5*math.Sqrt(2)/root)
	require.InDelta(t, 3, fourth, 5*math.Sqrt(96)/root)

	// An element depends on nothing but its place: neither on the length nor on the number of threads.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	short := make([]float32, 777)
	n.Normal(short, 3, 5)
	require.Equal(t, x[:777], short)

	other := make([]float32, 777)
	for _, c := range []struct {
		noise       Noise
		image, draw int
	}{{n, 4, 5}, {n, 3, 6}, {NewNoise(8), 3, 5}, {NewNoise(7 + 1<<32), 3, 5}, {philoxNoise{7, domainMeasure}, 3, 5}} {
		c.noise.Normal(other, c.image, c.draw)
		var correlation float64
		for i := range other {
			correlation += float64(other[i]) * float64(short[i]) / 777
		}
		require.InDelta(t, 0, correlation, 0.2)
	}
}

func TestBoxMuller(t *testing.T) {
	check := func(a, b uint32) {
		radius := math.Sqrt(-2 * math.Log((float64(a)+1)*0x1p-32))
		sin, cos := math.Sincos(2 * math.Pi * float64(b) * 0x1p-32)
		require.InDelta(t, math.Log((float64(a)+1)*0x1p-32), logUnit(a), 1e-14*math.Abs(logUnit(a))+1e-24)
		c, s := cosSinTurn(b)
		require.InDelta(t, cos, c, 2e-12)
		require.InDelta(t, sin, s, 2e-12)
		x, y := boxMuller(a, b)
		require.InDelta(t, radius*cos, x, 1e-7*radius+1e-15, "%d %d", a, b)
		require.InDelta(t, radius*sin, y, 1e-7*radius+1e-15, "%d %d", a, b)
	}
	edges := []uint32{0, 1, 2, 1<<29 - 1, 1 << 29, 1<<29 + 1, 1 << 30, 3 << 29, 1 << 31, 1<<31 - 1, 5 << 29, 3 << 30, 7 << 29, 1<<32 - 2, 1<<32 - 1}
	for _, a := range edges {
		for _, b := range edges {
			check(a, b)
		}
	}
	s := newStream(3, domainMask)
	for range 20000 {
		check(s.uint32(), s.uint32())
	}
}

func BenchmarkNoise(b *testing.B) {
	image := make([]float32, 3*256*256)
	n := NewNoise(1)
	b.SetBytes(int64(4 * len(image)))
	for i := range b.N {
		n.Normal(image, 0, i)
	}
}

func TestStream(t *testing.T) {
	s := newStream(1, domainMask)
	var seen [5]int
	for range 5000 {
		seen[s.below(5)]++
	}
	for v, n := range seen {
		require.InDelta(t, 1000, n, 150, "value %d", v)
	}
}
