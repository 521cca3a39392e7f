package kernelcat

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"banger"
	"banger/internal/fetch"
)

//go:embed catalog.json
var builtin []byte

// catalogVersion is the version of the catalog's format that this build reads.
// Fields may be added within a version; their meaning never changes.
const catalogVersion = 1

// Catalog lists kernels that can be pulled. docs/kernel-catalog.md describes
// the format.
type Catalog struct {
	Version int        `json:"version"`
	Serial  int64      `json:"serial,omitempty"` // grows with every change; one that is smaller is an old catalog
	Entries []CatEntry `json:"entries"`
}

// CatEntry is one kernel of a catalog. It comes from the tarball or, where
// there is none or it cannot be had, from the first of the sources that has it.
type CatEntry struct {
	Name          string      `json:"name"`
	Distro        string      `json:"distro"`
	Arch          string      `json:"arch"`                     // as uname -m
	KernelVersion string      `json:"kernel_version,omitempty"` // as uname -r; empty: whatever the source has
	TarballURL    string      `json:"tarball_url,omitempty"`    // of a bundle, tar.zst; may be relative to the catalog's own URL
	TarballSHA256 string      `json:"tarball_sha256,omitempty"` // hex
	SizeBytes     int64       `json:"size_bytes,omitempty"`     // of the tarball
	VmlinuxSHA256 string      `json:"vmlinux_sha256,omitempty"` // hex, of the vmlinux that any of its sources gives
	Description   string      `json:"description"`
	Sources       []SourceRef `json:"sources,omitempty"`

	from string // URL of the catalog, empty for the built-in one
}

// SourceRef is a further source of an entry. Fields that this build does not
// know, and URLs of kinds it does not know, are passed over.
type SourceRef struct {
	URL       string `json:"url"`                  // as banger kernel pull takes it, or relative to the catalog's own URL
	SHA256    string `json:"sha256,omitempty"`     // hex, of what an https URL gives
	SizeBytes int64  `json:"size_bytes,omitempty"` // of that
}

// Builtin is the catalog that is part of this build.
func Builtin() (*Catalog, error) { return ParseCatalog(builtin) }

// ParseCatalog reads a catalog and checks all that can be checked without the
// kernels themselves. Its errors are Invalid, or Unsupported for another version.
func ParseCatalog(b []byte) (*Catalog, error) {
	var c Catalog
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, banger.Errorf(banger.Invalid, "read kernel catalog: %w", err)
	}
	if c.Version != catalogVersion {
		return nil, banger.Errorf(banger.Unsupported, "read kernel catalog: version %d, this build reads version %d", c.Version, catalogVersion)
	}
	if c.Serial < 0 {
		return nil, banger.Errorf(banger.Invalid, "read kernel catalog: serial %d", c.Serial)
	}
	seen := make(map[string]bool)
	for _, e := range c.Entries {
		if err := e.validate(); err != nil {
			return nil, fmt.Errorf("read kernel catalog: %w", err)
		}
		if seen[e.Name] {
			return nil, banger.Errorf(banger.Invalid, "read kernel catalog: kernel %q is there twice", e.Name)
		}
		seen[e.Name] = true
	}
	return &c, nil
}

// Resolve makes the URLs of bundles in the catalog absolute, which may be
// relative to base, the catalog's own URL: https://..., or file:///... for a
// file of this host. From then on the catalog answers for them: its host cannot
// send banger to places nearer than itself. A catalog of a server that names
// files of this host is an Invalid error.
func (c *Catalog) Resolve(base *url.URL) error {
	absolute := func(ref *string) error {
		if *ref == "" || IsSource(*ref) && !isTarball(*ref) {
			return nil
		}
		u, err := fetch.ResolveURL(base, *ref)
		if err != nil {
			return err
		}
		*ref = u.String()
		return nil
	}
	for i := range c.Entries {
		e := &c.Entries[i]
		e.from = base.String()
		err := absolute(&e.TarballURL)
		for j := range e.Sources {
			err = errors.Join(err, absolute(&e.Sources[j].URL))
		}
		if err != nil {
			return fmt.Errorf("read kernel catalog: kernel %s: %w", e.Name, err)
		}
	}
	return nil
}

