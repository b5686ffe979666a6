package torchfile

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"unicode/utf8"
)

// What a pickle's values become: bool, int64, float64 and string as such, and these.
type (
	none     struct{}
	bigInt   []byte // an integer beyond 64 bits, little-endian
	hidden   struct{}
	sequence struct { // a list or a tuple
		items []any
		at    int // of the opcode that made it
		tuple bool
	}
	mapping struct { // pairs in the order of the file; keys may repeat until the tree is walked
		keys, vals []any
		at         int
	}
)

// persistentID finds the storage that a tuple describes.
type persistentID func(at int, id []any) *storageRef

// unpickler runs one pickle. It panics with *Error.
type unpickler struct {
	b      []byte // the file, up to where the pickle must end
	at     int    // next byte
	op     int    // where the current opcode is
	budget *budget
	load   persistentID // nil where no storages can be

	stack []any
	marks []int // heights of the stack
	memo  map[uint32]any
	frame int // where the current frame ends, or 0
}

// unpickle reads the pickle that begins at b[at] and ends in b, and returns where it ends.
func unpickle(b []byte, at int, budget *budget, load persistentID) (root any, end int) {
	u := &unpickler{b: b, at: at, budget: budget, load: load, memo: map[uint32]any{}}
	for {
		u.op = u.at
		if u.frame > 0 && u.at >= u.frame {
			if u.at > u.frame {
				fail(u.op, "an opcode runs past the end of its frame at %d", u.frame)
			}
			u.frame = 0
		}
		op := u.u8()
		if op == opStop {
			break
		}
		if op == opProto && u.op != at {
			fail(u.op, "PROTO inside the pickle")
		}
		u.step(op)
	}
	if len(u.marks) != 0 || len(u.stack) != 1 {
		fail(u.op, "%d objects and %d marks are left at STOP, expected one object", len(u.stack), len(u.marks))
	}
	return u.stack[0], u.at
}

// step obeys one opcode.
func (u *unpickler) step(op byte) {
	switch op {
	case opProto:
		if v := u.u8(); v < 2 || v > 5 {
			fail(u.op, "pickle protocol %d, expected 2 to 5", v)
		}
	case opFrame:
		n := u.count(u.u64())
		if u.frame > 0 {
			fail(u.op, "a frame within a frame")
		}
		u.frame = u.at + n

	case opMark:
		u.spend(48)
		u.marks = append(u.marks, len(u.stack))
	case opPop:
		if n := len(u.marks); n > 0 && u.marks[n-1] == len(u.stack) {
			u.marks = u.marks[:n-1]
		} else {
			u.pop()
		}
	case opPopMark:
		u.drop(u.popMark())

	case opNone:
		u.push(none{})
	case opNewTrue:
		u.push(true)
	case opNewFalse:
		u.push(false)
	case opBinInt:
		u.pushInt(int64(int32(binary.LittleEndian.Uint32(u.take(4)))))
	case opBinInt1:
		u.pushInt(int64(u.u8()))
	case opBinInt2:
		u.pushInt(int64(binary.LittleEndian.Uint16(u.take(2))))
	case opLong1:
		u.pushLong(int(u.u8()))
	case opLong4:
		u.pushLong(u.count(uint64(u.u32())))
	case opBinFloat:
		u.spend(16)
		u.push(math.Float64frombits(binary.BigEndian.Uint64(u.take(8))))
	case opBinUnicode:
		u.pushText(u.count(uint64(u.u32())))
	case opShortUnicode:
		u.pushText(int(u.u8()))
	case opBinUnicode8:
		u.pushText(u.count(u.u64()))
	case opBinString: // a str of Python 2; its length is signed
		u.pushText(u.count(uint64(int64(int32(u.u32())))))
	case opShortBinString:
		u.pushText(int(u.u8()))
	case opBinBytes:
		u.hide(u.count(uint64(u.u32())))
	case opShortBinBytes:
		u.hide(int(u.u8()))
	case opBinBytes8, opByteArray8:
		u.hide(u.count(u.u64()))

	case opEmptyTuple:
		u.pushTuple(0)
	case opTuple1:
		u.pushTuple(1)
	case opTuple2:
		u.pushTuple(2)
	case opTuple3:
		u.pushTuple(3)
	case opTuple:
		u.pushTuple(u.popMark())
	case opEmptyList:
		u.spend(64)
		u.push(&sequence{at: u.op})
	case opAppend:
		u.need(2)
		u.extend(1)
	case opAppends:
		u.extend(u.popMark())
	case opEmptyDict:
		u.pushMapping()
	case opSetItem:
		u.need(3)
		u.setItems(2)
	case opSetItems:
		u.setItems(u.popMark())
	case opEmptySet:
		u.push(hidden{})
	case opAddItems:
		u.drop(u.popMark())
		if _, ok := u.top().(hidden); !ok {
			fail(u.op, "items are added to %s, expected a set", describe(u.top()))
		}
	case opFrozenSet:
		u.drop(u.popMark())
		u.push(hidden{})

	case opGlobal:
		module := u.line()
		u.pushGlobal(module, u.line())
	case opStackGlobal:
		u.need(2)
		name, ok1 := u.pop().(string)
		module, ok2 := u.pop().(string)
		if !ok1 || !ok2 {
			fail(u.op, "STACK_GLOBAL without two strings")
		}
		u.pushGlobal(module, name)
	case opReduce, opNewObj:
		u.need(2)
		u.call(op)
	case opBuild:
		u.need(2)
		u.build()
	case opBinPersID:
		u.persistent()

	case opBinGet:
		u.get(uint32(u.u8()))
	case opLongBinGet:
		u.get(u.u32())
	case opBinPut:
		u.put(uint32(u.u8()))
	case opLongBinPut:
		u.put(u.u32())
	case opMemoize:
		u.put(uint32(len(u.memo)))

	default:
		forbid(u.op, "opcode %s, which is not on the list of what a checkpoint may use", opcodeName(op))
	}
}

