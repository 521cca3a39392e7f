package kernelcat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"banger"
)

// candidate is a file that can be the kernel.
type candidate struct {
	name  string // path in the folder
	label string // what follows the dash: 6.1.0-9-amd64, linux-lts; empty where nothing does
	// version is the label where that is one, else what the image says, as
	// far as that can be told without unpacking it.
	version string
}

// kernelPlaces are where kernels lie: first those that have a version in their
// path, in the place of the star, where whoever made them put one.
var kernelPlaces = []string{
	"boot/vmlinux-*", "boot/vmlinuz-*", // a distribution's root, and what make install and make tar-pkg leave
	"vmlinux-*", "vmlinuz-*", // its /boot
	"usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz", // Fedora, Arch
	// Of a tree in which a kernel was built, the image without symbols.
	"arch/x86/boot/bzImage",
	vmlinuxFile, "bzImage", "vmlinuz", "boot/vmlinux", "boot/vmlinuz",
}

// unwanted are endings of what lies beside kernels and is none, or is packed
// once more, or was put aside.
var unwanted = []string{".xz", ".gz", ".zst", ".bz2", ".lz4", ".debug", ".map", ".sig", ".signed", ".hmac", ".p7s", ".old", ".bak", ".orig", ".tmp", ".new"}

// candidates lists the kernels in the folder, the newest first. Where folders
// must not be read, the error goes with what was found in the others.
func (c *copying) candidates() ([]candidate, error) {
	var all []candidate
	var denied error
	for _, place := range kernelPlaces {
		before, after, star := strings.Cut(place, "*")
		if !star {
			all = append(all, candidate{name: place})
			continue
		}
		dir, prefix := path.Split(before)
		p, err := c.find(true, path.Clean(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var entries []fs.DirEntry
		if err == nil {
			entries, err = c.list(p)
		}
		if errors.Is(err, fs.ErrPermission) {
			denied = err
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			label, ok := strings.CutPrefix(e.Name(), prefix)
			if ok && validVersion(label) && !slices.ContainsFunc(unwanted, func(s string) bool { return strings.HasSuffix(label, s) }) {
				all = append(all, candidate{name: path.Join(p, e.Name(), after), label: label})
			}
		}
	}
	for i := range all {
		if startsDigit(all[i].label) {
			all[i].version = all[i].label
		} else {
			all[i].version = c.peek(all[i].name)
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return compareVersions(b.version, a.version) })
	return all, denied
}

// peek reads the version out of a bzImage's header, empty if there is none.
func (c *copying) peek(name string) string {
	p, err := c.find(false, name)
	if err != nil {
		return ""
	}
	f, fi, err := c.open(p)
	if err != nil {
		return ""
	}
	defer f.Close()
	img, err := openImage(f, fi.Size())
	if err != nil {
		return ""
	}
	return img.version
}

// choose finds the kernel: as the metadata says, else the newest.
func (c *copying) choose() (file string, err error) {
	if name := c.bundle.meta.Vmlinux; name != "" {
		c.found = candidate{name: name}
		return c.named("vmlinux", name, false)
	}
	all, denied := c.candidates()
	if denied != nil && !errors.Is(denied, fs.ErrPermission) {
		return "", denied
	}
	for _, k := range all {
		if c.release != "" && k.version != c.release {
			continue
		}
		file, err := c.find(false, k.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrPermission) {
			denied = cmp.Or(denied, err)
			continue
		}
		c.found = k
		c.tellOthers(all)
		return file, err
	}
	if denied != nil {
		return "", denied
	}
	if c.release != "" {
		return "", banger.Errorf(banger.NotFound, "there is no file of the kernel that runs on this host: no /boot/vmlinuz-%s, no /lib/modules/%s/vmlinuz", c.release, c.release).
			WithHint("banger kernel pull debian-6.1")
	}
	return "", banger.Errorf(banger.NotFound, "there is no kernel in %q", c.dir).
		WithHint("banger looks for boot/vmlinuz-VERSION, vmlinux-VERSION, lib/modules/VERSION/vmlinuz, arch/x86/boot/bzImage and vmlinux; a metadata.json can name another file")
}

// tellOthers tells of kernels that were passed over.
func (c *copying) tellOthers(all []candidate) {
	var others []string
	for _, k := range all {
		if startsDigit(k.label) && k.version != c.found.version && !slices.Contains(others, k.version) {
			others = append(others, k.version)
		}
	}
	if len(others) > 0 && c.release == "" {
		c.notice("%s holds kernels %s too; taking %s, the newest", c.dir, strings.Join(others, ", "), c.found.version)
	}
}

// named finds a file that the metadata names.
func (c *copying) named(key, name string, dir bool) (string, error) {
	p, err := cleanPath(name)
	if err == nil {
		p, err = c.find(dir, p)
	}
	if errors.Is(err, fs.ErrNotExist) {
		what := "file"
		if dir {
			what = "folder"
		}
		err = banger.Errorf(banger.NotFound, "its metadata says %s is in %.200q, and there is no such %s", key, name, what)
	}
	return p, err
}

func (c *copying) kernel(ctx context.Context) error {
	name, err := c.choose()
	if err != nil {
		return err
	}
	f, fi, err := c.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	c.report("take "+c.path(name), 0, 0)
	info, err := c.bundle.cloneKernel(f, fi.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", c.path(name), err)
	}
	c.version = cmp.Or(info.Version, c.found.version, c.bundle.meta.KernelVersion)
	if c.release != "" && c.version != c.release {
		return banger.Errorf(banger.Invalid, "%q is kernel %s, this host runs %s", c.path(name), c.version, c.release)
	}
	if c.version == "" {
		return nil
	}
	return c.bundle.setVersion(c.version)
}
