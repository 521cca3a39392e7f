package rootfs

import (
	"context"
	"io"
	"strings"

	"banger"
)

// Tree is a file system that is read, never written: ext2, ext3, ext4, or EROFS
// without compression. It believes nothing: whatever a file holds, reading it
// ends, and in bounds.
type Tree struct {
	fsReader
	top  uint32 // the root's inode
	most int64  // bytes of contents that are read at once, for holes cost nothing
}

// fsReader reads one kind of file system. Errors: Invalid for a damaged one,
// Unsupported for what it does not read, Internal for those of the host's disk.
type fsReader interface {
	// inode reads an inode; one that is not in use has no links.
	inode(number uint32) (*inode, error)
	// names reads a directory, sorted, without "." and "..".
	names(dir *inode) ([]name, error)
	// copy writes the contents of a file. Errors of w come as they are.
	copy(w io.Writer, i *inode) error
	// check compares the inodes that have names with what the file system says
	// of them beside that.
	check(ctx context.Context, numbers []uint32) error
}

// OpenTree opens the file system in a file of so many bytes. It is for one
// goroutine. Errors: Unsupported for another file system or features that are
// not read, Conflict for one that is not clean, Invalid for a damaged one.
func OpenTree(r io.ReaderAt, size int64) (*Tree, error) {
	head := make([]byte, blockSize)
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, diskError(err)
	}
	switch fileSystem(head) {
	case FSExt4:
		fs, err := openExt4(r, head[superOffset:superOffset+superSize], size)
		if err != nil {
			return nil, err
		}
		return readerTree(fs, rootInode), nil
	case FSErofs:
		fs, err := openErofs(r, head, size)
		if err != nil {
			return nil, err
		}
		return readerTree(fs, fs.super.root), nil
	}
	return nil, banger.Errorf(banger.Unsupported, "it is neither an ext4 nor an erofs file system")
}

func readerTree(fs fsReader, top uint32) *Tree {
	return &Tree{fsReader: fs, top: top, most: Limits{}.withDefaults().Bytes}
}

// readFault is an error of reading the file that holds the file system.
func readFault(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return invalid("the file is cut short")
	}
	return diskError(err)
}

func checkTarget(i *inode) error {
	if i.target == "" || strings.IndexByte(i.target, 0) >= 0 {
		return invalid("its target is empty or holds a NUL byte")
	}
	return nil
}

// copyRange writes bytes of the file that holds the file system.
func copyRange(w io.Writer, r io.ReaderAt, at, n int64) error {
	done, err := io.Copy(w, &faultlessReader{r: io.NewSectionReader(r, at, n)})
	if err == nil && done < n {
		err = invalid("the file is cut short")
	}
	return err
}

// faultlessReader gives errors of reading the file system their kind, so that
// they are told from those of writing.
type faultlessReader struct{ r io.Reader }

func (f *faultlessReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		err = diskError(err)
	}
	return n, err
}

func writeZeros(w io.Writer, n int64) error {
	for n > 0 {
		k := min(n, unit)
		if _, err := w.Write(zeroUnit[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}
