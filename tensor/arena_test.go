package tensor

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
)

type plainBuffer int

func (b plainBuffer) Len() int { return int(b) }

// check walks the regions: every span is aligned, they cover their region without gap or overlap, free ones never touch,
// and the list of free ones is complete.
func (a *arena) check(t *testing.T, taken map[*span]int) {
	free := 0
	first := map[*region]*span{}
	for _, list := range [][]*span{a.free, keys(taken)} {
		for _, s := range list {
			if s.prev == nil {
				require.Nil(t, first[s.r], "two first spans")
				first[s.r] = s
			}
		}
	}
	seen := 0
	for _, r := range a.regions {
		end := 0
		for s := first[r]; s != nil; s = s.next {
			seen++
			require.Equal(t, end, s.off)
			require.Zero(t, s.off%line)
			require.Positive(t, s.n)
			end += s.n
			if s.next != nil {
				require.Same(t, s, s.next.prev)
			}
			if s.at < 0 {
				require.Equal(t, room(taken[s]), s.n)
				continue
			}
			free++
			require.Same(t, s, a.free[s.at])
			require.False(t, s.next != nil && s.next.at >= 0, "free neighbours")
		}
		require.Equal(t, r.size, end)
	}
	require.Equal(t, len(a.free), free)
	require.Equal(t, len(a.free)+len(taken), seen)
}

func keys(m map[*span]int) (list []*span) {
	for s := range m {
		list = append(list, s)
	}
	return list
}

// TestArena: random sizes are taken and freed; whatever is left merges in the end.
func TestArena(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var a arena
		for range 1 + seed%3 {
			a.add(plainBuffer(line * (1000 + rng.IntN(1000))))
		}
		taken := map[*span]int{}
		var order []*span // a map has none
		drop := func(i int) {
			s := order[i]
			order[i] = order[len(order)-1]
			order = order[:len(order)-1]
			delete(taken, s)
			a.release(s)
		}
		refused := 0
		for step := range 2000 {
			if n := 1 + rng.IntN(1<<rng.IntN(14)); rng.IntN(5) < 3 {
				if s := a.take(n); s != nil {
					taken[s], order = n, append(order, s)
				} else {
					refused++
				}
			} else if len(order) > 0 {
				drop(rng.IntN(len(order)))
			}
			if step%50 == 0 {
				a.check(t, taken)
			}
		}
		require.Positive(t, refused, "the regions were never full")
		for len(order) > 0 {
			drop(rng.IntN(len(order)))
		}
		a.check(t, taken)
		require.Len(t, a.free, len(a.regions), "everything is one free range again")
		a.trim(func(b kernels.Buffer) {})
		require.Empty(t, a.regions)
		require.Empty(t, a.free)
		require.Zero(t, a.extent)
	}
}

// TestArenaIsExact: what a run in a region without end reaches up to is enough for it, and every tensor comes to lie where
// it lay there; one cache line less is not enough.
func TestArenaIsExact(t *testing.T) {
	for seed := range uint64(50) {
		run := func(size int) (places []int, extent int, ok bool) {
			rng := rand.New(rand.NewPCG(seed, 2))
			var a arena
			a.add(plainBuffer(size))
			var live []*span
			for range 500 {
				n := 1 + rng.IntN(1<<rng.IntN(14))
				if rng.IntN(20) < 11 {
					s := a.take(n)
					if s == nil {
						return places, a.extent, false
					}
					live, places = append(live, s), append(places, s.off)
				} else if len(live) > 0 {
					i := rng.IntN(len(live))
					a.release(live[i])
					live = append(live[:i], live[i+1:]...)
				}
			}
			return places, a.extent, true
		}
		want, extent, ok := run(1 << 40)
		require.True(t, ok)
		got, again, ok := run(extent)
		require.True(t, ok)
		require.Equal(t, want, got)
		require.Equal(t, extent, again)
		_, _, ok = run(extent - line)
		require.False(t, ok)
	}
}
