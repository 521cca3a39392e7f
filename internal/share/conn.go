package share

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// conn is one connection of a guest.
type conn struct {
	folder  *Folder
	rw      io.ReadWriter
	msize   uint32 // 0 until the version was agreed upon
	running sync.WaitGroup

	writing sync.Mutex // an answer
	listing sync.Mutex // the position in a folder

	mu   sync.Mutex
	fids map[uint32]*fid
	tags map[uint16][]uint16 // of the requests under way: those of the tFlush that wait for its end
}

// maxFlushes bounds how many wait for one request: Linux sends one.
const maxFlushes = 64

// fid is one object that the guest has walked to. It never changes: one that is
// opened takes the place of the one that was not.
type fid struct {
	fd     int
	mode   uint32 // st_mode, of which only the type lasts
	opened bool   // else fd is good for nothing but to name the object
	refs   int    // guarded by conn.mu: the table's and those of requests
}

// handlers carry out the requests. Each takes all of its request out of d first.
var handlers = map[uint8]func(c *conn, d *decoder, e *encoder) error{
	tStatfs: (*conn).statfs, tLopen: (*conn).open, tLcreate: (*conn).create, tSymlink: (*conn).symlink, tMknod: (*conn).mknod,
	tReadlink: (*conn).readlink, tGetattr: (*conn).getattr, tSetattr: (*conn).setattr, tReaddir: (*conn).readdir, tFsync: (*conn).fsync,
	tLock: (*conn).lock, tGetlock: (*conn).getlock, tLink: (*conn).link, tMkdir: (*conn).mkdir, tRenameat: (*conn).rename,
	tUnlinkat: (*conn).unlink, tAttach: (*conn).attach, tWalk: (*conn).walk, tRead: (*conn).read,
	tWrite: (*conn).write, tClunk: (*conn).clunk, tRemove: (*conn).remove,
}

// serve reads requests until the connection ends; each is carried out by itself.
func (c *conn) serve() error {
	slots := make(chan struct{}, maxRequests)
	for {
		typ, tag, body, err := c.next()
		if err != nil {
			return err
		}
		if c.msize == 0 {
			if err := c.version(typ, tag, &decoder{b: body}); err != nil {
				return err
			}
			continue
		}
		if typ == tFlush {
			if err := c.flush(tag, &decoder{b: body}); err != nil {
				return err
			}
			continue
		}
		c.mu.Lock()
		_, twice := c.tags[tag]
		c.tags[tag] = nil
		c.mu.Unlock()
		if twice || typ == tVersion {
			return fmt.Errorf("serve a folder: the guest sent request %d out of turn", typ)
		}
		slots <- struct{}{} // none is held for longer than a call to the file system, or the connection, takes
		c.running.Go(func() {
			defer func() { <-slots }()
			c.answer(typ, tag, body)
		})
	}
}

// flush answers once the request that it names has been.
func (c *conn) flush(tag uint16, d *decoder) error {
	old := d.u16()
	c.mu.Lock()
	waiting, under := c.tags[old]
	if under {
		c.tags[old] = append(waiting, tag)
	}
	c.mu.Unlock()
	switch {
	case len(waiting) >= maxFlushes:
		return errors.New("serve a folder: the guest flushes without end")
	case under:
		return nil
	}
	return c.flushed(tag)
}

func (c *conn) flushed(tag uint16) error {
	return c.send((&encoder{make([]byte, headerSize)}).finish(tFlush+1, tag))
}

// next reads one message; io.EOF is any end of the connection.
func (c *conn) next() (typ uint8, tag uint16, body []byte, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(c.rw, h[:]); err != nil {
		return 0, 0, nil, io.EOF
	}
	size := binary.LittleEndian.Uint32(h[:])
	if size < headerSize || size > MaxMessage || c.msize != 0 && size > c.msize {
		return 0, 0, nil, fmt.Errorf("serve a folder: the guest sent a message of %d bytes", size)
	}
	body = make([]byte, size-headerSize)
	if _, err := io.ReadFull(c.rw, body); err != nil {
		return 0, 0, nil, io.EOF
	}
	return h[4], binary.LittleEndian.Uint16(h[5:]), body, nil
}

// minMessage is what the longest answer but data needs, a path of Linux.
const minMessage = 8 << 10

// version agrees upon the protocol, once.
func (c *conn) version(typ uint8, tag uint16, d *decoder) error {
	msize, name := d.u32(), d.str()
	if typ != tVersion || d.short || msize < minMessage {
		return errors.New("serve a folder: the guest does not speak 9P")
	}
	e := &encoder{make([]byte, headerSize)}
	if len(name) < len(protocol) || name[:len(protocol)] != protocol {
		e.u32(msize)
		e.str("unknown")
		return c.send(e.finish(tVersion+1, tag)) // it may try another one
	}
	c.msize = min(msize, MaxMessage)
	e.u32(c.msize)
	e.str(protocol)
	return c.send(e.finish(tVersion+1, tag))
}

