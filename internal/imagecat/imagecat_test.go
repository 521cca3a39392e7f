package imagecat

import (
	"errors"
	"os"
	"strings"
	"testing"

	"banger"
)

func TestBuiltin(t *testing.T) {
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"debian-bookworm": "oci:docker.io/library/debian:bookworm debian:bookworm",
		"debian-trixie":   "oci:docker.io/library/debian:trixie debian:trixie",
	} {
		e, err := c.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range e.Sources {
			got = append(got, s.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has the sources %q, want %q", name, got, want)
		}
	}
	_, err = c.Lookup("debian-bookwurm")
	if !errors.Is(err, os.ErrNotExist) || !banger.IsKind(err, banger.NotFound) {
		t.Errorf("unknown name: %v", err)
	}
	if want := `no image "debian-bookwurm" in the catalog`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestParse(t *testing.T) {
	const entry = `{"name":"a","arch":["x86_64"],"description":"d","sources":[{"oci":"x"}]}`
	doc := func(entries string) string { return `{"version":1,"entries":[` + entries + `]}` }
	with := func(old, new string) string { return doc(strings.Replace(entry, old, new, 1)) }
	if _, err := parse([]byte(doc(entry))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ doc, want string }{
		"empty":         {"", "EOF"},
		"unknown field": {with(`"name"`, `"x":1,"name"`), "unknown field"},
		"after the end": {doc(entry) + "{}", "after its end"},
		"version":       {strings.Replace(doc(entry), ":1", ":2", 1), "version 2"},
		"twice":         {doc(entry + "," + entry), "not sorted"},
		"not sorted":    {doc(strings.Replace(entry, `"a"`, `"b"`, 1) + "," + entry), "not sorted"},
		"name":          {with(`"a"`, `"../a"`), "bad name"},
		"description":   {with(`"d"`, `""`), "no description"},
		"arch":          {with(`"x86_64"`, `"x86-64 "`), "bad architecture"},
		"no arch":       {with(`"x86_64"`, ``), "architectures missing"},
		"no source":     {with(`{"oci":"x"}`, ``), "no sources"},
		"empty source":  {with(`{"oci":"x"}`, `{}`), "exactly one"},
		"two in one":    {with(`"oci":"x"`, `"oci":"x","debian":{"suite":"s","packages":[]}`), "exactly one"},
		"suite":         {with(`"oci":"x"`, `"debian":{"suite":"--help"}`), "bad suite"},
		"package":       {with(`"oci":"x"`, `"debian":{"suite":"s","packages":["a,b"]}`), "bad package"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse([]byte(c.doc)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
