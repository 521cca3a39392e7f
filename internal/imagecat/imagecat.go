// Package imagecat is the catalog of images that banger can make by name.
package imagecat

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"banger"
)

// version is the form of catalog.json that this build reads.
const version = 1

//go:embed catalog.json
var builtin []byte

// Catalog lists images, sorted by name.
type Catalog struct {
	Version int     `json:"version"`
	Entries []Entry `json:"entries"`
}

// Entry is one image. Its sources are tried in order until one works.
type Entry struct {
	Name        string   `json:"name"`
	Arch        []string `json:"arch"` // as uname -m, sorted
	Description string   `json:"description"`
	Sources     []Source `json:"sources"`
}

// Source is one way to make an image. Exactly one field is set.
type Source struct {
	OCI    string `json:"oci,omitempty"`    // reference to an image in a registry
	Debian *Suite `json:"debian,omitempty"` // root file system made of packages
	// Scratch is an empty root: banger's own init and agent need nothing in it.
	Scratch bool `json:"scratch,omitempty"`
}

// String names the source: oci:docker.io/library/debian:bookworm or debian:bookworm.
func (s Source) String() string {
	switch {
	case s.Debian != nil:
		return s.Debian.String()
	case s.Scratch:
		return "scratch"
	}
	return "oci:" + s.OCI
}

// Builtin is the catalog inside the binary.
func Builtin() (*Catalog, error) {
	return parse(builtin)
}

// Lookup finds an entry. The error for an unknown name is os.ErrNotExist and
// of the kind banger.NotFound.
func (c *Catalog) Lookup(name string) (Entry, error) {
	i, ok := slices.BinarySearchFunc(c.Entries, name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
	if ok {
		return c.Entries[i], nil
	}
	var names []string
	for _, e := range c.Entries {
		names = append(names, e.Name)
	}
	return Entry{}, banger.Errorf(banger.NotFound, "%w", unknown(name)).WithHint("the catalog has %s", strings.Join(names, ", "))
}

// unknown is the name of an image that the catalog does not have.
type unknown string

func (u unknown) Error() string        { return fmt.Sprintf("no image %q in the catalog", string(u)) }
func (u unknown) Is(target error) bool { return target == os.ErrNotExist }

// The grammars of what a catalog may name. Suites and packages become words on
// a command line: none may start with a hyphen. Package names are those of
// Debian Policy 5.6.1.
var (
	nameGrammar    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	archGrammar    = regexp.MustCompile(`^[a-z0-9_]+$`)
	suiteGrammar   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	packageGrammar = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
)

// parse reads a catalog and refuses what this build does not understand.
func parse(b []byte) (*Catalog, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	c := &Catalog{}
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("read the image catalog: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("read the image catalog: data after its end")
	}
	if c.Version != version {
		return nil, banger.Errorf(banger.Unsupported, "read the image catalog: version %d, this banger reads %d", c.Version, version)
	}
	last := ""
	for _, e := range c.Entries {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("read the image catalog: entry %q: %w", e.Name, err)
		}
		if e.Name <= last {
			return nil, fmt.Errorf("read the image catalog: entry %q: not sorted, or twice", e.Name)
		}
		last = e.Name
	}
	return c, nil
}

func (e Entry) check() error {
	switch {
	case !nameGrammar.MatchString(e.Name):
		return fmt.Errorf("bad name")
	case e.Description == "":
		return fmt.Errorf("no description")
	case len(e.Arch) == 0 || !slices.IsSorted(e.Arch):
		return fmt.Errorf("architectures missing or not sorted")
	case len(e.Sources) == 0:
		return fmt.Errorf("no sources")
	}
	for _, a := range e.Arch {
		if !archGrammar.MatchString(a) {
			return fmt.Errorf("bad architecture %q", a)
		}
	}
	for i, s := range e.Sources {
		if n := count(s.OCI != "", s.Debian != nil, s.Scratch); n != 1 {
			return fmt.Errorf("source %d: exactly one of oci, debian and scratch must be there, not %d", i+1, n)
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
