package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
)

// What comes out of an EROFS image is what comes out of the ext4 image of the
// same layers, byte for byte.
func TestErofsTreeTorture(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	layer := tortureTar(t, torture())
	var tars [][]byte
	var counts []int
	for _, fs := range []string{FSExt4, FSErofs} {
		path := filepath.Join(dir, fs)
		if _, err := Build(t.Context(), path, []Layer{layerOf(layer)}, Options{Workers: 1, FS: fs}); err != nil {
			t.Fatal(err)
		}
		tree := openTree(t, path)
		tars = append(tars, writeTar(t, tree))
		n, err := tree.Check(t.Context())
		if err != nil {
			t.Errorf("%s: %v", fs, err)
		}
		counts = append(counts, n)
	}
	if !bytes.Equal(tars[0], tars[1]) {
		t.Errorf("%d bytes of ext4, %d of erofs", len(tars[0]), len(tars[1]))
	}
	if counts[0] != counts[1] {
		t.Errorf("%d inodes of ext4, %d of erofs", counts[0], counts[1])
	}
}

// erofsOf is an image that mkfs.erofs makes of a directory.
func erofsOf(t testing.TB, dir string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	args = slices.Concat([]string{"--quiet"}, args, []string{path, dir})
	if out, err := exec.Command(erofsTool(t, "mkfs.erofs"), args...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs %q: %v\n%s", args, err, out)
	}
	return path
}

// erofsSample is sampleDir with files that mkfs.erofs writes in all its ways:
// chunks that are holes or the same, ends of all lengths, attributes that many
// files have, ACLs.
func erofsSample(t testing.TB) string {
	t.Helper()
	dir := sampleDir(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(dir + "/sparse")
	must(err)
	_, err = f.WriteAt(bytes.Repeat([]byte("data"), 5000), 300<<10)
	must(err)
	must(f.Truncate(1<<20 + 17))
	must(f.Close())
	must(os.WriteFile(dir+"/same", bytes.Repeat([]byte("x"), 100_000), 0o644))
	for i, size := range []int{1, 4000, 4064, 4095, 4096, 4097, 8191, 8192, 12289} {
		name := fmt.Sprintf("%s/end%d", dir, i)
		must(os.WriteFile(name, bytes.Repeat([]byte{byte('a' + i)}, size), 0o644))
		must(unix.Setxattr(name, "user.ours", []byte("the same everywhere"), 0))
		must(unix.Setxattr(name, "user.mine", bytes.Repeat([]byte{byte(i)}, 100*i), 0))
	}
	must(unix.Setxattr(dir+"/suid", "system.posix_acl_access", []byte(posixACL), 0))
	must(unix.Setxattr(dir+"/a", "user.ours", []byte("the same everywhere"), 0))
	return dir
}

// File systems that mkfs.erofs makes without compression, of all its kinds,
// read as the directory that they were made of.
func TestErofsTreeOfOthers(t *testing.T) {
	t.Parallel()
	dir := erofsSample(t)
	want := strings.Split(listing(t, dirTar(t, dir))+"\n", "\n")
	for _, args := range []string{
		"", "-Enoinline_data -x1", "-Eforce-inode-compact -x100 -T1000", "-Eforce-inode-extended", "--chunksize=4096", "--chunksize=1048576",
		"--chunksize=8192 -Eforce-inode-blockmap", "--chunksize=4096 -Eforce-chunk-indexes",
	} {
		path := erofsOf(t, dir, strings.Fields(args)...)
		tree := openTree(t, path)
		got := strings.Split(listing(t, writeTar(t, tree))+"\n", "\n")
		for i, line := range got {
			if i >= len(want) || line != want[i] {
				t.Errorf("%q: line %d is %.400s, want %.400s", args, i, line, want[min(i, len(want)-1)])
				break
			}
		}
		if len(got) != len(want) {
			t.Errorf("%q: %d entries, want %d", args, len(got), len(want))
		}
		if _, err := tree.Check(t.Context()); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// What is mounted and not read says so.
func TestErofsTreeUnsupported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a", bytes.Repeat([]byte("compress me"), 10_000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, word string
		late       bool // no feature tells, only a file
		spoil      func(b []byte)
	}{
		{args: "-zlz4", word: "compressed"},
		{args: "-zlz4hc -C65536", word: "compressed"},
		{args: "-zlz4 -Elegacy-compress", word: "compressed", late: true},
		{word: "long prefixes", spoil: func(b []byte) { b[superOffset+80] |= erofsPrefixes }},
		{word: "larger blocks", spoil: func(b []byte) { b[superOffset+90] = 1 }},
	} {
		b, err := os.ReadFile(erofsOf(t, dir, strings.Fields(c.args)...))
		if err != nil {
			t.Fatal(err)
		}
		if c.spoil != nil {
			b[superOffset+8] &^= erofsChecksum
			c.spoil(b)
		}
		tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
		if (err == nil) != c.late {
			t.Errorf("%q: open: %v", c.args, err)
		}
		if err == nil {
			err = tree.WriteTar(t.Context(), io.Discard)
		}
		if !banger.IsKind(err, banger.Unsupported) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%q: %v, want %q", c.args, err, c.word)
		}
	}
}

