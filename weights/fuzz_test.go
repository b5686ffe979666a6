package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// FuzzHeader checks what must hold for every input: an ordinary *FormatError, or a file whose tensors cover the data
// and that survives being written and read again. The corpus is what lies in testdata, and testdata/fuzz.
func FuzzHeader(f *testing.F) {
	for _, pattern := range []string{"testdata/malformed/*.safetensors", "testdata/formats/*.safetensors"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal("no corpus", err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkAny(t, b) })
}

// checkAny checks what must hold for every input of FuzzHeader.
func checkAny(t *testing.T, b []byte) {
	file, err := OpenBytes("fuzz", b)
	if err != nil {
		var format *FormatError
		if !errors.As(err, &format) {
			t.Fatalf("error of type %T: %v", err, err)
		}
		return
	}
	var list []Tensor
	covered := 0
	for _, name := range file.Names() {
		tt, ok := file.Tensor(name)
		if !ok {
			t.Fatalf("%q is listed and not found", name)
		}
		if err := tt.check(); err != nil {
			t.Fatal(err)
		}
		if tt.DType.Float() {
			if v, err := tt.Floats(); err != nil || len(v) != tt.Len() {
				t.Fatal(len(v), err)
			}
		} else {
			tt.Ints() // may refuse a value
		}
		covered += len(tt.Data)
		list = append(list, tt)
	}
	if !isZstd(b) && covered > len(b)-10 {
		t.Fatalf("%d bytes of tensors in a file of %d", covered, len(b))
	}
	file.Info() // may refuse

	var first, second bytes.Buffer
	if err := Encode(&first, list, file.Metadata()); err != nil {
		t.Fatal(err)
	}
	again, err := OpenBytes("again", first.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	list = list[:0]
	for _, name := range again.Names() {
		a, _ := again.Tensor(name)
		b, ok := file.Tensor(name)
		if !ok || !bytes.Equal(a.Data, b.Data) || a.DType != b.DType {
			t.Fatalf("%q was changed by writing", name)
		}
		list = append(list, a)
	}
	if err := Encode(&second, list, again.Metadata()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Fatal("writing is not deterministic")
	}
}

// TestMutations runs the check of FuzzHeader on a number of random mutations of its corpus, without the engine's
// guidance and its cost: SPIN_MUTATIONS=50000000 go test -run TestMutations -timeout 2h ./weights. SPIN_CORPUS may name a
// folder of further inputs, such as the cache of an earlier fuzzing run.
func TestMutations(t *testing.T) {
	count, err := strconv.Atoi(os.Getenv("SPIN_MUTATIONS"))
	if err != nil {
		count = 20_000
	}
	var corpus [][]byte
	for _, pattern := range []string{"testdata/malformed/*.safetensors", "testdata/formats/*.safetensors"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			corpus = append(corpus, b)
		}
	}
	grown, _ := filepath.Glob(filepath.Join(os.Getenv("SPIN_CORPUS"), "*"))
	for _, name := range grown {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if _, arg, ok := strings.Cut(string(text), "[]byte("); ok {
			if b, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(arg), ")")); err == nil {
				corpus = append(corpus, []byte(b))
			}
		}
	}
	accepted := 0
	rng := rand.New(rand.NewPCG(uint64(count), 7))
	for range count {
		b := mutated(rng, corpus)
		if _, err := OpenBytes("mutation", b); err == nil {
			accepted++
		}
		checkAny(t, b)
	}
	t.Logf("%d mutations of %d inputs, %d accepted", count, len(corpus), accepted)
}

// mutated changes a few bytes of one of the inputs. Two times of three the header's length is put right afterwards, so
// that more than the first check is met.
func mutated(rng *rand.Rand, corpus [][]byte) []byte {
	b := bytes.Clone(corpus[rng.IntN(len(corpus))])
	if len(b) > 4096 {
		b = b[:4096]
	}
	for range 1 + rng.IntN(3) {
		for len(b) < 10 {
			b = append(b, "{\"a\":0}."...)
		}
		i := rng.IntN(len(b))
		if rng.IntN(4) > 0 {
			i = 8 + rng.IntN(min(len(b)-8, 200)) // in the header, mostly
		}
		const text = "{}[]\",:0123456789-+.eE \n\\tdshapeoftyF32BU6I"
		switch rng.IntN(7) {
		case 0:
			b[i] ^= 1 << rng.IntN(8)
		case 1:
			b[i] = text[rng.IntN(len(text))]
		case 2:
			b = slices.Delete(b, i, i+1+rng.IntN(min(4, len(b)-i)))
		case 3:
			b = slices.Insert(b, i, text[rng.IntN(len(text))])
		case 4: // a piece again
			end := i + rng.IntN(min(40, len(b)-i))
			b = slices.Insert(b, i, bytes.Clone(b[i:end])...)
		case 5: // a piece of another input
			o := corpus[rng.IntN(len(corpus))]
			if len(o) > 8 {
				at := 8 + rng.IntN(len(o)-8)
				b = slices.Insert(b, i, o[at:min(len(o), at+rng.IntN(40))]...)
			}
		case 6:
			b = b[:i]
		}
	}
	if end := bytes.LastIndexByte(b, '}'); end > 8 && rng.IntN(3) > 0 {
		binary.LittleEndian.PutUint64(b, uint64(end-7))
	}
	return b
}

// FuzzIndex: whatever the list of shards says, an ordinary error or names of files in the same folder.
func FuzzIndex(f *testing.F) {
	files, err := filepath.Glob("testdata/malformed/index_*/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no corpus", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"metadata":{"total_size":4},"weight_map":{"a":"x-00001-of-00002.safetensors","b":"x-00002-of-00002.safetensors"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := parseIndex(b)
		if err != nil {
			var format *FormatError
			if !errors.As(err, &format) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			return
		}
		for _, m := range members {
			if filepath.Base(m.shard) != m.shard || m.shard == "." || m.shard == ".." || strings.ContainsAny(m.shard, "/\\\x00") {
				t.Fatalf("shard %q leaves the folder", m.shard)
			}
		}
	})
}

// FuzzZstd: a compressed container is refused, or holds what the plain reader accepts.
func FuzzZstd(f *testing.F) {
	var plain, packed bytes.Buffer
	list := []Tensor{FromFloats("a", []float32{1, 2, 3}, 3), FromFloats("b", make([]float32, 500), 500)}
	if err := errors.Join(Encode(&plain, list, nil), EncodeZstd(&packed, list, nil)); err != nil {
		f.Fatal(err)
	}
	f.Add(packed.Bytes())
	f.Add(packed.Bytes()[:len(packed.Bytes())-1])
	f.Add(append([]byte(zstdMagic), 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !isZstd(b) {
			b = append([]byte(zstdMagic), b...)
		}
		file, err := OpenBytes("fuzz", b)
		if err != nil {
			var format *FormatError
			if !errors.As(err, &format) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			return
		}
		for _, name := range file.Names() {
			x, _ := file.Tensor(name)
			if err := x.check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
