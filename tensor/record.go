package tensor

import (
	"slices"

	"github.com/spin-native/spin/kernels"
)

// maxPasses bounds what a device remembers of passes, and of series. Recordings take memory of the backend.
const maxPasses = 8

// pass is a series of operations that was met before.
type pass struct {
	name    any
	in      []place // what it reads, and the moments that lie ready for that
	free    []gap   // of the arena when it began: where its own tensors may lie
	rec     kernels.Recording
	out     kernels.View
	r       *region // of out
	refused bool    // it cannot be recorded
}

// place is where a tensor lies.
type place struct {
	r     *region
	off   int
	shape [4]int
	kind  kernels.Type
}

func (t *Tensor) place() (p place) {
	if t == nil || t.freed() {
		return p
	}
	root := t
	if t.of != nil {
		root = t.of
	}
	return place{root.at.r, t.v.Off, t.Shape(), t.Type()}
}

// Record returns f(), a tensor that f makes of the tensors in, and of others that live and stay the same as long as name
// does, by operations of the device alone: f uploads and downloads nothing, and does the same for the same name and shapes.
//
// A backend that is a kernels.Recorder records the operations at the second such call and replays them from the third on,
// without a call of f, as long as all that they name is where it was: the inputs, and the places that f's own tensors had,
// which the arena would give them again, as it is in the same state. Any other call is f's. The result has no moments then,
// unlike f's. On other backends Record is f.
func (d *Device) Record(name any, f func() *Tensor, in ...*Tensor) (out *Tensor) {
	b, ok := d.b.(kernels.Recorder)
	if !ok {
		return f()
	}
	defer d.Tidy(&out)()
	p := d.met(name, in)
	switch {
	case p.rec != nil:
		if out = d.at(p); p.rec.Replay() {
			return out
		}
		out.release()
		p.rec.Free()
		p.rec = nil
	case p.out.Present() && !p.refused:
		if out = d.record(b, p, f, in); out != nil {
			return out
		}
	}
	out = f()
	out.bare()
	p.out = out.v
	return out
}

// met finds the pass with this name and these inputs in this state of the arena. One that was not met before is remembered
// in place of the one that was met longest ago.
func (d *Device) met(name any, in []*Tensor) *pass {
	now := pass{name: name, in: inputs(in), free: d.arena.gaps()}
	i := slices.IndexFunc(d.passes, func(p *pass) bool {
		return p.name == now.name && slices.Equal(p.in, now.in) && slices.Equal(p.free, now.free)
	})
	return remember(&d.passes, i, &now, func(p *pass) {
		if p.rec != nil {
			p.rec.Free()
		}
	})
}

// remember makes entry i of a list the latest one, or where i is negative another one, in place of the one that was met longest ago
// if there are too many, which is forgotten.
func remember[T any](list *[]*T, i int, other *T, forget func(*T)) *T {
	if i >= 0 {
		other = (*list)[i]
	} else if len(*list) == maxPasses {
		i = 0
		forget((*list)[0])
	}
	if i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
	*list = append(*list, other)
	return other
}

// inputs are the places of tensors and of the moments that they have.
func inputs(in []*Tensor) []place {
	all := make([]place, 0, 2*len(in))
	for _, t := range in {
		all = append(all, t.place())
		if t != nil {
			all = append(all, t.moments.place())
		}
	}
	return all
}

// record records the operations of f and runs them. It returns nil where they cannot be recorded; none has run then.
func (d *Device) record(b kernels.Recorder, p *pass, f func() *Tensor, in []*Tensor) (out *Tensor) {
	var rec kernels.Recording
	func() {
		b.Record()
		defer func() { rec = b.End() }() // where f panics, too
		out = f()
	}()
	same := slices.Equal(p.in, inputs(in)) // or f computed moments and left them there
	if rec == nil || !same || out.d != d || out.at == nil || !rec.Replay() {
		p.refused = true
		d.forget(rec, out, in, p.in)
		return nil
	}
	out.bare()
	p.rec, p.out, p.r = rec, out.v, out.at.r
	return out
}

// bare drops the moments.
func (t *Tensor) bare() {
	if t.moments != nil {
		t.moments.release()
		t.moments = nil
	}
}

// forget takes back what operations that never ran were to make.
func (d *Device) forget(rec kernels.Recording, out *Tensor, in []*Tensor, before []place) {
	if rec != nil {
		rec.Free()
	}
	if out.d == d && !slices.Contains(in, out) {
		out.release()
	}
	for _, t := range in {
		if t != nil && !slices.Contains(before, t.moments.place()) {
			t.bare()
		}
	}
}

// at is the tensor that a recorded pass makes, in the place that it had.
func (d *Device) at(p *pass) *Tensor {
	off, n := p.out.Type.Room(p.out.Off), p.out.Type.Room(p.out.Len())
	t := &Tensor{d: d, at: d.arena.takeAt(p.r, off, n), v: p.out}
	d.stats.Live += 4 * int64(n)
	d.live = append(d.live, t)
	return t
}

// series is what was bundled under a name.
type series struct {
	name   any
	bundle kernels.Bundle
}

// Bundle runs f, which does the same operations on tensors of the same shapes whenever it is called with the same name, though
// with other numbers and perhaps other tensors. A backend that is a kernels.Bundler runs them in one go from the second call on: f
// tells them, and what they share with the call before need not be told to the device again. What f does beside costs only that.
// On other backends Bundle is f.
func (d *Device) Bundle(name any, f func()) {
	b, ok := d.b.(kernels.Bundler)
	if !ok || d.bundling {
		f()
		return
	}
	i := slices.IndexFunc(d.series, func(s *series) bool { return s.name == name })
	s := remember(&d.series, i, &series{name: name}, func(old *series) {
		if old.bundle != nil {
			old.bundle.Free()
		}
	})
	if i < 0 {
		f()
		return
	}
	d.bundling = true
	b.Bundle(s.bundle)
	defer func() { // where f panics, too
		s.bundle, d.bundling = b.Run(), false
	}()
	f()
}
