package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// counts are what a daemon must give back: goroutines and descriptors.
func counts(t *testing.T) (goroutines, files int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(entries)
}

// TestLife is a VM from its creation to its end. Not parallel: it counts.
func TestLife(t *testing.T) {
	h := newHost(t)
	goroutines, files := counts(t)
	h.open()
	rec := h.mustCreate("web", false)
	if rec.State != banger.Running || rec.Owner != nil || rec.Machine == nil || rec.Machine.Accel != "tcg" {
		t.Fatalf("created %+v", rec)
	}
	dir := h.layout.VM(rec.ID)
	onDisk := func(s banger.VMState, ended bool) {
		t.Helper()
		h.eventually(func() error { // a fact is told before it is written
			if d := h.disk(rec.ID); d.State != s || d.Owner != nil || (d.Machine != nil) != !ended {
				return fmt.Errorf("on disk: %+v", d)
			}
			return nil
		})
		var exit shim.Status
		err := state.ReadRecord(filepath.Join(dir, state.ExitFile), &exit)
		if ended != (err == nil && exit.Phase == shim.Ended) {
			t.Errorf("%s: exit record %+v, %v", s, exit, err)
		}
		if _, err := os.Stat(h.layout.VMRun(rec.ID)); ended != os.IsNotExist(err) {
			t.Errorf("%s: run directory: %v", s, err)
		}
	}
	onDisk(banger.Running, false)
	if out, err := h.exec(rec, "echo", "hello"); err != nil || out != "hello\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	if n := len(h.processes()); n != 2 {
		t.Errorf("%d processes, want shim and VMM", n)
	}
	wantKind(t, h.client.VMDelete(t.Context(), banger.NameRequest{Name: "web"}), banger.Conflict, "is running", "banger vm stop web")

	for range 2 { // the second time there is nothing to do
		rec, err := h.stop(banger.VMStopRequest{Name: "web"})
		if err != nil || rec.State != banger.Stopped || rec.Reason != "stopped" || rec.Machine != nil || rec.StoppedAt.IsZero() {
			t.Fatalf("stop: %+v, %v", rec, err)
		}
	}
	onDisk(banger.Stopped, true)
	for range 2 {
		rec, err := h.start("web")
		if err != nil || rec.State != banger.Running || rec.Reason != "" || !rec.StoppedAt.IsZero() {
			t.Fatalf("start: %+v, %v", rec, err)
		}
	}
	onDisk(banger.Running, false)
	if _, err := h.exec(h.show(rec.ID), "true"); err != nil {
		t.Errorf("exec after the second start: %v", err)
	}
	h.remove(rec.ID[:6])
	h.clean()
	if list, err := h.client.VMList(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	_, err := h.client.VMShow(t.Context(), "web")
	wantKind(t, err, banger.NotFound)
	h.close()
	h.eventually(func() error {
		if g, f := counts(t); g > goroutines || f > files {
			stacks := make([]byte, 1<<16)
			return fmt.Errorf("%d goroutines, %d before; %d descriptors, %d before\n%s", g, goroutines, f, files,
				stacks[:runtime.Stack(stacks, true)])
		}
		return nil
	})
	if strings.Contains(h.log.String(), "level=ERROR") {
		t.Errorf("errors in the log:\n%s", h.log)
	}
}

// A VM is removed when no record is being written any more, and none is
// written after that.
func TestWriteAndDelete(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("web", true)
	v, err := h.d.find("web")
	h.must(err)
	v.writing.Lock()
	deleted := make(chan error, 1)
	go func() { deleted <- v.delete() }()
	time.Sleep(20 * time.Millisecond) // what must not happen is given little time
	if _, err := os.Stat(h.layout.VM(rec.ID)); err != nil {
		t.Errorf("removed during a write: %v", err)
	}
	v.writing.Unlock()
	h.must(<-deleted)
	h.must(v.update(func(r *banger.VM) { r.Reason = "late" }))
	if _, err := os.Stat(h.layout.VM(rec.ID)); !os.IsNotExist(err) {
		t.Errorf("made again by a late write: %v", err)
	}
	_, err = h.start("web") // as from one who had found it before
	wantKind(t, err, banger.NotFound)
	if _, err := os.Stat(h.layout.VMRun(rec.ID)); !os.IsNotExist(err) {
		t.Errorf("run directory of a removed VM: %v", err)
	}
}
