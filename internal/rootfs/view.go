package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
)

// viewFiles are the files whose contents a View keeps: names of owners are
// looked up in them.
var viewFiles = map[string]bool{"etc/passwd": true, "etc/group": true}

// maxViewFile bounds each of them, in bytes.
const maxViewFile = 1 << 20

// maxViewLinks is how many symlinks a path may go through, as for Linux (MAXSYMLINKS).
const maxViewLinks = 40

// View tells what a tree with layers over it would look like: names and
// attributes, and next to no contents. It is for one goroutine.
type View struct {
	base *Tree // nil: nothing
	root *viewNode
}

// viewNode is what is known of one path.
type viewNode struct {
	known  bool        // else only the base may know
	header *tar.Header // nil, of one that is known: there is nothing
	opaque bool        // nothing of the base shows below it
	data   []byte      // of viewFiles
	kids   map[string]*viewNode
}

// NewView is a view of a tree alone; nil is the empty one.
func NewView(base *Tree) *View {
	v := &View{base: base, root: &viewNode{}}
	if base == nil {
		v.root = newViewDir()
	}
	return v
}

// newViewDir is a directory that nothing describes.
func newViewDir() *viewNode {
	return &viewNode{known: true, header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}, opaque: true}
}

// Apply adds the whole layer that a tar stream holds.
func (v *View) Apply(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return invalid("read the layer: %w", err)
		}
		if err := v.add(h, tr); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, r) // where a verifying reader tells
	return err
}

// add adds one entry of a layer.
func (v *View) add(h *tar.Header, r io.Reader) error {
	e, skip, err := newEntry(h, Limits{}.withDefaults(), false)
	if err != nil || skip {
		return err
	}
	switch e.kind {
	case whiteout:
		v.put(e.name, &viewNode{known: true})
		return nil
	case opaque:
		if n, err := v.node(e.name); err == nil {
			n.opaque, n.kids = true, nil
		}
		return nil
	case putLink:
		if n, err := v.node(e.link); err == nil {
			v.put(e.name, &viewNode{known: true, header: n.header, data: n.data})
		}
		return nil
	}
	n := &viewNode{known: true, header: h, opaque: true}
	if viewFiles[e.name] && h.Typeflag == tar.TypeReg {
		if n.data, err = io.ReadAll(io.LimitReader(r, maxViewFile)); err != nil {
			return invalid("read the layer: %w", err)
		}
	}
	if h.Typeflag == tar.TypeDir {
		if old, err := v.node(e.name); err == nil && old.isDir() {
			old.header = h // what is in it stays
			return nil
		}
	}
	v.put(e.name, n)
	return nil
}

func (n *viewNode) isDir() bool { return n.header != nil && n.header.Typeflag == tar.TypeDir }

// put replaces a path with all below it. Parents that no entry describes are made.
func (v *View) put(name string, n *viewNode) {
	if name == "" {
		v.root = n
		return
	}
	parent, err := v.node(parentOf(name))
	if err != nil || !parent.isDir() {
		if n.header == nil {
			return // nothing is there, nor will it be
		}
		parent = newViewDir()
		v.put(parentOf(name), parent)
	}
	if parent.kids == nil {
		parent.kids = map[string]*viewNode{}
	}
	parent.kids[path.Base(name)] = n
}

func parentOf(name string) string {
	dir := path.Dir(name)
	if dir == "." {
		return ""
	}
	return dir
}

// node finds a path, which is clean, without following a symlink.
func (v *View) node(name string) (*viewNode, error) {
	n, err := v.know("", v.root)
	if err != nil || name == "" {
		return n, err
	}
	hidden := v.base == nil
	at := ""
	for part := range strings.SplitSeq(name, "/") {
		hidden = hidden || n.opaque
		at = path.Join(at, part)
		kid := n.kids[part]
		if kid == nil {
			if hidden || !n.isDir() {
				return nil, fs.ErrNotExist
			}
			if kid, err = v.know(at, &viewNode{}); err != nil {
				return nil, err
			}
			if n.kids == nil {
				n.kids = map[string]*viewNode{}
			}
			n.kids[part] = kid
		}
		if kid.header == nil {
			return nil, fs.ErrNotExist
		}
		n = kid
	}
	return n, nil
}

// know asks the base about a path.
func (v *View) know(name string, n *viewNode) (*viewNode, error) {
	if n.known {
		return n, nil
	}
	f, err := v.base.Lookup(name)
	if err != nil {
		return nil, err
	}
	if f.Header == nil { // a socket
		return nil, fs.ErrNotExist
	}
	n.known, n.header = true, f.Header
	if viewFiles[name] && n.header.Typeflag == tar.TypeReg && n.header.Size <= maxViewFile {
		var b bytes.Buffer
		if err := f.Copy(&b); err != nil {
			return nil, err
		}
		n.data = b.Bytes()
	}
	return n, nil
}

// Root is the root directory.
func (v *View) Root() (*tar.Header, error) {
	n, err := v.node("")
	if err != nil {
		return nil, err
	}
	return n.header, nil
}

// ReadFile reads /etc/passwd or /etc/group; any other file is fs.ErrNotExist.
func (v *View) ReadFile(name string) ([]byte, error) {
	at, h, err := v.Resolve(name)
	if err != nil {
		return nil, err
	}
	if h == nil || h.Typeflag != tar.TypeReg || !viewFiles[at] {
		return nil, fs.ErrNotExist
	}
	n, err := v.node(at)
	if err != nil {
		return nil, err
	}
	return n.data, nil
}

// Resolve finds where a path leads, through every symlink in it, none of which
// leads out of the root. Where nothing is there the header is nil, and what is
// missing of the path is at its end. Errors: Invalid for a loop, and for a path
// through something that is no directory.
func (v *View) Resolve(name string) (at string, h *tar.Header, err error) {
	left := strings.Split(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
	h, err = v.Root()
	if err != nil {
		return "", nil, err
	}
	for links := 0; len(left) > 0; {
		part := left[0]
		left = left[1:]
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			at = parentOf(at)
			continue
		case h != nil && h.Typeflag != tar.TypeDir:
			return "", nil, invalid("%s is no directory", shown("/"+at))
		}
		next := path.Join(at, part)
		n, err := v.node(next)
		if errors.Is(err, fs.ErrNotExist) {
			at, h = next, nil
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if n.header.Typeflag == tar.TypeSymlink {
			if links++; links > maxViewLinks {
				return "", nil, invalid("%s: too many symlinks", shown("/"+name))
			}
			if path.IsAbs(n.header.Linkname) {
				at = ""
			}
			left = append(strings.Split(strings.Trim(n.header.Linkname, "/"), "/"), left...)
			if d, err := v.node(at); err == nil {
				h = d.header
			}
			continue
		}
		at, h = next, n.header
	}
	if h != nil {
		n, err := v.node(at)
		if errors.Is(err, fs.ErrNotExist) {
			return at, nil, nil
		}
		if err != nil {
			return "", nil, err
		}
		h = n.header
	}
	return at, h, nil
}
