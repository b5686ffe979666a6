package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// faulty fails its n-th call (from 1).
type faulty struct {
	disk
	left *int
}

var errInjected = errors.New("injected")

func (f faulty) hit() error {
	if *f.left--; *f.left == 0 {
		return errInjected
	}
	return nil
}

func (f faulty) create(path string) (file, error) {
	if err := f.hit(); err != nil {
		return nil, err
	}
	g, err := f.disk.create(path)
	return faultyFile{g, f}, err
}

func (f faulty) rename(from, to string) error {
	if err := f.hit(); err != nil {
		return err
	}
	return f.disk.rename(from, to)
}

func (f faulty) syncDir(path string) error {
	if err := f.hit(); err != nil {
		return err
	}
	return f.disk.syncDir(path)
}

type faultyFile struct {
	file
	fs faulty
}

func (f faultyFile) Write(p []byte) (int, error) {
	if err := f.fs.hit(); err != nil {
		n, _ := f.file.Write(p[:len(p)/2]) // a full disk takes a part
		return n, err
	}
	return f.file.Write(p)
}

func (f faultyFile) Sync() error {
	if err := f.fs.hit(); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f faultyFile) Close() error {
	err := f.fs.hit()
	return errors.Join(err, f.file.Close())
}

func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	got := []string{}
	for _, e := range list {
		got = append(got, e.Name())
	}
	require.Equal(t, append([]string{}, names...), got)
}

func hello(w io.Writer) error {
	for _, s := range []string{"new ", "contents"} {
		if _, err := io.WriteString(w, s); err != nil {
			return err
		}
	}
	return nil
}

func TestEveryCallFailsInTurn(t *testing.T) {
	const calls = 7 // create, write, write, sync, close, rename, syncDir
	for n := 1; n <= calls+1; n++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "out")
		require.NoError(t, os.WriteFile(path, []byte("old"), 0o644))
		left := n
		err := writeFile(faulty{left: &left}, path, hello)
		got, readErr := os.ReadFile(path)
		require.NoError(t, readErr)
		only(t, dir, "out")
		switch {
		case n < calls:
			require.ErrorIs(t, err, errInjected, "call %d", n)
			require.Equal(t, "old", string(got), "call %d", n)
		case n == calls: // the rename has happened: whole, but not yet safe
			require.ErrorIs(t, err, errInjected)
			require.Equal(t, "new contents", string(got))
		default:
			require.NoError(t, err)
			require.Equal(t, "new contents", string(got))
		}
	}
}

func TestWriterFailsInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	err := WriteFile(path, func(w io.Writer) error {
		io.WriteString(w, "half")
		return errInjected
	})
	require.ErrorIs(t, err, errInjected)
	only(t, dir)

	require.Panics(t, func() {
		WriteFile(path, func(w io.Writer) error { panic("in the middle") })
	})
	only(t, dir)
}

func TestWriteErrorIsSticky(t *testing.T) {
	left := 2
	f, err := create(faulty{left: &left}, filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	_, err = f.Write([]byte("a"))
	require.ErrorIs(t, err, errInjected)
	_, err = f.Write([]byte("b"))
	require.ErrorIs(t, err, errInjected)
	require.ErrorIs(t, f.Commit(), errInjected)
}

func TestAbortIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "out"))
	require.NoError(t, err)
	f.Abort()
	f.Abort()
	only(t, dir)
	require.ErrorIs(t, f.Commit(), os.ErrClosed)
	_, err = f.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrClosed)

	f, err = Create(filepath.Join(dir, "out"))
	require.NoError(t, err)
	require.NoError(t, f.Commit())
	f.Abort()
	only(t, dir, "out")
}

func TestTargets(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	require.NoError(t, os.WriteFile(real, []byte("old"), 0o644))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(real, link))
	require.NoError(t, WriteFile(link, hello))
	st, err := os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, st.Mode()&os.ModeSymlink, "the link stays a link")
	got, err := os.ReadFile(real)
	require.NoError(t, err)
	require.Equal(t, "new contents", string(got))

	require.ErrorContains(t, WriteFile(dir, hello), "not a regular file")
	require.ErrorContains(t, WriteFile(os.DevNull, hello), "not a regular file")
	require.Error(t, WriteFile(filepath.Join(dir, "absent", "out"), hello))
}

func TestRefuseExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	require.NoError(t, RefuseExisting(path, false))
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	require.NoError(t, RefuseExisting(path, true))
	require.EqualError(t, RefuseExisting(path, false), path+" exists: use --force to replace it")
}
