package daemon

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
)

// A VM gets copies of files as they are at its creation, with its first start alone.
func TestGuestFiles(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	dir := t.TempDir()
	src := filepath.Join(dir, "conf")
	h.must(os.WriteFile(src, []byte("as it was"), 0o600))
	h.must(os.Chmod(src, 0o640))
	spec := testSpec("web")
	spec.Files = []banger.GuestFile{{Source: src, Path: "/etc/app/conf"}}
	rec, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
	h.must(err)
	want := banger.GuestFile{Source: src, Path: "/etc/app/conf", Size: 9, Mode: 0o640}
	if len(rec.Spec.Files) != 1 || rec.Spec.Files[0] != want {
		t.Errorf("recorded %+v, want %+v", rec.Spec.Files, want)
	}
	h.must(os.WriteFile(src, []byte("as it is now"), 0o600))
	packed := filepath.Join(h.layout.VM(rec.ID), state.FilesFile)
	f, err := os.Open(packed)
	h.must(err)
	defer f.Close()
	r := tar.NewReader(f)
	hdr, err := r.Next()
	h.must(err)
	data, err := io.ReadAll(r)
	h.must(err)
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm() != 0o600 || fi.Size()%512 != 0 {
		t.Errorf("the disk of the files: %v, %v", fi, err)
	}
	if hdr.Name != "etc/app/conf" || hdr.Mode != 0o640 || hdr.Uid != 0 || string(data) != "as it was" {
		t.Errorf("packed %+v: %q", hdr, data)
	}

	for _, first := range []bool{true, false} {
		if rec, err = h.start("web"); err != nil {
			t.Fatal(err)
		}
		var boot shim.Spec
		h.must(state.ReadRecord(filepath.Join(h.layout.VM(rec.ID), state.BootFile), &boot))
		last := boot.Machine.Disks[len(boot.Machine.Disks)-1]
		if first != (last.Path == packed && last.ReadOnly) || first != (boot.Hello.Files != "") {
			t.Errorf("first start %v: files %q, the last disk is %+v", first, boot.Hello.Files, last)
		}
		if name := "/dev/vd" + string(rune('a'+len(boot.Machine.Disks)-1)); first && boot.Hello.Files != name {
			t.Errorf("files are on %s, the guest is told %s", name, boot.Hello.Files)
		}
		if _, err := os.Stat(packed); first != (err == nil) {
			t.Errorf("first start %v: %v", first, err)
		}
		_, err = h.stop(banger.VMStopRequest{Name: "web"})
		h.must(err)
	}
}

func TestGuestFilesRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.open()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	h.must(os.WriteFile(path("ok"), []byte("x"), 0o600))
	h.must(os.Mkdir(path("sub"), 0o700))
	h.must(unix.Mkfifo(path("pipe"), 0o600))
	h.must(os.WriteFile(path("big"), nil, 0o600))
	h.must(os.Truncate(path("big"), maxGuestFileBytes))
	loop := path("loop")
	h.must(os.Symlink("loop", loop))
	for name, c := range map[string]struct {
		files []banger.GuestFile
		kind  banger.Kind
		words string
	}{
		"missing":   {[]banger.GuestFile{{Source: path("none"), Path: "/a"}}, banger.NotFound, "no file"},
		"folder":    {[]banger.GuestFile{{Source: path("sub"), Path: "/a"}}, banger.Invalid, "is a folder"},
		"pipe":      {[]banger.GuestFile{{Source: path("pipe"), Path: "/a"}}, banger.Invalid, "not a regular file"},
		"loop":      {[]banger.GuestFile{{Source: loop, Path: "/a"}}, banger.Invalid, "too many levels"},
		"too large": {[]banger.GuestFile{{Source: path("ok"), Path: "/a"}, {Source: path("big"), Path: "/b"}}, banger.Invalid, "more than 64 MiB"},
		"our path":  {[]banger.GuestFile{{Source: "ok", Path: "/a"}}, banger.Invalid, "absolute path of this host"},
		"relative":  {[]banger.GuestFile{{Source: path("ok"), Path: "a"}}, banger.Invalid, "absolute path of a file in the VM"},
		"dots":      {[]banger.GuestFile{{Source: path("ok"), Path: "/a/../b"}}, banger.Invalid, "without . and .."},
		"root":      {[]banger.GuestFile{{Source: path("ok"), Path: "/"}}, banger.Invalid, "absolute path of a file"},
		"newline":   {[]banger.GuestFile{{Source: path("ok"), Path: "/a\nb"}}, banger.Invalid, "absolute path of a file"},
		"no disk":   {[]banger.GuestFile{{Source: path("ok"), Path: "/run/x"}}, banger.Invalid, "/run is not on the VM's disk"},
		"twice":     {[]banger.GuestFile{{Source: path("ok"), Path: "/a"}, {Source: path("ok"), Path: "/a"}}, banger.Invalid, `another file is for "/a"`},
		"below":     {[]banger.GuestFile{{Source: path("ok"), Path: "/a/b"}, {Source: path("ok"), Path: "/a"}}, banger.Invalid, `another file is for "/a/b"`},
		"many":      {make([]banger.GuestFile, maxGuestFiles+1), banger.Invalid, "at most 256"},
	} {
		spec := testSpec("web")
		spec.Files = c.files
		_, err := h.client.VMCreate(t.Context(), banger.VMCreateRequest{Spec: spec, NoStart: true}, nil)
		if !banger.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: got %v (%s), want %s with %q", name, err, kindOf(err), c.kind, c.words)
		}
	}
	h.clean()
	if list, err := fs.ReadDir(os.DirFS(h.layout.VMs()), "."); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}
