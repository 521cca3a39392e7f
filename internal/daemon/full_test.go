package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/state"
)

// smallHost is a host whose state is on a file system of its own, with these
// options for mounting it, and its cache on another one if there are more; its daemon runs already. CI is root, and not in a container.
func smallHost(t *testing.T, options ...string) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	h := newHost(t)
	if err := h.spawn("", options...); err != nil {
		t.Skip(err) // root, but in a container
	}
	return h
}

// inside is the path of a file of the state root as the daemon sees it, which
// has a file system of its own there.
func (h *host) inside(name string) string { return h.seen(filepath.Join(h.layout.Root, name)) }

// seen is a path as the daemon sees it.
func (h *host) seen(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.child.Process.Pid, path)
}

// A disk that is full is told of, and takes nothing but the space: what is
// there can be started, stopped and removed.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	h := smallHost(t, "size=16m")
	// The file system is empty: what the harness made is below it.
	for _, dir := range []string{state.KernelsDir + "/kernel", state.ImagesDir + "/image"} {
		h.must(os.CopyFS(h.inside(dir), os.DirFS(filepath.Join(h.layout.Root, dir))))
	}
	h.mustCreate("web", false)
	h.mustCreate("idle", true)
	fill, err := os.Create(h.inside("fill"))
	h.must(err)
	defer fill.Close()
	for buf := make([]byte, 4096); err == nil; {
		_, err = fill.Write(buf)
	}
	for _, noStart := range []bool{true, false} {
		_, err = h.create("more", noStart)
		wantKind(t, err, banger.Exhausted, "no space left", "free some space")
	}
	if vms, err := os.ReadDir(h.inside(state.VMsDir)); err != nil || len(vms) != 2 {
		t.Errorf("half a VM is left: %v, %v", vms, err)
	}
	_, err = h.start("idle")
	wantKind(t, err, banger.Exhausted, "free some space")
	if rec := h.show("idle"); rec.State != banger.Created {
		t.Errorf("idle: %+v", rec)
	}
	rec, err := h.stop(banger.VMStopRequest{Name: "web"})
	if err != nil || rec.State != banger.Stopped {
		t.Errorf("stop: %+v, %v", rec, err)
	}
	h.remove("web") // which makes space
	if rec, err := h.start("idle"); err != nil || rec.State != banger.Running {
		t.Errorf("start: %+v, %v", rec, err)
	}
	for {
		if _, err := fill.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	h.remove("idle")
	list, err := h.client.VMList(t.Context())
	if err != nil || len(list) != 0 {
		t.Errorf("list: %+v, %v", list, err)
	}
	h.eventually(func() error { return left(h) })
}

// A state root that cannot be written to.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if os.Getuid() == 0 {
		err := h.spawn("", "size=1m,ro")
		if err != nil && err.Kind == banger.Unsupported {
			t.Skip(err)
		}
		wantKind(t, err, banger.Unavailable, "read-only", "set BANGER_ROOT")
		return
	}
	h.must(os.Chmod(h.layout.VMs(), 0o500))
	h.open()
	_, err := h.create("web", true)
	wantKind(t, err, banger.Unavailable, "permission denied", "set BANGER_ROOT")
	h.must(os.Chmod(h.layout.VMs(), 0o700))
	h.mustCreate("web", true)
}
