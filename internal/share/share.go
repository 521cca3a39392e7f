// Package share serves one folder of the host to a guest over 9P2000.L, and never anything outside of it.
//
// Every fid is a descriptor of the very object that the guest has walked to:
// names are looked up one at a time below a descriptor, never through a path, so
// nothing that is swapped meanwhile, by whoever, leads anywhere else. Symlinks
// are the guest's to resolve, ".." is refused, and of special files a guest sees
// that they are there: none is ever opened.
//
// The protocol: linux/net/9p, linux/fs/9p, and
// https://github.com/chaos/diod/blob/master/protocol.md for what 9P2000.L adds.
package share

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"banger"
)

// Limits of one connection: a guest that wants more gets an error, or none of
// its requests is read until others have been answered.
const (
	// MaxMessage is the longest message, in bytes: what Linux asks for by itself.
	MaxMessage = 128 << 10
	// maxFids bounds the descriptors. A Linux guest that caches no names has one
	// for each open file and each working directory.
	maxFids = 4096
	// maxRequests bounds what is worked on at a time, and with it the memory.
	maxRequests = 16
)

// Folder is a folder that can be served.
type Folder struct {
	dir      *os.File // O_PATH
	dev      uint64   // of its file system
	readOnly bool
	uid, gid uint32 // of this process: files of these are the guest's root's
}

// Open opens the folder at path; symlinks on the way to it are followed. Where
// there is no folder it is NotFound or Invalid.
func Open(path string, readOnly bool) (*Folder, error) {
	dir, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return nil, banger.Errorf(banger.Invalid, "share %q: it is not a folder", path)
	case errors.Is(err, os.ErrNotExist):
		return nil, banger.Errorf(banger.NotFound, "share %q: there is no such folder", path).WithHint("mkdir -p %s, or make the vm anew without it", path)
	case err != nil:
		return nil, fmt.Errorf("share %q: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("share %q: %w", path, err)
	}
	return &Folder{dir: dir, dev: st.Dev, readOnly: readOnly, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
}

// Close closes the folder, once nobody is served any more.
func (f *Folder) Close() error { return f.dir.Close() }

// Serve answers the requests that come over rw until that ends, closes it and
// everything that the guest has opened, and returns once all of it is done. A
// guest that does not keep to the protocol is an error.
func (f *Folder) Serve(rw io.ReadWriteCloser) error {
	c := &conn{folder: f, rw: rw, fids: map[uint32]*fid{}, tags: map[uint16][]uint16{}}
	err := c.serve()
	_ = rw.Close() // an answer that nobody reads must not hold up the end
	c.running.Wait()
	for _, f := range c.fids {
		c.release(f)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
