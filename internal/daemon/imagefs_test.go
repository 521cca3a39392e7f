package daemon

import (
	"bytes"
	"os"
	"path/filepath"
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
