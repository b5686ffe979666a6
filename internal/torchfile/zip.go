package torchfile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	localMagic      = "PK\x03\x04"
	centralMagic    = "PK\x01\x02"
	endMagic        = "PK\x05\x06"
	end64Magic      = "PK\x06\x06"
	locatorMagic    = "PK\x06\x07"
	descriptorMagic = "PK\x07\x08"

	localSize   = 30
	centralSize = 46
	endSize     = 22
	end64Size   = 56
	locatorSize = 20

	flagEncrypted  = 1 << 0
	flagDescriptor = 1 << 3 // sizes and CRC-32 follow the data
	flagUTF8       = 1 << 11

	maxEntries = 200_000
)

// entry is one file of an archive.
type entry struct {
	name       string
	header     int // of its local header
	begin, end int // of its data
	size       int
	crc        uint32
	flags      uint16
}

// archive is the directory of a zip file, checked.
type archive struct {
	root    string // the one folder, with its slash
	entries map[string]*entry
}

// readZip checks the whole structure of the archive b. Data is not looked at.
func readZip(b []byte, budget *budget) *archive {
	n, begin, end := directory(b)
	budget.spend(begin, 200*n)
	list := make([]entry, n)
	a := &archive{entries: make(map[string]*entry, n)}
	at := begin
	for i := range list {
		e := &list[i]
		next := e.central(b[:end], at, begin)
		budget.spend(at, len(e.name))
		root, rest, _ := strings.Cut(e.name, "/")
		switch {
		case !validName(e.name) || rest == "":
			fail(at, "entry %s: not a plain path within a folder", quote(e.name))
		case i == 0:
			a.root = e.name[:len(root)+1]
		case e.name[:len(root)+1] != a.root:
			fail(at, "entry %s lies in another folder than %s: two models in one archive?", quote(e.name), quote(a.root))
		case a.entries[e.name] != nil:
			fail(at, "entry %s occurs twice", quote(e.name))
		}
		a.entries[e.name] = e
		at = next
	}
	if at != end {
		fail(at, "%d bytes of the directory belong to no entry", end-at)
	}

	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.header, b.header) })
	for i := range list {
		a.entries[list[i].name] = &list[i] // sorting moved them
	}
	at = 0
	for i := range list {
		next := begin
		if i+1 < n {
			next = list[i+1].header
		}
		list[i].local(b, at, next)
		at = next
	}
	return a
}

// directory reads the records at the end of the file: how many entries there are and where the directory lies.
func directory(b []byte) (n, begin, end int) {
	end = len(b) - endSize
	if end < 0 || string(b[end:end+4]) != endMagic || u16(b, end+20) != 0 {
		fail(len(b), "the end record is not at the end of the archive: it is truncated, or something follows it")
	}
	if u16(b, end+4) != 0 || u16(b, end+6) != 0 || u16(b, end+8) != u16(b, end+10) {
		fail(end, "the archive is a part of several")
	}
	count, size, offset := uint64(u16(b, end+10)), uint64(u32(b, end+12)), uint64(u32(b, end+16))
	at := end
	if at := end - locatorSize; at >= 0 && string(b[at:at+4]) == locatorMagic {
		end = at - end64Size
		if end < 0 || u64(b, at+8) != uint64(end) || string(b[end:end+4]) != end64Magic || u64(b, end+4) != end64Size-12 {
			fail(at, "the zip64 end record is not where it should be")
		}
		count64, size64, offset64 := u64(b, end+32), u64(b, end+40), u64(b, end+48)
		if u32(b, at+4) != 0 || u32(b, at+16) > 1 || u32(b, end+16) != 0 || u32(b, end+20) != 0 || u64(b, end+24) != count64 {
			fail(end, "the archive is a part of several")
		}
		if count != count64 && count != math.MaxUint16 || size != size64 && size != math.MaxUint32 ||
			offset != offset64 && offset != math.MaxUint32 {
			fail(end, "the two end records contradict each other")
		}
		count, size, offset = count64, size64, offset64
	}
	if offset > uint64(end) || size != uint64(end)-offset {
		fail(at, "the directory is said to be %d bytes at %d, but the end record is at %d", size, offset, end)
	}
	if count == 0 || count > maxEntries || count > size/centralSize {
		fail(at, "%d entries in a directory of %d bytes; from 1 to %d are allowed", count, size, maxEntries)
	}
	return int(count), int(offset), end
}

// central reads the directory's record at b[at] and returns where the next one begins. Local headers lie before limit.
func (e *entry) central(b []byte, at, limit int) int {
	if len(b)-at < centralSize || string(b[at:at+4]) != centralMagic {
		fail(at, "no directory record, where one is expected")
	}
	packed, size, header := uint64(u32(b, at+20)), uint64(u32(b, at+24)), uint64(u32(b, at+42))
	name := at + centralSize
	extra := name + int(u16(b, at+28))
	comment := extra + int(u16(b, at+30))
	next := comment + int(u16(b, at+32))
	if next > len(b) {
		fail(at, "a directory record runs past the end of the directory")
	}
	e.name = string(b[name:extra])
	e.flags, e.crc = u16(b, at+8), u32(b, at+16)
	zip64(b[extra:comment], at, &size, &packed, &header)
	switch {
	case e.flags&flagEncrypted != 0:
		fail(at, "entry %s is encrypted", quote(e.name))
	case u16(b, at+10) != 0 || packed != size:
		fail(at, "entry %s is compressed; PyTorch stores entries as they are", quote(e.name))
	case e.flags&^(flagDescriptor|flagUTF8) != 0:
		fail(at, "entry %s has the unknown flags %#x", quote(e.name), e.flags)
	case u16(b, at+34) != 0:
		fail(at, "entry %s lies in another file", quote(e.name))
	case header >= uint64(limit) || size > uint64(limit)-header:
		fail(at, "entry %s of %d bytes at %d, but the directory is at %d", quote(e.name), size, header, limit)
	}
	e.header, e.size = int(header), int(size)
	return next
}

