package rootfs

import (
	"crypto/rand"
	"encoding/binary"
	"os"
)

// Sizes that Empty accepts, and what it takes per group.
const (
	minDisk       = 64 << 20
	maxDisk       = 16 << 40
	bytesPerInode = 16 << 10 // as mke2fs
	lostBlocks    = 4        // lost+found has room before it is needed, as from mke2fs
	// maxBackups is the largest disk with copies of the superblock. Larger ones
	// would take megabytes for copies of their many descriptors.
	maxBackups = 1 << 40 / blockSize
)

// Empty creates path as a sparse, writable ext4 file system with a journal, of
// 64 MiB to 16 TiB; path must not exist. It takes milliseconds, whatever the
// size, because groups are marked as not yet written (uninit_bg). resize2fs can
// grow it. The file is not synced: that is the business of whoever records it.
//
// Errors are *banger.Error: Invalid for the size, Exists, Exhausted.
func Empty(path string, size int64) error {
	if size < minDisk || size > maxDisk {
		return outputError("make disk", invalid("%d bytes is not in %d..%d", size, int64(minDisk), int64(maxDisk)))
	}
	return outputError("make disk", create(path, 0o600, func(f *os.File) error {
		var uuid [16]byte
		// rand.Read of this package never fails.
		_, _ = rand.Read(uuid[:])
		stampUUID(&uuid, 4)
		return newDisk(f, size).write(uuid)
	}))
}

// disk is an empty file system in the classic layout of blockgroup.rst: every
// group holds its own bitmaps and inode table, so all but the first and the
// last are described well enough by their flags.
type disk struct {
	file        *os.File
	meta        blockWriter
	blocks      int64
	groups      int64
	groupInodes int64
	journal     int64 // blocks of the journal
	backups     bool  // copies of the superblock, by the rule of sparse_super
}

func newDisk(f *os.File, size int64) *disk {
	d := &disk{file: f, meta: blockWriter{w: f}}
	// 32 bits count the blocks; at 16 TiB the last one is left out.
	d.blocks = min(size/blockSize, 1<<32-1)
	d.backups = d.blocks <= maxBackups
	d.setGroups()
	// A last group that holds little beyond its own tables is left out, as by mke2fs.
	if last := d.blocks % blocksPerGroup; last > 0 && last < d.overhead(d.groups-1)+minLastGroup {
		d.blocks -= last
		d.setGroups()
	}
	switch { // as mke2fs; the kernel needs 1024
	case d.blocks < 32<<10:
		d.journal = 1 << 10
	case d.blocks < 256<<10:
		d.journal = 4 << 10
	default:
		d.journal = 8 << 10
	}
	return d
}

func (d *disk) setGroups() {
	d.groups = (d.blocks + blocksPerGroup - 1) / blocksPerGroup
	perGroup := d.blocks * blockSize / bytesPerInode / d.groups
	d.groupInodes = perGroup / inodesPerBlock * inodesPerBlock
}

// hasBackup tells whether a group starts with a copy of the superblock and the
// descriptors: blockgroup.rst, "sparse_super".
func (d *disk) hasBackup(g int64) bool {
	return g == 0 || d.backups && hasCopies(g)
}

// hasCopies tells whether a group of a file system with sparse_super starts
// with the superblock and the descriptors, or with copies of them: 0, 1 and the
// powers of 3, 5 and 7.
func hasCopies(g int64) bool {
	if g == 0 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := g
		for n%base == 0 {
			n /= base
		}
		if n == 1 {
			return true
		}
	}
	return false
}

// head is the number of blocks before the bitmaps of a group.
func (d *disk) head(g int64) int64 {
	if d.hasBackup(g) {
		return 1 + descriptorBlocks(d.groups)
	}
	return 0
}

// overhead is the number of blocks that a group uses for itself.
func (d *disk) overhead(g int64) int64 { return d.head(g) + 2 + d.groupInodes/inodesPerBlock }

// size is the number of blocks of a group.
func (d *disk) size(g int64) int64 { return min(blocksPerGroup, d.blocks-g*blocksPerGroup) }

// write writes the file system. All that is not written reads as zeros.
func (d *disk) write(uuid [16]byte) error {
	start := d.overhead(0)
	contents := 1 + lostBlocks + d.journal
	groups := d.describe(contents)
	if err := d.writeFirst(uuid, start); err != nil {
		return err
	}
	if err := d.writeBitmaps(groups, start+contents); err != nil {
		return err
	}
	if err := d.writeSuper(uuid, groups); err != nil {
		return err
	}
	if err := d.meta.flush(); err != nil {
		return err
	}
	return diskError(d.file.Truncate(d.blocks * blockSize))
}

// describe makes the descriptors; contents is what the first group holds.
func (d *disk) describe(contents int64) []group {
	groups := make([]group, d.groups)
	for i := range groups {
		n, g := int64(i), &groups[i]
		g.blockBitmap = n*blocksPerGroup + d.head(n)
		g.inodeBitmap = g.blockBitmap + 1
		g.inodeTable = g.blockBitmap + 2
		g.freeBlocks = int(d.size(n) - d.overhead(n))
		g.freeInodes = int(d.groupInodes)
		g.flags = groupInodesZeroed | groupInodesUninit | groupBlocksUninit
	}
	last := &groups[len(groups)-1]
	last.flags &^= groupBlocksUninit // tools expect a real bitmap where a group may be short
	first := &groups[0]
	first.flags = groupInodesZeroed
	first.freeBlocks -= int(contents)
	first.freeInodes -= firstInode // 1 to 10 are reserved, 11 is lost+found
	first.dirs = 2
	return groups
}

