package rootfs

import "encoding/binary"

// Flags of an inode: inodes.rst, "Inode Flags".
const flagExtents = 0x80000

// isFast reports whether the target of a symlink fits in i_block, with a NUL:
// ifork.rst, "Symbolic Links".
func (i *inode) isFast() bool { return len(i.target) < 60 }

// encode writes the inode into b, which holds zeros: inodes.rst, "Index Nodes".
func (i *inode) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint16(b[0x00:], uint16(i.mode))
	le.PutUint16(b[0x02:], uint16(i.uid))
	le.PutUint32(b[0x04:], uint32(i.size))
	le.PutUint16(b[0x18:], uint16(i.gid))
	links := i.links
	if links > maxLinks {
		links = 1 // dir_nlink: a directory with more subdirectories than can be counted
	}
	le.PutUint16(b[0x1A:], uint16(links))
	le.PutUint32(b[0x6C:], uint32(i.size>>32))
	le.PutUint16(b[0x78:], uint16(i.uid>>16))
	le.PutUint16(b[0x7A:], uint16(i.gid>>16))
	le.PutUint16(b[0x80:], extraSize)
	i.encodeTimes(b)
	i.encodeBlocks(b)

	inline, _, _ := splitXattrs(i.xattrs)
	if len(inline) > 0 {
		x := b[128+extraSize:]
		le.PutUint32(x, xattrMagic)
		encodeXattrs(x[4:], inline, 0, false)
	}
}

// encodeTimes sets all four times to that of the layer. The upper two bits of
// the seconds go beside the nanoseconds: inodes.rst, "Inode Timestamps".
func (i *inode) encodeTimes(b []byte) {
	le := binary.LittleEndian
	epoch := uint32((i.sec-int64(int32(i.sec)))>>32) & 3
	for _, at := range []int{0x08, 0x0C, 0x10, 0x90} { // atime, ctime, mtime, crtime
		le.PutUint32(b[at:], uint32(i.sec))
	}
	for _, at := range []int{0x84, 0x88, 0x8C, 0x94} {
		le.PutUint32(b[at:], i.nsec<<2|epoch)
	}
}

// encodeBlocks sets i_block, what it means, and the count of sectors.
func (i *inode) encodeBlocks(b []byte) {
	le := binary.LittleEndian
	var blocks int64
	for _, e := range i.extents {
		blocks += int64(e.count)
	}
	block := b[0x28:0x64]
	switch i.mode & typeMask {
	case typeChar, typeBlock:
		// ext4_iget: the old 16-bit form in the first word, else the new in the second.
		if i.major < 256 && i.minor < 256 {
			le.PutUint32(block, i.major<<8|i.minor)
		} else {
			le.PutUint32(block[4:], i.minor&0xff|i.major<<8|i.minor&^0xff<<12)
		}
	case typeFifo:
	case typeSymlink:
		if i.isFast() {
			copy(block, i.target)
			break
		}
		fallthrough
	default:
		le.PutUint32(b[0x20:], flagExtents)
		if i.place != nil && i.place.root != nil {
			copy(block, i.place.root[:])
		} else {
			root, _, _ := extentTree(i.extents, nil)
			copy(block, root[:])
		}
	}
	if i.place != nil {
		blocks += i.place.extra
		le.PutUint32(b[0x68:], i.place.xattr)
	}
	sectors := uint64(blocks) * (blockSize / 512)
	le.PutUint32(b[0x1C:], uint32(sectors))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
}
