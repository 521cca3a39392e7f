package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"banger"
)

func openTree(t testing.TB, path string) *Tree {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := OpenTree(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func writeTar(t testing.TB, tree *Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tree.WriteTar(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A tree comes out of an image as it went in, whatever was in it.
func TestTreeTorture(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := func(name string, layer []byte) string {
		path := filepath.Join(dir, name)
		if _, err := Build(t.Context(), path, []Layer{layerOf(layer)}, Options{Workers: 1}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := build("first", tortureTar(t, torture()))
	out := writeTar(t, openTree(t, first))
	second := build("second", out)
	fsck(t, second)
	a, b := openImage(t, first).files(), openImage(t, second).files()
	if len(a) != len(b) {
		t.Errorf("%d files became %d", len(a), len(b))
	}
	for name, f := range a {
		g := b[name]
		if g == nil {
			t.Errorf("%q is lost", name)
			continue
		}
		same := f.mode == g.mode && f.uid == g.uid && f.gid == g.gid && f.links == g.links && f.mtime.Equal(g.mtime) &&
			f.size == g.size && f.major == g.major && f.minor == g.minor && fmt.Sprint(f.xattrs) == fmt.Sprint(g.xattrs) &&
			(f.mode&typeMask == typeDir || bytes.Equal(f.data, g.data))
		if !same {
			t.Errorf("%q: %+v became %+v", name, *f, *g)
		}
	}
	if again := writeTar(t, openTree(t, second)); !bytes.Equal(out, again) {
		t.Error("the same tree gave other bytes")
	}
	if n, err := openTree(t, first).Check(t.Context()); err != nil || n != len(a)-3000 {
		t.Errorf("check: %d inodes, %v", n, err)
	}
}

// listing is what a tar says of its entries, without times: mke2fs writes seconds.
func listing(t testing.TB, b []byte) string {
	t.Helper()
	var lines []string
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "lost+found/" {
			continue
		}
		var attrs []string
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, paxXattr) {
				attrs = append(attrs, fmt.Sprintf("%s=%x", k, v))
			}
		}
		slices.Sort(attrs)
		lines = append(lines, fmt.Sprintf("%q %c %o %d:%d %q %d:%d %x %v", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname,
			h.Devmajor, h.Devminor, sha256.Sum256(data), attrs))
	}
	return strings.Join(lines, "\n")
}

// sampleDir is a directory of all that an ordinary user can make.
func sampleDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	random := make([]byte, 700_000)
	rand.NewChaCha8([32]byte{7}).Read(random)
	holes := make([]byte, 1<<20)
	for i := 0; i < len(holes); i += 100_000 {
		holes[i] = 1
	}
	must(os.MkdirAll(dir+"/a/b/c", 0o750))
	must(os.WriteFile(dir+"/random", random, 0o640))
	must(os.WriteFile(dir+"/holes", holes, 0o644))
	must(os.WriteFile(dir+"/a/empty", nil, 0o600))
	must(os.WriteFile(dir+"/.wh.name", []byte("no whiteout"), 0o600))
	must(os.Remove(dir + "/.wh.name"))
	must(os.WriteFile(dir+"/suid", []byte("#!"), 0o755))
	must(os.Chmod(dir+"/suid", 0o4755|os.ModeSetuid))
	must(os.Link(dir+"/random", dir+"/a/b/hard"))
	must(os.Symlink("/nowhere/"+strings.Repeat("x", 30), dir+"/fast"))
	must(os.Symlink(strings.Repeat("y", 200), dir+"/slow"))
	must(syscall.Mkfifo(dir+"/fifo", 0o622))
	for i := range 400 {
		must(os.WriteFile(fmt.Sprintf("%s/a/b/c/%d-%s", dir, i, strings.Repeat("n", i%150)), []byte(fmt.Sprint(i)), 0o644))
	}
	must(os.Chmod(dir, 0o755))
	return dir
}

func dirTar(t testing.TB, dir string) []byte {
	t.Helper()
	r, err := Dir(dir).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

// File systems that mke2fs makes, of all its kinds, read as the directory that
// they were made of.
func TestTreeOfOthers(t *testing.T) {
	t.Parallel()
	dir := sampleDir(t)
	want := strings.Split(listing(t, dirTar(t, dir))+"\n", "\n")
	for _, c := range []struct{ name, args string }{
		{"ext2", "-t ext2"}, {"ext3", "-t ext3"}, {"ext4", "-t ext4"}, {"old", "-t ext4 -O ^64bit,^metadata_csum -I 128"},
		{"1k", "-t ext2 -b 1024"}, {"1k ext4", "-t ext4 -b 1024"}, {"meta_bg", "-t ext4 -O meta_bg,^resize_inode -b 1024"},
		{"sparse2", "-t ext4 -O sparse_super2"}, {"small groups", "-t ext4 -b 1024 -g 1024"}, {"no types", "-t ext2 -O ^filetype"},
	} {
		path := filepath.Join(t.TempDir(), "image")
		args := append(strings.Fields("-q -F -d "+dir+" "+c.args), path, "24M")
		if out, err := exec.Command(tool(t, "mke2fs"), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: mke2fs %q: %v\n%s", c.name, args, err, out)
		}
		tree := openTree(t, path)
		got := listing(t, writeTar(t, tree))
		for i, line := range strings.Split(got+"\n", "\n") {
			if i >= len(want) || line != want[i] {
				t.Errorf("%s: line %d is %.400s, want %.400s", c.name, i, line, want[min(i, len(want)-1)])
				break
			}
		}
		if _, err := tree.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// debugfsWrite spoils an image.
func debugfsWrite(t testing.TB, path string, commands ...string) {
	t.Helper()
	cmd := exec.Command(tool(t, "debugfs"), "-w", "-f", "-", path)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
}

func TestTreeDamaged(t *testing.T) {
	t.Parallel()
	dir := sampleDir(t)
	for name, c := range map[string]struct {
		commands []string
		word     string
		check    bool // only Check sees it
	}{
		"loop":            {[]string{"link /a /a/b/loop"}, "in the tree twice", false},
		"links":           {[]string{"sif /random links_count 7"}, "it says 7", true},
		"free block":      {[]string{"freeb 1 6000"}, "marked as free", true},
		"free inode":      {[]string{"freei /random"}, "marked as free", true},
		"shared block":    {[]string{"sif /holes block[0] 0"}, "", false},
		"type":            {[]string{"sif /fifo mode 0100644"}, "another type", false},
		"no inode":        {[]string{"sif /random links_count 0"}, "not in use", false},
		"encrypted":       {[]string{"sif /random flags 0x80800"}, "encrypted", false},
		"inline":          {[]string{"sif /random flags 0x10080000"}, "inline_data", false},
		"size":            {[]string{"sif /random size 0x7fffffffffff"}, "makes no sense", false},
		"extent depth":    {[]string{"sif /random block[1] 0x00090004"}, "extents are damaged", false},
		"root is no dir":  {[]string{"sif / mode 0100644"}, "root is not a directory", false},
		"target too long": {[]string{"sif /slow size 5000"}, "longer than 4095", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "image")
			if out, err := exec.Command(tool(t, "mke2fs"), "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-d", dir, path, "24M").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			debugfsWrite(t, path, c.commands...)
			tree := openTree(t, path)
			err := tree.WriteTar(t.Context(), io.Discard)
			_, cerr := tree.Check(t.Context())
			if c.check {
				if err != nil {
					t.Errorf("write: %v", err)
				}
				err = cerr
			}
			if err == nil || cerr == nil || !strings.Contains(err.Error(), c.word) || banger.IsKind(err, banger.Internal) {
				t.Errorf("write: %v, check: %v; want %q", err, cerr, c.word)
			}
		})
	}
}

// smallImage is an image of a few kilobytes.
func smallImage(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	err := create(path, 0o644, func(f *os.File) error {
		w := newWriter(f, Limits{Bytes: 1 << 20, Entries: 64}.withDefaults())
		d := w.newData(newLanes(&w.blocks, 0), 0)
		root := &node{ino: newDir()}
		for i := range 5 {
			data := bytes.Repeat([]byte{byte(i + 1)}, 5000*i)
			extents, err := d.add(int64(len(data)), bytes.NewReader(data))
			if err != nil {
				return err
			}
			root.set(fmt.Sprint("f", i), &node{ino: &inode{mode: typeRegular | 0o644, size: int64(len(data)), extents: extents,
				xattrs: []xattr{{1, "a", strings.Repeat("v", 40*i)}}}})
		}
		if err := d.close(); err != nil {
			return err
		}
		root.set("link", &node{ino: &inode{mode: typeSymlink | 0o777, size: 100, target: strings.Repeat("t", 100)}})
		root.set("d", &node{ino: newDir()})
		root.kids["d"].set("x", root.kids["f3"])
		return w.finish(context.Background(), root)
	})
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readAll reads whatever is in b; only that it ends, and how, is of interest.
func readAll(t testing.TB, b []byte) {
	tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err == nil {
		tree.most = 1 << 20
		err = tree.WriteTar(t.Context(), io.Discard)
		if err == nil {
			_, _ = tree.Check(t.Context())
		}
	}
	if banger.IsKind(err, banger.Internal) {
		t.Errorf("an error of banger itself: %v", err)
	}
}

// Damage anywhere in the metadata ends in an error or in another tree.
func TestTreeSurvivesDamage(t *testing.T) {
	t.Parallel()
	whole := smallImage(t)
	readAll(t, whole)
	r := rand.New(rand.NewPCG(1, 2))
	for range 1500 {
		b := bytes.Clone(whole)
		for range 1 + r.IntN(4) {
			at := superOffset + r.IntN(len(b)-superOffset)
			if r.IntN(3) == 0 {
				at = superOffset + r.IntN(3*blockSize)
			}
			b[at] = byte(r.Uint32())
		}
		readAll(t, b)
	}
	for n := 0; n < len(whole); n += 1111 {
		readAll(t, whole[:n])
	}
}

func FuzzTree(f *testing.F) {
	f.Add(smallImage(f))
	f.Fuzz(func(t *testing.T, b []byte) { readAll(t, b) })
}

func TestWriteTarErrors(t *testing.T) {
	t.Parallel()
	b := smallImage(t)
	open := func() *Tree {
		tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	full := errors.New("full")
	if err := open().WriteTar(t.Context(), failAfter{2000, full}); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := open().WriteTar(ctx, io.Discard); !banger.IsKind(err, banger.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	m := new(bytes.Buffer)
	tw := tar.NewWriter(m)
	_ = tw.WriteHeader(&tar.Header{Name: ".wh.x", Typeflag: tar.TypeReg})
	_ = tw.Close()
	path := filepath.Join(t.TempDir(), "image")
	literal := layerOf(m.Bytes())
	literal.Literal = true
	if _, err := Build(t.Context(), path, []Layer{literal}, Options{}); err != nil {
		t.Fatal(err)
	}
	if openImage(t, path).files()[".wh.x"] == nil {
		t.Error("a literal layer lost the file .wh.x")
	}
	if err := openTree(t, path).WriteTar(t.Context(), io.Discard); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("a whiteout's name: %v", err)
	}
}

type failAfter struct {
	n   int
	err error
}

func (f failAfter) Write(p []byte) (int, error) { return 0, f.err }
