package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"os"
)

// The geometry of all file systems made here.
// Documentation/filesystems/ext4/blockgroup.rst, inodes.rst, special_inodes.rst.
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // one bitmap block per group
	inodeSize      = 256
	extraSize      = 32 // of an inode beyond its first 128 bytes, before the attributes
	inodesPerBlock = blockSize / inodeSize
	rootInode      = 2
	journalInode   = 8
	firstInode     = 11
)

// writer makes an image. From its start:
//
//	superblock | group descriptors | file contents | directories | journal |
//	extents, long symlinks, attributes | inode tables | bitmaps
//
// flex_bg lets the tables and bitmaps of all groups stand together at the end,
// where their number is known. Contents go around the copies of the superblock
// that sparse_super has at fixed places: sparse_super2 could do without them,
// but Linux grows no file system that has it.
type writer struct {
	space
	limits Limits
	grows  bool // it is also made to be copied, grown and written to
	meta   blockWriter
	inodes []*inode  // by number-1; nil where reserved
	dirs   []*node   // in the order of their numbers
	sum    hash.Hash // of directories and inodes, for the UUID
}

// placement is where the parts of an inode are that extents do not tell.
type placement struct {
	root  *[60]byte // of a deep extent tree
	xattr uint32    // block of attributes
	extra int64     // blocks taken besides the contents
}

func newWriter(f *os.File, l Limits) *writer {
	w := &writer{space: space{file: f}, limits: l, sum: sha256.New()}
	start := 1 + descriptorBlocks(l.maxGroups())
	w.blocks = allocator{next: start, max: max(start, l.maxBlocks()), head: start}
	w.meta.w = f
	return w
}

// count is the number of inodes that hold files.
func (w *writer) count() int { return len(w.inodes) - (firstInode - 1) + 1 }

// finish writes all metadata of the tree, whose contents are in place.
func (w *writer) finish(ctx context.Context, root *node) error {
	if err := w.number(root); err != nil {
		return err
	}
	for i, n := range w.dirs {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.placeDir(n); err != nil {
			return err
		}
	}
	if w.grows {
		if err := w.addJournal(); err != nil {
			return err
		}
	}
	for i, ino := range w.inodes {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if ino == nil {
			continue
		}
		if err := w.place(ino); err != nil {
			return err
		}
	}
	return w.writeGroups(ctx)
}

// number gives every inode its number.
func (w *writer) number(root *node) (err error) {
	w.inodes = make([]*inode, firstInode-1)
	w.inodes[rootInode-1] = root.ino
	root.ino.number = rootInode
	w.inodes, w.dirs, err = numberTree(w.inodes, root, w.limits)
	return err
}

// allocate writes data to new blocks.
func (w *writer) allocate(data []byte) (int64, error) {
	block, err := w.blocks.take(int64(len(data)+blockSize-1) / blockSize)
	if err != nil {
		return 0, err
	}
	return block, w.meta.put(block, data)
}

func (w *writer) placeDir(n *node) error {
	data := encodeDir(n)
	_, _ = w.sum.Write(data)
	block, err := w.allocate(data)
	if err != nil {
		return err
	}
	n.ino.size = int64(len(data))
	n.ino.extents = []extent{{0, uint32(block), uint32(len(data) / blockSize)}}
	return nil
}

// What an image has besides its contents so that a copy of it can be written to
// and grown: room in it costs addresses, not space. Once it is grown it cannot
// get more inodes per group; the number is that of mke2fs.
const (
	imageJournal     = 4 << 10 // blocks: 16 MiB
	imageGroupInodes = blocksPerGroup * blockSize / bytesPerInode
)

// addJournal reserves the blocks of an empty journal.
func (w *writer) addJournal() error {
	block, err := w.blocks.take(imageJournal)
	if err != nil {
		return err
	}
	w.inodes[journalInode-1] = newJournal(block, imageJournal)
	return nil
}

// place writes what an inode needs besides its contents, and marks its blocks.
func (w *writer) place(ino *inode) error {
	if ino.isSymlink() && !ino.isFast() {
		block, err := w.allocate([]byte(ino.target))
		if err != nil {
			return err
		}
		ino.extents = []extent{{0, uint32(block), 1}}
	}
	for _, e := range ino.extents {
		w.used.mark(int64(e.physical), int64(e.count))
	}
	p := placement{}
	if len(ino.extents) > 0 {
		root, nodes, err := extentTree(ino.extents, w.allocateUsed)
		if err != nil {
			return err
		}
		if nodes > 0 {
			p.root, p.extra = &root, nodes
		}
	}
	if _, outside, _ := splitXattrs(ino.xattrs); len(outside) > 0 {
		block, err := w.allocateUsed(xattrBlock(outside))
		if err != nil {
			return err
		}
		p.xattr = uint32(block)
		p.extra++
	}
	if p != (placement{}) {
		ino.place = &p
	}
	return nil
}

// allocateUsed is allocate for metadata that no extent marks as used.
func (w *writer) allocateUsed(data []byte) (int64, error) {
	block, err := w.allocate(data)
	w.used.mark(block, int64(len(data)+blockSize-1)/blockSize)
	return block, err
}

// File types in directory entries: directory.rst, "Directory file types".
var direntTypes = map[uint32]byte{
	typeRegular: 1, typeDir: 2, typeChar: 3, typeBlock: 4, typeFifo: 5, typeSymlink: 7,
}

// encodeDir writes a linear directory: directory.rst, "Linear (Classic)
// Directories". The kernel needs no hash tree, it only speeds up adding.
func encodeDir(n *node) []byte {
	d := dirent{}
	d.add(".", n.ino.number, typeDir)
	d.add("..", n.ino.parent, typeDir)
	for _, name := range sortedNames(n) {
		kid := n.kids[name].ino
		d.add(name, kid.number, kid.mode)
	}
	return d.close()
}

// dirent builds the blocks of a directory.
type dirent struct {
	data []byte
	last int // offset of the last entry
}

func (d *dirent) add(name string, number, mode uint32) {
	size := 8 + pad4(len(name))
	if len(d.data)%blockSize+size > blockSize {
		d.fill()
	}
	d.last = len(d.data)
	b := binary.LittleEndian.AppendUint32(d.data, number)
	b = binary.LittleEndian.AppendUint16(b, uint16(size))
	b = append(b, byte(len(name)), direntTypes[mode&typeMask])
	b = append(b, name...)
	d.data = append(b, make([]byte, pad4(len(name))-len(name))...)
}

// fill lets the last entry reach to the end of its block.
func (d *dirent) fill() {
	rest := -len(d.data) & (blockSize - 1)
	length := binary.LittleEndian.Uint16(d.data[d.last+4:])
	binary.LittleEndian.PutUint16(d.data[d.last+4:], length+uint16(rest))
	d.data = append(d.data, make([]byte, rest)...)
}

func (d *dirent) close() []byte {
	d.fill()
	return d.data
}