// zip64 replaces the fields that say 'see the extra field' with what stands there, in this order.
func zip64(extra []byte, at int, fields ...*uint64) {
	wanted := 0
	for _, f := range fields {
		if *f == math.MaxUint32 {
			wanted++
		}
	}
	for wanted > 0 {
		if len(extra) < 4 || int(u16(extra, 2)) > len(extra)-4 {
			fail(at, "a size of 64 bits is announced and missing")
		}
		field := extra[4 : 4+int(u16(extra, 2))]
		if u16(extra, 0) != 1 {
			extra = extra[4+len(field):]
			continue
		}
		if len(field) < 8*wanted {
			fail(at, "a size of 64 bits is announced and missing")
		}
		for _, f := range fields {
			if *f == math.MaxUint32 {
				*f = u64(field, 0)
				field = field[8:]
			}
		}
		return
	}
}

// local checks the local header, which must be at b[at], against the directory, and finds the data. What follows the
// data up to next must be its descriptor or nothing.
func (e *entry) local(b []byte, at, next int) {
	if e.header != at {
		fail(at, "entry %s begins at %d: a gap or an overlap", quote(e.name), e.header)
	}
	if next-at < localSize || string(b[at:at+4]) != localMagic {
		fail(at, "entry %s has no local header where the directory says", quote(e.name))
	}
	name := at + localSize
	extra := name + int(u16(b, at+26))
	e.begin = extra + int(u16(b, at+28))
	if e.begin > next || e.size > next-e.begin {
		fail(at, "entry %s of %d bytes does not fit before the next one at %d", quote(e.name), e.size, next)
	}
	e.end = e.begin + e.size
	crc, packed, size := u32(b, at+14), uint64(u32(b, at+18)), uint64(u32(b, at+22))
	later := e.flags&flagDescriptor != 0
	if !later {
		zip64(b[extra:e.begin], at, &size, &packed)
	}
	// With a descriptor the three may be left out here.
	agree := func(v, want uint64) bool { return v == want || later && (v == 0 || v == math.MaxUint32) }
	if string(b[name:extra]) != e.name || u16(b, at+6) != e.flags || u16(b, at+8) != 0 ||
		!agree(uint64(crc), uint64(e.crc)) || !agree(packed, uint64(e.size)) || !agree(size, uint64(e.size)) {
		fail(at, "the local header of entry %s contradicts the directory", quote(e.name))
	}
	rest := b[e.end:next]
	if len(rest) == 0 && (!later || e.size == 0) {
		return
	}
	var want []byte
	if later {
		want = binary.LittleEndian.AppendUint32([]byte(descriptorMagic), e.crc)
		if len(rest) == 24 {
			want = binary.LittleEndian.AppendUint64(want, uint64(e.size))
			want = binary.LittleEndian.AppendUint64(want, uint64(e.size))
		} else {
			want = binary.LittleEndian.AppendUint32(want, uint32(e.size))
			want = binary.LittleEndian.AppendUint32(want, uint32(e.size))
		}
	}
	if !bytes.Equal(rest, want) {
		fail(e.end, "the %d bytes after the data of entry %s are not what the directory says of it", len(rest), quote(e.name))
	}
}

// validName accepts a relative path without steps up or aside.
func validName(name string) bool {
	if !utf8.ValidString(name) || strings.ContainsAny(name, "\\\x00") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// checked returns the data of an entry whose CRC-32 is right, nil if there is none.
func (a *archive) checked(b []byte, name string) (data []byte, e *entry) {
	e = a.entries[a.root+name]
	if e == nil {
		return nil, nil
	}
	data = b[e.begin:e.end]
	if got := crc32.ChecksumIEEE(data); got != e.crc {
		fail(e.begin, "entry %s has CRC-32 %08x, the directory says %08x: the file is damaged", quote(e.name), got, e.crc)
	}
	return data, e
}

// parseZip reads the tree of an archive.
func parseZip(b []byte, budget *budget) *leaves {
	a := readZip(b, budget)
	_, tree := a.checked(b, "data.pkl")
	if tree == nil {
		fail(len(b), "the archive holds no %sdata.pkl: not a PyTorch checkpoint", a.root)
	}
	if order, e := a.checked(b, "byteorder"); e != nil && string(order) != "little" {
		fail(e.begin, "byte order %s; only little-endian files can be read", quote(string(order[:min(len(order), 40)])))
	}
	st := &storages{byKey: map[string]*storage{}, fileSize: len(b), budget: budget}
	st.resolve = func(s *storage) {
		e := a.entries[a.root+"data/"+s.key]
		if e == nil {
			fail(s.at, "storage %s is not in the archive", quote(s.key))
		}
		if e.size != s.count*s.elemSize() {
			fail(s.at, "storage %s is declared with %d elements of %d bytes, the archive has %d bytes", quote(s.key), s.count, s.elemSize(), e.size)
		}
		s.begin, s.end, s.crc, s.checkCRC, s.found = e.begin, e.end, e.crc, true, true
	}
	root, end := unpickle(b[:tree.end], tree.begin, budget, st.load)
	if end != tree.end {
		fail(end, "%d bytes follow the end of the pickle", tree.end-end)
	}
	return walk(root, tree.begin, tree.size, budget)
}

func u16(b []byte, at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func u64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
