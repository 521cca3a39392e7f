package daemon

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/state"
)

// rootTar is a root file system with one file, a whiteout's name in it too.
func rootTar(t *testing.T, text string) []byte {
	return oneFileTar(t, text, tar.Header{Name: "./.wh.name", Typeflag: tar.TypeReg, Mode: 0o644})
}

// oneFileTar is a root file system with one file, and what else is given.
func oneFileTar(t *testing.T, text string, others ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range append([]tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		append(others, tar.Header{Name: "./file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})...) {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// disk makes a file system of the tree that one file is.
func (h *host) disk4(name string, tool ...string) string {
	h.t.Helper()
	dir := filepath.Join(h.base, "tree-"+name)
	h.must(os.MkdirAll(dir, 0o755))
	h.must(os.WriteFile(filepath.Join(dir, "file"), []byte("this is "+name+"\n"), 0o644))
	path := filepath.Join(h.base, name)
	h.must(os.WriteFile(path, nil, 0o644))
	args := []string{path, dir}
	if tool[0] == "mke2fs" {
		h.must(os.Truncate(path, 4<<20))
		args = []string{"-q", "-t", "ext4", "-d", dir, path}
	}
	if out, err := exec.Command(tool[0], append(tool[1:], args...)...).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s (apt-get install e2fsprogs erofs-utils)", err, out)
	}
	return path
}

func (h *host) importImage(r banger.ImageImportRequest) (banger.Image, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	return h.client.ImageImport(ctx, r, nil)
}

// importPipe imports what is written to a pipe.
func (h *host) importPipe(r banger.ImageImportRequest, b []byte) (banger.Image, error) {
	h.t.Helper()
	out, in, err := os.Pipe()
	h.must(err)
	defer out.Close()
	fd := int(out.Fd())
	r.FD = &fd
	go func() {
		_, _ = in.Write(b)
		_ = in.Close()
	}()
	return h.importImage(r)
}

// Of whatever kind a file is, the image holds what it held; it is told by its
// content alone.
func TestImageImport(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "an archive")
	h.pullImage(reg.host+"/some/thing:1", "pulled")
	saved := filepath.Join(h.base, "saved")
	_, err := h.client.ImageSave(t.Context(), banger.ImageSaveRequest{Name: "pulled", Path: saved}, nil)
	h.must(err)
	archive, err := os.ReadFile(saved)
	h.must(err)
	layout := filepath.Join(h.base, "layout")
	for name, text := range tarFiles(t, bytes.NewReader(archive)) {
		h.must(os.MkdirAll(filepath.Join(layout, filepath.Dir(name)), 0o755))
		h.must(os.WriteFile(filepath.Join(layout, name), []byte(text), 0o644))
	}
	tree := filepath.Join(h.base, "a tree")
	h.must(os.MkdirAll(tree, 0o755))
	h.must(os.WriteFile(filepath.Join(tree, "file"), []byte("this is a tree\n"), 0o644))
	file := func(name string, b []byte) string {
		h.must(os.WriteFile(filepath.Join(h.base, name), b, 0o644))
		return filepath.Join(h.base, name)
	}
	ext4, erofs := h.disk4("an-ext4", "mke2fs"), h.disk4("an-erofs", "mkfs.erofs", "--quiet")
	raw, err := os.ReadFile(ext4)
	h.must(err)
	root := rootTar(t, "this is a root\n")
	for _, tt := range []struct {
		path, says, name string
		want             func(banger.Image) bool
	}{
		{saved, "an archive", "pulled", func(im banger.Image) bool { return im.Config.User == "an archive" && len(im.Layers) == 1 }},
		{file("saved.gz", gzipped(t, archive)), "an archive", "pulled", nil},
		{layout, "an archive", "pulled", nil},
		{tree, "a tree", "", nil},
		{file("root.tar", root), "a root", "root", nil},
		{file("root.tgz", gzipped(t, root)), "a root", "root", nil},
		{ext4, "an-ext4", "an-ext4", func(im banger.Image) bool { return im.FS == "ext4" && len(im.SHA256) == 64 }},
		{file("an-ext4.raw.gz", gzipped(t, raw)), "an-ext4", "an-ext4", func(im banger.Image) bool { return im.FS == "ext4" && im.Size < 4<<20 }},
		{erofs, "an-erofs", "an-erofs", func(im banger.Image) bool { return im.FS == "erofs" }},
	} {
		r := banger.ImageImportRequest{Path: tt.path, Name: "new"}
		im, err := h.importImage(r)
		if err != nil || im.Name != "new" || im.Source != "import:"+tt.path || im.Arch != hostArch() || tt.want != nil && !tt.want(im) {
			t.Errorf("%s: %+v, %v", tt.path, im, err)
			continue
		}
		b, err := os.ReadFile(h.d.images.Path("new", state.RootfsFile))
		if err != nil || !bytes.Contains(b, []byte("this is "+tt.says+"\n")) {
			t.Errorf("%s: %d bytes without its file, %v", tt.path, len(b), err)
		}
		if fi, err := os.Stat(h.d.images.Path("new", state.RootfsFile)); err != nil || fi.Mode().Perm()&0o222 != 0 {
			t.Errorf("%s: it may be written to: %v, %v", tt.path, fi.Mode(), err)
		}
		if _, err := h.client.ImageVerify(t.Context(), "new", nil); err != nil {
			t.Errorf("%s: %v", tt.path, err)
		}
		h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "new"}))
		if r.Name, r.Force = "", true; tt.name == "" {
			_, err := h.importImage(r)
			wantKind(t, err, banger.Invalid, "it needs a name", "--name")
		} else if im, err := h.importImage(r); err != nil || im.Name != tt.name {
			t.Errorf("%s is named %q, %v", tt.path, im.Name, err)
		}
	}
	for name, b := range map[string][]byte{"archive": archive, "root": root, "disk": raw} {
		im, err := h.importPipe(banger.ImageImportRequest{Name: "piped", Force: true}, b)
		if err != nil || im.Source != "import:-" {
			t.Errorf("%s by a pipe: %+v, %v", name, im, err)
		}
	}
	if left, _ := os.ReadDir(h.layout.Scratch()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestImageImportMistakes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	root := rootTar(t, strings.Repeat("this is a root\n", 1000))
	file := func(name string, b []byte) string {
		h.must(os.WriteFile(filepath.Join(h.base, name), b, 0o644))
		return filepath.Join(h.base, name)
	}
	whole := file("root.tar", root)
	fd, none := 0, -1
	for _, tt := range []struct {
		r    banger.ImageImportRequest
		kind banger.Kind
		says string
	}{
		{banger.ImageImportRequest{Name: "new"}, banger.Invalid, "either a path or a descriptor"},
		{banger.ImageImportRequest{Name: "new", Path: whole, FD: &fd}, banger.Invalid, "either a path or a descriptor"},
		{banger.ImageImportRequest{Name: "new", FD: &none}, banger.Invalid, "no descriptor -1"},
		{banger.ImageImportRequest{Name: "new", Path: "root.tar"}, banger.Invalid, "not an absolute path"},
		{banger.ImageImportRequest{Name: "new", Path: whole + "x"}, banger.NotFound, "there is no file"},
		{banger.ImageImportRequest{Name: "new", Path: "/dev/null"}, banger.Invalid, "not a regular file"},
		{banger.ImageImportRequest{Name: "../new", Path: whole}, banger.Invalid, "bad image name"},
		{banger.ImageImportRequest{Name: "image", Path: whole}, banger.Exists, "--force"},
		{banger.ImageImportRequest{Name: "new", Path: whole, Kernel: "none"}, banger.NotFound, "banger kernel pull none"},
		{banger.ImageImportRequest{Name: "new", Path: whole, Platform: "vax"}, banger.Unsupported, "linux/amd64"},
		{banger.ImageImportRequest{Name: "new", Path: whole, Ref: "x:1"}, banger.Invalid, "no image \"x:1\""},
		{banger.ImageImportRequest{Name: "new", Path: file("empty", nil)}, banger.Invalid, "it is empty"},
		{banger.ImageImportRequest{Name: "new", Path: file("text", bytes.Repeat([]byte("text\n"), 1000))}, banger.Unsupported, "no tar, no disk"},
		{banger.ImageImportRequest{Name: "new", Path: file("half.tar", root[:len(root)/2])}, banger.Invalid, "cut short"},
		{banger.ImageImportRequest{Name: "new", Path: file("two.tar", root[:1024])}, banger.Invalid, "cut short"},
		{banger.ImageImportRequest{Name: "new", Path: file("half.gz", gzipped(t, root)[:len(gzipped(t, root))/2])}, banger.Invalid, "damaged compression"},
		{banger.ImageImportRequest{Name: "new", Path: file("qcow2", append([]byte("QFI\xfb"), make([]byte, 1<<16)...))}, banger.Unsupported, "qcow2"},
	} {
		_, err := h.importImage(tt.r)
		wantKind(t, err, tt.kind, tt.says)
	}
	half := h.disk4("half", "mke2fs")
	h.must(os.Truncate(half, 1<<20))
	_, err := h.importImage(banger.ImageImportRequest{Name: "new", Path: half})
	wantKind(t, err, banger.Invalid, "cut short")
	// The caller goes away while the daemon waits for the pipe.
	out, in, err := os.Pipe()
	h.must(err)
	defer out.Close()
	defer in.Close()
	fd = int(out.Fd())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = h.client.ImageImport(ctx, banger.ImageImportRequest{Name: "new", FD: &fd}, nil)
	wantKind(t, err, banger.Canceled)
	h.clean()
}

