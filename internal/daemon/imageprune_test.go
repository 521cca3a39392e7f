package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/internal/oci"
)

func (h *host) prune(r banger.ImagePruneRequest) (report banger.PruneReport, names string) {
	h.t.Helper()
	report, err := h.client.ImagePrune(h.t.Context(), r)
	h.must(err)
	var list []string
	var sum int64
	for _, it := range report.Items {
		list = append(list, it.Kind+" "+it.Name)
		if sum += it.Size; it.Why == "" {
			h.t.Errorf("%+v has no reason", it)
		}
	}
	if sum != report.Freed || report.Dry != r.DryRun {
		h.t.Errorf("%+v", report)
	}
	return report, strings.Join(list, ", ")
}

// What something needs stays, the rest goes, and is told before and after.
func TestImagePrune(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	if _, names := h.prune(banger.ImagePruneRequest{}); names != "" {
		t.Errorf("there is nothing, and %s", names)
	}
	reg := newRegistry(t, "one")
	one := h.pullImage(reg.host+"/some/thing:1", "one")
	reg.serve("two")
	two := h.pullImage(reg.host+"/some/thing:2", "two")
	_, err := h.client.ImageTag(t.Context(), banger.ImageTagRequest{Name: "two", New: "second"})
	h.must(err)
	layer := func(im banger.Image) string { return "layer " + im.Layers[0].Digest }
	if _, names := h.prune(banger.ImagePruneRequest{}); names != "" {
		t.Errorf("all is used, and %s", names)
	}
	h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "one"}))
	h.d.builds.Add(1)
	if _, names := h.prune(banger.ImagePruneRequest{}); names != "" {
		t.Errorf("something is being built, and %s", names)
	}
	h.d.builds.Add(-1)
	for _, dry := range []bool{true, true, false} {
		if report, names := h.prune(banger.ImagePruneRequest{DryRun: dry}); names != layer(one) || report.Freed < 4096 {
			t.Errorf("dry %v: %s, %+v", dry, names, report)
		}
	}
	if _, names := h.prune(banger.ImagePruneRequest{}); names != "" {
		t.Errorf("again: %s", names)
	}
	if oci.Cached(h.layout.Blobs(), one.Layers[0].Digest) || !oci.Cached(h.layout.Blobs(), two.Layers[0].Digest) {
		t.Error("the wrong layer went")
	}

	// A machine runs on what a kernel was that is gone; the next boot has other files.
	h.mustCreate("web", false)
	leftovers := map[string]string{h.layout.BootDisks(): "feedfeedfeedfeed.img", h.layout.Initrds(): "feedfeedfeedfeed-0123456789abcdef.cpio",
		h.layout.ModuleDisks(): "feedfeedfeedfeed.img"}
	for dir, name := range leftovers {
		h.must(os.WriteFile(filepath.Join(dir, name), make([]byte, 5000), 0o600))
	}
	h.must(h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "kernel", Force: true}))
	want := "boot disk feedfeedfeedfeed.img, initrd feedfeedfeedfeed-0123456789abcdef.cpio, modules disk feedfeedfeedfeed.img"
	if _, names := h.prune(banger.ImagePruneRequest{}); names != want {
		t.Errorf("got %s", names)
	}
	_, err = h.stop(banger.VMStopRequest{Name: "web"})
	h.must(err)
	if _, names := h.prune(banger.ImagePruneRequest{DryRun: true}); !strings.Contains(names, "initrd ") || !strings.Contains(names, "modules disk ") || strings.Contains(names, "boot disk") {
		t.Errorf("after the machine ended: %s", names)
	}
	h.addKernel("kernel")
	if _, err := h.start("web"); err != nil {
		t.Error(err)
	}

	// All images that no VM uses. Of two names of one file the last one frees its space.
	dry, names := h.prune(banger.ImagePruneRequest{DryRun: true, All: true})
	if names != "image second, image two, "+layer(two) || dry.Items[0].Size >= dry.Items[1].Size {
		t.Errorf("%s: %+v", names, dry)
	}
	if real, again := h.prune(banger.ImagePruneRequest{All: true}); again != names || real.Freed != dry.Freed {
		t.Errorf("%s, and then %s; %d and %d bytes", names, again, dry.Freed, real.Freed)
	}
	if rec := h.show("web"); rec.State != banger.Running {
		t.Errorf("%+v", rec)
	}
	h.remove("web")
	h.clean()
}

// A layer that is on its way stays, and is there when the image is.
func TestImagePruneWhilePulling(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	reg := newRegistry(t, "one")
	var once sync.Once
	h.open(func(d *Daemon) {
		d.step = func(step string) {
			if step == "image: filled" {
				once.Do(func() {
					_, names := h.prune(banger.ImagePruneRequest{All: true})
					if strings.Contains(names, "layer") || !strings.Contains(names, "image image") {
						t.Errorf("pruned %s", names)
					}
				})
			}
		}
	})
	im := h.pullImage(reg.host+"/some/thing:1", "one")
	if !oci.Cached(h.layout.Blobs(), im.Layers[0].Digest) {
		t.Error("its layer is gone")
	}
}
