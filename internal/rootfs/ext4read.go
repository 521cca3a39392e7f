package rootfs

import (
	"encoding/binary"
	"io"
	"strings"

	"banger"
)

// Flags of inodes of others: inodes.rst, "Inode Flags".
const (
	flagEncrypt    = 0x800
	flagInlineData = 0x10000000
	flagEAInode    = 0x200000
)

// maxExtentDepth is that of ext4 (EXT4_MAX_EXTENT_DEPTH).
const maxExtentDepth = 5

// inode reads one inode with the places of its contents.
func (t *ext4Reader) inode(number uint32) (*inode, error) {
	if number == 0 || number > t.super.inodes {
		return nil, invalid("inode %d is not in the file system", number)
	}
	b, err := t.rawInode(number)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	u32 := func(at int) uint32 { return le.Uint32(b[at:]) }
	u16 := func(at int) uint32 { return uint32(le.Uint16(b[at:])) }
	i := &inode{
		number: number, mode: u16(0x00), uid: u16(0x02) | u16(0x78)<<16, gid: u16(0x18) | u16(0x7A)<<16, links: u16(0x1A),
		size: int64(u32(0x04)), sec: int64(int32(u32(0x10))),
	}
	if k := i.mode & typeMask; k == typeRegular || k == typeDir {
		i.size |= int64(u32(0x6C)) << 32
	}
	if len(b) > 128 && 128+u16(0x80) >= 0x8C {
		extra := u32(0x88)
		i.sec += int64(extra&3) << 32
		i.nsec = extra >> 2
	}
	if i.nsec >= 1e9 || i.size < 0 || i.size > maxFile {
		return nil, invalid("inode %d makes no sense", number)
	}
	if err := t.attributes(i, b); err != nil {
		return nil, err
	}
	return i, t.contents(i, b)
}

// rawInode reads an inode's bytes: inodes.rst, "Finding an Inode".
func (t *ext4Reader) rawInode(number uint32) ([]byte, error) {
	d, err := t.descriptor(int64(number-1) / int64(t.super.groupInodes))
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	table := int64(le.Uint32(d[0x08:]))
	if len(d) >= 64 {
		table |= int64(le.Uint32(d[0x28:])) << 32
	}
	off := int64(number-1) % int64(t.super.groupInodes) * t.super.inodeSize
	at := table + off/t.super.blockSize
	if at != t.table.at {
		b, err := t.block(at)
		if err != nil {
			return nil, err
		}
		t.table.at, t.table.block = at, b
	}
	return t.table.block[off%t.super.blockSize:][:t.super.inodeSize], nil
}

// contents finds out what an inode of each type has in i_block: ifork.rst.
func (t *ext4Reader) contents(i *inode, b []byte) (err error) {
	le := binary.LittleEndian
	flags := le.Uint32(b[0x20:])
	block := b[0x28:0x64]
	switch i.mode & typeMask {
	case typeChar, typeBlock:
		if old := le.Uint32(block); old != 0 {
			i.major, i.minor = old>>8&0xff, old&0xff
		} else {
			dev := le.Uint32(block[4:])
			i.major, i.minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
		}
		return nil
	case typeSymlink, typeRegular, typeDir:
	default: // a FIFO or a socket has none; anything else is told by who meets it
		return nil
	}
	switch {
	case flags&flagEncrypt != 0:
		return banger.Errorf(banger.Unsupported, "it is encrypted")
	case flags&flagInlineData != 0:
		return banger.Errorf(banger.Unsupported, "it has its data in its inode (the feature inline_data)")
	}
	if i.isSymlink() && flags&flagExtents == 0 && i.size < int64(len(block)) && t.ownBlocks(b) == 0 {
		i.target = string(block[:i.size])
		return checkTarget(i)
	}
	w := &mapReader{tree: t, left: t.super.blocks}
	if flags&flagExtents != 0 {
		err = w.extents(block, -1)
	} else {
		err = w.indirect(block)
	}
	if err != nil {
		return err
	}
	i.extents = w.list
	if !i.isSymlink() {
		return nil
	}
	if i.size > maxSymlink {
		return invalid("its target is longer than %d bytes", maxSymlink)
	}
	target := &strings.Builder{}
	if err := t.copy(target, i); err != nil {
		return err
	}
	i.target = target.String()
	return checkTarget(i)
}

// ownBlocks is how many sectors an inode takes beside that of its attributes.
func (t *ext4Reader) ownBlocks(b []byte) int64 {
	le := binary.LittleEndian
	n := int64(le.Uint32(b[0x1C:]))
	if le.Uint32(b[0x68:]) != 0 {
		n -= t.super.blockSize / 512
	}
	return n
}

// mapReader collects the extents of one file.
type mapReader struct {
	tree *ext4Reader
	list []extent
	next int64 // logical block behind the last extent
	left int64 // blocks that the file may still have: none is there twice
}

