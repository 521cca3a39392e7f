package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// cacheDisks are the disks of caches that there are, by name.
func (h *host) cacheDisks() string {
	h.t.Helper()
	found, err := filepath.Glob(h.layout.Builds() + "/caches*")
	h.must(err)
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return strings.Join(found, " ")
}

// The disk of the caches is one machine's at a time, and comes back from it.
func TestCachesTaken(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	first, err := h.d.takeCaches(t.Context(), "aaaaaaaaaaaa", cachesFull)
	h.must(err)
	second, err := h.d.takeCaches(t.Context(), "bbbbbbbbbbbb", cachesFull)
	h.must(err)
	if got := h.cacheDisks(); got != "caches-aaaaaaaaaaaa.img caches-bbbbbbbbbbbb.img" || first == second {
		t.Fatalf("taken twice: %s", got)
	}
	h.must(os.WriteFile(first, []byte("first"), 0o600))
	if err := h.d.giveCaches(second, errGone); err == nil || h.cacheDisks() != filepath.Base(first) {
		t.Errorf("of a machine that may run still: %v, %s", err, h.cacheDisks())
	}
	h.must(h.d.giveCaches(first, nil))
	third, err := h.d.takeCaches(t.Context(), "cccccccccccc", cachesFull)
	h.must(err)
	if b, err := os.ReadFile(third); err != nil || string(b) != "first" || h.cacheDisks() != filepath.Base(third) {
		t.Errorf("it is not what was given back: %q, %v", b, err)
	}
	h.must(h.d.giveCaches(third, nil))
	fourth, err := h.d.takeCaches(t.Context(), "dddddddddddd", sizeOnDisk(h.d.caches()))
	h.must(err)
	if fi, err := os.Stat(fourth); err != nil || fi.Size() != cachesSize || h.cacheDisks() != filepath.Base(fourth) {
		t.Errorf("a full one is not made anew: %v, %v", fi, err)
	}
	h.close()
	h.open()
	if got := h.cacheDisks(); got != "" {
		t.Errorf("nobody has it: %s", got)
	}
	_, err = h.d.takeCaches(t.Context(), "eeeeeeeeeeee", cachesFull)
	h.must(err)
	h.must(h.d.giveCaches(h.d.cachesOf("eeeeeeeeeeee"), nil))
	for _, c := range []struct {
		dry  bool
		want string
	}{{true, "build caches caches.img"}, {false, "build caches caches.img"}, {false, ""}} {
		if _, names := h.prune(banger.ImagePruneRequest{DryRun: c.dry}); names != c.want {
			t.Errorf("dry %v: %s", c.dry, names)
		}
	}
	if got := h.cacheDisks(); got != "" {
		t.Errorf("after the prune: %s", got)
	}
}

// A machine whose steps have caches gets their disk behind all others, and one
// that is kept keeps it until it is removed. What could not be written out is not
// given back.
func TestCachesOfMachine(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addTree("image2", "bin/sh x")
	h.open()
	r := banger.ImageBuildRequest{Name: "new", Text: "FROM image2\nRUN --mount=type=cache,target=/c true", Kernel: "kernel", Memory: 256 << 20, Disk: 1 << 30, KeepOnError: true}
	_, _, err := h.build(r) // the guest of these tests has no banger-guest
	wantKind(t, err, banger.Invalid, "banger vm ssh build-")
	list, err := h.client.VMList(t.Context())
	h.must(err)
	if len(list) != 1 {
		t.Fatalf("kept: %+v", list)
	}
	var spec shim.Spec
	h.must(state.ReadRecord(filepath.Join(h.layout.VM(list[0].ID), state.BootFile), &spec))
	disks := spec.Machine.Disks
	if last := disks[len(disks)-1]; last.Path != h.d.cachesOf(list[0].ID) || last.ReadOnly || h.cacheDisks() != filepath.Base(last.Path) {
		t.Errorf("its disks are %+v, there is %s", disks, h.cacheDisks())
	}
	v, err := h.d.find(list[0].ID)
	h.must(err)
	if want := fmt.Sprintf("/dev/vd%c", 'a'+len(disks)-1); v.cachesDevice != want {
		t.Errorf("it is called %s, want %s", v.cachesDevice, want)
	}
	h.must(h.d.sweepCaches())
	if h.cacheDisks() == "" {
		t.Error("the disk of a machine is gone")
	}
	h.remove(list[0].ID)
	r.KeepOnError = false
	_, _, err = h.build(r)
	wantKind(t, err, banger.Invalid, "exit code 127")
	if got := h.cacheDisks(); got != "" {
		t.Errorf("left: %s", got)
	}
	h.must(os.RemoveAll(filepath.Join(h.layout.Images(), "image2")))
	h.clean()
}
