package daemon

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/shim"
	"banger/internal/state"
	"banger/internal/vmm"
)

// Bounds of the files that a new VM is given: they are copied once into the VM's
// folder and once into its disk.
const (
	maxGuestFiles     = 256
	maxGuestFileBytes = 64 << 20 // of all
	maxGuestPath      = 1024     // bytes
)

// notOnDisk are places in a guest that are new at each boot.
var notOnDisk = []string{"/proc", "/sys", "/dev", "/run"}

// checkFiles checks the places of the files that a guest is to get.
func checkFiles(files []banger.GuestFile) error {
	if len(files) > maxGuestFiles {
		return banger.Errorf(banger.Invalid, "%d files: want at most %d", len(files), maxGuestFiles).
			WithHint("copy a folder into the VM once it runs: banger cp")
	}
	var paths []string
	for _, f := range files {
		switch {
		case !filepath.IsAbs(f.Source):
			return banger.Errorf(banger.Invalid, "file %q: want an absolute path of this host", f.Source)
		case !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" || len(f.Path) > maxGuestPath || !isText(f.Path):
			return banger.Errorf(banger.Invalid, "file %q for %q: want the absolute path of a file in the VM, without . and ..", f.Source, f.Path)
		}
		for _, top := range notOnDisk {
			if within(f.Path, top) {
				return banger.Errorf(banger.Invalid, "file %q for %q: %s is not on the VM's disk", f.Source, f.Path, top)
			}
		}
		for _, p := range paths {
			if within(f.Path, p) || within(p, f.Path) {
				return banger.Errorf(banger.Invalid, "file %q for %q: another file is for %q", f.Source, f.Path, p)
			}
		}
		paths = append(paths, f.Path)
	}
	return nil
}

// within reports whether p is dir or below it; both are clean.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// packFiles copies the files into a tar, which the guest reads as it is from a
// disk, and gives them back with what they are. They are root's in the guest.
func packFiles(ctx context.Context, dst string, files []banger.GuestFile) (_ []banger.GuestFile, err error) {
	if len(files) == 0 {
		return nil, nil
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	files = slices.Clone(files)
	w := tar.NewWriter(out)
	left := int64(maxGuestFileBytes)
	for i := range files {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := packFile(w, &files[i], left); err != nil {
			return nil, err
		}
		left -= files[i].Size
	}
	// A tar is a multiple of 512 bytes, as a disk has to be.
	if err := w.Close(); err != nil {
		return nil, err
	}
	return files, out.Sync()
}

func packFile(w *tar.Writer, f *banger.GuestFile, left int64) error {
	// Not to wait for whoever may write into a pipe.
	in, err := os.OpenFile(f.Source, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return banger.Errorf(banger.NotFound, "no file %q", f.Source)
	}
	if err != nil {
		return banger.Errorf(banger.Invalid, "read file %q: %w", f.Source, errors.Unwrap(err))
	}
	defer in.Close()
	fi, err := in.Stat()
	switch {
	case err != nil:
		return err
	case fi.IsDir():
		return banger.Errorf(banger.Invalid, "%q is a folder", f.Source).WithHint("name its files one by one, or copy it once the VM runs: banger cp")
	case !fi.Mode().IsRegular():
		return banger.Errorf(banger.Invalid, "%q is not a regular file", f.Source)
	case fi.Size() > left:
		return banger.Errorf(banger.Invalid, "file %q: all files have more than %d MiB", f.Source, maxGuestFileBytes>>20).
			WithHint("copy it once the VM runs: banger cp")
	}
	f.Size, f.Mode = fi.Size(), uint32(fi.Mode().Perm())
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Path, "/"), Size: f.Size, Mode: int64(f.Mode), ModTime: fi.ModTime()})
	if err != nil {
		return err
	}
	switch n, err := io.Copy(w, io.LimitReader(in, f.Size)); {
	case err != nil:
		return fmt.Errorf("read file %q: %w", f.Source, err)
	case n < f.Size:
		return banger.Errorf(banger.Conflict, "file %q became shorter while it was read", f.Source)
	}
	return nil
}

// addFiles attaches the files to a machine whose guest may not have them yet.
// The guest writes them once, whatever it is given.
func (d *Daemon) addFiles(spec *shim.Spec, rec banger.VM) error {
	file := filepath.Join(d.Layout.VM(rec.ID), state.FilesFile)
	if !rec.StartedAt.IsZero() {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if len(rec.Spec.Files) == 0 {
		return nil
	}
	spec.Hello.Files = fmt.Sprintf("/dev/vd%c", 'a'+len(spec.Machine.Disks))
	spec.Machine.Disks = append(spec.Machine.Disks, vmm.Disk{Path: file, ReadOnly: true})
	return nil
}
