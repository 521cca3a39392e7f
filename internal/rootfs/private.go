package rootfs

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"banger"
	"banger/internal/hostfile"
)

// Private creates path as a machine's own copy of an image: writable, size
// bytes long, sparse, and sharing the image's blocks where the host's file
// system can. Of EROFS, which nobody can write to, the copy is ext4. path must
// not exist. The file system in it is still as large as
// the image; Linux grows it while it is mounted (EXT4_IOC_RESIZE_FS). The file
// is not synced: that is the business of whoever records it.
//
// Errors are *banger.Error: Invalid if the image has more than size bytes or is
// cut short, Unsupported if it is no ext4 file system that Linux can grow,
// Exists, Exhausted, Canceled.
func Private(ctx context.Context, path, image string, size int64) error {
	err := private(ctx, path, image, size)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = banger.Errorf(banger.Canceled, "%w", err)
	}
	return outputError("copy the image", err)
}

func private(ctx context.Context, path, image string, size int64) error {
	src, err := os.Open(image)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, superOffset+superSize)
	if _, err := src.ReadAt(head, 0); err != nil && err != io.EOF {
		return diskError(err)
	}
	if fileSystem(head) == FSErofs {
		return rewrite(ctx, path, src, size)
	}
	if err := checkGrows(head[superOffset:], info.Size()); err != nil {
		return err
	}
	if info.Size() > size {
		return tooSmall(info.Size(), size)
	}
	return create(path, 0o600, func(dst *os.File) error {
		if err := hostfile.Clone(ctx, dst, src); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return diskError(err)
		}
		return diskError(dst.Truncate(size / blockSize * blockSize))
	})
}

func tooSmall(image, disk int64) error {
	return invalid("the image has %d MiB, a disk of %d MiB cannot hold a copy of it", image>>20, disk>>20)
}

// rewrite makes ext4 of what is in another file system.
func rewrite(ctx context.Context, path string, src *os.File, size int64) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	tree, err := OpenTree(src, info.Size())
	if err != nil {
		return err
	}
	return create(path, 0o600, func(dst *os.File) error {
		// A limit of the image's size would not do: it counts contents alone.
		if _, err := merge(ctx, dst, []Layer{tree.Layer("")}, Options{Workers: 1}); err != nil {
			return err
		}
		info, err := dst.Stat()
		if err == nil && info.Size() > size {
			err = tooSmall(info.Size(), size)
		}
		if err != nil {
			return err
		}
		return diskError(dst.Truncate(size / blockSize * blockSize))
	})
}

// checkGrows looks at the superblock of a file of that length: super.rst, "Super Block".
func checkGrows(sb []byte, length int64) error {
	le := binary.LittleEndian
	if le.Uint16(sb[0x38:]) != superMagic {
		return banger.Errorf(banger.Unsupported, "the image is not an ext4 file system")
	}
	// As banger's own images were at first: without copies of the superblock.
	if le.Uint32(sb[0x5C:])&compatSparse2 != 0 {
		return banger.Errorf(banger.Unsupported, "the image cannot be grown: its file system has the feature sparse_super2")
	}
	// 1024 << n is the size of a block, at most 64 KiB.
	if n := le.Uint32(sb[0x18:]); n > 6 || int64(le.Uint32(sb[0x04:])) > length>>(10+n) {
		return invalid("the image is cut short: it has %d bytes", length)
	}
	return nil
}