// extents reads a node of an extent tree: ifork.rst, "Extent Tree". Its depth
// has to be the one that the node above says; -1 for the root.
func (w *mapReader) extents(node []byte, depth int) error {
	le := binary.LittleEndian
	n, d := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if le.Uint16(node) != extentMagic || extentSize*(n+1) > len(node) || d > maxExtentDepth || depth >= 0 && d != depth {
		return invalid("its extents are damaged")
	}
	for k := range n {
		e := node[extentSize*(k+1):]
		logical := int64(le.Uint32(e))
		if d > 0 {
			b, err := w.node(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
			if err != nil {
				return err
			}
			if err := w.extents(b, d-1); err != nil {
				return err
			}
			continue
		}
		count := int64(le.Uint16(e[4:]))
		written := count <= extentMaxLen
		if !written {
			count -= extentMaxLen
		}
		if err := w.add(logical, int64(le.Uint32(e[8:]))|int64(le.Uint16(e[6:]))<<32, count, written); err != nil {
			return err
		}
	}
	return nil
}

// node reads a block of the map itself.
func (w *mapReader) node(n int64) ([]byte, error) {
	if w.left--; w.left < 0 {
		return nil, invalid("the map of its blocks is damaged")
	}
	b, err := w.tree.block(n)
	if err == nil && w.tree.seen != nil {
		err = w.tree.seen(n, 1)
	}
	return b, err
}

// add takes over one run. One that was reserved and not written reads as zeros.
func (w *mapReader) add(logical, physical, count int64, written bool) error {
	if logical < w.next || count == 0 || physical <= 0 || physical+count > w.tree.super.blocks || count > w.left || logical+count > 1<<32 {
		return invalid("its extents are damaged")
	}
	w.next, w.left = logical+count, w.left-count
	if w.tree.seen != nil {
		if err := w.tree.seen(physical, count); err != nil {
			return err
		}
	}
	if written {
		w.list = appendExtent(w.list, extent{uint32(logical), uint32(physical), uint32(count)})
	}
	return nil
}

// indirect reads the block map of ext2 and ext3: ifork.rst, "Direct/Indirect
// Block Addressing".
func (w *mapReader) indirect(block []byte) error {
	le := binary.LittleEndian
	for k := range 12 {
		if err := w.mapped(int64(k), int64(le.Uint32(block[4*k:])), 0); err != nil {
			return err
		}
	}
	per := w.tree.super.blockSize / 4
	start, span := int64(12), per
	for level := 1; level <= 3; level++ {
		if err := w.mapped(start, int64(le.Uint32(block[4*(11+level):])), level); err != nil {
			return err
		}
		start += span
		span *= per
	}
	return nil
}

// mapped takes over a block, or the blocks that an indirect one names.
func (w *mapReader) mapped(logical, physical int64, level int) error {
	if physical == 0 {
		return nil
	}
	if level == 0 {
		return w.add(logical, physical, 1, true)
	}
	b, err := w.node(physical)
	if err != nil {
		return err
	}
	span := int64(1)
	for range level - 1 {
		span *= w.tree.super.blockSize / 4
	}
	for k := range len(b) / 4 {
		if err := w.mapped(logical+int64(k)*span, int64(binary.LittleEndian.Uint32(b[4*k:])), level-1); err != nil {
			return err
		}
	}
	return nil
}

// copy writes the contents of a file.
func (t *ext4Reader) copy(w io.Writer, i *inode) error {
	size, at := t.super.blockSize, int64(0)
	for _, e := range i.extents {
		start := int64(e.logical) * size
		if start >= i.size {
			break
		}
		if err := writeZeros(w, start-at); err != nil {
			return err
		}
		n := min(int64(e.count)*size, i.size-start)
		if err := copyRange(w, t.r, int64(e.physical)*size, n); err != nil {
			return err
		}
		at = start + n
	}
	return writeZeros(w, i.size-at)
}

// attributes reads the extended attributes behind an inode and in its block:
// attributes.rst.
func (t *ext4Reader) attributes(i *inode, b []byte) error {
	le := binary.LittleEndian
	if len(b) > 128 {
		if at := 128 + int(le.Uint16(b[0x80:])); at+4 <= len(b) && le.Uint32(b[at:]) == xattrMagic {
			if err := addXattrs(i, b[at+4:], b[at+4:]); err != nil {
				return err
			}
		}
	}
	block := int64(le.Uint32(b[0x68:])) | int64(le.Uint16(b[0x76:]))<<32
	if block == 0 {
		return nil
	}
	x, err := t.block(block)
	if err != nil {
		return err
	}
	if le.Uint32(x) != xattrMagic {
		return invalid("its extended attributes are damaged")
	}
	return addXattrs(i, x[xattrHeader:], x)
}

// addXattrs reads entries; offsets of values count from the start of base.
func addXattrs(i *inode, entries, base []byte) error {
	le := binary.LittleEndian
	for len(entries) >= 4 && le.Uint32(entries) != 0 {
		if len(entries) < xattrEntry || len(entries) < xattrEntry+pad4(int(entries[0])) {
			return invalid("its extended attributes are damaged")
		}
		at, size := int64(le.Uint16(entries[2:])), int64(le.Uint32(entries[8:]))
		if le.Uint32(entries[4:]) != 0 {
			return banger.Errorf(banger.Unsupported, "it has an extended attribute in an inode of its own (the feature ea_inode)")
		}
		if size > 0 && at+size > int64(len(base)) {
			return invalid("its extended attributes are damaged")
		}
		x := xattr{index: entries[1], name: string(entries[xattrEntry : xattrEntry+int(entries[0])])}
		if size > 0 {
			x.value = string(base[at : at+size])
		}
		i.xattrs = append(i.xattrs, x)
		entries = entries[xattrEntry+pad4(int(entries[0])):]
	}
	return nil
}
