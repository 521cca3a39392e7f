package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/kernelcat"
	"banger/internal/rootfs"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
)

// setKernel makes the host's kernel another one: with these drivers built in,
// these words, and these files beside it.
func (h *host) setKernel(builtin string, args []string, files ...string) {
	h.t.Helper()
	dir := filepath.Join(h.layout.Kernels(), "kernel")
	k := banger.Kernel{Name: "kernel", Arch: hostArch(), SHA256: strings.Repeat("5a", 32), Args: args, Features: map[string]string{}}
	for _, f := range strings.Fields(builtin) {
		k.Features[f] = "builtin"
	}
	for _, name := range []string{state.ModulesDir, state.InitrdFile} {
		h.must(os.RemoveAll(filepath.Join(dir, name)))
	}
	for _, name := range files {
		h.must(os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
	}
	h.must(state.WriteRecord(filepath.Join(dir, state.ManifestFile), k))
}

// realImage gives the host's image a root file system that there can be a copy of.
func (h *host) realImage() []byte {
	h.t.Helper()
	path := filepath.Join(h.layout.Images(), "image", state.RootfsFile)
	h.must(os.Remove(path))
	h.must(rootfs.BootDisk(path, strings.NewReader("contents"), 8))
	b, err := os.ReadFile(path)
	h.must(err)
	return b
}

// bootSpec is what the last boot of the VM was.
func (h *host) bootSpec(id string) (s shim.Spec) {
	h.t.Helper()
	h.must(state.ReadRecord(filepath.Join(h.layout.VM(id), state.BootFile), &s))
	return s
}

const allDrivers = "virtio_mmio virtio_blk ext4 overlay virtio_console virtio_net ip_pnp"

// TestBootPaths boots the same image with kernels of every kind.
func TestBootPaths(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	image := h.realImage()
	h.open()
	const direct = "root=/dev/vda rootfstype=ext4 ro init=/banger-guest"
	for _, c := range []struct {
		name, builtin string
		files         []string // beside the kernel; nil: leave it as it is
		path          string
		root          banger.RootKind
		initrd        string
		words         string
	}{
		{name: "initrd", path: "initrd", root: banger.OverlayRoot, initrd: h.layout.Initrds() + "/"},
		{name: "direct", builtin: allDrivers, files: []string{}, path: "direct", root: banger.OverlayRoot, words: direct},
		{name: "flat", builtin: "ext4", files: []string{state.InitrdFile}, path: "flat", root: banger.FlatRoot,
			initrd: filepath.Join(h.layout.Kernels(), "kernel", state.InitrdFile), words: direct + " fsck.mode=skip banger.root=flat"},
		{name: "no-overlay", builtin: strings.Replace(allDrivers, "overlay", "", 1), files: []string{}, path: "flat", root: banger.FlatRoot,
			words: direct + " banger.root=flat"},
	} {
		if c.files != nil {
			h.setKernel(c.builtin, nil, c.files...)
		}
		rec := h.mustCreate(c.name, false)
		if rec.Root != c.root || rec.Machine.BootPath != c.path || rec.Machine.BootReason == "" || rec.Machine.Cmdline != c.words {
			t.Errorf("%s: root %q, machine %+v", c.name, rec.Root, rec.Machine)
		}
		m := h.bootSpec(rec.ID).Machine
		if ok := m.Initrd == c.initrd || c.name == "initrd" && strings.HasPrefix(m.Initrd, c.initrd); !ok {
			t.Errorf("%s: initrd %q, want %q", c.name, m.Initrd, c.initrd)
		}
		want := []vmm.Disk{{Path: m.Disks[0].Path, ReadOnly: true}, {Path: h.d.images.Path("image", state.RootfsFile), ReadOnly: true},
			{Path: filepath.Join(h.layout.VM(rec.ID), state.DiskFile)}}
		if !strings.HasPrefix(m.Disks[0].Path, h.layout.BootDisks()) || !slices.Equal(m.Disks[:3], want) || (len(m.Disks) > 3) != (c.path == "initrd") {
			t.Errorf("%s: disks %+v", c.name, m.Disks)
		}
		disk, err := os.Open(want[2].Path)
		h.must(err)
		start := make([]byte, len(image))
		_, err = disk.ReadAt(start, 0)
		h.must(err)
		info, err := disk.Stat()
		h.must(errors.Join(err, disk.Close()))
		if info.Size() != rec.Spec.Disk || bytes.Equal(start, image) != (c.root == banger.FlatRoot) {
			t.Errorf("%s: a disk of %d bytes, a copy of the image: %v", c.name, info.Size(), bytes.Equal(start, image))
		}
		h.remove(c.name)
	}
	h.clean()
}

// A VM whose kernel becomes one of another kind.
func TestKernelChangesKind(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.realImage()
	h.open()
	h.mustCreate("overlay", true)
	h.setKernel("ext4", nil, state.InitrdFile)
	h.mustCreate("flat", true)
	_, err := h.start("overlay")
	wantKind(t, err, banger.Conflict, `vm "overlay" was made for a kernel with overlay`, "an initrd and without modules", "make the vm anew")
	if rec := h.show("overlay"); rec.State != banger.Created || rec.Machine != nil {
		t.Errorf("after a start that was refused: %+v", rec)
	}
	h.setKernel(allDrivers, nil)
	for name, c := range map[string]struct {
		root   banger.RootKind
		reason string
	}{"overlay": {banger.OverlayRoot, "built into the kernel"}, "flat": {banger.FlatRoot, "the root is flat, for so the vm was made"}} {
		rec, err := h.start(name)
		h.must(err)
		word := strings.Contains(rec.Machine.Cmdline, "banger.root=flat")
		if rec.Machine.BootPath != "direct" || !strings.HasSuffix(rec.Machine.BootReason, c.reason) || rec.Root != c.root || word != (c.root == banger.FlatRoot) {
			t.Errorf("%s: root %q, machine %+v", name, rec.Root, rec.Machine)
		}
	}
	// Both are known to a daemon that finds them.
	h.close()
	h.open()
	if rec := h.show("flat"); rec.Root != banger.FlatRoot || rec.Machine == nil || rec.Machine.BootPath != "direct" {
		t.Errorf("found again: %+v", rec)
	}
}

// A record of before there were kinds of roots.
func TestRecordWithoutRoot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	rec := h.mustCreate("web", true)
	h.close()
	path := filepath.Join(h.layout.VM(rec.ID), state.VMFile)
	b, err := os.ReadFile(path)
	h.must(err)
	h.must(os.WriteFile(path, bytes.Replace(b, []byte(`"root": "overlay",`), nil, 1), 0o600))
	h.open()
	if rec, err := h.start("web"); err != nil || rec.Root != banger.OverlayRoot {
		t.Errorf("%+v, %v", rec, err)
	}
}

