package rootfs

import (
	"context"
	"io"
	"os"
)

// GuestPath is where the boot disk holds the guest program.
const GuestPath = "/banger-guest"

// mountPoints are the directories that the guest program mounts on.
var mountPoints = []string{"dev", "mnt", "proc", "run", "sys"}

// BootDisk creates path as a small read-only ext4 file system that holds the
// guest program, size bytes long, as /banger-guest beside the empty
// directories /dev, /mnt, /proc, /run and /sys. path must not exist. The same
// program gives the same bytes, which are on the disk when BootDisk returns.
//
// Errors are *banger.Error: Invalid if guest does not yield size bytes,
// Exists, Exhausted.
func BootDisk(path string, guest io.Reader, size int64) error {
	return outputError("make boot disk", create(path, 0o444, func(f *os.File) error {
		if size <= 0 {
			return invalid("the guest program has %d bytes", size)
		}
		w := newWriter(f, Limits{Bytes: size, Entries: 64}.withDefaults())
		lane := newLanes(&w.blocks, size)
		data := w.newData(lane, 0)
		extents, err := data.add(size, guest)
		if err != nil {
			return invalid("read guest program: %w", err)
		}
		if n, _ := guest.Read(make([]byte, 1)); n != 0 {
			return invalid("the guest program is longer than %d bytes", size)
		}
		if err := data.close(); err != nil {
			return err
		}
		lane.finish()
		root := &node{ino: newDir()}
		root.set(GuestPath[1:], &node{ino: &inode{mode: typeRegular | 0o755, size: size, extents: extents}})
		for _, name := range mountPoints {
			root.set(name, &node{ino: newDir()})
		}
		// Nothing here waits: there are seven inodes.
		if err := w.finish(context.Background(), root); err != nil {
			return err
		}
		return diskError(f.Sync())
	}))
}
