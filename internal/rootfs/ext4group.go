package rootfs

import (
	"context"
)

// layout is how an image is cut into groups.
type layout struct {
	groups      int64
	groupInodes int64
	tables      []int64 // first block of each group's inode table
	bitmaps     []int64 // and of its bitmaps: blocks, then inodes
	blocks      int64   // of the whole image
}

// newLayout finds the fewest groups that cover end blocks of contents, the
// inodes, at least perGroup of them in each group, and the tables and bitmaps
// of the groups themselves. head is as in the allocator.
func newLayout(end, inodes, perGroup, head int64) layout {
	l := layout{groups: max(1, end/blocksPerGroup)}
	for ; ; l.groups++ {
		perGroup := max(perGroup, (inodes+l.groups-1)/l.groups)
		l.groupInodes = (perGroup + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
		if l.groupInodes > blocksPerGroup {
			continue
		}
		blocks := allocator{next: end, max: l.groups * blocksPerGroup, head: head}
		if l.tables = blocks.takeEach(l.groups, l.groupInodes/inodesPerBlock); l.tables == nil {
			continue
		}
		if l.bitmaps = blocks.takeEach(l.groups, 2); l.bitmaps == nil {
			continue
		}
		// An image of little but inodes has groups that nothing else fills.
		l.blocks = max(blocks.next, (l.groups-1)*blocksPerGroup+minLastGroup)
		return l
	}
}

// takeEach takes n blocks for each group, or gives nil where that is too much.
func (a *allocator) takeEach(groups, n int64) []int64 {
	list := make([]int64, groups)
	for i := range list {
		var err error
		if list[i], err = a.take(n); err != nil {
			return nil
		}
	}
	return list
}

// minLastGroup is a size for the last group that every tool accepts.
const minLastGroup = 64

// writeGroups writes the inodes, the bitmaps, the descriptors and the
// superblock, and gives the file its length.
func (w *writer) writeGroups(ctx context.Context) error {
	var perGroup int64
	if w.grows {
		perGroup = imageGroupInodes
	}
	end := w.blocks.next
	l := newLayout(end, int64(len(w.inodes)), perGroup, w.blocks.head)
	if l.blocks >= 1<<32 {
		return invalid("the image is larger than 16 TiB")
	}
	if err := w.writeInodes(ctx, l); err != nil {
		return err
	}
	var uuid [16]byte
	copy(uuid[:], w.sum.Sum(nil))
	stampUUID(&uuid, 8)

	for g := range l.groups {
		if hasCopies(g) {
			w.used.mark(g*blocksPerGroup, 1+descriptorBlocks(l.groups))
		}
		w.used.mark(l.tables[g], l.groupInodes/inodesPerBlock)
		w.used.mark(l.bitmaps[g], 2)
	}
	groups, err := w.writeBitmaps(l)
	if err != nil {
		return err
	}
	sb := newSuperblock(uuid)
	sb.Compat = compatXattr | compatDirIndex
	sb.ROCompat |= roSparse
	sb.Incompat |= incompatFlexBG
	sb.LogFlexGroups = 4 // as mke2fs: Linux grows a file system by so many groups at a time
	if w.grows {
		sb.Compat |= compatJournal
		sb.JournalInode = journalInode
		start := int64(w.inodes[journalInode-1].extents[0].physical)
		if err := w.meta.put(start, journalSuperblock(imageJournal, uuid)); err != nil {
			return err
		}
	}
	sb.Blocks = uint32(l.blocks)
	sb.Inodes = uint32(l.groups * l.groupInodes)
	sb.GroupInodes = uint32(l.groupInodes)
	for _, g := range groups {
		sb.FreeBlocks += uint32(g.freeBlocks)
		sb.FreeInodes += uint32(g.freeInodes)
	}
	table := encodeGroups(groups, uuid)
	for g := range l.groups {
		if !hasCopies(g) {
			continue
		}
		if err := putHead(&w.meta, g, sb, table); err != nil {
			return err
		}
	}
	if err := w.meta.flush(); err != nil {
		return err
	}
	if err := w.file.Truncate(l.blocks * blockSize); err != nil {
		return diskError(err)
	}
	return w.punch(ctx, 1+descriptorBlocks(l.groups), end)
}

// writeInodes writes the part of the inode tables that is in use.
func (w *writer) writeInodes(ctx context.Context, l layout) error {
	block := make([]byte, blockSize)
	for i := 0; i < len(w.inodes); i += inodesPerBlock {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		clear(block)
		for j, ino := range w.inodes[i:min(i+inodesPerBlock, len(w.inodes))] {
			if ino != nil {
				ino.encode(block[j*inodeSize : (j+1)*inodeSize])
			}
		}
		_, _ = w.sum.Write(block)
		at := l.tables[int64(i)/l.groupInodes] + int64(i)%l.groupInodes/inodesPerBlock
		if err := w.meta.put(at, block); err != nil {
			return err
		}
	}
	return nil
}

// writeBitmaps writes the bitmaps of all groups: bitmaps.rst. Bits beyond the
// end of the image or of the table are set.
func (w *writer) writeBitmaps(l layout) ([]group, error) {
	w.used.mark(l.blocks, l.groups*blocksPerGroup-l.blocks)
	groups := make([]group, l.groups)
	for _, d := range w.dirs {
		groups[(int64(d.ino.number)-1)/l.groupInodes].dirs++
	}
	for i := range groups {
		n := int64(i)
		g := &groups[i]
		g.blockBitmap = l.bitmaps[i]
		g.inodeBitmap = g.blockBitmap + 1
		g.inodeTable = l.tables[i]
		g.flags = groupInodesZeroed
		blocks := w.used[n*blockSize : (n+1)*blockSize]
		g.freeBlocks = blocks.zeros()
		taken := min(max(int64(len(w.inodes))-n*l.groupInodes, 0), l.groupInodes)
		g.freeInodes = int(l.groupInodes - taken)
		if err := w.meta.put(g.blockBitmap, blocks); err != nil {
			return nil, err
		}
		if err := w.meta.put(g.inodeBitmap, inodeBitmap(taken, l.groupInodes)); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// inodeBitmap is a block with the first taken of all inodes in use.
func inodeBitmap(taken, all int64) []byte {
	m := make(bitmap, blockSize)
	m.mark(0, taken)
	m.mark(all, blocksPerGroup-all)
	return m
}

// stampUUID sets the version and variant bits of RFC 9562.
func stampUUID(u *[16]byte, version byte) {
	u[6] = u[6]&0x0f | version<<4
	u[8] = u[8]&0x3f | 0x80
}
