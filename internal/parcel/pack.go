package parcel

import (
	"archive/tar"
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Source says what to pack.
type Source struct {
	Path string `json:"path"`
	// Prefix is the source's name in the stream, "." if it is empty.
	Prefix string `json:"prefix,omitempty"`
	// Follow packs what a Path that is a symlink points to. A Path with a slash
	// at its end does so anyway.
	Follow bool `json:"follow,omitempty"`
	// Plain writes holes as zeros: a stream that any tar can read.
	Plain bool `json:"plain,omitempty"`
}

// bufferSize is what moves at a time. A frame of the transport has as much.
const bufferSize = 64 << 10

// Pack writes a file, or a folder with all that is in it, to w as a tar stream.
func Pack(w io.Writer, s Source) (Report, error) {
	out := bufio.NewWriterSize(w, bufferSize)
	p := &packer{tw: tar.NewWriter(out), links: map[inode]string{}, plain: s.Plain, buf: make([]byte, bufferSize)}
	err := p.source(s)
	if err == nil {
		err = p.tw.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		err = fmt.Errorf("copy %q: %w", s.Path, bare(err))
	}
	return p.report, err
}

// bare takes the words of package os off an error whose file has been named.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && err == error(pe) {
		return pe.Err
	}
	return err
}

type inode struct{ dev, ino uint64 }

type packer struct {
	tw     *tar.Writer
	links  map[inode]string // the first name of a file that has several
	plain  bool
	buf    []byte
	report Report
}

// source packs what the user named: from then on nothing leads out of it.
func (p *packer) source(s Source) error {
	stat := os.Lstat
	name := filepath.Clean(s.Path)
	if s.Follow || strings.HasSuffix(s.Path, "/") || strings.HasSuffix(s.Path, "/.") {
		stat = os.Stat
		real, err := filepath.EvalSymlinks(s.Path)
		if err != nil {
			return err
		}
		name = real
	}
	fi, err := stat(s.Path)
	if err != nil {
		return err
	}
	prefix := cmp.Or(s.Prefix, ".")
	if fi.IsDir() {
		dir, err := os.OpenRoot(name)
		if err != nil {
			return err
		}
		defer dir.Close()
		return p.folder(dir, prefix, fi)
	}
	parent, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	if !fi.Mode().IsRegular() && fi.Mode()&fs.ModeSymlink == 0 {
		return errors.New("neither a file, a folder nor a symlink")
	}
	return p.file(parent, filepath.Base(name), prefix, fi)
}

// folder packs a folder and all that is in it, in the order of the names.
func (p *packer) folder(dir *os.Root, as string, fi fs.FileInfo) error {
	h := header(fi, as+"/")
	h.Typeflag, h.Size = tar.TypeDir, 0
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	p.report.Files++
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		err := p.member(dir, name, path.Join(as, name), fi)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // one that has gone meanwhile is none
			return fmt.Errorf("%s: %w", name, bare(err))
		}
	}
	return nil
}

func (p *packer) member(dir *os.Root, name, as string, parent fs.FileInfo) error {
	fi, err := dir.Lstat(name)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return p.file(dir, name, as, fi)
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if sys(fi).Dev != sys(parent).Dev && kernelOwn(sub) {
		p.report.skip(as)
		return nil
	}
	return p.folder(sub, as, fi)
}

func sys(fi fs.FileInfo) *syscall.Stat_t {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st
	}
	return &syscall.Stat_t{}
}

// kernelOwn reports whether a folder is of a file system that has no files, but
// the kernel's view of itself: some of its files have no end.
func kernelOwn(dir *os.Root) bool {
	f, err := dir.Open(".")
	if err != nil {
		return false
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC, unix.SELINUX_MAGIC:
		return true
	}
	return false
}

// header is what is told of every file.
func header(fi fs.FileInfo, name string) *tar.Header {
	st := sys(fi)
	mode := int64(fi.Mode().Perm())
	for bit, c := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if fi.Mode()&bit != 0 {
			mode |= c
		}
	}
	return &tar.Header{Name: name, Mode: mode, Uid: int(st.Uid), Gid: int(st.Gid), ModTime: fi.ModTime(), Format: tar.FormatPAX}
}

// file packs what is no folder.
func (p *packer) file(dir *os.Root, name, as string, fi fs.FileInfo) (err error) {
	h := header(fi, as)
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = dir.Readlink(name); err != nil {
			return err
		}
		p.report.Files++
		return p.tw.WriteHeader(h)
	case !fi.Mode().IsRegular():
		p.report.skip(as)
		return nil
	}
	if st := sys(fi); st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			p.report.Files++
			return p.tw.WriteHeader(h)
		}
		p.links[id] = as
	}
	// Not to be led on, nor held up, by what took the file's place meanwhile.
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(err, fs.ErrNotExist)
	}
	return p.contents(f, h, fi)
}

// contents packs a regular file.
func (p *packer) contents(f *os.File, h *tar.Header, fi fs.FileInfo) error {
	all := sparse{size: fi.Size(), pieces: []piece{{0, fi.Size()}}}
	if sys(fi).Blocks*512 < fi.Size() && !p.plain {
		if s, ok := holes(f, fi.Size()); ok {
			all = s
			h.PAXRecords = map[string]string{sparseKey: s.String()}
		}
	}
	h.Typeflag, h.Size = tar.TypeReg, all.data()
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	p.report.Files++
	for _, part := range all.pieces {
		n, err := io.CopyBuffer(plainWriter{p.tw}, io.NewSectionReader(f, part.offset, part.length), p.buf)
		p.report.Bytes += n
		if err != nil {
			return err
		}
		if n < part.length {
			p.report.Shrunk = cmp.Or(p.report.Shrunk, h.Name)
			if _, err := io.CopyBuffer(plainWriter{p.tw}, io.LimitReader(zeros{}, part.length-n), p.buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// plainWriter hides a ReadFrom, which would leave the buffer unused.
type plainWriter struct{ io.Writer }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// holes finds where the data of a file are. It is no use if they are in too
// many pieces, or the file system cannot tell.
func holes(f *os.File, size int64) (s sparse, ok bool) {
	s.size = size
	for at := int64(0); at < size; {
		begin, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		if err != nil || len(s.pieces) == maxPieces {
			return s, false
		}
		end, err := f.Seek(begin, unix.SEEK_HOLE)
		if err != nil {
			return s, false
		}
		if begin >= size {
			break
		}
		end = min(end, size)
		s.pieces = append(s.pieces, piece{begin, end - begin})
		at = end
	}
	return s, true
}
