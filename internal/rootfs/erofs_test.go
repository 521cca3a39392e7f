package rootfs

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
)

// describeFile is all that has to be the same in both file systems.
func describeFile(f *file) string {
	x := map[string]string{}
	for name, value := range f.xattrs {
		if acl, ok := callACL(value); ok && strings.HasPrefix(name, "2:") || ok && strings.HasPrefix(name, "3:") {
			value = acl
		}
		x[name] = value
	}
	size := f.size
	if f.mode&typeMask == typeDir {
		size, f.data = 0, nil
	}
	return fmt.Sprintf("mode %o owner %d:%d links %d size %d time %d device %d:%d attributes %q contents %x",
		f.mode, f.uid, f.gid, f.links, size, f.mtime.UnixNano(), f.major, f.minor, x, sha256.Sum256(f.data))
}

// compareFiles compares two trees entry by entry, and which names are one file.
func compareFiles(t *testing.T, got, want map[string]*file) {
	t.Helper()
	first := map[uint32]uint32{}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, w := got[name], want[name]
		if g == nil {
			t.Errorf("%q is missing", name)
			continue
		}
		if a, b := describeFile(g), describeFile(w); a != b {
			t.Errorf("%q is\n %s, and in ext4\n %s", name, a, b)
		}
		if n, ok := first[w.number]; ok && n != g.number {
			t.Errorf("%q is not the file that it is in ext4", name)
		}
		first[w.number] = g.number
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, %d in ext4", len(got), len(want))
	}
}

// TestErofsTorture builds both file systems of the torture layer, and compares
// them by this package's readers and as the kernel shows EROFS.
func TestErofsTorture(t *testing.T) {
	t.Parallel()
	layer := tortureTar(t, torture())
	_, want := mustBuild(t, layer)
	path, got := buildErofs(t, layer)
	compareFiles(t, got, want)
	if f := got["holes"]; f.blocks != 40*16 || f.extents != 40 {
		t.Errorf("holes has %d chunks with %d blocks", f.extents, f.blocks)
	}
	if f := got["zeros"]; f.blocks != 0 {
		t.Errorf("zeros has %d blocks", f.blocks)
	}
	compareMounted(t, path, want)
}

// TestErofsMerge merges what the tests of ext4 merge.
func TestErofsMerge(t *testing.T) {
	t.Parallel()
	for _, c := range merges {
		t.Run(c.name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, tarOf(t, l...))
			}
			_, files := buildErofs(t, layers...)
			if got := list(files); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestErofsNames fills directories around the ends of their blocks and of the
// blocks of inodes, with names before and after "." and "..".
func TestErofsNames(t *testing.T) {
	t.Parallel()
	lines := []string{"f ! x", "f -a x", "f .! x", "f ..a x", "f .a x", "d e"}
	for n := range 60 { // each has a symlink of another length, so that inodes stand everywhere
		lines = append(lines, fmt.Sprintf("l links/%02d %s", n, strings.Repeat("t", 1+n*69)))
	}
	for n := 300; n < 345; n++ {
		for k := range n / 10 {
			lines = append(lines, fmt.Sprintf("f %d/%s%d x", n, strings.Repeat("n", 100+n%10), k))
		}
	}
	layer := tarOf(t, lines...)
	_, want := mustBuild(t, layer)
	path, got := buildErofs(t, layer)
	compareFiles(t, got, want)
	compareMounted(t, path, want)
}

// TestErofsTimes looks which inodes carry a time of their own.
func TestErofsTimes(t *testing.T) {
	t.Parallel()
	var same, other []*tar.Header
	for i := range 300 {
		h := pax(fmt.Sprint(i), nil)
		h.ModTime = time.Unix(1_700_000_000, 5)
		same = append(same, h)
		c := *h
		c.ModTime = time.Unix(int64(i), int64(i))
		other = append(other, &c)
	}
	size := func(list []*tar.Header) int64 {
		layer := headerTar(t, list...)
		_, want := mustBuild(t, layer)
		path, got := buildErofs(t, layer)
		compareFiles(t, got, want)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if a, b := size(same), size(other); a+2*blockSize > b {
		t.Errorf("%d bytes with one time, %d with many", a, b)
	}
}

// TestErofsSameBytes builds with one worker, and with layers that end in any order.
func TestErofsSameBytes(t *testing.T) {
	t.Parallel()
	var tars [][]byte
	for i := range 4 {
		tars = append(tars, bigTar(t, byte(i), (i+1)<<19))
	}
	sizes := []int64{1 << 18, 0, 3 << 17, 1 << 19}
	build := func(workers int, layers []Layer) [32]byte {
		path := filepath.Join(t.TempDir(), "image")
		if _, err := Build(t.Context(), path, layers, Options{Workers: workers, FS: FSErofs}); err != nil {
			t.Fatal(err)
		}
		fsckErofs(t, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	var alone []Layer
	for i, b := range tars {
		alone = append(alone, layerOf(b))
		alone[i].Size = sizes[i]
	}
	want := build(1, alone)
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}} {
		if build(4, inOrder(tars, sizes, order...)) != want {
			t.Errorf("four workers that end in the order %d gave different bytes", order)
		}
	}
	_, ext4 := mustBuild(t, tars...)
	_, erofs := buildErofs(t, tars...)
	compareFiles(t, erofs, ext4)
}

// TestErofsDropsDeadData looks that contents which a later layer hides are gone.
func TestErofsDropsDeadData(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("a secret of the lower layer. ", 100_000)
	path, _ := buildErofs(t, tarOf(t, "f a "+secret, "f b x"), tarOf(t, "f .wh.a", "f c y"))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("a secret")) {
		t.Error("the removed file can still be read")
	}
}

// TestErofsSparse builds a file that is all hole but its end.
func TestErofsSparse(t *testing.T) {
	t.Parallel()
	layer := paxSparse(t, 20<<20)
	_, want := mustBuild(t, layer)
	path, got := buildErofs(t, layer)
	compareFiles(t, got, want)
	if info, err := os.Stat(path); err != nil || info.Size() > 256<<10 || got["sparse"].blocks > 16 {
		t.Errorf("%d bytes for a file of holes, %v", info.Size(), err)
	}
}

// TestErofsRefused looks that limits hold and leave no file, and so for a file
// system that there is not.
func TestErofsRefused(t *testing.T) {
	t.Parallel()
	links := []string{"f a"}
	for i := range 10 {
		links = append(links, fmt.Sprintf("h l%d a", i))
	}
	for _, c := range []struct {
		fs   string
		tar  []byte
		l    Limits
		want string
	}{
		{FSErofs, tarOf(t, links...), Limits{Links: 10}, "more than 10 hard links"},
		{FSErofs, tarOf(t, "f "+strings.Repeat("d/", 200)+"a"), Limits{Entries: 100}, "the image has more than 100 files"},
		{FSErofs, paxSparse(t, 1<<62), Limits{}, "more than is left"},
		{FSErofs, tarOf(t, "f a "+strings.Repeat("x", 5000))[:3000], Limits{}, "the tar is truncated"},
		{FSErofs, headerTar(t, pax("a", map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 4060)})), Limits{}, "the extended attributes need more than"},
		{"xfs", tarOf(t, "f a"), Limits{}, `"xfs" is not a file system that banger writes: ext4 or erofs`},
	} {
		dir := t.TempDir()
		_, err := Build(t.Context(), filepath.Join(dir, "image"), []Layer{layerOf(c.tar)}, Options{FS: c.fs, Limits: c.l})
		if !banger.IsKind(err, banger.Invalid) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
		wantEmpty(t, dir)
	}
}

