package kernelcat

import (
	"archive/tar"
	"cmp"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"banger"
)

// addTar takes a kernel's parts out of a tar archive, which is laid out like
// one of those partOf knows, and reads r to its end. Other files are passed
// over; devices, FIFOs and sockets too. A path that does not stay below the
// root, or a name that is not text, condemns the whole archive, since nobody
// makes one by mistake.
func (b *bundle) addTar(r io.Reader) error {
	return eachEntry(&boundedReader{r: r, left: &b.left}, func(_ int, h *tar.Header, r io.Reader) error {
		if b.entries++; b.entries > maxEntries {
			return banger.Errorf(banger.Invalid, "more than %d files", maxEntries)
		}
		return b.addEntry(h, r)
	})
}

// eachEntry calls do for each entry of a tar archive and then reads r to its
// end, for only that tells whether all of it was right.
func eachEntry(r io.Reader, do func(n int, h *tar.Header, r io.Reader) error) error {
	kept := &keepError{r: r}
	t := tar.NewReader(kept)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err = cmp.Or(kept.err, err); err != nil {
			return asInvalid(err, "read archive")
		}
		if err := do(n, h, t); err != nil {
			return asInvalid(orExhausted(cmp.Or(kept.err, err)), "unpack %.200q", h.Name)
		}
	}
	if _, err := io.Copy(io.Discard, kept); err != nil { // padding
		return asInvalid(err, "read archive")
	}
	return nil
}

// keepError remembers the error of a reader: archive/tar puts others in its place.
type keepError struct {
	r   io.Reader
	err error
}

func (k *keepError) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && err != io.EOF {
		k.err = err
	}
	return n, err
}

func (b *bundle) addEntry(h *tar.Header, r io.Reader) error {
	name, err := cleanPath(h.Name)
	if err != nil {
		return err
	}
	part := partOf(name)
	if part.kind == other {
		return nil
	}
	if isSparse(h) {
		return banger.Errorf(banger.Invalid, "it is packed with holes, which may be of any size").
			WithHint("pack it without tar --sparse")
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeLink, tar.TypeSymlink:
		if part.version == "" {
			break
		}
		if err := b.setVersion(part.version); err != nil {
			return err
		}
	default:
		return nil // folders are made as needed
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return b.addPart(part, name, r)
	case tar.TypeSymlink:
		// A link to a kernel is another name of one that is there too.
		if part.kind == module {
			return b.addModuleLink(part.file, h.Linkname)
		}
	case tar.TypeLink:
		old, err := cleanPath(h.Linkname)
		if err != nil {
			return err
		}
		if from := partOf(old); part.kind == module && from.kind == module && from.version == part.version {
			return b.addModuleHardlink(part.file, from.file)
		}
		return banger.Errorf(banger.Invalid, "a hard link to %.200q", h.Linkname)
	}
	return nil
}

// isSparse reports whether a file unpacks to more than it has in the archive.
// Format: GNU tar's manual, "Storing Sparse Files".
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// addPart takes one file of a kernel.
func (b *bundle) addPart(p part, name string, r io.Reader) error {
	switch p.kind {
	case kernel:
		return b.setKernel(name, r)
	case initrd:
		return b.setInitrd(name, r)
	case config:
		return b.setConfig(r)
	case meta:
		return b.setMetadata(r)
	case module:
		return b.addModule(p.file, r)
	case modulesTar:
		return b.addArchive(r)
	}
	return nil
}

// addArchive takes the parts out of an archive that is in an archive itself.
func (b *bundle) addArchive(r io.Reader) error {
	if b.nested {
		return banger.Errorf(banger.Invalid, "an archive in an archive in an archive")
	}
	b.nested = true
	defer func() { b.nested = false }()
	return b.addTar(r)
}

// kind is what a file is to a kernel.
type kind int

const (
	other kind = iota
	kernel
	initrd
	config
	meta
	module
	modulesTar // an archive of modules, laid out like a root
)

// part is a file of a kernel, as its path tells.
type part struct {
	kind    kind
	version string // as in the path; empty where that has none
	file    string // of a module: the path below the modules' folder
}

// LinuxKit's names of a kernel and of the archive with its modules.
// Format: linuxkit/kernel/Dockerfile.
const (
	linuxkitKernel  = "kernel"
	linuxkitModules = "kernel.tar"
)

// partOf reads a path in one of the layouts that kernels come in: that of a
// distribution's root (boot/vmlinuz-V, boot/config-V, boot/initrd.img-V,
// lib/modules/V/..., in which Fedora and others have vmlinuz, config and
// initramfs.img too), that of LinuxKit's images (kernel, kernel.tar) and that
// of banger's own bundles (vmlinux, initrd.img, config, metadata.json, modules/...).
func partOf(name string) part {
	switch name {
	case vmlinuxFile, linuxkitKernel:
		return part{kind: kernel}
	case linuxkitModules:
		return part{kind: modulesTar}
	case initrdFile:
		return part{kind: initrd}
	case configFile:
		return part{kind: config}
	case metadataFile:
		return part{kind: meta}
	}
	if file, ok := strings.CutPrefix(name, modulesDir+"/"); ok {
		return part{kind: module, file: file}
	}
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/"); ok {
		return modulesPart(rest)
	}
	if dir, file := path.Split(name); dir == "boot/" {
		return bootPart(file)
	}
	return part{}
}

// modulesPart reads a path below lib/modules.
func modulesPart(name string) part {
	version, file, below := strings.Cut(name, "/")
	if !below {
		return part{} // the folder itself
	}
	switch file {
	case "vmlinuz":
		return part{kind: kernel, version: version}
	case "config":
		return part{kind: config, version: version}
	case "initramfs.img", "initrd":
		return part{kind: initrd, version: version}
	case "System.map":
		return part{} // for debuggers; as large as all modules of a small kernel
	}
	return part{kind: module, version: version, file: file}
}

// notParts are the endings of files in boot that are no kernel's: older ones
// put aside, sums, and what debuggers read.
var notParts = []string{".old", ".bak", ".hmac", ".sig", ".gz", ".xz", ".zst"}

// bootPart reads the name of a file in boot.
func bootPart(file string) part {
	what, version, _ := strings.Cut(file, "-")
	if version == "" {
		return part{} // another name of one that has its version in its name
	}
	for _, end := range notParts {
		if strings.HasSuffix(version, end) {
			return part{}
		}
	}
	switch what {
	case "vmlinuz", "vmlinux":
		return part{kind: kernel, version: version}
	case "config":
		return part{kind: config, version: version}
	case "initrd.img", "initrd", "initramfs":
		return part{kind: initrd, version: strings.TrimSuffix(version, ".img")}
	}
	return part{}
}

// cleanPath checks a path of an archive and returns it as a clean one below the
// root, "." for the root itself. A leading "./" is dropped; an absolute path is
// not made relative, since no kernel's archive has one.
func cleanPath(name string) (string, error) {
	p := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if p == "" {
		p = "."
	}
	if path.Clean(p) != p || !filepath.IsLocal(p) || badText(p) || len(p) > maxPath {
		return "", banger.Errorf(banger.Invalid, "it holds the path %.200q", name)
	}
	return p, nil
}

// boundedReader fails when more than left bytes are read in all.
type boundedReader struct {
	r    io.Reader
	left *int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if *b.left -= int64(n); *b.left < 0 {
		return 0, fmt.Errorf("read archive: %w", errTooBig)
	}
	return n, err
}