// answer carries one request out. Its tag is free before the guest has heard.
func (c *conn) answer(typ uint8, tag uint16, body []byte) {
	e := &encoder{make([]byte, headerSize, 256)}
	var err error = unix.EOPNOTSUPP
	if h := handlers[typ]; h != nil {
		err = h(c, &decoder{b: body}, e)
	}
	typ++
	if err != nil {
		errno := unix.EIO
		_ = errors.As(err, &errno)
		typ, e.b = rLerror, e.b[:headerSize]
		e.u32(uint32(errno))
	}
	c.mu.Lock()
	flushes := c.tags[tag]
	delete(c.tags, tag)
	c.mu.Unlock()
	_ = c.send(e.finish(typ, tag)) // the reader hears of the end as well
	for _, tag := range flushes {
		_ = c.flushed(tag)
	}
}

func (c *conn) send(m []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.rw.Write(m)
	return err
}

// use gives the fid of that number, to be released. All of the request has been
// taken out of d.
func (c *conn) use(d *decoder, id uint32) (*fid, error) {
	if d.short {
		return nil, unix.EPROTO
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fids[id]
	if f == nil {
		return nil, unix.EBADF
	}
	f.refs++
	return f, nil
}

// useDir is use for what has to be a folder, in which name is to be looked at.
func (c *conn) useDir(d *decoder, id uint32, name string) (*fid, error) {
	f, err := c.use(d, id)
	if err != nil {
		return nil, err
	}
	if err = checkName(name); err == nil && f.mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err != nil {
		c.release(f)
		return nil, err
	}
	return f, nil
}

// change is useDir for what is going to be changed.
func (c *conn) change(d *decoder, id uint32, name string) (*fid, error) {
	if c.folder.readOnly {
		return nil, unix.EROFS
	}
	return c.useDir(d, id, name)
}

func (c *conn) release(f *fid) {
	c.mu.Lock()
	f.refs--
	last := f.refs == 0
	c.mu.Unlock()
	if last {
		_ = unix.Close(f.fd)
	}
}

// set puts a fid into the table, in the place of old, or as a new one where that
// is nil. If it cannot, the descriptor is closed.
func (c *conn) set(id uint32, f, old *fid) error {
	f.refs = 1
	c.mu.Lock()
	now := c.fids[id]
	var err error
	switch {
	case now != old && now != nil:
		err = unix.EBADF // the number is taken
	case now != old:
		err = unix.EBADF // another request has closed it
	case old == nil && len(c.fids) >= maxFids:
		err = unix.EMFILE
	default:
		c.fids[id] = f
	}
	c.mu.Unlock()
	switch {
	case err != nil:
		c.release(f)
	case old != nil:
		c.release(old) // that of the table
	}
	return err
}

// attach begins at the folder itself.
func (c *conn) attach(d *decoder, e *encoder) error {
	id, _, _, name, _ := d.u32(), d.u32(), d.str(), d.str(), d.u32()
	if d.short {
		return unix.EPROTO
	}
	if name != "" && name != "/" {
		return unix.ENOENT
	}
	fd, err := unix.FcntlInt(c.folder.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return err
	}
	e.qid(st.Mode, c.path(&st))
	return c.set(id, &fid{fd: fd, mode: st.Mode}, nil)
}

// walk goes down from a fid, name by name, as far as there are such.
func (c *conn) walk(d *decoder, e *encoder) error {
	id, newID, n := d.u32(), d.u32(), int(d.u16())
	if n > maxNames {
		return unix.EINVAL
	}
	names := make([]string, n)
	for i := range names {
		names[i] = d.str()
	}
	from, err := c.use(d, id)
	if err != nil {
		return err
	}
	defer c.release(from)
	at := &fid{mode: from.mode}
	if at.fd, err = unix.FcntlInt(uintptr(from.fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return err
	}
	e.u16(0)
	for i, name := range names {
		next, st, err := c.step(at, name)
		if err != nil {
			_ = unix.Close(at.fd)
			if i == 0 {
				return err
			}
			return nil // as far as it went: the guest sees the number
		}
		_ = unix.Close(at.fd)
		at = next
		e.qid(st.Mode, c.path(st))
		binary.LittleEndian.PutUint16(e.b[headerSize:], uint16(i+1))
	}
	if newID == id {
		return c.set(id, at, from)
	}
	return c.set(newID, at, nil)
}

// step looks one name up, and follows no symlink.
func (c *conn) step(dir *fid, name string) (*fid, *unix.Stat_t, error) {
	if err := checkName(name); err != nil {
		return nil, nil, err
	}
	if dir.mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, nil, unix.ENOTDIR
	}
	fd, err := openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, nil, err
	}
	return &fid{fd: fd, mode: st.Mode}, &st, nil
}

// clunk forgets a fid; its file is closed once no request uses it.
func (c *conn) clunk(d *decoder, _ *encoder) error {
	id := d.u32()
	f, err := c.use(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	c.mu.Lock()
	mine := c.fids[id] == f
	if mine {
		delete(c.fids, id)
	}
	c.mu.Unlock()
	if mine {
		c.release(f)
	}
	return nil
}

// remove is clunk: what removes is tUnlinkat, to which Linux turns first.
func (c *conn) remove(d *decoder, e *encoder) error {
	if err := c.clunk(d, e); err != nil {
		return err
	}
	return unix.EOPNOTSUPP
}
