package imagecat

import (
	"bytes"
	"encoding/json"
	"slices"
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
		"golden":          "debian:bookworm",
	} {
		i := slices.IndexFunc(c.Entries, func(e Entry) bool { return e.Name == name })
		if i < 0 {
			t.Fatalf("no %s", name)
		}
		e := c.Entries[i]
		var got []string
		for _, s := range e.Sources {
			got = append(got, s.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has the sources %q, want %q", name, got, want)
		}
	}
	// A word that is not meant is passed over, as one of a later build would be.
	d := json.NewDecoder(bytes.NewReader(builtin))
	d.DisallowUnknownFields()
	if err := d.Decode(&Catalog{}); err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	const entry = `{"name":"a","arch":["x86_64"],"description":"d","sources":[{"oci":"x"}]}`
	doc := func(entries string) string { return `{"version":1,"entries":[` + entries + `]}` }
	with := func(old, new string) string { return doc(strings.Replace(entry, old, new, 1)) }
	for name, doc := range map[string]string{
		"plain":      doc(entry),
		"empty":      doc(""),
		"serial":     strings.Replace(doc(entry), "{", `{"serial":7,`, 1),
		"unsorted":   doc(strings.Replace(entry, `"a"`, `"b"`, 1) + "," + entry),
		"later word": with(`"name"`, `"x":1,"name"`),
		"later kind": with(`{"oci":"x"}`, `{"later":"x"}`),
	} {
		if _, err := ParseCatalog([]byte(doc)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct{ doc, want string }{
		"nothing":       {"", "unexpected end"},
		"no catalog":    {"<html>", "invalid character"},
		"after the end": {doc(entry) + "{}", "after top-level"},
		"version":       {strings.Replace(doc(entry), ":1", ":2", 1), "version 2"},
		"serial":        {strings.Replace(doc(entry), "{", `{"serial":-7,`, 1), "serial -7"},
		"twice":         {doc(entry + "," + entry), "twice"},
		"name":          {with(`"a"`, `"../a"`), "bad name"},
		"description":   {with(`"d"`, `""`), "description is missing"},
		"control":       {with(`"d"`, `"\u001b[31m"`), "no text"},
		"long":          {with(`"d"`, `"`+strings.Repeat("d", maxText+1)+`"`), "too long"},
		"arch":          {with(`"x86_64"`, `"x86-64 "`), "bad architecture"},
		"no arch":       {with(`"x86_64"`, ``), "architectures missing"},
		"no source":     {with(`{"oci":"x"}`, ``), "no sources"},
		"bad reference": {with(`"x"}`, `"x\u0000"}`), "no text"},
		"two in one":    {with(`"oci":"x"`, `"oci":"x","debian":{"suite":"s","packages":[]}`), "at most one of"},
		"suite":         {with(`"oci":"x"`, `"debian":{"suite":"--help"}`), "bad suite"},
		"package":       {with(`"oci":"x"`, `"debian":{"suite":"s","packages":["a,b"]}`), "bad package"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseCatalog([]byte(c.doc))
			if !banger.IsKind(err, banger.Invalid) && !banger.IsKind(err, banger.Unsupported) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestKnown(t *testing.T) {
	e := Entry{Name: "a", Sources: []Source{{}, {OCI: "x"}, {Debian: &Suite{}}, {}}}
	if got, err := e.Known("x86_64"); err != nil || len(got) != 2 || got[0].OCI != "x" || got[1].Debian == nil {
		t.Errorf("got %+v, %v", got, err)
	}
	e.Sources = []Source{{}}
	if _, err := e.Known("x86_64"); !banger.IsKind(err, banger.Unsupported) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseCatalog(f *testing.F) {
	f.Add(builtin)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCatalog(b); err == nil && c.Version != version {
			t.Errorf("%+v", c)
		}
	})
}