func (u *unpickler) spend(cost int) { u.budget.spend(u.op, cost) }

// take returns the next n bytes of the file.
func (u *unpickler) take(n int) []byte {
	if n > len(u.b)-u.at {
		fail(u.op, "the pickle ends within an opcode or before STOP: %d bytes are needed, %d are left", n, len(u.b)-u.at)
	}
	b := u.b[u.at : u.at+n]
	u.at += n
	return b
}

func (u *unpickler) u8() byte    { return u.take(1)[0] }
func (u *unpickler) u32() uint32 { return binary.LittleEndian.Uint32(u.take(4)) }
func (u *unpickler) u64() uint64 { return binary.LittleEndian.Uint64(u.take(8)) }

// count makes an int of a length, if the file is that long.
func (u *unpickler) count(n uint64) int {
	if n > uint64(len(u.b)-u.at) {
		fail(u.op, "a length of %d, and %d bytes are left", int64(n), len(u.b)-u.at)
	}
	return int(n)
}

// line reads the text up to the next newline: half a global.
func (u *unpickler) line() string {
	const most = 256 // far above any name; the search for the newline must not become quadratic
	rest := u.b[u.at:min(u.at+most, len(u.b))]
	n := bytes.IndexByte(rest, '\n')
	if n < 0 {
		fail(u.op, "a GLOBAL without a name that ends within %d bytes", most)
	}
	return u.text(u.take(n + 1)[:n])
}

func (u *unpickler) text(b []byte) string {
	u.spend(len(b) + 32)
	if !utf8.Valid(b) {
		fail(u.op, "text that is not UTF-8")
	}
	return string(b)
}

// need makes sure that n objects lie above the last mark.
func (u *unpickler) need(n int) {
	bottom := 0
	if len(u.marks) > 0 {
		bottom = u.marks[len(u.marks)-1]
	}
	if len(u.stack)-bottom < n {
		fail(u.op, "the stack holds %d objects above the last mark, %d are needed", len(u.stack)-bottom, n)
	}
}

