package rootfs

import "strings"

// Bounds of one path walk. maxHops is that of the kernel (MAXSYMLINKS).
const (
	maxHops  = 40
	maxSteps = 1024
)

// walk finds a directory in the tree as the kernel would in a chroot: symlinks
// are followed, absolute ones from the root. One that leads above the root is
// refused: other tools would stay at the root there, and an image for which
// that matters means something else, or nothing good.
// OCI image-spec v1.1 leaves open what an entry below a symlink means; layers
// of distributions rely on lib/x reaching usr/lib/x.
type walk struct {
	tree   *tree
	layer  int
	create bool // make what is missing, as parents that no header describes
	// fresh names directories that the walk must not reach through a symlink
	// or file of a lower layer, because the layer replaces it by a directory.
	fresh map[string]bool
}

// dir finds the directory. Without create it is nil if there is none.
func (w *walk) dir(name string) (*node, error) {
	stack := []*node{w.tree.root}
	var names []string // of stack[1:]
	hops, steps := 0, 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		if steps++; steps > maxSteps {
			return nil, invalid("the path has more than %d components with its symlinks", maxSteps)
		}
		top := stack[len(stack)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(names) == 0 { // no name of an entry holds one: it is a symlink's
				return nil, invalid("unsafe symlink: its parent leads out of the root")
			}
			stack, names = stack[:len(stack)-1], names[:len(names)-1]
			continue
		}
		kid := top.kids[part]
		if kid != nil && kid.ino.isSymlink() && !w.isFresh(names, part) {
			if hops++; hops > maxHops {
				return nil, invalid("the path has more than %d symlinks", maxHops)
			}
			if strings.HasPrefix(kid.ino.target, "/") {
				stack, names = stack[:1], names[:0]
			}
			rest = kid.ino.target + "/" + rest
			continue
		}
		if kid == nil || !kid.ino.isDir() {
			var err error
			if kid, err = w.missing(top, part, kid); kid == nil || err != nil {
				return nil, err
			}
		}
		stack, names = append(stack, kid), append(names, part)
		if len(names) > w.tree.limits.Depth {
			return nil, invalid("the path is deeper than %d directories", w.tree.limits.Depth)
		}
	}
	return stack[len(stack)-1], nil
}

func (w *walk) isFresh(names []string, part string) bool {
	if len(w.fresh) == 0 {
		return false
	}
	return w.fresh[strings.Join(append(names[:len(names):len(names)], part), "/")]
}

// missing makes a directory where there is none. It takes the place of a file
// of a lower layer, as in overlayfs; within one layer that is a contradiction.
func (w *walk) missing(top *node, part string, old *node) (*node, error) {
	if !w.create {
		return nil, nil
	}
	if len(part) > maxName {
		return nil, invalid("a component of the path is longer than %d bytes", maxName)
	}
	if old != nil && old.layer == w.layer {
		return nil, invalid("its parent %q is not a directory", part)
	}
	kid, err := w.tree.newNode(newDir(), w.layer)
	if err != nil {
		return nil, err
	}
	top.set(part, kid)
	return kid, nil
}
