package share

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"banger"
)

// serve serves the folder on one end of a pair, and gives the other one.
func serve(t *testing.T, f *Folder) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- f.Serve(theirs) }()
	t.Cleanup(func() {
		_ = ours.Close()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("Serve does not return")
		}
	})
	return ours
}

func open(t *testing.T, dir string, readOnly bool) *Folder {
	t.Helper()
	f, err := Open(dir, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// attach is somebody else's client at the folder.
func attach(t *testing.T, dir string, readOnly bool) p9.File {
	t.Helper()
	c, err := p9.NewClient(serve(t, open(t, dir, readOnly)))
	if err != nil {
		t.Fatal(err)
	}
	root, err := c.Attach("")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func clone(t *testing.T, f p9.File, names ...string) p9.File {
	t.Helper()
	_, g, err := f.Walk(names)
	if err != nil {
		t.Fatalf("walk to %q: %v", names, err)
	}
	return g
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "")
	for path, kind := range map[string]banger.Kind{dir + "/none": banger.NotFound, dir + "/file": banger.Invalid} {
		if _, err := Open(path, false); !banger.IsKind(err, kind) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	root := attach(t, dir, false)
	f, _, _, err := clone(t, root).Create("a", p9.ReadWrite, 0o640, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	for off := 0; off < len(big); {
		n, err := f.WriteAt(big[off:], int64(off))
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		off += n
	}
	if err := f.FSync(); err != nil {
		t.Error(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil || !bytes.Equal(got, big) || content(t, dir+"/a") != string(big) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if fi, err := os.Stat(dir + "/a"); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	// An open file can be used, cut and looked at after its name has gone.
	if err := root.UnlinkAt("a", 0); err != nil {
		t.Fatal(err)
	}
	if err := f.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{Size: 3}); err != nil {
		t.Errorf("cut what was removed: %v", err)
	}
	if _, _, a, err := f.GetAttr(p9.AttrMaskAll); err != nil || a.Size != 3 || a.NLink != 0 {
		t.Errorf("removed: %+v, %v", a, err)
	}
	// What the host writes is there at once, and O_APPEND goes behind it.
	write(t, dir+"/b", "host\n")
	b := clone(t, root, "b")
	if _, _, err := b.Open(p9.WriteOnly | p9.OpenFlags(openAppend)); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/b", "host, longer\n")
	if _, err := b.WriteAt([]byte("guest\n"), 5); err != nil || content(t, dir+"/b") != "host, longer\nguest\n" {
		t.Errorf("appended: %q, %v", content(t, dir+"/b"), err)
	}
	if st, err := root.StatFS(); err != nil || st.Blocks == 0 || st.Type != magic9P {
		t.Errorf("statfs: %+v, %v", st, err)
	}
	if _, err := root.GetXattr("user.a"); err == nil {
		t.Error("there are extended attributes")
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	root := attach(t, dir, false)
	if _, err := root.Mkdir("d", 0o751, 0, 0); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/d/f", "text")
	d := clone(t, root, "d")
	if err := root.Link(clone(t, d, "f"), "hard"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Symlink("d/f", "soft", 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.RenameAt("f", root, "moved"); err != nil {
		t.Fatal(err)
	}
	if content(t, dir+"/hard") != "text" || content(t, dir+"/moved") != "text" {
		t.Error("links do not lead to the file")
	}
	if to, err := clone(t, root, "soft").Readlink(); err != nil || to != "d/f" {
		t.Errorf("readlink: %q, %v", to, err)
	}
	if err := root.UnlinkAt("d", unix.AT_REMOVEDIR); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		what string
		err  error
		want error
	}{
		{"walk to nothing", second(root.Walk([]string{"none"})), linux.ENOENT},
		{"make twice", last(root.Mkdir("hard", 0o700, 0, 0)), linux.EEXIST},
		{"walk up", second(root.Walk([]string{".."})), linux.EINVAL},
		{"walk a path", second(root.Walk([]string{"d/f"})), linux.EINVAL},
		{"make a device", last(root.Mknod("null", p9.ModeCharacterDevice|0o666, 1, 3, 0, 0)), linux.EPERM},
		{"make a pipe", last(root.Mknod("pipe", p9.ModeNamedPipe|0o666, 0, 0, 0, 0)), linux.EPERM},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.what, tc.err, tc.want)
		}
	}
}

func second(_ []p9.QID, _ p9.File, err error) error { return err }
func last[T any](_ T, err error) error              { return err }

func TestReaddir(t *testing.T) {
	dir := t.TempDir()
	want := []string{".", ".."}
	for i := range 3000 {
		name := fmt.Sprintf("%05d%s", i, strings.Repeat("x", i%200))
		write(t, filepath.Join(dir, name), "")
		want = append(want, name)
	}
	root := clone(t, attach(t, dir, true))
	if _, _, err := root.Open(p9.ReadOnly); err != nil {
		t.Fatal(err)
	}
	var got []string
	for next := uint64(0); ; {
		entries, err := root.Readdir(next, 32<<10)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			got, next = append(got, e.Name), e.Offset
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %d entries, want %d", len(got), len(want))
	}
}

func TestAttributes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "text")
	f := clone(t, attach(t, dir, false), "f")
	when := p9.SetAttr{Permissions: 0o4755, ATimeSeconds: 1, MTimeSeconds: 1e9, MTimeNanoSeconds: 5}
	err := f.SetAttr(p9.SetAttrMask{Permissions: true, ATime: true, ATimeNotSystemTime: true, MTime: true, MTimeNotSystemTime: true}, when)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(dir + "/f")
	if err != nil || fi.ModTime() != time.Unix(1e9, 5) || fi.Mode() != 0o755 { // no file runs as its owner
		t.Errorf("%v %v, %v", fi.Mode(), fi.ModTime(), err)
	}
	if _, _, a, err := f.GetAttr(p9.AttrMaskAll); err != nil || a.UID != 0 || a.GID != 0 || a.Size != 4 {
		t.Errorf("attributes: %+v, %v", a, err)
	}
	if err := f.SetAttr(p9.SetAttrMask{UID: true, GID: true}, p9.SetAttr{}); err != nil {
		t.Errorf("give it to whom it belongs: %v", err)
	}
	if err := f.SetAttr(p9.SetAttrMask{UID: true}, p9.SetAttr{UID: 1000}); !errors.Is(err, linux.EPERM) {
		t.Errorf("give it away: %v", err)
	}
	for _, tc := range []struct{ id, own, want uint32 }{{1000, 1000, 0}, {0, 1000, nobody}, {1001, 1000, nobody}, {0, 0, 0}, {33, 0, 33}} {
		if got := shown(tc.id, tc.own); got != tc.want {
			t.Errorf("file of %d on a host of %d: shown as %d, want %d", tc.id, tc.own, got, tc.want)
		}
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "text")
	root := attach(t, dir, true)
	f := clone(t, root, "f")
	open := func(flags p9.OpenFlags) error { _, _, err := clone(t, root, "f").Open(flags); return err }
	_, _, _, created := clone(t, root).Create("g", p9.ReadOnly, 0o600, 0, 0)
	for what, err := range map[string]error{
		"open to write": open(p9.WriteOnly), "open to cut": open(p9.ReadOnly | p9.OpenFlags(openTrunc)), "create": created,
		"mkdir": last(root.Mkdir("d", 0o700, 0, 0)), "symlink": last(root.Symlink("f", "s", 0, 0)), "link": root.Link(f, "l"),
		"rename": root.RenameAt("f", root, "g"), "unlink": root.UnlinkAt("f", 0), "mknod": last(root.Mknod("n", p9.ModeRegular, 0, 0, 0, 0)),
		"setattr": f.SetAttr(p9.SetAttrMask{Size: true}, p9.SetAttr{}),
	} {
		if !errors.Is(err, linux.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if names, err := filepath.Glob(dir + "/*"); err != nil || len(names) != 1 || content(t, dir+"/f") != "text" {
		t.Errorf("changed: %v, %v", names, err)
	}
	if err := open(p9.ReadOnly); err != nil {
		t.Errorf("open to read: %v", err)
	}
}
