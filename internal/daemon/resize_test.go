package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/state"
)

// diskSize is that of the file of a VM's disk.
func (h *host) diskSize(rec banger.VM) int64 {
	h.t.Helper()
	fi, err := os.Stat(filepath.Join(h.layout.VM(rec.ID), state.DiskFile))
	h.must(err)
	return fi.Size()
}

func (h *host) resize(name string, size int64) (banger.VM, error) {
	return h.client.VMResize(h.t.Context(), banger.VMResizeRequest{Name: name, Disk: size})
}

func TestResize(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("web", true)
	larger := rec.Spec.Disk + 64<<20
	for _, live := range []bool{false, true} {
		if live {
			_, err := h.start("web")
			h.must(err)
			larger += 64 << 20
		}
		got, err := h.resize("web", larger)
		if err != nil || got.Spec.Disk != larger || h.diskSize(rec) != larger || h.disk(rec.ID).Spec.Disk != larger {
			t.Errorf("live %v: %+v, %v, file of %d bytes", live, got.Spec, err, h.diskSize(rec))
		}
		_, err = h.resize("web", larger)
		h.must(err) // it is so
		_, err = h.resize("web", larger-1)
		wantKind(t, err, banger.Invalid, "disks only grow")
		_, err = h.resize("web", maxDisk+1)
		wantKind(t, err, banger.Invalid, "16 TiB")
	}
	_, err := h.client.VMPause(t.Context(), "web")
	h.must(err)
	_, err = h.resize("web", larger<<1)
	wantKind(t, err, banger.Conflict, "it is paused")
	if h.diskSize(rec) != larger || h.show("web").Spec.Disk != larger {
		t.Error("what was refused has been done")
	}
	h.remove("web")
}

// A kill -9 leaves the old size or the new one, and the next start the new one.
func TestKillDuringResize(t *testing.T) {
	for _, step := range []string{"resize: intended", "resize: grown"} {
		for _, live := range []bool{false, true} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				if err := h.spawn(step); err != nil {
					t.Fatal(err)
				}
				rec := h.mustCreate("web", !live)
				before, larger := rec.Spec.Disk, rec.Spec.Disk+64<<20
				_, err := h.resize("web", larger)
				wantKind(t, err, banger.Unavailable)
				h.died()
				want := before
				if step == "resize: grown" {
					want = larger
				}
				if got := h.diskSize(rec); got != want {
					t.Errorf("the file has %d bytes, want %d", got, want)
				}
				h.open()
				if live {
					_, err := h.stop(banger.VMStopRequest{Name: "web"})
					h.must(err)
				}
				_, err = h.start("web")
				h.must(err)
				if got := h.show("web").Spec.Disk; got != larger || h.diskSize(rec) != larger {
					t.Errorf("started with a disk of %d in a file of %d, want %d", got, h.diskSize(rec), larger)
				}
				h.remove("web")
				h.clean()
			})
		}
	}
}
