//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// check fails the test with the first error.
func check(tb testing.TB, errs ...error) {
	tb.Helper()
	for _, err := range errs {
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// set sets an extended attribute, of a symlink its own.
func set(tb testing.TB, path, name, value string) {
	tb.Helper()
	if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
		tb.Fatalf("set %s of %q: %v", name, path, err)
	}
}

// posixACL is user::rw-, user:1000:r--, group::r--, mask::r--, other::--- as
// the system call has it: linux/posix_acl_xattr.h.
func posixACL() string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 4, 1000}, {4, 4, 1<<32 - 1}, {0x10, 4, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

// netRaw is cap_net_raw+ep, as ping has it: linux/capability.h, VFS_CAP_REVISION_2.
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// weird fills a folder with what file systems can hold and images rarely do.
func weird(tb testing.TB, root string) {
	tb.Helper()
	dir := filepath.Join(root, "weird")
	check(tb, os.Mkdir(dir, 0o755))
	put := func(name string, data []byte, mode uint32) string {
		p := filepath.Join(dir, name)
		check(tb, os.WriteFile(p, data, 0o600), unix.Chmod(p, mode))
		return p
	}
	for _, mode := range []uint32{0, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777} {
		put(fmt.Sprintf("mode-%04o", mode), []byte("m"), mode)
		p := filepath.Join(dir, fmt.Sprintf("dir-%04o", mode))
		check(tb, os.Mkdir(p, 0o700), os.WriteFile(p+"/in", []byte("in"), 0o600), unix.Chmod(p, mode))
	}
	for _, id := range []int{1, 1000, 65535, 65536, 3_000_000} {
		check(tb, unix.Lchown(put(fmt.Sprint("owner-", id), nil, 0o640), id, id+1))
	}
	weirdNames(tb, dir, put)
	weirdContents(tb, dir, put)
	weirdXattrs(tb, dir, put)
	for i, dev := range [][2]uint32{{1, 3}, {255, 255}, {256, 0}, {259, 1<<20 - 1}, {4095, 0x12345}} {
		check(tb, unix.Mknod(filepath.Join(dir, fmt.Sprint("chr-", i)), unix.S_IFCHR|0o620, int(unix.Mkdev(dev[0], dev[1]))),
			unix.Mknod(filepath.Join(dir, fmt.Sprint("blk-", i)), unix.S_IFBLK|0o660, int(unix.Mkdev(dev[0], dev[1]))))
	}
	check(tb, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	for i, sec := range []int64{0, 1, -1, -1_000_000_000, -(1 << 31) + 1, 1 << 31, 1<<32 + 5, 5_000_000_000} {
		p := put(fmt.Sprint("time-", i), []byte("t"), 0o644)
		check(tb, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: sec}, {Sec: sec, Nsec: 123456780 + int64(i)}}, 0))
	}
	link := filepath.Join(dir, "old-link")
	check(tb, os.Symlink("x", link),
		unix.UtimesNanoAt(unix.AT_FDCWD, link, []unix.Timespec{{Sec: 7}, {Sec: -7, Nsec: 5}}, unix.AT_SYMLINK_NOFOLLOW))
}

