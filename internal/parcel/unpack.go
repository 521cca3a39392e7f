package parcel

import (
	"archive/tar"
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Target says where a stream is unpacked, and how.
type Target struct {
	Path string `json:"path"`
	// Name is the source's own name, which it keeps in a Path that is a folder.
	// Empty: a source folder becomes one with that folder.
	Name string `json:"name,omitempty"`
	// Loose is for a tar stream that Pack has not made: Path is a folder that is
	// there, its entries go into that by their names, and zeros become holes.
	Loose bool `json:"loose,omitempty"`
	// Owners gives files their owners by number, Setuid leaves the bits setuid,
	// setgid and sticky.
	Owners bool `json:"owners,omitempty"`
	Setuid bool `json:"setuid,omitempty"`
}

// Unpack unpacks a tar stream. No entry gets out of the target, through no
// symlink, and none becomes a device. A file appears as a whole; so does a folder that
// was not there before. Of one that was, a failure may leave a part, and says so.
func Unpack(r io.Reader, t Target) (Report, error) {
	in := bufio.NewReaderSize(r, bufferSize)
	u := &unpacker{t: t, tr: tar.NewReader(in), buf: make([]byte, bufferSize)}
	err := u.run()
	if err == nil {
		// Padding stands behind the end; whoever sends it is to be rid of it.
		_, err = io.CopyN(io.Discard, in, maxPadding)
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		err = fmt.Errorf("copy to %q: %w", t.Path, err)
	}
	return u.report, err
}

type unpacker struct {
	t      Target
	tr     *tar.Reader
	root   *os.Root // pinned: nothing is written outside
	base   string   // the source's place below root
	buf    []byte
	report Report

	at   *os.Root // the folder of the last entry
	path string   // of that, below root
	dirs []folder
	book int // bytes that dirs hold
}

// folder is one whose attributes are set when all is in it.
type folder struct {
	path string
	h    *tar.Header
}

func (u *unpacker) run() error {
	var h *tar.Header
	var err error
	if !u.t.Loose { // else nothing hangs on what comes
		if h, err = u.next(); err != nil {
			return err
		}
	}
	place, err := u.find(h)
	if err != nil {
		return err
	}
	if u.root, err = os.OpenRoot(place.dir); err != nil {
		return bare(err)
	}
	defer u.root.Close()
	defer u.leave()
	u.base = place.name
	if place.fresh {
		u.base = scratchName()
		defer u.root.RemoveAll(u.base)
	}
	if u.t.Loose {
		h, err = u.next()
	}
	if err == nil {
		err = u.entries(h)
	} else if errors.Is(err, io.EOF) {
		err = nil // an empty tar
	}
	u.leave()
	if err == nil {
		err = u.finishFolders()
	}
	if err == nil && place.fresh {
		err = bare(u.root.Rename(u.base, place.name))
	}
	if err != nil && !place.fresh && u.report.Files > 0 {
		err = fmt.Errorf("%w; a part of it is there", err)
	}
	return err
}

// next reads the next header.
func (u *unpacker) next() (*tar.Header, error) {
	h, err := u.tr.Next()
	if errors.Is(err, tar.ErrInsecurePath) {
		err = nil // looked at below
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the tar stream: %w", err)
	}
	if errors.Is(err, io.EOF) && !u.t.Loose && u.root == nil {
		return nil, fmt.Errorf("read the tar stream: %w", io.ErrUnexpectedEOF)
	}
	return h, err
}

// entries unpacks from the header h on.
func (u *unpacker) entries(h *tar.Header) error {
	for h != nil {
		if err := u.entry(h); err != nil {
			return fmt.Errorf("%q: %w", h.Name, bare(err))
		}
		var err error
		if h, err = u.next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// place is where a source goes: name in the folder dir. A fresh one is a folder
// that is not there yet.
type place struct {
	dir, name string
	fresh     bool
}

// find decides where the source, which begins with h, goes; as docker cp does.
func (u *unpacker) find(h *tar.Header) (place, error) {
	dst := u.t.Path
	fi, err := os.Stat(dst)
	if u.t.Loose {
		if err == nil && !fi.IsDir() {
			err = errors.New("not a folder")
		}
		return place{dir: dst, name: "."}, bare(err)
	}
	isDir := h.Typeflag == tar.TypeDir
	switch {
	case err == nil && fi.IsDir() && isDir && u.t.Name == "":
		return place{dir: dst, name: "."}, nil
	case err == nil && fi.IsDir() && u.t.Name == "":
		return place{}, errors.New("the source is no folder")
	case err == nil && fi.IsDir():
		if u.t.Name != filepath.Base(u.t.Name) || !filepath.IsLocal(u.t.Name) {
			return place{}, fmt.Errorf("bad name %q", u.t.Name)
		}
		in, err := os.Lstat(filepath.Join(dst, u.t.Name))
		switch {
		case err == nil && isDir && !in.IsDir():
			return place{}, fmt.Errorf("%s in it is no folder", u.t.Name)
		case err == nil && !isDir && in.IsDir():
			return place{}, fmt.Errorf("%s in it is a folder", u.t.Name)
		}
		return place{dst, u.t.Name, isDir && err != nil}, nil
	case err == nil && isDir:
		return place{}, errors.New("the source is a folder, this is none")
	case err == nil: // through a symlink, as cp writes
		real, err := filepath.EvalSymlinks(dst)
		return place{dir: filepath.Dir(real), name: filepath.Base(real)}, bare(err)
	case !errors.Is(err, fs.ErrNotExist):
		return place{}, bare(err)
	case strings.HasSuffix(dst, "/") && !isDir:
		return place{}, errors.New("no such folder")
	}
	clean := filepath.Clean(dst)
	if _, err := os.Lstat(clean); err == nil {
		return place{}, errors.New("a symlink that leads nowhere")
	}
	return place{filepath.Dir(clean), filepath.Base(clean), isDir}, nil
}

// local is the path of an entry's name below root.
func (u *unpacker) local(name string) (string, error) {
	name = strings.TrimLeft(name, "/")
	clean := path.Clean("./" + name)
	if len(name) > maxName || !filepath.IsLocal(clean) || strings.Contains(name, "\x00") {
		return "", errors.New("a name that leads out of the copy, or is too long")
	}
	return path.Join(u.base, clean), nil
}

// entry unpacks one entry.
func (u *unpacker) entry(h *tar.Header) error {
	where, err := u.local(h.Name)
	if err != nil {
		return err
	}
	if where == "." { // the target itself: it was there before, and stays as it is
		if h.Typeflag != tar.TypeDir {
			return errors.New("a file in the place of the folder that is copied to")
		}
		return nil
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeGNUSparse:
	case tar.TypeXGlobalHeader:
		return nil
	default:
		u.report.skip(h.Name)
		return nil
	}
	if !u.t.Loose && expanded(h) {
		return errSparse
	}
	dir, name := path.Split(where)
	if err := u.enter(path.Clean(dir)); err != nil {
		return err
	}
	u.report.Files++
	switch h.Typeflag {
	case tar.TypeDir:
		return u.folder(where, name, h)
	case tar.TypeSymlink:
		return u.symlink(name, h)
	case tar.TypeLink:
		return u.link(where, h)
	}
	return u.file(name, h)
}

// expanded reports whether package tar makes zeros of an entry's holes: a few
// bytes of a hostile stream would go on for ever.
func expanded(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// enter makes a folder the one to write in. No part of its path may be a symlink.
func (u *unpacker) enter(dir string) error {
	if u.at != nil && u.path == dir {
		return nil
	}
	u.leave()
	at, err := u.root.OpenRoot(".")
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(dir, "/") {
		if name == "." {
			continue
		}
		fi, err := at.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			err = at.Mkdir(name, 0o755)
		} else if err == nil && !fi.IsDir() {
			err = fmt.Errorf("%s is no folder", name)
		}
		var next *os.Root
		if err == nil {
			next, err = at.OpenRoot(name)
		}
		at.Close()
		if err != nil {
			return err
		}
		at = next
	}
	u.at, u.path = at, dir
	return nil
}

func (u *unpacker) leave() {
	if u.at != nil {
		u.at.Close()
		u.at = nil
	}
}

func (u *unpacker) folder(where, name string, h *tar.Header) error {
	err := u.at.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		var fi fs.FileInfo
		if fi, err = u.at.Lstat(name); err == nil && !fi.IsDir() {
			err = errors.New("is there, and no folder")
		}
	}
	if err != nil {
		return err
	}
	if u.book += len(where) + 200; u.book > maxBook {
		return errors.New("too many folders")
	}
	kept := *h
	kept.PAXRecords, kept.Name, kept.Linkname = nil, "", ""
	u.dirs = append(u.dirs, folder{where, &kept})
	return nil
}

// finishFolders sets the attributes of folders, the innermost first.
func (u *unpacker) finishFolders() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		err := u.owner(u.root, d.path, d.h)
		if err == nil {
			err = u.root.Chmod(d.path, u.mode(d.h))
		}
		if err == nil {
			err = u.root.Chtimes(d.path, time.Time{}, d.h.ModTime)
		}
		if err != nil {
			return bare(err)
		}
	}
	return nil
}

