package share

import (
	"math"

	"golang.org/x/sys/unix"
)

// What a request of tSetattr sets: linux/include/net/9p/9p.h.
const (
	setMode    = 0x1
	setUID     = 0x2
	setGID     = 0x4
	setSize    = 0x8
	setAtime   = 0x10
	setMtime   = 0x20
	setAtimeTo = 0x80
	setMtimeTo = 0x100
	attrBasic  = 0x7ff      // all that stat knows
	nobody     = 65534      // the owner of what is neither ours nor root's to tell
	unset      = ^uint32(0) // an owner that is to stay
	magic9P    = 0x01021997
	blockSize  = 4096
)

// path is an object's number in a qid: its inode, and something of its own for
// each file system that is mounted in the folder.
func (c *conn) path(st *unix.Stat_t) uint64 {
	return st.Ino ^ (st.Dev-c.folder.dev)*0x9e3779b97f4a7c15
}

// owner is whose a file is for the guest: what is the host user's is the guest's
// root's. Whoever is not root on the host has nothing to do with other numbers.
func (f *Folder) owner(st *unix.Stat_t) (uid, gid uint32) {
	return shown(st.Uid, f.uid), shown(st.Gid, f.gid)
}

func shown(id, own uint32) uint32 {
	switch {
	case id == own:
		return 0
	case own == 0:
		return id
	}
	return nobody
}

func (c *conn) getattr(d *decoder, e *encoder) error {
	id, _ := d.u32(), d.u64()
	f, err := c.use(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	uid, gid := c.folder.owner(&st)
	e.u64(attrBasic)
	e.qid(st.Mode, c.path(&st))
	e.u32(st.Mode)
	e.u32(uid)
	e.u32(gid)
	for _, v := range []uint64{uint64(st.Nlink), uint64(st.Rdev), uint64(st.Size), blockSize, uint64(st.Blocks)} {
		e.u64(v)
	}
	for _, t := range []unix.Timespec{st.Atim, st.Mtim, st.Ctim, {}} {
		e.u64(uint64(t.Sec))
		e.u64(uint64(t.Nsec))
	}
	e.u64(0) // generation
	e.u64(0) // data version
	return nil
}

// setattr changes what is the guest's to change. Owners are not: to set the one
// that a file is shown with does nothing, any other is refused. No file gets set
// to run as its owner, for that is somebody on the host.
func (c *conn) setattr(d *decoder, _ *encoder) error {
	id, valid, mode, uid, gid, size := d.u32(), d.u32(), d.u32(), d.u32(), d.u32(), d.u64()
	var at, mt [2]uint64
	at[0], at[1], mt[0], mt[1] = d.u64(), d.u64(), d.u64(), d.u64()
	f, err := c.use(d, id)
	if err != nil {
		return err
	}
	defer c.release(f)
	if c.folder.readOnly {
		return unix.EROFS
	}
	if valid&(setUID|setGID) != 0 {
		var st unix.Stat_t
		if err := unix.Fstat(f.fd, &st); err != nil {
			return err
		}
		nowUID, nowGID := c.folder.owner(&st)
		if valid&setUID != 0 && uid != unset && uid != nowUID || valid&setGID != 0 && gid != unset && gid != nowGID {
			return unix.EPERM
		}
	}
	if valid&setSize != 0 {
		if err := truncate(f, size); err != nil {
			return err
		}
	}
	if valid&setMode != 0 {
		if err := chmod(f, mode); err != nil {
			return err
		}
	}
	times := []unix.Timespec{moment(valid, setAtime, setAtimeTo, at), moment(valid, setMtime, setMtimeTo, mt)}
	if times[0].Nsec == unix.UTIME_OMIT && times[1].Nsec == unix.UTIME_OMIT {
		return nil
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, itself(f.fd), times, 0)
}

// moment is one of the times of utimensat(2).
func moment(valid, set, to uint32, t [2]uint64) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&to == 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: int64(t[0]), Nsec: int64(t[1] % 1e9)}
}

func truncate(f *fid, size uint64) error {
	switch {
	case f.mode&unix.S_IFMT != unix.S_IFREG:
		return unix.EINVAL
	case size > math.MaxInt64:
		return unix.EFBIG
	}
	// What was opened for writing may be cut whatever its mode is by now.
	if f.opened && again(func() error { return unix.Ftruncate(f.fd, int64(size)) }) == nil {
		return nil
	}
	return again(func() error { return unix.Truncate(itself(f.fd), int64(size)) })
}

func chmod(f *fid, mode uint32) error {
	switch f.mode & unix.S_IFMT {
	case unix.S_IFREG:
		return unix.Chmod(itself(f.fd), mode&0o777)
	case unix.S_IFDIR:
		return unix.Chmod(itself(f.fd), mode&0o1777)
	}
	return unix.EOPNOTSUPP
}

func (c *conn) statfs(d *decoder, e *encoder) error {
	f, err := c.use(d, d.u32())
	if err != nil {
		return err
	}
	defer c.release(f)
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &st); err != nil {
		return err
	}
	e.u32(magic9P) // what is said of the host's file system does not hold for this one
	e.u32(uint32(st.Bsize))
	for _, v := range []uint64{st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, 0} {
		e.u64(v)
	}
	e.u32(255)
	return nil
}