// spoiledErofs is an image in memory that a test damages.
type spoiledErofs struct {
	t testing.TB
	b []byte
}

func (s *spoiledErofs) tree() *Tree {
	s.t.Helper()
	tree, err := OpenTree(bytes.NewReader(s.b), int64(len(s.b)))
	if err != nil {
		s.t.Fatal(err)
	}
	return tree
}

// find gives the inode of a path, and the image from there on.
func (s *spoiledErofs) find(path string) (*erofsReader, *erofsNode, []byte) {
	s.t.Helper()
	tree := s.tree()
	e := tree.fsReader.(*erofsReader)
	f, err := tree.Lookup(path)
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := e.node(f.ino.number)
	if err != nil {
		s.t.Fatal(err)
	}
	return e, n, s.b[e.super.inodes+int64(n.number)*erofsSlot:]
}

func (s *spoiledErofs) inode(path string) []byte {
	_, _, b := s.find(path)
	return b
}

// behind is what stands behind an inode and its attributes.
func (s *spoiledErofs) behind(path string) []byte {
	_, n, _ := s.find(path)
	return s.b[n.behind:]
}

func (s *spoiledErofs) xattrs(path string) []byte {
	_, n, _ := s.find(path)
	return s.b[n.behind-n.xattrs : n.behind]
}

// dir is the first block of a directory, which has to have "." and "..".
func (s *spoiledErofs) dir(path string) []byte {
	e, n, _ := s.find(path)
	first := int64(-1)
	_ = e.pieces(n, func(at, _ int64) error {
		if first < 0 {
			first = at
		}
		return nil
	})
	return s.b[first:][:min(n.size, blockSize)]
}

// replace puts bytes in the place of as many.
func (s *spoiledErofs) replace(b []byte, old, with string) {
	s.t.Helper()
	at := bytes.Index(b, []byte(old))
	if at < 0 || len(old) != len(with) {
		s.t.Fatalf("no %q to become %q", old, with)
	}
	copy(b[at:], with)
}

