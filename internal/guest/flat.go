package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mountFlat mounts the machine's disk, a copy of the image, as the whole root,
// and grows the file system to the size of the disk.
func mountFlat() (own *os.File, err error) {
	err = mountAll([]mountPoint{{dir: rootDir, source: ownDisk, fstype: "ext4", flags: unix.MS_NOATIME, data: ownOptions}})
	if err != nil {
		return nil, err
	}
	if err := growFS(rootDir); err != nil {
		return nil, fmt.Errorf("grow the root: %w", err)
	}
	return os.OpenFile(rootDir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): linux/fs/ext4/ext4.h.
const ext4ResizeFS = 0x40086610

// growOwn lets the file system of the machine's own disk, which is mounted where
// only pid 1 may see it, have all of that disk. A mount of its own is another way
// to the same file system.
func growOwn() error {
	const dir = "/run/banger/grow"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount(ownDisk, dir, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", ownDisk, err)
	}
	return errors.Join(growFS(dir), unix.Unmount(dir, unix.MNT_DETACH))
}

// growFS lets the file system of the machine's own disk that is mounted at dir
// have all of the disk. Where there is nothing to grow it does nothing.
func growFS(dir string) error {
	disk, err := os.Open(ownDisk)
	if err != nil {
		return err
	}
	defer disk.Close()
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	sb := make([]byte, 1024)
	if _, err := disk.ReadAt(sb, 1024); err != nil {
		return err
	}
	blocks, blockSize := ext4Size(sb)
	want := uint64(size) / blockSize
	if want <= blocks {
		return nil
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&want))); errno != 0 {
		return fmt.Errorf("from %d to %d blocks of %d bytes: %w", blocks, want, blockSize, errno)
	}
	return nil
}

// ext4Size reads how large a file system is from its superblock:
// linux/Documentation/filesystems/ext4/super.rst. The mount has checked it.
func ext4Size(sb []byte) (blocks, blockSize uint64) {
	le := binary.LittleEndian
	blocks = uint64(le.Uint32(sb[0x04:]))
	const wide = 0x80 // incompatible feature 64bit
	if le.Uint32(sb[0x60:])&wide != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	return blocks, 1024 << (le.Uint32(sb[0x18:]) & 7)
}

// imageDrivers are the modules that a machine lacks when an initrd that banger
// did not make has loaded those of the disks alone.
var imageDrivers = []string{"virtio_console", "virtio_net", "virtio_rng"}

// loadFromImage loads drivers from the image, where it has modules for the
// running kernel and a program that loads them. Whoever needs one that is not
// there says so.
func loadFromImage() {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return
	}
	if _, err := os.Stat(filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:]))); err != nil {
		return
	}
	for _, dir := range []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"} {
		path := filepath.Join(dir, "modprobe")
		if _, err := os.Stat(path); err != nil {
			continue
		}
		// Each by itself: one that is not there must not keep the others away.
		for _, name := range imageDrivers {
			if _, err := os.Stat(filepath.Join("/sys/module", name)); err == nil {
				continue
			}
			cmd := exec.Command(path, "-q", name)
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			_ = cmd.Run()
		}
		return
	}
}
