package rootfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"banger"
)

// Forms of chunks: EROFS_CHUNK_FORMAT_* of fs/erofs/erofs_fs.h.
const (
	erofsChunkMask    = 0x1f // the size of a chunk is 1 << these blocks
	erofsChunkIndexes = 0x20 // the map has 8 bytes for each, of which the last 4 are the block
)

// erofsMapStep is how many entries of a map of chunks are read at once.
const erofsMapStep = 512

// erofsNode is an inode with where its contents are.
type erofsNode struct {
	inode
	layout uint16
	union  uint32 // i_u: the first block, the form of the chunks, or the device
	xattrs int64  // bytes of attributes behind the inode
	behind int64  // where what follows those is
}

// node reads an inode but for its attributes: struct erofs_inode_compact and
// erofs_inode_extended.
func (e *erofsReader) node(number uint32) (*erofsNode, error) {
	at := e.super.inodes + int64(number)*erofsSlot
	b, err := e.meta(at, erofsCompact)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	format := le.Uint16(b)
	if format&^0xf != 0 {
		return nil, banger.Errorf(banger.Unsupported, "inode %d has a form (%#x) that banger does not know", number, format)
	}
	n := &erofsNode{layout: format >> 1, union: le.Uint32(b[16:])}
	n.number, n.mode = number, uint32(le.Uint16(b[4:]))
	at += erofsCompact
	if format&1 == 0 {
		n.links, n.size = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:]))
		n.uid, n.gid = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		n.sec, n.nsec = e.super.common.sec, e.super.common.nsec
	} else {
		if b, err = e.meta(at-erofsCompact, erofsExtended); err != nil {
			return nil, err
		}
		at += erofsExtended - erofsCompact
		n.links, n.size = le.Uint32(b[44:]), int64(le.Uint64(b[8:]))
		n.uid, n.gid = le.Uint32(b[24:]), le.Uint32(b[28:])
		n.sec, n.nsec = int64(le.Uint64(b[32:])), le.Uint32(b[40:])
	}
	if n.nsec >= 1e9 || n.size < 0 || n.size > maxFile {
		return nil, invalid("inode %d makes no sense", number)
	}
	if count := int64(le.Uint16(b[2:])); count > 0 { // from 1, which is the header alone
		n.xattrs = erofsXattrBody + 4*(count-1)
	}
	n.behind = at + n.xattrs
	return n, e.bounds(n)
}

// inode reads one inode whole.
func (e *erofsReader) inode(number uint32) (*inode, error) {
	n, err := e.node(number)
	if err != nil {
		return nil, err
	}
	if n.inode.xattrs, err = e.attributes(n); err != nil {
		return nil, err
	}
	switch n.mode & typeMask {
	case typeChar, typeBlock: // new_decode_dev
		n.major, n.minor = n.union>>8&0xfff, n.union&0xff|n.union>>12&0xfff00
	case typeSymlink:
		if n.size > maxSymlink {
			return nil, invalid("its target is longer than %d bytes", maxSymlink)
		}
		target := &strings.Builder{}
		if err := e.copy(target, &n.inode); err != nil {
			return nil, err
		}
		n.target = target.String()
		err = checkTarget(&n.inode)
	}
	return &n.inode, err
}

// bounds wants the contents of a file, or the map of their chunks, to be in the
// file system.
func (e *erofsReader) bounds(n *erofsNode) error {
	switch n.mode & typeMask {
	case typeRegular, typeDir, typeSymlink:
	default: // the others have none; what has no type is told by who meets it
		return nil
	}
	switch n.layout {
	case erofsPlain, erofsInline:
		whole, tail := e.split(n)
		if start := int64(n.union) * e.super.blockSize; whole > 0 && (start == 0 || start > e.super.size-whole) {
			return invalid("its contents are not in the file system")
		}
		if tail > 0 && (n.behind%e.super.blockSize+tail > e.super.blockSize || n.behind > e.super.size-tail) {
			return invalid("the end of its contents goes over the end of a block")
		}
	case erofsChunks:
		if n.union&^(erofsChunkMask|erofsChunkIndexes) != 0 {
			return banger.Errorf(banger.Unsupported, "its chunks have a form (%#x) that banger does not know", n.union)
		}
		if at, entry, _ := e.chunks(n); at > e.super.size-entry*e.chunkCount(n) {
			return invalid("the map of its chunks is not in the file system")
		}
	case 1, 3: // EROFS_INODE_COMPRESSED_FULL and _COMPACT
		return errErofsPacked()
	default:
		return banger.Errorf(banger.Unsupported, "its contents are in a form (%d) that banger does not know", n.layout)
	}
	return nil
}

