package guest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// givenMark is an attribute of the machine's own disk, out of sight of all that
// runs on it: the files of the host have been written.
const givenMark = "trusted.banger.files"

// writeGiven writes the files of the host, which lie as a tar on a disk of their
// own, into the machine's root, once in the life of its disk: what becomes of
// them later is the machine's affair.
func (b *boot) writeGiven(disk string) error {
	if disk == "" {
		return nil
	}
	own := fmt.Sprintf("/proc/self/fd/%d", b.own.Fd())
	if _, err := unix.Getxattr(own, givenMark, nil); err == nil {
		return nil
	}
	if err := awaitDisks(disk); err != nil {
		return err
	}
	f, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("read the files of the host: %w", err)
	}
	defer f.Close()
	root, err := os.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unpackGiven(root, f); err != nil {
		return err
	}
	// The mark must not reach the disk before the files.
	unix.Sync()
	if err := unix.Setxattr(own, givenMark, []byte("1"), 0); err != nil {
		return fmt.Errorf("note that the files of the host are written: %w", err)
	}
	return nil
}

// unpackGiven writes the files of a tar below root. What is there by the name of
// a file is replaced, but for a directory. A path may lead through symlinks
// as long as they are relative and stay in the root, whoever made the image.
func unpackGiven(root *os.Root, r io.Reader) error {
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the files of the host: %w", err)
		}
		if err := writeOneGiven(root, h, t); err != nil {
			return fmt.Errorf("write file /%s: %w", h.Name, err)
		}
	}
}

func writeOneGiven(root *os.Root, h *tar.Header, data io.Reader) error {
	if fi, err := root.Lstat(h.Name); err == nil && fi.IsDir() {
		return errors.New("a directory is there")
	}
	if err := root.MkdirAll(path.Dir(h.Name), 0o755); err != nil {
		return bare(err)
	}
	tmp := h.Name + ".banger"
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a boot that was cut off
		return bare(err)
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return bare(err)
	}
	_, err = io.Copy(f, data)
	// Past the umask, and root's: this is pid 1.
	err = errors.Join(err, f.Chmod(fs.FileMode(h.Mode).Perm()), f.Close())
	if err == nil {
		err = root.Chtimes(tmp, h.ModTime, h.ModTime)
	}
	if err == nil {
		err = root.Rename(tmp, h.Name)
	}
	if err != nil {
		return errors.Join(bare(err), root.Remove(tmp))
	}
	return nil
}

// bare is the error without the path, of which the caller says it better.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
