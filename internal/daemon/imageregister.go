package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/state"
)

// imageRegister makes an image of a disk that stays where it is.
func (d *Daemon) imageRegister(ctx context.Context, r banger.ImageRegisterRequest) (im banger.Image, err error) {
	if err := state.ValidateName("image", r.Name); err != nil {
		return im, err
	}
	if err := d.checkKernel(r.Kernel); err != nil {
		return im, err
	}
	f, fi, err := openRegular(r.Rootfs)
	if err != nil {
		return im, err
	}
	defer f.Close()
	path, err := filepath.EvalSymlinks(r.Rootfs) // a link may lead elsewhere tomorrow
	if err != nil {
		return im, err
	}
	if strings.HasPrefix(path, d.Layout.Images()+"/") {
		return im, banger.Errorf(banger.Invalid, "%q belongs to another image", path).WithHint("banger image tag NAME %s", r.Name)
	}
	disk, err := inspectDisk(f, fi.Size(), path)
	if err != nil {
		return im, fmt.Errorf("register %q: %w", path, err)
	}
	unlock, err := d.keys.Lock(ctx, "image/"+r.Name)
	if err != nil {
		return im, err
	}
	defer unlock()
	if d.images.Has(r.Name) && !r.Force {
		return im, imageThere(r.Name).WithHint("banger image show %s, or replace it: banger image register --force %s --rootfs %s", r.Name, r.Name, r.Rootfs)
	}
	st := fi.Sys().(*syscall.Stat_t)
	arch, err := oci.Arch("")
	if err != nil {
		return im, err
	}
	return d.addImage(r.Force, func(string) (banger.Image, error) {
		return banger.Image{Name: r.Name, Source: "file:" + path, Kernel: r.Kernel, Arch: arch, FS: disk.FS,
			CreatedAt: time.Now().UTC().Truncate(time.Second), Size: st.Blocks * 512,
			InPlace: &banger.ImageFile{Path: path, Size: fi.Size(), MTime: fi.ModTime().UTC(), Inode: st.Ino}}, nil
	})
}

// openRegular opens a file of the user, who may name anything.
func openRegular(path string) (*os.File, os.FileInfo, error) {
	if !filepath.IsAbs(path) {
		return nil, nil, banger.Errorf(banger.Invalid, "%q is not an absolute path", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, banger.Errorf(banger.NotFound, "there is no file %q", path)
	case err != nil:
		return nil, nil, banger.Errorf(banger.Unavailable, "%w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = banger.Errorf(banger.Invalid, "%q is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// inspectDisk tells what a disk is, and refuses one that somebody may write to
// or that a guest could not mount.
func inspectDisk(f *os.File, size int64, path string) (rootfs.Disk, error) {
	disk, err := rootfs.InspectDisk(f, size, path)
	if err == nil && writers(f) {
		err = banger.Errorf(banger.Conflict, "somebody has it open for writing").
			WithHint("unmount it, or stop the machine that uses it: fuser -v %s", path)
	}
	return disk, err
}

// writers reports whether a file is open for writing: Linux gives no read lease
// then (fcntl(2), "Leases"). A file of somebody else, or on a file system
// without leases, is taken to have none.
func writers(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}

// rootfsOf is the path of an image's root file system. A file that was
// registered has to be what it was then.
func (d *Daemon) rootfsOf(im banger.Image) (string, error) {
	was := im.InPlace
	if was == nil {
		return d.images.Path(im.Name, state.RootfsFile), nil
	}
	fi, err := os.Stat(was.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", banger.Errorf(banger.Conflict, "the file %q, of which image %q is made, is not there", was.Path, im.Name).
			WithHint("put it back, or remove the image: banger image rm %s", im.Name)
	}
	if err != nil {
		return "", banger.Errorf(banger.Unavailable, "image %q: %w", im.Name, err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() || fi.Size() != was.Size || !fi.ModTime().Equal(was.MTime) || st.Ino != was.Inode {
		return "", banger.Errorf(banger.Conflict, "the file %q was changed since it became image %q", was.Path, im.Name).
			WithHint("put it back as it was, or remove the vms over it, then: banger image register --force %s --rootfs %s", im.Name, was.Path)
	}
	return was.Path, nil
}
