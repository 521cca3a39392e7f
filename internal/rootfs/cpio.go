package rootfs

import (
	"errors"
	"io"
)

// File is one file of an initrd.
type File struct {
	Name string // of a module: virtio_blk or virtio_blk.ko; not used for the init
	Size int64  // bytes that Open yields
	Open func() (io.ReadCloser, error)
}

// Initrd writes an uncompressed newc cpio archive with init as /init and the
// modules as /modules/NN-name.ko in load order.
func Initrd(w io.Writer, init File, modules []File) error { return errors.ErrUnsupported }