// What cannot be copied makes no VM.
func TestFlatRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.setKernel("ext4", nil, state.InitrdFile)
	h.open()
	_, err := h.create("web", true)
	wantKind(t, err, banger.Unsupported, `create vm "web"`, "not an ext4 file system", "kernel that has overlay")
	h.realImage()
	image := filepath.Join(h.layout.Images(), "image", state.RootfsFile)
	h.must(os.Chmod(image, 0o600))
	h.must(os.Truncate(image, 65<<20))
	_, err = h.create("web", true)
	wantKind(t, err, banger.Invalid, "a disk of 64 MiB cannot hold a copy of it", "--disk")
	h.clean()
}

// The words of the kernel's record come before those of the VM.
func TestKernelArgs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.setKernel(allDrivers, []string{"mitigations=off", "loglevel=3"})
	h.open()
	create := func(args ...string) (banger.VM, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		spec := testSpec("web")
		spec.Net, spec.KernelArgs = "nat", args
		return h.client.VMCreate(ctx, banger.VMCreateRequest{Spec: spec}, nil)
	}
	rec, err := create("ignore_loglevel", "loglevel=7")
	h.must(err)
	word := fmt.Sprintf("ip=192.168.127.2::192.168.127.1:255.255.255.0:%s:eth0:off:192.168.127.3", rec.Name)
	want := "root=/dev/vda rootfstype=ext4 ro init=/banger-guest " + word + " mitigations=off loglevel=3 ignore_loglevel loglevel=7"
	if rec.Machine.Cmdline != want {
		t.Errorf("command line %q, want %q", rec.Machine.Cmdline, want)
	}
	// The kernel's words have become too many meanwhile, or bad.
	if _, err := h.stop(banger.VMStopRequest{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	h.setKernel(allDrivers, slices.Repeat([]string{"a"}, 23))
	_, err = h.start("web")
	wantKind(t, err, banger.Invalid, "25 kernel arguments are more than 24")
	h.setKernel(allDrivers, []string{"init=/bin/sh"})
	_, err = h.start("web")
	wantKind(t, err, banger.Invalid, `"init=/bin/sh"`)
	h.remove("web")
	_, err = create("debug")
	wantKind(t, err, banger.Invalid, `"init=/bin/sh"`)
	h.setKernel(allDrivers, slices.Repeat([]string{"a=" + strings.Repeat("x", 97)}, 10))
	_, err = create(slices.Repeat([]string{"a=" + strings.Repeat("x", 97)}, 5)...)
	wantKind(t, err, banger.Invalid, "the kernel would cut its command line off")
	h.clean()
}

// With the longest names the whole command line fits into what the kernel reads.
func TestCommandLineFits(t *testing.T) {
	const limit = 2047 // COMMAND_LINE_SIZE of x86 and arm64, without the NUL
	var spec shim.Spec
	plan, err := (&Daemon{}).planBoot(banger.Kernel{})
	if err != nil {
		t.Fatal(err)
	}
	plan.Foreign = true
	spec.Machine.Cmdline = rootWords(plan, banger.FlatRoot)
	kernel := banger.Kernel{Features: map[string]string{"ip_pnp": "builtin", "virtio_net": "builtin"}}
	if err := addNetwork(&spec, kernel, banger.VMSpec{Name: strings.Repeat("n", 63), Net: "nat"}); err != nil {
		t.Fatal(err)
	}
	own := len(strings.Join(spec.Machine.Cmdline, " "))
	if sum := vmm.MaxOwnWords + own + 1 + kernelcat.MaxArgsSize; sum > limit {
		t.Errorf("%d bytes of %d: %q", sum, limit, spec.Machine.Cmdline)
	}
}
