package torchfile

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
	"github.com/spin-native/spin/weights"
)

func mustOpen(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	require.Equal(t, path, f.Path())
	return f
}

// requireSame compares the tensors below prefix with a safetensors file, converted to its types.
func requireSame(t *testing.T, path, prefix, want string) {
	t.Helper()
	w, err := weights.Open(want)
	require.NoError(t, err)
	defer w.Close()
	got := map[string]weights.Tensor{}
	for _, tt := range mustOpen(t, path).Tensors() {
		if name, ok := strings.CutPrefix(tt.Name, prefix); ok {
			got[name] = tt
		}
	}
	require.Len(t, got, len(w.Names()), path)
	for _, name := range w.Names() {
		a, ok := got[name]
		require.True(t, ok, name)
		b, _ := w.Tensor(name)
		if a.DType != b.DType {
			require.True(t, a.DType.Float() && b.DType.Float(), name)
			if a, err = a.To(b.DType); err != nil {
				t.Fatal(err)
			}
		}
		require.True(t, slices.Equal(b.Shape, a.Shape), "%s: shape %v, expected %v", name, a.Shape, b.Shape)
		require.Equal(t, string(b.Data), string(a.Data), name)
	}
}

func TestFormats(t *testing.T) {
	for _, c := range []struct{ file, prefix, want string }{
		{"tree.pt", "", "pickle_tree"},
		{"tree_legacy.pt", "", "pickle_tree"},
		{"protocol4.pt", "", "protocol4"},
		{"callback_class_key.ckpt", "state_dict.", "protocol4"},
	} {
		t.Run(c.file, func(t *testing.T) {
			requireSame(t, "testdata/formats/"+c.file, c.prefix, "testdata/formats/"+c.want+".expected.safetensors")
		})
	}
	require.Equal(t, map[string]any{"nested.inner.b.list.0": int64(1), "nested.inner.b.list.1": 2.5,
		"nested.inner.b.list.3": true, "nested.inner.b.list.4": "text", "nested.inner.b.list.5.0": int64(3),
		"nested.inner.b.list.5.1": int64(4), "nested.n": int64(3), "int": int64(1) << 40},
		mustOpen(t, "testdata/formats/tree.pt").Values())
	require.Equal(t, map[string]any{"epoch": int64(1)}, mustOpen(t, "testdata/formats/callback_class_key.ckpt").Values())
}

// TestGood reads what testdata/make.py wrote with PyTorch, in both containers and all protocols.
func TestGood(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*.pt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		base := strings.TrimSuffix(filepath.Base(path), ".pt")
		t.Run(base, func(t *testing.T) {
			kind, _, _ := strings.Cut(base, "_protocol")
			kind, stream := strings.CutSuffix(kind, "_stream")
			if kind == "dtypes" && stream { // which has no unsigned types: compare what is there
				f := mustOpen(t, path)
				w, err := weights.Open("testdata/good/dtypes.safetensors")
				require.NoError(t, err)
				defer w.Close()
				require.Greater(t, len(f.Tensors()), 20)
				for _, got := range f.Tensors() {
					want, ok := w.Tensor(got.Name)
					require.True(t, ok)
					require.Equal(t, want.DType, got.DType)
					require.Equal(t, string(want.Data), string(got.Data), got.Name)
				}
				return
			}
			requireSame(t, path, "", "testdata/good/"+kind+".safetensors")
		})
	}
}

func TestValues(t *testing.T) {
	for _, name := range []string{"training", "training_stream", "training_protocol4", "training_stream_protocol5"} {
		v := mustOpen(t, "testdata/good/"+name+".pt").Values()
		for key, want := range map[string]any{
			"epoch": int64(3), "global_step": int64(123456789012), "scale_factor": 0.18215, "flag": true,
			"negative": int64(-5), "negative_long": -int64(1) << 40, "min": int64(math.MinInt64),
			"text": "café \U0001f600", "pytorch-lightning_version": "1.4.2", "hyper_parameters.channel_mult.2": int64(4),
			"hyper_parameters.lr": 2e-6, "size.1": int64(3), "optimizer_states.0.param_groups.0.betas.1": 0.999, "counter.a": int64(2),
		} {
			require.Equal(t, want, v[key], key)
		}
		for _, key := range []string{"none", "big", "numpy", "device", "dtype", "raw", "counted.losses.0", "namespace.a"} {
			require.NotContains(t, v, key)
		}
	}
}

