package rootfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// maxTreeDepth bounds the directories above an entry that is read. It is far
// more than Linux lets anybody name in one call.
const maxTreeDepth = 4096

// visit is called for each name of a tree. first is the path under which the
// same file came before, or empty.
type visit func(path string, i *inode, first string) error

// walkTree goes through a file system from its root, by name, and tells a
// directory before what is in it. The root's path is empty.
func (t *Tree) walkTree(ctx context.Context, f visit) error {
	root, err := t.root()
	if err != nil {
		return err
	}
	return t.walkFrom(ctx, root, f)
}

// root is the root directory.
func (t *Tree) root() (*inode, error) {
	root, err := t.inode(rootInode)
	if err != nil {
		return nil, fmt.Errorf("the root: %w", err)
	}
	if !root.isDir() {
		return nil, invalid("the root is not a directory")
	}
	root.parent = rootInode
	return root, nil
}

// walkFrom is walkTree from a directory, whose path is then the empty one.
func (t *Tree) walkFrom(ctx context.Context, dir *inode, f visit) error {
	w := &treeWalk{ctx: ctx, tree: t, f: f, dirs: map[uint32]bool{}, names: map[uint32]string{}}
	return w.dir("", dir, 0)
}

type treeWalk struct {
	ctx   context.Context
	tree  *Tree
	f     visit
	dirs  map[uint32]bool   // that have been met: none may be there twice
	names map[uint32]string // of files that have several
}

// name is one entry of a directory.
type name struct {
	name   string
	number uint32
	kind   byte
}

func (w *treeWalk) dir(path string, i *inode, depth int) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if w.dirs[i.number] {
		return invalid("the directory %s is in the tree twice", shown(path))
	}
	if depth > maxTreeDepth {
		return invalid("the tree is deeper than %d directories", maxTreeDepth)
	}
	w.dirs[i.number] = true
	if err := w.f(path, i, ""); err != nil {
		return err
	}
	names, err := w.tree.names(i)
	if err != nil {
		return fmt.Errorf("the directory %s: %w", shown(path), err)
	}
	for k, n := range names {
		if k > 0 && names[k-1].name == n.name {
			return invalid("the directory %s has %s twice", shown(path), shown(n.name))
		}
		if err := w.name(path, i, n, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWalk) name(dir string, parent *inode, n name, depth int) error {
	path := strings.TrimPrefix(dir+"/"+n.name, "/")
	i, err := w.tree.inode(n.number)
	if err == nil && n.kind != 0 && n.kind != direntTypes[i.mode&typeMask] && i.mode&typeMask != typeSocket {
		err = invalid("its name says another type than its inode")
	}
	if err == nil && i.links == 0 {
		err = invalid("its inode is not in use")
	}
	if err != nil {
		return fmt.Errorf("entry %s: %w", shown(path), err)
	}
	if i.isDir() {
		i.parent = parent.number
		return w.dir(path, i, depth+1)
	}
	first := w.names[i.number]
	if i.links > 1 && first == "" {
		w.names[i.number] = path
	}
	return w.f(path, i, first)
}

// typeSocket is the one type of file that layers cannot hold.
const typeSocket = 0o140000

// names reads a directory, sorted: directory.rst. The inner nodes of a hash tree
// look like entries of no inode to who does not know them.
func (t *Tree) names(i *inode) ([]name, error) {
	var list []name
	size := t.super.blockSize
	for _, e := range i.extents {
		for k := range int64(e.count) {
			if (int64(e.logical)+k)*size >= i.size {
				break
			}
			b, err := t.block(int64(e.physical) + k)
			if err != nil {
				return nil, err
			}
			if list, err = dirNames(list, b, t.super.incompat&incompatType != 0); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(list, func(a, b name) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// dirNames adds the names in one block of a directory, but for "." and "..".
func dirNames(list []name, b []byte, typed bool) ([]name, error) {
	le := binary.LittleEndian
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, invalid("its entries are damaged")
		}
		number, rec, n := le.Uint32(b), int(le.Uint16(b[4:])), int(b[6])
		if rec < 8 || rec%4 != 0 || rec > len(b) || 8+n > rec {
			return nil, invalid("its entries are damaged")
		}
		entry := name{name: string(b[8 : 8+n]), number: number}
		if typed {
			entry.kind = b[7]
		}
		if number != 0 && entry.name != "." && entry.name != ".." {
			if n == 0 || strings.ContainsAny(entry.name, "/\x00") {
				return nil, invalid("it has the name %q", entry.name)
			}
			list = append(list, entry)
		}
		b = b[rec:]
	}
	return list, nil
}
