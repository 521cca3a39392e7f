package kernelcat

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"banger"
)

// maxLinks bounds the symbolic links on the way to one file, as Linux does.
const maxLinks = 40

// folder is a directory of the host that somebody else made: its files are
// found as a machine would find them that had it as its root, so an absolute
// link starts again at the folder, and nothing outside is ever looked at.
type folder struct {
	dir  string // absolute
	root *os.Root
	seen map[string]fs.FileInfo // what was copied, as it was then
}

// openFolder opens an existing directory; the caller closes root.
func openFolder(dir string) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err == nil {
		return &folder{dir: dir, root: root, seen: make(map[string]fs.FileInfo)}, nil
	}
	fi, e := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, unreadable(err, dir)
	case e == nil && !fi.IsDir():
		return nil, banger.Errorf(banger.Invalid, "%q is not a folder", dir)
	case errors.Is(e, fs.ErrNotExist), errors.Is(e, syscall.ENOTDIR):
		return nil, banger.Errorf(banger.NotFound, "there is no folder %q", dir)
	}
	return nil, err
}

// unreadable is for what belongs to somebody else.
func unreadable(err error, file string) error {
	return fail(banger.Unavailable, err, "no permission to read %q", file).WithHint("sudo chmod a+rX %s", file)
}

// path is a file of the folder for a message.
func (d *folder) path(name string) string { return filepath.Join(d.dir, name) }

// resolve follows all links on the way to a file, the last one too, and
// returns the path without any. A link that leads out of the folder is an
// Invalid error, one to nothing fs.ErrNotExist.
func (d *folder) resolve(name string) (string, error) {
	at, rest := ".", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		step := rest[0]
		rest = rest[1:]
		switch {
		case step == "" || step == ".":
			continue
		case step == ".." && at == "." && d.dir != "/":
			return "", banger.Errorf(banger.Invalid, "unsafe symlink: %q leads out of it", d.path(name))
		case step == "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, step)
		fi, err := d.root.Lstat(next)
		if err != nil {
			return "", d.asMissing(err, next)
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", banger.Errorf(banger.Invalid, "%q: more than %d symlinks", d.path(name), maxLinks)
		}
		target, err := d.root.Readlink(next)
		if err != nil {
			return "", d.asMissing(err, next)
		}
		if path.IsAbs(target) {
			at = "."
		}
		rest = slices.Concat(strings.Split(target, "/"), rest)
	}
	return at, nil
}

// asMissing makes one error of all the ways in which a file is not there.
func (d *folder) asMissing(err error, name string) error {
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fs.ErrNotExist
	case errors.Is(err, fs.ErrPermission):
		return unreadable(err, d.path(name))
	}
	return err
}

// find returns the first of the names that is there, resolved, and the kind
// that is asked for; others are passed over. None is fs.ErrNotExist, or
// fs.ErrPermission where one is hidden.
func (d *folder) find(dir bool, names ...string) (string, error) {
	none := fs.ErrNotExist
	for _, name := range names {
		p, err := d.resolve(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrPermission) {
			none = err
			continue
		}
		if err != nil {
			return "", err
		}
		fi, err := d.root.Lstat(p)
		if err != nil {
			return "", err
		}
		if dir && fi.IsDir() || !dir && fi.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", none
}

// open opens a regular file, whose path is resolved, for reading. It neither
// waits for the other end of a pipe nor touches a device that somebody puts in
// its place.
func (d *folder) open(name string) (*os.File, fs.FileInfo, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, d.asMissing(err, name)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = banger.Errorf(banger.Invalid, "%q is no regular file", d.path(name))
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	d.seen[name] = fi
	return f, fi, nil
}

// list reads a directory, whose path is resolved, in the order of names.
func (d *folder) list(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, d.asMissing(err, name)
	}
	defer f.Close()
	entries, err := f.ReadDir(maxEntries + 1)
	if len(entries) > maxEntries {
		return nil, banger.Errorf(banger.Invalid, "%q has more than %d files", d.path(name), maxEntries)
	}
	if len(entries) == 0 {
		err = nil // io.EOF
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// unchanged fails when something that was read is not any more what it was:
// then the copy may be a mix of two kernels.
func (d *folder) unchanged() error {
	for name, was := range d.seen {
		is, err := d.root.Lstat(name)
		if err == nil && os.SameFile(is, was) && is.Size() == was.Size() && is.ModTime().Equal(was.ModTime()) {
			continue
		}
		return d.changed(name)
	}
	return nil
}

func (d *folder) changed(name string) error {
	return banger.Errorf(banger.Conflict, "%q changed while it was copied", d.path(name)).WithHint("import it again")
}

// asChanged is asMissing for what was there a moment ago.
func (d *folder) asChanged(err error, name string) error {
	if err = d.asMissing(err, name); errors.Is(err, fs.ErrNotExist) {
		return d.changed(name)
	}
	return err
}