// erofsDamage are kinds of damage, each with the error that it is.
var erofsDamage = map[string]struct {
	args  string
	spoil func(*spoiledErofs)
	word  string
}{
	"format":       {"", func(s *spoiledErofs) { s.inode("same")[0] |= 0x10 }, "a form (0x1"},
	"layout":       {"", func(s *spoiledErofs) { s.inode("same")[0] = 5 << 1 }, "a form (5)"},
	"compressed":   {"", func(s *spoiledErofs) { s.inode("same")[0] = 3 << 1 }, "compressed"},
	"no type":      {"", func(s *spoiledErofs) { s.inode("same")[5] = 0 }, "another type"},
	"type":         {"", func(s *spoiledErofs) { s.inode("same")[5] = typeChar >> 8 }, "another type"},
	"no links":     {erofsCompactArgs, func(s *spoiledErofs) { s.inode("same")[6] = 0 }, "not in use"},
	"links":        {erofsCompactArgs, func(s *spoiledErofs) { s.inode("same")[6] = 7 }, "it says 7"},
	"size":         {"-Eforce-inode-extended", func(s *spoiledErofs) { s.inode("same")[15] = 1 }, "makes no sense"},
	"nanoseconds":  {"-Eforce-inode-extended", func(s *spoiledErofs) { s.inode("same")[43] = 0x7f }, "makes no sense"},
	"block":        {"-Enoinline_data", func(s *spoiledErofs) { s.inode("same")[19] = 1 }, "contents are not in the file system"},
	"first block":  {"-Enoinline_data", func(s *spoiledErofs) { clear(s.inode("same")[16:20]) }, "contents are not in the file system"},
	"more blocks":  {"-Enoinline_data", func(s *spoiledErofs) { s.inode("same")[11] = 1 }, "contents are not in the file system"},
	"end":          {erofsCompactArgs, func(s *spoiledErofs) { s.inode("a/b/c/1-n")[9] = 0x0f }, "goes over the end of a block"},
	"chunk form":   {"--chunksize=4096", func(s *spoiledErofs) { s.inode("sparse")[16] |= 0x80 }, "chunks have a form"},
	"chunk":        {"--chunksize=4096", func(s *spoiledErofs) { s.behind("same")[3] = 1 }, "a chunk of its contents"},
	"chunk map":    {"--chunksize=4096 -Eforce-inode-extended", func(s *spoiledErofs) { s.inode("sparse")[13] = 1 }, "the map of its chunks"},
	"device":       {"--chunksize=4096 -Eforce-chunk-indexes", func(s *spoiledErofs) { copy(s.behind("same"), strings.Repeat("\x01", 12)) }, "another device"},
	"target":       {"", func(s *spoiledErofs) { s.behind("fast")[3] = 0 }, "NUL"},
	"long target":  {"-Enoinline_data", func(s *spoiledErofs) { copy(s.inode("slow")[16:], "\x01\x00\x00\x00"); s.inode("slow")[9] = 0x10 }, "longer than 4095"},
	"shared":       {"-x100", func(s *spoiledErofs) { s.xattrs("end3")[4] = 255 }, "attributes are damaged"},
	"xattr":        {"-x100", func(s *spoiledErofs) { s.xattrs("end3")[15] = 255 }, "attributes are damaged"},
	"xattr twice":  {"-x100", func(s *spoiledErofs) { s.replace(s.xattrs("end3"), "ours", "mine") }, "twice"},
	"long prefix":  {"-x100", func(s *spoiledErofs) { s.xattrs("end3")[13] |= 0x80 }, "a long prefix"},
	"shared xattr": {"-x1", func(s *spoiledErofs) { s.b[superOffset+47] = 1 }, "is not in the file system"},
	"ACL":          {"-x100", func(s *spoiledErofs) { s.xattrs("suid")[16] = 9 }, "ACL is damaged"},
	"root":         {"", func(s *spoiledErofs) { s.inode("")[5] = typeRegular >> 8 }, "root is not a directory"},
	"order":        {"", func(s *spoiledErofs) { s.replace(s.dir("a/b/c"), "0-", "~-") }, "not in order"},
	"slash":        {"", func(s *spoiledErofs) { s.replace(s.dir("a"), "empty", "em/ty") }, "has the name"},
	"no names":     {"", func(s *spoiledErofs) { s.dir("a")[8] = 0 }, "entries are damaged"},
	"name offset":  {"", func(s *spoiledErofs) { s.dir("a")[12+8] = 0 }, "entries are damaged"},
	"name behind":  {"", func(s *spoiledErofs) { s.dir("a")[12+9] = 0xff }, "entries are damaged"},
	"inode":        {"", func(s *spoiledErofs) { s.dir("a")[3*12+5] = 1 }, "is not in the file system"},
	"kind":         {"", func(s *spoiledErofs) { s.dir("a")[3*12+10] = 2 }, "another type"},
	"own entry":    {"", func(s *spoiledErofs) { s.dir("a")[0]++ }, "its own entry"},
	"parent":       {"", func(s *spoiledErofs) { s.dir("a")[12]++ }, "entry of its parent"},
	"loop":         {"", func(s *spoiledErofs) { copy(s.dir("a/b")[2*12:], s.dir("a")[:8]) }, "in the tree twice"},
	"dir chunks":   {"--chunksize=4096", func(s *spoiledErofs) { b := s.inode("a"); b[0] = b[0]&1 | erofsChunks<<1; clear(b[16:20]) }, "directory in chunks"},
}

const erofsCompactArgs = "-Eforce-inode-compact -T1"

