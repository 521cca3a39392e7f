package rootfs

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// node is one name of the tree. The children of a directory are made late,
// because most directories of a large image are leaves.
type node struct {
	ino   *inode
	layer int // the layer that last named it
	kids  map[string]*node
}

func (n *node) set(name string, kid *node) {
	if n.kids == nil {
		n.kids = map[string]*node{}
	}
	n.kids[name] = kid
}

// tree is the merged image. Layers are applied from the lowest up.
type tree struct {
	root   *node
	limits Limits
	made   int // nodes made so far, with those that a later layer removed
	// removed are the targets of hard links of this layer, by the link's place in
	// it, as they were when it came by: a later whiteout may have removed them.
	removed map[int]*inode
}

func newTree(l Limits) *tree {
	return &tree{root: &node{ino: newDir(), layer: -1}, limits: l}
}

// apply applies one layer: OCI image-spec v1.1, layer.md, "Applying Changesets".
func (t *tree) apply(ctx context.Context, layer int, entries []entry) error {
	if err := t.applyWhiteouts(layer, entries); err != nil {
		return err
	}
	for i := range entries {
		if i%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e := &entries[i]
		if e.kind != putInode && e.kind != putLink {
			continue
		}
		if err := t.put(layer, i, e); err != nil {
			return fmt.Errorf("layer %d: entry %s: %w", layer+1, shown(e.name), err)
		}
	}
	return nil
}

// applyWhiteouts removes what the layer hides. That comes before its own
// entries, because whiteouts concern only the layers below, wherever in the
// tar they stand.
func (t *tree) applyWhiteouts(layer int, entries []entry) error {
	var fresh map[string]bool // directories that the layer itself describes
	t.removed = nil
	hides := slices.ContainsFunc(entries, func(e entry) bool { return e.kind == whiteout || e.kind == opaque })
	for i := range entries {
		e := &entries[i]
		if hides && e.kind == putLink {
			t.keepTarget(layer, i, e.link)
		}
		if e.kind != whiteout && e.kind != opaque {
			continue
		}
		if fresh == nil {
			fresh = map[string]bool{}
			for _, f := range entries {
				if f.kind == putInode && f.ino.isDir() {
					fresh[f.name] = true
				}
			}
		}
		w := walk{tree: t, layer: layer, fresh: fresh}
		dir, base := splitName(e.name)
		if e.kind == opaque {
			dir = e.name
		}
		n, err := w.dir(dir)
		if err != nil {
			return fmt.Errorf("layer %d: entry %s: %w", layer+1, shown(e.name), err)
		}
		switch {
		case n == nil: // nothing below to hide
		case e.kind == opaque:
			n.kids = nil
		default:
			delete(n.kids, base)
		}
	}
	return nil
}

// keepTarget remembers what a hard link of this layer names in those below.
func (t *tree) keepTarget(layer, i int, name string) {
	if ino, err := t.linkTarget(layer, name); err == nil {
		if t.removed == nil {
			t.removed = map[int]*inode{}
		}
		t.removed[i] = ino
	}
}

// put adds entry i of a layer. The last of two entries with the same name wins.
func (t *tree) put(layer, i int, e *entry) error {
	if e.name == "" {
		if e.kind != putInode || !e.ino.isDir() {
			return invalid("the root of the image is not a directory")
		}
		t.root.ino, t.root.layer = e.ino, layer
		return nil
	}
	dir, base := splitName(e.name)
	w := walk{tree: t, layer: layer, create: true}
	parent, err := w.dir(dir)
	if err != nil {
		return err
	}
	ino := e.ino
	if e.kind == putLink {
		if ino, err = t.linkTarget(layer, e.link); err != nil && t.removed[i] != nil {
			ino, err = t.removed[i], nil
		}
		if err != nil {
			return err
		}
	}
	if old := parent.kids[base]; old != nil && old.ino.isDir() && ino.isDir() {
		// A directory's header replaces its metadata and keeps what is in it.
		old.ino, old.layer = ino, layer
		return nil
	}
	kid, err := t.newNode(ino, layer)
	if err != nil {
		return err
	}
	parent.set(base, kid)
	return nil
}

// linkTarget finds the file that a hard link names, as it is at this moment:
// the link shares its inode, so it keeps the old contents if the name is
// replaced later, and survives if the name is whited out.
func (t *tree) linkTarget(layer int, name string) (*inode, error) {
	dir, base := splitName(name)
	w := walk{tree: t, layer: layer}
	parent, err := w.dir(dir)
	if err != nil {
		return nil, err
	}
	if parent == nil || parent.kids[base] == nil {
		return nil, invalid("hard link to %s, which does not exist", shown(name))
	}
	if parent.kids[base].ino.isDir() {
		return nil, invalid("hard link to %s, which is a directory", shown(name))
	}
	return parent.kids[base].ino, nil
}

// newNode counts what it makes: a short entry can ask for many parents.
func (t *tree) newNode(ino *inode, layer int) (*node, error) {
	if t.made++; t.made > t.limits.Entries {
		return nil, invalid("the image has more than %d files", t.limits.Entries)
	}
	return &node{ino: ino, layer: layer}, nil
}

// splitName splits a clean name into its directory and its last component.
func splitName(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}
