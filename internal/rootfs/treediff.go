package rootfs

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"strings"
)

// What overlayfs has in an upper directory beside files:
// Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
const (
	overlayXattr = paxXattr + "trusted.overlay."
	opaqueXattr  = overlayXattr + "opaque"
)

// WriteDiff writes the upper directory of an overlay, which is at dir in this
// file system, as a layer: with the whiteouts and opaque directories of OCI
// (image-spec v1.1, layer.md) in the place of those of overlayfs, else as
// WriteTar does. lower is the root that the overlay began with: where the upper
// one has the same attributes it is left out. count is how many entries there
// are; one that only tells the root's time is none.
//
// Errors are those of WriteTar; fs.ErrNotExist if there is no such directory.
func (t *Tree) WriteDiff(ctx context.Context, w io.Writer, dir string, lower *tar.Header) (count int, err error) {
	top, err := t.Lookup(dir)
	if err != nil {
		return 0, err
	}
	if !top.ino.isDir() {
		return 0, fmt.Errorf("look %s up: %w", shown(dir), fs.ErrNotExist)
	}
	err = t.writeTar(ctx, w, func(out *treeTar) error {
		err := t.walkFrom(ctx, top.ino, func(name string, i *inode, first string) error {
			if name == "" && sameRoot(i, lower) {
				return nil
			}
			if name != "" || !sameOwner(i, lower) {
				count++
			}
			return out.addUpper(name, i, first)
		})
		return err
	})
	return count, err
}

// addUpper writes one file of an upper directory.
func (o *treeTar) addUpper(name string, i *inode, first string) error {
	if i.mode&typeMask == typeChar && i.major == 0 && i.minor == 0 {
		return o.whiteout(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)), i)
	}
	h, err := tarHeader(name, i, first)
	if err != nil {
		return fmt.Errorf("entry %s: %w", shown(name), err)
	}
	if h == nil {
		return nil
	}
	opaque := h.PAXRecords[opaqueXattr] == "y"
	maps.DeleteFunc(h.PAXRecords, func(key, _ string) bool { return strings.HasPrefix(key, overlayXattr) })
	if err := o.add(h, i); err != nil || !opaque || name == "" {
		return err
	}
	return o.whiteout(path.Join(name, opaqueName), i)
}

// whiteout writes an empty file whose name means something.
func (o *treeTar) whiteout(name string, i *inode) error {
	h, err := tarHeader("x", &inode{mode: typeRegular, sec: i.sec, nsec: i.nsec}, "")
	if err != nil {
		return err
	}
	h.Name = name
	return o.tw.WriteHeader(h)
}

func sameRoot(i *inode, lower *tar.Header) bool {
	return sameOwner(i, lower) && lower != nil && lower.ModTime.Unix() == i.sec && lower.ModTime.Nanosecond() == int(i.nsec)
}

// sameOwner compares the attributes of two roots but for their times.
func sameOwner(i *inode, lower *tar.Header) bool {
	h, err := tarHeader("", i, "")
	if err != nil || lower == nil {
		return lower == nil && err == nil && i.mode&0o7777 == 0o755 && i.uid == 0 && i.gid == 0
	}
	own := func(records map[string]string) map[string]string {
		records = maps.Clone(records)
		maps.DeleteFunc(records, func(key, _ string) bool {
			return !strings.HasPrefix(key, paxXattr) || strings.HasPrefix(key, overlayXattr)
		})
		return records
	}
	return h.Mode == lower.Mode&0o7777 && h.Uid == lower.Uid && h.Gid == lower.Gid && maps.Equal(own(h.PAXRecords), own(lower.PAXRecords))
}
