// Command rootlist prints every file of a tree with all that its file system says of it, for tests that compare trees.
//
// It is one static program, so that it runs in a guest whatever the image holds.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// entry is one line of the output. Names are bytes: they need not be UTF-8.
type entry struct {
	Path   []byte            // relative to the tree, "." is the tree itself
	First  []byte            // of the names of this file, the first in the order of the output
	Mode   uint32            // st_mode
	UID    uint32            //
	GID    uint32            //
	Size   int64             // st_size
	Sec    int64             // st_mtim
	Nsec   int64             //
	Links  uint64            // st_nlink
	Rdev   uint64            // st_rdev
	Target []byte            // of a symlink
	Xattrs map[string][]byte // by their full names
	SHA256 string            // of a regular file's contents
}

// inode tells hard links.
type inode struct{ dev, ino uint64 }

// lister has its buffers once: a fresh megabyte for each file is what takes an
// emulated machine the longest.
type lister struct {
	data  [256 << 10]byte
	names [64 << 10]byte
	value [64 << 10]byte
	out   *json.Encoder
	root  string
	dev   uint64
	seen  map[inode]entry
}

func main() {
	fstype := flag.String("type", "ext4", "type of the file system on the device")
	device := flag.String("mount", "", "mount this device read-only at DIR first")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: rootlist [-mount DEVICE [-type TYPE]] DIR")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *device, *fstype); err != nil {
		fmt.Fprintln(os.Stderr, "rootlist:", err)
		os.Exit(1)
	}
}

func run(dir, device, fstype string) error {
	debug.SetGCPercent(1000) // little is allocated, and a collection is slow where the machine is emulated
	if device != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		data := ""
		if fstype == "ext4" {
			data = "noload"
		}
		if err := unix.Mount(device, dir, fstype, unix.MS_RDONLY, data); err != nil {
			return fmt.Errorf("mount %s: %w", device, err)
		}
		defer unix.Unmount(dir, 0)
	}
	w := bufio.NewWriterSize(os.Stdout, 1<<20)
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	l := &lister{out: json.NewEncoder(w), root: dir, dev: st.Dev, seen: map[inode]entry{}}
	if err := l.list("."); err != nil {
		return err
	}
	return w.Flush()
}

// list prints a file and all below it, by name. What is mounted in the tree is
// printed as the directory that it hides would be, without what is in it.
func (l *lister) list(name string) error {
	path := filepath.Join(l.root, name)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	e := entry{Path: []byte(name), First: []byte(name), Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size,
		Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec, Links: uint64(st.Nlink), Rdev: st.Rdev}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if first, ok := l.seen[inode{st.Dev, st.Ino}]; ok && !isDir {
		e.First, e.Target, e.Xattrs, e.SHA256 = first.First, first.Target, first.Xattrs, first.SHA256
	} else if err := l.read(&e, path); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if st.Nlink > 1 && !isDir {
		l.seen[inode{st.Dev, st.Ino}] = e
	}
	if err := l.out.Encode(e); err != nil {
		return err
	}
	if !isDir || st.Dev != l.dev {
		return nil
	}
	kids, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, kid := range kids {
		if err := l.list(filepath.Join(name, kid.Name())); err != nil {
			return err
		}
	}
	return nil
}

// read fills in what stat does not tell.
func (l *lister) read(e *entry, path string) (err error) {
	if e.Xattrs, err = l.xattrs(path); err != nil {
		return err
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		e.Target = []byte(target)
		return err
	case unix.S_IFREG:
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, l.data[:])
		if err == nil && n != e.Size {
			err = fmt.Errorf("has %d bytes and says %d", n, e.Size)
		}
		e.SHA256 = hex.EncodeToString(sum.Sum(nil))
		return err
	}
	return nil
}

// xattrs reads the extended attributes of a file, of a symlink its own.
func (l *lister) xattrs(path string) (all map[string][]byte, err error) {
	size, err := unix.Llistxattr(path, l.names[:])
	if err != nil {
		return nil, err
	}
	for name := range bytes.SplitSeq(l.names[:size], []byte{0}) {
		if len(name) == 0 { // behind the last
			continue
		}
		if all == nil {
			all = map[string][]byte{}
		}
		n, err := unix.Lgetxattr(path, string(name), l.value[:])
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		all[string(name)] = bytes.Clone(l.value[:n])
	}
	return all, nil
}
