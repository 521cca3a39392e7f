package guest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

func writeTree(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, ok := strings.CutPrefix(data, "-> "); ok && err == nil {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func treeLines(t *testing.T, root string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d", strings.TrimPrefix(path, root+"/"), st.Mode, st.Uid, st.Gid)
		switch d.Type() {
		case 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q %d", b, st.Nlink)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// A layer is applied as OCI says: image-spec v1.1, layer.md. It needs root.
func TestApplyLayer(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	writeTree(t, root, map[string]string{"keep/a": "1", "gone/b": "2", "opq/c": "3", "dir/d": "4", "file": "5", "bin": "-> usr/bin", "usr/bin/x": "6"})
	if err := unix.Chmod(filepath.Join(root, "keep"), 0o1777); err != nil {
		t.Fatal(err)
	}
	then := time.Unix(1_000_000_000, 123456789)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "keep/new", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 7, Gid: 8, Size: 1},
		{Name: ".wh.gone", Typeflag: tar.TypeReg},
		{Name: "opq/", Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: "opq/.wh..wh..opq", Typeflag: tar.TypeReg},
		{Name: "opq/new", Typeflag: tar.TypeSymlink, Linkname: "/etc/x"},
		{Name: "dir", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
		{Name: "file/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "bin/through", Typeflag: tar.TypeReg, Mode: 0o755, Size: 1},
		{Name: "link", Typeflag: tar.TypeLink, Linkname: "keep/new"},
		{Name: "../../escape", Typeflag: tar.TypeReg, Mode: 0o600, Size: 1},
		{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o640},
		{Name: "dev", Typeflag: tar.TypeChar, Mode: 0o620, Devmajor: 5, Devminor: 1},
	} {
		h.ModTime, h.Format = then, tar.FormatPAX
		if h.Name == "keep/new" {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "hello"}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("x"))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := applyLayer(root, &b); err != nil {
		t.Fatalf("%v (the test has to run as root)", err)
	}
	want := []string{
		"bin 120777 0:0 -> usr/bin", "dev 20620 0:0", `dir 100644 0:0 "x" 1`, `escape 100600 0:0 "x" 1`, "fifo 10640 0:0", "file 40755 0:0",
		"keep 41777 0:0", `keep/a 100644 0:0 "1" 1`, `keep/new 104755 7:8 "x" 2`, `link 104755 7:8 "x" 2`,
		"opq 40700 0:0", "opq/new 120777 0:0 -> /etc/x", "usr 40755 0:0", "usr/bin 40755 0:0", `usr/bin/through 100755 0:0 "x" 1`, `usr/bin/x 100644 0:0 "6" 1`,
	}
	if got := treeLines(t, root); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"keep/new", "opq"} {
		if fi, err := os.Stat(filepath.Join(root, name)); err != nil || !fi.ModTime().Equal(then) {
			t.Errorf("%s: %v, %v", name, fi.ModTime(), err)
		}
	}
	note := make([]byte, 16)
	if n, err := unix.Getxattr(filepath.Join(root, "keep/new"), "user.note", note); err != nil || string(note[:n]) != "hello" {
		t.Errorf("attribute: %q, %v", note[:max(n, 0)], err)
	}
}

// What a command's root is mounted on is found in that root, whatever symlinks
// it holds, and what has to be made for it is remembered.
func TestPlaceStaysInside(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	root := filepath.Join(outside, "root")
	writeTree(t, root, map[string]string{"etc/resolv.conf": "-> ../run/systemd/resolve/stub.conf", "up": "-> ../..", "abs": "-> " + outside, "there/x": "1",
		"loop": "-> loop"})
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r := &buildRoot{dir: dir}
	for _, tt := range []struct {
		target string
		dir    bool
		want   string // below the root
	}{
		{"/there", true, "there"}, {"/up/new", true, "new"}, {"/abs/x", true, outside[1:] + "/x"},
		{"/etc/resolv.conf", false, "run/systemd/resolve/stub.conf"}, {"/../../deep/er", true, "deep/er"},
	} {
		f, err := r.place(tt.target, tt.dir, 0)
		if err != nil {
			t.Errorf("%s: %v", tt.target, err)
			continue
		}
		got, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		f.Close()
		if want := filepath.Join(root, tt.want); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", tt.target, got, err, want)
		}
	}
	if _, err := r.place("/loop/x", true, 0); err == nil {
		t.Error("a loop was followed")
	}
	if !slices.Contains(r.made, "/run/systemd/resolve/stub.conf") {
		t.Errorf("made %q", r.made)
	}
	if left, _ := os.ReadDir(outside); len(left) != 1 {
		t.Errorf("outside there is %v", left)
	}
}

// The stub has what is mounted on, and nothing but that.
func TestStub(t *testing.T) {
	t.Parallel()
	stub := t.TempDir()
	if err := makeStub(stub, []hello.BuildMount{{Target: "/var/cache/apt"}, {Target: "../../x"}}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range treeLines(t, stub) {
		got = append(got, strings.Fields(line)[0])
	}
	want := []string{"dev", "etc", "etc/hosts", "etc/resolv.conf", "proc", "sys", "var", "var/cache", "var/cache/apt", "x"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestReadOrder(t *testing.T) {
	t.Parallel()
	order, rest, err := readOrder(strings.NewReader(`{"op":"apply","layer":3}` + "\nmore"))
	if err != nil || order.Op != hello.BuildApply || order.Layer != 3 {
		t.Fatalf("%+v, %v", order, err)
	}
	if b, err := io.ReadAll(rest); string(b) != "more" {
		t.Errorf("the rest is %q, %v", b, err)
	}
	for _, bad := range []string{"", "{}", "{\n", `{"layer":-1}` + "\n", strings.Repeat("x", hello.MaxBuildOrder+100_000)} {
		if _, _, err := readOrder(strings.NewReader(bad)); err == nil {
			t.Errorf("%.20q is taken", bad)
		}
	}
}
