// Package hostmem tells how much memory there is to take.
package hostmem

import (
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// Available is what this process can still take in bytes: the least of what the machine has free and of what the limits of
// its control groups leave. 0: the system does not say.
func Available() int64 { return available(os.DirFS("/")) }

func available(root fs.FS) int64 {
	least := int64(math.MaxInt64)
	if kb, ok := field(root, "proc/meminfo", "MemAvailable:"); ok {
		least = kb << 10
	}
	for _, g := range groups(root) {
		limit, limited := number(root, path.Join(g.dir, g.limit))
		used, ok := number(root, path.Join(g.dir, g.used))
		if !limited || !ok {
			continue
		}
		// Pages of files count as used, but those that were not read again lately make room for others.
		files, _ := field(root, path.Join(g.dir, "memory.stat"), g.files)
		least = min(least, max(limit-used+files, 1))
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// group is a control group with a limit, and the names of its files.
type group struct{ dir, limit, used, files string }

// groups are those of this process and all that they are part of. A container may see its own as the root, under a path
// that leads nowhere: directories need not exist.
func groups(root fs.FS) (list []group) {
	data, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		data = []byte("0::/\n1:memory:/\n")
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		g := group{limit: "memory.max", used: "memory.current", files: "inactive_file"}
		mounts := []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"}
		switch {
		case parts[1] == "memory": // version 1
			g = group{limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", files: "total_inactive_file"}
			mounts = []string{"sys/fs/cgroup/memory"}
		case parts[1] != "":
			continue
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			for _, m := range mounts {
				g.dir = path.Join(m, dir)
				list = append(list, g)
			}
			if dir == "/" {
				break
			}
		}
	}
	return list
}

// number reads a file with one number. Where there is no limit, version 2 has a word.
func number(root fs.FS, name string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return v, err == nil && v >= 0
}

// field reads the number behind a name at the beginning of a line.
func field(root fs.FS, file, name string) (int64, bool) {
	data, err := fs.ReadFile(root, file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			v, err := strconv.ParseInt(f[1], 10, 64)
			return v, err == nil && v >= 0
		}
	}
	return 0, false
}
