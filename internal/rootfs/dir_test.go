package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// A directory becomes an image of the same tree.
func TestDir(t *testing.T) {
	t.Parallel()
	dir := sampleDir(t)
	old := time.Unix(1_000_000_000, 987_654_321)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Setxattr(dir+"/random", "user.key", []byte("va\x00lue"), 0))
	must(unix.Setxattr(dir+"/suid", "system.posix_acl_access", []byte(posixACL), 0))
	must(os.Chtimes(dir+"/random", old, old))
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	must(err)
	defer l.Close()
	must(os.WriteFile(dir+"/.wh.kept", nil, 0o600))
	must(os.Symlink("/etc/passwd", dir+"/outside"))
	link := filepath.Join(t.TempDir(), "link")
	must(os.Symlink(dir, link)) // the operand itself may be one

	path := filepath.Join(t.TempDir(), "image")
	if _, err := Build(t.Context(), path, []Layer{Dir(link)}, Options{}); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	files := openImage(t, path).files()
	err = filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		must(err)
		name, _ := filepath.Rel(dir, p)
		st := fi.Sys().(*syscall.Stat_t)
		f := files[name]
		if fi.Mode()&os.ModeSocket != 0 {
			if f != nil {
				t.Error("the socket is in the image")
			}
			return nil
		}
		if f == nil {
			t.Errorf("%s is missing", name)
			return nil
		}
		if f.mode != st.Mode || f.uid != st.Uid || f.gid != st.Gid || !f.mtime.Equal(fi.ModTime()) || !fi.IsDir() && (f.size != st.Size || uint64(f.links) != uint64(st.Nlink)) {
			t.Errorf("%s: %+v, want %+v", name, *f, st)
		}
		return nil
	})
	must(err)
	if f := files["random"]; f.xattrs["1:key"] != "va\x00lue" || !f.mtime.Equal(old) || f.number != files["a/b/hard"].number {
		t.Errorf("random: %+v", f.xattrs)
	}
	if f := files["suid"]; f.xattrs["2:"] == "" {
		t.Errorf("suid: %q", f.xattrs)
	}
	if f := files["outside"]; string(f.data) != "/etc/passwd" {
		t.Errorf("outside: %q", f.data)
	}
	if files[".wh.kept"] == nil {
		t.Error("a file with the name of a whiteout is lost")
	}
}

// An unreadable file is an error that names it, and leaves nothing.
func TestDirUnreadable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dir  string
		word string
	}{{"/nowhere", "no such file"}, {"/proc/self/exe", "not a directory"}} {
		_, err := Dir(c.dir).Open(t.Context())
		if !banger.IsKind(err, banger.Unavailable) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", c.dir, err)
		}
	}
	err := unreadable("etc/shadow", &os.PathError{Op: "open", Path: "shadow", Err: unix.EACCES})
	if e := banger.AsError(err); !strings.Contains(e.Msg, `read "./etc/shadow"`) || !strings.Contains(e.Hint, "banger image import -") {
		t.Errorf("%q, %q", e.Msg, e.Hint)
	}
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.WriteFile(dir+"/random", []byte("r"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := walkAsNobody(dir); err != nil {
		t.Error(err)
	}
	for _, name := range []string{dir + "/random", dir + "/a/b"} {
		if err := os.Chmod(name, 0); err != nil {
			t.Fatal(err)
		}
		err := walkAsNobody(dir)
		base := map[bool]string{true: `"./a/b"`, false: `"./random"`}[filepath.Base(name) == "b"]
		if !banger.IsKind(err, banger.Unavailable) || !strings.Contains(err.Error(), "read "+base+": permission denied") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "image")
	if _, err := Build(t.Context(), path, []Layer{Dir("/nowhere")}, Options{}); err == nil {
		t.Error("an image of nothing")
	}
	wantEmpty(t, filepath.Dir(path))
}

// walkAsNobody walks with the rights of a user who owns nothing, also where the
// tests run as root: on Linux these rights are those of a thread.
func walkAsNobody(dir string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock it: it ends with the goroutine
		root, err := os.Open(dir)
		if err == nil {
			defer root.Close()
			_ = unix.Setfsuid(65534)
			_ = unix.Setfsgid(65534)
			w := &dirWalk{ctx: context.Background(), out: tar.NewWriter(io.Discard), links: map[fileID]string{}, buf: make([]byte, 64<<10)}
			err = w.run(root)
		}
		result <- err
	}()
	return <-result
}

// A walk that nobody reads to its end goes away.
func TestDirGivenUp(t *testing.T) {
	t.Parallel()
	r, err := Dir(sampleDir(t)).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil { // waits for it
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	r, err = Dir(sampleDir(t)).Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, gone) {
		t.Errorf("canceled: %v", err)
	}
	_ = r.Close()
}

// A file that changes while it is read is no part of an image.
func TestDirChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Dir(dir).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir+"/file", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !banger.IsKind(err, banger.Conflict) || !strings.Contains(err.Error(), "file") {
		t.Errorf("got %v", err)
	}
}

// What is mounted in the tree is not part of it.
func TestDirMounts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	// /proc/sys/fs/binfmt_misc or /sys/fs may be mounts; of /dev, pts and shm nearly always are.
	if _, err := Build(t.Context(), path, []Layer{Dir("/dev")}, Options{}); err != nil {
		t.Fatal(err)
	}
	files := openImage(t, path).files()
	if f := files["null"]; f == nil || f.mode&typeMask != typeChar || f.major != 1 || f.minor != 3 {
		t.Errorf("null: %+v", f)
	}
	for name := range files {
		if strings.HasPrefix(name, "pts/") || strings.HasPrefix(name, "shm/") {
			t.Errorf("%s is of another mount", name)
		}
	}
}
