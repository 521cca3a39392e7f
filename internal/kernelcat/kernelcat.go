// Package kernelcat is the catalog of guest kernels and the ways to get one.
package kernelcat

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"banger"
)

//go:embed catalog.json
var builtin []byte

// catalogVersion is the version of the catalog's format that this build reads.
// Fields may be added within a version; their meaning never changes.
const catalogVersion = 1

// Catalog lists the kernels that can be pulled.
type Catalog struct {
	Version int     `json:"version"`
	Entries []Entry `json:"entries"`
}

// Entry is one kernel of the catalog.
type Entry struct {
	Name        string   `json:"name"`
	Distro      string   `json:"distro"`
	Arch        string   `json:"arch"` // as uname -m
	Description string   `json:"description"`
	Sources     []Source `json:"sources"` // tried in order
}

// Source is one place a kernel can come from; exactly one field is set.
type Source struct {
	Deb *Deb `json:"deb,omitempty"`
}

// Deb names a kernel in an archive of Debian packages.
type Deb struct {
	Package string `json:"package"` // an image package, or a meta package that depends on one
	Suite   string `json:"suite"`   // code name of the release, for instance bookworm
}

// Builtin is the catalog that is part of this build.
func Builtin() (*Catalog, error) {
	return parseCatalog(builtin)
}

func parseCatalog(b []byte) (*Catalog, error) {
	var c Catalog
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, banger.Errorf(banger.Invalid, "read kernel catalog: %w", err)
	}
	if c.Version != catalogVersion {
		return nil, banger.Errorf(banger.Unsupported, "read kernel catalog: version %d, this build reads version %d", c.Version, catalogVersion)
	}
	seen := make(map[string]bool)
	for _, e := range c.Entries {
		if err := ValidateName(e.Name); err != nil {
			return nil, fmt.Errorf("read kernel catalog: %w", err)
		}
		if seen[e.Name] {
			return nil, banger.Errorf(banger.Invalid, "read kernel catalog: kernel %q is there twice", e.Name)
		}
		seen[e.Name] = true
	}
	return &c, nil
}

// Lookup finds a kernel by its name. An unknown one is a NotFound error that
// is also os.ErrNotExist; its hint names the kernels there are.
func (c *Catalog) Lookup(name string) (Entry, error) {
	if err := ValidateName(name); err != nil {
		return Entry{}, err
	}
	names := make([]string, 0, len(c.Entries))
	for _, e := range c.Entries {
		if e.Name == name {
			return e, nil
		}
		names = append(names, e.Name)
	}
	err := fail(banger.NotFound, os.ErrNotExist, "kernel %q is not in the catalog", name)
	return Entry{}, err.WithHint("the catalog has: %s", strings.Join(names, ", "))
}

// maxName bounds a kernel's name: it is a directory name and part of others.
const maxName = 64

// ValidateName checks a kernel's name: letters, digits, dots, hyphens and
// underscores, at most 64, and neither a dot nor a hyphen first, so that it is
// a plain file name and never an option. The error is Invalid.
func ValidateName(name string) error {
	switch {
	case name == "":
		return banger.Errorf(banger.Invalid, "a kernel name is empty")
	case len(name) > maxName:
		return banger.Errorf(banger.Invalid, "kernel name %q... is longer than %d bytes", name[:maxName], maxName)
	case name[0] == '.' || name[0] == '-':
		return banger.Errorf(banger.Invalid, "kernel name %q starts with %q", name, name[:1])
	}
	for _, r := range name {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			continue
		}
		return banger.Errorf(banger.Invalid, "kernel name %q has %q: only letters, digits, dots, hyphens and underscores are allowed", name, r)
	}
	return nil
}

// fail makes an error of the kind whose text is the format's alone and whose
// cause still answers to errors.Is.
func fail(kind banger.Kind, cause error, format string, args ...any) *banger.Error {
	err := banger.Errorf(kind, "%w", cause)
	err.Msg = fmt.Sprintf(format, args...)
	return err
}

// orExhausted gives an error of a full disk or quota its kind.
func orExhausted(err error) error {
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && !banger.IsKind(err, banger.Exhausted) {
		return banger.Errorf(banger.Exhausted, "%w", err)
	}
	return err
}
