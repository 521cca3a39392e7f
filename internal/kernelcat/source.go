package kernelcat

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/internal/fetch"
)

// The names of a kernel's parts, in its folder and in a bundle. A bundle may
// also have the kernel's build configuration and a description of itself.
const (
	vmlinuxFile  = "vmlinux"
	initrdFile   = "initrd.img"
	modulesDir   = "modules"
	configFile   = "config"
	metadataFile = "metadata.json"
)

// Source is one place that a kernel can come from.
type Source interface {
	// String is the source as a user writes it, for instance deb://linux-image-cloud-amd64.
	String() string
	// DefaultName is the kernel's name where the user gives none.
	DefaultName() string
	// fill puts the kernel's parts into f.bundle. The origin it returns goes into the record.
	fill(ctx context.Context, f *filling) (origin, error)
}

// origin is what exactly was taken from a source.
type origin struct {
	source string // for people, for instance deb:linux-image-6.1.0-56-cloud-amd64=6.1.192-2
	digest string // of what the source gave, sha256:HEX; empty where it has none
	distro string // that the kernel is of; empty where the source does not know
}

// filling is one try of one source.
type filling struct {
	bundle  *bundle
	tmp     string // an existing folder for working files
	arch    string // that is wanted, as uname -m
	options *Options
}

// report tells of a step; done and total are bytes.
func (f *filling) report(step string, done, total int64) {
	if f.options.Progress != nil {
		f.options.Progress(banger.Progress{Step: step, Done: done, Total: total})
	}
}

// notice tells of something that the user may not have meant.
func (f *filling) notice(format string, args ...any) {
	if f.options.Progress != nil {
		f.options.Progress(banger.Progress{Notice: true, Step: fmt.Sprintf(format, args...)})
	}
}

// Options are the choices of a pull or an import; the zero value is good.
type Options struct {
	TempDir  string                // existing folder for about 200 MB of working files; empty: os.TempDir
	Progress func(banger.Progress) // called from one goroutine at a time; may be nil
	// OpenImage opens an image for a source of the form oci://REF; without it
	// there are none.
	OpenImage OpenImage
	// AllowPrivate is set where the user's configuration lets the catalog that
	// names the sources point to private addresses. What the user names may
	// be anywhere.
	AllowPrivate bool

	keyrings  []string     // for tests: instead of those of the distribution
	osRelease string       // for tests: instead of the host's
	client    fetch.Client // for tests: one of less patience
}

// Want is what is known of a kernel before it is there. Fields that are empty
// are found out.
type Want struct {
	Name, Distro  string
	Arch          string // as uname -m; empty: that of this host
	KernelVersion string // one that differs is an error
	SHA256        string // of vmlinux, hex; one that differs is an error
	Args          []string
}

// Pull fills dir, an existing and empty folder, with a kernel from the first of
// the sources that has it: vmlinux, and modules/ or initrd.img where it needs
// them. Everything is on disk when it returns, but for the entry of dir in its
// parent. The record is returned, not written. After an error dir is empty
// again and nothing else is left, no process either.
//
// Errors: Unavailable (the source does not answer), NotFound (it has no such
// kernel), Exhausted (no space), Unsupported or Invalid (a kernel that banger
// cannot use), Canceled.
func Pull(ctx context.Context, dir string, w Want, sources []Source, o Options) (Entry, error) {
	o.osRelease = cmp.Or(o.osRelease, "/etc/os-release")
	if w.Arch == "" {
		w.Arch = HostArch()
	}
	if err := CheckHost(w.Arch); err != nil {
		return Entry{}, fmt.Errorf("get kernel %s: %w", w.Name, err)
	}
	k, err := trySources(ctx, dir, w, sources, &o)
	if err == nil {
		return k, nil
	}
	if ctx.Err() != nil && !banger.IsKind(err, banger.Canceled) {
		err = fail(banger.Canceled, err, "%v", err)
	}
	err = fmt.Errorf("get kernel %s: %w", w.Name, orExhausted(err))
	if e := banger.AsError(err); e.Kind == banger.Exhausted && e.Hint == "" {
		return Entry{}, e.WithHint("free some space where %s is", dir)
	}
	return Entry{}, err
}

