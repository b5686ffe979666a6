package torchfile

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
)

// The stream format, the only one before PyTorch 1.6: pickles of a magic number, a version, the system's properties, the
// tree and the list of storage keys; then, in the order of the list, each storage as a count of 8 bytes and its elements.
const (
	streamMagic   = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" // 0x1950a86a20f9469cfc6c
	streamVersion = 1001
)

// parseStream reads the tree of a stream and finds its storages.
func parseStream(b []byte, budget *budget) *leaves {
	magic, at := unpickle(b, 0, budget, nil)
	if m, ok := magic.(bigInt); !ok || !bytes.Equal(m, []byte(streamMagic)) {
		fail(0, "the magic number of a PyTorch file is missing: a pickle of something else")
	}
	versionAt := at
	version, at := unpickle(b, at, budget, nil)
	if version != int64(streamVersion) {
		fail(versionAt, "version %s of the stream format, expected %d", show(version), streamVersion)
	}
	infoAt := at
	info, at := unpickle(b, at, budget, nil)
	if m, ok := info.(*mapping); !ok {
		fail(infoAt, "the system's properties are %s, expected a dictionary", describe(info))
	} else {
		for i, k := range m.keys {
			if k == "little_endian" && m.vals[i] != true {
				fail(infoAt, "big-endian; only little-endian files can be read")
			}
		}
	}

	st := &storages{byKey: map[string]*storage{}, fileSize: len(b), budget: budget, views: true}
	treeAt := at
	root, at := unpickle(b, at, budget, st.load)
	treeEnd, keysAt := at, at
	list, at := unpickle(b, at, budget, nil)
	keys, ok := list.(*sequence)
	if !ok {
		fail(keysAt, "the keys of the storages are %s, expected a list", describe(list))
	}
	for _, k := range keys.items {
		key, _ := k.(string)
		s := st.byKey[key]
		if s == nil || s.found {
			fail(keysAt, "the storage %s is listed and not in the tree, or twice", quote(key))
		}
		at = s.place(b, at)
	}
	for _, key := range slices.Sorted(maps.Keys(st.byKey)) {
		if s := st.byKey[key]; !s.found {
			fail(s.at, "storage %s is not in the file", quote(key))
		}
	}
	if at != len(b) {
		fail(at, "%d bytes follow the last storage", len(b)-at)
	}
	return walk(root, treeAt, treeEnd-treeAt, budget)
}

// place finds the storage at b[at] and returns where it ends.
func (s *storage) place(b []byte, at int) int {
	if len(b)-at < 8 {
		fail(at, "storage %s is missing: the file is truncated", quote(s.key))
	}
	if n := int64(binary.LittleEndian.Uint64(b[at:])); n != int64(s.count) {
		fail(at, "storage %s has %d elements, the tree says %d", quote(s.key), n, s.count)
	}
	s.begin = at + 8
	if s.count > (len(b)-s.begin)/s.elemSize() {
		fail(at, "storage %s of %d elements of %d bytes, %d bytes are left: the file is truncated",
			quote(s.key), s.count, s.elemSize(), len(b)-s.begin)
	}
	s.end, s.found = s.begin+s.count*s.elemSize(), true
	return s.end
}
