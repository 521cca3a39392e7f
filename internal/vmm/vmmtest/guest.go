package vmmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/vmm"
)

// patience bounds every wait for a guest: an emulated one on a busy machine
// takes some seconds to boot.
const patience = 60 * time.Second

// suite is one run of the conformance tests.
type suite struct {
	driver vmm.Driver
	kernel string // vmlinux
	initrd string
}

// spec is a machine that does what is asked: see testinit.
func (s *suite) spec(t *testing.T, do string) vmm.Spec {
	t.Helper()
	// t.TempDir is too long for the path of a socket.
	dir, err := os.MkdirTemp("", "vmmtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return vmm.Spec{
		ID: "test", CPUs: 1, Memory: 256 << 20, Kernel: s.kernel, Initrd: s.initrd, RunDir: dir,
		Cmdline: []string{"vmmtest=" + do}, Accel: os.Getenv("BANGER_TEST_ACCEL"),
	}
}

// guest is a started machine and what it says.
type guest struct {
	vmm.Machine
	console *transcript
	started time.Time // of the call of Start
	running time.Duration
}

// start starts the machine and sees to its end.
func (s *suite) start(t *testing.T, spec vmm.Spec) *guest {
	t.Helper()
	g := &guest{console: newTranscript(), started: time.Now()}
	if spec.Console == nil {
		spec.Console = g.console
	}
	m, err := s.driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	g.Machine, g.running = m, time.Since(g.started)
	t.Cleanup(func() {
		_ = m.Kill()
		<-m.Done()
		if t.Failed() {
			t.Logf("exit: %+v\nconsole:\n%s", m.Exit(), g.console)
		}
		empty(t, spec.RunDir)
	})
	return g
}

// ended waits for the end of the machine.
func (g *guest) ended(t *testing.T) vmm.Exit {
	t.Helper()
	select {
	case <-g.Done():
	case <-time.After(patience):
		t.Fatalf("machine did not end")
	}
	return g.Exit()
}

// says waits until the guest has printed the words and gives the time since Start.
func (g *guest) says(t *testing.T, words string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := g.console.wait(ctx, words); err != nil {
		t.Fatalf("wait for %q on the console: %v", words, err)
	}
	return time.Since(g.started)
}

// empty checks that a run directory holds nothing any more.
func empty(t *testing.T, dir string) {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(names) != 0 {
		t.Errorf("left in the run directory: %q", names)
	}
}

// children lists the processes whose parent is this one.
func children(t *testing.T) []string {
	t.Helper()
	var found []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		after := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if after[1] == fmt.Sprint(os.Getpid()) {
			found = append(found, string(b))
		}
	}
	return found
}

// usage counts what a leak would leave in this process.
type usage struct{ fds, goroutines int }

func used(t *testing.T) usage {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return usage{len(fds), runtime.NumGoroutine()}
}

// back waits until no more is in use than before: goroutines that have nothing
// left to do still take a moment to end.
func (u usage) back(t *testing.T) {
	t.Helper()
	var now usage
	for range 200 {
		if now = used(t); now.fds <= u.fds && now.goroutines <= u.goroutines {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("in use: %+v, before: %+v", now, u)
}

// transcript keeps a console's output and wakes who waits for words in it.
type transcript struct {
	mu    sync.Mutex
	text  strings.Builder
	first time.Time     // of the first byte
	grown chan struct{} // closed and replaced with each write
}

func newTranscript() *transcript { return &transcript{grown: make(chan struct{})} }

func (c *transcript) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.text.Len() == 0 {
		c.first = time.Now()
	}
	c.text.Write(p)
	close(c.grown)
	c.grown = make(chan struct{})
	return len(p), nil
}

func (c *transcript) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

func (c *transcript) wait(ctx context.Context, words string) error {
	for {
		c.mu.Lock()
		found, grown := strings.Contains(c.text.String(), words), c.grown
		c.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