// writeFirst writes the root directory, lost+found and the journal, which
// stand behind the tables of the first group, and their inodes.
func (d *disk) writeFirst(uuid [16]byte, start int64) error {
	root, lost := newDir(), newDir()
	root.number, root.parent, root.links = rootInode, rootInode, 3
	lost.number, lost.parent, lost.links = firstInode, rootInode, 2
	lost.mode = typeDir | 0o700
	root.extents = []extent{{0, uint32(start), 1}}
	lost.extents = []extent{{0, uint32(start + 1), lostBlocks}}
	root.size, lost.size = blockSize, lostBlocks*blockSize
	journal := newJournal(start+1+lostBlocks, d.journal)

	table := make([]byte, blockSize)
	for number, ino := range map[int]*inode{rootInode: root, journalInode: journal, firstInode: lost} {
		ino.encode(table[(number-1)*inodeSize : number*inodeSize])
	}
	if err := d.meta.put(d.head(0)+2, table); err != nil {
		return err
	}
	rootNode := &node{ino: root}
	rootNode.set("lost+found", &node{ino: lost})
	if err := d.meta.put(start, encodeDir(rootNode)); err != nil {
		return err
	}
	lostData := encodeDir(&node{ino: lost})
	for range lostBlocks - 1 {
		// A block without names is one entry of no inode.
		lostData = append(lostData, make([]byte, blockSize)...)
		binary.LittleEndian.PutUint16(lostData[len(lostData)-blockSize+4:], blockSize)
	}
	if err := d.meta.put(start+1, lostData); err != nil {
		return err
	}
	return d.meta.put(start+1+lostBlocks, journalSuperblock(d.journal, uuid))
}

// newJournal is the inode of a journal of so many blocks in one run.
func newJournal(start, blocks int64) *inode {
	return &inode{mode: typeRegular | 0o600, links: 1, size: blocks * blockSize,
		extents: []extent{{0, uint32(start), uint32(blocks)}}}
}

// journalSuperblock starts an empty journal: journal.rst, "Super Block".
// Unlike the rest of ext4 it is big-endian.
func journalSuperblock(blocks int64, uuid [16]byte) []byte {
	be := binary.BigEndian
	b := make([]byte, blockSize)
	be.PutUint32(b[0x00:], 0xC03B3998)
	be.PutUint32(b[0x04:], 4) // superblock, version 2
	be.PutUint32(b[0x0C:], blockSize)
	be.PutUint32(b[0x10:], uint32(blocks))
	be.PutUint32(b[0x14:], 1) // first block of the log
	be.PutUint32(b[0x18:], 1) // first sequence number; no start means nothing to replay
	copy(b[0x30:], uuid[:])
	be.PutUint32(b[0x40:], 1) // file systems that use it
	return b
}

// writeBitmaps writes those of the first group, of which used blocks are in
// use, and the block bitmap of the last.
func (d *disk) writeBitmaps(groups []group, used int64) error {
	ofGroup := func(g, used int64) bitmap {
		m := make(bitmap, blockSize)
		m.mark(0, used)
		m.mark(d.size(g), blocksPerGroup-d.size(g))
		return m
	}
	if err := d.meta.put(groups[0].blockBitmap, ofGroup(0, used)); err != nil {
		return err
	}
	if err := d.meta.put(groups[0].inodeBitmap, inodeBitmap(firstInode, d.groupInodes)); err != nil {
		return err
	}
	if last := d.groups - 1; last > 0 {
		return d.meta.put(groups[last].blockBitmap, ofGroup(last, d.overhead(last)))
	}
	return nil
}

// writeSuper writes the superblock and the descriptors, and their copies.
func (d *disk) writeSuper(uuid [16]byte, groups []group) error {
	sb := newSuperblock(uuid)
	sb.Compat = compatJournal | compatXattr | compatDirIndex
	if d.backups {
		sb.ROCompat |= roSparse
	} else {
		sb.Compat |= compatSparse2
	}
	sb.JournalInode = journalInode
	sb.Blocks = uint32(d.blocks)
	sb.Inodes = uint32(d.groups * d.groupInodes)
	sb.GroupInodes = uint32(d.groupInodes)
	for _, g := range groups {
		sb.FreeBlocks += uint32(g.freeBlocks)
		sb.FreeInodes += uint32(g.freeInodes)
	}
	table := encodeGroups(groups, uuid)
	for g := range d.groups {
		if !d.hasBackup(g) {
			continue
		}
		if err := putHead(&d.meta, g, sb, table); err != nil {
			return err
		}
	}
	return nil
}

// putHead writes the superblock and the descriptors of all groups, or the
// copies of them in group g.
func putHead(meta *blockWriter, g int64, sb superblock, table []byte) error {
	sb.Group = uint16(g)
	head := sb.encode()
	if g == 0 {
		head = append(make([]byte, 1024), head...) // room for a boot loader
	}
	if err := meta.put(g*blocksPerGroup, head); err != nil {
		return err
	}
	return meta.put(g*blocksPerGroup+1, table)
}
