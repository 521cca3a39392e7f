package kernelcat

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"banger"
)

// Bounds on a kernel, wherever it comes from. Ubuntu's, the largest known,
// unpacks to about 1 GB in 8000 files.
const (
	maxEntries  = 100_000
	maxUnpacked = 4 << 30 // bytes of all archives of a kernel together
	maxVmlinuz  = maxVmlinux
	maxInitrd   = 1 << 30
	maxConfig   = 4 << 20
	maxMetadata = 64 << 10
	maxPath     = 512
)

// bundle is a kernel's folder while a source fills it. Whatever the source, the
// parts are checked and written here and nowhere else.
type bundle struct {
	ctx     context.Context // of the filling
	root    *os.Root        // gets vmlinux, initrd.img and modules/
	vmlinuz *os.File        // the kernel as the source has it, a working file, where that is no ELF file
	config  []byte
	meta    metadata
	version string // as uname -r, from the names that the source has; may be empty

	vmlinuzSize int64
	initrdSize  int64
	modulesSize int64
	entries     int
	left        int64 // bytes that may still be read
	nested      bool  // in an archive of an archive

	made string       // the last folder that was made
	info *VmlinuxInfo // of vmlinux, once that is written
}

func newBundle(ctx context.Context, root *os.Root, tmp string) (*bundle, error) {
	f, err := os.Create(filepath.Join(tmp, "vmlinuz"))
	if err != nil {
		return nil, err
	}
	return &bundle{ctx: ctx, root: root, vmlinuz: f, left: maxUnpacked}, nil
}

func (b *bundle) close() { b.vmlinuz.Close() }

// setVersion takes the kernel version that a name in the source has, and checks
// that all names have the same.
func (b *bundle) setVersion(v string) error {
	if !validVersion(v) {
		return banger.Errorf(banger.Invalid, "%.200q is no kernel version", v)
	}
	if b.version != "" && b.version != v {
		return banger.Errorf(banger.Invalid, "it holds both kernel %s and %s", b.version, v)
	}
	b.version = v
	return nil
}

// setKernel takes the kernel itself: an ELF file or a bzImage, or one of these
// packed as a whole, as vmlinux.gz and the kernels of LinuxKit can be. An ELF
// file is vmlinux as it comes, and is written once, where it belongs.
func (b *bundle) setKernel(name string, r io.Reader) error {
	if b.vmlinuzSize > 0 {
		return banger.Errorf(banger.Invalid, "it holds a kernel twice, the second is %q", name)
	}
	r, done, err := unwrapped(r)
	if err != nil {
		return asInvalid(err, "unpack it")
	}
	defer done()
	var magic [len(elf.ELFMAG)]byte
	n, err := io.ReadFull(r, magic[:])
	if err != nil && n == 0 && err != io.EOF {
		return err
	}
	r = io.MultiReader(bytes.NewReader(magic[:n]), r)
	if string(magic[:]) == elf.ELFMAG {
		return b.setVmlinux(r)
	}
	b.vmlinuzSize, err = copyBounded(b.vmlinuz, r, maxVmlinuz)
	return err
}

// setVmlinux writes vmlinux.
func (b *bundle) setVmlinux(r io.Reader) error {
	f, err := b.root.OpenFile(vmlinuxFile, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o444)
	if err != nil {
		return asTwice(err, vmlinuxFile)
	}
	out := newOutput(b.ctx, f)
	if err = copyAll(out, r); err == nil {
		var info VmlinuxInfo
		info, err = describe(f, out, "none", "")
		b.info = &info
	}
	b.vmlinuzSize = out.n
	return errors.Join(err, f.Close())
}

// setInitrd takes a foreign initrd.
func (b *bundle) setInitrd(name string, r io.Reader) error {
	if b.initrdSize > 0 {
		return banger.Errorf(banger.Invalid, "it holds an initrd twice, the second is %q", name)
	}
	n, err := b.create(initrdFile, r, maxInitrd)
	b.initrdSize = n
	return err
}

// setConfig takes the kernel's build configuration, which only tells of features.
func (b *bundle) setConfig(r io.Reader) error {
	var config bytes.Buffer
	if _, err := copyBounded(&config, r, maxConfig); err != nil {
		return err
	}
	b.config = config.Bytes()
	return nil
}

// addModule takes a file of the modules' folder.
func (b *bundle) addModule(name string, r io.Reader) error {
	name = path.Join(modulesDir, name)
	if err := b.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	n, err := b.create(name, r, b.left)
	b.modulesSize += n
	return err
}

