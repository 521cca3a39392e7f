package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"os"
)

// erofs writes an EROFS image without compression. From its start:
//
//	superblock | file contents | inodes | blocks of directories and long symlinks
//
// What follows an inode directly belongs to it: its attributes, then the last
// part of a directory, a symlink's target, or the map of a file's chunks. The
// format is that of the kernel's Documentation/filesystems/erofs.rst and
// fs/erofs/erofs_fs.h; nothing in it is newer than Linux 5.15, and without files
// that have holes or are in pieces nothing is newer than 5.4.
type erofs struct {
	space
	limits  Limits
	inodes  []*inode  // by number-1
	dirs    []*node   // in the order of their numbers
	nids    []uint32  // by number-1: where the inode is, in slots from the first block of inodes
	common  stamp     // the time of all inodes that do not carry one
	chunked bool      // a file has a map of chunks
	sum     hash.Hash // of inodes and directories, for the UUID
	table   blockWriter
	meta    blockWriter
}

// An inode begins at a multiple of a slot, and its number is that of its slot:
// erofs.rst, "On-disk details".
const (
	erofsSlot     = 32
	erofsRootSlot = 2 // not 0: readdir of libc leaves out what has the number 0
)

func newErofs(f *os.File, l Limits) *erofs {
	w := &erofs{space: space{file: f}, limits: l, sum: sha256.New()}
	w.blocks = allocator{next: 1, max: max(1, l.maxBlocks())}
	w.table.w, w.meta.w = f, f
	return w
}

func (w *erofs) count() int { return len(w.inodes) }

func (w *erofs) finish(ctx context.Context, root *node) (err error) {
	root.ino.number = 1
	if w.inodes, w.dirs, err = numberTree([]*inode{root.ino}, root, w.limits); err != nil {
		return err
	}
	end := w.blocks.next
	// From here on the size follows from the headers, which are limited.
	w.blocks.max = 1<<32 - 1
	w.common = commonTime(w.inodes)
	size, err := w.layOut(ctx)
	if err != nil {
		return err
	}
	first, err := w.blocks.take((size + blockSize - 1) / blockSize)
	if err != nil {
		return err
	}
	if err := w.writeInodes(ctx, first, size); err != nil {
		return err
	}
	if err := w.writeSuper(first); err != nil {
		return err
	}
	if err := w.file.Truncate(w.blocks.next * blockSize); err != nil {
		return diskError(err)
	}
	return w.punch(ctx, 1, end)
}

// layOut finds a place for every inode, marks the blocks of contents, and gives
// the bytes that all inodes take.
func (w *erofs) layOut(ctx context.Context) (int64, error) {
	w.nids = make([]uint32, len(w.inodes))
	at, dirs := int64(erofsRootSlot*erofsSlot), 0
	for i, ino := range w.inodes {
		if i%1024 == 0 && ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if ino.isDir() {
			ino.size, ino.extents = erofsDirSize(w.dirs[dirs]), nil
			dirs++
		}
		for _, e := range ino.extents {
			w.used.mark(int64(e.physical), int64(e.count))
		}
		s := w.shape(ino)
		w.chunked = w.chunked || s.layout == erofsChunks
		at = s.place(at)
		w.nids[i] = uint32(at / erofsSlot)
		at += s.length()
		at = (at + erofsSlot - 1) / erofsSlot * erofsSlot
	}
	return at, nil
}

// writeInodes writes the inodes with what follows each of them, and the blocks
// that do not stand there.
func (w *erofs) writeInodes(ctx context.Context, first, size int64) error {
	var buf []byte // from block next on
	next, dirs := first, 0
	for i, ino := range w.inodes {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var data []byte // of a directory or a symlink
		switch {
		case ino.isDir():
			data = w.encodeDir(w.dirs[dirs])
			dirs++
		case ino.isSymlink():
			data = []byte(ino.target)
		}
		s := w.shape(ino)
		outside := data[:int64(len(data))-s.inline]
		if len(outside) > 0 {
			_, _ = w.sum.Write(outside)
			block, err := w.blocks.take(int64(len(outside)+blockSize-1) / blockSize)
			if err != nil {
				return err
			}
			if err := w.meta.put(block, outside); err != nil {
				return err
			}
			s.block = uint32(block)
		}
		at := int64(w.nids[i])*erofsSlot - (next-first)*blockSize
		buf = append(buf, make([]byte, at-int64(len(buf)))...)
		buf = w.encodeInode(buf, ino, s)
		buf = append(buf, data[len(outside):]...)
		if full := len(buf) &^ (blockSize - 1); full >= writeSize {
			if err := w.putInodes(next, buf[:full]); err != nil {
				return err
			}
			next += int64(full / blockSize)
			buf = append(buf[:0], buf[full:]...)
		}
	}
	buf = append(buf, make([]byte, size-(next-first)*blockSize-int64(len(buf)))...)
	if err := w.putInodes(next, buf); err != nil {
		return err
	}
	if err := w.table.flush(); err != nil {
		return err
	}
	return w.meta.flush()
}

func (w *erofs) putInodes(block int64, data []byte) error {
	_, _ = w.sum.Write(data)
	return w.table.put(block, data)
}

// Features: erofs_fs.h, EROFS_FEATURE_*.
const (
	erofsMtime   = 0x2 // compatible: times are those of modification
	erofsChunked = 0x4 // incompatible: files may have maps of chunks
)

// writeSuper writes the first block: struct erofs_super_block.
func (w *erofs) writeSuper(first int64) error {
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	sb := b[superOffset:]
	le.PutUint32(sb[0:], erofsMagic)
	le.PutUint32(sb[8:], erofsChecksum|erofsMtime)
	sb[12] = 12 // 1 << 12 bytes a block
	le.PutUint16(sb[14:], erofsRootSlot)
	le.PutUint64(sb[16:], uint64(len(w.inodes)))
	le.PutUint64(sb[24:], uint64(w.common.sec))
	le.PutUint32(sb[32:], w.common.nsec)
	le.PutUint32(sb[36:], uint32(w.blocks.next))
	le.PutUint32(sb[40:], uint32(first))
	if w.chunked {
		le.PutUint32(sb[80:], erofsChunked)
	}
	_, _ = w.sum.Write(sb)
	var uuid [16]byte
	copy(uuid[:], w.sum.Sum(nil))
	stampUUID(&uuid, 8)
	copy(sb[48:], uuid[:])
	le.PutUint32(sb[4:], crc32c(sb)) // over the rest of the block, the field itself being zero
	_, err := w.file.WriteAt(b, 0)
	return diskError(err)
}
