package catalogs

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"time"

	"banger"
)

// copyAge is for how long a copy of a catalog is good enough to find a name in.
const copyAge = time.Hour

// Library is all catalogs of one kind, the built-in one first, then those of
// the configuration in its order. Its fields are set before its first use.
type Library[E any] struct {
	Kind    string                   // kernel, image
	Name    func(E) string           // the name of an entry in its catalog
	Builtin func() ([]E, error)      // the catalog that is part of banger
	Origins func() ([]Origin, error) // the others, as the configuration has them now
	Parse   func(text []byte, base *url.URL) ([]E, error)
	Else    func(name string) string // what to try for an unknown name that none is near to; may be nil
	Reader  *Reader
}

// All is what the catalogs have now: every origin is asked. What cannot be read
// is a problem of the set; an error is one of the configuration.
func (l *Library[E]) All(ctx context.Context) (*Set[E], error) {
	origins, err := l.Origins()
	if err != nil {
		return nil, err
	}
	books := Load(ctx, l.Reader, origins, 0, l.Parse)
	if ctx.Err() != nil {
		return nil, banger.Errorf(banger.Canceled, "read the catalogs: %w", context.Cause(ctx))
	}
	l.Reader.Prune(l.Kind, origins)
	return l.set(books, nil)
}

// Lookup finds what NAME or CATALOG/NAME leads to. For what is built in neither
// the configuration nor anybody else is asked. Other catalogs are asked where
// the copy of them is older than an hour, and again before a name is called
// unknown. Errors are those of Set.Lookup and of the configuration; known are
// further names that may have been meant.
func (l *Library[E]) Lookup(ctx context.Context, name string, known ...string) (Item[E], error) {
	s, err := l.set(nil, nil)
	if err != nil {
		return Item[E]{}, err
	}
	it, err := s.Lookup(name)
	if !unknown(err) {
		return it, err
	}
	origins, err := l.Origins()
	if err != nil {
		return Item[E]{}, err
	}
	books := Load(ctx, l.Reader, origins, copyAge, l.Parse)
	if s, err = l.set(books, known); err != nil {
		return Item[E]{}, err
	}
	it, err = s.Lookup(name)
	if unknown(err) && l.ask(ctx, books) {
		if s, err = l.set(books, known); err != nil {
			return Item[E]{}, err
		}
		it, err = s.Lookup(name)
	}
	if err != nil && ctx.Err() != nil {
		return it, banger.Errorf(banger.Canceled, "look for %s %q: %w", l.Kind, name, context.Cause(ctx))
	}
	return it, err
}

func unknown(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errUnread) }

// ask reads those catalogs anew whose origins were not asked, and reports
// whether there were any.
func (l *Library[E]) ask(ctx context.Context, books []Book[[]E]) bool {
	var at []int
	var origins []Origin
	for i, b := range books {
		if !b.Asked {
			at, origins = append(at, i), append(origins, b.Origin)
		}
	}
	for i, b := range Load(ctx, l.Reader, origins, 0, l.Parse) {
		books[at[i]] = b
	}
	return len(at) > 0
}

// set is the built-in catalog and the others.
func (l *Library[E]) set(books []Book[[]E], known []string) (*Set[E], error) {
	s := &Set[E]{Kind: l.Kind, Name: l.Name, Else: l.Else, Known: known}
	entries, err := l.Builtin()
	if err != nil {
		return nil, err
	}
	s.Add(Origin{}, entries, nil)
	for _, b := range books {
		if b.Err != nil {
			s.Fail(b.Origin, b.Err)
			continue
		}
		s.Add(b.Origin, b.Catalog, b.Stale)
	}
	return s, nil
}