// Each kind of damage is an error that says what it is; that links are not as
// many as names is seen by Check alone.
func TestErofsTreeDamaged(t *testing.T) {
	t.Parallel()
	dir := erofsSample(t)
	images := map[string][]byte{}
	for _, c := range erofsDamage {
		if images[c.args] != nil {
			continue
		}
		b, err := os.ReadFile(erofsOf(t, dir, strings.Fields(c.args)...))
		if err != nil {
			t.Fatal(err)
		}
		b[superOffset+8] &^= erofsChecksum
		images[c.args] = b
	}
	for name, c := range erofsDamage {
		t.Run(name, func(t *testing.T) {
			s := &spoiledErofs{t, bytes.Clone(images[c.args])}
			c.spoil(s)
			tree := s.tree()
			err := tree.WriteTar(t.Context(), io.Discard)
			_, cerr := tree.Check(t.Context())
			if name == "links" {
				err = errors.Join(err, cerr)
			}
			if err == nil || cerr == nil || !strings.Contains(err.Error(), c.word) || banger.IsKind(err, banger.Internal) {
				t.Errorf("write: %v, check: %v; want %q", err, cerr, c.word)
			}
		})
	}
}

// What one name or one attribute more makes too much.
func TestErofsTreeBounds(t *testing.T) {
	t.Parallel()
	if _, err := addName(make([]name, 3), name{name: "a"}, 3); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("a directory: %v", err)
	}
	w := &treeWalk{count: maxTreeNames}
	if err := w.name("", nil, name{name: "a"}, 0); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("a tree: %v", err)
	}
	d := &erofsDir{ino: &inode{}, slots: 1 << 40}
	if err := d.add("a", 1<<33, 1); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("an inode far out: %v", err)
	}
	if err := d.add("b", 1<<63, 1); !banger.IsKind(err, banger.Invalid) {
		t.Errorf("an inode nowhere: %v", err)
	}
	tree := (&spoiledErofs{t, tinyErofs(12)}).tree()
	f, err := tree.Lookup("f")
	if err != nil {
		t.Fatal(err)
	}
	for most, ok := range map[int64]bool{f.Header.Size - 1: false, f.Header.Size: true} {
		tree.most = most
		for _, err := range []error{tree.WriteTar(t.Context(), io.Discard), f.Copy(io.Discard)} {
			if (err == nil) != ok || err != nil && !banger.IsKind(err, banger.Unsupported) {
				t.Errorf("with at most %d bytes: %v", most, err)
			}
		}
	}
	l := &erofsXattrList{seen: map[xattr]bool{}}
	for i := 0; err == nil && i < 10; i++ {
		b := []byte{1, 1, 0xff, 0xff, byte('a' + i)}
		_, err = l.add(append(b, make([]byte, 1<<16-1)...))
	}
	if !banger.IsKind(err, banger.Unsupported) || len(l.list) != 1 {
		t.Errorf("%d attributes: %v", len(l.list), err)
	}
}

// smallErofs are images of all forms of inodes, of a few blocks each.
func smallErofs(t testing.TB) [][]byte {
	t.Helper()
	dir := t.TempDir()
	for i, size := range []int{0, 10, 4096, 9000, 20000} {
		name := fmt.Sprintf("%s/f%d", dir, i)
		err := errors.Join(os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, size), 0o644),
			unix.Setxattr(name, "user.ours", []byte("the same"), 0), unix.Setxattr(name, "user.mine", bytes.Repeat([]byte("v"), 40*i), 0))
		if err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Mkdir(dir+"/d", 0o700), os.Link(dir+"/f3", dir+"/d/x"), os.Symlink(strings.Repeat("t", 100), dir+"/link"),
		unix.Setxattr(dir+"/d", "system.posix_acl_access", []byte(posixACL), 0))
	if err != nil {
		t.Fatal(err)
	}
	var images [][]byte
	for _, args := range []string{"", "-x1 -Eforce-inode-extended", "--chunksize=4096", "--chunksize=4096 -Eforce-chunk-indexes"} {
		b, err := os.ReadFile(erofsOf(t, dir, strings.Fields(args)...))
		if err != nil {
			t.Fatal(err)
		}
		b[superOffset+8] &^= erofsChecksum
		images = append(images, b)
	}
	return append(images, tinyErofs(9))
}

// Damage anywhere in the metadata ends in an error or in another tree.
func TestErofsTreeSurvivesDamage(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, whole := range smallErofs(t) {
		readAll(t, whole)
		for range 200 {
			b := bytes.Clone(whole)
			for range 1 + r.IntN(4) {
				b[superOffset+r.IntN(len(b)-superOffset)] = byte(r.Uint32())
			}
			readAll(t, b)
		}
		for n := 0; n < len(whole); n += 777 {
			readAll(t, whole[:n])
		}
	}
}

// FuzzErofs reads whatever is there as EROFS.
func FuzzErofs(f *testing.F) {
	for _, b := range smallErofs(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { readAll(t, b) })
}
