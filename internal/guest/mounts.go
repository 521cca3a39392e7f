package guest

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountPoint is one mount of a table. An optional one is left out when the
// kernel does not know the file system or offers no place for it.
type mountPoint struct {
	dir      string
	source   string
	fstype   string
	flags    uintptr
	data     string
	optional bool
}

const (
	noSetuid  = unix.MS_NOSUID | unix.MS_NODEV
	noProgram = noSetuid | unix.MS_NOEXEC
)

// kernelMounts are needed before anything else can be found.
var kernelMounts = []mountPoint{
	{dir: "/proc", source: "proc", fstype: "proc", flags: noProgram},
	{dir: "/sys", source: "sysfs", fstype: "sysfs", flags: noProgram},
	{dir: "/dev", source: "devtmpfs", fstype: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755"},
}

// machineMounts are those every Linux machine has; systemd leaves alone what it
// finds mounted. The limits of /run are systemd's.
var machineMounts = []mountPoint{
	{dir: "/run", source: "tmpfs", fstype: "tmpfs", flags: noSetuid, data: "mode=0755,size=20%,nr_inodes=800k"},
	{dir: "/dev/pts", source: "devpts", fstype: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "gid=5,mode=0620,ptmxmode=0666"},
	{dir: "/dev/shm", source: "tmpfs", fstype: "tmpfs", flags: noSetuid, data: "mode=1777"},
	{dir: "/dev/mqueue", source: "mqueue", fstype: "mqueue", flags: noProgram, optional: true},
}

// systemdMounts are those that systemd starts a program for, each. The places
// are the kernel's: where one is missing, so is the file system.
var systemdMounts = []mountPoint{
	{dir: "/dev/hugepages", source: "hugetlbfs", fstype: "hugetlbfs", flags: noSetuid, optional: true},
	{dir: "/sys/kernel/debug", source: "debugfs", fstype: "debugfs", flags: noProgram, optional: true},
	{dir: "/sys/kernel/tracing", source: "tracefs", fstype: "tracefs", flags: noProgram, optional: true},
	{dir: "/sys/kernel/config", source: "configfs", fstype: "configfs", flags: noProgram, optional: true},
	{dir: "/sys/fs/fuse/connections", source: "fusectl", fstype: "fusectl", flags: noProgram, optional: true},
}

// ownMounts are those that systemd would do itself.
var ownMounts = []mountPoint{
	{dir: "/sys/fs/cgroup", source: "cgroup2", fstype: "cgroup2", flags: noProgram, data: "nsdelegate,memory_recursiveprot", optional: true},
}

// makeTmp makes /tmp where an image has none: there is hardly a program that can do without.
func makeTmp() error {
	if err := os.Mkdir("/tmp", 0o777); err != nil {
		return nil // it is there, or a link of the image's making
	}
	if err := os.Chmod("/tmp", 0o777|os.ModeSticky); err != nil { // past the umask
		return fmt.Errorf("make /tmp: %w", err)
	}
	return nil
}

// mountAll makes the directories and mounts the table in its order.
func mountAll(table []mountPoint) error {
	for _, m := range table {
		err := ensureDir(m.dir)
		if err == nil {
			err = unix.Mount(m.source, m.dir, m.fstype, m.flags, m.data)
		}
		// EBUSY: the kernel has mounted devtmpfs itself.
		if err != nil && err != unix.EBUSY && !m.optional {
			return fmt.Errorf("mount %s at %s: %w", m.source, m.dir, err)
		}
	}
	return nil
}

// ensureDir makes path a directory, also when the image has something else there,
// a symlink that leads nowhere for instance. Its parents are made as needed.
func ensureDir(path string) error {
	fi, err := os.Lstat(path)
	if err == nil && fi.IsDir() {
		return nil
	}
	if err == nil {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.Mkdir(path, 0o755)
}

// isMount reports whether a file system is mounted at dir.
func isMount(dir string) bool {
	var at, above unix.Stat_t
	return unix.Stat(dir, &at) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && at.Dev != above.Dev
}
