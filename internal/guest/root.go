package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/hello"
)

// The disks of a machine, in the order in which the VMM is given them.
const (
	bootDisk  = "/dev/vda" // read-only ext4 that holds this program
	imageDisk = "/dev/vdb" // read-only ext4 or erofs: the image, shared by all its machines
	ownDisk   = "/dev/vdc" // writable ext4: what this machine has changed, or a flat root
)

// scratch is a tmpfs with the mount points below, for the boot's root may be
// read-only. All of it stays behind, out of sight, under the machine's root.
const (
	scratch  = "/mnt"
	imageDir = scratch + "/image"
	ownDir   = scratch + "/own"
	rootDir  = scratch + "/root"
)

// ownOptions are for the machine's own disk. noinit_itable: new inode tables lie
// where the disk reads as zeros, and need not be filled with them. discard: what
// is removed gives its space back to the host with the next commit of the journal;
// an fstrim now and then would read all bitmaps, and a machine that is killed
// would never come to it.
const ownOptions = "noinit_itable,discard"

// awaitDisks waits until the disks can be opened.
func awaitDisks(disks ...string) error {
	for _, d := range disks {
		err := await(deviceWait, func() (bool, error) {
			f, err := os.Open(d)
			if err == nil {
				f.Close()
			}
			// ENXIO: there is a node, the disk behind it comes in a moment.
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			return fmt.Errorf("wait for disk %s: %w (found: %s)", d, err, strings.Join(dirNames("/sys/block"), " "))
		}
	}
	return nil
}

// isFlat reports whether the host says, on the kernel's command line, that the
// machine's disk is its whole root.
func isFlat(cmdline string) (bool, error) {
	b, err := os.ReadFile(cmdline)
	if err != nil {
		return false, fmt.Errorf("read the kernel's command line: %w", err)
	}
	return slices.Contains(strings.Fields(string(b)), hello.FlatRoot), nil
}

// mountRoot mounts the machine's root at rootDir. It returns a handle on the
// writable file system, for a clean end of it.
func mountRoot(flat bool) (own *os.File, err error) {
	if err := mountAll([]mountPoint{{dir: scratch, source: "tmpfs", fstype: "tmpfs", data: "mode=0700"}}); err != nil {
		return nil, err
	}
	if flat {
		return mountFlat()
	}
	return mountOverlay()
}

// mountOverlay mounts the image under the machine's own changes.
func mountOverlay() (own *os.File, err error) {
	fstype, data, err := imageType(imageDisk)
	if err != nil {
		return nil, err
	}
	err = mountAll([]mountPoint{
		{dir: imageDir, source: imageDisk, fstype: fstype, flags: unix.MS_RDONLY, data: data},
		{dir: ownDir, source: ownDisk, fstype: "ext4", flags: unix.MS_NOATIME, data: ownOptions},
	})
	if err != nil {
		return nil, err
	}
	if err := growFS(ownDir); err != nil {
		return nil, fmt.Errorf("grow the machine's disk: %w", err)
	}
	for _, d := range []string{ownDir + "/upper", ownDir + "/work"} {
		if err := ensureDir(d); err != nil {
			return nil, fmt.Errorf("prepare the machine's disk: %w", err)
		}
	}
	// redirect_dir: a directory of the image can be renamed, as on any disk.
	// xino: all files have one st_dev, which find -xdev and tar rely on.
	err = mountAll([]mountPoint{{dir: rootDir, source: "overlay", fstype: "overlay",
		data: "lowerdir=" + imageDir + ",upperdir=" + ownDir + "/upper,workdir=" + ownDir + "/work,redirect_dir=on,xino=auto"}})
	if err != nil {
		return nil, err
	}
	return os.OpenFile(ownDir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// imageType tells the file system of an image by its superblock, and how it is
// mounted. Source: Documentation/filesystems/erofs.rst.
func imageType(disk string) (fstype, data string, err error) {
	f, err := os.Open(disk)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 1024); err != nil {
		return "", "", fmt.Errorf("read the image: %w", err)
	}
	if magic == [4]byte{0xe2, 0xe1, 0xf5, 0xe0} {
		return "erofs", "", nil
	}
	// noload: the journal of a read-only disk cannot be replayed, nor need it be.
	return "ext4", "noload", nil
}

// mountBootDisk shows this program at a path that lasts.
func mountBootDisk() error {
	if err := os.Mkdir("/run/banger", 0o700); err != nil {
		return err
	}
	return mountAll([]mountPoint{{dir: filepath.Dir(program), source: bootDisk, fstype: "ext4", flags: unix.MS_RDONLY | noSetuid, data: "noload"}})
}

// ownShown is where an init of the image finds the machine's own disk: an empty
// directory of it.
const ownShown = "/run/banger/disk"

// showOwn mounts the machine's own file system once more where an init sees it.
// At its end that makes read-only all that it knows of, and the overlay alone
// would leave the disk below as a crash does, with a journal to replay. Only an
// empty directory is shown, lest whoever searches the machine finds all twice.
func (b *boot) showOwn() error {
	own := fmt.Sprintf("/proc/self/fd/%d", b.own.Fd())
	err := ensureDir(own + "/empty")
	if err == nil {
		err = ensureDir(ownShown)
	}
	if err == nil {
		err = unix.Mount(own+"/empty", ownShown, "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("show the machine's disk to its init: %w", err)
	}
	return nil
}

// switchRoot makes rootDir the root of the whole machine and takes the kernel's
// file systems along. Compare switch_root(8).
func switchRoot() error {
	if err := freeInitramfs(); err != nil {
		return err
	}
	// What an initrd of somebody else has mounted is mounted anew. Mostly there is nothing.
	for _, m := range machineMounts {
		_ = unix.Unmount(m.dir, unix.MNT_DETACH)
	}
	for _, m := range kernelMounts {
		to := rootDir + m.dir
		err := ensureDir(to)
		if err == nil {
			err = unix.Mount(m.dir, to, "", unix.MS_MOVE, "")
		}
		if err != nil {
			return fmt.Errorf("move %s into the root: %w", m.dir, err)
		}
	}
	if err := os.Chdir(rootDir); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// freeInitramfs gives the memory of the boot's files back. A root on disk, as
// in a direct boot, is left alone.
func freeInitramfs() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return fmt.Errorf("look at the boot's root: %w", err)
	}
	if fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return nil
	}
	for _, name := range []string{"init", "modules"} {
		if err := os.RemoveAll(filepath.Join("/", name)); err != nil {
			return fmt.Errorf("free the initramfs: %w", err)
		}
	}
	return nil
}

// dirNames lists a directory, as far as it can be read.
func dirNames(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
