package torchfile

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/spin-native/spin/weights"
)

// seeds adds what pick returns of every file in testdata.
func seeds(f *testing.F, pick func(b []byte) []byte) {
	for _, pattern := range []string{"testdata/malformed/*", "testdata/good/*.pt", "testdata/formats/*.*t"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal("no corpus", err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			if b = pick(b); b != nil && len(b) < 20_000 {
				f.Add(b)
			}
		}
	}
}

// checkRefusal holds an error to its type.
func checkRefusal(t *testing.T, err error, n int) {
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, weights.ErrFormat) {
		t.Fatalf("error of type %T: %v", err, err)
	}
	if e.Offset < 0 || e.Offset > int64(n) || e.Msg == "" {
		t.Fatalf("%+v of %d bytes", e, n)
	}
}

// checkFile holds a file that was accepted to what is promised of it.
func checkFile(t *testing.T, f *File, n int) {
	list := f.Tensors()
	if len(list) == 0 {
		t.Fatal("no tensors")
	}
	total := 0
	for i, tt := range list {
		size := tt.DType.Size()
		for _, d := range tt.Shape {
			size *= d // which fits: the data is that long
		}
		if size != len(tt.Data) || tt.DType.Size() == 0 {
			t.Fatalf("%q: shape %v of %s, %d bytes", tt.Name, tt.Shape, tt.DType, len(tt.Data))
		}
		if i > 0 && list[i-1].Name >= tt.Name {
			t.Fatalf("%q after %q", tt.Name, list[i-1].Name)
		}
		if _, ok := f.Values()[tt.Name]; ok {
			t.Fatalf("%q is a tensor and a value", tt.Name)
		}
		total += len(tt.Data)
	}
	if total > viewsFactor*n+freeBytes {
		t.Fatalf("%d bytes of tensors in a file of %d", total, n)
	}
	for name, v := range f.Values() {
		if !isPlain(v) {
			t.Fatalf("%q is a %T", name, v)
		}
	}
	// It can be written, where the names allow it.
	named := slices.DeleteFunc(slices.Clone(list), func(t weights.Tensor) bool { return t.Name == "__metadata__" })
	if total < 1<<20 {
		if err := weights.Encode(io.Discard, named, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func fuzzOpen(t *testing.T, b []byte) {
	f, err := OpenBytes("fuzz", b)
	if err != nil {
		checkRefusal(t, err, len(b))
		return
	}
	checkFile(t, f, len(b))
	f.Close()
}

// FuzzUnpickle runs pickles without a container, every storage being the pickle itself.
func FuzzUnpickle(f *testing.F) {
	seeds(f, func(b []byte) (pickle []byte) {
		defer func() { recover() }() // of archives that cannot be read
		if bytes.HasPrefix(b, []byte("PK")) {
			a := readZip(b, newBudget(len(b)))
			e := a.entries[a.root+"data.pkl"]
			return b[e.begin:e.end:e.end]
		}
		at := 0
		for range 3 {
			_, at = unpickle(b, at, newBudget(len(b)), nil)
		}
		return b[at:]
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		file := &File{m: weights.MapBytes("fuzz", b)}
		err := func() (err error) {
			defer catch(&err)
			budget := newBudget(len(b))
			st := &storages{byKey: map[string]*storage{}, fileSize: len(b), budget: budget, views: true}
			st.resolve = func(s *storage) { s.end, s.found = s.count*s.elemSize(), true }
			root, end := unpickle(b, 0, budget, st.load)
			file.finish(walk(root, 0, end, budget), b)
			return nil
		}()
		if err != nil {
			checkRefusal(t, err, len(b))
			return
		}
		checkFile(t, file, len(b))
	})
}

// FuzzZip compares the directory with that of the standard library, which must see the same entries in every archive that
// is accepted here.
func FuzzZip(f *testing.F) {
	seeds(f, func(b []byte) []byte {
		if !bytes.HasPrefix(b, []byte("PK")) {
			return nil
		}
		return b
	})
	f.Add(zipped(file{"a/data.pkl", pickled(text("w"), float4())}, file{"a/data/0", make([]byte, 16)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzOpen(t, b)
		var a *archive
		err := func() (err error) {
			defer catch(&err)
			a = readZip(b, newBudget(len(b)))
			return nil
		}()
		if err != nil {
			checkRefusal(t, err, len(b))
			return
		}
		std, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal("accepted here, but not by archive/zip:", err)
		}
		if len(std.File) != len(a.entries) {
			t.Fatalf("%d entries, archive/zip sees %d", len(a.entries), len(std.File))
		}
		for _, s := range std.File {
			e := a.entries[s.Name]
			if e == nil {
				t.Fatalf("%q is missing", s.Name)
			}
			at, err := s.DataOffset()
			if err != nil || at != int64(e.begin) || s.UncompressedSize64 != uint64(e.size) || s.CompressedSize64 != uint64(e.size) ||
				s.CRC32 != e.crc || s.Method != zip.Store {
				t.Fatalf("%+v, archive/zip sees %+v at %d, %v", e, s.FileHeader, at, err)
			}
			if e.begin < 0 || e.end < e.begin || e.end > len(b) {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// FuzzLegacy reads the stream format.
func FuzzLegacy(f *testing.F) {
	seeds(f, func(b []byte) []byte {
		if bytes.HasPrefix(b, []byte("PK")) {
			return nil
		}
		return b
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.HasPrefix(b, []byte("PK")) {
			return
		}
		fuzzOpen(t, b)
	})
}
