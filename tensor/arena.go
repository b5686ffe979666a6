package tensor

import (
	"cmp"
	"slices"

	"github.com/spin-native/spin/kernels"
)

// line is what tensors are aligned to, in floats: a cache line, which is also the widest vector.
const line = 16

func roundUp(n int) int { return (n + line - 1) &^ (line - 1) }

// room is what a tensor of n floats takes up. Pictures are full of powers of two: were tensors to follow each other by
// whole pages, then the same pixel of all of them would fall into the same set of the cache. Some lines of distance made
// the photo prior's call 1 to 2% shorter on AVX-512.
func room(n int) int {
	const page, distance = 1024, 5 * line
	n = roundUp(n)
	if n%page == 0 {
		n += distance
	}
	return n
}

// arena cuts tensors out of a few large regions of the backend's memory. Where a tensor comes to lie is a function of the
// tensors alive and of nothing else, so that a program which does the same again finds the same places. It does not
// depend on the size of the region either, as long as everything fits: what a run in a region without end reaches up to
// is exactly what it needs.
type arena struct {
	regions []*region
	free    []*span // in no order
	spare   *span   // spans out of use, linked by next
	made    int     // regions so far
	extent  int     // floats below the marks of all regions
}

// region is one buffer of the backend.
type region struct {
	buf  kernels.Buffer
	id   int
	size int
	mark int // the highest end of a tensor so far
}

// span is a range of a region, free or taken. The spans of a region cover it in order; no two neighbours are both free.
type span struct {
	r          *region
	off, n     int // floats
	at         int // index in the list of free spans; -1: taken
	prev, next *span
}

// open reports whether the span reaches to the end of its region.
func (s *span) open() bool { return s.next == nil }

// before reports whether a tensor that fits into both free spans goes to s: the smaller one, then the lower one. The end
// of a region comes last, whatever is left of it, which keeps the mark low.
func (s *span) before(t *span) bool {
	switch {
	case s.open() != t.open():
		return t.open()
	case !s.open() && s.n != t.n:
		return s.n < t.n
	case s.r != t.r:
		return s.r.id < t.r.id
	}
	return s.off < t.off
}

// add makes a free region of a buffer.
func (a *arena) add(buf kernels.Buffer) {
	a.made++
	r := &region{buf: buf, id: a.made, size: buf.Len()}
	a.regions = append(a.regions, r)
	a.release(a.span(r, 0, r.size))
}

// take cuts n floats out of a free span, nil where no span is large enough.
func (a *arena) take(n int) *span {
	n = room(n)
	var best *span
	for _, s := range a.free { // a few dozen at most: they merge
		if s.n >= n && (best == nil || s.before(best)) {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	a.hold(best)
	a.cut(best, n)
	return best
}

// cut shortens a span in use to n floats and frees the rest of it.
func (a *arena) cut(s *span, n int) {
	if s.n > n {
		rest := a.span(s.r, s.off+n, s.n-n)
		rest.prev, rest.next, s.next = s, s.next, rest
		if rest.next != nil {
			rest.next.prev = rest
		}
		s.n = n
		a.release(rest)
	}
	if end := s.off + n; end > s.r.mark {
		a.extent += end - s.r.mark
		s.r.mark = end
	}
}

// gap is a free range.
type gap struct {
	r      *region
	off, n int
}

// gaps are the free ranges in order. Two states with the same ones are the same to all that is to come.
func (a *arena) gaps() []gap {
	all := make([]gap, len(a.free))
	for i, s := range a.free {
		all[i] = gap{s.r, s.off, s.n}
	}
	slices.SortFunc(all, func(x, y gap) int { return cmp.Or(cmp.Compare(x.r.id, y.r.id), cmp.Compare(x.off, y.off)) })
	return all
}

// takeAt takes n floats at an offset where they are known to be free.
func (a *arena) takeAt(r *region, off, n int) *span {
	i := slices.IndexFunc(a.free, func(s *span) bool { return s.r == r && s.off <= off && off < s.off+s.n })
	s := a.free[i]
	a.hold(s)
	if before := off - s.off; before > 0 {
		front := a.span(r, s.off, before)
		front.prev, front.next, s.prev = s.prev, s, front
		if front.prev != nil {
			front.prev.next = front
		}
		s.off, s.n = off, s.n-before
		a.release(front)
	}
	a.cut(s, room(n))
	return s
}

// release frees a span and merges it with free neighbours.
func (a *arena) release(s *span) {
	if p := s.prev; p != nil && p.at >= 0 {
		a.hold(p)
		s.off, s.n = p.off, p.n+s.n
		s.prev = p.prev
		if s.prev != nil {
			s.prev.next = s
		}
		a.drop(p)
	}
	if q := s.next; q != nil && q.at >= 0 {
		a.hold(q)
		s.n += q.n
		s.next = q.next
		if s.next != nil {
			s.next.prev = s
		}
		a.drop(q)
	}
	s.at = len(a.free)
	a.free = append(a.free, s)
}

// hold takes a span off the list of free ones.
func (a *arena) hold(s *span) {
	last := a.free[len(a.free)-1]
	a.free[s.at], last.at = last, s.at
	a.free = a.free[:len(a.free)-1]
	s.at = -1
}

// trim takes every region out that is entirely free and passes its buffer to f.
func (a *arena) trim(f func(kernels.Buffer)) {
	kept := a.regions[:0]
	for _, r := range a.regions {
		whole := a.whole(r)
		if whole == nil {
			kept = append(kept, r)
			continue
		}
		a.hold(whole)
		a.drop(whole)
		a.extent -= r.mark
		f(r.buf)
	}
	clear(a.regions[len(kept):])
	a.regions = kept
}

// whole is the free span that covers all of a region, or nil.
func (a *arena) whole(r *region) *span {
	for _, s := range a.free {
		if s.r == r && s.n == r.size {
			return s
		}
	}
	return nil
}

// span makes a span that is taken, drop keeps it for the next time: a forward pass needs thousands.
func (a *arena) span(r *region, off, n int) *span {
	s := a.spare
	if s == nil {
		s = new(span)
	} else {
		a.spare = s.next
	}
	*s = span{r: r, off: off, n: n, at: -1}
	return s
}

func (a *arena) drop(s *span) {
	*s = span{next: a.spare}
	a.spare = s
}
