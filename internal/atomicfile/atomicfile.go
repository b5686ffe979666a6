package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// File is an io.Writer whose contents appear at the target with Commit.
type File struct {
	fs     fileSystem
	f      file
	temp   string
	target string
	err    error // the first failure, for good
	done   bool
	size   int64 // written
	begun  int64 // of that, on its way to the disk
}

// writebackStep is how much is written before the system is asked to start moving it to the disk.
const writebackStep = 16 << 20

// Create opens a temporary file in the folder of path.
func Create(path string) (*File, error) { return create(disk{}, path) }

func create(fsys fileSystem, path string) (*File, error) {
	target, err := resolve(path)
	if err != nil {
		return nil, err
	}
	dir, base := filepath.Split(target)
	for range 100 {
		temp := filepath.Join(dir, fmt.Sprintf(".%s.%08x.tmp", base, rand.Uint32()))
		f, err := fsys.create(temp)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &File{fs: fsys, f: f, temp: temp, target: target}, nil
	}
	return nil, fmt.Errorf("no free temporary name beside %s", path)
}

// resolve follows a symbolic link and refuses what a rename would wreck.
func resolve(path string) (string, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if err != nil {
		return "", err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
		if st, err = os.Stat(path); err != nil {
			return "", err
		}
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file and cannot be replaced by one", path)
	}
	return path, nil
}

// Write appends to the temporary file. After a failure every further Write and Commit fails too.
func (f *File) Write(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	if f.done {
		return 0, fs.ErrClosed
	}
	n, err := f.f.Write(p)
	f.err = err
	f.size += int64(n)
	if f.size-f.begun >= writebackStep {
		beginWriteback(f.f, f.begun, f.size-f.begun)
		f.begun = f.size
	}
	return n, err
}

// Commit makes the contents appear at the target. On an error the target is as it was, except that after a failure to
// flush the folder the new contents are in place but may not outlive a power cut.
func (f *File) Commit() error {
	if f.done {
		return fs.ErrClosed
	}
	if f.err == nil {
		f.err = f.f.Sync()
	}
	if f.err != nil {
		f.Abort()
		return f.err
	}
	f.done = true
	if f.err = f.f.Close(); f.err == nil {
		f.err = f.fs.rename(f.temp, f.target)
	}
	if f.err != nil {
		f.fs.remove(f.temp)
		return f.err
	}
	f.err = f.fs.syncDir(filepath.Dir(f.target))
	return f.err
}

// Abort gives the file up. It may be called any number of times and does nothing after Commit.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.f.Close()
	f.fs.remove(f.temp)
}

// WriteFile writes what the function writes to path, or leaves path alone if the function fails or panics.
func WriteFile(path string, write func(io.Writer) error) error {
	return writeFile(disk{}, path, write)
}

func writeFile(fsys fileSystem, path string, write func(io.Writer) error) error {
	f, err := create(fsys, path)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := write(f); err != nil {
		return err
	}
	return f.Commit()
}

// RefuseExisting returns an error if there is something at path and force is not set.
func RefuseExisting(path string, force bool) error {
	if force {
		return nil
	}
	switch _, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%s exists: use --force to replace it", path)
}

// fileSystem is every call that can fail, so that a test can make each of them fail in turn.
type fileSystem interface {
	create(path string) (file, error)
	rename(from, to string) error
	remove(path string) error
	syncDir(path string) error
}

type file interface {
	io.WriteCloser
	Sync() error
}

type disk struct{}

func (disk) create(path string) (file, error) {
	// Not os.CreateTemp: it makes files that only the owner may read, and the rename keeps that.
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
}

func (disk) rename(from, to string) error { return os.Rename(from, to) }
func (disk) remove(path string) error     { return os.Remove(path) }

func (disk) syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil // folders cannot be flushed there
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
