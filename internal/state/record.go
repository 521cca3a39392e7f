package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger"
)

// maxRecord bounds what is read as a record; real ones have a few KiB.
const maxRecord = 1 << 20

// WriteFile replaces the file at path as a whole: temporary file, fsync,
// rename, fsync of the directory. A crash leaves the old or the new content.
func WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tmpPrefix+"*")
	if err != nil {
		return Classify(fmt.Errorf("write %s: %w", path, err))
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = Classify(fmt.Errorf("write %s: %w", path, err))
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// WriteRecord replaces the JSON record at path as a whole.
func WriteRecord(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return WriteFile(path, append(b, '\n'), 0o600)
}

// ReadRecord reads a JSON record. Symlinks, other kinds of files and records
// that are too long are refused: a record is a file that banger wrote.
func ReadRecord(path string, v any) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return fmt.Errorf("read record %s: not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	if len(b) > maxRecord {
		return fmt.Errorf("read record %s: longer than %d bytes", path, maxRecord)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read record %s: %w", path, err)
	}
	return nil
}

// SyncDir makes renames and new names in dir last.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Classify gives a full or read-only disk its error kind.
func Classify(err error) error {
	var e *banger.Error
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return banger.Errorf(banger.Exhausted, "%w", err).WithHint("free some space, or set BANGER_ROOT to a folder on another disk")
	case errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES):
		return banger.Errorf(banger.Unavailable, "%w", err).WithHint("set BANGER_ROOT to a folder that you can write to")
	}
	return err
}
