package kernelcat

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// dirSource is a folder of the host that holds a kernel: the unpacked root of a
// distribution, a /boot, a tree in which a kernel was built, a bundle.
type dirSource struct {
	dir     string // absolute
	release string // of the kernel that runs on this host; empty: the newest that is there
}

// Directory is the kernel in a folder, which is never written to; dir is
// absolute. docs/kernel-catalog.md says where its parts are looked for.
func Directory(dir string) (Source, error) {
	if !filepath.IsAbs(dir) || badText(dir) {
		return nil, banger.Errorf(banger.Invalid, "%.200q is no absolute path of a folder", dir)
	}
	return dirSource{dir: filepath.Clean(dir)}, nil
}

// Host is the kernel that runs on this host.
func Host() (Source, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("read the version of the kernel that runs: %w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	if !validVersion(release) {
		return nil, banger.Errorf(banger.Unsupported, "this host's kernel calls itself %.200q, which is no version", release)
	}
	return dirSource{dir: "/", release: release}, nil
}

func (s dirSource) String() string {
	if s.release != "" {
		return "host:" + s.release
	}
	return "import:" + s.dir
}

// DefaultName is the folder's own, or host-VERSION.
func (s dirSource) DefaultName() string {
	if s.release != "" {
		return nameFrom("host-" + s.release)
	}
	return nameFrom(filepath.Base(s.dir))
}

// fill copies the kernel's parts, shared with the folder where the file system can.
func (s dirSource) fill(ctx context.Context, f *filling) (origin, error) {
	d, err := openFolder(s.dir)
	if err != nil {
		return origin{}, err
	}
	defer d.root.Close()
	c := &copying{release: s.release, filling: f, folder: d, links: make(map[inode]string)}
	for _, step := range []func(context.Context) error{c.metadata, c.kernel, c.config, c.modules, c.initrd} {
		if ctx.Err() != nil {
			return origin{}, context.Cause(ctx)
		}
		if err := step(ctx); err != nil {
			return origin{}, err
		}
	}
	return origin{source: s.String(), distro: c.distro()}, d.unchanged()
}

// copying is one import of a folder.
type copying struct {
	*filling
	*folder
	release string // as in dirSource

	found   candidate
	version string // of the image, else as its name has it; may be empty
	drivers int    // modules that were copied
	bytes   int64  // of all in their folder
	told    time.Time
	links   map[inode]string
}

func (c *copying) metadata(context.Context) error {
	name, err := c.find(false, metadataFile)
	if errors.Is(err, fs.ErrNotExist) || c.release != "" {
		return nil
	}
	if err != nil {
		return err
	}
	f, _, err := c.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.bundle.setMetadata(f)
}

// distro is whose root the folder is, where it says so. What the kernel's
// metadata says is better known.
func (c *copying) distro() string {
	name, err := c.find(false, "etc/os-release", "usr/lib/os-release")
	if err != nil || c.bundle.meta.Distro != "" {
		return ""
	}
	f, _, err := c.open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	if id := osReleaseVars(f)["ID"]; packageName.MatchString(id) && len(id) <= maxName {
		return id
	}
	return ""
}

// versions are the names by which the kernel's other files may go.
func (c *copying) versions() []string {
	var all []string
	for _, v := range []string{c.version, c.found.label} {
		if v != "" && !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	return all
}

// config takes the build configuration, which lies beside the kernel or inside it.
func (c *copying) config(context.Context) error {
	var names []string
	for _, v := range c.versions() {
		names = append(names, "boot/config-"+v, "config-"+v, "usr/lib/modules/"+v+"/config", "lib/modules/"+v+"/config")
	}
	if c.found.label == "" && c.release == "" {
		names = append(names, configFile, ".config")
	}
	name, err := c.find(false, names...)
	if err == nil {
		f, _, err := c.open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return c.bundle.setConfig(f)
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if len(c.bundle.config) == 0 && c.release != "" {
		return c.procConfig()
	}
	return nil
}

// procConfig asks the kernel that runs. One that does not tell is no error.
func (c *copying) procConfig() error {
	f, err := c.root.Open("proc/config.gz")
	if err != nil {
		return nil
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return asInvalid(err, "read /proc/config.gz")
	}
	return c.bundle.setConfig(z)
}

// initrd takes a foreign initrd where there are no modules to make one of. One
// that belongs to another kernel is none.
func (c *copying) initrd(ctx context.Context) error {
	if c.drivers > 0 {
		return nil
	}
	var names []string
	for _, v := range c.versions() {
		for _, dir := range []string{"boot/", ""} {
			names = append(names, dir+"initramfs-"+v+".img", dir+"initrd.img-"+v, dir+"initramfs-"+v, dir+"initrd-"+v)
		}
	}
	if c.found.label == "" {
		names = append(names, initrdFile)
	}
	name, err := c.find(false, names...)
	if key := c.bundle.meta.Initrd; key != "" {
		name, err = c.named("initrd", key, false)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return c.alone()
	}
	if err != nil {
		return err
	}
	f, fi, err := c.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// A modules folder that has none of them would look as if it could do instead.
	if err := c.bundle.dropModules(); err != nil {
		return err
	}
	return c.bundle.cloneInitrd(f, fi.Size())
}

// alone judges a kernel that has neither modules nor an initrd.
func (c *copying) alone() error {
	missing, err := modular(bytes.NewReader(c.bundle.config))
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		if len(c.bundle.config) == 0 {
			c.notice("nothing tells which drivers the kernel has: there is no build configuration and there are no modules")
		}
		return nil
	}
	v := cmp.Or(c.version, "VERSION")
	where := c.path("lib/modules/" + v)
	others := ""
	if all, _ := c.moduleVersions(); len(all) > 0 {
		others = fmt.Sprintf(" (there is %s)", strings.Join(all, ", "))
	}
	return banger.Errorf(banger.Invalid, "kernel %s needs modules for %s, and there is no %s%s", v, strings.Join(missing, ", "), where, others).
		WithHint("%s", c.hint(v))
}

// hint says how to get the modules that are missing.
func (c *copying) hint(version string) string {
	switch {
	case c.release != "":
		return "banger kernel pull debian-6.1"
	case strings.HasPrefix(c.found.name, "arch/") || c.found.name == vmlinuxFile:
		return fmt.Sprintf("make -C %s modules_install INSTALL_MOD_PATH=%s, or import a folder that has them", c.dir, c.dir)
	}
	return fmt.Sprintf("import a folder that has lib/modules/%s too, for instance / or the unpacked package", version)
}