// weirdNames is about names, links and directories.
func weirdNames(tb testing.TB, dir string, put func(string, []byte, uint32) string) {
	for _, name := range []string{strings.Repeat("n", 255), "\xff\xfe invalid \x80", "new\nline", `quote"'\`, " ", "-rf", "~", "ünï©ode", ".hidden", "..."} {
		put(name, []byte(name), 0o644)
	}
	deep := filepath.Join(dir, strings.Repeat(strings.Repeat("d", 200)+"/", 12))
	check(tb, os.MkdirAll(deep, 0o755), os.WriteFile(filepath.Join(deep, "deep"), []byte("deep"), 0o644))
	for _, n := range []int{1, 58, 59, 60, 61, 250, 3000, 4000} {
		check(tb, os.Symlink(strings.Repeat("t", n), filepath.Join(dir, fmt.Sprint("link-", n))))
	}
	check(tb, os.Symlink("../../../../etc/passwd", filepath.Join(dir, "climbs")), os.Symlink("/usr/bin/mawk", filepath.Join(dir, "absolute")),
		os.Symlink(".", filepath.Join(dir, "loop")))
	first := put("hard-0", []byte("hard"), 0o600)
	for i := range 1000 {
		check(tb, os.Link(first, filepath.Join(dir, fmt.Sprint("hard-", i+1))))
	}
	check(tb, os.Link(filepath.Join(dir, "link-60"), filepath.Join(dir, "link-60-again")))
	for name, n := range map[string]int{"many": 100, "crowd": 2000} {
		check(tb, os.Mkdir(filepath.Join(dir, name), 0o755))
		for i := range n {
			check(tb, os.WriteFile(filepath.Join(dir, name, fmt.Sprint(i, "-", strings.Repeat("m", i%60))), nil, 0o644))
		}
	}
}

// weirdContents is about data and holes.
func weirdContents(tb testing.TB, dir string, put func(string, []byte, uint32) string) {
	random := make([]byte, 2<<20+123)
	rand.NewChaCha8([32]byte{1}).Read(random)
	put("random", random, 0o644)
	for _, n := range []int{0, 1, 4095, 4096, 4097, 65535, 65536, 65537} {
		put(fmt.Sprint("size-", n), bytes.Repeat([]byte("s"), n), 0o644)
	}
	put("zeros", make([]byte, 300<<10), 0o644)
	holes, err := os.Create(filepath.Join(dir, "holes"))
	check(tb, err)
	defer holes.Close()
	for i := range int64(40) { // as many extents
		_, err := holes.WriteAt([]byte{byte(i + 1)}, i*131072+i)
		check(tb, err)
	}
	check(tb, holes.Truncate(6<<20)) // and a hole at the end
}

// weirdXattrs is about extended attributes, inside the inode and beside it.
func weirdXattrs(tb testing.TB, dir string, put func(string, []byte, uint32) string) {
	set(tb, put("capability", []byte("c"), 0o755), "security.capability", netRaw)
	set(tb, put("attr", []byte("u"), 0o644), "user.small", "1")
	large := put("attrs", []byte("u"), 0o644)
	set(tb, large, "user.large", strings.Repeat("l", 2000))
	set(tb, large, "user."+strings.Repeat("n", 200), "\x00\xff binary \n")
	set(tb, large, "security.capability", netRaw)
	acl := put("acl", []byte("a"), 0o640)
	set(tb, acl, "system.posix_acl_access", posixACL())
	set(tb, dir, "user.dir", "on a directory")
	sub := filepath.Join(dir, "acl-dir")
	check(tb, os.Mkdir(sub, 0o750))
	set(tb, sub, "system.posix_acl_access", posixACL())
	set(tb, sub, "system.posix_acl_default", posixACL())
}

// change is what the next layer does to weird: it removes, replaces by another
// type, and changes nothing but metadata.
func change(tb testing.TB, root string) {
	tb.Helper()
	at := func(name string) string { return filepath.Join(root, "weird", name) }
	gone := func(names ...string) {
		for _, n := range names {
			check(tb, os.RemoveAll(at(n)))
		}
	}
	// A directory, a file, a symlink, each in the place of each other.
	gone("dir-0000", "dir-4755", "mode-0000", "mode-4755", "link-1", "link-58")
	check(tb, os.WriteFile(at("dir-0000"), []byte("was a directory"), 0o644), os.Symlink("was-a-directory", at("dir-4755")),
		os.Mkdir(at("mode-0000"), 0o711), os.WriteFile(at("mode-0000/new"), []byte("was a file"), 0o644), os.Symlink("/was/a/file", at("mode-4755")),
		os.Mkdir(at("link-1"), 0o755), os.WriteFile(at("link-1/new"), []byte("was a link"), 0o644), os.WriteFile(at("link-58"), []byte("was a link"), 0o644))
	// Removed: a file, a directory with all in it, the first names of a file that has many.
	gone("random", "many", "hard-0", "hard-1", "fifo", "chr-0")
	check(tb, os.Mkdir(at("many"), 0o700), os.WriteFile(at("many/after"), []byte("a"), 0o600)) // and there again
	// Metadata alone.
	check(tb, unix.Chmod(at("dir-2755"), 0o3711), unix.Lchown(at("owner-1"), 7, 8), unix.Chmod(at("mode-6711"), 0o4700),
		unix.Lremovexattr(at("capability"), "security.capability"))
	set(tb, at("attr"), "user.small", "2")
	check(tb, os.WriteFile(at("size-4096"), []byte("shorter"), 0o644), os.Rename(at("zeros"), at("zeros-renamed")))
}
