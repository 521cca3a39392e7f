package rootfs

import (
	"archive/tar"
	"path"
	"strings"
)

// Whiteouts: OCI image-spec v1.1, layer.md, "Whiteouts". The names with the
// longer prefix are AUFS's own, which old builders left in layers.
const (
	whiteoutPrefix = ".wh."
	aufsPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// entryKind is what an entry does to the tree.
type entryKind uint8

const (
	putInode entryKind = iota
	putLink
	whiteout
	opaque
)

// entry is one tar entry, its contents already in the image.
type entry struct {
	kind entryKind
	name string // relative to the root, clean; "" is the root. Without the prefix for a whiteout
	link string // of a hard link: its target, clean like name
	ino  *inode // of putInode
}

// cleanName makes a name of a layer relative to the root of the image: "./a",
// "/a" and "../a" are all "a". Every path of banger below this point is
// looked up in the tree, never on the host.
func cleanName(name string, l Limits) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", invalid("the name holds a NUL byte")
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if len(name) > l.Path {
		return "", invalid("the path is longer than %d bytes", l.Path)
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > maxName {
			return "", invalid("a component of the path is longer than %d bytes", maxName)
		}
		depth++
	}
	if depth-1 > l.Depth {
		return "", invalid("the path is deeper than %d directories", l.Depth)
	}
	return name, nil
}

// newEntry classes a header. skip is set for entries that describe no file.
// The contents of a regular file are not read here.
func newEntry(h *tar.Header, l Limits, literal bool) (e entry, skip bool, err error) {
	// pax(1): a global header gives defaults for later ones; layers have no
	// use for it, and archive/tar hands it out as an entry.
	if h.Typeflag == tar.TypeXGlobalHeader {
		return e, true, nil
	}
	if e.name, err = cleanName(h.Name, l); err != nil {
		return e, false, err
	}
	if !literal {
		if hidden, err := e.classHidden(); hidden || err != nil {
			return e, e.kind == putInode, err
		}
	}
	if h.Typeflag == tar.TypeLink {
		e.kind = putLink
		e.link, err = cleanName(h.Linkname, l)
		return e, false, err
	}
	if e.ino, err = newInode(h); err != nil {
		return e, false, err
	}
	if err := setType(e.ino, h); err != nil {
		return e, false, err
	}
	e.ino.xattrs, err = headerXattrs(h, l)
	return e, false, err
}

// classHidden finds the names that OCI and AUFS reserve. Such an entry is a
// whiteout or opaque, or is to be skipped if its kind stays putInode.
func (e *entry) classHidden() (bool, error) {
	dir, base := path.Split(e.name)
	if base == opaqueName {
		e.kind, e.name = opaque, strings.TrimSuffix(dir, "/")
		return true, nil
	}
	for part := range strings.SplitSeq(e.name, "/") {
		if strings.HasPrefix(part, aufsPrefix) {
			return true, nil
		}
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if hidden == "" || hidden == "." || hidden == ".." {
			return true, invalid("the whiteout names no file")
		}
		e.kind, e.name = whiteout, dir+hidden
	}
	if strings.HasPrefix(dir, whiteoutPrefix) || strings.Contains(dir, "/"+whiteoutPrefix) {
		return true, invalid("a directory has a name that is reserved for whiteouts")
	}
	return e.kind == whiteout, nil
}

// setType sets what depends on the type of file. Only the types of OCI
// image-spec v1.1, layer.md, "File Types", that a tar can hold are accepted.
func setType(i *inode, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		i.mode |= typeRegular
		i.size = h.Size
	case tar.TypeDir:
		i.mode |= typeDir
	case tar.TypeSymlink:
		// Linux ignores the mode of a symlink and always shows 0777.
		i.mode = typeSymlink | 0o777
		i.target = h.Linkname
		if n := len(i.target); n == 0 || n > maxSymlink || strings.IndexByte(i.target, 0) >= 0 {
			return invalid("the target of the symlink is not 1 to %d bytes without NUL", maxSymlink)
		}
		i.size = int64(len(i.target))
	case tar.TypeChar, tar.TypeBlock:
		i.mode |= typeChar
		if h.Typeflag == tar.TypeBlock {
			i.mode ^= typeChar ^ typeBlock
		}
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return invalid("device number %d:%d is not in 0:0..%d:%d", h.Devmajor, h.Devminor, maxMajor, maxMinor)
		}
		i.major, i.minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		i.mode |= typeFifo
	default:
		return invalid("type %q is not a file, directory, link, device or fifo", h.Typeflag)
	}
	return nil
}
