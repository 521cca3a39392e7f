package rootfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"banger"
)

// Features of file systems of others, beside those of ext4super.go: super.rst.
const (
	incompatCompression = 0x1
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompat64Bit       = 0x80
	incompatMMP         = 0x100
	incompatEAInode     = 0x400
	incompatChecksum    = 0x2000 // a seed for checksums
	incompatLargeDir    = 0x4000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	roMetadataSum       = 0x400
	roOrphans           = 0x10000
)

// mountableFeatures are those with which a Linux 5.10 mounts a file system
// read-only, and later ones too. compatible ones never stand in the way.
const mountableFeatures = incompatType | incompatMetaBG | incompatExtents | incompat64Bit | incompatMMP | incompatFlexBG |
	incompatEAInode | incompatChecksum | incompatLargeDir | incompatInlineData

// incompatNames are the words of mke2fs for what is refused.
var incompatNames = []struct {
	bit  uint32
	name string
}{{incompatCompression, "compression"}, {incompatJournalDev, "journal_dev"}, {incompatEncrypt, "encrypt"}, {0x20000, "casefold"}, {0x1000, "dirdata"}}

// super is a superblock as it was read: super.rst, "Super Block".
type super struct {
	blockSize           int64
	blocks              int64
	inodes, groupInodes uint32
	groupBlocks         uint32
	firstBlock          uint32
	firstMetaBG         uint32
	inodeSize, descSize int64
	incompat, roCompat  uint32
	compat              uint32
	journal             uint32
	state               uint16
	checksum            uint32 // of the superblock, where it has one
	computed            uint32
	checksummed         bool
	backup1, backup2    uint32 // of sparse_super2
	uuid                [16]byte
}

func parseSuper(b []byte) (super, error) {
	le := binary.LittleEndian
	u32 := func(at int) uint32 { return le.Uint32(b[at:]) }
	s := super{
		blockSize: 1024 << u32(0x18), inodes: u32(0x00), groupInodes: u32(0x28), groupBlocks: u32(0x20), firstBlock: u32(0x14),
		compat: u32(0x5C), incompat: u32(0x60), roCompat: u32(0x64), journal: u32(0xE0), state: le.Uint16(b[0x3A:]),
		inodeSize: 128, descSize: 32, firstMetaBG: u32(0x104), backup1: u32(0x24C), backup2: u32(0x250),
	}
	s.blocks = int64(u32(0x04))
	copy(s.uuid[:], b[0x68:])
	if u32(0x4C) > 0 { // not revision 0, which had no features
		s.inodeSize = int64(le.Uint16(b[0x58:]))
	}
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= int64(u32(0x150)) << 32
		s.descSize = int64(le.Uint16(b[0xFE:]))
	}
	if s.roCompat&roMetadataSum != 0 {
		s.checksummed, s.checksum, s.computed = true, u32(0x3FC), crc32c(b[:0x3FC])
	}
	switch {
	case s.checksummed && s.checksum != s.computed:
		return s, invalid("the superblock is damaged: its checksum is wrong")
	case s.blockSize > blockSize:
		return s, banger.Errorf(banger.Unsupported, "blocks of %d bytes; a guest mounts those of up to %d", s.blockSize, blockSize)
	case s.blocks == 0, s.blocks > 1<<32, s.groupInodes == 0, s.inodes == 0, s.groupBlocks == 0, int64(s.groupBlocks) > 8*s.blockSize,
		int64(s.groupInodes) > 8*s.blockSize, s.inodeSize < 128, s.inodeSize > s.blockSize, s.inodeSize&(s.inodeSize-1) != 0,
		s.descSize < 32, s.descSize > s.blockSize, s.descSize&(s.descSize-1) != 0, int64(s.firstBlock) >= s.blocks:
		return s, invalid("the superblock is damaged: its numbers make no sense")
	case uint64(s.groups())*uint64(s.groupInodes) < uint64(s.inodes):
		return s, invalid("the superblock is damaged: it has %d inodes in %d groups of %d", s.inodes, s.groups(), s.groupInodes)
	}
	return s, nil
}

