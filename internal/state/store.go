package state

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
)

const (
	tmpPrefix   = ".tmp-"   // being made; removed when the daemon starts
	trashPrefix = ".trash-" // being removed; removed when the daemon starts
)

// Store is a directory of records: one folder per name with a record in it. A
// folder appears complete, by a rename, and goes the same way.
type Store[T any] struct {
	Dir  string
	File string // name of the record in each folder
	Noun string // for errors: kernel, image, vm
	// Broken makes the entry that stands for a record that cannot be read.
	Broken func(name, problem string) T
	// Check says what is wrong with a record that could be read, and with the
	// files beside it in dir. May be nil.
	Check func(dir, name string, v T) error
	// Cache is what List keeps. Check may then look at nothing but the names
	// and kinds of the files in dir. May be nil.
	Cache *Cache[T]
}

// Path is the folder of name, or a file in it.
func (s Store[T]) Path(name string, file ...string) string {
	return filepath.Join(append([]string{s.Dir, name}, file...)...)
}

// Get reads one record. An unknown name is a NotFound error with the nearest
// name as its hint; a bad record is a Conflict error that says what is wrong.
func (s Store[T]) Get(name string) (T, error) {
	var v T
	if err := ValidateName(s.Noun, name); err != nil {
		return v, err
	}
	err := ReadRecord(s.Path(name, s.File), &v)
	if err == nil && s.Check != nil {
		err = s.Check(s.Path(name), name, v)
	}
	if err != nil && !exists(s.Path(name)) { // also when it went between two looks
		var none T
		return none, s.Missing(name)
	}
	if err != nil {
		return v, banger.Errorf(banger.Conflict, "read %s %q: %w", s.Noun, name, err).
			WithHint("banger %s rm %s", s.Noun, name)
	}
	return v, nil
}

// Missing is the NotFound error for name, with the nearest known name as its hint.
func (s Store[T]) Missing(name string, others ...string) *banger.Error {
	err := banger.Errorf(banger.NotFound, "no %s named %q", s.Noun, name)
	names, _ := s.Names()
	if near := Nearest(name, append(names, others...)); near != "" {
		return err.WithHint("did you mean %s?", near)
	}
	return err.WithHint("banger %s ls", s.Noun)
}

// Has reports whether there is a folder of that name, whatever its record says.
func (s Store[T]) Has(name string) bool {
	return ValidateName(s.Noun, name) == nil && exists(s.Path(name))
}

// Names lists the folders in the order of their names.
func (s Store[T]) Names() ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", s.Noun, err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// List reads every record; a bad one is listed with its problem.
func (s Store[T]) List() ([]T, error) {
	if s.Cache != nil {
		list, _, err := s.Cache.list(s)
		return list, err
	}
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	list := make([]T, 0, len(names))
	for _, name := range names {
		v, err := s.read(name)
		if banger.IsKind(err, banger.NotFound) {
			continue // it was removed since
		}
		list = append(list, v)
	}
	return list, nil
}

// ListVersion is List for a store with a cache. Lists of the same version, which
// is never 0, are the same.
func (s Store[T]) ListVersion() (list []T, version uint64, err error) { return s.Cache.list(s) }

// read is Get, with what stands for a bad record.
func (s Store[T]) read(name string) (T, error) {
	v, err := s.Get(name)
	if err != nil {
		v = s.Broken(name, err.Error())
	}
	return v, err
}

// Stage makes the folder in which a new entry is put together.
func (s Store[T]) Stage() (string, error) {
	dir, err := os.MkdirTemp(s.Dir, tmpPrefix)
	if err != nil {
		return "", Classify(fmt.Errorf("stage %s: %w", s.Noun, err))
	}
	return dir, nil
}

// Commit writes the record into the staged folder and gives it its name. An
// entry of that name is an Exists error unless replace is set; then the old
// one stays whole until the new one is there.
func (s Store[T]) Commit(stage, name string, v T, replace bool) error {
	if err := ValidateName(s.Noun, name); err != nil {
		return err
	}
	if err := WriteRecord(filepath.Join(stage, s.File), v); err != nil {
		return err
	}
	if exists(s.Path(name)) {
		if !replace {
			return banger.Errorf(banger.Exists, "a %s named %q is already there", s.Noun, name)
		}
		return s.swap(stage, name)
	}
	if err := os.Rename(stage, s.Path(name)); err != nil {
		return fmt.Errorf("commit %s %q: %w", s.Noun, name, err)
	}
	return SyncDir(s.Dir)
}

// swap puts the staged folder in the place of the old one at one instant.
func (s Store[T]) swap(stage, name string) error {
	err := unix.Renameat2(unix.AT_FDCWD, stage, unix.AT_FDCWD, s.Path(name), unix.RENAME_EXCHANGE)
	if err != nil {
		return fmt.Errorf("replace %s %q: %w", s.Noun, name, err)
	}
	if err := SyncDir(s.Dir); err != nil {
		return err
	}
	return os.RemoveAll(stage) // the old one
}

// Delete removes an entry, also one whose record is bad.
func (s Store[T]) Delete(name string) error {
	if err := ValidateName(s.Noun, name); err != nil {
		return err
	}
	if !exists(s.Path(name)) {
		return s.Missing(name)
	}
	trash, err := s.trash(name)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("delete %s %q: %w", s.Noun, name, err)
	}
	return nil
}

// trash moves an entry out of sight, so that it is gone at one instant. It
// makes nothing new, for which a full disk may have no room.
func (s Store[T]) trash(name string) (string, error) {
	path := filepath.Join(s.Dir, trashPrefix+name+"-"+rand.Text())
	if err := os.Rename(s.Path(name), path); err != nil {
		return "", fmt.Errorf("delete %s %q: %w", s.Noun, name, err)
	}
	return path, SyncDir(s.Dir)
}

// Sweep removes what a crash left half made or half removed.
func (s Store[T]) Sweep() error { return SweepDir(s.Dir) }

// SweepDir removes the leftovers of a crash from one directory.
func SweepDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tmpPrefix) || strings.HasPrefix(e.Name(), trashPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
