package daemon

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/internal/state"
)

// kernelDir is a folder with a kernel of the version, and modules.
func (h *host) kernelDir(version string) string {
	h.t.Helper()
	dir := filepath.Join(h.base, "from-"+version)
	modules := filepath.Join(dir, "lib/modules", version)
	h.must(os.MkdirAll(modules, 0o755))
	h.must(os.MkdirAll(filepath.Join(dir, "boot"), 0o755))
	header := make([]byte, 64)
	copy(header, elf.ELFMAG+"\x02\x01\x01")
	header[18] = byte(map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64}[hostArch()])
	text := string(header) + "Linux version " + version + " (you@there) #1\n"
	h.must(os.WriteFile(filepath.Join(dir, "boot/vmlinuz-"+version), []byte(text), 0o644))
	h.must(os.WriteFile(filepath.Join(modules, "modules.builtin"), []byte("kernel/fs/ext4/ext4.ko\n"), 0o644))
	h.must(os.WriteFile(filepath.Join(modules, "overlay.ko"), []byte("module"), 0o644))
	return dir
}

// A kernel of a folder is there as a whole, once, and the folder stays as it was.
func TestKernelImport(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	dir := h.kernelDir("6.1.0")
	before := listing(t, dir)
	var steps []string
	k, err := h.client.KernelImport(t.Context(), banger.KernelImportRequest{Name: "mine", From: dir, Args: []string{"quiet"}},
		func(p banger.Progress) { steps = append(steps, p.Step) })
	h.must(err)
	if k.KernelVersion != "6.1.0" || k.Source != "import:"+dir || strings.Join(k.Args, " ") != "quiet" || k.Features["ext4"] != "builtin" ||
		k.Features["overlay"] != "module" || len(steps) == 0 {
		t.Errorf("imported %+v, told %q", k, steps)
	}
	if shown, err := h.client.KernelShow(t.Context(), "mine"); err != nil || shown.SHA256 != k.SHA256 || shown.Size != k.Size {
		t.Errorf("shown %+v, %v", shown, err)
	}
	if got := listing(t, h.d.kernels.Path("mine", state.ModulesDir)); !strings.Contains(got, "overlay.ko") {
		t.Errorf("modules: %s", got)
	}
	newer := h.kernelDir("6.2.0")
	_, err = h.client.KernelImport(t.Context(), banger.KernelImportRequest{Name: "mine", From: newer}, nil)
	wantKind(t, err, banger.Exists, "already there", "--force")
	h.must(os.Remove(filepath.Join(newer, "boot/vmlinuz-6.2.0")))
	_, err = h.client.KernelImport(t.Context(), banger.KernelImportRequest{Name: "mine", From: newer, Force: true}, nil)
	wantKind(t, err, banger.NotFound, "there is no kernel in")
	if shown, err := h.client.KernelShow(t.Context(), "mine"); err != nil || shown.KernelVersion != "6.1.0" {
		t.Errorf("after an import by force that failed: %+v, %v", shown, err)
	}
	again, err := h.client.KernelImport(t.Context(), banger.KernelImportRequest{Name: "mine", From: h.kernelDir("6.2.0"), Force: true}, nil)
	if err != nil || again.KernelVersion != "6.2.0" || len(again.Args) > 0 {
		t.Errorf("by force: %+v, %v", again, err)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("the folder was\n%sis\n%s", before, after)
	}
	h.must(h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "mine"}))
	h.clean()
}

func TestKernelImportMistakes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	dir := h.kernelDir("6.1.0")
	empty := filepath.Join(h.base, "empty")
	h.must(os.Mkdir(empty, 0o755))
	for _, tt := range []struct {
		r    banger.KernelImportRequest
		kind banger.Kind
		says string
	}{
		{banger.KernelImportRequest{Name: "k"}, banger.Invalid, "either a folder or the host's own kernel"},
		{banger.KernelImportRequest{Name: "k", From: dir, FromHost: true}, banger.Invalid, "either a folder or the host's own kernel"},
		{banger.KernelImportRequest{From: dir}, banger.Invalid, "needs a name"},
		{banger.KernelImportRequest{Name: "../vms/x", From: dir}, banger.Invalid, "kernel name"},
		{banger.KernelImportRequest{Name: "-k", From: dir}, banger.Invalid, "kernel name"},
		{banger.KernelImportRequest{Name: "k", From: "relative"}, banger.Invalid, "no absolute path"},
		{banger.KernelImportRequest{Name: "k", From: dir + "/none"}, banger.NotFound, "there is no folder"},
		{banger.KernelImportRequest{Name: "k", From: dir + "/boot/vmlinuz-6.1.0"}, banger.Invalid, "is not a folder"},
		{banger.KernelImportRequest{Name: "k", From: empty}, banger.NotFound, "there is no kernel in"},
		{banger.KernelImportRequest{Name: "k", From: dir, Args: []string{"root=/dev/sda"}}, banger.Invalid, "kernel argument"},
		{banger.KernelImportRequest{Name: "k", From: dir, Args: []string{"a b"}}, banger.Invalid, "kernel argument"},
	} {
		_, err := h.client.KernelImport(t.Context(), tt.r, nil)
		wantKind(t, err, tt.kind, tt.says)
	}
	_, err := h.client.KernelPull(t.Context(), banger.KernelPullRequest{Name: "debian-6.1", Args: []string{"init=/bin/sh"}}, nil)
	wantKind(t, err, banger.Invalid, "kernel argument")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = h.d.kernelImport(ctx, banger.KernelImportRequest{Name: "k", From: dir}, func(banger.Progress) { cancel(errGone) })
	if !errors.Is(err, errGone) && !banger.IsKind(err, banger.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if list, err := h.client.KernelList(t.Context(), banger.KernelListRequest{Brief: true}); err != nil || len(list) != 1 || list[0].Name != "kernel" {
		t.Errorf("brief: %+v, %v", list, err)
	}
	if list, err := h.client.KernelList(t.Context(), banger.KernelListRequest{}); err != nil || len(list) != 1 {
		t.Errorf("there is %v, %v", list, err)
	}
	h.clean()
}

