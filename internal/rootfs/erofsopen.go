package rootfs

import (
	"bytes"
	"encoding/binary"
	"io"

	"banger"
)

// The superblock: struct erofs_super_block of fs/erofs/erofs_fs.h, and
// Documentation/filesystems/erofs.rst.
const (
	erofsMagic     = 0xE0F5E1E2
	erofsSuperSize = 128
	erofsChecksum  = 0x1  // compatible: the superblock has a checksum
	erofsPacked    = 0x33 // incompatible: compression of one kind or another
	erofsDevices   = 0x8  // incompatible: data on other devices
	erofsPrefixes  = 0x40 // incompatible: long prefixes of attributes
	erofsKnown     = 0x7f // incompatible: all up to those (Linux 6.4)
)

// erofsSuper is a superblock as it was read. Places are in bytes.
type erofsSuper struct {
	blockSize int64
	size      int64 // of the file system
	inodes    int64 // where those begin
	xattrs    int64 // where the shared attributes begin
	root      uint32
	common    stamp // of inodes that carry no time
	incompat  uint32
}

// parseErofs checks the superblock of a file of so many bytes that begins with
// head, and refuses what a guest could not mount.
func parseErofs(head []byte, size int64) (erofsSuper, error) {
	le := binary.LittleEndian
	b := head[superOffset:]
	bits := b[12]
	if bits < 9 || bits > 12 {
		return erofsSuper{}, banger.Errorf(banger.Unsupported, "an erofs file system with blocks of 2^%d bytes; a guest mounts those of up to 4096", bits)
	}
	s := erofsSuper{
		blockSize: 1 << bits, size: int64(le.Uint32(b[36:])) << bits, inodes: int64(le.Uint32(b[40:])) << bits,
		xattrs: int64(le.Uint32(b[44:])) << bits, root: uint32(le.Uint16(b[14:])),
		common: stamp{int64(le.Uint64(b[24:])), le.Uint32(b[32:])}, incompat: le.Uint32(b[80:]),
	}
	if s.incompat&erofsDevices != 0 || s.incompat&^erofsKnown != 0 {
		return s, banger.Errorf(banger.Unsupported, "an erofs file system with features that banger does not know (%#x)", s.incompat)
	}
	if b[90] != 0 { // dirblkbits
		return s, banger.Errorf(banger.Unsupported, "an erofs file system with larger blocks for directories, which no guest mounts")
	}
	if s.size > size || s.size == 0 {
		return s, invalid("the file is cut short: its erofs file system has %d bytes, it has %d", s.size, size)
	}
	if le.Uint32(b[8:])&erofsChecksum == 0 {
		return s, nil
	}
	// Over the rest of the superblock's block, or over one block behind the start
	// of it: erofs_superblock_csum_verify of fs/erofs/super.c.
	n := s.blockSize
	if n > superOffset {
		n -= superOffset
	}
	if int64(len(b)) < n {
		return s, invalid("the file is cut short")
	}
	block := bytes.Clone(b[:n])
	want := le.Uint32(block[4:])
	le.PutUint32(block[4:], 0)
	if crc32c(block) != want {
		return s, invalid("the superblock of its erofs file system is damaged: the checksum is wrong")
	}
	return s, nil
}

// erofsReader reads an EROFS file system without compression: inodes of both
// sizes; contents in blocks, with their end behind the inode, or in chunks;
// attributes behind the inode and shared ones.
type erofsReader struct {
	r     io.ReaderAt
	super erofsSuper

	at     int64  // of window
	window []byte // of metadata, what was read last
}

// openErofs takes the start of a file of so many bytes.
func openErofs(r io.ReaderAt, head []byte, size int64) (*erofsReader, error) {
	s, err := parseErofs(head, size)
	switch {
	case err != nil:
	case s.incompat&erofsPacked != 0:
		err = errErofsPacked()
	case s.incompat&erofsPrefixes != 0:
		err = banger.Errorf(banger.Unsupported, "an erofs file system with long prefixes of attributes, which banger mounts and does not read").
			WithHint("make it anew with mkfs.erofs without --xattr-prefix")
	}
	if err != nil {
		return nil, err
	}
	return &erofsReader{r: r, super: s}, nil
}

func errErofsPacked() error {
	return banger.Errorf(banger.Unsupported, "a compressed erofs file system, which banger mounts and does not read").
		WithHint("make it anew with mkfs.erofs without -z; its files are had with fsck.erofs --extract=DIR")
}

// erofsWindow is how much metadata is read at once, in bytes.
const erofsWindow = 16 << 10

// meta reads metadata. What it gives is not written over later.
func (e *erofsReader) meta(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > e.super.size-n {
		return nil, invalid("byte %d is not in the file system", at)
	}
	if at < e.at || at+n > e.at+int64(len(e.window)) {
		start := at &^ (blockSize - 1)
		b := make([]byte, min(max(erofsWindow, at-start+n), e.super.size-start))
		if _, err := e.r.ReadAt(b, start); err != nil {
			return nil, readFault(err)
		}
		e.at, e.window = start, b
	}
	return e.window[at-e.at:][:n:n], nil
}