// A disk that is registered stays where it is, and has to stay as it is.
func TestImageRegister(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	disk := h.disk4("mine.ext4", "mke2fs")
	register := func(r banger.ImageRegisterRequest) (banger.Image, error) {
		return h.client.ImageRegister(t.Context(), r)
	}
	im, err := register(banger.ImageRegisterRequest{Name: "mine", Rootfs: disk, Kernel: "kernel"})
	if err != nil || im.FS != "ext4" || im.InPlace == nil || im.InPlace.Path != disk || im.Source != "file:"+disk || im.Kernel != "kernel" {
		t.Fatalf("%+v, %v", im, err)
	}
	shown, err := h.client.ImageShow(t.Context(), "mine")
	if err != nil || shown.Rootfs != disk {
		t.Errorf("%+v, %v", shown, err)
	}
	writer, err := os.OpenFile(disk, os.O_RDWR, 0)
	h.must(err)
	mistake := func(r banger.ImageRegisterRequest, kind banger.Kind, says ...string) {
		t.Helper()
		_, err := register(r)
		wantKind(t, err, kind, says...)
	}
	mistake(banger.ImageRegisterRequest{Name: "used", Rootfs: disk}, banger.Conflict, "open for writing", "fuser -v "+disk)
	_, err = h.importImage(banger.ImageImportRequest{Name: "used", Path: disk})
	wantKind(t, err, banger.Conflict, "open for writing")
	// needs_recovery: super.rst, s_feature_incompat.
	unclean := h.disk4("unclean", "mke2fs")
	f, err := os.OpenFile(unclean, os.O_RDWR, 0)
	h.must(err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 1024+0x60)
	h.must(err)
	_, err = f.WriteAt([]byte{b[0] | 4}, 1024+0x60)
	h.must(errors.Join(err, f.Close()))
	mistake(banger.ImageRegisterRequest{Name: "new", Rootfs: unclean}, banger.Invalid, "checksum") // what was not written by Linux is not taken for unclean
	out, err := exec.Command("debugfs", "-w", "-R", "feature needs_recovery", h.disk4("unclean2", "mke2fs")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mistake(banger.ImageRegisterRequest{Name: "new", Rootfs: h.base + "/unclean2"}, banger.Conflict, "not unmounted cleanly", "e2fsck")
	mistake(banger.ImageRegisterRequest{Name: "mine", Rootfs: unclean + "2"}, banger.Conflict)
	h.must(writer.Close())
	mistake(banger.ImageRegisterRequest{Name: "mine", Rootfs: disk}, banger.Exists, "--force")
	mistake(banger.ImageRegisterRequest{Name: "new", Rootfs: "mine"}, banger.Invalid, "absolute")
	mistake(banger.ImageRegisterRequest{Name: "new", Rootfs: "/dev/zero"}, banger.Invalid, "not a regular file")
	mistake(banger.ImageRegisterRequest{Name: "new", Rootfs: disk + "x"}, banger.NotFound, "there is no file")
	mistake(banger.ImageRegisterRequest{Name: "new", Rootfs: h.d.images.Path("image", state.RootfsFile)}, banger.Invalid, "another image")
	mistake(banger.ImageRegisterRequest{Name: "new", Rootfs: disk, Kernel: "none"}, banger.NotFound, "banger kernel pull none")

	// A VM reads it where it is; and not at all once it is another.
	spec := testSpec("web")
	spec.Image = "mine"
	_, err = h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec}, nil)
	h.must(err)
	boot, err := os.ReadFile(filepath.Join(h.layout.VM(h.show("web").ID), state.BootFile))
	if err != nil || !bytes.Contains(boot, []byte(`"`+disk+`"`)) {
		t.Errorf("the machine does not have it: %v", err)
	}
	_, err = h.stop(banger.VMStopRequest{Name: "web"})
	h.must(err)
	was, err := os.Stat(disk)
	h.must(err)
	h.must(os.Chtimes(disk, time.Time{}, was.ModTime().Add(time.Nanosecond)))
	_, err = h.start("web")
	wantKind(t, err, banger.Conflict, disk, "was changed since", "banger image register --force mine")
	_, err = h.client.ImageSave(t.Context(), banger.ImageSaveRequest{Name: "mine", Path: h.base + "/x.tar"}, nil)
	wantKind(t, err, banger.Conflict, "was changed since")
	mistake(banger.ImageRegisterRequest{Name: "mine", Rootfs: disk, Force: true}, banger.Conflict, "is used by vm web")
	h.must(os.Rename(disk, disk+".away"))
	_, err = h.start("web")
	wantKind(t, err, banger.Conflict, "is not there", "put it back")
	h.must(os.Rename(disk+".away", disk))
	h.must(os.Chtimes(disk, time.Time{}, was.ModTime()))
	if _, err := h.start("web"); err != nil {
		t.Error(err)
	}
	h.remove("web")
	h.must(h.client.ImageDelete(t.Context(), banger.NameRequest{Name: "mine"}))
	if _, err := os.Stat(disk); err != nil {
		t.Error("the file went with the image")
	}
	h.clean()
}

