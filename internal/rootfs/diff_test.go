package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// overlay mounts one over the lower directories, and gives upper and merged.
func overlay(t *testing.T, lower string) (upper, merged string) {
	t.Helper()
	dir := t.TempDir()
	// Directories on a tmpfs of their own: the place of the tests may be an overlay itself.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatalf("mount: %v (the test has to run as root)", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for _, d := range []string{"upper", "work", "merged", "lower"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shell(t, dir, lower, "lower")
	upper, merged = filepath.Join(dir, "upper"), filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(dir, "lower"), upper, filepath.Join(dir, "work"))
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatalf("mount an overlay: %v (the test has to run as root)", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	return upper, merged
}

func shell(t *testing.T, dir, script, where string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", "umask 022\n"+script)
	cmd.Dir = filepath.Join(dir, where)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// imageOf is an ext4 file system with the directory in it, made by mke2fs.
func imageOf(t *testing.T, dir string) *Tree {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.img")
	for _, args := range [][]string{{"truncate", "-s", "64M", path}, {"mke2fs", "-q", "-t", "ext4", "-d", dir, path}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s (apt-get install -y e2fsprogs)", args, err, out)
		}
	}
	return openTree(t, path)
}

// described is a tar as lines: type, mode, owner, name, link, size, attributes.
func described(t *testing.T, b []byte) (lines []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %04o %d:%d %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if h.Typeflag == tar.TypeChar {
			line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
		}
		if h.Typeflag == tar.TypeReg {
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %q", data)
		}
		for _, key := range []string{"SCHILY.xattr.user.note", "SCHILY.xattr.security.capability", "SCHILY.xattr.trusted.mine"} {
			if v, ok := h.PAXRecords[key]; ok {
				line += fmt.Sprintf(" %s=%d", strings.TrimPrefix(key, "SCHILY.xattr."), len(v))
			}
		}
		for key := range h.PAXRecords {
			if strings.Contains(key, "overlay") {
				t.Errorf("%s has %s", h.Name, key)
			}
		}
		lines = append(lines, line)
	}
}

// What a command did to an overlay comes out as the layer that makes the same
// of the lower tree.
func TestWriteDiff(t *testing.T) {
	t.Parallel()
	upper, merged := overlay(t, `
mkdir -p etc gone/deep opaque/sub same
echo a >etc/a; echo b >etc/b; echo x >gone/deep/x; echo y >opaque/y; echo z >opaque/sub/z; echo s >same/s
ln -s /etc/a link; ln etc/b etc/hard`)
	shell(t, merged, `
rm etc/a link
rm -r gone
rm -r opaque; mkdir opaque; echo new >opaque/new
echo bb >etc/c; ln etc/c etc/d; chmod 4755 etc/c
mkdir -m 1777 tmp; ln -s ../c tmp/l; mkfifo tmp/f; mknod tmp/dev c 5 1; chown 12:34 tmp/f
setfattr -n user.note -v hello etc/c
setfattr -n trusted.mine -v x etc/c
touch -d '2001-02-03 04:05:06.123456789 UTC' tmp/f`, "")
	stage := t.TempDir()
	if out, err := exec.Command("cp", "-a", upper, filepath.Join(stage, "u")).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	tree := imageOf(t, stage)
	var b bytes.Buffer
	count, err := tree.WriteDiff(t.Context(), &b, "u", &tar.Header{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	got := described(t, b.Bytes())
	entries := len(got)
	got = slices.DeleteFunc(got, func(line string) bool { return strings.Contains(line, "tmp/.wh.") }) // of a new directory, by some kernels
	want := []string{
		"5 0755 0:0 ./",
		"5 0755 0:0 etc/",
		`0 0000 0:0 etc/.wh.a ""`,
		`0 4755 0:0 etc/c "bb\n" user.note=5 trusted.mine=1`,
		"1 4755 0:0 etc/d -> etc/c",
		`0 0000 0:0 .wh.gone ""`,
		`0 0000 0:0 .wh.link ""`,
		"5 0755 0:0 opaque/",
		`0 0000 0:0 opaque/.wh..wh..opq ""`,
		`0 0644 0:0 opaque/new "new\n"`,
		"5 1777 0:0 tmp/",
		"3 0644 0:0 tmp/dev 5,1",
		"6 0644 12:34 tmp/f",
		"2 0777 0:0 tmp/l -> ../c",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if count != 12 { // neither the root nor what says that a directory is opaque
		t.Errorf("%d entries of %d", count, entries)
	}
}

// A step that changed nothing makes no layer, whatever the time of the root.
func TestWriteDiffEmpty(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		mode  os.FileMode
		lower *tar.Header
		count int
	}{
		{"as it was", 0o755, &tar.Header{Mode: 0o755}, 0},
		{"over another upper directory", 0o755, &tar.Header{Mode: 0o755, PAXRecords: map[string]string{
			"mtime": "1.5", "SCHILY.xattr.trusted.overlay.impure": "y"}}, 0},
		{"of scratch", 0o755, nil, 0},
		{"another mode", 0o711, &tar.Header{Mode: 0o755}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			u := filepath.Join(dir, "u")
			if err := errors.Join(os.Mkdir(u, 0o755), os.Chmod(u, tt.mode)); err != nil {
				t.Fatal(err)
			}
			tree := imageOf(t, dir)
			count, err := tree.WriteDiff(t.Context(), io.Discard, "u", tt.lower)
			if err != nil || count != tt.count {
				t.Errorf("%d entries, %v; want %d", count, err, tt.count)
			}
			if _, err := tree.WriteDiff(t.Context(), io.Discard, "none", nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("of a directory that is not there: %v", err)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	shell(t, dir, "mkdir -p a/b; echo hello >a/b/c; ln -s b a/l; ln a/b/c a/h", "")
	tree := imageOf(t, dir)
	for name, want := range map[string]byte{"": tar.TypeDir, "a/b/c": tar.TypeReg, "/a/../a/l": tar.TypeSymlink, "a/l/c": 0, "a/b/c/d": 0, "x": 0} {
		f, err := tree.Lookup(name)
		if want == 0 {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: %v", name, err)
			}
			continue
		}
		if err != nil || f.Header.Typeflag != want {
			t.Errorf("%q: %+v, %v", name, f, err)
		}
	}
	f, err := tree.Lookup("a")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = tree.Walk(t.Context(), f, func(name string, f *TreeFile) error {
		var b strings.Builder
		if f.Header.Typeflag == tar.TypeReg {
			if err := f.Copy(&b); err != nil {
				return err
			}
		}
		got = append(got, fmt.Sprintf("%c %s %s %q", f.Header.Typeflag, name, f.Header.Linkname, b.String()))
		return nil
	})
	want := []string{`5 b  ""`, `0 b/c  "hello\n"`, `1 h b/c ""`, `2 l b ""`}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v: got %q, want %q", err, got, want)
	}
}