// TestInPlace: what lies in order is not copied.
func TestInPlace(t *testing.T) {
	b, err := os.ReadFile("testdata/good/views.pt")
	require.NoError(t, err)
	f, err := OpenBytes("views", b)
	require.NoError(t, err)
	inPlace := map[string]bool{}
	for _, tt := range f.Tensors() {
		if len(tt.Data) > 0 {
			for i := range b[:len(b)-len(tt.Data)] {
				inPlace[tt.Name] = inPlace[tt.Name] || &b[i] == &tt.Data[0]
			}
		}
	}
	for _, name := range []string{"whole", "rows", "element", "scalar", "outer", "ones"} {
		require.True(t, inPlace[name], name)
	}
	for _, name := range []string{"transposed", "columns", "expanded", "channels_last"} {
		require.False(t, inPlace[name], name)
	}
}

func TestFixtures(t *testing.T) {
	dir := testkit.Shared(t, "fixtures")
	pairs, err := filepath.Glob(filepath.Join(dir, "gd_*", "model.pt"))
	require.NoError(t, err)
	require.NotEmpty(t, pairs)
	for _, path := range pairs {
		requireSame(t, path, "", filepath.Join(filepath.Dir(path), "model.safetensors"))
	}
	f := mustOpen(t, filepath.Join(dir, "ldm_ffhq_style", "model.ckpt"))
	var ema, first int
	for _, tt := range f.Tensors() {
		if strings.HasPrefix(tt.Name, "state_dict.model_ema.") {
			ema++
		}
		if strings.HasPrefix(tt.Name, "state_dict.first_stage_model.") {
			first++
		}
	}
	require.NotZero(t, ema)
	require.NotZero(t, first)
	require.Equal(t, "café", f.Values()["hyper_parameters.text"])
}

// refused opens bytes that must not open and holds the refusal to what is promised.
func refused(t testing.TB, name string, b []byte) *Error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f, err := OpenBytes(name, b)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err == nil {
		f.Close()
		t.Fatalf("%s was accepted", name)
	}
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, weights.ErrFormat) {
		t.Fatalf("%s: error of type %T: %v", name, err, err)
	}
	if e.Offset < 0 || e.Offset > int64(len(b)) || e.File != name || strings.Contains(e.Msg, "\n") {
		t.Fatalf("%s: %+v", name, e)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(len(b))+64<<20 {
		t.Fatalf("%s: %d bytes allocated for a file of %d: %v", name, n, len(b), err)
	}
	for i := 0; i < 3 && took > time.Second; i++ { // the machine may have been busy
		start = time.Now()
		OpenBytes(name, b)
		took = time.Since(start)
	}
	if took > time.Second && !raceDetector {
		t.Fatalf("%s: took %v: %v", name, took, err)
	}
	return e
}

func TestMalformed(t *testing.T) {
	files, err := filepath.Glob("testdata/malformed/*")
	require.NoError(t, err)
	require.Len(t, files, 71)
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		name := filepath.Base(path)
		e := refused(t, name, b)
		t.Log(e)
		forbidden := strings.HasPrefix(name, "exec_") || strings.HasPrefix(name, "unknown_") || name == "torch_load_inside.pt" ||
			name == "rebuild_from_type.pt" || name == "legacy_exec.pt"
		if forbidden {
			require.ErrorIs(t, e, ErrForbidden)
		}
		_, err = Open(path)
		var fromFile *Error
		require.ErrorAs(t, err, &fromFile)
		require.Equal(t, e.Offset, fromFile.Offset)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "missing.pt"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Open(dir)
	require.ErrorContains(t, err, "not a regular file")
	empty := filepath.Join(dir, "empty.pt")
	require.NoError(t, os.WriteFile(empty, nil, 0o644))
	_, err = Open(empty)
	require.ErrorIs(t, err, weights.ErrFormat)
	var e *Error
	require.ErrorAs(t, err, &e)
}

func TestSniff(t *testing.T) {
	for _, name := range []string{"views.pt", "views_stream.pt", "training_stream_protocol5.pt"} {
		b, err := os.ReadFile("testdata/good/" + name)
		require.NoError(t, err)
		require.True(t, Sniff(b[:4]))
	}
	b, err := os.ReadFile("testdata/good/views.safetensors")
	require.NoError(t, err)
	require.False(t, Sniff(b[:4]))
	require.False(t, Sniff(nil))
}

// TestTruncatedWhileOpen would end the program without the guard.
func TestTruncatedWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a file in use cannot be truncated there")
	}
	b, err := os.ReadFile("testdata/good/views.pt")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "views.pt")
	require.NoError(t, os.WriteFile(path, b, 0o644))
	f := mustOpen(t, path)
	require.NoError(t, os.Truncate(path, 0))
	i := slices.IndexFunc(f.Tensors(), func(t weights.Tensor) bool { return t.Name == "whole" })
	_, err = f.Tensors()[i].Floats()
	require.ErrorIs(t, err, weights.ErrChanged)
	list := f.Tensors()
	require.NoError(t, f.Close())
	_, err = list[i].Floats()
	require.ErrorIs(t, err, fs.ErrClosed)
}
