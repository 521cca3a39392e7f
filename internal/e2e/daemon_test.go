//go:build e2e

package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// env is the environment of one test that drives banger from Go.
func (h *host) banger(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(suite.bin, "banger"), args...)
	cmd.Env = h.env
	return cmd
}

// host is a state root of its own for a test that is not a script.
type host struct {
	root string
	env  []string
}

func (h *host) output(args ...string) (string, error) {
	b, err := h.banger(args...).Output()
	return strings.TrimSpace(string(b)), err
}