func (u *unpickler) top() any {
	u.need(1)
	return u.stack[len(u.stack)-1]
}

func (u *unpickler) pop() any {
	v := u.top()
	u.drop(1)
	return v
}

func (u *unpickler) drop(n int) {
	clear(u.stack[len(u.stack)-n:])
	u.stack = u.stack[:len(u.stack)-n]
}

// popMark returns how many objects lie above the last mark, which is gone then.
func (u *unpickler) popMark() int {
	last := len(u.marks) - 1
	if last < 0 {
		fail(u.op, "no mark is on the stack")
	}
	n := len(u.stack) - u.marks[last]
	u.marks = u.marks[:last]
	return n
}

func (u *unpickler) push(v any) {
	u.stack = u.grow(u.stack, 1)
	u.stack = append(u.stack, v)
}

// grow makes room for n more. It doubles, which costs less in sum than the smaller steps of append, and pays for it.
func (u *unpickler) grow(s []any, n int) []any {
	if len(s)+n <= cap(s) {
		return s
	}
	room := max(2*cap(s), len(s)+n, 4)
	u.spend(18 * room) // 16 bytes each, and the allocator rounds up
	return append(make([]any, 0, room), s...)
}

func (u *unpickler) pushInt(v int64) {
	if v > 255 || v < 0 { // smaller ones are not allocated
		u.spend(8)
	}
	u.push(v)
}

func (u *unpickler) pushLong(n int) {
	b := u.take(n)
	if n > 8 {
		u.spend(n + 48)
		u.push(bigInt(bytes.Clone(b)))
		return
	}
	var v int64
	for i, c := range b {
		v |= int64(c) << (8 * i)
	}
	if n > 0 { // the sign
		v = v << (64 - 8*n) >> (64 - 8*n)
	}
	u.pushInt(v)
}

func (u *unpickler) pushText(n int) {
	u.spend(16)
	u.push(u.text(u.take(n)))
}

// hide skips data that no network needs.
func (u *unpickler) hide(n int) {
	u.take(n)
	u.push(hidden{})
}

func (u *unpickler) pushTuple(n int) {
	u.need(n)
	u.spend(64 + 18*n)
	items := append(make([]any, 0, n), u.stack[len(u.stack)-n:]...)
	u.drop(n)
	u.push(&sequence{items: items, at: u.op, tuple: true})
}

func (u *unpickler) pushMapping() *mapping {
	u.spend(80)
	m := &mapping{at: u.op}
	u.push(m)
	return m
}

// extend moves the n objects on top into the list below them.
func (u *unpickler) extend(n int) {
	items := u.stack[len(u.stack)-n:]
	u.need(n + 1)
	s, ok := u.stack[len(u.stack)-n-1].(*sequence)
	if !ok || s.tuple {
		fail(u.op, "items are appended to %s, expected a list", describe(u.stack[len(u.stack)-n-1]))
	}
	s.items = append(u.grow(s.items, n), items...)
	u.drop(n)
}

// setItems moves the n objects on top, keys and values in turn, into the dictionary below them.
func (u *unpickler) setItems(n int) {
	if n%2 != 0 {
		fail(u.op, "%d keys and values, expected pairs", n)
	}
	u.need(n + 1)
	m, ok := u.stack[len(u.stack)-n-1].(*mapping)
	if !ok {
		fail(u.op, "items are set in %s, expected a dictionary", describe(u.stack[len(u.stack)-n-1]))
	}
	items := u.stack[len(u.stack)-n:]
	for i := 0; i < n; i += 2 {
		u.set(m, items[i], items[i+1])
	}
	u.drop(n)
}

func (u *unpickler) set(m *mapping, key, val any) {
	switch k := key.(type) {
	case *mapping, *tensor, *storageRef:
		fail(u.op, "%s as key of a dictionary", describe(key))
	case *sequence:
		if !k.tuple {
			fail(u.op, "%s as key of a dictionary", describe(key))
		}
	}
	m.keys = append(u.grow(m.keys, 1), key)
	m.vals = append(u.grow(m.vals, 1), val)
}

