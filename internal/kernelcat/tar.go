package kernelcat

import (
	"archive/tar"
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
	bounded := &boundedReader{r: r, left: &b.left}
	t := tar.NewReader(bounded)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return asInvalid(err, "read archive")
		}
		if b.entries++; b.entries > maxEntries {
			return banger.Errorf(banger.Invalid, "read archive: more than %d files", maxEntries)
		}
		if err := b.addEntry(h, t); err != nil {
			return asInvalid(orExhausted(err), "unpack %.200q", h.Name)
		}
	}
	if _, err := io.Copy(io.Discard, bounded); err != nil { // padding
		return asInvalid(err, "read archive")
	}
	return nil
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
	}
	return nil
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
)

// part is a file of a kernel, as its path tells.
type part struct {
	kind    kind
	version string // as in the path; empty where that has none
	file    string // of a module: the path below the modules' folder
}

// partOf reads a path in one of the two layouts that kernels come in: that of
// a distribution's root (boot/vmlinuz-V, boot/config-V, boot/initrd.img-V,
// lib/modules/V/...) and that of banger's own bundles (vmlinux, initrd.img,
// config, metadata.json, modules/...).
func partOf(name string) part {
	name = strings.TrimPrefix(name, "usr/")
	switch name {
	case vmlinuxFile:
		return part{kind: kernel}
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
	if rest, ok := strings.CutPrefix(name, "lib/modules/"); ok {
		version, file, below := strings.Cut(rest, "/")
		if !below {
			return part{} // the folder itself
		}
		return part{kind: module, version: version, file: file}
	}
	dir, file := path.Split(name)
	if dir != "boot/" {
		return part{}
	}
	what, version, _ := strings.Cut(file, "-")
	if version == "" {
		return part{} // another name of one that has its version in its name
	}
	switch what {
	case "vmlinuz", "vmlinux":
		return part{kind: kernel, version: version}
	case "config":
		return part{kind: config, version: version}
	case "initrd.img":
		return part{kind: initrd, version: version}
	case "initramfs":
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