// split is how many bytes of a file without chunks are in blocks, and how many
// stand behind the inode: erofs_map_blocks of fs/erofs/data.c.
func (e *erofsReader) split(n *erofsNode) (whole, tail int64) {
	if n.layout != erofsInline || n.size == 0 {
		return n.size, 0
	}
	whole = (n.size - 1) / e.super.blockSize * e.super.blockSize
	return whole, n.size - whole
}

// chunks is where the map of a file is, and how large an entry of it and a
// chunk are.
func (e *erofsReader) chunks(n *erofsNode) (at, entry, size int64) {
	entry = 4
	if n.union&erofsChunkIndexes != 0 {
		entry = 8
	}
	return (n.behind + entry - 1) / entry * entry, entry, e.super.blockSize << (n.union & erofsChunkMask)
}

func (e *erofsReader) chunkCount(n *erofsNode) int64 {
	_, _, size := e.chunks(n)
	return (n.size + size - 1) / size
}

// pieces tells the parts of a file's contents in their order: where each is in
// the file system, or -1 for zeros, and how long it is.
func (e *erofsReader) pieces(n *erofsNode, f func(at, size int64) error) error {
	if n.layout != erofsChunks {
		whole, tail := e.split(n)
		if whole > 0 {
			if err := f(int64(n.union)*e.super.blockSize, whole); err != nil {
				return err
			}
		}
		if tail > 0 {
			return f(n.behind, tail)
		}
		return nil
	}
	at, entry, size := e.chunks(n)
	var run, length int64 // of chunks that follow each other
	for i, count := int64(0), e.chunkCount(n); i < count; i++ {
		if i%erofsMapStep == 0 { // the next ones are in the window then
			if _, err := e.meta(at+i*entry, min(erofsMapStep, count-i)*entry); err != nil {
				return err
			}
		}
		start, more := int64(0), min(size, n.size-i*size)
		b, err := e.meta(at+i*entry, entry)
		if err == nil {
			start, err = e.chunk(b, more)
		}
		if err != nil {
			return err
		}
		if length > 0 && (start < 0) == (run < 0) && (run < 0 || start == run+length) {
			length += more
			continue
		}
		if length > 0 {
			if err := f(run, length); err != nil {
				return err
			}
		}
		run, length = start, more
	}
	if length > 0 {
		return f(run, length)
	}
	return nil
}

// chunk is where a chunk of so many bytes is, by its entry in the map; -1 is a hole.
func (e *erofsReader) chunk(entry []byte, size int64) (int64, error) {
	le := binary.LittleEndian
	if len(entry) == 8 { // struct erofs_inode_chunk_index
		if device := le.Uint16(entry[2:]); device != 0 {
			return 0, banger.Errorf(banger.Unsupported, "its contents are on another device")
		}
		entry = entry[4:]
	}
	block := le.Uint32(entry)
	if block == erofsNoBlock {
		return -1, nil
	}
	start := int64(block) * e.super.blockSize
	if start == 0 || start > e.super.size-size {
		return 0, invalid("a chunk of its contents is not in the file system")
	}
	return start, nil
}

func (e *erofsReader) copy(w io.Writer, i *inode) error {
	n, err := e.node(i.number)
	if err != nil {
		return err
	}
	return e.pieces(n, func(at, size int64) error {
		if at < 0 {
			return writeZeros(w, size)
		}
		return copyRange(w, e.r, at, size)
	})
}

// check wants all contents to be in the file system. Files may share them.
func (e *erofsReader) check(ctx context.Context, numbers []uint32) error {
	for k, number := range numbers {
		if k%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := e.node(number)
		if err == nil {
			switch n.mode & typeMask {
			case typeRegular, typeDir, typeSymlink:
				err = e.pieces(n, func(int64, int64) error { return nil })
			}
		}
		if err != nil {
			return fmt.Errorf("inode %d: %w", number, err)
		}
	}
	return nil
}
