package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/state"
)

// What a VM is made of stays as long as the VM, stopped or not.
func TestInUse(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	h.mustCreate("web", true)
	image, kernel := banger.NameRequest{Name: "image"}, banger.NameRequest{Name: "kernel"}
	wantKind(t, h.client.ImageDelete(t.Context(), image), banger.Conflict, `image "image" is used by vm web`, "banger vm rm web")
	wantKind(t, h.client.KernelDelete(t.Context(), kernel), banger.Conflict, `kernel "kernel" is used by vm web`, "banger kernel rm --force kernel")
	image.Force, kernel.Force = true, true
	wantKind(t, h.client.ImageDelete(t.Context(), image), banger.Conflict, "is used by") // its disk means nothing without it
	h.must(h.client.KernelDelete(t.Context(), kernel))
	_, err := h.start("web")
	wantKind(t, err, banger.NotFound, `no kernel named "kernel"`)
	if rec := h.show("web"); rec.State != banger.Created {
		t.Errorf("got %+v", rec)
	}
	h.addKernel("kernel")
	if _, err := h.start("web"); err != nil {
		t.Error(err)
	}
	h.remove("web")
	h.must(h.client.ImageDelete(t.Context(), image))
	h.must(h.client.KernelDelete(t.Context(), kernel))
	wantKind(t, h.client.ImageDelete(t.Context(), image), banger.NotFound)
	wantKind(t, h.client.KernelDelete(t.Context(), kernel), banger.NotFound)
	h.clean()
}

// A removal and a create at once: either there is a VM and what it is made of,
// or neither.
func TestRemovalRacesCreate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	wins := map[bool]int{}
	for i := range 20 {
		remove, restore := h.client.ImageDelete, h.addImage
		name := "image"
		if i%2 == 1 {
			remove, restore, name = h.client.KernelDelete, h.addKernel, "kernel"
		}
		var created, removed error
		var both sync.WaitGroup
		both.Go(func() { _, created = h.create("web", true) })
		both.Go(func() {
			time.Sleep(time.Duration(i) * 400 * time.Microsecond) // so that each gets to be the first
			removed = remove(t.Context(), banger.NameRequest{Name: name})
		})
		both.Wait()
		if (created == nil) == (removed == nil) {
			t.Fatalf("round %d: create: %v, removal of the %s: %v", i, created, name, removed)
		}
		wins[created == nil]++
		if created == nil {
			wantKind(t, removed, banger.Conflict)
			h.remove("web")
			continue
		}
		wantKind(t, created, banger.NotFound)
		restore(name)
	}
	h.clean()
	t.Logf("create won %d times, removal %d times", wins[true], wins[false])
}

// The same where the removal comes at the last moment.
func TestRemovalBeforeCommit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var remove func(context.Context, banger.NameRequest) error
	name := ""
	h.open(func(d *Daemon) {
		d.step = func(step string) {
			if step == "create: staged" {
				h.must(remove(t.Context(), banger.NameRequest{Name: name}))
			}
		}
	})
	for _, tt := range []struct {
		name    string
		remove  func(context.Context, banger.NameRequest) error
		restore func(string)
	}{{"image", h.client.ImageDelete, h.addImage}, {"kernel", h.client.KernelDelete, h.addKernel}} {
		name, remove = tt.name, tt.remove
		_, err := h.create("web", true)
		wantKind(t, err, banger.NotFound, "no "+name+" named")
		h.clean()
		tt.restore(name)
	}
}

