package kernelcat

import (
	"archive/tar"
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

// Bounds on a kernel package. Ubuntu's, the largest known, unpacks to about
// 1 GB in 8000 files.
const (
	maxEntries  = 100_000
	maxUnpacked = 4 << 30 // bytes of all packages of a kernel together
	maxVmlinuz  = 256 << 20
	maxConfig   = 4 << 20
	maxPath     = 512
)

// bundle collects a kernel's parts out of packages.
type bundle struct {
	root    *os.Root // gets vmlinux and modules/
	vmlinuz *os.File // working file
	config  []byte
	version string // as uname -r, from the names in the packages

	vmlinuzSize int64
	modulesSize int64
	entries     int
	left        int64 // bytes that may still be read
}

func newBundle(root *os.Root, tmp string) (*bundle, error) {
	f, err := os.Create(filepath.Join(tmp, "vmlinuz"))
	if err != nil {
		return nil, err
	}
	if err := root.Mkdir(modulesDir, 0o755); err != nil {
		f.Close()
		return nil, err
	}
	return &bundle{root: root, vmlinuz: f, left: maxUnpacked}, nil
}

func (b *bundle) close() { b.vmlinuz.Close() }

// addTar takes kernel, configuration and modules out of a package's tar
// archive and reads r to its end. Other files, links and folders are passed
// over; a path that does not stay below the root condemns the whole package,
// since no distribution makes one.
func (b *bundle) addTar(r io.Reader) error {
	bounded := &boundedReader{r: r, left: &b.left}
	t := tar.NewReader(bounded)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return asInvalid(err, "read package")
		}
		if b.entries++; b.entries > maxEntries {
			return banger.Errorf(banger.Invalid, "read package: more than %d files", maxEntries)
		}
		if err := b.addEntry(h, t); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, bounded); err != nil { // padding
		return asInvalid(err, "read package")
	}
	return nil
}

func (b *bundle) addEntry(h *tar.Header, r io.Reader) error {
	name, err := cleanPath(h.Name)
	if err != nil {
		return err
	}
	dir, file := path.Split(name)
	kind, version, _ := strings.Cut(file, "-")
	modules := strings.TrimPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
	switch {
	case dir == "boot/" && (kind == "vmlinuz" || kind == "config"):
	case len(modules) < len(name) && strings.HasSuffix(strings.TrimSuffix(name, modules), "lib/modules/"):
		kind = "module"
		version, file, _ = strings.Cut(modules, "/")
		if file == "" {
			return nil // the folder itself
		}
	default:
		return nil
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeLink:
		return banger.Errorf(banger.Unsupported, "read package: %q is a hard link", name)
	default:
		return nil // folders are made as needed; build and source are links to headers
	}
	if err := b.setVersion(version); err != nil {
		return err
	}
	switch kind {
	case "vmlinuz":
		return b.addVmlinuz(name, r)
	case "config":
		b.config, err = io.ReadAll(io.LimitReader(r, maxConfig))
		return err
	}
	return b.addModule(file, r)
}

// cleanPath checks a path of a tar archive and returns it as a clean one
// below the root, "." for the root itself.
func cleanPath(name string) (string, error) {
	p := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if p == "" {
		p = "."
	}
	if path.Clean(p) != p || !filepath.IsLocal(p) || strings.ContainsRune(p, 0) || len(p) > maxPath {
		return "", banger.Errorf(banger.Invalid, "read package: it holds the path %.200q", name)
	}
	return p, nil
}

// setVersion checks a kernel version and that all files are of the same.
func (b *bundle) setVersion(v string) error {
	ok := v != "" && len(v) <= maxName && v[0] != '.' && v[0] != '-'
	for _, r := range v {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_+~", r))
	}
	if !ok {
		return banger.Errorf(banger.Invalid, "read package: %.200q is no kernel version", v)
	}
	if b.version != "" && b.version != v {
		return banger.Errorf(banger.Invalid, "read package: it holds both kernel %s and %s", b.version, v)
	}
	b.version = v
	return nil
}

func (b *bundle) addVmlinuz(name string, r io.Reader) error {
	if b.vmlinuzSize > 0 {
		return banger.Errorf(banger.Invalid, "read package: %q is there twice", name)
	}
	n, err := io.Copy(b.vmlinuz, io.LimitReader(r, maxVmlinuz+1))
	if err == nil && n > maxVmlinuz {
		err = banger.Errorf(banger.Invalid, "it is larger than %d bytes", maxVmlinuz)
	}
	if b.vmlinuzSize = n; err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	return nil
}

// addModule writes a file below modules/, read-only: it is shared by all VMs.
func (b *bundle) addModule(name string, r io.Reader) error {
	name = path.Join(modulesDir, name)
	if err := b.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("unpack modules: %w", err)
	}
	f, err := b.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o444)
	if errors.Is(err, fs.ErrExist) {
		return banger.Errorf(banger.Invalid, "read package: %q is there twice", name)
	}
	if err != nil {
		return fmt.Errorf("unpack modules: %w", err)
	}
	n, err := io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	b.modulesSize += n
	return nil
}

// extract writes vmlinux.
func (b *bundle) extract() (VmlinuxInfo, error) {
	f, err := b.root.OpenFile(vmlinuxFile, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o444)
	if err != nil {
		return VmlinuxInfo{}, err
	}
	info, err := Vmlinux(f, b.vmlinuz, b.vmlinuzSize)
	return info, errors.Join(err, f.Close())
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
	err := fs.WalkDir(b.root.FS(), ".", func(p string, _ fs.DirEntry, err error) error {
		names <- p
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

// boundedReader fails when more than left bytes are read in all.
type boundedReader struct {
	r    io.Reader
	left *int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if *b.left -= int64(n); *b.left < 0 {
		return 0, banger.Errorf(banger.Invalid, "read package: it unpacks to more than %d bytes", int64(maxUnpacked))
	}
	return n, err
}
