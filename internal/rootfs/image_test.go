package rootfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"banger/internal/hostcmd"
)

// image reads an ext4 image back. It knows only what ext4's documentation
// says, not how the writer lays things out.
type image struct {
	t           testing.TB
	b           io.ReaderAt
	groupInodes uint32
	sb          []byte
	groups      []byte
}

// file is one name of an image.
type file struct {
	number, mode, uid, gid, links uint32
	size, blocks                  int64
	mtime                         time.Time
	data                          []byte // contents, or the target of a symlink
	major, minor                  uint32
	xattrs                        map[string]string // by "index:name"
	extents                       int
}

func openImage(t testing.TB, path string) *image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	m := &image{t: t, b: f}
	m.sb = m.read(1024, 1024)
	le := binary.LittleEndian
	if le.Uint16(m.sb[0x38:]) != 0xEF53 {
		t.Fatal("no ext4 magic")
	}
	m.groupInodes = le.Uint32(m.sb[0x28:])
	m.groups = m.read(4096, int(le.Uint32(m.sb[0:])/m.groupInodes)*32)
	return m
}

func (m *image) read(at int64, n int) []byte {
	m.t.Helper()
	b := make([]byte, n)
	if _, err := m.b.ReadAt(b, at); err != nil {
		m.t.Fatalf("read image at %d: %v", at, err)
	}
	return b
}

func (m *image) block(n uint32) []byte { return m.read(int64(n)*4096, 4096) }

// inode reads an inode with its contents.
func (m *image) inode(number uint32) *file {
	le := binary.LittleEndian
	g := (number - 1) / m.groupInodes
	table := le.Uint32(m.groups[32*g+8:])
	b := m.read(int64(table)*4096+int64((number-1)%m.groupInodes)*256, 256)
	u32 := func(at int) uint32 { return le.Uint32(b[at:]) }
	u16 := func(at int) uint32 { return uint32(le.Uint16(b[at:])) }
	f := &file{
		number: number, mode: u16(0), uid: u16(2) | u16(0x78)<<16, gid: u16(0x18) | u16(0x7A)<<16,
		links: u16(0x1A), size: int64(u32(4)) | int64(u32(0x6C))<<32, blocks: int64(u32(0x1C)) / 8,
		xattrs: map[string]string{},
	}
	extra := u32(0x88)
	f.mtime = time.Unix(int64(int32(u32(0x10)))+int64(extra&3)<<32, int64(extra>>2))
	iblock := b[0x28:0x64]
	switch f.mode & typeMask {
	case typeChar, typeBlock:
		if old := le.Uint32(iblock); old != 0 {
			f.major, f.minor = old>>8&0xff, old&0xff
		} else if dev := le.Uint32(iblock[4:]); dev != 0 {
			f.major, f.minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
		}
	case typeSymlink:
		if f.size < 60 {
			f.data = iblock[:f.size]
			break
		}
		fallthrough
	case typeRegular, typeDir:
		f.data = make([]byte, f.size)
		m.extents(iblock, f)
	}
	if x := b[128+32:]; le.Uint32(x) == 0xEA020000 {
		m.xattrs(x[4:], x[4:], f)
	}
	if acl := u32(0x68); acl != 0 {
		x := m.block(acl)
		m.xattrs(x[32:], x, f)
	}
	return f
}

func (m *image) extents(node []byte, f *file) {
	le := binary.LittleEndian
	if le.Uint16(node) != 0xF30A {
		m.t.Fatalf("inode %d has no extents", f.number)
	}
	for i := range int(le.Uint16(node[2:])) {
		e := node[12*(i+1):]
		if le.Uint16(node[6:]) > 0 {
			m.extents(m.block(le.Uint32(e[4:])), f)
			continue
		}
		f.extents++
		at := int64(le.Uint32(e)) * 4096
		n := min(int64(le.Uint16(e[4:]))*4096, f.size-at)
		copy(f.data[at:at+n], m.read(int64(le.Uint32(e[8:]))*4096, int(n)))
	}
}

func (m *image) xattrs(e, base []byte, f *file) {
	le := binary.LittleEndian
	for le.Uint32(e) != 0 {
		n := int(e[0])
		at, size := le.Uint16(e[2:]), le.Uint32(e[8:])
		f.xattrs[fmt.Sprintf("%d:%s", e[1], e[16:16+n])] = string(base[at : uint32(at)+size])
		e = e[16+pad4(n):]
	}
}

// files reads the whole tree, by path. The root is ".".
func (m *image) files() map[string]*file {
	all := map[string]*file{}
	var walk func(path string, number uint32)
	walk = func(path string, number uint32) {
		f := m.inode(number)
		all[path] = f
		if f.mode&typeMask != typeDir {
			return
		}
		for b := f.data; len(b) > 0; {
			number, size := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:])
			name := string(b[8 : 8+int(b[6])])
			if number != 0 && name != "." && name != ".." {
				walk(strings.TrimPrefix(path+"/"+name, "./"), number)
			}
			b = b[size:]
		}
	}
	walk(".", 2)
	return all
}

// tool finds a program of e2fsprogs, which a user's PATH may not have.
func tool(t testing.TB, name string) string {
	t.Helper()
	p, err := hostcmd.Look(name)
	if err != nil {
		t.Fatalf("%v; run: apt-get install -y --no-install-recommends e2fsprogs", err)
	}
	return p
}

// fsck fails the test unless e2fsck has nothing to say.
func fsck(t testing.TB, path string) {
	t.Helper()
	out, err := exec.Command(tool(t, "e2fsck"), "-fn", path).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck -fn %s: %v\n%s", path, err, out)
	}
}

// debugfs runs commands on an image.
func debugfs(t testing.TB, path string, commands ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, "debugfs"), "-f", "-", path)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	return string(out)
}

// layerOf makes a layer of tar bytes.
func layerOf(b []byte) Layer {
	return Layer{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// mustBuild builds with one worker, checks with e2fsck and reads back.
func mustBuild(t testing.TB, layers ...[]byte) (*image, map[string]*file) {
	t.Helper()
	path := t.TempDir() + "/image"
	if _, err := Build(t.Context(), path, layersOf(layers), Options{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	m := openImage(t, path)
	return m, m.files()
}

func layersOf(tars [][]byte) []Layer {
	var list []Layer
	for _, b := range tars {
		list = append(list, layerOf(b))
	}
	return list
}
