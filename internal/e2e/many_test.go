//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/state"
)

// TestMany is small enough for every run; `make many` has fifty.
func TestMany(t *testing.T) { many(t, 10) }

// many creates and starts n VMs at once, each with the least memory there can
// be. All come up, or are refused for lack of memory and harm no other. Then all
// are removed at once, and nothing is left that was not there before.
func many(t *testing.T, n int) {
	h := newHost(t)
	dir, err := genericKernel()
	check(t, err)
	create := func(name string) error {
		out, err := h.banger("vm", "create", "--image", "debian-bookworm", "--kernel", "gen", "--memory", "64M",
			"--init", "banger", "--net", "none", "--disk", "64M", "--boot-timeout", "300", "--name", name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if _, err := h.output("kernel", "import", "gen", "--from", dir); err != nil {
		t.Fatal(err)
	}
	check(t, create("first")) // makes what all share
	if _, err := h.output("vm", "rm", "--force", "first"); err != nil {
		t.Fatal(err)
	}
	before := h.census(t)

	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("m%d", i+1)
	}
	each := func(what string, f func(name string) error) (failed map[string]error) {
		began := time.Now()
		var mu sync.Mutex
		var all sync.WaitGroup
		failed = map[string]error{}
		for _, name := range names {
			all.Go(func() {
				if err := f(name); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed[name] = err
				}
			})
		}
		all.Wait()
		t.Logf("%s: %d of %d at once in %s", what, len(names)-len(failed), len(names), time.Since(began).Round(time.Millisecond))
		return failed
	}
	refused := each("created and running", create)
	var up []string
	for _, name := range names {
		switch err := refused[name]; {
		case err == nil:
			up = append(up, name)
		case !strings.Contains(err.Error(), "it asks for 64 MiB"): // the only reason there may be
			t.Errorf("create %s: %v", name, err)
		}
	}
	if names = up; len(up) == 0 {
		t.Fatal("no VM came up")
	}
	for name, err := range each("exec", func(name string) error {
		out, err := h.output("exec", name, "--", "cat", "/proc/sys/kernel/hostname")
		if err == nil && out != name {
			err = fmt.Errorf("it says it is %q", out)
		}
		return err
	}) {
		t.Errorf("exec in %s: %v", name, err)
	}
	for _, name := range names { // no start of one has harmed another
		if vm := h.show(t, name); vm.State != banger.Running || vm.Restarts != 0 {
			t.Errorf("vm %s is %s: %s", name, vm.State, vm.Reason)
		}
	}
	for name, err := range each("removed", func(name string) error {
		_, err := h.output("vm", "rm", "--force", name)
		return err
	}) {
		t.Errorf("remove %s: %v", name, err)
	}
	h.sameAs(t, before)
}

// census is what there is of a state root: the daemon's descriptors, processes
// and files.
type census struct {
	fds              int
	processes, files []string
}

func (h *host) census(tb testing.TB) (c census) {
	tb.Helper()
	client := &banger.Client{Socket: h.layout(tb).Socket()}
	defer client.Close()
	v, err := client.SystemVersion(tb.Context())
	check(tb, err)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.PID))
	check(tb, err)
	c.fds = len(fds)
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(tb, err)
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), h.root+"/") {
			c.processes = append(c.processes, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	for _, dir := range []string{h.root, h.layout(tb).Run} {
		check(tb, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Name() != state.DaemonLog+state.RotatedSuffix {
				c.files = append(c.files, path)
			}
			return err
		}))
	}
	return c
}

// sameAs wants the host to be as it was. A connection that has just been closed
// has its descriptor for a moment more.
func (h *host) sameAs(tb testing.TB, before census) {
	tb.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		now := h.census(tb)
		if now.fds <= before.fds && fmt.Sprint(now.processes, now.files) == fmt.Sprint(before.processes, before.files) {
			tb.Logf("before and after: %d descriptors of the daemon, %d processes of VMs, %d files", now.fds, len(now.processes), len(now.files))
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("before: %+v\nafter: %+v", before, now)
		}
	}
}
