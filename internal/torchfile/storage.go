package torchfile

import (
	"hash/crc32"
	"math"
	"math/bits"

	"github.com/spin-native/spin/weights"
)

// storage is a run of elements that tensors are views of.
type storage struct {
	key   string
	dtype weights.DType // "" for bytes without a type
	count int           // elements
	at    int           // of the opcode that first named it

	begin, end int // bytes in the file
	found      bool
	crc        uint32 // of the bytes, where the container has one
	checkCRC   bool
}

func (s *storage) elemSize() int {
	if s.dtype == "" {
		return 1
	}
	return s.dtype.Size()
}

// storageRef is a storage as the tree sees it: whole, or a part of it in files from before PyTorch 0.4.
type storageRef struct {
	*storage
	offset, count int // elements
}

// storages collects what a tree names.
type storages struct {
	byKey    map[string]*storage
	fileSize int
	budget   *budget
	// resolve, if not nil, finds the bytes of a storage as soon as it is named.
	resolve func(s *storage)
	// views allows the sixth field, which the stream format has.
	views bool
}

// load is the persistentID of a tree: ('storage', type, key, location, count), and a view in the stream format.
func (t *storages) load(at int, id []any) *storageRef {
	if len(id) == 0 || id[0] != "storage" {
		fail(at, "a persistent id that is not a storage")
	}
	if len(id) != 5 && !(t.views && len(id) == 6) {
		fail(at, "a storage described by %d fields", len(id))
	}
	g, ok := id[1].(*global)
	if !ok || g.kind != storageType {
		fail(at, "%s as type of a storage", describe(id[1]))
	}
	key, ok := id[2].(string)
	if !ok || !validKey(key) {
		fail(at, "a storage whose key is not a short word")
	}
	if _, ok := id[3].(string); !ok {
		fail(at, "a storage whose location is not a string")
	}
	count := natural(at, id[4], "element count of a storage")
	s := t.byKey[key]
	if s == nil {
		t.budget.spend(at, 300)
		s = &storage{key: key, dtype: g.dtype, count: count, at: at}
		if count > t.fileSize/s.elemSize() {
			fail(at, "storage %s of %d elements, in a file of %d bytes", quote(key), count, t.fileSize)
		}
		if t.resolve != nil {
			t.resolve(s)
		}
		t.byKey[key] = s
	} else if s.dtype != g.dtype || s.count != count {
		fail(at, "storage %s is declared twice, differently", quote(key))
	}
	ref := &storageRef{storage: s, count: count}
	if len(id) == 6 && id[5] != (none{}) {
		view, ok := id[5].(*sequence) // its own key, offset, count
		if !ok || len(view.items) != 3 {
			fail(at, "a view of a storage that is not three fields")
		}
		ref.offset = natural(at, view.items[1], "offset of a storage")
		ref.count = natural(at, view.items[2], "element count of a storage")
		if ref.offset > count || ref.count > count-ref.offset {
			fail(at, "a view of %d elements at %d of a storage of %d", ref.count, ref.offset, count)
		}
	}
	return ref
}

// validKey accepts the numbers that PyTorch gives, and no path.
func validKey(key string) bool {
	if len(key) == 0 || len(key) > 64 {
		return false
	}
	for _, c := range key {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' {
			return false
		}
	}
	return true
}

func natural(at int, v any, what string) int {
	n, ok := v.(int64)
	if !ok || n < 0 || n > math.MaxInt {
		fail(at, "%s: %s, expected a number that is not negative", what, show(v))
	}
	return int(n)
}

// tensor is a view of a storage, proven to lie in it.
type tensor struct {
	*storage
	dtype   weights.DType
	shape   []int
	strides []int
	first   int // element of the storage, in elements of dtype
	bytes   int // of all elements, in order
	at      int
}

// maxDims is what safetensors files are read with.
const maxDims = 32

