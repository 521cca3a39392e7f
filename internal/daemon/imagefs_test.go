package daemon

import (
	"archive/tar"
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// wantErofs looks that an image is one of EROFS, in its record and on the disk.
func (h *host) wantErofs(im banger.Image, err error) {
	h.t.Helper()
	if err != nil || im.FS != rootfs.FSErofs {
		h.t.Fatalf("%+v, %v", im, err)
	}
	f, err := os.Open(h.d.images.Path(im.Name, state.RootfsFile))
	h.must(err)
	defer f.Close()
	fi, err := f.Stat()
	h.must(err)
	disk, err := rootfs.InspectDisk(f, fi.Size(), "FILE")
	if err != nil || disk.FS != rootfs.FSErofs || fi.Mode().Perm()&0o222 != 0 {
		h.t.Errorf("the disk is %+v with mode %v, %v", disk, fi.Mode(), err)
	}
	if _, err := h.client.ImageVerify(h.t.Context(), im.Name, nil); err != nil {
		h.t.Errorf("verify: %v", err)
	}
}

// Images are pulled and imported as the file system that was asked for, and one
// that is there as the other one is another image.
func TestImageErofs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "one")
	pull := func(fs string, force bool) (banger.Image, error) {
		return h.client.ImagePull(t.Context(), banger.ImagePullRequest{Ref: reg.host + "/some/thing:1", Name: "pulled", FS: fs, Force: force}, nil)
	}
	_, err := pull("xfs", false)
	wantKind(t, err, banger.Invalid, `"xfs"`, "want ext4 or erofs")
	im, err := pull("erofs", false)
	h.wantErofs(im, err)
	for _, fs := range []string{"", "erofs"} {
		again, err := pull(fs, false)
		h.wantErofs(again, err)
	}
	_, err = pull("ext4", false)
	wantKind(t, err, banger.Exists, "--force")
	if im, err = pull("ext4", true); err != nil || im.FS != "" {
		t.Errorf("%+v, %v", im, err)
	}
	_, err = pull("erofs", false)
	wantKind(t, err, banger.Exists, "--force")
	if _, err := pull("ext4", false); err != nil {
		t.Error(err)
	}

	root := filepath.Join(h.base, "root.tar")
	h.must(os.WriteFile(root, rootTar(t, "this is a root\n"), 0o644))
	im, err = h.importImage(banger.ImageImportRequest{Path: root, Name: "root", FS: "erofs"})
	h.wantErofs(im, err)
	b, err := os.ReadFile(h.d.images.Path("root", state.RootfsFile))
	if err != nil || !bytes.Contains(b, []byte("this is a root\n")) {
		t.Errorf("%d bytes without its file, %v", len(b), err)
	}
	disk := h.disk4("an-ext4", "mke2fs")
	_, err = h.importImage(banger.ImageImportRequest{Path: disk, Name: "disk", FS: "erofs"})
	wantKind(t, err, banger.Invalid, "taken as it is: ext4, not erofs", "leave out --fs")
	im, err = h.importImage(banger.ImageImportRequest{Path: h.disk4("an-erofs", "mkfs.erofs", "--quiet"), Name: "disk", FS: "erofs"})
	h.wantErofs(im, err)
	_, err = h.importImage(banger.ImageImportRequest{Path: root, Name: "other", FS: "EROFS"})
	wantKind(t, err, banger.Invalid, `"EROFS"`)
	if left, _ := os.ReadDir(h.layout.Scratch()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// layerOf finds the layer of an image that goes out which holds a text.
func (h *host) layerOf(name, text string) string {
	h.t.Helper()
	_, files, err := h.saveImage(banger.ImageSaveRequest{Name: name, Compression: "none"})
	h.must(err)
	for blob, b := range files {
		if strings.HasPrefix(blob, "blobs/") && strings.Contains(b, text) {
			return blob
		}
	}
	h.t.Fatalf("image %s goes out without %q", name, text)
	return ""
}

// What goes out of an EROFS image is what goes out of an ext4 one; the disks
// that others made are read too, but for those that are compressed.
func TestErofsGoesOut(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	root := filepath.Join(h.base, "root.tar")
	h.must(os.WriteFile(root, oneFileTar(t, "this is a root\n", tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Uid: 70000}), 0o644))
	var blobs []string
	for _, fs := range []string{"ext4", "erofs"} {
		_, err := h.importImage(banger.ImageImportRequest{Path: root, Name: fs, FS: fs})
		h.must(err)
		blobs = append(blobs, h.layerOf(fs, "this is a root\n"))
	}
	if blobs[0] != blobs[1] {
		t.Errorf("the layers are %q", blobs)
	}
	disk := h.disk4("disk", "mkfs.erofs", "--quiet")
	_, err := h.client.ImageRegister(t.Context(), banger.ImageRegisterRequest{Name: "disk", Rootfs: disk})
	h.must(err)
	h.layerOf("disk", "this is disk\n")
	h.mustBuild(banger.ImageBuildRequest{Name: "over", Text: "FROM disk\nCOPY --from=erofs /file /other"})
	if got, want := h.tree("over"), []string{"file 0:0 644 this is disk\n", "other 0:0 644 this is a root\n"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	_, err = h.importImage(banger.ImageImportRequest{Name: "packed", Path: h.disk4("packed", "mkfs.erofs", "--quiet", "-zlz4")})
	h.must(err)
	if report, err := h.client.ImageVerify(t.Context(), "packed", nil); err != nil || report.Inodes != 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
	_, _, err = h.saveImage(banger.ImageSaveRequest{Name: "packed"})
	wantKind(t, err, banger.Unsupported, "compressed", "mkfs.erofs without -z")
	_, _, err = h.build(banger.ImageBuildRequest{Name: "over", Text: "FROM packed\nRUN true"})
	wantKind(t, err, banger.Unsupported, "Dockerfile:1: read the image", "compressed")
	if h.d.kernels.Has(defaultKernel) {
		t.Error("a kernel was pulled for a build that cannot be")
	}
	if left, _ := os.ReadDir(h.layout.Scratch()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A build makes what is asked for, also of an image that has nothing added to it.
func TestBuildFS(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addTree("base", "a 1")
	h.open()
	r := banger.ImageBuildRequest{Name: "new", FromImage: "base", Packages: []string{}}
	for _, c := range []struct {
		fs, said string
	}{{"erofs", "FROM base"}, {"erofs", "up to date"}, {"", "FROM base"}, {"ext4", "up to date"}} {
		r.FS = c.fs
		im, said := h.mustBuild(r)
		if !strings.Contains(said, c.said) || cmp.Or(im.FS, "ext4") != cmp.Or(c.fs, "ext4") {
			t.Errorf("%q: %q, it said %s", c.fs, im.FS, said)
		}
		if _, err := h.client.ImageVerify(t.Context(), "new", nil); err != nil {
			t.Error(err)
		}
		if got := h.tree("new"); !slices.Equal(got, []string{"a 0:0 644 1"}) {
			t.Errorf("%q: %q", c.fs, got)
		}
	}
	r.FS = "xfs"
	_, _, err := h.build(r)
	wantKind(t, err, banger.Invalid, `"xfs"`, "want ext4 or erofs")
}

// Whether a VM has an EROFS image as it is or a copy that is ext4 follows from
// what its kernel has.
func TestErofsKernels(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addTreeAs(rootfs.FSErofs, "ero", "a 1")
	h.open()
	create := func(name string) (banger.VM, string) {
		t.Helper()
		spec := testSpec(name)
		spec.Image = "ero"
		rec, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
		h.must(err)
		f, err := os.Open(h.d.diskOf(rec.ID))
		h.must(err)
		defer f.Close()
		tree, err := rootfs.OpenTree(f, rec.Spec.Disk)
		h.must(err)
		var data strings.Builder
		if a, err := tree.Lookup("a"); err == nil {
			h.must(a.Copy(&data))
		}
		return rec, data.String()
	}
	modules := filepath.Join(h.layout.Kernels(), "kernel", state.ModulesDir)
	builtin, err := os.ReadFile(filepath.Join(modules, "modules.builtin"))
	h.must(err)
	for _, c := range []struct {
		name   string
		kernel func()
		root   banger.RootKind
		path   string
	}{
		{"no-module", func() {}, banger.FlatRoot, "initrd"},
		{"module", func() {
			h.must(os.WriteFile(filepath.Join(modules, "modules.builtin"), append(builtin, "kernel/erofs.ko\n"...), 0o600))
		}, banger.OverlayRoot, "initrd"},
		{"builtin", func() { h.setKernel(allDrivers+" erofs", nil) }, banger.OverlayRoot, "direct"},
		{"lacking", func() { h.setKernel(allDrivers, nil) }, banger.FlatRoot, "direct"},
		{"foreign", func() { h.setKernel("ext4", nil, state.InitrdFile) }, banger.FlatRoot, "flat"},
	} {
		c.kernel()
		rec, data := create(c.name)
		if rec.Root != c.root || rec.Machine.BootPath != c.path || (data == "1") != (c.root == banger.FlatRoot) {
			t.Errorf("%s: root %q, %s, its disk has %q", c.name, rec.Root, rec.Machine.BootPath, data)
		}
		if initrd := h.bootSpec(rec.ID).Machine.Initrd; strings.HasSuffix(initrd, "-erofs.cpio") != (c.name == "module") {
			t.Errorf("%s: its initrd is %s", c.name, initrd)
		}
	}
	// What is not read cannot be copied.
	_, err = h.importImage(banger.ImageImportRequest{Name: "packed", Path: h.disk4("packed", "mkfs.erofs", "--quiet", "-zlz4")})
	h.must(err)
	spec := testSpec("web")
	spec.Image = "packed"
	_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
	wantKind(t, err, banger.Unsupported, "compressed", "take a kernel that has erofs and overlay")
	// Kernels change; a VM is what it was made as.
	h.setKernel(allDrivers, nil)
	for name, works := range map[string]bool{"no-module": true, "builtin": false} {
		_, err := h.stop(banger.VMStopRequest{Name: name})
		h.must(err)
		_, err = h.start(name)
		if works {
			h.must(err)
			continue
		}
		wantKind(t, err, banger.Conflict, `image "ero" is an erofs file system`, "make the vm anew")
	}
}

// Steps run over an ext4 image where the kernel cannot mount the base.
func TestBuildErofsBase(t *testing.T) {
	t.Parallel()
	for builtin, temporary := range map[string]bool{allDrivers: true, allDrivers + " erofs": false} {
		h := newHost(t)
		h.setKernel(builtin, nil)
		h.addTreeAs(rootfs.FSErofs, "ero", "bin/sh x")
		h.open()
		r := banger.ImageBuildRequest{Name: "new", Text: "FROM ero\nRUN true", Kernel: "kernel", Memory: 256 << 20, Disk: 1 << 30, KeepOnError: true}
		_, _, err := h.build(r) // the guest of these tests has no banger-guest
		wantKind(t, err, banger.Invalid, "RUN true: exit code 127")
		list, err := h.client.VMList(t.Context())
		h.must(err)
		if len(list) != 1 {
			t.Fatalf("kept: %+v", list)
		}
		im, err := h.d.images.Get(list[0].Spec.Image)
		h.must(err)
		if im.Temporary != temporary || (im.FS == "") != temporary {
			t.Errorf("%s: it booted %+v", builtin, im)
		}
		h.remove(list[0].ID)
		h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "ero"}))
		h.clean()
	}
}
