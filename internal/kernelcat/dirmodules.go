package kernelcat

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"banger"
)

// inode names a file that may have more names than one.
type inode struct{ dev, ino uint64 }

// modulePlaces are where the modules of all versions lie.
var modulePlaces = []string{"usr/lib/modules", "lib/modules"}

// modules copies what is in the modules' folder of the kernel's version; the
// folder itself is named modules in the bundle.
func (c *copying) modules(ctx context.Context) error {
	name, err := c.findModules()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.report("copy "+c.path(name), 0, 0)
	return c.addModules(ctx, name, "")
}

func (c *copying) findModules() (string, error) {
	if key := c.bundle.meta.Modules; key != "" {
		return c.named("modules", key, true)
	}
	var names []string
	if c.version != "" {
		for _, dir := range modulePlaces {
			names = append(names, dir+"/"+c.version)
		}
	} else if all, err := c.moduleVersions(); err != nil {
		return "", err
	} else if len(all) > 0 {
		for _, dir := range modulePlaces {
			names = append(names, dir+"/"+all[0])
		}
	}
	if c.found.label == "" && c.release == "" {
		names = append(names, modulesDir)
	}
	return c.find(true, names...)
}

// moduleVersions lists the versions that there are modules of, the newest first.
func (c *copying) moduleVersions() ([]string, error) {
	var all []string
	for _, dir := range modulePlaces {
		p, err := c.find(true, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		entries, err := c.list(p)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if startsDigit(e.Name()) && validVersion(e.Name()) && !slices.Contains(all, e.Name()) {
				all = append(all, e.Name())
			}
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return compareVersions(b, a) })
	return all, nil
}

// addModules copies what is in dir, a resolved path, to below of the bundle's
// modules folder. What is no file, link or folder is passed over.
func (c *copying) addModules(ctx context.Context, dir, below string) error {
	fi, err := c.root.Lstat(dir)
	if err != nil {
		return c.asChanged(err, dir)
	}
	c.seen[dir] = fi
	entries, err := c.list(dir)
	if err != nil {
		return c.asChanged(err, dir)
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c.bundle.entries++; c.bundle.entries > maxEntries {
			return banger.Errorf(banger.Invalid, "%q has more than %d files", c.path(dir), maxEntries)
		}
		from, to := path.Join(dir, e.Name()), path.Join(below, e.Name())
		if _, err := cleanPath(to); err != nil {
			return err
		}
		fi, err := c.root.Lstat(from)
		if err != nil {
			return c.asChanged(err, from)
		}
		switch {
		case fi.IsDir():
			err = c.addModules(ctx, from, to)
		case fi.Mode()&fs.ModeSymlink != 0:
			err = c.addModuleLink(from, to)
		case fi.Mode().IsRegular() && to != "vmlinuz": // the kernel itself, on some distributions
			err = c.addModule(ctx, from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) addModule(ctx context.Context, from, to string) error {
	f, fi, err := c.open(from)
	if err != nil {
		return c.asChanged(err, from)
	}
	defer f.Close()
	if _, _, ok := splitModule(path.Base(to)); ok {
		c.drivers++
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := c.links[id]; ok {
			return c.bundle.addModuleHardlink(to, first)
		}
		c.links[id] = to
	}
	c.bytes += fi.Size()
	if now := time.Now(); now.Sub(c.told) >= reportEvery {
		c.told = now
		c.report("copy modules", c.bytes, 0)
	}
	return c.bundle.cloneModule(to, f, fi.Size())
}

// addModuleLink copies a link. Those two that lead to the kernel's headers do
// so outside of the modules' folder, on Debian by a relative path; they are
// made absolute, so they mean the same in the guest. Any other one that leads
// out of it, or one that leads out of the folder as a whole, is unsafe.
func (c *copying) addModuleLink(from, to string) error {
	target, err := c.root.Readlink(from)
	if err != nil {
		return c.asChanged(err, from)
	}
	if (to == "build" || to == "source") && !path.IsAbs(target) {
		if p := path.Join(path.Dir(from), target); filepath.IsLocal(p) && !filepath.IsLocal(target) {
			target = "/" + p
		}
	}
	return c.bundle.addModuleLink(to, target)
}
