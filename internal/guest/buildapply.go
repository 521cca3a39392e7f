package guest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The names in a layer that mean something: OCI image-spec v1.1, layer.md.
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

// applyLayer unpacks a layer into a directory, which is the root of this process
// and an overlay: the directories that it only passes through stay as they are.
func applyLayer(root string, r io.Reader) error {
	a := &applier{root: root}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil || errors.Is(err, tar.ErrInsecurePath) {
			err = a.entry(h, tr)
		}
		if err != nil {
			return fmt.Errorf("apply the layer: %w", err)
		}
	}
	// Only now: what was made in a directory has changed its time.
	for i := len(a.dirs) - 1; i >= 0; i-- {
		if err := setTime(a.dirs[i].name, a.dirs[i].time); err != nil {
			return fmt.Errorf("apply the layer: %w", err)
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

type applier struct {
	root string
	dirs []dirTime
}

type dirTime struct {
	name string
	time time.Time
}

func (a *applier) entry(h *tar.Header, r io.Reader) error {
	name := path.Join(a.root, path.Clean("/"+h.Name))
	dir, base := path.Split(name)
	if base == opaqueName {
		return removeBelow(dir)
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return os.RemoveAll(path.Join(dir, path.Base("/"+hidden)))
	}
	if err := makeParents(path.Clean(dir)); err != nil {
		return err
	}
	if fi, err := os.Lstat(name); err == nil && name != a.root && !(fi.IsDir() && h.Typeflag == tar.TypeDir) {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := a.makeFile(name, h, r); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil
	}
	return a.attributes(name, h)
}

// makeParents makes the directories above an entry. One that is there stays,
// also as a link to a directory: a layer of files to be copied knows no others.
func makeParents(dir string) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	if err := makeParents(path.Dir(dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o755)
}

func removeBelow(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) makeFile(name string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return nil
	case tar.TypeLink:
		return os.Link(path.Join(a.root, path.Clean("/"+h.Linkname)), name)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, name)
	case tar.TypeFifo:
		return unix.Mknod(name, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		return unix.Mknod(name, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func (a *applier) attributes(name string, h *tar.Header) error {
	if err := os.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if err := unix.Lsetxattr(name, attr, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
				return fmt.Errorf("set %s of %s: %w", attr, name, err)
			}
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Chmod(name, uint32(h.Mode)&0o7777); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		a.dirs = append(a.dirs, dirTime{name, h.ModTime})
		return nil
	}
	return setTime(name, h.ModTime)
}

func setTime(name string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