// TestErofsPieces builds files that are in pieces, because layers were written
// at the same time.
func TestErofsPieces(t *testing.T) {
	t.Parallel()
	big := func(name string, c byte) []byte {
		h := pax(name, nil)
		h.Size = 3<<20 + 5
		data := bytes.Replace(headerTar(t, h), []byte("xxxxxxxx"), []byte{c, 'y', 'z', '1', '2', '3', '4', '5'}, -1)
		return data
	}
	layers := [][]byte{big("a", 'a'), big("b", 'b')}
	_, want := mustBuild(t, layers...)
	path, got := buildErofs(t, layers...)
	compareFiles(t, got, want)
	if got["a"].extents < 2 {
		t.Errorf("it is in %d piece", got["a"].extents)
	}
	compareMounted(t, path, want)
}

// TestErofsShape looks at the ends of what a small inode holds, and where the
// parts of an inode can stand.
func TestErofsShape(t *testing.T) {
	w := &erofs{common: stamp{5, 6}}
	same := inode{mode: typeRegular, sec: 5, nsec: 6, uid: 1<<16 - 1, gid: 1<<16 - 1, links: 1<<16 - 1, size: 1<<32 - 1}
	if w.shape(&same).extended {
		t.Error("the most that a small inode holds takes a large one")
	}
	for i, change := range []func(*inode){
		func(i *inode) { i.uid++ }, func(i *inode) { i.gid++ }, func(i *inode) { i.links++ }, func(i *inode) { i.size++ },
		func(i *inode) { i.sec-- }, func(i *inode) { i.nsec-- },
	} {
		ino := same
		if change(&ino); !w.shape(&ino).extended {
			t.Errorf("change %d needs no large inode", i)
		}
	}
	for _, c := range []struct {
		size   int64
		layout uint16
		inline int64
	}{{4096 - 32, erofsInline, 4096 - 32}, {4096 - 31, erofsPlain, 0}, {4096, erofsPlain, 0}, {4097, erofsInline, 1}, {8191, erofsPlain, 0}} {
		s := w.shape(&inode{mode: typeDir, sec: 5, nsec: 6, size: c.size})
		if s.layout != c.layout || s.inline != c.inline {
			t.Errorf("a directory of %d bytes: %+v", c.size, s)
		}
	}
	for _, c := range []struct {
		s        shape
		at, want int64
	}{{shape{}, 4064, 4064}, {shape{extended: true}, 4064, 4096}, {shape{inline: 1}, 4064, 4096}, {shape{inline: 10}, 4000, 4000}, {shape{xattrs: 100}, 4064, 4064}} {
		if got := c.s.place(c.at); got != c.want {
			t.Errorf("%+v from %d on stands at %d", c.s, c.at, got)
		}
	}
}

// TestErofsCommonTime votes.
func TestErofsCommonTime(t *testing.T) {
	var list []*inode
	for _, sec := range []int64{1, 2, 2, 3, 2, 2, 4} {
		list = append(list, &inode{sec: sec})
	}
	if got := commonTime(list); got != (stamp{2, 0}) {
		t.Errorf("got %v", got)
	}
}
