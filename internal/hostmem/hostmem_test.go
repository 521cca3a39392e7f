package hostmem

import (
	"os"
	"path/filepath"
	"testing"
)

const meminfo = "MemTotal:        1024 kB\nMemFree:          100 kB\nMemAvailable:     512 kB\n"

func TestRead(t *testing.T) {
	const group = "sys/fs/cgroup/user/me/"
	for name, tt := range map[string]struct {
		files map[string]string
		want  Memory
	}{
		"no control groups": {map[string]string{}, Memory{1 << 20, 512 << 10, "the host"}},
		"no limit": {map[string]string{"proc/self/cgroup": "0::/user/me\n",
			group + "memory.max": "max\n", group + "memory.current": "4096\n"}, Memory{1 << 20, 512 << 10, "the host"}},
		"own limit": {map[string]string{"proc/self/cgroup": "0::/user/me\n",
			group + "memory.max": "200000\n", group + "memory.current": "150000\n", group + "memory.stat": "anon 1\ninactive_file 1000\n"},
			Memory{200000, 51000, "the control group /user/me"}},
		"limit above": {map[string]string{"proc/self/cgroup": "0::/user/me\n",
			group + "memory.max": "900000\n", group + "memory.current": "1\n",
			"sys/fs/cgroup/user/memory.max": "300000\n", "sys/fs/cgroup/user/memory.current": "290000\n"},
			Memory{300000, 10000, "the control group /user"}},
		"limit of a container": {map[string]string{"proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "300000\n", "sys/fs/cgroup/memory.current": "400000\n"},
			Memory{300000, 0, "the control group /"}},
		"legacy": {map[string]string{"proc/self/cgroup": "5:cpu,memory:/a\n1:name=systemd:/\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "300000\n", "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "100000\n",
			"sys/fs/cgroup/memory/a/memory.stat": "inactive_file 7\ntotal_inactive_file 50000\n"},
			Memory{300000, 250000, "the control group /a"}},
		"legacy without a limit": {map[string]string{"proc/self/cgroup": "5:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n"},
			Memory{1 << 20, 512 << 10, "the host"}},
		"outside of the namespace": {map[string]string{"proc/self/cgroup": "0::/../me\n",
			"sys/fs/me/memory.max": "1\n", "sys/fs/me/memory.current": "1\n"}, Memory{1 << 20, 512 << 10, "the host"}},
	} {
		root := t.TempDir()
		tt.files["proc/meminfo"] = meminfo
		for path, text := range tt.files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := Read(root); err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("a host without /proc: no error")
	}
}

func TestOf(t *testing.T) {
	if n := Of(os.Getpid()); n < 100<<10 {
		t.Errorf("this process holds %d bytes", n)
	}
	if rss, pss := Resident(os.Getpid()); rss < pss || pss <= 0 {
		t.Errorf("this process has %d, its share is %d", rss, pss)
	}
	if rss, pss := Resident(-1); rss != 0 || pss != 0 {
		t.Errorf("no process has %d and %d bytes", rss, pss)
	}
	if n := Of(-1); n != 0 {
		t.Errorf("no process holds %d bytes", n)
	}
	if m, err := Read("/"); err != nil || m.Total < m.Available || m.Available <= 0 {
		t.Errorf("this host: %+v, %v", m, err)
	}
}
