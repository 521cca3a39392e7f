package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"banger"
)

// TreeFile is one file of a Tree.
type TreeFile struct {
	// Header is the file as WriteTar has it, under the path that it was found by;
	// of a socket it is nil.
	Header *tar.Header

	tree *Tree
	ino  *inode
}

// Copy writes the contents of a regular file.
func (f *TreeFile) Copy(w io.Writer) error {
	if f.ino.size > f.tree.most {
		return f.tree.tooLarge()
	}
	return f.tree.copy(w, f.ino)
}

// Lookup finds a file by its path from the root. No symlink is followed; below
// one, or where nothing is, the error is fs.ErrNotExist.
func (t *Tree) Lookup(name string) (*TreeFile, error) {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	i, err := t.root()
	if err != nil {
		return nil, err
	}
	if clean != "" {
		for part := range strings.SplitSeq(clean, "/") {
			if i, err = t.child(i, part); err != nil {
				return nil, fmt.Errorf("look %s up: %w", shown(clean), err)
			}
		}
	}
	h, err := tarHeader(clean, i, "")
	if err != nil {
		return nil, fmt.Errorf("look %s up: %w", shown(clean), err)
	}
	return &TreeFile{Header: h, tree: t, ino: i}, nil
}

// child is the file of that name in a directory.
func (t *Tree) child(dir *inode, called string) (*inode, error) {
	if !dir.isDir() {
		return nil, fs.ErrNotExist
	}
	names, err := t.names(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if n.name != called {
			continue
		}
		i, err := t.inode(n.number)
		if err == nil && i.links == 0 {
			err = invalid("its inode is not in use")
		}
		return i, err
	}
	return nil, fs.ErrNotExist
}

// Walk goes through what is below a directory, sorted, a directory before what
// is in it. Names are from that directory; sockets are left out, and a further
// name of a file is a hard link to the first.
func (t *Tree) Walk(ctx context.Context, dir *TreeFile, f func(name string, file *TreeFile) error) error {
	if !dir.ino.isDir() {
		return banger.Errorf(banger.Internal, "walk through %s: no directory", shown(dir.Header.Name))
	}
	err := t.walkFrom(ctx, dir.ino, func(name string, i *inode, first string) error {
		if name == "" {
			return nil
		}
		h, err := tarHeader(name, i, first)
		if err != nil {
			return fmt.Errorf("entry %s: %w", shown(name), err)
		}
		if h == nil {
			return nil
		}
		return f(name, &TreeFile{Header: h, tree: t, ino: i})
	})
	if err != nil && ctx.Err() != nil && !errors.As(err, new(*banger.Error)) {
		return banger.Errorf(banger.Canceled, "%w", context.Cause(ctx))
	}
	return err
}

// Glob finds the paths that a pattern fits, as path.Match has it, sorted. No
// symlink is followed.
func (t *Tree) Glob(pattern string) ([]string, error) {
	at := []string{""}
	for part := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range at {
			f, err := t.Lookup(dir)
			if errors.Is(err, fs.ErrNotExist) || err == nil && !f.ino.isDir() {
				continue
			}
			if err != nil {
				return nil, err
			}
			names, err := t.names(f.ino)
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				fits, err := path.Match(part, n.name)
				if err != nil {
					return nil, invalid("pattern %q: %w", pattern, err)
				}
				if fits {
					next = append(next, path.Join(dir, n.name))
				}
			}
		}
		at = next
	}
	return at, nil
}
