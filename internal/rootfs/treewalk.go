package rootfs

import (
	"context"
	"fmt"
	"strings"

	"banger"
)

// maxTreeDepth bounds the directories above an entry that is read. It is far
// more than Linux lets anybody name in one call.
const maxTreeDepth = 4096

// maxTreeNames bounds the names of a tree, and of one directory, that are read:
// as many as an image may have (Limits).
const maxTreeNames = 4_000_000

func tooManyNames() error {
	return banger.Errorf(banger.Unsupported, "it has more than %d files", maxTreeNames)
}

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
	root, err := t.inode(t.top)
	if err != nil {
		return nil, fmt.Errorf("the root: %w", err)
	}
	if !root.isDir() {
		return nil, invalid("the root is not a directory")
	}
	root.parent = t.top
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
	count int               // of names
}

// name is one entry of a directory.
type name struct {
	name   string
	number uint32
	kind   byte
}

// addName adds a name to those of a directory, which has room for so many.
func addName(list []name, n name, room int) ([]name, error) {
	if n.name == "" || len(n.name) > maxName || strings.ContainsAny(n.name, "/\x00") {
		return nil, invalid("it has the name %s", shown(n.name))
	}
	if len(list) >= room {
		return nil, tooManyNames()
	}
	return append(list, n), nil
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
	if w.count++; w.count > maxTreeNames {
		return tooManyNames()
	}
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
