package rootfs

import (
	"bytes"
	"encoding/binary"
)

// Features: Documentation/filesystems/ext4/super.rst.
const (
	compatJournal   = 0x4
	compatXattr     = 0x8
	compatDirIndex  = 0x20
	compatSparse2   = 0x200
	incompatType    = 0x2
	incompatExtents = 0x40
	incompatFlexBG  = 0x200
	roSparse        = 0x1
	roLargeFile     = 0x2
	roHugeFile      = 0x8
	roGroupSum      = 0x10
	roDirLinks      = 0x20
	roExtraSize     = 0x40

	incompatAll = incompatType | incompatExtents
	roAll       = roLargeFile | roHugeFile | roGroupSum | roDirLinks | roExtraSize
)

const superMagic = 0xEF53

// superblock is the start of struct ext4_super_block; what follows is zero.
type superblock struct {
	Inodes         uint32
	Blocks         uint32
	ReservedBlocks uint32
	FreeBlocks     uint32
	FreeInodes     uint32
	FirstBlock     uint32
	LogBlockSize   uint32
	LogClusterSize uint32
	GroupBlocks    uint32
	GroupClusters  uint32
	GroupInodes    uint32
	MountTime      uint32
	WriteTime      uint32
	MountCount     uint16
	MaxMountCount  uint16
	Magic          uint16
	State          uint16
	Errors         uint16
	MinorRevision  uint16
	LastCheck      uint32
	CheckInterval  uint32
	Creator        uint32
	Revision       uint32
	ReservedUID    uint16
	ReservedGID    uint16
	FirstInode     uint32
	InodeSize      uint16
	Group          uint16 // of this copy
	Compat         uint32
	Incompat       uint32
	ROCompat       uint32
	UUID           [16]byte
	Label          [16]byte
	LastMounted    [64]byte
	Algorithms     uint32
	Prealloc       [2]uint8
	ReservedGDT    uint16
	JournalUUID    [16]byte
	JournalInode   uint32
	JournalDevice  uint32
	LastOrphan     uint32
	HashSeed       [16]byte
	HashVersion    uint8
	JournalBackup  uint8
	DescriptorSize uint16
	MountOptions   uint32
	FirstMetaBG    uint32
	MkfsTime       uint32
	JournalBlocks  [17]uint32
	High           [3]uint32 // of the three counts of blocks
	MinExtraSize   uint16
	WantExtraSize  uint16
	Flags          uint32
	RaidStride     uint16
	MMPInterval    uint16
	MMPBlock       uint64
	RaidWidth      uint32
	LogFlexGroups  uint8
}

// newSuperblock fills in what is the same for all file systems made here.
func newSuperblock(uuid [16]byte) superblock {
	return superblock{
		LogBlockSize: 2, LogClusterSize: 2, // 1024 << 2
		GroupBlocks: blocksPerGroup, GroupClusters: blocksPerGroup,
		MaxMountCount: 0xffff, // never check because of a count
		Magic:         superMagic,
		State:         1, // unmounted cleanly
		Errors:        1, // continue
		Revision:      1,
		FirstInode:    firstInode,
		InodeSize:     inodeSize,
		Incompat:      incompatAll,
		ROCompat:      roAll,
		UUID:          uuid,
		HashSeed:      uuid,
		HashVersion:   1,   // half MD4
		MountOptions:  0xC, // user_xattr, acl
		MinExtraSize:  extraSize,
		WantExtraSize: extraSize,
		Flags:         1, // directory hashes take bytes as signed, as on x86
	}
}

// encode gives the 1024 bytes of the superblock.
func (s *superblock) encode() []byte {
	var b bytes.Buffer
	// Writing fixed-size values to a buffer cannot fail.
	_ = binary.Write(&b, binary.LittleEndian, s)
	return append(b.Bytes(), make([]byte, 1024-b.Len())...)
}

// Flags of a group: group_descr.rst.
const (
	groupInodesUninit = 1 // its inode bitmap and table are not written
	groupBlocksUninit = 2 // its block bitmap is not written
	groupInodesZeroed = 4 // the unused part of the inode table reads as zeros
)

const descriptorSize = 32

// group is one block group: Documentation/filesystems/ext4/group_descr.rst.
type group struct {
	blockBitmap int64
	inodeBitmap int64
	inodeTable  int64
	freeBlocks  int
	freeInodes  int
	dirs        int
	flags       uint16
}

func descriptorBlocks(groups int64) int64 {
	return (groups*descriptorSize + blockSize - 1) / blockSize
}

// encodeGroups gives the blocks of the descriptor table. Free inodes are
// always at the end of a table, so they are also its unused part.
func encodeGroups(groups []group, uuid [16]byte) []byte {
	le := binary.LittleEndian
	out := make([]byte, descriptorBlocks(int64(len(groups)))*blockSize)
	seed := crc16(0xffff, uuid[:])
	for i, g := range groups {
		b := out[i*descriptorSize:]
		le.PutUint32(b[0x00:], uint32(g.blockBitmap))
		le.PutUint32(b[0x04:], uint32(g.inodeBitmap))
		le.PutUint32(b[0x08:], uint32(g.inodeTable))
		le.PutUint16(b[0x0C:], uint16(g.freeBlocks))
		le.PutUint16(b[0x0E:], uint16(g.freeInodes))
		le.PutUint16(b[0x10:], uint16(g.dirs))
		le.PutUint16(b[0x12:], g.flags)
		le.PutUint16(b[0x1C:], uint16(g.freeInodes))
		sum := crc16(seed, le.AppendUint32(nil, uint32(i)))
		le.PutUint16(b[0x1E:], crc16(sum, b[:0x1E]))
	}
	return out
}

// crc16 is the kernel's lib/crc16.c (polynomial 0x8005, reflected), which
// uninit_bg uses: Documentation/filesystems/ext4/checksums.rst.
func crc16(crc uint16, data []byte) uint16 {
	for _, c := range data {
		crc = crc>>8 ^ crc16Table[byte(crc)^c]
	}
	return crc
}

var crc16Table = func() (t [256]uint16) {
	for i := range t {
		v := uint16(i)
		for range 8 {
			v = v>>1 ^ 0xA001*(v&1)
		}
		t[i] = v
	}
	return t
}()
