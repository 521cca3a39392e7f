package share

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// The flags of an open, whatever this host's are: linux/include/net/9p/9p.h.
const (
	openAccess = 0o3
	openExcl   = 0o200
	openTrunc  = 0o1000
	openAppend = 0o2000
	openDsync  = 0o10000
	openDir    = 0o200000
	openSync   = 0o4000000
)

// safely are the flags of every open of ours: nothing is followed, nothing is
// waited for, and no terminal is taken.
const safely = unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY

// hostFlags are the guest's flags that mean something here.
func hostFlags(flags uint32) (int, error) {
	f := int(flags & openAccess)
	if f == openAccess {
		return 0, unix.EINVAL
	}
	for _, m := range []struct {
		guest uint32
		host  int
	}{{openTrunc, unix.O_TRUNC}, {openAppend, unix.O_APPEND}, {openDsync, unix.O_DSYNC}, {openSync, unix.O_SYNC}, {openDir, unix.O_DIRECTORY}} {
		if flags&m.guest == m.guest {
			f |= m.host
		}
	}
	return f, nil
}

// writes reports whether an open with these flags can change something.
func writes(flags int) bool { return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 }

// again repeats a system call that a signal has interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = again(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// itself is the path of what a descriptor is of; it leads to that and to
// nothing else, whatever its name is by now.
func itself(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// reopen opens a file or a folder for use. The open of a pipe waits for
// somebody, that of a device may do anything: neither is ever opened.
func reopen(f *fid, flags int) (int, error) {
	switch f.mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		flags |= unix.O_DIRECTORY
	case unix.S_IFLNK:
		return -1, unix.ELOOP
	default:
		return -1, unix.EPERM
	}
	return openat(unix.AT_FDCWD, itself(f.fd), flags|safely, 0)
}

func (c *conn) open(d *decoder, e *encoder) error {
	id, guestFlags := d.u32(), d.u32()
	f, err := c.use(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	flags, err := hostFlags(guestFlags)
	switch {
	case err != nil:
		return err
	case f.opened:
		return unix.EBUSY
	case writes(flags) && c.folder.readOnly:
		return unix.EROFS
	}
	fd, err := reopen(f, flags)
	if err != nil {
		return err
	}
	return c.opened(id, f, fd, e)
}

// opened lets an open file take the place of the fid that it was opened by.
func (c *conn) opened(id uint32, old *fid, fd int, e *encoder) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return err
	}
	e.qid(st.Mode, c.path(&st))
	e.u32(0) // as much at once as fits into a message
	return c.set(id, &fid{fd: fd, mode: st.Mode, opened: true}, old)
}

func (c *conn) create(d *decoder, e *encoder) error {
	id, name, guestFlags, mode, _ := d.u32(), d.str(), d.u32(), d.u32(), d.u32()
	f, err := c.change(d, id, name)
	if err != nil {
		return err
	}
	defer c.release(f)
	flags, err := hostFlags(guestFlags)
	if err != nil {
		return err
	}
	fd, err := c.make(f, name, flags, mode)
	if err == unix.EEXIST && guestFlags&openExcl == 0 {
		var old *fid
		if old, _, err = c.step(f, name); err != nil {
			return err
		}
		defer unix.Close(old.fd)
		fd, err = reopen(old, flags)
	}
	if err != nil {
		return err
	}
	return c.opened(id, f, fd, e)
}

// make makes a file that is not there yet. The guest has applied its own umask.
func (c *conn) make(dir *fid, name string, flags int, mode uint32) (int, error) {
	fd, err := openat(dir.fd, name, flags&^unix.O_DIRECTORY|safely|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(fd, mode&0o777); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mknod makes files alone. A device or a pipe would lie in wait for whoever
// reads the folder on the host.
func (c *conn) mknod(d *decoder, e *encoder) error {
	id, name, mode, _, _, _ := d.u32(), d.str(), d.u32(), d.u32(), d.u32(), d.u32()
	f, err := c.change(d, id, name)
	if err != nil {
		return err
	}
	defer c.release(f)
	if kind := mode & unix.S_IFMT; kind != unix.S_IFREG && kind != 0 {
		return unix.EPERM
	}
	fd, err := c.make(f, name, unix.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_ = unix.Close(fd)
	return c.tell(f, name, e)
}

// tell answers with the qid of an entry that was just made.
func (c *conn) tell(dir *fid, name string, e *encoder) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	e.qid(st.Mode, c.path(&st))
	return nil
}

// useOpen is use for what has been opened.
func (c *conn) useOpen(d *decoder, id uint32) (*fid, error) {
	f, err := c.use(d, id)
	if err == nil && !f.opened {
		c.release(f)
		return nil, unix.EBADF
	}
	return f, err
}

func (c *conn) read(d *decoder, e *encoder) error {
	id, offset, count := d.u32(), d.u64(), d.u32()
	f, err := c.useOpen(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	e.u32(0)
	head := len(e.b)
	data := e.grow(int(min(count, c.msize-uint32(head))))
	n := 0
	err = again(func() (err error) {
		n, err = unix.Pread(f.fd, data, int64(offset))
		return err
	})
	if err != nil {
		return err
	}
	e.b = e.b[:head+n]
	putCount(e, n)
	return nil
}

// putCount writes how many bytes follow, in an answer that begins with that.
func putCount(e *encoder, n int) {
	count := encoder{e.b[:headerSize]}
	count.u32(uint32(n))
}

func (c *conn) write(d *decoder, e *encoder) error {
	id, offset, count := d.u32(), d.u64(), d.u32()
	if int64(count) > int64(len(d.b)) {
		return unix.EPROTO
	}
	data := d.take(int(count))
	f, err := c.useOpen(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	if c.folder.readOnly {
		return unix.EROFS
	}
	done := 0
	for done < len(data) {
		n := 0
		err := again(func() (err error) {
			n, err = unix.Pwrite(f.fd, data[done:], int64(offset)+int64(done))
			return err
		})
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil && done == 0 {
			return err
		}
		if err != nil {
			break // the guest sees how much, and comes again
		}
		done += n
	}
	e.u32(uint32(done))
	return nil
}

func (c *conn) fsync(d *decoder, _ *encoder) error {
	id, dataOnly := d.u32(), uint32(0)
	if len(d.b) > 0 { // older guests do not say
		dataOnly = d.u32()
	}
	f, err := c.useOpen(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	if dataOnly != 0 {
		return again(func() error { return unix.Fdatasync(f.fd) })
	}
	return again(func() error { return unix.Fsync(f.fd) })
}

// lock grants every lock: those of the guest's processes against each other the
// guest keeps itself, and the host's know nothing of them.
func (c *conn) lock(d *decoder, e *encoder) error {
	f, err := c.use(d, d.u32())
	if err != nil {
		return err
	}
	c.release(f)
	e.u8(lockSuccess)
	return nil
}

func (c *conn) getlock(d *decoder, e *encoder) error {
	id, _, start, length, pid, client := d.u32(), d.u8(), d.u64(), d.u64(), d.u32(), d.str()
	f, err := c.use(d, id)
	if err != nil {
		return err
	}
	c.release(f)
	e.u8(lockUnlocked)
	e.u64(start)
	e.u64(length)
	e.u32(pid)
	e.str(client)
	return nil
}
