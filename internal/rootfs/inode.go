package rootfs

import (
	"archive/tar"
	"math"
	"time"
)

// File types in the mode of an inode, as in stat(2).
const (
	typeMask    = 0o170000
	typeFifo    = 0o010000
	typeChar    = 0o020000
	typeDir     = 0o040000
	typeBlock   = 0o060000
	typeRegular = 0o100000
	typeSymlink = 0o120000
)

// inode is one file of the tree; hard links are several nodes with one inode.
type inode struct {
	mode     uint32
	uid, gid uint32
	links    uint32 // counted when the tree is complete
	number   uint32 // in the file system, 0 until numbered
	parent   uint32 // of a directory: the number of its parent
	nsec     uint32
	sec      int64 // modification time, the only one a layer is sure to carry
	size     int64
	target   string // of a symlink
	major    uint32
	minor    uint32
	xattrs   []xattr
	extents  []extent
	place    *placement // set while the file system is written, mostly nil
}

// newDir is a directory that no layer describes.
func newDir() *inode { return &inode{mode: typeDir | 0o755} }

func (i *inode) isDir() bool     { return i.mode&typeMask == typeDir }
func (i *inode) isSymlink() bool { return i.mode&typeMask == typeSymlink }

// The range of ext4's timestamps with two epoch bits:
// Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps".
const (
	minTime = math.MinInt32
	maxTime = math.MinInt32 + 1<<34 - 1
)

// setTime sets the time, clamped to what ext4 can hold as the kernel's
// timestamp_truncate does it: the first and the last second have no fraction.
func (i *inode) setTime(t time.Time) {
	i.sec, i.nsec = min(max(t.Unix(), minTime), maxTime), uint32(t.Nanosecond())
	if i.sec == minTime || i.sec == maxTime {
		i.nsec = 0
	}
}

// newInode takes over the metadata of a tar header, except its type.
func newInode(h *tar.Header) (*inode, error) {
	// (uid_t)-1 means "leave as it is" to chown(2), so no file can have it.
	const maxID = 1<<32 - 2
	if h.Uid < 0 || h.Uid > maxID || h.Gid < 0 || h.Gid > maxID {
		return nil, invalid("owner %d:%d is not in 0..%d", h.Uid, h.Gid, maxID)
	}
	i := &inode{uid: uint32(h.Uid), gid: uint32(h.Gid)}
	i.setTime(h.ModTime)
	// Some writers keep the S_IFMT bits of stat(2) in the mode field.
	i.mode = uint32(h.Mode) & 0o7777
	return i, nil
}
