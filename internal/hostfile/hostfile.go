// Package hostfile is how banger copies a large file of the host: shared with its original where the file system can, and sparse everywhere; and how it reads one until nobody wants it any more.
package hostfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// piece is how much is copied between two looks at the context, in bytes.
const piece = 8 << 20

// errCannot says that a way to copy is not to be had for these two files.
var errCannot = errors.New("not for these files")

// Clone makes dst, an empty file open for writing, a copy of src, open for
// reading: the same bytes and the same length, neither mode nor times. Where
// the file system can, the two share their blocks until one of them is written
// to (FICLONE). Else only what is there is copied, within the kernel, so holes
// stay holes. The offsets of both files are undefined afterwards.
//
// After an error dst holds a part; removing it is the business of whoever made
// it, as is syncing it. A full disk is ENOSPC or EDQUOT, a canceled ctx its cause.
func Clone(ctx context.Context, dst, src *os.File) error {
	if err := clone(ctx, dst, src); err != nil {
		return fmt.Errorf("copy %s: %w", src.Name(), err)
	}
	return nil
}

func clone(ctx context.Context, dst, src *os.File) error {
	from, err := src.Stat()
	if err != nil {
		return err
	}
	to, err := dst.Stat()
	if err != nil {
		return err
	}
	// The length and the holes of anything else say nothing.
	if !from.Mode().IsRegular() || !to.Mode().IsRegular() || to.Size() != 0 {
		return fmt.Errorf("want a regular file and an empty one, not %v and %v of %d bytes", from.Mode(), to.Mode(), to.Size())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// It takes all or nothing; what kept it from working shows again below, if it matters.
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	return copySparse(ctx, dst, src, from.Size(), copyRange)
}

// way copies up to n bytes at an offset and says how many it did; errCannot
// means that another way has to be found, io.ErrUnexpectedEOF that the file got shorter.
type way func(dst, src *os.File, off, n int64) (int64, error)

// copySparse copies the first size bytes of src, but for its holes.
func copySparse(ctx context.Context, dst, src *os.File, size int64, by way) error {
	for off := int64(0); off < size; {
		start, end, err := nextData(src, off, size)
		if err != nil {
			return err
		}
		for off = start; off < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := by(dst, src, off, min(end-off, piece))
			if errors.Is(err, errCannot) {
				by = readWrite
				continue
			}
			if err != nil {
				return err
			}
			off += n
		}
	}
	return dst.Truncate(size)
}

// nextData finds the first run of data at or behind off; at the end of the
// data it is empty. A file system that knows no holes has one run.
func nextData(src *os.File, off, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL):
		return off, size, nil
	case err != nil:
		return 0, 0, err
	}
	end, err = unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return start, min(end, size), nil
}

// copyRange lets the kernel copy.
func copyRange(dst, src *os.File, off, n int64) (int64, error) {
	from, to := off, off
	for {
		done, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(n), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS),
			errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM): // two file systems, an old kernel, a sandbox
			return 0, errCannot
		case err == nil && done == 0: // some file systems say so of files they cannot copy
			return 0, errCannot
		}
		return int64(done), err
	}
}

// readWrite copies through the memory of this process.
func readWrite(dst, src *os.File, off, n int64) (int64, error) {
	done, err := io.Copy(io.NewOffsetWriter(dst, off), io.NewSectionReader(src, off, n))
	if err == nil && done < n {
		err = io.ErrUnexpectedEOF
	}
	return done, err
}