func trySources(ctx context.Context, dir string, w Want, sources []Source, o *Options) (Entry, error) {
	if files, err := os.ReadDir(dir); err != nil {
		return Entry{}, err
	} else if len(files) > 0 {
		return Entry{}, banger.Errorf(banger.Invalid, "%s is not empty", dir)
	}
	var errs []error
	for _, s := range sources {
		k, err := trySource(ctx, dir, w, s, o)
		if err == nil {
			return k, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	switch len(errs) {
	case 0:
		return Entry{}, banger.Errorf(banger.Unsupported, "the catalog names no source for it")
	case 1:
		return Entry{}, errs[0]
	}
	return Entry{}, errors.Join(errs...)
}

// trySource pulls from one source and empties dir again if that fails.
func trySource(ctx context.Context, dir string, w Want, s Source, o *Options) (k Entry, err error) {
	tmp, err := os.MkdirTemp(o.TempDir, "banger-kernel-*")
	if err != nil {
		return k, err
	}
	defer os.RemoveAll(tmp)
	// Run by root, apt fetches as a user of its own, who has to get there.
	if err := os.Chmod(tmp, 0o711); err != nil {
		return k, err
	}
	if tmp, err = filepath.Abs(tmp); err != nil {
		return k, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return k, err
	}
	defer root.Close()
	b, err := newBundle(ctx, root, tmp)
	if err != nil {
		return k, err
	}
	defer b.close()
	defer func() {
		if err != nil {
			err = errors.Join(err, b.empty())
		}
	}()
	f := &filling{bundle: b, tmp: tmp, arch: w.Arch, options: o}
	from, err := s.fill(ctx, f)
	if err != nil {
		return k, err
	}
	return f.finish(ctx, dir, w, from)
}

// finish makes vmlinux of the source's kernel and describes the bundle.
func (f *filling) finish(ctx context.Context, dir string, w Want, from origin) (Entry, error) {
	b := f.bundle
	if b.vmlinuzSize == 0 {
		return Entry{}, banger.Errorf(banger.Invalid, "%s holds no kernel", from.source)
	}
	f.report("extract vmlinux", 0, 0)
	info, err := b.extract(ctx)
	if err != nil {
		return Entry{}, fmt.Errorf("read kernel of %s: %w", from.source, err)
	}
	k := Entry{
		Name: w.Name, Distro: cmp.Or(w.Distro, from.distro), Arch: info.Arch, KernelVersion: b.version, Args: w.Args,
		SHA256: info.SHA256, Source: from.source, Digest: from.digest, ImportedAt: time.Now().UTC().Truncate(time.Second),
		Size: info.Size + b.initrdSize + b.modulesSize,
	}
	if w.SHA256 != "" && k.SHA256 != w.SHA256 {
		return Entry{}, banger.Errorf(banger.Invalid, "%s: the sha256 of its vmlinux is %s, the catalog says %s", from.source, k.SHA256, w.SHA256)
	}
	if err := b.meta.complete(&k); err != nil {
		return Entry{}, fmt.Errorf("%s: %w", from.source, err)
	}
	if w.KernelVersion != "" && k.KernelVersion != w.KernelVersion {
		return Entry{}, banger.Errorf(banger.Invalid, "%s holds kernel %s, not %s", from.source, k.KernelVersion, w.KernelVersion)
	}
	modules := ""
	if b.modulesSize > 0 {
		modules = filepath.Join(dir, modulesDir)
	}
	if k.Features, err = Features(modules, bytes.NewReader(b.config), info.PVH); err != nil {
		return Entry{}, err
	}
	f.report("write to disk", 0, 0)
	return k, b.sync()
}

// metadata is what a bundle or a folder says about itself, in metadata.json.
type metadata struct {
	Name          string   `json:"name,omitempty"`
	Distro        string   `json:"distro,omitempty"`
	Arch          string   `json:"arch,omitempty"`
	KernelVersion string   `json:"kernel_version,omitempty"`
	Description   string   `json:"description,omitempty"`
	VmlinuxSHA256 string   `json:"vmlinux_sha256,omitempty"`
	Args          []string `json:"args,omitempty"` // kernel words that it needs

	// Of a folder: where in it its parts are, if that is not where banger looks.
	Vmlinux string `json:"vmlinux,omitempty"` // also a bzImage
	Initrd  string `json:"initrd,omitempty"`
	Modules string `json:"modules,omitempty"` // the folder with modules.dep or kernel/ in it
}

// setMetadata takes a bundle's metadata.json.
func (b *bundle) setMetadata(r io.Reader) error {
	var text bytes.Buffer
	if _, err := copyBounded(&text, r, maxMetadata); err != nil {
		return err
	}
	if err := json.Unmarshal(text.Bytes(), &b.meta); err != nil {
		return asInvalid(err, "read metadata")
	}
	return nil
}

// complete fills in what the record does not know yet. What both know must agree.
func (m metadata) complete(k *Entry) error {
	if m.Arch != "" && m.Arch != k.Arch {
		return banger.Errorf(banger.Invalid, "its metadata says %.64q, its kernel is for %s", m.Arch, k.Arch)
	}
	if m.KernelVersion != "" {
		if !validVersion(m.KernelVersion) {
			return banger.Errorf(banger.Invalid, "its metadata says %.200q, which is no kernel version", m.KernelVersion)
		}
		if k.KernelVersion != "" && m.KernelVersion != k.KernelVersion {
			return banger.Errorf(banger.Invalid, "its metadata says kernel %s, it holds %s", m.KernelVersion, k.KernelVersion)
		}
		k.KernelVersion = m.KernelVersion
	}
	if m.VmlinuxSHA256 != "" && m.VmlinuxSHA256 != k.SHA256 {
		return banger.Errorf(banger.Invalid, "its metadata says vmlinux has the sha256 %.64q, it has %s", m.VmlinuxSHA256, k.SHA256)
	}
	if badText(m.Distro) || len(m.Distro) > maxName {
		return banger.Errorf(banger.Invalid, "its metadata says distribution %.200q", m.Distro)
	}
	if k.Distro == "" {
		k.Distro = m.Distro
	}
	if len(k.Args) == 0 {
		k.Args = m.Args
	}
	return ValidateArgs(k.Args)
}

// ParseSource reads a source as a user writes it:
//
//	deb://PACKAGE[?suite=SUITE]   a package of Debian or Ubuntu
//	oci://REF[@DIGEST]            an image of a registry that holds a kernel
//	https://HOST/PATH#sha256=HEX  a bundle: an archive tar, tar.zst or tar.gz;
//	                              http:// on this machine and file:/// too
//
// An unknown form is an Invalid error that names these.
func ParseSource(s string) (Source, error) {
	// A reference is no URL: its port and its tag look the same.
	if ref, ok := strings.CutPrefix(s, ociScheme); ok && !badText(s) {
		return parseImage(ref)
	}
	u, err := url.Parse(s)
	if err != nil || badText(s) {
		return nil, banger.Errorf(banger.Invalid, "%.200q is no source of kernels", s)
	}
	switch u.Scheme {
	case "deb":
		return parseDeb(u)
	}
	if isTarball(s) {
		return parseTarball(u, "")
	}
	return nil, banger.Errorf(banger.Invalid, "%.200q is no source of kernels that banger knows", s).
		WithHint("want %s", strings.Join([]string{"deb://PACKAGE", "oci://REF", "https://HOST/NAME.tar.zst#sha256=HEX"}, ", "))
}

// IsSource reports whether s is meant as a source, not as a name of the catalog.
func IsSource(s string) bool { return strings.Contains(s, "://") }
