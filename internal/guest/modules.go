package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// loadModules loads the files of dir in the order of their names. A kernel
// whose drivers are built in comes without the directory.
func loadModules(dir string) error {
	names, err := moduleNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := loadModule(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// moduleNames lists the modules in load order: ReadDir sorts, NN- does the rest.
func moduleNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".ko" {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	// EEXIST: loaded or built in. ENODEV: its device or CPU feature is absent;
	// whoever needs that one says so later.
	if err == unix.EEXIST || err == unix.ENODEV {
		return nil
	}
	return err
}
