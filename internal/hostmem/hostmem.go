// Package hostmem tells how much memory this host, and the control groups of this process, can still give.
package hostmem

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is what there is for this process and its children, in bytes.
type Memory struct {
	Total     int64
	Available int64  // without pushing anything out that is in use; swap does not count
	Bound     string // what sets the limit of Available, in words: "the host", or the control group
}

// Read looks at the files of proc(5) and of the control groups below root,
// which is "/" but in tests. A control group that cannot be read bounds nothing.
func Read(root string) (Memory, error) {
	m, err := host(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return m, err
	}
	b, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	for line := range strings.Lines(string(b)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		switch {
		case !ok || strings.Contains(path, ".."): // a group outside of the namespace: out of sight
		case id == "0" && controllers == "":
			m.walk(filepath.Join(root, "sys/fs/cgroup"), path, unified)
		case strings.Contains(","+controllers+",", ",memory,"):
			m.walk(filepath.Join(root, "sys/fs/cgroup/memory"), path, legacy)
		}
	}
	return m, nil
}

func host(path string) (m Memory, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return m, fmt.Errorf("read the host's memory: %w", err)
	}
	total, available := keyed(b, "MemTotal:"), keyed(b, "MemAvailable:")
	if total <= 0 || available < 0 {
		return m, fmt.Errorf("read the host's memory: %s has no MemTotal or MemAvailable", path)
	}
	return Memory{Total: total << 10, Available: available << 10, Bound: "the host"}, nil
}

// kind names the files of one version of control groups. Sources: the kernel's
// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
type kind struct{ limit, used, reclaimable string }

var (
	unified = kind{"memory.max", "memory.current", "inactive_file"}
	legacy  = kind{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
)

// walk takes the limits of a group and of all those above it into account.
func (m *Memory) walk(mount, path string, k kind) {
	for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
		dir := filepath.Join(mount, path)
		limit, err := number(filepath.Join(dir, k.limit)) // "max": none
		used, errUsed := number(filepath.Join(dir, k.used))
		if err == nil && errUsed == nil && limit < m.Total {
			m.Total = limit
		}
		if err == nil && errUsed == nil {
			// What is in the page cache and not in use goes when room is needed.
			b, _ := os.ReadFile(filepath.Join(dir, "memory.stat"))
			free := max(0, limit-used+max(0, keyed(b, k.reclaimable)))
			if free < m.Available {
				m.Available, m.Bound = free, "the control group "+path
			}
		}
		if path == "/" {
			return
		}
	}
}

func number(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// keyed is the number behind a key at the beginning of a line, or -1.
func keyed(b []byte, key string) int64 {
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != key {
			continue
		}
		if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			return n
		}
	}
	return -1
}

// Resident tells what a process has in memory, in bytes: all of it (RSS), and
// with what is shared counted by its share (PSS). 0: not known, or it is gone.
// Format: proc(5), /proc/PID/smaps_rollup.
func Resident(pid int) (rss, pss int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err == nil {
		return max(0, keyed(b, "Rss:")) << 10, max(0, keyed(b, "Pss:")) << 10
	}
	b, _ = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return max(0, keyed(b, "VmRSS:")) << 10, 0
}

// Of tells what a process holds that no other one has and no file backs: of a
// VMM the memory that its guest has touched, and its own. One that is gone holds
// nothing. Format: proc(5), /proc/PID/status.
func Of(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	return (max(0, keyed(b, "RssAnon:")) + max(0, keyed(b, "RssShmem:"))) << 10
}
