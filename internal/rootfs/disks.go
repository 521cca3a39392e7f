package rootfs

import (
	"errors"
	"io"
)

// Empty creates path as a sparse, writable ext4 file system with a journal, of
// 64 MiB to 16 TiB.
func Empty(path string, size int64) error { return errors.ErrUnsupported }

// BootDisk creates path as a small read-only ext4 file system that holds the
// guest program, size bytes long, as /banger-guest beside empty mount points.
func BootDisk(path string, guest io.Reader, size int64) error { return errors.ErrUnsupported }