func (b *bundle) mkdirAll(name string) error {
	if name == b.made {
		return nil // the files of a folder follow each other
	}
	err := b.root.MkdirAll(name, 0o755)
	if err == nil {
		b.made = name
	}
	if errors.Is(err, fs.ErrExist) {
		return banger.Errorf(banger.Invalid, "%q is there as a file and as a folder", name)
	}
	return asUnsafe(err, name)
}

// addModuleLink takes a symbolic link of the modules' folder. An absolute
// target is right as it is: it is rooted at the guest's own root. A relative
// one must stay inside.
func (b *bundle) addModuleLink(name, target string) error {
	if !path.IsAbs(target) && !filepath.IsLocal(path.Join(path.Dir(name), target)) || badText(target) {
		return banger.Errorf(banger.Invalid, "unsafe symlink %.200q -> %.200q", name, target)
	}
	name = path.Join(modulesDir, name)
	if err := b.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	return asTwice(b.root.Symlink(target, name), name)
}

// addModuleHardlink takes a further name of a file of the modules' folder that
// is already there; both names are relative to that folder.
func (b *bundle) addModuleHardlink(name, old string) error {
	name, old = path.Join(modulesDir, name), path.Join(modulesDir, old)
	fi, err := b.root.Lstat(old)
	if err != nil || !fi.Mode().IsRegular() {
		return banger.Errorf(banger.Invalid, "hard link %.200q to %.200q, which is no file before it", name, old)
	}
	if err := b.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	return asTwice(b.root.Link(old, name), name)
}

// create writes a new file, read-only: it is shared by all VMs.
func (b *bundle) create(name string, r io.Reader, limit int64) (int64, error) {
	f, err := b.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if err != nil {
		return 0, asTwice(err, name)
	}
	n, err := copyBounded(f, r, limit)
	if err = errors.Join(err, f.Close()); err != nil {
		return n, fmt.Errorf("unpack %s: %w", name, err)
	}
	return n, nil
}

// extract writes vmlinux, unless it is there, if it is a kernel for this host.
func (b *bundle) extract(ctx context.Context) (VmlinuxInfo, error) {
	if b.info != nil {
		return *b.info, b.believe(*b.info)
	}
	f, err := b.root.OpenFile(vmlinuxFile, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o444)
	if err != nil {
		return VmlinuxInfo{}, err
	}
	info, err := Vmlinux(ctx, f, b.vmlinuz, b.vmlinuzSize)
	if err = errors.Join(err, f.Close()); err == nil {
		err = b.believe(info)
	}
	return info, err
}

// believe takes what the kernel itself says: names in the source can only agree.
func (b *bundle) believe(info VmlinuxInfo) error {
	if err := CheckHost(info.Arch); err != nil {
		return err
	}
	if info.Version != "" {
		if err := b.setVersion(info.Version); err != nil {
			return err
		}
	}
	if len(b.config) == 0 {
		b.config = info.Config
	}
	return nil
}

// empty removes all parts again.
func (b *bundle) empty() error {
	return errors.Join(b.root.RemoveAll(vmlinuxFile), b.root.RemoveAll(initrdFile), b.root.RemoveAll(modulesDir))
}

// syncers is how many files are synced at once: a journal commits those that
// wait for it together.
const syncers = 16

// sync writes everything in the bundle through to the disk.
func (b *bundle) sync() error {
	names := make(chan string)
	errs := make([]error, syncers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for name := range names {
				errs[i] = errors.Join(errs[i], syncFile(b.root, name))
			}
		})
	}
	err := fs.WalkDir(b.root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			names <- p
		}
		return err
	})
	close(names)
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

func syncFile(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// copyBounded copies at most limit bytes; more are an Invalid error.
func copyBounded(w io.Writer, r io.Reader, limit int64) (int64, error) {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = banger.Errorf(banger.Invalid, "it is larger than %d bytes", limit)
	}
	return n, err
}

// badText reports whether a name has no place in a listing: it is not UTF-8
// or has control bytes.
func badText(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '�' })
}

func asTwice(err error, name string) error {
	if errors.Is(err, fs.ErrExist) {
		return banger.Errorf(banger.Invalid, "%q is there twice", name)
	}
	return asUnsafe(err, name)
}

// asUnsafe is for errors of names that come from an archive: what os.Root does
// not let pass leads out of the bundle, through a link made earlier.
func asUnsafe(err error, name string) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "path escapes from parent"): // os has no exported value for it
		return banger.Errorf(banger.Invalid, "%q leads out of the bundle through a link", name)
	}
	return fmt.Errorf("unpack: %w", err)
}
