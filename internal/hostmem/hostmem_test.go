package hostmem

import (
	"runtime"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestAvailable(t *testing.T) {
	const meminfo = "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing is known", nil, 0},
		{"no groups", map[string]string{"proc/meminfo": meminfo}, 8000 << 10},
		{"not a number", map[string]string{"proc/meminfo": "MemAvailable: much\n"}, 0},
		{"version 2 without a limit", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n",
		}, 8000 << 10},
		{"version 2 in a container", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "1000000\n", "sys/fs/cgroup/memory.current": "300000\n", "sys/fs/cgroup/memory.stat": "anon 7\ninactive_file 100000\n",
		}, 800000},
		{"the limit of a group above", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/user.slice/app.scope\n",
			"sys/fs/cgroup/user.slice/app.scope/memory.max": "max\n", "sys/fs/cgroup/user.slice/app.scope/memory.current": "5\n",
			"sys/fs/cgroup/user.slice/memory.max": "5000000\n", "sys/fs/cgroup/user.slice/memory.current": "1000000\n",
		}, 4000000},
		{"version 1", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/job\n2:cpu:/job\n0::/\n",
			"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2000000\n", "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "500000\n",
			"sys/fs/cgroup/memory/job/memory.stat":       "inactive_file 1\ntotal_inactive_file 200000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "7\n",
		}, 1700000},
		{"version 1 in a container that sees the path of its host", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/docker/0123\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000\n",
		}, 1500000},
		{"used up", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n", "sys/fs/cgroup/memory.current": "1100\n",
		}, 1},
		{"a path that tries to leave", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/../../etc\nnonsense\n"}, 8000 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, text := range c.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			require.Equal(t, c.want, available(root))
		})
	}
	if runtime.GOOS == "linux" {
		require.Positive(t, Available())
	}
}
