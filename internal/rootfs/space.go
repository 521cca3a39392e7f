package rootfs

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// format writes one kind of file system.
type format interface {
	room() *space
	// finish writes all metadata of the tree, whose contents are in place.
	finish(ctx context.Context, root *node) error
	count() int // inodes that hold files, after finish
}

// newFormat begins an image in an empty file.
func newFormat(fs string, f *os.File, l Limits) (format, error) {
	switch fs {
	case "", FSExt4:
		w := newWriter(f, l)
		w.grows = true
		return w, nil
	case FSErofs:
		return newErofs(f, l), nil
	}
	return nil, invalid("%q is not a file system that banger writes: %s or %s", fs, FSExt4, FSErofs)
}

// space is the file of an image and which of its blocks are taken.
type space struct {
	file   *os.File
	blocks allocator
	used   bitmap
}

func (s *space) room() *space { return s }

func (s *space) newData(l *lanes, lane int) *dataWriter {
	return &dataWriter{w: s.file, lanes: l, lane: lane}
}

// punch gives back the space of contents that a later layer replaced or
// removed, so that neither it nor what it said stays in the image.
func (s *space) punch(ctx context.Context, from, to int64) error {
	for b := from; b < to; {
		if s.used.has(b) {
			b++
			continue
		}
		start := b
		for b < to && !s.used.has(b) {
			b++
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
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

// numberTree gives every inode below the root, which has its number, the next
// one behind list, breadth first and by name, and counts the links. Nodes that
// later layers removed are not reached and get none. dirs are in the order of
// their numbers.
func numberTree(list []*inode, root *node, l Limits) (inodes []*inode, dirs []*node, err error) {
	root.ino.parent, root.ino.links = root.ino.number, 2
	dirs = append(dirs, root)
	for i := 0; i < len(dirs); i++ {
		dir := dirs[i]
		for _, name := range sortedNames(dir) {
			kid := dir.kids[name]
			ino := kid.ino
			if ino.number == 0 {
				list = append(list, ino)
				ino.number = uint32(len(list))
			}
			if ino.isDir() {
				ino.parent, ino.links = dir.ino.number, 2
				dir.ino.links++
				dirs = append(dirs, kid)
				continue
			}
			if ino.links++; int(ino.links) > l.Links {
				return nil, nil, invalid("the file %q has more than %d hard links", name, l.Links)
			}
		}
	}
	return list, dirs, nil
}

func sortedNames(dir *node) []string {
	names := make([]string, 0, len(dir.kids))
	for name := range dir.kids {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