func (s super) groups() int64 {
	return (s.blocks - int64(s.firstBlock) + int64(s.groupBlocks) - 1) / int64(s.groupBlocks)
}

// mountable says why a guest could not mount a file of so many bytes read-only.
func (s super) mountable(size int64, path string) error {
	if s.blocks*s.blockSize > size {
		return invalid("the file is cut short: its file system has %d bytes, it has %d", s.blocks*s.blockSize, size)
	}
	if bad := s.incompat &^ (mountableFeatures | incompatRecover); bad != 0 {
		var names []string
		for _, f := range incompatNames {
			if bad&f.bit != 0 {
				names = append(names, f.name)
				bad &^= f.bit
			}
		}
		if bad != 0 {
			names = append(names, fmt.Sprintf("%#x", bad))
		}
		return banger.Errorf(banger.Unsupported, "its file system has the feature %s, which a guest may not mount", strings.Join(names, ", "))
	}
	if s.incompat&incompatRecover != 0 || s.roCompat&roOrphans != 0 || s.state&1 == 0 || s.state&2 != 0 {
		return banger.Errorf(banger.Conflict, "its file system was not unmounted cleanly, or has errors").
			WithHint("unmount it, or repair it: e2fsck -fy %s", path)
	}
	return nil
}

// ext4Reader reads an ext2, ext3 or ext4 file system.
type ext4Reader struct {
	r     io.ReaderAt
	super super
	// seen, if set, is told of the blocks of each inode that is read.
	seen func(start, count int64) error

	groups map[int64][]byte // blocks of descriptors that were read
	table  struct {         // the block of inodes that was read last
		at    int64
		block []byte
	}
}

// openExt4 takes the superblock of a file of so many bytes.
func openExt4(r io.ReaderAt, b []byte, size int64) (*ext4Reader, error) {
	s, err := parseSuper(b)
	if err == nil {
		err = s.mountable(size, "FILE")
	}
	if err != nil {
		return nil, err
	}
	t := &ext4Reader{r: r, super: s, groups: map[int64][]byte{}}
	t.table.at = -1
	return t, nil
}

// block reads one block.
func (t *ext4Reader) block(n int64) ([]byte, error) {
	if n <= 0 || n >= t.super.blocks {
		return nil, invalid("block %d is not in the file system", n)
	}
	b := make([]byte, t.super.blockSize)
	if _, err := t.r.ReadAt(b, n*t.super.blockSize); err != nil {
		return nil, readFault(err)
	}
	return b, nil
}

// descriptor reads the descriptor of a group: group_descr.rst.
func (t *ext4Reader) descriptor(g int64) ([]byte, error) {
	s := t.super
	perBlock := s.blockSize / s.descSize
	n := g / perBlock
	at := int64(s.firstBlock) + 1 + n
	if s.incompat&incompatMetaBG != 0 && n >= int64(s.firstMetaBG) {
		first := n * perBlock
		at = int64(s.firstBlock) + first*int64(s.groupBlocks)
		if t.hasSuper(first) {
			at++
		}
	}
	b, ok := t.groups[at]
	if !ok {
		var err error
		if b, err = t.block(at); err != nil {
			return nil, err
		}
		t.groups[at] = b
	}
	return b[g%perBlock*s.descSize:][:s.descSize], nil
}

// hasSuper tells whether a group starts with a copy of the superblock.
func (t *ext4Reader) hasSuper(g int64) bool {
	switch {
	case g == 0:
		return true
	case t.super.compat&compatSparse2 != 0:
		return g == int64(t.super.backup1) || g == int64(t.super.backup2)
	case t.super.roCompat&roSparse != 0:
		return hasCopies(g)
	}
	return true
}
