package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"banger"
	"banger/internal/state"
)

// owner starts a process that makes an ephemeral VM; end ends it.
func (h *host) owner(name string) (rec banger.VM, end func()) {
	h.t.Helper()
	cmd := exec.Command("/proc/self/exe", "owner", h.layout.Socket(), name)
	cmd.Args[0] = "owner" // not one of the host's own
	cmd.Stderr = h.log
	in, err := cmd.StdinPipe()
	h.must(err)
	out, err := cmd.StdoutPipe()
	h.must(err)
	h.must(cmd.Start())
	end = func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	h.t.Cleanup(end)
	var answer struct {
		VM    banger.VM
		Error *banger.Error
	}
	h.must(json.NewDecoder(io.LimitReader(out, 1<<20)).Decode(&answer))
	if answer.Error != nil {
		h.t.Fatal(answer.Error)
	}
	if o := answer.VM.Owner; o == nil || o.PID != cmd.Process.Pid {
		h.t.Fatalf("owner %+v, want process %d", o, cmd.Process.Pid)
	}
	return answer.VM, end
}

func (h *host) isGone(name string) {
	h.t.Helper()
	h.eventually(func() error {
		if _, err := h.client.VMShow(h.t.Context(), name); !banger.IsKind(err, banger.NotFound) {
			return fmt.Errorf("vm %s is still there: %v", name, err)
		}
		return nil
	})
	h.clean()
}

// A VM that belongs to a process goes with it.
func TestOwnerDies(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec, end := h.owner("mine")
	if _, err := h.exec(rec, "true"); err != nil {
		t.Error(err)
	}
	end()
	h.isGone("mine")
}

// It does so also when no daemon is there to see it.
func TestOwnerDiesWithoutDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec, end := h.owner("mine")
	other, _ := h.owner("other")
	h.close()
	if _, err := h.exec(rec, "true"); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	end()
	h.open()
	h.eventually(func() error {
		if _, err := h.client.VMShow(t.Context(), "mine"); !banger.IsKind(err, banger.NotFound) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
	if rec := h.show("other"); rec.State != banger.Running || *rec.Owner != *other.Owner {
		t.Errorf("the VM of an owner that lives: %+v", rec)
	}
	h.remove("other")
	h.clean()
}

// A process that has the owner's pid by now is not the owner.
func TestOwnerPidReused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("mine", false)
	h.close()
	rec = h.disk(rec.ID)
	rec.Owner = &banger.Process{PID: os.Getpid(), StartTime: 1}
	h.must(state.WriteRecord(filepath.Join(h.layout.VM(rec.ID), state.VMFile), rec))
	h.open()
	h.isGone("mine")
}

// The watch on an owner ends with the VM, not with the owner. Not parallel: it
// looks at all goroutines.
func TestOwnerWatchEnds(t *testing.T) {
	watches := func() int {
		stacks := make([]byte, 1<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), ".ownerEnd(")
	}
	h := newHost(t)
	h.open()
	h.owner("mine")
	if n := watches(); n != 1 {
		t.Fatalf("%d watches of owners, want 1", n)
	}
	h.remove("mine")
	h.eventually(func() error {
		if n := watches(); n > 0 {
			return fmt.Errorf("%d watches of owners are left", n)
		}
		return nil
	})
	h.clean()
}
