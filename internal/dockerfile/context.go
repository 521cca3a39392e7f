package dockerfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"banger"
	"banger/internal/hostfile"
)

// maxFiles is how many files one step may copy.
const maxFiles = 1_000_000

// Ignore are the patterns of a .dockerignore file.
type Ignore struct {
	matcher *patternmatcher.PatternMatcher // nil: none
}

// ParseIgnore reads a .dockerignore file; name is for errors.
func ParseIgnore(name string, text []byte) (Ignore, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(text))
	if err != nil {
		return Ignore{}, invalid("%s: %w", name, err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return Ignore{}, invalid("%s: %w", name, err)
	}
	if len(patterns) == 0 {
		m = nil
	}
	return Ignore{m}, nil
}

// Item is one file that a step copies.
type Item struct {
	Path string // in the context
	// Source is which of the step's sources it comes from, and Name its name below
	// that: empty for the source itself.
	Source  int
	Name    string
	Mode    fs.FileMode // type and permissions
	Size    int64
	ModTime time.Time
	Target  string // of a symlink
	Sum     string // of a regular file: the hex SHA-256 of its contents
}

// Selection is what a step copies from the context, each source in its order
// and each directory before what is in it.
type Selection struct {
	Items []Item
	// Names are the last elements of the sources' paths, and Dirs whether they are
	// directories, whose contents are copied and not they themselves.
	Names []string
	Dirs  []bool
	// Digest tells selections apart by names, modes and contents. Times and owners
	// make no difference.
	Digest string
}

// Select finds and hashes the files of the context that the sources name.
// Symlinks are followed where a source itself is one, never out of the context;
// below a source they are files like any other. Errors: NotFound for a source that
// is not there, Invalid for one that leads out or has a file of a kind that cannot be copied.
func Select(ctx context.Context, fsys fs.FS, ignore Ignore, sources []string) (*Selection, error) {
	sel := &selector{ctx: ctx, fsys: fsys, ignore: ignore, Selection: &Selection{}}
	for _, pattern := range sources {
		matches := []string{pattern}
		if hasMeta(pattern) {
			var err error
			if matches, err = sel.glob(pattern); err != nil {
				return nil, err
			}
		}
		for _, m := range matches {
			if err := sel.source(m); err != nil {
				return nil, fmt.Errorf("source %q: %w", pattern, err)
			}
		}
	}
	sum := sha256.New()
	enc := json.NewEncoder(sum)
	_ = enc.Encode([]any{sel.Names, sel.Dirs})
	for _, it := range sel.Items {
		// The path is left out: what a source was called makes no difference below it.
		_ = enc.Encode([]any{it.Source, []byte(it.Name), uint32(it.Mode), it.Size, []byte(it.Target), it.Sum})
	}
	sel.Digest = hex.EncodeToString(sum.Sum(nil))
	return sel.Selection, nil
}

