package kernelcat

import (
	"archive/tar"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"banger"
)

// Whiteouts: OCI image-spec v1.1, layer.md, "Whiteouts". The names with the
// longer prefix are AUFS's own, which old builders left in layers.
const (
	whiteoutPrefix = ".wh."
	aufsPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// Bounds on the layers that a kernel is looked for in. A whole distribution
// passes; the same numbers bound an image that becomes a root file system.
const (
	maxLayerEntries = 4_000_000
	maxLayerBytes   = 64 << 30
)

// layerTree is what an image's layers give when they are laid over each other,
// as far as it can be part of a kernel. It has only names: where the content
// of each is, so that a second reading of the few layers that matter takes it.
// That way nothing is written that a higher layer or a newer kernel replaces.
type layerTree struct {
	root    *layerNode
	made    int   // nodes, with those that a later layer removed
	entries int   // of all layers
	left    int64 // bytes that layers may still have
}

// layerNode is a name: a folder, unless it has a file.
type layerNode struct {
	file *layerFile
	kids map[string]*layerNode
}

// layerFile is a regular file or a symbolic link. Hard links share it.
type layerFile struct {
	layer  int
	entry  int    // which entry of the layer has the content, from 0; -1: the one named from
	from   string // of a hard link to a file that cannot be part of a kernel itself
	size   int64
	target string // of a symbolic link
}

func newLayerTree() *layerTree {
	return &layerTree{root: &layerNode{}, left: maxLayerBytes}
}

// add lays one more layer, a tar stream, over those before it and reads r to its end.
func (t *layerTree) add(layer int, r io.Reader) error {
	up := &layerNode{}
	err := eachEntry(&boundedReader{r: r, left: &t.left}, func(n int, h *tar.Header, _ io.Reader) error {
		if t.entries++; t.entries > maxLayerEntries {
			return banger.Errorf(banger.Invalid, "the layers have more than %d entries", maxLayerEntries)
		}
		return t.addEntry(up, h, layerFile{layer: layer, entry: n, size: h.Size})
	})
	if err != nil {
		return err
	}
	t.root.merge(up)
	return nil
}

// layerPath is a name of a layer as a path below the image's root, "" for the
// root itself. Builders write "a", "./a" and "/a" for the same file; one that
// climbs out is no builder's.
func layerPath(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", banger.Errorf(banger.Invalid, "it holds the path %.200q", name)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// addEntry puts one entry into up, the names of the layer that is being read.
// What it hides of the layers below is removed from the tree at once: up is
// not part of that yet, so the order of entries does not matter.
func (t *layerTree) addEntry(up *layerNode, h *tar.Header, f layerFile) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := layerPath(h.Name)
	if err != nil || name == "" {
		return err
	}
	dir, base := path.Split(name)
	hidden, isWhiteout := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case base == opaqueName:
		t.root.clear(strings.TrimSuffix(dir, "/"))
		return nil
	case strings.HasPrefix(base, aufsPrefix):
		return nil
	case isWhiteout && (hidden == "" || hidden == "." || hidden == ".."):
		return banger.Errorf(banger.Invalid, "a whiteout of no file")
	case isWhiteout:
		t.root.remove(dir + hidden)
		return nil
	case h.Typeflag == tar.TypeDir:
		t.root.removeFile(name)
		up.removeFile(name)
		return nil
	}
	file, err := t.fileOf(up, name, h, f)
	if err != nil {
		return err
	}
	if file == nil {
		// It has no place in a kernel, but takes that of what was there.
		t.root.remove(name)
		up.remove(name)
		return nil
	}
	return t.put(up, name, file)
}

// fileOf is what the entry gives to a kernel, nil for nothing.
func (t *layerTree) fileOf(up *layerNode, name string, h *tar.Header, f layerFile) (*layerFile, error) {
	p := partOf(name)
	if p.kind == other {
		return nil, nil
	}
	if badText(name) || len(name) > maxPath {
		return nil, banger.Errorf(banger.Invalid, "it holds the path %.200q", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return &f, nil
	case tar.TypeSymlink:
		// A link to a kernel is another name of one that is there too.
		if p.kind != module {
			return nil, nil
		}
		f.target = h.Linkname
		return &f, nil
	case tar.TypeLink:
		old, err := layerPath(h.Linkname)
		if err != nil {
			return nil, err
		}
		for _, tree := range []*layerNode{up, t.root} {
			if n := tree.find(old); n != nil && n.file != nil {
				return n.file, nil
			}
		}
		// The files of an ostree commit are links to what is in its store.
		f.entry, f.from = -1, old
		return &f, nil
	}
	return nil, nil // devices, FIFOs
}

// put adds a file to up, and the folders above it. The last of two with the
// same name wins.
func (t *layerTree) put(up *layerNode, name string, file *layerFile) error {
	n := up
	for part := range strings.SplitSeq(name, "/") {
		kid := n.kids[part]
		switch {
		case n.file != nil:
			return banger.Errorf(banger.Invalid, "a folder of it is there as a file too")
		case kid == nil:
			if t.made++; t.made > maxEntries {
				return banger.Errorf(banger.Invalid, "the layers have more than %d files of kernels", maxEntries)
			}
			kid = &layerNode{}
			n.set(part, kid)
		}
		n = kid
	}
	n.file, n.kids = file, nil
	return nil
}

func (n *layerNode) set(name string, kid *layerNode) {
	if n.kids == nil {
		n.kids = make(map[string]*layerNode)
	}
	n.kids[name] = kid
}

// find is the node at a path, nil if there is none.
func (n *layerNode) find(name string) *layerNode {
	if name == "" {
		return n
	}
	for part := range strings.SplitSeq(name, "/") {
		if n = n.kids[part]; n == nil {
			return nil
		}
	}
	return n
}

// remove removes a name with all below it.
func (n *layerNode) remove(name string) {
	dir, base := path.Split(name)
	if d := n.find(strings.TrimSuffix(dir, "/")); d != nil {
		delete(d.kids, base)
	}
}

// removeFile removes a name that is no folder.
func (n *layerNode) removeFile(name string) {
	if f := n.find(name); f != nil && f.file != nil {
		n.remove(name)
	}
}

// clear removes all below a folder.
func (n *layerNode) clear(name string) {
	if d := n.find(name); d != nil {
		d.kids = nil
	}
}

// merge lays a layer's names over those of the layers below it.
func (n *layerNode) merge(up *layerNode) {
	if up.file != nil {
		n.file, n.kids = up.file, nil
		return
	}
	n.file = nil
	for name, kid := range up.kids {
		if old := n.kids[name]; old != nil {
			old.merge(kid)
		} else {
			n.set(name, kid)
		}
	}
}

// each calls do for each file, in the order of their paths.
func (n *layerNode) each(name string, do func(name string, f *layerFile)) {
	if n.file != nil {
		do(name, n.file)
	}
	for _, base := range slices.Sorted(maps.Keys(n.kids)) {
		n.kids[base].each(path.Join(name, base), do)
	}
}
