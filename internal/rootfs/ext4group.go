package rootfs

import (
	"context"
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// layout is how a read-only image is cut into groups.
type layout struct {
	groups      int64
	groupInodes int64
	table       int64 // first block of the inode tables
	bitmaps     int64 // first block of the bitmaps: blocks, inodes, of each group
	blocks      int64 // of the whole image
}

// newLayout finds the fewest groups that cover end blocks of contents, the
// inodes, and the tables and bitmaps of the groups themselves.
func newLayout(end, inodes int64) layout {
	l := layout{groups: max(1, end/blocksPerGroup)}
	for ; ; l.groups++ {
		perGroup := (inodes + l.groups - 1) / l.groups
		l.groupInodes = (perGroup + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
		l.table = end
		l.bitmaps = end + l.groups*l.groupInodes/inodesPerBlock
		l.blocks = l.bitmaps + 2*l.groups
		if l.groupInodes <= blocksPerGroup && l.blocks <= l.groups*blocksPerGroup {
			break
		}
	}
	// An image of little but inodes has groups that nothing else fills.
	l.blocks = max(l.blocks, (l.groups-1)*blocksPerGroup+minLastGroup)
	return l
}

// minLastGroup is a size for the last group that every tool accepts.
const minLastGroup = 64

// writeGroups writes the inodes, the bitmaps, the descriptors and the
// superblock, and gives the file its length.
func (w *writer) writeGroups(ctx context.Context) error {
	l := newLayout(w.blocks.next, int64(len(w.inodes)))
	if l.blocks >= 1<<32 {
		return invalid("the image is larger than 16 TiB")
	}
	if err := w.writeInodes(ctx, l); err != nil {
		return err
	}
	var uuid [16]byte
	copy(uuid[:], w.sum.Sum(nil))
	stampUUID(&uuid, 8)

	w.used.mark(0, 1+descriptorBlocks(l.groups))
	w.used.mark(l.table, l.bitmaps+2*l.groups-l.table)
	groups, err := w.writeBitmaps(l)
	if err != nil {
		return err
	}
	sb := newSuperblock(uuid)
	sb.Compat = compatXattr | compatSparse2
	sb.Incompat |= incompatFlexBG
	sb.LogFlexGroups = 31 // one flexible group for all
	sb.Blocks = uint32(l.blocks)
	sb.Inodes = uint32(l.groups * l.groupInodes)
	sb.GroupInodes = uint32(l.groupInodes)
	for _, g := range groups {
		sb.FreeBlocks += uint32(g.freeBlocks)
		sb.FreeInodes += uint32(g.freeInodes)
	}
	head := append(make([]byte, 1024), sb.encode()...)
	if err := w.meta.put(0, head); err != nil {
		return err
	}
	if err := w.meta.put(1, encodeGroups(groups, uuid)); err != nil {
		return err
	}
	if err := w.meta.flush(); err != nil {
		return err
	}
	if err := w.file.Truncate(l.blocks * blockSize); err != nil {
		return diskError(err)
	}
	return w.punch(ctx, 1+descriptorBlocks(l.groups), l.table)
}

// writeInodes writes the inode tables, which follow each other.
func (w *writer) writeInodes(ctx context.Context, l layout) error {
	out := io.MultiWriter(w.sum, &tableWriter{meta: &w.meta, next: l.table})
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
		if _, err := out.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// tableWriter puts blocks one after the other.
type tableWriter struct {
	meta *blockWriter
	next int64
}

func (t *tableWriter) Write(p []byte) (int, error) {
	err := t.meta.put(t.next, p)
	t.next += int64(len(p)) / blockSize
	return len(p), err
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
		g.blockBitmap = l.bitmaps + 2*n
		g.inodeBitmap = g.blockBitmap + 1
		g.inodeTable = l.table + n*l.groupInodes/inodesPerBlock
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

// punch gives back the space of contents that a later layer replaced or
// removed, so that neither it nor what it said stays in the image.
func (w *writer) punch(ctx context.Context, from, to int64) error {
	for b := from; b < to; {
		if w.used.has(b) {
			b++
			continue
		}
		start := b
		for b < to && !w.used.has(b) {
			b++
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := unix.Fallocate(int(w.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			start*blockSize, (b-start)*blockSize)
		if errors.Is(err, syscall.EOPNOTSUPP) {
			return nil // the host's file system has no holes; unused space stays
		}
		if err != nil {
			return diskError(err)
		}
	}
	return nil
}

// stampUUID sets the version and variant bits of RFC 9562.
func stampUUID(u *[16]byte, version byte) {
	u[6] = u[6]&0x0f | version<<4
	u[8] = u[8]&0x3f | 0x80
}
