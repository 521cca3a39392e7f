package catalogs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"banger"
	"banger/internal/state"
)

// Set is all that the catalogs of one kind offer.
type Set[E any] struct {
	Kind  string                   // kernel, image
	Name  func(E) string           // the name of an entry in its catalog
	Else  func(name string) string // what to try where no name is near; may be nil
	Known []string                 // further names that one may have meant

	items  []Item[E]
	byName map[string][]int        // entries of one name, in items
	books  []string                // names of the catalogs that have one
	wrong  []banger.CatalogProblem // of catalogs that could not be read
}

// Item is one entry and the catalog that has it.
type Item[E any] struct {
	Entry  E
	Origin Origin
	Name   string // by which Lookup finds it
	Stale  error  // why its catalog is a copy that was kept; nil: it is none
}

// Add puts the entries of a catalog last. The built-in catalog, of the zero
// Origin, comes first.
func (s *Set[E]) Add(o Origin, entries []E, stale error) {
	if s.byName == nil {
		s.byName = map[string][]int{}
	}
	for _, e := range entries {
		s.byName[s.Name(e)] = append(s.byName[s.Name(e)], len(s.items))
		s.items = append(s.items, Item[E]{Entry: e, Origin: o, Stale: stale})
	}
	if name := qualifier(o); name != "" {
		s.books = append(s.books, name)
	}
	if stale != nil {
		s.fail(o, true, stale)
	}
}

// Fail notes a catalog that could not be read. That is shown, and keeps nothing
// else from being used.
func (s *Set[E]) Fail(o Origin, err error) {
	if name := qualifier(o); name != "" {
		s.books = append(s.books, name)
	}
	s.fail(o, false, err)
}

func (s *Set[E]) fail(o Origin, cached bool, err error) {
	e := banger.AsError(err)
	s.wrong = append(s.wrong, banger.CatalogProblem{Catalog: o.Label(), Cached: cached, Message: e.Msg, Hint: e.Hint})
}

// qualifier is what stands before the slash in CATALOG/NAME, empty for a
// catalog that the configuration gives no name.
func qualifier(o Origin) string {
	if o.URL == "" {
		return Builtin
	}
	return o.Name
}

// Items are the entries in the order of their catalogs, and what cannot be had:
// catalogs that could not be read, and entries that no name leads to.
func (s *Set[E]) Items() ([]Item[E], []banger.CatalogProblem) {
	wrong := slices.Clone(s.wrong)
	items := []Item[E]{}
	for _, it := range s.items {
		name, q := s.Name(it.Entry), qualifier(it.Origin)
		switch found := s.find(name); {
		case len(found) == 1 && found[0].Origin == it.Origin:
			it.Name = name
		case q != "":
			it.Name = q + "/" + name
		default:
			wrong = append(wrong, banger.CatalogProblem{Catalog: it.Origin.Label(), Message: fmt.Sprintf("its %s %q cannot be asked for: another catalog has that name", s.Kind, name),
				Hint: fmt.Sprintf("in %s give the catalog a name: then NAME/%s is that %s", it.Origin.Where, name, s.Kind)})
			continue
		}
		items = append(items, it)
	}
	return items, wrong
}

// find gives the entries that an unqualified name leads to. Nobody can take the
// place of what is built in.
func (s *Set[E]) find(name string) (found []Item[E]) {
	for _, i := range s.byName[name] {
		it := s.items[i]
		if it.Origin.URL == "" {
			return []Item[E]{it}
		}
		found = append(found, it)
	}
	return found
}

// Split parts CATALOG/NAME. Without a catalog of that name in the set all of it
// is a name.
func (s *Set[E]) Split(name string) (catalog, entry string) {
	if q, rest, ok := strings.Cut(name, "/"); ok && slices.Contains(s.books, q) {
		return q, rest
	}
	return "", name
}

// Lookup finds the entry that NAME or CATALOG/NAME leads to. The errors:
// NotFound, which is os.ErrNotExist too, with the nearest name as its hint;
// Unavailable where a catalog that could not be read may have it; Invalid for a
// name that several catalogs have.
func (s *Set[E]) Lookup(name string) (Item[E], error) {
	q, entry := s.Split(name)
	var found []Item[E]
	if q == "" {
		found = s.find(entry)
	}
	for _, i := range s.byName[entry] {
		if it := s.items[i]; q != "" && qualifier(it.Origin) == q {
			found = append(found, it)
		}
	}
	switch len(found) {
	case 0:
		return Item[E]{}, s.missing(name)
	case 1:
		found[0].Name = name
		return found[0], nil
	}
	return Item[E]{}, s.ambiguous(name, found)
}

func (s *Set[E]) ambiguous(name string, found []Item[E]) error {
	var labels []string
	for _, it := range found {
		labels = append(labels, it.Origin.Label())
	}
	err := banger.Errorf(banger.Invalid, "several catalogs have a %s named %q: %s", s.Kind, name, strings.Join(labels, ", "))
	for _, it := range found {
		if q := qualifier(it.Origin); q != "" {
			return err.WithHint("say which: %s/%s", q, name)
		}
	}
	return err.WithHint("in %s give the catalog a name, for CATALOG/%s", found[0].Origin.Where, name)
}

// errUnread says that a name may be in a catalog that could not be read.
var errUnread = errors.New("not all catalogs could be read")

// missing is the error for a name that leads to nothing.
func (s *Set[E]) missing(name string) error {
	kind, cause := banger.NotFound, os.ErrNotExist
	msg := fmt.Sprintf("no %s named %q in the catalog", s.Kind, name)
	hint := ""
	for _, w := range s.wrong {
		if w.Cached {
			msg += fmt.Sprintf("; catalog %s is a copy that was kept: %s", w.Catalog, w.Message)
			continue
		}
		kind, cause = banger.Unavailable, errUnread
		msg += fmt.Sprintf("; catalog %s could not be read: %s", w.Catalog, w.Message)
		hint = w.Hint
	}
	items, _ := s.Items()
	names := slices.Clone(s.Known)
	q, _ := s.Split(name)
	for _, it := range items {
		names = append(names, it.Name)
		if q != "" && qualifier(it.Origin) == q {
			names = append(names, q+"/"+s.Name(it.Entry))
		}
	}
	if near := state.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	if hint == "" && s.Else != nil {
		hint = s.Else(name)
	}
	err := banger.Errorf(kind, "%w", cause)
	err.Msg = msg
	return err.WithHint("%s", hint)
}
