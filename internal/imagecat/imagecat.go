// Package imagecat is the catalog of images that banger can make by name.
package imagecat

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"banger"
	"banger/internal/fetch"
)

// version is the version of the catalog's format that this build reads. Fields
// may be added within a version; their meaning never changes.
const version = 1

// maxText bounds a catalog's texts, which are shown to people.
const maxText = 512

//go:embed catalog.json
var builtin []byte

// Catalog lists images that can be made by name.
type Catalog struct {
	Version int     `json:"version"`
	Serial  int64   `json:"serial,omitempty"` // grows with every change; one that is smaller is an old catalog
	Entries []Entry `json:"entries"`
}

// Entry is one image. Its sources are tried in order until one works.
type Entry struct {
	Name        string   `json:"name"`
	Arch        []string `json:"arch"` // as uname -m
	Description string   `json:"description"`
	Sources     []Source `json:"sources"`
}

// Source is one way to make an image. At most one field is set; none is in a
// source of a kind that this build does not know, which is passed over.
type Source struct {
	Bundle *Bundle `json:"bundle,omitempty"`
	// OCI is a reference to an image in a registry; with a digest it is pinned.
	OCI    string `json:"oci,omitempty"`
	Debian *Suite `json:"debian,omitempty"` // root file system made of packages
	// Scratch is an empty root: banger's own init and agent need nothing in it.
	Scratch bool `json:"scratch,omitempty"`
}

// String names the source, for instance oci:docker.io/library/debian:bookworm or debian:bookworm.
func (s Source) String() string {
	switch {
	case s.Bundle != nil:
		return "pull:" + fetch.Redacted(s.Bundle.URL)
	case s.Debian != nil:
		return s.Debian.String()
	case s.Scratch:
		return "scratch"
	}
	return "oci:" + s.OCI
}

// Builtin is the catalog inside the binary.
func Builtin() (*Catalog, error) { return ParseCatalog(builtin) }

// Known are the sources for an architecture, of the kinds that this build
// knows. Without any the error is Unsupported.
func (e Entry) Known(arch string) ([]Source, error) {
	var known []Source
	for _, s := range e.Sources {
		if s != (Source{}) && (s.Bundle == nil || s.Bundle.Arch == arch) {
			known = append(known, s)
		}
	}
	if len(known) == 0 {
		return nil, banger.Errorf(banger.Unsupported, "image %s has no source for %s that this build knows", e.Name, arch)
	}
	return known, nil
}

// The grammars of what a catalog may name. Suites and packages become words on
// a command line: none may start with a hyphen. Package names are those of
// Debian Policy 5.6.1. They are slow to compile, and most commands need none.
var (
	nameGrammar    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`) })
	archGrammar    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9_]{1,32}$`) })
	suiteGrammar   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`) })
	packageGrammar = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`) })
)

// IsPackage reports whether name can be that of a Debian package.
func IsPackage(name string) bool { return packageGrammar().MatchString(name) }

// ParseCatalog reads a catalog and checks all that can be checked without the
// images themselves. Its errors are Invalid, or Unsupported for another version.
func ParseCatalog(b []byte) (*Catalog, error) {
	c := &Catalog{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, banger.Errorf(banger.Invalid, "read image catalog: %w", err)
	}
	switch {
	case c.Version != version:
		return nil, banger.Errorf(banger.Unsupported, "read image catalog: version %d, this build reads version %d", c.Version, version)
	case c.Serial < 0:
		return nil, banger.Errorf(banger.Invalid, "read image catalog: serial %d", c.Serial)
	}
	seen := map[string]bool{}
	for _, e := range c.Entries {
		if err := e.check(); err != nil {
			return nil, banger.Errorf(banger.Invalid, "read image catalog: image %.64q: %w", e.Name, err)
		}
		if seen[e.Name] {
			return nil, banger.Errorf(banger.Invalid, "read image catalog: image %q is there twice", e.Name)
		}
		seen[e.Name] = true
	}
	return c, nil
}

func (e Entry) check() error {
	switch {
	case !nameGrammar().MatchString(e.Name):
		return fmt.Errorf("bad name")
	case e.Description == "" || badText(e.Description):
		return fmt.Errorf("its description is missing, too long or no text")
	case len(e.Arch) == 0:
		return fmt.Errorf("architectures missing")
	case len(e.Sources) == 0:
		return fmt.Errorf("no sources")
	}
	for _, a := range e.Arch {
		if !archGrammar().MatchString(a) {
			return fmt.Errorf("bad architecture %.64q", a)
		}
	}
	for i, s := range e.Sources {
		if n := count(s.Bundle != nil, s.OCI != "", s.Debian != nil, s.Scratch); n > 1 {
			return fmt.Errorf("source %d: at most one of bundle, oci, debian and scratch may be there, not %d", i+1, n)
		}
		if badText(s.OCI) {
			return fmt.Errorf("source %d: %.64q is too long or no text", i+1, s.OCI)
		}
		if s.Bundle != nil {
			if err := s.Bundle.check(); err != nil {
				return fmt.Errorf("source %d: bundle: %w", i+1, err)
			}
		}
		if s.Debian != nil {
			if err := s.Debian.check(); err != nil {
				return fmt.Errorf("source %d: %w", i+1, err)
			}
		}
	}
	return nil
}

func count(set ...bool) int {
	n := 0
	for _, b := range set {
		if b {
			n++
		}
	}
	return n
}

func badText(s string) bool {
	return len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}
