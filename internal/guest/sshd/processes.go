package sshd

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// maxCommand bounds a command line that is told of, in bytes.
const maxCommand = 200

// userHZ is the unit of times in /proc/PID/stat, the same on all architectures
// that banger has.
const userHZ = 100

// processes answers hello.ProcessesSubsystem from /proc: no image needs a ps for it.
func (s *session) processes() error {
	all, err := listProcesses("/proc", s.conn.srv.userName())
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err == nil {
		all.UptimeMS = time.Duration(up.Nano()).Milliseconds()
	}
	b, err := fitProcesses(all)
	if err != nil {
		return err
	}
	_, err = s.ch.Write(append(b, '\n'))
	return err
}

// userName gives the names of users, each looked up once.
func (s *Server) userName() func(uid string) string {
	known := map[string]string{}
	return func(uid string) string {
		name, ok := known[uid]
		if !ok {
			u, _ := s.lookupUser(uid)
			name = cmp.Or(u.name, uid)
			known[uid] = name
		}
		return name
	}
}

// fitProcesses encodes what fits into the bound. The list is sorted, so the rest
// is what matters least.
func fitProcesses(all hello.Processes) ([]byte, error) {
	for {
		b, err := json.Marshal(all)
		if err != nil || len(b) <= hello.MaxProcesses || len(all.List) == 0 {
			return b, err
		}
		all.List = all.List[:len(all.List)*3/4]
	}
}

// listProcesses reads a /proc, the busiest processes first. One that ends
// meanwhile is left out. Formats: proc(5).
func listProcesses(proc string, userName func(string) string) (all hello.Processes, err error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return all, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(filepath.Join(proc, e.Name()), userName); ok {
			p.PID = pid
			all.List = append(all.List, p)
		}
	}
	slices.SortStableFunc(all.List, func(a, b hello.Process) int {
		return cmp.Or(cmp.Compare(b.CPUMS, a.CPUMS), cmp.Compare(a.PID, b.PID))
	})
	all.Total, all.CPUs = len(all.List), runtime.NumCPU()
	all.MemTotal, all.MemAvailable = memory(filepath.Join(proc, "meminfo"))
	load, _ := os.ReadFile(filepath.Join(proc, "loadavg"))
	_, _ = fmt.Sscan(string(load), &all.Load[0], &all.Load[1], &all.Load[2])
	return all, nil
}

func readProcess(dir string, userName func(string) string) (p hello.Process, ok bool) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, false
	}
	// The name, in parentheses, may itself hold spaces and parentheses.
	left, right := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if left < 0 || right < left {
		return p, false
	}
	const state, ppid, flags, utime, stime, threads, rss = 0, 1, 6, 11, 12, 17, 21
	f := strings.Fields(string(stat[right+1:]))
	if len(f) <= rss {
		return p, false
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	const pfKthread = 0x00200000 // linux/sched.h
	p.State, p.PPID, p.Threads = f[state], int(number(ppid)), int(number(threads))
	p.Kernel = number(flags)&pfKthread != 0
	p.CPUMS = (number(utime) + number(stime)) * 1000 / userHZ
	p.RSS = number(rss) * int64(os.Getpagesize())
	p.Command = "[" + string(stat[left+1:right]) + "]"
	if line := head(filepath.Join(dir, "cmdline"), maxCommand); len(line) > 0 {
		p.Command = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		p.User = userName(strconv.Itoa(int(st.Uid)))
	}
	return p, true
}

// head is the beginning of a file, empty if there is none.
func head(path string, n int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, n))
	return b
}

func memory(path string) (total, available int64) {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "MemTotal: %d kB", &total)
		_, _ = fmt.Sscanf(line, "MemAvailable: %d kB", &available)
	}
	return total << 10, available << 10
}
