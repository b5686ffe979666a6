//go:build cuda && cgo && linux && amd64

package cuda_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/tensor"
)

// TestRead: a reading has what was there when it was begun, whatever follows, and is waited for alone.
func TestRead(t *testing.T) {
	d := tensor.NewDevice(open(t))
	large := make([]float32, 10<<20) // more than the room there is for transfers
	d.From(large, 1, 1, 1, len(large)).Free()
	x := d.From([]float32{1, 2, 3}, 1, 1, 1, 3)
	double := func() { d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 2}}}) }
	first := x.Read()
	require.False(t, first.There())
	double()
	mark := d.Mark()
	double()
	second := x.Read()
	got, err := first.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2, 3}, got)
	_, err = mark.Floats()
	require.NoError(t, err)
	require.NoError(t, d.Sync())
	d.From(large, 1, 1, 1, len(large)).Free() // takes the room of what was read, and is not looked at
	got, err = second.Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{4, 8, 12}, got)
	require.GreaterOrEqual(t, mark.Since(first), mark.Since(mark))
	require.GreaterOrEqual(t, second.Since(first), mark.Since(first))
	for _, r := range []*tensor.Reading{first, mark, second} {
		r.Free()
	}
	unread := x.Read()
	x.Read() // forgotten with the device
	unread.Free()
	require.NoError(t, d.Sync())
}

// TestReadAhead: the device is not waited for beyond the place of a reading.
func TestReadAhead(t *testing.T) {
	emulated(t)
	d := tensor.NewDevice(open(t))
	x := d.From([]float32{1}, 1, 1, 1, 1)
	double := func() { d.Blend(x, tensor.Blend{Terms: []tensor.Term{{X: x, C: 2}}}) }
	double()
	r := x.Read()
	double()
	double()
	n := calls(t, func() {
		got, err := r.Floats()
		require.NoError(t, err)
		require.Equal(t, []float32{2}, got)
	})
	require.Equal(t, 1, n["launch"], "what comes before, not what comes after")
	require.Zero(t, n["cuStreamSynchronize"])
}

// TestRing: transfers in both directions of all sizes, some of which nobody waits for, come through pinned memory unmixed.
func TestRing(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { ring(t, rand.New(rand.NewPCG(seed, 2))) })
	}
}

func ring(t *testing.T, rng *rand.Rand) {
	d := tensor.NewDevice(open(t))
	type pending struct {
		r    *tensor.Reading
		want []float32
	}
	var waiting []pending
	most := 20
	if testing.Short() {
		most = 18
	}
	for i := range 120 {
		data := make([]float32, 1+rng.IntN(1<<(4+rng.IntN(most-4))))
		for j := range data {
			data[j] = float32(i + j%1000)
		}
		x := d.From(data, 1, 1, 1, len(data))
		waiting = append(waiting, pending{x.Read(), data})
		x.Free()
		for len(waiting) > rng.IntN(6) {
			got, err := waiting[0].r.Floats()
			require.NoError(t, err)
			require.Equal(t, waiting[0].want, got, i)
			waiting[0].r.Free()
			waiting = waiting[1:]
		}
		switch rng.IntN(12) {
		case 0:
			require.NoError(t, d.Sync())
		case 1:
			got, err := d.From(data, 1, 1, 1, len(data)).Floats()
			require.NoError(t, err)
			require.Equal(t, data, got)
		}
	}
	require.NoError(t, d.Sync())
}