// mode is the mode that a file gets.
func (u *unpacker) mode(h *tar.Header) fs.FileMode {
	mode := fs.FileMode(h.Mode & 0o777)
	if u.t.Setuid {
		mode |= h.FileInfo().Mode() & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	}
	return mode
}

func (u *unpacker) owner(dir *os.Root, name string, h *tar.Header) error {
	if !u.t.Owners {
		return nil
	}
	return dir.Lchown(name, h.Uid, h.Gid)
}

func (u *unpacker) symlink(name string, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > maxLink || strings.Contains(h.Linkname, "\x00") {
		return errors.New("a symlink to nothing, or to too long a name")
	}
	temp := scratchName()
	if err := u.at.Symlink(h.Linkname, temp); err != nil {
		return err
	}
	return u.settle(temp, name, u.linkAttributes(temp, h))
}

// settle moves what was made to its place, or takes it away if it went wrong.
func (u *unpacker) settle(temp, name string, err error) error {
	if err == nil {
		err = u.at.Rename(temp, name)
	}
	if err != nil {
		_ = u.at.Remove(temp)
	}
	return err
}

func (u *unpacker) linkAttributes(temp string, h *tar.Header) error {
	if err := u.owner(u.at, temp, h); err != nil {
		return err
	}
	if dir, err := u.at.Open("."); err == nil {
		ts := unix.NsecToTimespec(h.ModTime.UnixNano())
		_ = unix.UtimesNanoAt(int(dir.Fd()), temp, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW) // the target is what counts
		dir.Close()
	}
	return nil
}

// link makes a further name of a file of this stream.
func (u *unpacker) link(where string, h *tar.Header) error {
	old, err := u.local(h.Linkname)
	if err != nil {
		return err
	}
	if err := u.enter(path.Dir(old)); err != nil {
		return err
	}
	fi, err := u.at.Lstat(path.Base(old))
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("a link to %q, which is no file", h.Linkname)
	}
	if err != nil || old == where {
		return err
	}
	if err := u.enter(path.Dir(where)); err != nil {
		return err
	}
	name := path.Base(where)
	if fi, err := u.at.Lstat(name); err == nil && fi.IsDir() {
		return errors.New("is there, and a folder")
	} else if err == nil {
		if err := u.at.Remove(name); err != nil {
			return err
		}
	}
	return u.root.Link(old, where)
}

// scratchName is a name for what is not whole yet.
func scratchName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return ".banger-cp-" + hex.EncodeToString(b[:])
}
