package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// Dir is a layer of the tree at a path of the host, as it is: owners, modes,
// times and extended attributes as whoever runs banger sees them. No symbolic
// link below path is followed, devices are content like any other, and sockets
// are left out, as by every tar. What is mounted somewhere below is not part of
// the tree: its mount point is an empty directory.
func Dir(path string) Layer {
	return Layer{Name: path, Literal: true, Open: func(ctx context.Context) (io.ReadCloser, error) {
		root, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, unreadable("", err)
		}
		r, w := io.Pipe()
		d := &dirReader{PipeReader: r, done: make(chan struct{})}
		walk := &dirWalk{ctx: ctx, out: tar.NewWriter(w), links: map[fileID]string{}, buf: make([]byte, 64<<10)}
		go func() {
			defer close(d.done)
			defer root.Close()
			_ = w.CloseWithError(walk.run(root)) // never fails
		}()
		return d, nil
	}}
}

// dirReader is a walk's tar. Its Close ends the walk.
type dirReader struct {
	*io.PipeReader
	done chan struct{}
}

func (d *dirReader) Close() error {
	err := d.PipeReader.Close()
	<-d.done
	return err
}

// fileID tells files of a host apart.
type fileID struct {
	major, minor uint32
	ino          uint64
}

// dirWalk writes a tree of the host as a tar.
type dirWalk struct {
	ctx   context.Context
	out   *tar.Writer
	mount uint64            // the one mount that is walked
	links map[fileID]string // names of files that have several, as they come first
	buf   []byte
}

func (w *dirWalk) run(root *os.File) error {
	stx, err := statAt(root, "")
	if err != nil {
		return unreadable("", err)
	}
	w.mount = stx.Mnt_id
	if err := w.header(root, "", ".", &stx, tar.Header{Typeflag: tar.TypeDir, Name: "./"}); err != nil {
		return err
	}
	if err := w.dir(root, ""); err != nil {
		return err
	}
	return w.out.Close()
}

// statAt describes a name in a directory, or the directory itself.
func statAt(dir *os.File, name string) (stx unix.Statx_t, err error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	err = unix.Statx(int(dir.Fd()), name, flags, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &stx)
	return stx, err
}

// dir writes what is in a directory, by name.
func (w *dirWalk) dir(dir *os.File, path string) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return unreadable(path, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(dir, path, name); err != nil {
			return err
		}
	}
	return nil
}

// entry writes one name and, of a directory, what is in it.
func (w *dirWalk) entry(dir *os.File, path, name string) error {
	path = strings.TrimPrefix(path+"/"+name, "/")
	stx, err := statAt(dir, name)
	if err != nil {
		return unreadable(path, err)
	}
	h := tar.Header{Name: path}
	id := fileID{stx.Dev_major, stx.Dev_minor, stx.Ino}
	kind := uint32(stx.Mode) & typeMask
	if first, ok := w.links[id]; ok && kind != typeDir {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		describe(&h, &stx)
		return w.write(path, &h)
	}
	switch kind {
	case typeDir:
		return w.subdir(dir, name, path, &stx)
	case typeRegular:
		err = w.file(dir, name, path, &stx)
	case typeSymlink:
		n, rerr := unix.Readlinkat(int(dir.Fd()), name, w.buf)
		if rerr != nil {
			return unreadable(path, rerr)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(w.buf[:n])
		err = w.header(dir, name, path, &stx, h)
	case typeChar, typeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(stx.Rdev_major), int64(stx.Rdev_minor)
		if kind == typeBlock {
			h.Typeflag = tar.TypeBlock
		}
		err = w.header(dir, name, path, &stx, h)
	case typeFifo:
		h.Typeflag = tar.TypeFifo
		err = w.header(dir, name, path, &stx, h)
	default: // a socket belongs to the process that listens on it
		return nil
	}
	if err == nil && stx.Nlink > 1 {
		w.links[id] = path
	}
	return err
}

func (w *dirWalk) subdir(dir *os.File, name, path string, stx *unix.Statx_t) error {
	if err := w.header(dir, name, path, stx, tar.Header{Typeflag: tar.TypeDir, Name: path + "/"}); err != nil {
		return err
	}
	if stx.Mnt_id != w.mount {
		return nil
	}
	sub, err := openAt(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return unreadable(path, err)
	}
	defer sub.Close()
	return w.dir(sub, path)
}

func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// file writes a regular file. What was looked at is what is read, whoever puts
// something else in its place meanwhile.
func (w *dirWalk) file(dir *os.File, name, path string, stx *unix.Statx_t) error {
	f, err := openAt(dir, name, 0)
	if err != nil {
		return unreadable(path, err)
	}
	defer f.Close()
	now, err := statAt(f, "")
	if err != nil {
		return unreadable(path, err)
	}
	if now.Ino != stx.Ino || now.Mode != stx.Mode {
		return changed(path)
	}
	if err := w.header(dir, name, path, &now, tar.Header{Typeflag: tar.TypeReg, Name: path, Size: int64(now.Size)}); err != nil {
		return err
	}
	left := int64(now.Size)
	for left > 0 {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		n, err := f.Read(w.buf[:min(left, int64(len(w.buf)))])
		if err == io.EOF {
			return changed(path)
		}
		if err != nil {
			return unreadable(path, err)
		}
		if _, err := w.out.Write(w.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

func changed(path string) error {
	return banger.Errorf(banger.Conflict, "%s was changed while it was read", shown(path))
}

// header completes a header by what all kinds of files have, and writes it.
func (w *dirWalk) header(dir *os.File, name, path string, stx *unix.Statx_t, h tar.Header) error {
	describe(&h, stx)
	// The directory is held open, and the last component is not followed.
	full := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
	if name == "" {
		full += "."
	}
	var err error
	if h.PAXRecords, err = xattrsOf(full); err != nil {
		return unreadable(path, err)
	}
	return w.write(path, &h)
}

func describe(h *tar.Header, stx *unix.Statx_t) {
	h.Mode = int64(stx.Mode) & 0o7777
	h.Uid, h.Gid = int(stx.Uid), int(stx.Gid)
	h.ModTime = time.Unix(stx.Mtime.Sec, int64(stx.Mtime.Nsec))
}

func (w *dirWalk) write(path string, h *tar.Header) error {
	h.Format = tar.FormatPAX
	if err := w.out.WriteHeader(h); err != nil {
		if errors.Is(err, io.ErrClosedPipe) {
			return err
		}
		return invalid("entry %s: %w", shown(path), err)
	}
	return nil
}

// xattrsOf reads the extended attributes of a file, as records of a tar.
func xattrsOf(path string) (map[string]string, error) {
	list, err := xattrCall(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) || len(list) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	records := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := xattrCall(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // gone meanwhile, or one that has no bytes of its own
		}
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		records[paxXattr+name] = string(value)
	}
	return records, nil
}

// xattrCall asks for the size, then for the bytes, until both agree.
func xattrCall(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		n, err = get(b)
		if !errors.Is(err, unix.ERANGE) {
			return b[:max(n, 0)], err
		}
	}
}

// unreadable is the error for the first file of a directory that cannot be read.
func unreadable(path string, err error) error {
	e := banger.Errorf(banger.Unavailable, "read %s: %w", shown("./"+filepath.ToSlash(path)), err)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return e.WithHint("import it from a tar that somebody makes who can read all of it: tar -C DIR --xattrs --numeric-owner -c . | banger image import -")
	}
	return e
}
