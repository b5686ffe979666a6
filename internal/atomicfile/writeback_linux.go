package atomicfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// beginWriteback asks the system to start moving a part of the file to the disk, without waiting for it, so that the
// flush at the end finds little left to do. It is a hint: where it fails, Sync does the work.
func beginWriteback(f file, from, n int64) {
	if f, ok := f.(*os.File); ok {
		_ = unix.SyncFileRange(int(f.Fd()), from, n, unix.SYNC_FILE_RANGE_WRITE)
	}
}
