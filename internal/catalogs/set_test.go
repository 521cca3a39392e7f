package catalogs

import (
	"errors"
	"os"
	"strings"
	"testing"

	"banger"
)

// set has these entries: those of the built-in catalog, of "acme", of "beta"
// and of two catalogs without a name.
func set(builtin, acme, beta, noname, noname2 string) *Set[string] {
	s := &Set[string]{Kind: "kernel", Name: func(e string) string { return e }, Else: func(name string) string { return "else " + name }, Known: []string{"known"}}
	s.Add(Origin{}, strings.Fields(builtin), nil)
	s.Add(Origin{Kind: "kernel", Name: "acme", URL: "https://a.example/c.json"}, strings.Fields(acme), nil)
	s.Add(Origin{Kind: "kernel", Name: "beta", URL: "https://b.example/c.json"}, strings.Fields(beta), nil)
	s.Add(Origin{Kind: "kernel", URL: "https://c.example/c.json", Where: "config.toml:9"}, strings.Fields(noname), nil)
	s.Add(Origin{Kind: "kernel", URL: "/srv/c.json", Where: "config.toml:12"}, strings.Fields(noname2), nil)
	return s
}

func TestLookup(t *testing.T) {
	s := set("debian alpine", "debian tiny twin", "twin big", "twin debian only lonely", "lonely")
	for name, want := range map[string]string{
		"debian":         "builtin", // whatever the others call theirs
		"builtin/debian": "builtin",
		"acme/debian":    "acme",
		"tiny":           "acme",
		"acme/tiny":      "acme",
		"big":            "beta",
		"only":           "c.example",
	} {
		it, err := s.Lookup(name)
		if err != nil || it.Origin.Label() != want || it.Name != name || !strings.HasSuffix(name, it.Entry) {
			t.Errorf("%s: got %+v, %v; want it of %s", name, it, err, want)
		}
	}
	for name, want := range map[string][]string{
		"twin":           {`several catalogs have a kernel named "twin": acme, beta, c.example`, "say which: acme/twin"},
		"lonely":         {"c.example, /srv/c.json", "in config.toml:9 give the catalog a name"},
		"acme/big":       {`no kernel named "acme/big"`, "did you mean acme/tiny?"},
		"acme/tinny":     {`no kernel named "acme/tinny"`, "did you mean acme/tiny?"},
		"tinny":          {`no kernel named "tinny" in the catalog`, "did you mean tiny?"},
		"beta/tin":       {"did you mean beta/twin?"},
		"gamma/debian":   {`no kernel named "gamma/debian"`},
		"zzzzzzzzzzzzzz": {"else zzzzzzzzzzzzzz"},
		"knowm":          {"did you mean known?"},
		"":               {"no kernel named"},
		"acme/":          {"no kernel named"},
		"/tiny":          {"no kernel named"},
		"acme/beta/twin": {"no kernel named"},
	} {
		_, err := s.Lookup(name)
		wantError(t, err, want...)
		if missing := strings.HasPrefix(want[0], "no "); missing != errors.Is(err, os.ErrNotExist) && len(want) > 1 {
			t.Errorf("%q: %v is not os.ErrNotExist", name, err)
		}
		if kind := banger.AsError(err).Kind; kind != banger.NotFound && kind != banger.Invalid {
			t.Errorf("%q: %v is %s", name, err, kind)
		}
	}
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	e := banger.AsError(err)
	for _, w := range words {
		if e == nil || !strings.Contains(e.Msg+"\n"+e.Hint, w) {
			t.Errorf("got %v, hint %q; want %q", err, e.Hint, w)
		}
	}
}

func TestItems(t *testing.T) {
	s := set("debian", "debian tiny", "tiny", "debian only", "")
	items, wrong := s.Items()
	var got []string
	for _, it := range items {
		got = append(got, it.Name)
		if found, err := s.Lookup(it.Name); err != nil || found.Origin != it.Origin {
			t.Errorf("%s leads to %+v, %v", it.Name, found, err)
		}
	}
	if want := "debian acme/debian acme/tiny beta/tiny only"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(wrong) != 1 || wrong[0].Catalog != "c.example" || !strings.Contains(wrong[0].Hint, "in config.toml:9 give the catalog a name") {
		t.Errorf("got the problems %+v", wrong)
	}
}

// A name that was not found may be in a catalog that could not be read.
func TestMissingNamesProblems(t *testing.T) {
	s := set("debian", "", "", "", "")
	s.Fail(Origin{Kind: "kernel", Name: "down", URL: "https://d.example/c.json"}, banger.Errorf(banger.Unavailable, "no route").WithHint("plug it in"))
	s.Add(Origin{Kind: "kernel", Name: "old", URL: "https://b.example/c.json"}, nil, errors.New("no answer"))
	_, err := s.Lookup("zzzzzzzzzzzz")
	if !banger.IsKind(err, banger.Unavailable) || errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v: whether it exists is not known", err)
	}
	wantError(t, err, "catalog down could not be read: no route", "catalog old is a copy that was kept: no answer", "plug it in")
	if _, wrong := s.Items(); len(wrong) != 2 || wrong[0].Cached || !wrong[1].Cached {
		t.Errorf("got the problems %+v", wrong)
	}
	if q, rest := s.Split("down/x"); q != "down" || rest != "x" {
		t.Errorf("the name of a catalog that could not be read is not known: %q, %q", q, rest)
	}
}