// tensor makes what the rebuild functions make of (storage, offset, size, stride, requires_grad, hooks[, dtype][, metadata]).
func (u *unpickler) tensor(k kind, args []any) *tensor {
	least, most := 4, 4
	switch k {
	case rebuildTensorV2:
		least, most = 6, 7
	case rebuildTensorV3:
		least, most = 7, 8
	}
	if len(args) < least || len(args) > most {
		fail(u.op, "a tensor made of %d arguments, expected %d to %d", len(args), least, most)
	}
	ref, ok := args[0].(*storageRef)
	if !ok {
		fail(u.op, "a tensor made of %s, expected a storage", describe(args[0]))
	}
	t := &tensor{storage: ref.storage, dtype: ref.dtype, first: natural(u.op, args[1], "offset of a tensor"), at: u.op}
	t.shape, t.strides = u.dims(args[2]), u.dims(args[3])
	rest := args[4:]
	if k != rebuildTensor {
		if _, ok := rest[0].(bool); !ok {
			fail(u.op, "requires_grad is %s", describe(rest[0]))
		}
		u.empty(rest[1], "backward hooks")
		rest = rest[2:]
	}
	if k == rebuildTensorV3 {
		g, ok := rest[0].(*global)
		if !ok || g.kind != elementType || ref.dtype != "" {
			fail(u.op, "a tensor whose type is %s", describe(rest[0]))
		}
		t.dtype = g.dtype
		rest = rest[1:]
	}
	if len(rest) > 0 {
		u.empty(rest[0], "conjugate or negative bit") // they would change the values
	}
	if t.dtype == "" {
		fail(u.op, "a tensor without an element type")
	}
	count, unit := ref.count, t.dtype.Size()
	if ref.dtype == "" {
		count /= unit
	}
	t.fit(count)
	t.first += ref.offset // not with an untyped storage: both come from different ages
	return t
}

func (u *unpickler) dims(v any) []int {
	s, ok := v.(*sequence)
	if !ok {
		fail(u.op, "size or stride of a tensor is %s, expected a tuple", describe(v))
	}
	if len(s.items) > maxDims {
		fail(u.op, "a tensor of %d dimensions, at most %d are allowed", len(s.items), maxDims)
	}
	u.spend(200 + 8*len(s.items)) // half of them for the tensor itself
	d := make([]int, len(s.items))
	for i, v := range s.items {
		d[i] = natural(u.op, v, "size or stride of a tensor")
	}
	return d
}

// empty refuses what would have to be obeyed.
func (u *unpickler) empty(v any, what string) {
	switch v := v.(type) {
	case none:
		return
	case *mapping:
		if len(v.keys) == 0 {
			return
		}
	}
	fail(u.op, "a tensor with %s: %s", what, describe(v))
}

// fit computes the number of bytes and proves that every element lies among the count of the storage.
func (t *tensor) fit(count int) {
	if len(t.shape) != len(t.strides) {
		fail(t.at, "a tensor with %d sizes and %d strides", len(t.shape), len(t.strides))
	}
	n, last, zero := uint64(t.dtype.Size()), uint64(t.first), false
	for i, dim := range t.shape {
		if dim == 0 {
			zero = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 || lo > math.MaxInt {
			fail(t.at, "size %v of a tensor overflows", t.shape)
		}
		n = lo
		hi, lo = bits.Mul64(uint64(dim-1), uint64(t.strides[i]))
		if hi != 0 || lo > math.MaxInt64 {
			fail(t.at, "size %v and stride %v of a tensor overflow", t.shape, t.strides)
		}
		if last += lo; last > math.MaxInt64 {
			fail(t.at, "size %v and stride %v of a tensor overflow", t.shape, t.strides)
		}
	}
	switch {
	case zero && t.first > count || !zero && last >= uint64(count):
		fail(t.at, "a tensor of size %v and stride %v at element %d leaves its storage of %d", t.shape, t.strides, t.first, count)
	case !zero:
		t.bytes = int(n)
	}
}

// parameter returns the tensor of (tensor, requires_grad, hooks[, state]).
func (u *unpickler) parameter(args []any) *tensor {
	if len(args) == 0 || len(args) > 4 {
		fail(u.op, "a parameter made of %d arguments", len(args))
	}
	t, ok := args[0].(*tensor)
	if !ok {
		fail(u.op, "a parameter made of %s, expected a tensor", describe(args[0]))
	}
	if len(args) > 2 {
		u.empty(args[2], "backward hooks")
	}
	return t
}

// verify compares the bytes with their checksum, once.
func (s *storage) verify(b []byte) {
	if !s.checkCRC {
		return
	}
	s.checkCRC = false
	if got := crc32.ChecksumIEEE(b[s.begin:s.end]); got != s.crc {
		fail(s.begin, "storage %s has CRC-32 %08x, the directory says %08x: the file is damaged", quote(s.key), got, s.crc)
	}
}
