package parcel

import (
	"archive/tar"
	"bytes"
	"errors"
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
)

var then = time.Unix(1_000_000_000, 123456789)

// lines describes a tree: every name with its mode, time, number of names, and contents.
func lines(t *testing.T, root string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%s %v %v", rel, fi.Mode(), fi.ModTime().Equal(then))
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %.20q %d", b, sys(fi).Nlink)
		case fi.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			line += " -> " + target
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// source makes a tree with everything that is kept.
func source(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "src")
	check(t, os.MkdirAll(filepath.Join(root, "sub/empty"), 0o755))
	check(t, os.WriteFile(filepath.Join(root, "a"), []byte("hello"), 0o640))
	check(t, os.WriteFile(filepath.Join(root, "sub/tool"), []byte("#!"), 0o755))
	check(t, os.Link(filepath.Join(root, "a"), filepath.Join(root, "sub/a2")))
	check(t, os.Symlink("/nowhere/at all", filepath.Join(root, "link")))
	check(t, unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	check(t, os.Chmod(filepath.Join(root, "sub/tool"), 0o755|fs.ModeSetuid))
	check(t, os.Chmod(filepath.Join(root, "sub"), 0o555))
	for _, name := range []string{"a", "sub/tool", "link", "sub/empty", "sub", "."} {
		ts := unix.NsecToTimespec(then.UnixNano())
		check(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	return root
}

// carry packs and unpacks.
func carry(t *testing.T, s Source, to Target) (Report, error) {
	t.Helper()
	var b bytes.Buffer
	if _, err := Pack(&b, s); err != nil {
		return Report{}, err
	}
	return Unpack(&b, to)
}

func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	src, dst := source(t), t.TempDir()
	var b bytes.Buffer
	r, err := Pack(&b, Source{Path: src})
	check(t, err)
	if r.Skipped != 1 || r.First != "pipe" || r.Bytes != 7 {
		t.Errorf("report %+v", r)
	}
	_, err = Unpack(&b, Target{Path: dst, Name: "src"})
	check(t, err)
	want := []string{
		`src drwxr-xr-x true`, `src/a -rw-r----- true "hello" 2`, `src/link Lrwxrwxrwx true -> /nowhere/at all`,
		`src/sub dr-xr-xr-x true`, `src/sub/a2 -rw-r----- true "hello" 2`, `src/sub/empty drwxr-xr-x true`, `src/sub/tool -rwxr-xr-x true "#!" 1`,
	}
	if got := lines(t, dst); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	kept := t.TempDir()
	_, err = carry(t, Source{Path: src + "/sub/tool"}, Target{Path: kept + "/x", Name: "tool", Setuid: true})
	check(t, err)
	if got := lines(t, kept); !slices.Equal(got, []string{`x urwxr-xr-x true "#!" 1`}) {
		t.Errorf("got %q", got)
	}
}

// Where a copy goes is what docker cp documents.
func TestWhereTo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ src, dst, want, problem string }{
		{src: "file", dst: "new", want: "new"},
		{src: "file", dst: "new/", problem: "no such folder"},
		{src: "file", dst: "old", want: "old"},
		{src: "file", dst: "old/", problem: "not a directory"},
		{src: "file", dst: "dir", want: "dir/file"},
		{src: "file", dst: "dir/", want: "dir/file"},
		{src: "file", dst: "link", want: "dir/file"},
		{src: "file", dst: "tofile", want: "old"},
		{src: "file", dst: "no/new", problem: "no such file"},
		{src: "file", dst: "dangling", problem: "leads nowhere"},
		{src: "file", dst: "with", problem: "is a folder"},
		{src: "tree", dst: "new", want: "new/x"},
		{src: "tree", dst: "new/", want: "new/x"},
		{src: "tree", dst: "dir", want: "dir/tree/x"},
		{src: "tree/.", dst: "dir", want: "dir/x"},
		{src: "tree/.", dst: "new", want: "new/x"},
		{src: "tree", dst: "old", problem: "this is none"},
		{src: "tree", dst: "withfile", problem: "no folder"},
		{src: "totree", dst: "dir", want: "dir/totree"},
		{src: "totree/", dst: "dir", want: "dir/totree/x"},
		{src: "none", dst: "dir", problem: "no such file"},
		{src: "pipe", dst: "dir", problem: "neither a file"},
	} {
		t.Run(tt.src+" to "+tt.dst, func(t *testing.T) {
			t.Parallel()
			src, dst := t.TempDir(), t.TempDir()
			check(t, os.WriteFile(src+"/file", []byte("new"), 0o600))
			check(t, os.Mkdir(src+"/tree", 0o755))
			check(t, os.WriteFile(src+"/tree/x", []byte("new"), 0o600))
			check(t, os.Symlink("tree", src+"/totree"))
			check(t, unix.Mkfifo(src+"/pipe", 0o600))
			for _, d := range []string{"/dir", "/with", "/with/file", "/withfile"} {
				check(t, os.Mkdir(dst+d, 0o755))
			}
			check(t, os.WriteFile(dst+"/withfile/tree", nil, 0o600))
			check(t, os.WriteFile(dst+"/old", []byte("old"), 0o600))
			check(t, os.Symlink("dir", dst+"/link"))
			check(t, os.Symlink("old", dst+"/tofile"))
			check(t, os.Symlink("nothing", dst+"/dangling"))
			before := lines(t, dst)
			_, err := carry(t, Source{Path: src + "/" + tt.src}, Target{Path: dst + "/" + tt.dst, Name: SourceName(tt.src)})
			if tt.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tt.problem) {
					t.Errorf("error %v, want %q", err, tt.problem)
				}
				if after := lines(t, dst); len(after) != len(before) {
					t.Errorf("it left %q", after)
				}
				return
			}
			check(t, err)
			if _, err := os.Lstat(dst + "/" + tt.want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHolesAreKept(t *testing.T) {
	t.Parallel()
	src, dst := t.TempDir(), t.TempDir()
	f, err := os.Create(src + "/big")
	check(t, err)
	const size = 6 << 30 // over what four bytes can say
	for _, at := range []int64{1 << 20, 5 << 30} {
		_, err = f.WriteAt([]byte("data"), at)
		check(t, err)
	}
	check(t, f.Truncate(size))
	check(t, f.Close())
	r, err := carry(t, Source{Path: src}, Target{Path: dst, Name: "d"})
	check(t, err)
	fi, err := os.Stat(dst + "/d/big")
	check(t, err)
	if fi.Size() != size || sys(fi).Blocks*512 > 1<<20 || r.Bytes > 1<<20 {
		t.Errorf("%d bytes in %d blocks, %d moved", fi.Size(), sys(fi).Blocks, r.Bytes)
	}
	g, err := os.Open(dst + "/d/big")
	check(t, err)
	defer g.Close()
	for at, want := range map[int64]string{1 << 20: "data", 5 << 30: "data", 2 << 30: "\x00\x00\x00\x00"} {
		b := make([]byte, 4)
		if _, err := g.ReadAt(b, at); err != nil || string(b) != want {
			t.Errorf("at %d: %q, %v", at, b, err)
		}
	}
}

// A stream for others has no words of ours, and one of others is taken.
func TestLoose(t *testing.T) {
	t.Parallel()
	src, dst := source(t), t.TempDir()
	f, err := os.Create(src + "/sparse")
	check(t, err)
	_, err = f.WriteAt([]byte("end"), 1<<20)
	check(t, errors.Join(err, f.Close()))
	var b bytes.Buffer
	_, err = Pack(&b, Source{Path: src, Prefix: "top", Plain: true})
	check(t, err)
	for tr := tar.NewReader(bytes.NewReader(b.Bytes())); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		if !strings.HasPrefix(h.Name, "top") || h.PAXRecords[sparseKey] != "" {
			t.Errorf("entry %q has %v", h.Name, h.PAXRecords)
		}
	}
	b.Write(make([]byte, 9000)) // as tar fills up a record
	_, err = Unpack(&b, Target{Path: dst, Loose: true})
	check(t, err)
	fi, err := os.Stat(dst + "/top/sparse")
	if err != nil || fi.Size() != 1<<20+3 || sys(fi).Blocks > 64 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := Unpack(bytes.NewReader(make([]byte, 1024)), Target{Path: dst, Loose: true}); err != nil {
		t.Errorf("an empty tar: %v", err)
	}
	if _, err := Unpack(bytes.NewReader(make([]byte, 1024)), Target{Path: dst + "/none", Loose: true}); err == nil {
		t.Error("a folder was made of nothing")
	}
}

// Files of the kernel's own views have no end, or no length.
func TestKernelFilesAreLeftOut(t *testing.T) {
	t.Parallel()
	root, err := os.OpenRoot("/proc")
	check(t, err)
	defer root.Close()
	mine, err := os.OpenRoot(t.TempDir())
	check(t, err)
	defer mine.Close()
	if !kernelOwn(root) || kernelOwn(mine) {
		t.Error("/proc is not told from a folder of files")
	}
}

func TestSourceName(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/a/b": "b", "/a/b/": "b", "/a/.": "", "/": "", ".": "", "..": "", "a/..": "", "x": "x", "": ""} {
		if got := SourceName(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
