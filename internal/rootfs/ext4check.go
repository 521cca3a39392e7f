package rootfs

import (
	"context"
	"encoding/binary"
	"fmt"
)

const roBigalloc = 0x200

// check wants no block to belong to two files, and all that is in use to be
// marked so.
func (t *ext4Reader) check(ctx context.Context, numbers []uint32) error {
	var used bitmap
	defer func() { t.seen = nil }()
	t.seen = func(start, count int64) error {
		for b := start; b < start+count; b++ {
			if used.has(b) {
				return invalid("block %d belongs to two files", b)
			}
		}
		used.mark(start, count)
		return nil
	}
	for k, number := range numbers {
		if k%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, err := t.inode(number)
		if err == nil {
			err = t.marked(int64(number-1)/int64(t.super.groupInodes), int64(number-1)%int64(t.super.groupInodes), true)
		}
		if err != nil {
			return fmt.Errorf("inode %d: %w", number, err)
		}
	}
	return t.checkBlocks(ctx, used)
}

// checkBlocks wants every block that a file has to be marked as in use.
func (t *ext4Reader) checkBlocks(ctx context.Context, used bitmap) error {
	if t.super.roCompat&roBigalloc != 0 { // its bits stand for more than a block each
		return nil
	}
	per, first := int64(t.super.groupBlocks), int64(t.super.firstBlock)
	for g := range t.super.groups() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m, err := t.groupBitmap(g, false)
		if err != nil {
			return fmt.Errorf("group %d: %w", g, err)
		}
		for b := int64(0); m != nil && b < per && first+g*per+b < t.super.blocks; b++ {
			if used.has(first+g*per+b) && !m.has(b) {
				return invalid("block %d is in use and marked as free", first+g*per+b)
			}
		}
	}
	return nil
}

// marked wants an inode's bit to be set.
func (t *ext4Reader) marked(g, bit int64, inodes bool) error {
	m, err := t.groupBitmap(g, inodes)
	if err != nil {
		return err
	}
	if m != nil && !m.has(bit) {
		return invalid("it is in use and marked as free")
	}
	return nil
}

// groupBitmap reads a bitmap of a group; nil is one that is not written yet.
func (t *ext4Reader) groupBitmap(g int64, inodes bool) (bitmap, error) {
	d, err := t.descriptor(g)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	low, high, unwritten := 0x00, 0x20, uint16(groupBlocksUninit)
	if inodes {
		low, high, unwritten = 0x04, 0x24, groupInodesUninit
	}
	if t.super.roCompat&(roGroupSum|roMetadataSum) != 0 && le.Uint16(d[0x12:])&unwritten != 0 {
		return nil, nil
	}
	at := int64(le.Uint32(d[low:]))
	if len(d) >= 64 {
		at |= int64(le.Uint32(d[high:])) << 32
	}
	b, err := t.block(at)
	return b, err
}
