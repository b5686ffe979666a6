package torchfile

import (
	"strconv"
)

const (
	maxDepth    = 64
	maxTensors  = 100_000 // as a safetensors file may hold
	maxName     = 1024
	maxListed   = 64 // longer lists of plain values (losses, indices of parameters) are not worth a name each
	freeVisits  = 1 << 20
	viewsFactor = 16
	copyFactor  = 2
	freeBytes   = 16 << 20
)

// leaves is the tree, flattened.
type leaves struct {
	tensors map[string]*tensor
	values  map[string]any
}

// place is one container on the way from the root to where the walk is.
type place struct {
	container  any
	keys, vals []any // keys is nil for a sequence
	seen       map[string]bool
	next       int
	name       int // length of the container's own name
}

// walk collects the tensors and plain values below root, whose names are the keys and indices on the way, joined with
// dots. Shared containers are walked once per way to them, so their number is bounded by the size of the pickle.
func walk(root any, at, size int, budget *budget) *leaves {
	l := &leaves{tensors: map[string]*tensor{}, values: map[string]any{}}
	var name []byte
	visits := freeVisits + 2*size
	path := []*place{enter(root, 0, at, budget)}
	if path[0] == nil {
		fail(at, "the file holds %s, not a table of tensors", describe(root))
	}
	for len(path) > 0 {
		p := path[len(path)-1]
		if p.next == len(p.vals) {
			path = path[:len(path)-1]
			continue
		}
		i := p.next
		p.next++
		if visits--; visits < 0 {
			fail(at, "the tree of objects refers to its parts too often")
		}
		v := p.vals[i]
		plain := isPlain(v)
		if plain && p.keys == nil && len(p.vals) > maxListed {
			continue
		}
		name = name[:p.name]
		if len(name) > 0 || len(path) > 1 {
			name = append(name, '.')
		}
		if p.keys == nil {
			name = strconv.AppendInt(name, int64(i), 10)
		} else {
			begin := len(name)
			switch k := p.keys[i].(type) {
			case string:
				name = append(name, k...)
			case int64:
				name = strconv.AppendInt(name, k, 10)
			default:
				continue // a class, for one: nothing of a network is kept there
			}
			if len(p.keys) > 1 {
				key := string(name[begin:])
				budget.spend(at, 100+len(key))
				if p.seen[key] {
					fail(p.container.(*mapping).at, "key %s occurs twice in a dictionary", quote(key))
				}
				p.seen[key] = true
			}
		}
		switch {
		case plain:
			if len(name) <= maxName {
				l.add(string(name), v, at, budget)
			}
			continue
		case isLeaf(v):
			t := v.(*tensor)
			if len(name) > maxName {
				fail(t.at, "a tensor whose name has %d bytes, at most %d are allowed", len(name), maxName)
			}
			l.add(string(name), t, t.at, budget)
			continue
		}
		down := enter(v, len(name), at, budget)
		if down == nil {
			continue
		}
		if len(path) == maxDepth {
			fail(at, "containers are nested more than %d deep", maxDepth)
		}
		for _, above := range path {
			if above.container == v {
				fail(at, "the container %s holds itself", quote(string(name[:min(len(name), maxName)])))
			}
		}
		path = append(path, down)
	}
	if len(l.tensors) == 0 {
		fail(at, "the file holds no tensors")
	}
	return l
}

func isPlain(v any) bool {
	switch v.(type) {
	case bool, int64, float64, string:
		return true
	}
	return false
}

func isLeaf(v any) bool {
	_, ok := v.(*tensor)
	return ok
}

// enter prepares the walk through a container; nil for anything else.
func enter(v any, name, at int, budget *budget) *place {
	budget.spend(at, 16)
	switch c := v.(type) {
	case *mapping:
		budget.spend(at, 200)
		return &place{container: c, keys: c.keys, vals: c.vals, seen: map[string]bool{}, name: name}
	case *sequence:
		budget.spend(at, 112)
		return &place{container: c, vals: c.items, name: name}
	}
	return nil
}

// add lists a leaf.
func (l *leaves) add(name string, v any, at int, budget *budget) {
	budget.spend(at, 300+len(name))
	_, isTensor := l.tensors[name]
	_, isValue := l.values[name]
	if isTensor || isValue {
		fail(at, "two objects have the name %s", quote(name))
	}
	t, ok := v.(*tensor)
	if !ok {
		l.values[name] = v
		return
	}
	if len(l.tensors) == maxTensors {
		fail(at, "more than %d tensors", maxTensors)
	}
	l.tensors[name] = t
}