// A kernel is not replaced by one that did not come, and a pull that fails or
// is given up leaves nothing. Not parallel: it takes the programs away that a
// pull needs, and so the network too.
func TestKernelPullFails(t *testing.T) {
	h := newHost(t)
	h.addKernel("debian-6.1")
	h.open()
	before, err := h.client.KernelShow(t.Context(), "debian-6.1")
	h.must(err)
	_, err = h.client.KernelPull(t.Context(), banger.KernelPullRequest{Name: "debian-6.1"}, nil)
	wantKind(t, err, banger.Exists, "already there", "banger kernel show debian-6.1, or replace it with --force")
	bin := h.base + "/bin"
	h.must(os.Mkdir(bin, 0o755))
	t.Setenv("PATH", bin)
	_, err = h.client.KernelPull(t.Context(), banger.KernelPullRequest{Name: "debian-6.1", Force: true}, nil)
	wantKind(t, err, banger.Unavailable, "get kernel")
	for _, name := range []string{"apt-get", "apt-cache", "dpkg-deb"} { // they hang
		script := "#!/bin/sh\n: > " + bin + "/ran\n/bin/sleep 60\n"
		h.must(os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := h.client.KernelPull(ctx, banger.KernelPullRequest{Name: "debian-6.1", Force: true}, nil)
		ended <- err
	}()
	h.eventually(func() error {
		if _, err := os.Stat(filepath.Join(bin, "ran")); err != nil {
			return err
		}
		if len(h.processes()) == 0 {
			return errors.New("nothing hangs")
		}
		return nil
	})
	cancel()
	wantKind(t, <-ended, banger.Canceled)
	h.eventually(func() error {
		if left, _ := filepath.Glob(h.layout.Kernels() + "/.tmp-*"); len(left) > 0 {
			return fmt.Errorf("%v is left", left)
		}
		return left(h)
	})
	if after, err := h.client.KernelShow(t.Context(), "debian-6.1"); err != nil || after.SHA256 != before.SHA256 {
		t.Errorf("before %+v, after %+v, %v", before, after, err)
	}
	h.must(h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "debian-6.1"}))
	h.clean()
	_, err = h.client.KernelPull(t.Context(), banger.KernelPullRequest{Name: "debain-6.1"}, nil)
	wantKind(t, err, banger.NotFound, "did you mean debian-6.1?")
	_, err = h.client.KernelPull(t.Context(), banger.KernelPullRequest{Name: "../vms"}, nil)
	wantKind(t, err, banger.Invalid)
}

// The same tag pulled again is no news; another image behind it is not put in
// the place of the old one unasked, nor where a VM needs that, nor before it is
// whole.
func TestImagePullAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "one")
	ref := reg.host + "/some/thing:1"
	pull := func(force bool) (banger.Image, error) {
		return h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: ref, Name: "image-1", Force: force}, nil)
	}
	first, err := pull(false)
	h.must(err)
	rootfs := filepath.Join(h.layout.Images(), "image-1", state.RootfsFile)
	content := func() string {
		b, err := os.ReadFile(rootfs)
		h.must(err)
		return string(b)
	}
	if !strings.Contains(content(), "this is one") || first.Config.User != "one" {
		t.Errorf("pulled %+v", first)
	}
	if again, err := pull(false); err != nil || again.Digest != first.Digest || again.CreatedAt != first.CreatedAt {
		t.Errorf("again: %+v, %v", again, err)
	}
	same := func(when string) {
		t.Helper()
		im, err := h.client.ImageShow(t.Context(), "image-1")
		if err != nil || im.Digest != first.Digest || !strings.Contains(content(), "this is one") {
			t.Errorf("%s: %+v, %v", when, im, err)
		}
		if left, _ := filepath.Glob(h.layout.Images() + "/.tmp-*"); len(left) > 0 {
			t.Errorf("%s: %v is left", when, left)
		}
	}
	reg.serve("two")
	_, err = pull(false)
	wantKind(t, err, banger.Exists, "image pull --force")
	same("not asked")
	reg.cut = true
	if _, err = pull(true); err == nil {
		t.Error("a layer that was cut off made an image")
	}
	same("cut off")
	reg.cut = false
	spec := testSpec("web")
	spec.Image = "image-1"
	_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
	h.must(err)
	_, err = pull(true)
	wantKind(t, err, banger.Conflict, "is used by vm web")
	same("in use")
	h.remove("web")
	second, err := pull(true)
	if err != nil || second.Digest == first.Digest || second.Config.User != "two" || !strings.Contains(content(), "this is two") {
		t.Errorf("by force: %+v, %v", second, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = h.d.imagePull(ctx, banger.ImagePullRequest{Ref: ref, Name: "other"}, func(banger.Progress) { cancel(errGone) })
	if !errors.Is(err, errGone) && !banger.IsKind(err, banger.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if h.d.images.Has("other") {
		t.Error("a pull that was given up made an image")
	}
	h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "image-1"}))
	h.clean()
}

// An image of the catalog that is there is not looked for in the network.
func TestImagePullExisting(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addImage("debian-bookworm")
	h.open()
	_, err := h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "debian-bookworm"}, nil)
	wantKind(t, err, banger.Exists, "image pull --force debian-bookworm")
	_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "debian-bookworm", Kernel: "kernle"}, nil)
	wantKind(t, err, banger.NotFound, `no kernel named "kernle"`, "banger kernel pull kernle")
	for _, name := range []string{"../x", ".x", "a/b"} {
		_, err = h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: "debian-bookworm", Name: name}, nil)
		wantKind(t, err, banger.Invalid)
	}
}
