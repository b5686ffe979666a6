package tensor_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/kernels"
	"github.com/spin-native/spin/kernels/ref"
	"github.com/spin-native/spin/tensor"
)

// recorder is the reference with recordings of Blend and Moments.
type recorder struct {
	kernels.Backend
	on      *recording
	replays int
	refuse  bool
	lost    bool // recordings cannot be replayed
}

type recording struct {
	b   *recorder
	ops []func()
}

func (r *recorder) Record() { r.on = &recording{b: r} }

func (r *recorder) End() kernels.Recording {
	on := r.on
	r.on = nil
	if r.refuse {
		return nil
	}
	return on
}

func (r *recorder) run(op func()) {
	if r.on == nil {
		op()
	} else {
		r.on.ops = append(r.on.ops, op)
	}
}

func (r *recorder) Blend(a *kernels.Blend) { r.run(func() { r.Backend.Blend(a) }) }

func (r *recorder) Moments(dst, x kernels.View) { r.run(func() { r.Backend.Moments(dst, x) }) }

func (r *recording) Replay() bool {
	if r.b.lost {
		return false
	}
	r.b.replays++
	for _, op := range r.ops {
		op()
	}
	return true
}

func (r *recording) Free() { r.ops = nil }

func TestRecord(t *testing.T) {
	b := &recorder{Backend: ref.Open()}
	d := tensor.NewDevice(b)
	defer d.Close()
	told := 0
	square := func(x *tensor.Tensor) func() *tensor.Tensor {
		return func() (out *tensor.Tensor) { // 4x, by a tensor in between
			told++
			defer d.Tidy(&out)()
			y := d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 2}}})
			return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: y, C: 2}}})
		}
	}
	x, z := d.From([]float32{1, 2}, 1, 1, 1, 2), d.From([]float32{5, 6, 7}, 1, 1, 1, 3)
	live := d.Stats().Live
	var next float32
	check := func(name any, x *tensor.Tensor, wantTold, wantReplays int) {
		t.Helper()
		told, b.replays = 0, 0
		data, want := make([]float32, x.Len()), make([]float32, x.Len())
		for i := range data {
			next++
			data[i], want[i] = next, 4*next
		}
		x.Set(data)
		out := d.Record(name, square(x), x)
		got, err := out.Floats()
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, [2]int{wantTold, wantReplays}, [2]int{told, b.replays})
		out.Free()
	}
	check("a", x, 1, 0) // told
	check("a", x, 1, 1) // recorded
	check("a", x, 0, 1) // replayed
	check("a", x, 0, 1)
	check("b", x, 1, 0) // another name
	check("a", z, 1, 0) // another input
	check("a", x, 0, 1)
	other := d.New(1, 1, 1, 2) // another tensor where those of the pass were
	check("a", x, 1, 0)
	other.Free()
	check("a", x, 0, 1)
	check("a", z, 1, 1)
	func() { // what a replay makes belongs to the bracket
		defer d.Tidy()()
		d.Record("a", square(x), x)
		require.Greater(t, d.Stats().Live, live)
	}()
	require.Equal(t, live, d.Stats().Live)

	b.lost = true
	check("a", x, 1, 0)
	b.lost = false
	check("a", x, 1, 1)
	check("a", x, 0, 1)

	b.refuse = true
	check("b", x, 2, 0) // its recording came to nothing
	b.refuse = false
	check("b", x, 1, 0) // and is not tried again

	for i := range 20 {
		check(i, x, 1, 0)
	}
	check("a", x, 1, 0) // forgotten
	check("a", x, 1, 1)
	require.Equal(t, live, d.Stats().Live)
}

// TestRecordMoments: moments that a pass leaves on its input would be missing after a replay; so there is none.
func TestRecordMoments(t *testing.T) {
	b := &recorder{Backend: ref.Open()}
	d := tensor.NewDevice(b)
	defer d.Close()
	var want []float32
	for range 4 {
		x := d.From([]float32{1, 2, 3, 4}, 1, 2, 2, 1)
		out := d.Record("moments", func() *tensor.Tensor {
			return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x.Moments(), C: 1}}})
		}, x)
		got, err := out.Floats()
		require.NoError(t, err)
		if want == nil {
			want = got
		}
		require.Equal(t, want, got)
		again, err := x.Moments().Floats()
		require.NoError(t, err)
		require.Equal(t, want, again)
		out.Free()
		x.Free()
	}
	require.Zero(t, b.replays)
	require.Zero(t, d.Stats().Live)
}

// TestRecordPanic: a pass that fails while it is recorded leaves no recording open.
func TestRecordPanic(t *testing.T) {
	b := &recorder{Backend: ref.Open()}
	d := tensor.NewDevice(b)
	defer d.Close()
	x, fail := d.Vector([]float32{1}), false
	pass := func() *tensor.Tensor {
		if fail {
			tensor.Fail("test", "no")
		}
		return d.Blend(nil, tensor.Blend{Terms: []tensor.Term{{X: x, C: 3}}})
	}
	d.Record("p", pass, x).Free()
	fail = true
	require.ErrorContains(t, caught(func() { d.Record("p", pass, x) }), "no")
	require.Nil(t, b.on)
	fail = false
	got, err := d.Record("p", pass, x).Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{3}, got)
}