// What is not what it was is told, of whatever part.
func TestImageVerify(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	reg := newRegistry(t, "one")
	h.pullImage(reg.host+"/some/thing:1", "one")
	verify := func() (banger.ImageReport, error) { return h.client.ImageVerify(t.Context(), "one", nil) }
	first, err := verify()
	if err != nil || !first.First || first.Inodes < 2 || len(first.SHA256) != 64 || first.Image.SHA256 != first.SHA256 {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := verify(); err != nil || again.First || again.SHA256 != first.SHA256 {
		t.Errorf("%+v, %v", again, err)
	}
	path := h.d.images.Path("one", state.RootfsFile)
	spoil := func(at int64) (restore func()) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		h.must(err)
		was := make([]byte, 1)
		_, err = f.ReadAt(was, at)
		h.must(err)
		_, err = f.WriteAt([]byte{was[0] ^ 1}, at)
		h.must(err)
		return func() {
			_, err := f.WriteAt(was, at)
			h.must(errors.Join(err, f.Close()))
		}
	}
	b, err := os.ReadFile(path)
	h.must(err)
	restore := spoil(int64(bytes.Index(b, []byte("this is one"))))
	_, err = verify()
	wantKind(t, err, banger.Conflict, "was changed", "--force")
	restore()
	// Metadata that are wrong are found with nothing to compare the whole with.
	h.must(state.WriteRecord(h.d.images.Path("one", state.ManifestFile), banger.Image{Name: "one", Digest: first.Image.Digest, Source: "oci:x"}))
	restore = spoil(4096 + 8) // the group descriptor: where the inodes are
	_, err = verify()
	if err == nil {
		t.Error("damaged group descriptors are not found")
	}
	restore()
	if _, err := verify(); err != nil {
		t.Error(err)
	}
	h.must(os.WriteFile(h.d.images.Path("one", state.OCIManifestFile), []byte("{}"), 0o600))
	_, err = verify()
	wantKind(t, err, banger.Conflict, "manifest of image")
	h.must(errors.Join(os.Remove(h.d.images.Path("one", state.OCIManifestFile)), os.Remove(path)))
	_, err = verify()
	wantKind(t, err, banger.Conflict, "no root file system")
	_, err = h.client.ImageVerify(t.Context(), "image", nil)
	wantKind(t, err, banger.Unsupported, "neither an ext4")
}

// A stream that ends between two files is not a whole one.
func TestWholeTar(t *testing.T) {
	t.Parallel()
	root := rootTar(t, "x")
	for n, whole := range map[int]bool{len(root): true, len(root) - 512: true, len(root) - 1024 - 512: false, 512: false, 1024: false} {
		_, err := io.Copy(io.Discard, &wholeTar{r: io.LimitReader(bytes.NewReader(root), int64(n))})
		if (err == nil) != whole {
			t.Errorf("%d of %d bytes: %v", n, len(root), err)
		}
	}
}