// maxText bounds a catalog's texts, which are shown to people.
const maxText = 512

func (e CatEntry) validate() error {
	if err := ValidateName(e.Name); err != nil {
		return err
	}
	for _, text := range []string{e.Distro, e.Arch, e.KernelVersion, e.TarballURL, e.Description} {
		if badText(text) || len(text) > maxText {
			return banger.Errorf(banger.Invalid, "kernel %s: %.64q is too long or no text", e.Name, text)
		}
	}
	switch {
	case e.KernelVersion != "" && !validVersion(e.KernelVersion):
		return banger.Errorf(banger.Invalid, "kernel %s: %q is no kernel version", e.Name, e.KernelVersion)
	case e.TarballURL != "" && !fetch.IsHexSHA256(e.TarballSHA256):
		return banger.Errorf(banger.Invalid, "kernel %s: tarball_sha256 %.80q is no SHA-256", e.Name, e.TarballSHA256)
	case e.VmlinuxSHA256 != "" && !fetch.IsHexSHA256(e.VmlinuxSHA256):
		return banger.Errorf(banger.Invalid, "kernel %s: vmlinux_sha256 %.80q is no SHA-256", e.Name, e.VmlinuxSHA256)
	case e.SizeBytes < 0:
		return banger.Errorf(banger.Invalid, "kernel %s: size_bytes is %d", e.Name, e.SizeBytes)
	}
	return nil
}

// Want is what a pull of the entry must give.
func (e CatEntry) Want() Want {
	return Want{Name: e.Name, Distro: e.Distro, Arch: e.Arch, KernelVersion: e.KernelVersion, SHA256: e.VmlinuxSHA256}
}

// Outdated reports whether the catalog has another kernel than k, which is here
// under the entry's name. Of an entry that names no version and no digest that
// is not known without asking its source; it is then not outdated.
func (e CatEntry) Outdated(k Entry) bool {
	if e.KernelVersion != "" && k.KernelVersion != e.KernelVersion {
		return true
	}
	return e.TarballSHA256 != "" && strings.HasPrefix(k.Source, "pull:") && k.Digest != "sha256:"+e.TarballSHA256
}

// PullSources are the entry's sources in the order in which they are tried.
// Without any that this build knows the error is Unsupported.
func (e CatEntry) PullSources() ([]Source, error) {
	refs := e.Sources
	if e.TarballURL != "" {
		refs = append([]SourceRef{{URL: e.TarballURL, SHA256: e.TarballSHA256, SizeBytes: e.SizeBytes}}, refs...)
	}
	var sources []Source
	var unknown error
	for _, r := range refs {
		s, err := r.source(e.from)
		if err != nil {
			unknown = err
			continue
		}
		sources = append(sources, s)
	}
	if len(sources) == 0 {
		if unknown == nil {
			unknown = banger.Errorf(banger.Unsupported, "the catalog names no source")
		}
		return nil, fail(banger.Unsupported, unknown, "kernel %s: %v", e.Name, unknown)
	}
	return sources, nil
}

// source is the source that r names in the catalog at the URL from.
func (r SourceRef) source(from string) (Source, error) {
	if !isTarball(r.URL) {
		return ParseSource(r.URL)
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, banger.Errorf(banger.Invalid, "%.200q is no URL", r.URL)
	}
	if r.SHA256 == "" {
		return parseTarball(u, from)
	}
	if !fetch.IsHexSHA256(r.SHA256) || r.SizeBytes < 0 {
		return nil, banger.Errorf(banger.Invalid, "%.200q comes with the sha256 %.80q and the size %d", r.URL, r.SHA256, r.SizeBytes)
	}
	return newTarball(u, r.SHA256, r.SizeBytes, from)
}
