// Package rootfs merges image layers into a read-only ext4 root file system
// without root, and writes the small disks and the initrd of a boot.
package rootfs

import (
	"context"
	"errors"
	"io"

	"banger"
)

// Layer is one layer of an image, the lowest first.
type Layer struct {
	Name string // for Progress, for instance the digest
	Size int64  // bytes of the stream where known, else 0; larger layers are started first
	// Open gives the uncompressed tar stream. It is read to its end, because a
	// verifying reader reports a bad digest only there. Reads must end when
	// ctx does. Open may be called from several goroutines, once per layer.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Options of Build. The zero value is valid.
type Options struct {
	Workers  int                   // layers read at the same time, default 2
	Limits   Limits                // zero fields mean the defaults
	Progress func(banger.Progress) // may be nil; calls never overlap
}

// Stats tells what Build made.
type Stats struct {
	Entries   int   // inodes of the image
	Size      int64 // length of the image in bytes
	Allocated int64 // bytes that the image takes on the host's disk
}

// Limits bounds what a hostile image may cost. A zero field means its default.
type Limits struct{}

// Build merges the layers into a new read-only ext4 image at path.
func Build(ctx context.Context, path string, layers []Layer, o Options) (Stats, error) {
	return Stats{}, errors.ErrUnsupported
}
