package rootfs

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// wanted is one file of the torture layer and what the image must say of it.
type wanted struct {
	tar.Header
	data   []byte
	xattrs map[string]string // as the image has them, by "index:name"
}

// posixACL is user::rw-, user:1000:r--, group::r--, mask::r--, other::--- in
// the form of the system call, and diskForm the same as ext4 keeps it.
var (
	posixACL = aclBytes(2, true)
	diskForm = aclBytes(1, false)
)

func aclBytes(version uint32, ids bool) string {
	b := binary.LittleEndian.AppendUint32(nil, version)
	for _, e := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 4, 1000}, {4, 4, 1<<32 - 1}, {0x10, 4, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		if ids || e[0] == 2 {
			b = binary.LittleEndian.AppendUint32(b, e[2])
		}
	}
	return string(b)
}

// torture is a layer of everything that image builders and tar tools got wrong.
func torture() []wanted {
	random := make([]byte, 2<<20+123)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(random)
	holes := make([]byte, 5<<20)
	for i := 0; i < len(holes); i += 128 << 10 { // 40 extents
		holes[i+5] = byte(i>>17)%255 + 1
	}
	file := func(name string, mode int64, data string) wanted {
		return wanted{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, data: []byte(data)}
	}
	node := func(name string, kind byte, major, minor int64) wanted {
		return wanted{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o620, Devmajor: major, Devminor: minor}}
	}
	list := []wanted{
		{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		file("setuid", 0o4755, "s"), file("setgid", 0o2755, "g"), file("none", 0, "n"), file("all", 0o7777, "a"),
		{Header: tar.Header{Name: "sticky/", Typeflag: tar.TypeDir, Mode: 0o1777}},
		{Header: tar.Header{Name: "closed/", Typeflag: tar.TypeDir, Mode: 0}},
		file("empty", 0o644, ""), file("random", 0o644, string(random)), file("holes", 0o644, string(holes)),
		file("zeros", 0o644, string(make([]byte, 300<<10))), file("tail", 0o644, "x"+string(make([]byte, 200<<10))),
		file("block", 0o644, strings.Repeat("b", 4096)), file("block+1", 0o644, strings.Repeat("b", 4097)),
		file(strings.Repeat("n", 255), 0o644, "long"), file("\xff\xfe invalid \x80", 0o644, "utf8"), file("new\nline", 0o644, "nl"),
		file(`quote"'\`, 0o644, "q"), file(" ", 0o644, "space"), file("-rf", 0o644, "dash"),
		file(strings.Repeat(strings.Repeat("d", 200)+"/", 12)+"deep", 0o644, "deep"),
		node("null", tar.TypeChar, 1, 3), node("chr255", tar.TypeChar, 255, 255), node("chr256", tar.TypeChar, 256, 0),
		node("blk", tar.TypeBlock, 259, 1<<20-1), node("blkmax", tar.TypeBlock, 4095, 0x12345), node("zero", tar.TypeChar, 0, 0),
		node("fifo", tar.TypeFifo, 0, 0),
	}
	for _, n := range []int{1, 58, 59, 60, 61, 3000, 4095} {
		list = append(list, wanted{Header: tar.Header{Name: fmt.Sprint("link", n), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", n)}})
	}
	for i, sec := range []int64{-1, minTime + 1, 0, 1<<31 - 1, 1 << 31, 1<<32 + 5, 5_000_000_000, maxTime - 1} {
		w := file(fmt.Sprint("time", i), 0o644, "t")
		w.ModTime = time.Unix(sec, 123456789)
		list = append(list, w)
	}
	for i, id := range []int{65535, 65536, 3_000_000, 1<<32 - 2} {
		w := file(fmt.Sprint("owner", i), 0o644, "o")
		w.Uid, w.Gid = id, 1<<32-2-id
		list = append(list, w)
	}
	for i := range 9000 {
		list = append(list, file(fmt.Sprintf("many/%d-%s", i, strings.Repeat("m", i%40)), 0o644, ""))
	}
	return append(list, tortureXattrs()...)
}

func tortureXattrs() []wanted {
	with := func(name string, kind byte, x map[string]string, disk map[string]string) wanted {
		w := wanted{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o640, PAXRecords: map[string]string{}}, xattrs: disk}
		if kind == tar.TypeSymlink {
			w.Linkname = "target"
		}
		for k, v := range x {
			w.PAXRecords["SCHILY.xattr."+k] = v
		}
		return w
	}
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	several := map[string]string{"user.a": "1", "user.bb": strings.Repeat("2", 500), "trusted.c": strings.Repeat("3", 1000), "security.capability": capability}
	return []wanted{
		with("cap", tar.TypeReg, map[string]string{"security.capability": capability}, map[string]string{"6:capability": capability}),
		with("acl", tar.TypeReg, map[string]string{"system.posix_acl_access": posixACL}, map[string]string{"2:": diskForm}),
		with("acldir", tar.TypeDir, map[string]string{"system.posix_acl_access": posixACL, "system.posix_acl_default": posixACL},
			map[string]string{"2:": diskForm, "3:": diskForm}),
		with("noacl", tar.TypeReg, map[string]string{"system.posix_acl_access": "\x02\x00\x00\x00"}, nil),
		with("several", tar.TypeReg, several, map[string]string{"1:a": "1", "1:bb": several["user.bb"], "4:c": several["trusted.c"], "6:capability": capability}),
		with("large", tar.TypeReg, map[string]string{"user.l": strings.Repeat("l", 3000)}, map[string]string{"1:l": strings.Repeat("l", 3000)}),
		with("emptyx", tar.TypeReg, map[string]string{"user.e": "", "user.n\x01": "\x00\x00"}, map[string]string{"1:e": "", "1:n\x01": "\x00\x00"}),
		with("linkx", tar.TypeSymlink, map[string]string{"trusted.s": "on a symlink"}, map[string]string{"4:s": "on a symlink"}),
		with("longname", tar.TypeReg, map[string]string{"user." + strings.Repeat("n", 200): "v"}, map[string]string{"1:" + strings.Repeat("n", 200): "v"}),
	}
}

// tortureTar writes the layer, with 3001 names of one file at its end.
func tortureTar(t testing.TB, list []wanted) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data []byte) {
		h.Format, h.Size = tar.FormatPAX, int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%q: %v", h.Name, err)
		}
		w.Write(data)
	}
	for _, f := range list {
		add(f.Header, f.data)
	}
	add(tar.Header{Name: "hard/0", Typeflag: tar.TypeReg, Mode: 0o600}, []byte("hard"))
	for i := range 3000 {
		add(tar.Header{Name: fmt.Sprintf("hard/%d", i+1), Typeflag: tar.TypeLink, Linkname: "hard/0"}, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var tarModes = map[byte]uint32{tar.TypeReg: typeRegular, tar.TypeDir: typeDir, tar.TypeSymlink: typeSymlink,
	tar.TypeChar: typeChar, tar.TypeBlock: typeBlock, tar.TypeFifo: typeFifo}

func TestTorture(t *testing.T) {
	t.Parallel()
	list := torture()
	path := t.TempDir() + "/image"
	if _, err := Build(t.Context(), path, []Layer{layerOf(tortureTar(t, list))}, Options{}); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	files := openImage(t, path).files()
	for _, w := range list {
		name := strings.TrimSuffix(w.Name, "/")
		f := files[name]
		if f == nil {
			t.Errorf("%q is missing", name)
			continue
		}
		mode := tarModes[w.Typeflag] | uint32(w.Mode)
		data := w.data
		if w.Typeflag == tar.TypeSymlink {
			mode, data = typeSymlink|0o777, []byte(w.Linkname)
		}
		if f.mode != mode || f.uid != uint32(w.Uid) || f.gid != uint32(w.Gid) {
			t.Errorf("%q: mode %o owner %d:%d, want %o %d:%d", name, f.mode, f.uid, f.gid, mode, w.Uid, w.Gid)
		}
		if want := w.ModTime; !want.IsZero() && !f.mtime.Equal(want) {
			t.Errorf("%q: time %v, want %v", name, f.mtime, want)
		}
		if w.Typeflag != tar.TypeDir && !bytes.Equal(f.data, data) {
			t.Errorf("%q: contents differ", name)
		}
		if f.major != uint32(w.Devmajor) || f.minor != uint32(w.Devminor) {
			t.Errorf("%q: device %d:%d, want %d:%d", name, f.major, f.minor, w.Devmajor, w.Devminor)
		}
		if !maps.Equal(f.xattrs, w.xattrs) {
			t.Errorf("%q: attributes %q, want %q", name, f.xattrs, w.xattrs)
		}
	}
	if got := files["hard/0"]; got.links != 3001 || got.number != files["hard/3000"].number {
		t.Errorf("hard/0 has %d links", got.links)
	}
	if got := files["holes"]; got.extents != 40 || got.blocks != 40*16+1 {
		t.Errorf("holes has %d extents, %d blocks", got.extents, got.blocks)
	}
	if got := files["zeros"].blocks; got != 0 {
		t.Errorf("zeros has %d blocks", got)
	}
	compareDebugfs(t, path, files)
}

// compareDebugfs asks debugfs about every inode but the many empty ones, and
// compares with what this package's own reader found.
func compareDebugfs(t *testing.T, path string, files map[string]*file) {
	t.Helper()
	var commands []string
	var asked []*file
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if f := files[name]; !strings.HasPrefix(name, "many/") && !strings.HasPrefix(name, "hard/") {
			asked = append(asked, f)
			commands = append(commands, fmt.Sprintf("stat <%d>", f.number))
		}
	}
	answers := strings.Split(debugfs(t, path, commands...), "debugfs: stat ")[1:]
	if len(answers) != len(asked) {
		t.Fatalf("debugfs gave %d answers to %d questions", len(answers), len(asked))
	}
	for i, f := range asked {
		a := strings.Join(strings.Fields(answers[i]), " ")
		sec := f.mtime.Unix()
		extra := uint32(f.mtime.Nanosecond())<<2 | uint32((sec-int64(int32(sec)))>>32)&3
		want := []string{
			fmt.Sprintf("Inode: %d Type:", f.number),
			fmt.Sprintf("Mode: 0%03o Flags:", f.mode&0o7777),
			fmt.Sprintf("User: %d Group: %d Project:", int32(f.uid), int32(f.gid)),
			fmt.Sprintf("Links: %d Blockcount: %d ", f.links, f.blocks*8),
			fmt.Sprintf("mtime: 0x%08x:%08x", uint32(sec), extra),
		}
		switch f.mode & typeMask {
		case typeChar, typeBlock:
			want = append(want, fmt.Sprintf("(hex %02x:%02x)", f.major, f.minor))
		case typeRegular, typeDir, typeSymlink:
			want = append(want, fmt.Sprintf("Size: %d ", f.size))
		}
		for x := range f.xattrs {
			index, name, _ := strings.Cut(x, ":")
			if !strings.ContainsAny(name, "\x01") {
				want = append(want, map[string]string{"1": "user.", "4": "trusted.", "6": "security.",
					"2": "system.posix_acl_access", "3": "system.posix_acl_default"}[index]+name+" (")
			}
		}
		for _, w := range want {
			if !strings.Contains(a, w) {
				t.Errorf("debugfs says %.300s, not %q", a, w)
			}
		}
	}
}

// TestTimes looks at the ends of what ext4 can hold, and beyond.
func TestTimes(t *testing.T) {
	for in, want := range map[int64]int64{-1 << 40: minTime, minTime: minTime, maxTime: maxTime, 1 << 40: maxTime} {
		var i inode
		if i.setTime(time.Unix(in, 5)); i.sec != want || i.nsec != 0 {
			t.Errorf("%d becomes %d.%d", in, i.sec, i.nsec)
		}
	}
}

// TestExtentTree fills trees of every depth that fits in a test.
func TestExtentTree(t *testing.T) {
	for _, c := range []struct{ extents, nodes, depth int }{
		{0, 0, 0}, {4, 0, 0}, {5, 1, 1}, {340, 1, 1}, {341, 2, 1}, {1360, 4, 1}, {1361, 6, 2}, {340 * 340 * 4, 340*4 + 4, 2}, {340*340*4 + 1, 340*4 + 1 + 5 + 1, 3},
	} {
		list := make([]extent, c.extents)
		for i := range list {
			list[i] = extent{uint32(2 * i), uint32(3 * i), 1}
		}
		blocks := map[int64][]byte{}
		root, nodes, err := extentTree(list, func(b []byte) (int64, error) {
			n := int64(len(blocks)) + 7
			blocks[n] = b
			return n, nil
		})
		if err != nil || int(nodes) != c.nodes || int(binary.LittleEndian.Uint16(root[6:])) != c.depth {
			t.Errorf("%d extents: %d nodes of depth %d, %v", c.extents, nodes, binary.LittleEndian.Uint16(root[6:]), err)
		}
		if got := readTree(root[:], blocks); !slices.Equal(got, list) {
			t.Errorf("%d extents: %d come back", c.extents, len(got))
		}
	}
	long, _, _ := extentTree([]extent{{0, 100, 70000}}, nil)
	if got := readTree(long[:], nil); !slices.Equal(got, []extent{{0, 100, 32768}, {32768, 32868, 32768}, {65536, 65636, 4464}}) {
		t.Errorf("a long extent becomes %v", got)
	}
}

func readTree(node []byte, blocks map[int64][]byte) (list []extent) {
	le := binary.LittleEndian
	for i := range int(le.Uint16(node[2:])) {
		e := node[12*(i+1):]
		if le.Uint16(node[6:]) > 0 {
			list = append(list, readTree(blocks[int64(le.Uint32(e[4:]))], blocks)...)
			continue
		}
		list = append(list, extent{le.Uint32(e), le.Uint32(e[8:]), uint32(le.Uint16(e[4:]))})
	}
	return list
}

// TestDeepExtents reads back a file that needs two levels of extents.
func TestDeepExtents(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/image"
	err := create(path, 0o644, func(f *os.File) error {
		w := newWriter(f, Limits{}.withDefaults())
		deep := &inode{mode: typeRegular | 0o644, size: 3000 * blockSize}
		for i := range uint32(1500) { // every other block of the file is a hole
			block, err := w.allocate([]byte{byte(i), byte(i >> 8), 1})
			if err != nil {
				return err
			}
			deep.extents = append(deep.extents, extent{2 * i, uint32(block), 1})
		}
		root := &node{ino: newDir()}
		root.set("deep", &node{ino: deep})
		return w.finish(t.Context(), root)
	})
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	f := openImage(t, path).files()["deep"]
	if f.extents != 1500 || f.blocks != 1500+5+1 {
		t.Errorf("%d extents, %d blocks", f.extents, f.blocks)
	}
	for i := range 1500 {
		if got := f.data[2*i*blockSize:][:4]; !bytes.Equal(got, []byte{byte(i), byte(i >> 8), 1, 0}) {
			t.Fatalf("block %d is %x", i, got)
		}
	}
}

// TestSuperblock pins offsets of super.rst that e2fsck would not miss.
func TestSuperblock(t *testing.T) {
	s := newSuperblock([16]byte{1, 2, 3})
	s.LogFlexGroups = 31
	b := s.encode()
	if len(b) != 1024 || b[0x38] != 0x53 || b[0x68] != 1 || b[0x174] != 31 || b[0x15C] != extraSize {
		t.Error("a field has moved")
	}
	if got := crc16(0xffff, []byte("123456789")); got != 0x4B37 { // CRC-16/MODBUS
		t.Errorf("crc16 gives %#x", got)
	}
}

// TestLayout looks at images whose groups are set by blocks, and by inodes.
func TestLayout(t *testing.T) {
	for _, c := range []struct{ end, inodes, perGroup, groups int64 }{
		{10, 20, 0, 1}, {32700, 20, 0, 1}, {32765, 20, 0, 2}, {32768 * 4, 1000, 0, 5}, {100, 32768, 0, 1}, {100, 32769, 0, 2}, {70000, 4_000_000, 0, 123},
		{10, 20, 8192, 1}, {32300, 20, 8192, 2}, {32768 * 3, 20_000, 8192, 4}, {32768*3 - 500, 9000, 8192, 4}, {70000, 4_000_000, 8192, 123},
	} {
		const head = 8
		l := newLayout(c.end, c.inodes, c.perGroup, head)
		if l.groups != c.groups || l.groupInodes*l.groups < c.inodes || l.groupInodes > blocksPerGroup || l.groupInodes < c.perGroup ||
			(l.blocks+blocksPerGroup-1)/blocksPerGroup != l.groups || l.blocks < l.bitmaps[l.groups-1]+2 {
			t.Errorf("newLayout(%d, %d, %d) = %+v", c.end, c.inodes, c.perGroup, l)
		}
		for i, start := range append(slices.Clone(l.tables), l.bitmaps...) {
			end := start + 2
			if i < len(l.tables) {
				end = start + l.groupInodes/inodesPerBlock
			}
			if start < c.end || end > l.blocks || overCopies(start, end-start, head) {
				t.Errorf("newLayout(%d, %d, %d) puts blocks %d to %d there", c.end, c.inodes, c.perGroup, start, end)
			}
		}
	}
}

// overCopies reports whether a run takes a block of the copies.
func overCopies(start, n, head int64) bool {
	for b := start; b < start+n; b++ {
		if g := b / blocksPerGroup; hasCopies(g) && b < g*blocksPerGroup+head {
			return true
		}
	}
	return false
}

// TestCopies writes contents and metadata wherever a copy of the superblock is in the way.
func TestCopies(t *testing.T) {
	t.Parallel()
	for group, next := range map[int64]int64{1: 3, 3: 5, 9: 25, 25: 27} {
		path := filepath.Join(t.TempDir(), fmt.Sprint(group))
		data := bytes.Repeat([]byte("contents of a file "), 100_000)
		err := create(path, 0o644, func(f *os.File) error {
			w := newWriter(f, Limits{}.withDefaults())
			w.grows = true
			w.blocks.next = group*blocksPerGroup - 3*unit/blockSize - 1
			d := w.newData(newLanes(&w.blocks, 0), 0)
			extents, err := d.add(int64(len(data)), bytes.NewReader(data))
			if err != nil {
				return err
			}
			if err := d.close(); err != nil {
				return err
			}
			for _, e := range extents {
				if overCopies(int64(e.physical), int64(e.count), w.blocks.head) {
					t.Errorf("group %d: extent %+v lies over the copies", group, e)
				}
			}
			if len(extents) != 2 {
				t.Errorf("group %d: the file has extents %+v", group, extents)
			}
			w.blocks.next = next*blocksPerGroup - 1
			root := &node{ino: newDir()}
			root.set("file", &node{ino: &inode{mode: typeRegular | 0o644, size: int64(len(data)), extents: extents}})
			for i := range 3000 { // a directory of more than a block
				root.set(fmt.Sprintf("%0200d", i), &node{ino: &inode{mode: typeRegular | 0o644}})
			}
			return w.finish(t.Context(), root)
		})
		if err != nil {
			t.Fatal(err)
		}
		fsck(t, path)
		if f := openImage(t, path).files()["file"]; !bytes.Equal(f.data, data) {
			t.Errorf("group %d: the file reads otherwise", group)
		}
		// The copies are what a repair starts from.
		out, err := exec.Command(tool(t, "dumpe2fs"), "-h", "-o", fmt.Sprintf("superblock=%d", group*blocksPerGroup),
			"-o", fmt.Sprintf("blocksize=%d", blockSize), path).CombinedOutput()
		if err != nil {
			t.Errorf("group %d: read the copy: %v\n%s", group, err, out)
		}
	}
}
