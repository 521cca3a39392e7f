package rootfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"banger/internal/hostcmd"
)

// erofsImage reads an EROFS image back, as its documentation says.
type erofsImage struct {
	t testing.TB
	b *os.File
	// sb is the superblock, meta where the inodes begin.
	sb   []byte
	meta int64
}

func openErofsImage(t testing.TB, path string) *erofsImage {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	m := &erofsImage{t: t, b: f}
	m.sb = m.read(1024, 128)
	m.meta = int64(binary.LittleEndian.Uint32(m.sb[40:])) * 4096
	return m
}

func (m *erofsImage) read(at, n int64) []byte {
	m.t.Helper()
	b := make([]byte, n)
	if _, err := m.b.ReadAt(b, at); err != nil {
		m.t.Fatalf("read image at %d: %v", at, err)
	}
	return b
}

// inode reads an inode with its contents. file.blocks are those outside of the inode.
func (m *erofsImage) inode(nid uint64) *file {
	le := binary.LittleEndian
	at := m.meta + int64(nid)*32
	b := m.read(at, 32)
	format := le.Uint16(b)
	f := &file{mode: uint32(le.Uint16(b[4:])), number: le.Uint32(b[20:]), xattrs: map[string]string{}}
	union := le.Uint32(b[16:])
	if format&1 == 0 {
		f.size, f.links = int64(le.Uint32(b[8:])), uint32(le.Uint16(b[6:]))
		f.uid, f.gid = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		f.mtime = time.Unix(int64(le.Uint64(m.sb[24:])), int64(le.Uint32(m.sb[32:])))
		at += 32
	} else {
		b = m.read(at, 64)
		f.size, f.links = int64(le.Uint64(b[8:])), le.Uint32(b[44:])
		f.uid, f.gid = le.Uint32(b[24:]), le.Uint32(b[28:])
		f.mtime = time.Unix(int64(le.Uint64(b[32:])), int64(le.Uint32(b[40:])))
		at += 64
	}
	if n := int64(le.Uint16(b[2:])); n > 0 {
		x := m.read(at, 12+4*(n-1))
		at += int64(len(x))
		for x = x[12:]; len(x) > 0; {
			name, size := int(x[0]), int(le.Uint16(x[2:]))
			f.xattrs[fmt.Sprintf("%d:%s", x[1], x[4:4+name])] = string(x[4+name : 4+name+size])
			x = x[(4+name+size+3)&^3:]
		}
	}
	switch f.mode & typeMask {
	case typeChar, typeBlock:
		f.major, f.minor = union>>8&0xfff, union&0xff|union>>12&0xfff00
	case typeRegular, typeDir, typeSymlink:
		m.data(f, format>>1, union, at)
	}
	return f
}

func (m *erofsImage) data(f *file, layout uint16, union uint32, at int64) {
	switch layout {
	case 0, 2:
		plain := f.size
		if layout == 2 {
			plain = f.size &^ 4095
		}
		if plain > 0 {
			f.data = m.read(int64(union)*4096, plain)
			f.extents++
		}
		if layout == 2 {
			if at/4096 != (at+f.size-plain-1)/4096 {
				m.t.Errorf("inode %d: what is behind it goes over the end of its block", f.number)
			}
			f.data = append(f.data, m.read(at, f.size-plain)...)
		}
		f.blocks = (plain + 4095) / 4096
	case 4:
		chunk := int64(4096) << (union & 31)
		f.data = make([]byte, f.size)
		for i := int64(0); i*chunk < f.size; i++ {
			if block := binary.LittleEndian.Uint32(m.read(at+4*i, 4)); block != 1<<32-1 {
				n := min(chunk, f.size-i*chunk)
				copy(f.data[i*chunk:], m.read(int64(block)*4096, n))
				f.blocks += (n + 4095) / 4096
				f.extents++
			}
		}
	default:
		m.t.Errorf("inode %d has layout %d", f.number, layout)
	}
}

// files reads the whole tree, by path. The root is ".".
func (m *erofsImage) files() map[string]*file {
	all := map[string]*file{}
	var walk func(path string, nid, parent uint64)
	walk = func(path string, nid, parent uint64) {
		f := m.inode(nid)
		all[path] = f
		if f.mode&typeMask != typeDir {
			return
		}
		last, links := "", uint32(2)
		for at := 0; at < len(f.data); at += 4096 {
			block := f.data[at:min(at+4096, len(f.data))]
			count := int(binary.LittleEndian.Uint16(block[8:])) / 12
			for i := range count {
				e := block[12*i:]
				end := len(block)
				if i+1 < count {
					end = int(binary.LittleEndian.Uint16(e[12+8:]))
				}
				name := strings.TrimRight(string(block[binary.LittleEndian.Uint16(e[8:]):end]), "\x00")
				if name <= last {
					m.t.Errorf("%q comes after %q", name, last)
				}
				last = name
				kid := binary.LittleEndian.Uint64(e)
				switch {
				case name == "." && kid != nid, name == ".." && kid != parent:
					m.t.Errorf("%s: %q is inode %d", path, name, kid)
				case name != "." && name != "..":
					name = strings.TrimPrefix(path+"/"+name, "./")
					walk(name, kid, nid)
					if uint32(e[10]) != uint32(direntTypes[all[name].mode&typeMask]) {
						m.t.Errorf("%q has type %d in its directory", name, e[10])
					}
					if e[10] == 2 {
						links++
					}
				}
			}
		}
		if links != f.links {
			m.t.Errorf("%q has %d links, not %d", path, f.links, links)
		}
	}
	root := uint64(binary.LittleEndian.Uint16(m.sb[14:]))
	walk(".", root, root)
	return all
}

// erofsTool finds a program of erofs-utils.
func erofsTool(t testing.TB, name string) string {
	t.Helper()
	p, err := hostcmd.Look(name)
	if err != nil {
		t.Fatalf("%v; run: apt-get install -y --no-install-recommends erofs-utils", err)
	}
	return p
}

// fsckErofs fails the test unless fsck.erofs has nothing to say.
func fsckErofs(t testing.TB, path string, args ...string) {
	t.Helper()
	out, err := exec.Command(erofsTool(t, "fsck.erofs"), append([]string{"-d2"}, append(args, path)...)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "<E>") {
		t.Fatalf("fsck.erofs %s: %v\n%s", path, err, out)
	}
}

// buildErofs builds with one worker, checks and reads back.
func buildErofs(t testing.TB, layers ...[]byte) (path string, files map[string]*file) {
	t.Helper()
	path = t.TempDir() + "/image"
	stats, err := Build(t.Context(), path, layersOf(layers), Options{Workers: 1, FS: FSErofs})
	if err != nil {
		t.Fatal(err)
	}
	fsckErofs(t, path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	disk, err := InspectDisk(f, stats.Size, path)
	if err != nil || disk != (Disk{FS: FSErofs, Size: stats.Size}) {
		t.Errorf("it is %+v, %v, of %d bytes", disk, err, stats.Size)
	}
	return path, openErofsImage(t, path).files()
}
