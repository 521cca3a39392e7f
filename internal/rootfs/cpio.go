package rootfs

import (
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// File is one file of an initrd.
type File struct {
	Name string // of a module: virtio_blk or virtio_blk.ko; not used for the init
	Size int64  // bytes that Open yields
	Open func() (io.ReadCloser, error)
}

// Initrd writes an uncompressed cpio archive for the kernel to unpack: init as
// /init, the modules as /modules/NN-name.ko so that the order of names is the
// order given, the empty directories /dev, /mnt, /proc, /run and /sys, and
// /dev/console, without which the kernel gives its first process no output.
// Nothing is staged and no device is made on the host.
//
// The format is newc: Documentation/driver-api/early-userspace/buffer-format.rst.
func Initrd(w io.Writer, init File, modules []File) error {
	c := &cpio{w: w}
	for _, name := range mountPoints {
		c.header(cpioEntry{name: name, mode: typeDir | 0o755})
	}
	c.header(cpioEntry{name: "dev/console", mode: typeChar | 0o600, major: 5, minor: 1})
	c.file("init", 0o755, init)
	c.header(cpioEntry{name: "modules", mode: typeDir | 0o755})
	digits := max(2, len(fmt.Sprint(len(modules)-1)))
	for i, m := range modules {
		base := strings.TrimSuffix(path.Base(m.Name), ".ko")
		if base == "" || base == "." || base == "/" {
			c.fail(invalid("module %d has no name", i))
		}
		c.file(fmt.Sprintf("modules/%0*d-%s.ko", digits, i, base), 0o644, m)
	}
	c.header(cpioEntry{name: "TRAILER!!!"})
	return outputError("write initrd", c.err)
}

// cpio writes an archive. After the first error it does nothing.
type cpio struct {
	w     io.Writer
	inode int
	err   error
}

type cpioEntry struct {
	name         string
	mode         uint32
	size         int64
	major, minor uint32
}

func (c *cpio) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *cpio) write(p []byte) {
	if c.err != nil || len(p) == 0 {
		return
	}
	_, err := c.w.Write(p)
	c.fail(diskError(err))
}

// pad fills up to four bytes what is n bytes long.
func (c *cpio) pad(n int64) { c.write(make([]byte, -n&3)) }

// header starts an entry: 13 fields of 8 hexadecimal digits, then the name.
func (c *cpio) header(e cpioEntry) {
	c.inode++
	links := 1
	if e.mode&typeMask == typeDir {
		links = 2
	}
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, e.mode, 0, 0, links, 0, e.size, 0, 0, e.major, e.minor, len(e.name)+1, 0, e.name)
	c.write([]byte(h))
	c.pad(int64(len(h)))
}

// file copies a file, which must have the size that it claims.
func (c *cpio) file(name string, mode uint32, f File) {
	if c.err != nil {
		return
	}
	if f.Size < 0 || f.Size > math.MaxUint32 {
		c.fail(invalid("%s has %d bytes, more than the format can hold", name, f.Size))
		return
	}
	r, err := f.Open()
	if err != nil {
		c.fail(fmt.Errorf("open %s: %w", name, err))
		return
	}
	defer r.Close()
	c.header(cpioEntry{name: name, mode: typeRegular | mode, size: f.Size})
	if c.err != nil {
		return
	}
	n, err := io.Copy(c.w, io.LimitReader(r, f.Size))
	if err != nil {
		c.fail(fmt.Errorf("copy %s: %w", name, diskError(err)))
		return
	}
	more, _ := r.Read(make([]byte, 1))
	if n != f.Size || more != 0 {
		c.fail(invalid("%s does not have the %d bytes that it should", name, f.Size))
		return
	}
	c.pad(n)
}