// Of two imports of one name one works, and the other says so.
func TestKernelImportTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	dir := h.kernelDir("6.1.0")
	errs := make(chan error, 2)
	for range cap(errs) {
		go func() {
			_, err := h.client.KernelImport(t.Context(), banger.KernelImportRequest{Name: "mine", From: dir}, nil)
			errs <- err
		}()
	}
	first, second := <-errs, <-errs
	if first != nil {
		first, second = second, first
	}
	h.must(first)
	wantKind(t, second, banger.Exists, "already there")
	h.must(h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "mine"}))
	h.clean()
}

// A daemon that is killed with everything copied leaves nothing after its next start.
func TestKernelImportCrash(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	dir := h.kernelDir("6.1.0")
	if e := h.spawn("kernel: filled"); e != nil {
		t.Fatal(e)
	}
	if _, err := h.client.KernelImport(t.Context(), banger.KernelImportRequest{Name: "mine", From: dir}, nil); err == nil {
		t.Error("a killed daemon imported a kernel")
	}
	h.died()
	if left, _ := filepath.Glob(h.layout.Kernels() + "/.tmp-*"); len(left) != 1 {
		t.Errorf("killed at another step: %v", left)
	}
	h.open()
	if list, err := h.client.KernelList(t.Context(), banger.KernelListRequest{}); err != nil || len(list) != 1 {
		t.Errorf("there is %v, %v", list, err)
	}
	h.clean()
}

// The initrd holds modules unpacked, and those of the kernel that is there now:
// the same vmlinux with other modules is another kernel.
func TestInitrdOfPackedModules(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	dir := h.kernelDir("6.1.0")
	modules := filepath.Join(dir, "lib/modules/6.1.0")
	h.must(os.Remove(filepath.Join(modules, "overlay.ko")))
	builtin := "virtio_mmio.ko\nvirtio_blk.ko\next4.ko\nvirtio_console.ko\n"
	h.must(os.WriteFile(filepath.Join(modules, "modules.builtin"), []byte(builtin), 0o644))
	made := map[string]bool{}
	for _, content := range []string{"one", "two"} {
		module := append(append([]byte(elf.ELFMAG+"\x02\x01\x01"), make([]byte, 57)...), "module "+content...)
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := z.Write(module)
		h.must(errors.Join(err, z.Close()))
		h.must(os.WriteFile(filepath.Join(modules, "overlay.ko.gz"), packed.Bytes(), 0o644))
		k, err := h.client.KernelImport(t.Context(), banger.KernelImportRequest{Name: "mine", From: dir, Force: true, Args: []string{"is=" + content}}, nil)
		h.must(err)
		plan, err := h.d.planBoot(k)
		h.must(err)
		path, err := h.d.bootInitrd(t.Context(), plan, k, banger.Image{}, banger.OverlayRoot)
		h.must(err)
		b, err := os.ReadFile(path)
		h.must(err)
		if !bytes.Contains(b, []byte("modules/00-overlay.ko\x00")) || !bytes.Contains(b, module) {
			t.Errorf("the initrd of %s has not its module", content)
		}
		made[path] = true
	}
	if len(made) != 2 {
		t.Errorf("the initrds are %v", made)
	}
	h.must(h.client.KernelDelete(t.Context(), banger.NameRequest{Name: "mine"}))
	h.clean()
}

// listing is what is in a folder.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		fmt.Fprintln(&b, p, fi.Mode(), fi.Size(), fi.ModTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
