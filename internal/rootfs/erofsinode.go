package rootfs

import "encoding/binary"

// Where the contents of an inode are: erofs_fs.h, EROFS_INODE_*.
const (
	erofsPlain  = 0 // in blocks that follow each other
	erofsInline = 2 // the same, but the last part stands behind the inode
	erofsChunks = 4 // in chunks, which a map behind the inode finds
)

const (
	erofsCompact  = 32 // bytes of struct erofs_inode_compact
	erofsExtended = 64 // and of struct erofs_inode_extended
	erofsNoBlock  = 1<<32 - 1
	// erofsChunkBits makes a chunk of the piece that contents are written in
	// (unit), which is never cut, and of which one of zeros is a hole.
	erofsChunkBits = 4 // 1 << 4 blocks
	erofsXattrBody = 12
	erofsXattrHead = 4
)

// stamp is a time of modification.
type stamp struct {
	sec  int64
	nsec uint32
}

// commonTime is the time that most inodes have, if more than half of them have
// the same: those need no time of their own. It is a majority vote in one pass
// (Boyer and Moore), which needs no memory for the candidates.
func commonTime(inodes []*inode) stamp {
	var best stamp
	votes := 0
	for _, ino := range inodes {
		t := stamp{ino.sec, ino.nsec}
		switch {
		case votes == 0:
			best, votes = t, 1
		case t == best:
			votes++
		default:
			votes--
		}
	}
	return best
}

// shape is what an inode takes in the image.
type shape struct {
	extended bool
	layout   uint16
	xattrs   int64  // bytes behind the inode
	chunks   int64  // in the map behind those
	inline   int64  // bytes of contents behind the inode
	block    uint32 // of the contents that are elsewhere
}

func (s *shape) head() int64 {
	if s.extended {
		return erofsExtended
	}
	return erofsCompact
}

// length is that of the inode with all that follows it. The map of chunks needs
// no padding before it, since all before it is a multiple of 4.
func (s *shape) length() int64 { return s.head() + s.xattrs + 4*s.chunks + s.inline }

// place is where an inode can stand from at on: what has to be in one block is
// the inode itself and, where there are contents, all of it.
func (s *shape) place(at int64) int64 {
	whole := s.head()
	if s.inline > 0 {
		whole = s.length()
	}
	if at%blockSize+whole > blockSize {
		return (at + blockSize - 1) / blockSize * blockSize
	}
	return at
}

// shape finds the shape of an inode whose size is known.
func (w *erofs) shape(ino *inode) shape {
	s := shape{block: erofsNoBlock, xattrs: erofsXattrSize(ino.xattrs)}
	s.extended = ino.uid > 1<<16-1 || ino.gid > 1<<16-1 || ino.links > 1<<16-1 || ino.size > 1<<32-1 ||
		stamp{ino.sec, ino.nsec} != w.common
	switch ino.mode & typeMask {
	case typeRegular:
		blocks := (ino.size + blockSize - 1) / blockSize
		switch {
		case blocks == 0:
		case len(ino.extents) == 1 && int64(ino.extents[0].count) == blocks:
			s.block = ino.extents[0].physical
		default:
			s.layout = erofsChunks
			s.chunks = (blocks + 1<<erofsChunkBits - 1) >> erofsChunkBits
		}
	case typeDir, typeSymlink:
		tail := ino.size % blockSize
		if tail > 0 && s.head()+s.xattrs+tail <= blockSize {
			s.layout, s.inline = erofsInline, tail
		}
	}
	return s
}

// encodeInode appends the inode, its attributes, and its map of chunks.
func (w *erofs) encodeInode(b []byte, ino *inode, s shape) []byte {
	le := binary.LittleEndian
	h := make([]byte, s.head())
	format := s.layout << 1
	if s.extended {
		format |= 1
	}
	le.PutUint16(h[0:], format)
	if s.xattrs > 0 { // counted from 1, which is the header alone
		le.PutUint16(h[2:], uint16((s.xattrs-erofsXattrBody)/4+1))
	}
	le.PutUint16(h[4:], uint16(ino.mode))
	le.PutUint32(h[16:], ino.erofsUnion(s))
	le.PutUint32(h[20:], ino.number)
	if s.extended {
		le.PutUint64(h[8:], uint64(ino.size))
		le.PutUint32(h[24:], ino.uid)
		le.PutUint32(h[28:], ino.gid)
		le.PutUint64(h[32:], uint64(ino.sec))
		le.PutUint32(h[40:], ino.nsec)
		le.PutUint32(h[44:], ino.links)
	} else {
		le.PutUint16(h[6:], uint16(ino.links))
		le.PutUint32(h[8:], uint32(ino.size))
		le.PutUint16(h[24:], uint16(ino.uid))
		le.PutUint16(h[26:], uint16(ino.gid))
	}
	b = appendErofsXattrs(append(b, h...), ino.xattrs)
	if s.chunks == 0 {
		return b
	}
	blocks := make([]byte, 4*s.chunks)
	for i := range s.chunks {
		le.PutUint32(blocks[4*i:], erofsNoBlock)
	}
	for _, e := range ino.extents {
		for k := uint32(0); k < e.count; k += 1 << erofsChunkBits {
			le.PutUint32(blocks[(e.logical+k)>>erofsChunkBits*4:], e.physical+k)
		}
	}
	return append(b, blocks...)
}

// erofsUnion is i_u: the first block, the form of the map, or the device in the
// form of the kernel's new_encode_dev.
func (i *inode) erofsUnion(s shape) uint32 {
	switch i.mode & typeMask {
	case typeChar, typeBlock:
		return i.minor&0xff | i.major<<8 | i.minor&^0xff<<12
	case typeFifo:
		return 0
	}
	if s.layout == erofsChunks {
		return erofsChunkBits
	}
	return s.block
}

// erofsXattrs are the attributes as EROFS keeps them: as ext4 does, with the
// same numbers for prefixes, but ACLs are in the form of the system call.
func erofsXattrs(list []xattr) []xattr {
	out := make([]xattr, 0, len(list))
	for _, x := range list {
		if x.isACL() {
			x.value, _ = callACL(x.value) // diskACL made it
		}
		out = append(out, x)
	}
	return out
}

// erofsXattrSize is what the attributes of an inode take behind it.
func erofsXattrSize(list []xattr) int64 {
	if len(list) == 0 {
		return 0
	}
	n := erofsXattrBody
	for _, x := range erofsXattrs(list) {
		n += pad4(erofsXattrHead + len(x.name) + len(x.value))
	}
	return int64(n)
}

// appendErofsXattrs writes struct erofs_xattr_ibody_header, none of them shared
// with other inodes, and an erofs_xattr_entry for each.
func appendErofsXattrs(b []byte, list []xattr) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, make([]byte, erofsXattrBody)...)
	for _, x := range erofsXattrs(list) {
		n := erofsXattrHead + len(x.name) + len(x.value)
		b = append(b, byte(len(x.name)), x.index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.value)))
		b = append(append(b, x.name...), x.value...)
		b = append(b, make([]byte, pad4(n)-n)...)
	}
	return b
}