func hasMeta(pattern string) bool { return strings.ContainsAny(pattern, `*?[\`) }

type selector struct {
	*Selection
	ctx    context.Context
	fsys   fs.FS
	ignore Ignore
}

// glob expands a pattern, without what is ignored.
func (s *selector) glob(pattern string) ([]string, error) {
	found, err := fs.Glob(s.fsys, pattern)
	if err != nil {
		return nil, invalid("source %q: %w", pattern, err)
	}
	slices.Sort(found)
	return slices.DeleteFunc(found, func(p string) bool {
		hidden, parents, err := s.ignore.hides(p)
		return err == nil && hidden && parents
	}), nil
}

// hides reports whether a path is ignored, and whether all below it is too.
func (i Ignore) hides(p string) (hidden, all bool, err error) {
	if i.matcher == nil || p == "." {
		return false, false, nil
	}
	hidden, err = i.matcher.MatchesOrParentMatches(p)
	if err != nil {
		return false, false, invalid(".dockerignore: %w", err)
	}
	return hidden, hidden && !i.matcher.Exclusions(), nil
}

// source takes over one source with all that is in it.
func (s *selector) source(p string) error {
	info, err := fs.Stat(s.fsys, p) // follows links, but not out of the context
	if err != nil {
		return explain(err)
	}
	hidden, _, err := s.ignore.hides(p)
	if err != nil {
		return err
	}
	if hidden && !info.IsDir() {
		return banger.Errorf(banger.NotFound, "it is there, but .dockerignore excludes it")
	}
	n := len(s.Names)
	s.Names, s.Dirs = append(s.Names, path.Base(p)), append(s.Dirs, info.IsDir())
	if !info.IsDir() {
		return s.add(n, p, "", info)
	}
	before := len(s.Items)
	if err := s.dir(n, p, ""); err != nil {
		return err
	}
	if hidden && len(s.Items) == before {
		return banger.Errorf(banger.NotFound, "it is there, but .dockerignore excludes it")
	}
	return nil
}

// dir takes over what is in a directory.
func (s *selector) dir(source int, p, name string) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	entries, err := fs.ReadDir(s.fsys, p)
	if err != nil {
		return explain(err)
	}
	for _, e := range entries {
		below, called := path.Join(p, e.Name()), path.Join(name, e.Name())
		hidden, all, err := s.ignore.hides(below)
		if err != nil {
			return err
		}
		if all || hidden && !e.IsDir() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return explain(err)
		}
		before := len(s.Items)
		if err := s.add(source, below, called, info); err != nil {
			return err
		}
		if info.IsDir() {
			if err := s.dir(source, below, called); err != nil {
				return err
			}
			if hidden && len(s.Items) == before+1 {
				s.Items = s.Items[:before] // nothing in it is an exception
			}
		}
	}
	return nil
}

// add takes over one file.
func (s *selector) add(source int, p, name string, info fs.FileInfo) error {
	it := Item{Path: p, Source: source, Name: name, Mode: info.Mode(), ModTime: info.ModTime()}
	var err error
	switch info.Mode().Type() {
	case 0:
		it.Size = info.Size()
		it.Sum, err = s.sum(p)
	case fs.ModeDir:
	case fs.ModeSymlink:
		it.Target, err = fs.ReadLink(s.fsys, p)
		it.Mode = fs.ModeSymlink | 0o777
	case fs.ModeSocket:
		return nil
	default:
		return invalid("%q is no file, directory or symlink", p)
	}
	if err != nil {
		return explain(err)
	}
	if len(s.Items) >= maxFiles {
		return invalid("more than %d files", maxFiles)
	}
	s.Items = append(s.Items, it)
	return nil
}

func (s *selector) sum(p string) (string, error) {
	f, err := s.fsys.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, hostfile.Reader(s.ctx, f)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// explain gives an error of reading the context its kind.
func explain(err error) error {
	var own *banger.Error
	var fault *fs.PathError
	switch {
	case errors.As(err, &own), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return banger.Errorf(banger.NotFound, "not found in the build context")
	case errors.Is(err, fs.ErrPermission):
		return banger.Errorf(banger.Unavailable, "%w", err)
	case errors.As(err, &fault) && strings.Contains(fault.Err.Error(), "escapes"):
		return invalid("%q leads out of the build context", fault.Path)
	}
	return invalid("%w", err)
}

// Key names what a step makes: the same key, the same result. parent is the key
// of what it begins with, inputs names the files that it copies.
func (s Step) Key(parent, inputs string) string {
	var op any
	switch o := s.Op.(type) {
	case *Run:
		r := *o
		r.Proxies = nil
		op = []any{"run", r}
	case *Copy:
		c := *o
		c.From = Source{} // inputs has it
		if len(c.Sources) > 0 && o.From == (Source{}) {
			c.Sources = nil // so has it these
		}
		op = []any{"copy", c}
	case *Mkdir:
		op = []any{"mkdir", o}
	default:
		return parent
	}
	b, err := json.Marshal([]any{"banger build 1", parent, inputs, op})
	if err != nil {
		panic("dockerfile: " + err.Error())
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
