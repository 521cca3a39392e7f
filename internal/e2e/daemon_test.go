//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger"
	"banger/internal/state"
)

// killDaemon kills the daemon of the script's root in the hardest way and waits until it is gone.
func killDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: kill-daemon")
	}
	layout, err := state.Locate(ts.Getenv)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := &banger.Client{Socket: layout.Socket()}
	defer client.Close()
	v, err := client.SystemVersion(ctx)
	ts.Check(err)
	ts.Check(syscall.Kill(v.PID, syscall.SIGKILL))
	// Its lock is free once the process is gone.
	lock, err := state.LockFile(layout.Path(state.DaemonLock), true)
	ts.Check(err)
	lock.Unlock()
}

// host is a state root of its own for a test that is not a script.
type host struct {
	root, bin string
	env       []string
}

// newHost gives a test a state root of its own with a kernel and an image.
func newHost(tb testing.TB) *host {
	tb.Helper()
	dir, err := os.MkdirTemp("", "banger-bench-")
	if err != nil {
		tb.Fatal(err)
	}
	h := &host{root: filepath.Join(dir, "root"), bin: filepath.Join(suite.bin, "banger")}
	h.env = append(os.Environ(), "BANGER_ROOT="+h.root)
	for _, d := range []string{state.KernelsDir, state.ImagesDir} {
		if err := linkTree(filepath.Join(suite.base, d), filepath.Join(h.root, d)); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() {
		if out, err := h.banger("daemon", "stop", "--force").CombinedOutput(); err != nil {
			tb.Errorf("daemon stop: %v: %s", err, out)
		}
		_ = os.RemoveAll(dir)
	})
	return h
}

func (h *host) layout(tb testing.TB) state.Layout {
	tb.Helper()
	l, err := state.Locate(func(key string) string {
		if key == "BANGER_ROOT" {
			return h.root
		}
		return os.Getenv(key)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func (h *host) banger(args ...string) *exec.Cmd {
	cmd := exec.Command(h.bin, args...)
	cmd.Env = h.env
	return cmd
}

func (h *host) output(args ...string) (string, error) {
	b, err := h.banger(args...).Output()
	return strings.TrimSpace(string(b)), err
}

// show asks the daemon for a VM.
func (h *host) show(tb testing.TB, name string) banger.VM {
	tb.Helper()
	client := &banger.Client{Socket: h.layout(tb).Socket()}
	defer client.Close()
	vm, err := client.VMShow(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return vm
}
