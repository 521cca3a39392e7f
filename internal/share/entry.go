package share

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

func (c *conn) mkdir(d *decoder, e *encoder) error {
	id, name, mode, _ := d.u32(), d.str(), d.u32(), d.u32()
	f, err := c.change(d, id, name)
	if err != nil {
		return err
	}
	defer c.release(f)
	if err := unix.Mkdirat(f.fd, name, 0o700); err != nil {
		return err
	}
	made, st, err := c.step(f, name)
	if err != nil {
		return err
	}
	defer unix.Close(made.fd)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ESTALE // somebody was faster
	}
	e.qid(st.Mode, c.path(st))
	return unix.Chmod(itself(made.fd), mode&0o1777)
}

// symlink writes the guest's text as it is: who reads the folder on the host
// must know that a link may lead anywhere, as in any folder of somebody else.
func (c *conn) symlink(d *decoder, e *encoder) error {
	id, name, target, _ := d.u32(), d.str(), d.str(), d.u32()
	f, err := c.change(d, id, name)
	if err != nil {
		return err
	}
	defer c.release(f)
	if err := unix.Symlinkat(target, f.fd, name); err != nil {
		return err
	}
	return c.tell(f, name, e)
}

func (c *conn) readlink(d *decoder, e *encoder) error {
	f, err := c.use(d, d.u32())
	if err != nil {
		return err
	}
	defer c.release(f)
	if f.mode&unix.S_IFMT != unix.S_IFLNK {
		return unix.EINVAL
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.fd, "", target)
	if err != nil {
		return err
	}
	e.str(string(target[:n]))
	return nil
}

func (c *conn) link(d *decoder, _ *encoder) error {
	id, fileID, name := d.u32(), d.u32(), d.str()
	dir, err := c.change(d, id, name)
	if err != nil {
		return err
	}
	defer c.release(dir)
	file, err := c.use(d, fileID)
	if err != nil {
		return err
	}
	defer c.release(file)
	return unix.Linkat(unix.AT_FDCWD, itself(file.fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
}

func (c *conn) rename(d *decoder, _ *encoder) error {
	fromID, from, toID, to := d.u32(), d.str(), d.u32(), d.str()
	old, err := c.change(d, fromID, from)
	if err != nil {
		return err
	}
	defer c.release(old)
	dir, err := c.change(d, toID, to)
	if err != nil {
		return err
	}
	defer c.release(dir)
	return unix.Renameat(old.fd, from, dir.fd, to)
}

func (c *conn) unlink(d *decoder, _ *encoder) error {
	id, name, flags := d.u32(), d.str(), d.u32()
	f, err := c.change(d, id, name)
	if err != nil {
		return err
	}
	defer c.release(f)
	return unix.Unlinkat(f.fd, name, int(flags&unix.AT_REMOVEDIR))
}

// readdir answers with as many entries as fit. Where an entry says that the next
// one begins is the host's own word for it, so nothing has to be kept.
func (c *conn) readdir(d *decoder, e *encoder) error {
	id, offset, count := d.u32(), d.u64(), d.u32()
	f, err := c.useOpen(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	if f.mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	e.u32(0)
	head := len(e.b)
	room := int(min(count, c.msize-uint32(head)))
	raw := make([]byte, max(room, minDirent))
	// The position is the descriptor's: one reader at a time.
	c.listing.Lock()
	_, err = unix.Seek(f.fd, int64(offset), unix.SEEK_SET)
	n := 0
	if err == nil {
		err = again(func() (err error) {
			n, err = unix.Getdents(f.fd, raw)
			return err
		})
	}
	c.listing.Unlock()
	if err != nil {
		return err
	}
	left := n > 0
	for raw = raw[:n]; len(raw) > 0; {
		next := putDirent(e, &raw)
		if len(next) > head+room {
			break
		}
		e.b = next
	}
	if left && len(e.b) == head {
		return unix.EINVAL // not one fits, which must not look like the end
	}
	putCount(e, len(e.b)-head)
	return nil
}

// minDirent is the size of the longest entry that the host may give.
const minDirent = 19 + 256

// putDirent takes one struct linux_dirent64 off raw and gives the answer with it:
// qid[13] offset[8] type[1] name[s].
func putDirent(e *encoder, raw *[]byte) []byte {
	b := *raw
	size := binary.LittleEndian.Uint16(b[16:])
	ino, next, kind := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), b[18]
	name := b[19:size]
	for i, ch := range name {
		if ch == 0 {
			name = name[:i]
			break
		}
	}
	*raw = b[size:]
	out := encoder{e.b}
	out.qid(uint32(kind)<<12, ino) // DT_DIR is S_IFDIR>>12, and so are the others
	out.u64(next)
	out.u8(kind)
	out.str(string(name))
	return out.b
}
