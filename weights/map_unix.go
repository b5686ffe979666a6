//go:build unix

package weights

import (
	"os"

	"golang.org/x/sys/unix"
)

// load maps the file read-only.
func load(f *os.File, size int) (b []byte, unload func() error, err error) {
	b, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	return b, func() error { return unix.Munmap(b) }, nil
}

// unneeded takes pages of the mapping out of the program's memory. It is advice: that it fails changes nothing.
func unneeded(pages []byte) { _ = unix.Madvise(pages, unix.MADV_DONTNEED) }