func (u *unpickler) pushGlobal(module, name string) {
	// A dot in the name would reach through one object for another.
	if strings.Contains(name, ".") {
		forbid(u.op, "names the global %s: attributes of globals are not followed", quote(module+" "+name))
	}
	u.spend(64 + len(module) + len(name)) // a callback class is not in the table
	u.push(lookup(u.op, module, name))
}

func (u *unpickler) persistent() {
	id, ok := u.pop().(*sequence)
	switch {
	case u.load == nil:
		fail(u.op, "a storage where none can be")
	case !ok || !id.tuple:
		fail(u.op, "a persistent id that is not a tuple")
	}
	u.spend(32)
	u.push(u.load(u.op, id.items))
}

func (u *unpickler) get(i uint32) {
	v, ok := u.memo[i]
	if !ok {
		fail(u.op, "reads memo %d, which was not written", i)
	}
	u.push(v)
}

func (u *unpickler) put(i uint32) {
	if _, ok := u.memo[i]; !ok {
		u.spend(100) // a map entry and what the map's growth leaves behind
	}
	u.memo[i] = u.top()
}

// call replaces a global and its tuple of arguments with what the global stands for.
func (u *unpickler) call(op byte) {
	args, ok := u.pop().(*sequence)
	if !ok || !args.tuple {
		fail(u.op, "called without a tuple of arguments")
	}
	g, ok := u.pop().(*global)
	if !ok {
		forbid(u.op, "calls something that is not a global")
	}
	if op == opNewObj && g.kind >= rebuildTensor {
		fail(u.op, "makes an object of %s, which is a function", g.name)
	}
	switch g.kind {
	case opaque:
		u.push(hidden{})
	case dictionary:
		u.fill(u.pushMapping(), args.items)
	case size:
		if s, ok := single(args.items).(*sequence); ok {
			u.push(s)
			return
		}
		fail(u.op, "torch.Size without a tuple")
	case parameter:
		u.push(u.parameter(args.items))
	case rebuildTensor, rebuildTensorV2, rebuildTensorV3:
		u.push(u.tensor(g.kind, args.items))
	default:
		forbid(u.op, "calls %s, which may be named but not called", g.name)
	}
}

// fill gives a new dictionary what its constructor was given: nothing, the factory of a defaultdict, another dictionary,
// or a list of pairs.
func (u *unpickler) fill(m *mapping, args []any) {
	if len(args) == 0 {
		return
	}
	switch from := single(args).(type) {
	case *global, none:
		return
	case *mapping:
		for i, k := range from.keys {
			u.set(m, k, from.vals[i])
		}
		return
	case *sequence:
		for _, v := range from.items {
			pair, ok := v.(*sequence)
			if !ok || len(pair.items) != 2 {
				fail(u.op, "a dictionary made of %s, expected pairs", describe(v))
			}
			u.set(m, pair.items[0], pair.items[1])
		}
		return
	}
	fail(u.op, "a dictionary made of %d arguments that are not understood", len(args))
}

// build drops the attributes that are set on an object: _metadata of a state dict, the settings of a placeholder.
func (u *unpickler) build() {
	u.pop()
	switch u.top().(type) {
	case *mapping, hidden:
	default:
		fail(u.op, "attributes are set on %s", describe(u.top()))
	}
}

func single(items []any) any {
	if len(items) == 1 {
		return items[0]
	}
	return nil
}

func describe(v any) string {
	switch v := v.(type) {
	case none:
		return "None"
	case bool:
		return "a bool"
	case int64, bigInt:
		return "an integer"
	case float64:
		return "a float"
	case string:
		return "a string"
	case *sequence:
		if v.tuple {
			return "a tuple"
		}
		return "a list"
	case *mapping:
		return "a dictionary"
	case *global:
		return "the global " + quote(v.name)
	case *storageRef:
		return "a storage"
	case *tensor:
		return "a tensor"
	}
	return "an opaque object"
}
